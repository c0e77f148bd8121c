"""One pass of a network over data, collecting exactly the signals that a scorer needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import nullcontext
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..data import (
    Batch,
    BatchLoader,
    Collate,
    bar,
    check_reading,
    describe_rows,
    isolated_rng,
    nonfinite_rows,
    to_dataset,
)
from ..errors import InputError, NonFiniteError, UnsupportedModelError
from ..types import Signals as Signals
from .compiling import BATCHES_TO_READ, compiled
from .dropout import ThinnedPass, dropout_layers, hidden_dropout, layers_on
from .forward import Forward, Transform, explained, forward_for, laid_out, logits_of, settled
from .halved import BATCHES_TO_HALVE, near_enough
from .heads import HeadTrace
from .model_checks import check_model
from .outputs import Outputs, seen_by_scorers
from .precision import check_accelerator, resolve_device, resolve_precision
from .processes import Processes
from .storage import RowStore, check_storage

COLLECTED = frozenset({"logits", "features", "mc_logits", "labels"})
_READ_COMPILED = frozenset({"logits", "labels"})  # the others follow a network call by call

__all__ = ["COLLECTED", "Signals", "collect", "logits_of", "read_batch"]


def collect(
    model: nn.Module,
    dataset: Any,
    needs: Iterable[str] = ("logits",),
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    transform: Transform | None = None,
    precision: str = "fp32",
    channels_last: bool = False,
    num_workers: int = 0,
    mc_samples: int = 10,
    seed: int = 0,
    progress: bool = False,
    accelerator: Any = None,
    features_dtype: str = "float32",
    features_path: str | PathLike[str] | None = None,
    collate: Collate | None = None,
    outputs: Outputs | None = None,
    compile: bool = False,
    checked_precision: bool = False,
) -> Signals:
    """Return what `model` says about every row of `dataset`, in order, and leave the model as it was.

    Args:
        model: the network; used in eval mode, its modes, device and hooks are put back.
        dataset: arrays, tensors or a map-style dataset of n rows; read batch by batch.
        needs: names among "logits" [n c], "features" [n d], "mc_logits" [t n c] and "labels" [n].
        batch_size: rows per batch.
        device: "auto", or a torch device; results come back on the CPU as float32 (float64 stays).
        transform: applied to each batch of inputs on the device.
        precision: "fp32", "bf16", "fp16" or "auto".
        channels_last: lay out 4-D batches and weights with channels last; results are rounded otherwise.
        num_workers: processes reading a dataset's items.
        mc_samples: t, passes with dropout on and everything else in eval mode. All rows of a pass get the same masks,
            however they are batched; functional dropout is on too; see `dropout.ThinnedPass`.
        seed: of the dropout masks, and of random numbers that the dataset or the transform draw.
        progress: a bar where it takes over five seconds and stderr is a terminal.
        accelerator: an `accelerate.Accelerator`: each process passes its part of the rows, none twice, and all get all;
            see `network.processes`.
        features_dtype: "float32", or "float16" for half the memory.
        features_path: a .npy file to keep the features in, mapped into memory; written anew, whole or not at all.
        collate: makes a batch of a list of a dataset's inputs; None stacks them.
        outputs: what the network gives, `prunefuse_al.network.outputs.Outputs`, so that logits come as scorers
            see them; None leaves them as they are.
        compile: pass full batches through a compiled network, see `compiling.compiled`, where logits alone are read and
            there are so many that it pays.
        checked_precision: pass the first batch in fp32 as well, and all others so where logits are off by more than
            `halved.FURTHEST`; what fits few batches is passed in fp32.

    Raises:
        InputError: an unknown need, labels needed and absent, or inputs the network cannot take.
        NonFiniteError: NaN or infinity in inputs or logits, naming the rows.
        UnsupportedModelError: features are needed and the logits come from no linear layer (see `heads.HeadTrace`), or
            "mc_logits" and the network has no dropout that can be switched on.
    """
    wanted = check_needs(needs)
    checks.maybe(checks.instance, "outputs", outputs, Outputs, "prunefuse_al.network.outputs.Outputs(...)")
    check_model(model)
    what = "how many passes with dropout on 'mc_logits' takes, at least 1 pass"
    mc_samples = checks.whole("mc_samples", mc_samples, least=1, what=what)
    batch_size, num_workers = check_reading(batch_size, num_workers, transform, collate)
    seed = checks.whole("seed", seed, least=0, most=2**64 - 1)
    channels_last, progress = checks.flag("channels_last", channels_last), checks.flag("progress", progress)
    compile = checks.flag("compile", compile) and wanted <= _READ_COMPILED
    checked_precision = checks.flag("checked_precision", checked_precision)
    check_storage(features_dtype, features_path)
    check_accelerator("accelerator", accelerator)
    data = to_dataset(dataset)
    _refuse_shares(features_path, accelerator)
    place = accelerator.device if accelerator is not None else resolve_device(device)
    autocast = None if accelerator is not None else resolve_precision(precision, place)
    reading: dict[str, Any] = {"num_workers": num_workers, "seed": seed, "collate": collate, "device": place}
    loader = BatchLoader(data, batch_size, network=model, labelled="labels" in wanted, **reading)
    processes = Processes(accelerator)
    processes.check_same("read", model, data, signals=sorted(wanted), batch_size=batch_size)
    shared = processes.count > 1 and len(data) > max(batch_size, processes.count)  # what fits a batch is soon read
    order = processes.part(torch.arange(len(data))) if shared else torch.arange(len(data))
    settling, full_batches = settled(model, device=place), len(order) // batch_size
    autocast = None if checked_precision and full_batches < BATCHES_TO_HALVE else autocast
    with isolated_rng(seed, place), settling, laid_out(model, channels_last=channels_last), torch.inference_mode():
        forward = forward_for(model, place, transform=transform, autocast=autocast, channels_last=channels_last)
        run = _Pass(model, forward, accelerator, mc_samples if "mc_logits" in wanted else 0, seed)
        run.compiles = compile and full_batches >= BATCHES_TO_READ
        run.checks_precision = checked_precision and autocast is not None
        with RowStore(len(order), features_dtype=features_dtype, features_path=features_path) as store:
            with bar("read", "rows", total=len(order), shown=progress and not processes.index) as read:
                for batch in run.over(loader.batches(order), wanted):
                    store.add(batch)
                    read.update(len(batch["logits"]))
            bad, fields = run.marks(len(order)), store.tensors
            if shared:
                bad, fields = _of_all(processes, bad, fields)
            _refuse_nonfinite(bad.nonzero().flatten(), fields, len(data))
    return seen_by_scorers(_signals(fields, wanted, len(data)), outputs)


def _of_all(processes: Processes, bad: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what all processes have read, in the order of the rows."""
    return processes.gathered(bad).cpu(), {name: processes.gathered(values).cpu() for name, values in fields.items()}


