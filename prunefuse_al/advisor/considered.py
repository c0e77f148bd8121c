"""What could choose in the place of the dense network: kinds of proxies by name or as objects, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from .. import checks
from ..errors import InputError
from ..proxies import Another, Dense, Kind, Probe, ProxyKind, Pruned, completed
from .loop_costs import LoopCost, LoopPlan, Rates, dense_cost, fewer_epochs, proxy_cost, svp_cost, with_fewer_epochs

DENSE, SVP = "dense", "svp"
PRUNED, UNREPAIRED, PROBE, FEWER, ANOTHER = "pruned", "unrepaired", "probe", "fewer epochs", "another"
KINDS = (PRUNED, UNREPAIRED, PROBE, FEWER)
"""Names of kinds that can be looked at."""
NEEDED = ("cut", "prepare", "stale", "begin", "put_back")
"""Methods of a kind of proxy."""


@dataclass(frozen=True)
class FewerEpochs:
    """The dense network chooses, trained for fewer epochs; the target is trained for all of them.

    Attributes:
        share: of the epochs of each training, 0 < share < 1.

    Raises:
        InputError: no such share.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        what = "the share of the epochs that is left, 0 < share < 1"
        checks.settle(self, share=float(checks.number("share", self.share, above=0, below=1, what=what)))


Kinds = Sequence[str | FewerEpochs | ProxyKind]
"""What can be asked for."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What could choose; see `AdviceRow`.

    Attributes:
        name: of its row.
        kind: in a word.
        proxy: how the network is made, trained and asked.
        pruning_ratio: share of channels removed, None where nothing is cut from the dense network.
        epochs: share of the plan's epochs that it is trained for.
        demanded: an error in making it is the caller's; else it is left out.
    """

    name: str
    kind: str
    proxy: Kind
    pruning_ratio: float | None = None
    epochs: float = 1.0
    demanded: bool = True

    def cost(self, plan: LoopPlan, own: Rates, dense: Rates) -> LoopCost:
        """Return what a plan costs with it."""
        if self.kind == DENSE:
            return dense_cost(plan, dense)
        if self.epochs != 1:
            return svp_cost(with_fewer_epochs(plan, self.epochs), own, dense)
        if not self.proxy.fuses:
            return svp_cost(plan, own, dense)
        return proxy_cost(plan if self.proxy.syncs else replace(plan, sync_every=None), own, dense)

    def trial_epochs(self, epochs: int) -> int:
        """Return for how many epochs it is trained where the dense network is trained for `epochs`."""
        return fewer_epochs(epochs, self.epochs)


@dataclass(frozen=True, eq=False)
class Candidates:
    """All that is looked at, by groups.

    Attributes:
        dense: the dense network.
        ratios: pruned at each ratio, ascending.
        others: of other kinds.
        svp: another network.
        left_out: name of a kind -> why it is not looked at.
    """

    dense: Candidate
    ratios: tuple[Candidate, ...]
    others: tuple[Candidate, ...]
    svp: Candidate | None
    left_out: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Candidate]:
        return iter([self.dense, *self.ratios, *self.others, *([] if self.svp is None else [self.svp])])


def check_kinds(given: Any, *, trained: bool) -> Kinds:
    """Return what is to be looked at, names and objects, or raise `InputError` for what is neither.

    Args:
        given: see `advise`.
        trained: the dense network was trained before.
    """
    if given is None:
        return (PRUNED, PROBE, FEWER) if trained else (PRUNED, PROBE)
    alone = isinstance(given, str | FewerEpochs) or hasattr(given, "put_back")
    try:
        kinds = [given] if alone else list(given)
    except TypeError:
        kinds = [given]
    what = f"{', '.join(map(repr, KINDS))}, FewerEpochs(share), or a kind of proxy such as Probe(dropout=0.2)"
    if not kinds:
        raise InputError(f"advise: kinds={given!r} is empty; pass one or more of {what}, or None")
    for kind in kinds:
        if isinstance(kind, str):
            known = kind in KINDS
        else:
            known = isinstance(kind, FewerEpochs) or all(callable(getattr(kind, name, None)) for name in NEEDED)
        if not known or isinstance(kind, type):
            raise InputError(
                f"advise: kinds={checks.shown(given)} holds {checks.shown(kind)}; pass any of {what}, or None"
            )
    return kinds


