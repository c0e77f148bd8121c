"""What each stage of each round cost, measured, and what the dense network would have cost for the same rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Set
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from torch import nn

from .. import checks
from ..data import alone
from ..errors import InputError
from .counting import Cache, parameter_count
from .counting import macs as macs
from .stages import Stage as Stage
from .stages import now as now
from .stages import peak_memory, reset_peak
from .tables import aligned, si

_SYNC_STAGES = frozenset({"sync_fuse", "sync_recalibrate", "sync"})
SELECTION_STAGES = _SYNC_STAGES | {"prune", "repair", "features", "head", "train_proxy", "retrain_proxy", "recalibrate"}
SELECTION_STAGES |= {"score", "rank", "coreset"}
"""Stages that are paid to choose samples; the others make or use the target."""
_NO_COUNTERPART = _SYNC_STAGES | {"repair", "recalibrate", "retrain_proxy", "features", "head"}
"""Those that dense active learning has not got."""
_BESIDE = frozenset({"predict", "measure", "trial"})  # neither chooses samples nor makes the target


@dataclass(frozen=True)
class CostRow:
    """One stage of one round.

    Attributes:
        round: number of the `fit` it belongs to, from 1; 0 for what was asked before the first.
        stage: ``"prune"``, ``"repair"``, ``"head"`` (fitted before the rest of a repaired proxy), ``"train_proxy"``,
            ``"recalibrate"``, ``"score"``, ``"rank"`` (of a pool) or ``"coreset"`` (of labelled data), ``"features"``
            (of a frozen trunk, computed to be kept), ``"retrain_proxy"`` (again, to watch it), and of V2
            ``"sync_fuse"``, ``"sync_recalibrate"``, ``"sync"`` (selection); ``"fuse"``, ``"recalibrate_target"``,
            ``"train_target"``; ``"predict"``, and what `advise` does, ``"measure"`` and ``"trial"``.
        network: whose parameters are stated: ``"proxy"``, ``"target"`` or ``"dense"``.
        seconds: wall time; counting MACs is not in it.
        samples: rows that passed forward through the network.
        forward_macs: multiply-accumulates of these forward passes, helpers such as a teacher included.
        backward_macs: multiply-accumulates of the backward passes.
        dense_macs: forward and backward multiply-accumulates the dense network needs for the same rows.
        parameters: of the network.
        peak_memory_bytes: on CUDA the most memory allocated during the stage; on a CPU the largest resident size of
            the process so far; 0 where the system does not tell.
        uncounted: why multiply-accumulates are missing in this row, or "": some networks cannot be run to be counted.
    """

    round: int
    stage: str
    network: str
    seconds: float
    samples: int
    forward_macs: int
    backward_macs: int
    dense_macs: int
    parameters: int
    peak_memory_bytes: int
    uncounted: str = ""

    @property
    def macs(self) -> int:
        """Forward and backward multiply-accumulates."""
        return self.forward_macs + self.backward_macs

    def measured(self, measure: str) -> float:
        """Return a number of the row by name, NaN for multiply-accumulates that could not be counted."""
        if self.uncounted and measure.endswith("macs"):
            return float("nan")
        return getattr(self, measure)  # type: ignore[no-any-return]


_KINDS = {field.name: {"int": int, "float": float, "str": str}[str(field.type)] for field in fields(CostRow)}
_NEEDED = {field.name for field in fields(CostRow) if field.default is MISSING}


class CostLedger:
    """Rows of measured costs; prints as a table.

    Example:
        >>> import torch
        >>> ledger = CostLedger()
        >>> net = nn.Linear(8, 2)
        >>> with ledger.stage("score", round=1, network="proxy", dense=net) as stage:
        ...     stage.watch(net)
        ...     _ = net(torch.zeros(5, 8))
        >>> ledger.rows()[0].samples, ledger.rows()[0].forward_macs
        (5, 80)
        >>> ledger.ratio()
        1.0
    """

    def __init__(self, rows: Iterable[CostRow] = ()) -> None:
        self._rows = list(rows)
        self._cache: Cache = {}

    @contextlib.contextmanager
    def stage(self, name: str, *, round: int, network: str, dense: nn.Module | None = None) -> Iterator[Stage]:
        """Measure the body of a `with` block and add one row; a block that raises adds none.

        Args:
            name: the stage, see `CostRow`.
            round: the round it belongs to.
            network: the role of the network it is about.
            dense: network whose cost for the same rows is stated beside; None: the watched network's own.
        """
        stage = Stage(dense, self._cache)
        reset_peak()
        start = now()
        try:
            yield stage
            seconds = now() - start - stage.excluded
        finally:
            stage.close()
        peak = peak_memory()
        stage.settle()
        parameters = parameter_count(stage.network) if stage.network is not None else 0
        counted = (stage.samples, stage.forward_macs, stage.backward_macs, stage.dense_macs)
        self.extend([CostRow(round, name, network, seconds, *counted, parameters, peak, stage.uncounted)])

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Drop the rows added in a `with` block that raises; rows of other threads wait until it is over."""
        with alone():
            before = len(self._rows)
            try:
                yield
            except BaseException:
                del self._rows[before:]
                raise

    def rows(self) -> tuple[CostRow, ...]:
        """Return the rows, oldest first."""
        return tuple(self._rows)

    def extend(self, rows: Iterable[CostRow]) -> None:
        """Add rows, for example those of another ledger."""
        with alone():
            self._rows.extend(rows)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as plain dicts, for a data frame or JSON; `uncounted` is in those that have a reason."""
        return [{k: v for k, v in asdict(row).items() if k != "uncounted" or v} for row in self.rows()]

    def to_frame(self) -> Any:
        """Return the rows as a `pandas.DataFrame`, with a column for each attribute of `CostRow`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        columns = [field.name for field in fields(CostRow)]
        return checks.installed("pandas", extra="data").DataFrame([asdict(row) for row in self.rows()], columns=columns)

    @classmethod
    def from_dicts(cls, rows: Iterable[dict[str, Any]]) -> CostLedger:
        """Return a ledger of the rows that `to_dicts` gave.

        Raises:
            InputError: a row has other names, or a value that is no cost: below 0, not finite, or of another type.
        """
        return cls(_checked_row(position, row) for position, row in enumerate(rows))

    def totals(self) -> dict[str, dict[str, float]]:
        """Return seconds, samples, macs and dense_macs per stage and, under ``"total"``, over all.

        MACs are NaN where some could not be counted, see `CostRow.uncounted`.
        """
        result: dict[str, dict[str, float]] = {}
        for row in self._rows:
            for name in (row.stage, "total"):
                sums = result.setdefault(name, dict.fromkeys(("seconds", "samples", "macs", "dense_macs"), 0))
                for measure in sums:
                    sums[measure] += row.measured(measure)
        if "total" in result:  # the total last
            result["total"] = result.pop("total")
        return result

    def ratio(self, baseline: CostLedger | None = None, *, measure: str = "macs", total: bool = False) -> float:
        """Return what choosing the samples cost, over what dense active learning pays for it.

        Args:
            baseline: ledger of a dense run, for a measured ratio; None: the dense network's MACs for the same rows.
            measure: ``"macs"``, or with a baseline also ``"seconds"`` or ``"samples"``.
            total: add what the target costs. Dense active learning has no such stage: its last network is the target.

        Returns:
            The ratio; ``nan`` when nothing was counted, or not everything could be (see `CostRow.uncounted`).

        Raises:
            InputError: for an unknown measure, or seconds without a baseline.
        """
        checks.one_of("ratio: measure", measure, ("macs", "seconds", "samples"))
        checks.maybe(checks.instance, "ratio: baseline", baseline, CostLedger, "the CostLedger of a dense run")
        total = checks.flag("ratio: total", total)
        if baseline is None and measure != "macs":
            raise InputError(
                f"ratio(measure={measure!r}) needs baseline=, a dense run's ledger; without it only MACs are known"
            )
        own = self._sum(measure, {row.stage for row in self._rows} - _BESIDE if total else SELECTION_STAGES)
        other = self._dense_loop() if baseline is None else baseline._sum(measure, SELECTION_STAGES)
        return own / other if other else float("nan")

    def _dense_loop(self) -> float:
        return self._sum("dense_macs", SELECTION_STAGES - _NO_COUNTERPART)

    def _sum(self, measure: str, stages: Set[str]) -> float:
        return float(sum(row.measured(measure) for row in self._rows if row.stage in stages))

    def __getstate__(self) -> dict[str, Any]:
        with alone():  # nothing is added while it is pickled
            return {"_rows": list(self._rows), "_cache": dict(self._cache)}

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return self._rows == other._rows if isinstance(other, CostLedger) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<CostLedger: {len(self._rows)} rows>"

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [
            ("round", "stage", "network", "seconds", "samples", "MACs", "of dense", "parameters", "peak memory")
        ]
        table += [_cells(row) for row in self._rows]
        missing = [row.uncounted for row in self._rows if row.uncounted]
        total = self.totals().get("total")
        if total:
            table.append(
                (
                    "",
                    "total",
                    "",
                    f"{total['seconds']:.2f}",
                    f"{total['samples']:,.0f}",
                    "-" if missing else si(total["macs"]),
                    "-" if missing else _share(total["macs"], total["dense_macs"]),
                    "",
                    "",
                )
            )
        lines = [aligned(table)] if total and total["macs"] else [aligned(table), "nothing counted yet"]
        if missing:
            lines.append(f"MACs of {len(missing)} rows could not be counted, so what sums them says nan: {missing[0]}")
        if self._dense_loop() > 0:  # not nan
            lines.append(f"selection took {self.ratio():.1%} of the dense network's MACs")
        return "\n".join([*lines, *filter(None, [self.verdict()])])

    def verdict(self) -> str:
        """Return a sentence: does the loop so far, with its targets, cost less than the dense loop?

        What V2 trains at the end of the last round is a target too. Before there is one, one is added that costs what
        the dense network would have for the last proxy's rows. Nothing, "", is said of the dense loop itself and where
        nothing was counted, or not everything could be.

        Where the last round chose a core set, it is about that round: what choosing took beside the dense network,
        trained on all of the data to choose, and whether training the target on the core set makes up for it.
        """
        if any(row.uncounted and row.stage not in _BESIDE for row in self._rows):
            return ""
        training = [row for row in self._rows if row.stage == "train_proxy"]
        if training and any((row.stage, row.round) == ("coreset", training[-1].round) for row in self._rows):
            return CostLedger(row for row in self._rows if row.round == training[-1].round)._core_set_verdict()
        if not self._dense_loop() or all(row.macs == row.dense_macs for row in training):
            return ""
        total, added = self.ratio(total=True), ""
        last = training[-1]
        if not any(row.stage == "train_target" or (row.stage, row.round) == ("sync", last.round) for row in self._rows):
            total += last.dense_macs / self._dense_loop()
            added = ", if trained as long as the last proxy,"
        text = f"with the target{added} {total:.2f} of the dense loop's MACs: "
        if total < 1:
            return text + "it pays"
        rounds = len({row.round for row in training})
        return f"{text}it does not pay after {rounds} round{'s' * (rounds > 1)}{self._why()}"

    def _core_set_verdict(self) -> str:
        """Return the sentence about the one round of this ledger, which chose a core set."""
        full, chose = self._sum("dense_macs", {"train_proxy"}), self._sum("macs", SELECTION_STAGES)
        target = next((row.macs for row in reversed(self._rows) if row.stage == "train_target"), None)
        parts = []
        if self._dense_loop() and self._sum("macs", {"train_proxy"}) != full:
            parts.append(
                f"choosing the core set took {self.ratio():.2f} of the MACs of choosing it with the dense network, "
                "trained on all data"
            )
        if full and target is not None:
            total = (chose + target) / full
            text = f"with the target {total:.2f} of one training of the dense network on all data: it "
            if target >= full:
                text += "does not pay, for training the target took no less than that"
            else:  # each training on the core set saves the difference
                text += "pays" if total < 1 else f"pays after {int(chose // (full - target)) + 1} such trainings"
            parts.append(text)
        return "; ".join(parts)

    def _why(self) -> str:
        """Return what to do about a loop that does not pay."""
        synced = self._sum("macs", _SYNC_STAGES) / self._dense_loop()
        if synced:
            return f"; syncs alone took {synced:.2f}: let more rounds pass between them (a larger sync_every, or none)"
        return "; more rounds, a larger pool or a larger pruning_ratio save more"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{field.name}</th>" for field in fields(CostRow))
        body = "".join(
            "<tr>" + "".join(f"<td>{value}</td>" for value in row.values()) + "</tr>" for row in self.to_dicts()
        )
        return f"<table><tr>{head}</tr>{body}</table>"