def _signals(fields: Mapping[str, Tensor], wanted: Iterable[str], n: int) -> Signals:
    picked: dict[str, Any] = {name: fields[name] for name in wanted}
    if "mc_logits" in picked:
        picked["mc_logits"] = picked["mc_logits"].transpose(0, 1).contiguous()  # [t n c]
    return Signals(torch.arange(n), **picked)


def _refuse_shares(features_path: Any, accelerator: Any) -> None:
    if features_path is not None and accelerator is not None and accelerator.num_processes > 1:
        raise InputError(
            f"features_path was given and {accelerator.num_processes} processes each have a share of the rows; "
            "leave it out, or give it to a selector, which puts the shares together"
        )


def read_batch(
    model: nn.Module,
    forward: Callable[[], Tensor],
    needs: Set[str],
    *,
    inputs: Any,
    rows: int,
    mc_samples: int = 10,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return what a network in eval mode says about one batch, on the CPU, row by row.

    Args:
        model: the network whose layers are watched.
        forward: passes the batch through `model` and returns the logits [b c]; called once, and for "mc_logits"
            `mc_samples` times more, thinned by dropout.
        needs: names among "features" and "mc_logits"; "logits" are always returned.
        inputs: what `forward` starts from: a tensor, or a tuple or dict of them.
        rows: b.
        mc_samples: t.
        seed: of the dropout masks.

    Returns:
        "logits" [b c], and as needed "features" [b d] and "mc_logits" [b t c].

    Raises:
        UnsupportedModelError: see `collect`.
    """
    found: dict[str, Tensor] = {}
    with HeadTrace(inputs) if "features" in needs else nullcontext() as trace:
        logits = forward()
    if trace is not None and len(logits) == rows:
        found["features"] = _to_cpu(trace.features(logits))
    if "mc_logits" in needs:
        found["mc_logits"] = torch.stack(_stochastic(model, forward, rows, mc_samples, seed), dim=1)
    return {"logits": _to_cpu(logits), **found}


def _stochastic(model: nn.Module, forward: Callable[[], Tensor], rows: int, passes: int, seed: int) -> list[Tensor]:
    found, dropouts = [], dropout_layers(model)
    with layers_on(dropouts):
        for number in range(passes):
            with ThinnedPass(rows, seed, number) as thinned:
                found.append(_to_cpu(forward()))
            if not thinned.calls and not dropouts:
                raise _no_dropout(model)
    return found


class _Pass:
    """Yields per-row tensors; row i of each belongs to row i of the order that is read.

    Attributes:
        bad: positions in that order of inputs that are not finite, int64 [m] of each batch that has some.
    """

    def __init__(self, model: nn.Module, forward: Forward, accelerator: Any, mc_samples: int, seed: int) -> None:
        self.model, self.forward, self.accelerator = model, forward, accelerator
        self.mc_samples, self.seed = mc_samples, seed
        self.bad: list[Tensor] = []
        self.called: Any = model
        self.compiles = self.checks_precision = False  # as soon as there is a batch

    def marks(self, n: int) -> Tensor:
        """Return 1 for each of the `n` rows read whose input is not finite, else 0, uint8 [n]."""
        marks = torch.zeros(n, dtype=torch.uint8)
        for positions in self.bad:
            marks[positions] = 1
        return marks

    def over(self, batches: Iterator[Batch], wanted: frozenset[str]) -> Iterator[dict[str, Tensor]]:
        """Yield batches of the wanted fields."""
        start = 0
        for rows, x, y, _ in batches:
            x = self.forward.moved(x)  # a device looks for what is not finite, before a transform may hide it
            if len(bad := nonfinite_rows(x)):
                self.bad.append(start + bad)
            start += len(rows)
            with explained(self.model, x):
                inputs = self.forward.inputs(x)
                self._made_ready(inputs)
                batch = read_batch(
                    self.model,
                    partial(self._logits, inputs),
                    wanted,
                    inputs=inputs,
                    rows=len(rows),
                    mc_samples=self.mc_samples,
                    seed=self.seed,
                )
            if "labels" in wanted:
                batch["labels"] = _labels(y)
            for name, value in batch.items():
                if value.shape[0] != len(rows):
                    raise InputError(f"{name} have shape {list(value.shape)} for a batch of {len(rows)} rows")
            yield batch

    def _made_ready(self, inputs: Any) -> None:
        """Settle by a first batch how all are passed."""
        if self.checks_precision:
            self.forward = near_enough(self.model, inputs, self.forward)
        if self.compiles:
            self.called = compiled(self.model, inputs, self.forward, trained=False) or self.model
        self.compiles = self.checks_precision = False

    def _logits(self, inputs: Any) -> Tensor:
        if self.accelerator is None:
            return logits_of(self.forward(self.called, inputs))
        with self.accelerator.autocast():
            return logits_of(self.forward(self.model, inputs))


def _no_dropout(model: nn.Module) -> UnsupportedModelError:
    hidden = hidden_dropout(model)
    inside = f"; that of {', '.join(hidden[:3])} is inside one call and stays off" if hidden else ""
    return UnsupportedModelError(
        f"'mc_logits' was asked of {type(model).__name__}, which has no dropout that can be switched on{inside}: "
        "all its passes would agree; add nn.Dropout, or take a scorer that reads logits, such as entropy"
    )


def check_needs(needs: Iterable[str]) -> frozenset[str]:
    """Return the names of signals, one name or several, or raise `InputError` unless a pass over data gives them."""
    several = [needs] if isinstance(needs, str) else list(needs) if isinstance(needs, Iterable) else [needs]
    if not all(isinstance(name, str) for name in several):
        raise checks.refused("needs", needs, f"names among {sorted(COLLECTED)}")
    unknown = sorted(set(several) - COLLECTED)
    if unknown:
        raise InputError(
            f"needs: the signals {unknown} were asked for; pass names of what a pass over data gives, "
            f"{sorted(COLLECTED)} (dynamics, and what is labelled, scorers get in select() and coreset())"
        )
    return frozenset(several)


def _labels(y: Any) -> Tensor:
    if y is None:
        raise InputError("labels are needed and the dataset has none: its items must be (x, y)")
    return torch.as_tensor(y)


def _to_cpu(values: Tensor) -> Tensor:
    return values.to("cpu", torch.float64 if values.dtype == torch.float64 else torch.float32)


def _refuse_nonfinite(bad: Tensor, fields: dict[str, Tensor], n: int) -> None:
    if len(bad):
        raise NonFiniteError(f"inputs hold NaN or infinity in {describe_rows(bad, n)}: repair or drop these rows")
    for name in ("logits", "features", "mc_logits"):
        if name in fields and len(bad := nonfinite_rows(fields[name])):
            raise NonFiniteError(
                f"the network's {name} are NaN or infinite for {describe_rows(bad, n)} though the inputs are finite: "
                "its weights may have diverged (train at a lower rate) or the precision be too low (use fp32)"
            )