def candidates_of(
    kinds: Kinds,
    ratios: Sequence[float],
    pruning: Pruned,
    *,
    trained: bool,
    epochs: int | None,
    other: nn.Module | None,
) -> Candidates:
    """Return what is looked at.

    Args:
        kinds: see `check_kinds`.
        ratios: pruning ratios, ascending.
        pruning: how networks are pruned.
        trained: the dense network was trained before.
        epochs: of each training, None where the trainer does not say.
        other: a network for Selection via Proxy.
    """
    reasons = {
        UNREPAIRED: None if trained and pruning.repair is not False else _NOTHING_TO_REPAIR,
        PROBE: None if trained else _NO_FEATURES,
        FEWER: _too_few(epochs),
    }
    names = [kind for kind in kinds if isinstance(kind, str)]
    left_out = {name: why for name in names if (why := reasons.get(name)) is not None}
    whole = replace(pruning, repair=False)
    others: list[Candidate] = []
    for kind in kinds:
        if isinstance(kind, str) and (kind in left_out or kind == PRUNED):
            continue
        if kind == UNREPAIRED:
            others += [_pruned(replace(whole, pruning_ratio=ratio), trained) for ratio in ratios]
        elif kind == PROBE:
            others.append(Candidate(PROBE, PROBE, Probe(), demanded=False))
        elif kind == FEWER or isinstance(kind, FewerEpochs):
            others.append(_fewer(FewerEpochs() if isinstance(kind, str) else kind, epochs))
        else:
            others.append(_of_kind(kind, trained))
    return Candidates(
        dense=Candidate(DENSE, DENSE, Dense(), 0.0),
        ratios=tuple(_pruned(replace(pruning, pruning_ratio=ratio), trained) for ratio in ratios if PRUNED in names),
        others=_told_apart(others, {DENSE, SVP, *(_ratio_name(ratio) for ratio in ratios)}),
        svp=None if other is None else Candidate(SVP, ANOTHER, Another(other)),
        left_out=left_out,
    )


_NOTHING_TO_REPAIR = "nothing is repaired here, so that it is what 'pruned' is"
_NO_FEATURES = (
    "the network does not look trained, and what an untrained one says of data tells no classes apart; pass "
    "pretrained=True if it was trained elsewhere"
)


def _too_few(epochs: int | None) -> str | None:
    if epochs is None:
        return "the trainer does not say for how many epochs it trains"
    return None if epochs > 1 else "trainings last for one epoch"


def _ratio_name(ratio: float) -> str:
    return f"p={ratio:.12g}"


def _pruned(kind: Pruned, trained: bool) -> Candidate:
    ratio = kind.pruning_ratio
    if callable(ratio) or kind.progressive is not None:
        raise InputError(
            f"advise: kinds holds {checks.shown(kind)}, whose widths change during the plan; a plan is costed at one "
            "ratio: name numbers by ratios=, and leave progressive= out"
        )
    cut = trained and kind.repair is False
    return Candidate(_ratio_name(ratio) + " as cut" * cut, UNREPAIRED if cut else PRUNED, kind, ratio)


def _fewer(kind: FewerEpochs, epochs: int | None) -> Candidate:
    if (why := _too_few(epochs)) is not None:
        raise InputError(f"advise: kinds holds {kind!r}, but {why}: leave it out")
    return Candidate(f"{kind.share:.12g} of epochs", FEWER, Dense(), 0.0, kind.share)


def _of_kind(given: Any, trained: bool) -> Candidate:
    """Return a kind of proxy as a candidate; features are kept in memory, for the data here is not the pool."""
    if isinstance(given, Pruned):
        return _pruned(given, trained)
    if isinstance(given, Probe):
        if given.head != "linear":
            raise InputError(
                f"advise: kinds holds {given!r}, whose head is fitted by a solver that takes no steps to be timed: "
                "look at Probe(), whose head costs next to nothing as well"
            )
        kept = given.features if given.features == "float16" else "memory"
        return Candidate(PROBE, PROBE, replace(given, features=kept))
    name = ANOTHER if isinstance(given, Another) else type(given).__name__
    return Candidate(name, name, completed(given), 0.0 if isinstance(given, Dense) else None)


def _told_apart(candidates: Sequence[Candidate], taken: set[str]) -> tuple[Candidate, ...]:
    """Return the candidates with names of their own."""
    names: Mapping[str, None] | set[str] = set(taken)
    found: list[Candidate] = []
    for candidate in candidates:
        name, number = candidate.name, 1
        while name in names:
            number += 1
            name = f"{candidate.name} ({number})"
        names = {*names, name}
        found.append(replace(candidate, name=name))
    return tuple(found)