def _checked_row(position: int, row: Any) -> CostRow:
    """Return a row of plain values that may come from a file."""
    if not isinstance(row, dict) or not _NEEDED <= row.keys() <= _KINDS.keys():
        held = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)
        raise InputError(f"row {position} of a ledger holds {held[:200]}; it must hold {', '.join(_KINDS)}")
    odd = {
        name: _checked(f"row {position} of a ledger: {name}", value, _KINDS[name])
        for name, value in row.items()
        if not _is_plain(value, _KINDS[name])
    }
    return CostRow(**{**row, **odd})


def _is_plain(value: Any, kind: type) -> bool:
    same = type(value) is kind
    return same if kind is str else same and bool(0 <= value < math.inf)


def _checked(name: str, value: Any, kind: type) -> int | float | str:
    if kind is str:
        return checks.instance(name, value, str, "text")
    return checks.whole(name, value, least=0) if kind is int else checks.number(name, value, least=0)


def _cells(row: CostRow) -> tuple[str, ...]:
    return (
        str(row.round),
        row.stage,
        row.network,
        f"{row.seconds:.2f}",
        f"{row.samples:,}",
        "not counted" if row.uncounted else si(row.macs),
        "-" if row.uncounted else _share(row.macs, row.dense_macs),
        f"{row.parameters:,}",
        f"{row.peak_memory_bytes / 2**20:,.0f} MiB",
    )


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "-"
