"""One pass of a network over data, collecting exactly the signals that a scorer needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .arrays import describe_rows, nonfinite_rows
from .data import Batch, BatchLoader, to_dataset
from .errors import InputError, NonFiniteError, UnsupportedModelError
from .forward import Forward, Transform, explained, forward_for, logits_of, settled
from .items import Collate
from .model_checks import check_model
from .precision import resolve_device, resolve_precision
from .rng import isolated_rng
from .types import Signals as Signals

COLLECTED = frozenset({"logits", "features", "mc_logits", "labels"})

__all__ = ["COLLECTED", "Signals", "collect", "logits_of"]


def collect(
    model: nn.Module,
    dataset: Any,
    needs: Iterable[str] = ("logits",),
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    transform: Transform | None = None,
    precision: str = "fp32",
    num_workers: int = 0,
    mc_samples: int = 10,
    seed: int = 0,
    progress: bool = False,
    accelerator: Any = None,
    collate: Collate | None = None,
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
        num_workers: processes reading a dataset's items.
        mc_samples: t, passes with only the dropout layers in train mode.
        seed: of the dropout masks, and of random numbers that the dataset or the transform draw.
        progress: show a bar.
        accelerator: an `accelerate.Accelerator`: each process passes its share and all get all rows.
        collate: makes a batch of a list of a dataset's inputs; None stacks them.

    Raises:
        InputError: an unknown need, labels needed and absent, or inputs the network cannot take.
        NonFiniteError: NaN or infinity in inputs or logits, naming the rows.
        UnsupportedModelError: features are needed and the logits come from no `nn.Linear`, or "mc_logits" and the
            network has no dropout.
    """
    wanted = _check_needs(needs)
    check_model(model)
    data = to_dataset(dataset)
    place = accelerator.device if accelerator is not None else resolve_device(device)
    autocast = None if accelerator is not None else resolve_precision(precision, place)
    loader = BatchLoader(data, batch_size, num_workers=num_workers, seed=seed, collate=collate)
    order = _share(len(data), accelerator)
    bar = tqdm(total=len(order), disable=None if progress else True, unit="rows", leave=False)
    with isolated_rng(seed, place), settled(model, device=place), torch.inference_mode(), bar:
        forward = forward_for(model, place, transform=transform, autocast=autocast)
        run = _Pass(model, forward, accelerator, mc_samples if "mc_logits" in wanted else 0)
        parts = run.over(loader.batches(order), wanted, bar)
    fields = {name: _gather(torch.cat(values), len(data), accelerator) for name, values in parts.items()}
    _refuse_nonfinite(fields, len(data))
    if "mc_logits" in fields:
        fields["mc_logits"] = fields["mc_logits"].transpose(0, 1).contiguous()  # [t n c]
    picked: dict[str, Any] = {name: fields[name] for name in wanted}
    return Signals(torch.arange(len(data)), **picked)


class _Pass:
    """Collects per-row tensors; row i of each belongs to row i of the order that is read."""

    def __init__(self, model: nn.Module, forward: Forward, accelerator: Any, mc_samples: int) -> None:
        self.model, self.forward, self.accelerator, self.mc_samples = model, forward, accelerator, mc_samples
        self.dropouts = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        if mc_samples and not self.dropouts:
            raise UnsupportedModelError(
                f"'mc_logits' was asked of {type(model).__name__}, which has no dropout layer: "
                "all its passes would agree; add nn.Dropout or take another scorer"
            )

    def over(self, batches: Iterator[Batch], wanted: frozenset[str], bar: Any) -> dict[str, list[Tensor]]:
        """Return batches of "logits", the other wanted fields, and "bad": 1 where an input is not finite."""
        collected: dict[str, list[Tensor]] = {}
        for rows, x, y, _ in batches:
            batch = self._batch(x, "features" in wanted)
            batch["bad"] = torch.zeros(len(rows), dtype=torch.int64)
            batch["bad"][nonfinite_rows(x)] = 1
            if "labels" in wanted:
                batch["labels"] = _labels(y)
            for name, value in batch.items():
                if value.shape[0] != len(rows):
                    raise InputError(f"{name} have shape {list(value.shape)} for a batch of {len(rows)} rows")
                collected.setdefault(name, []).append(value)
            bar.update(len(rows))
        return collected

    def _batch(self, x: Any, features: bool) -> dict[str, Tensor]:
        with explained(self.model, x):
            inputs = self.forward.inputs(x)
            with _head_inputs(self.model) if features else _nothing() as head:
                logits = self._logits(inputs)
                found = {"logits": _to_cpu(logits)}
                if features:
                    found["features"] = _to_cpu(head(logits))
            if self.mc_samples:
                found["mc_logits"] = torch.stack(self._stochastic(inputs), dim=1)  # [b t c]
        return found

    def _logits(self, inputs: Any) -> Tensor:
        if self.accelerator is None:
            return logits_of(self.forward(self.model, inputs))
        with self.accelerator.autocast():
            return logits_of(self.forward(self.model, inputs))

    def _stochastic(self, inputs: Any) -> list[Tensor]:
        for layer in self.dropouts:
            layer.train()
        try:
            return [_to_cpu(self._logits(inputs)) for _ in range(self.mc_samples)]
        finally:
            for layer in self.dropouts:
                layer.eval()


@contextmanager
def _nothing() -> Iterator[Any]:
    yield None


@contextmanager
def _head_inputs(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Watch the linear layers; the value yields the input of the one that made the logits it is given.

    That is the last linear layer whose output *is* the logits; where something cheap follows it (a cast, a softmax),
    the last one with as many outputs as there are logits.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    watch = lambda _module, args, output: seen.append((args[0], output))  # noqa: E731
    hooks = [m.register_forward_hook(watch) for m in model.modules() if isinstance(m, nn.Linear)]

    def head_input(logits: Tensor) -> Tensor:
        exact = [given for given, output in seen if output is logits]
        fitting = [given for given, output in seen if output.shape == logits.shape]
        seen.clear()
        if not fitting:
            raise UnsupportedModelError(
                f"features are the input of the last nn.Linear, and none of {type(model).__name__} made its logits "
                f"{list(logits.shape)}: end it in an nn.Linear, or take a scorer that needs only logits"
            )
        return (exact or fitting)[-1].flatten(1)

    try:
        yield head_input
    finally:
        for hook in hooks:
            hook.remove()


def _check_needs(needs: Iterable[str]) -> frozenset[str]:
    wanted = frozenset([needs] if isinstance(needs, str) else needs)
    unknown = sorted(wanted - COLLECTED)
    if unknown:
        raise InputError(
            f"signals {unknown} were asked for; a pass over data gives {sorted(COLLECTED)} "
            "(training dynamics and features of labelled rows are added by the caller)"
        )
    return wanted


def _labels(y: Any) -> Tensor:
    if y is None:
        raise InputError("labels are needed and the dataset has none: its items must be (x, y)")
    return torch.as_tensor(y)


def _to_cpu(values: Tensor) -> Tensor:
    return values.to("cpu", torch.float64 if values.dtype == torch.float64 else torch.float32)


def _share(n: int, accelerator: Any) -> Tensor:
    """Return the rows of this process: equal contiguous shares, the last ones padded with row 0."""
    if accelerator is None or accelerator.num_processes == 1:
        return torch.arange(n)
    size = -(-n // accelerator.num_processes)
    rows = torch.arange(size) + accelerator.process_index * size
    return torch.where(rows < n, rows, 0)


def _gather(values: Tensor, n: int, accelerator: Any) -> Tensor:
    if accelerator is None or accelerator.num_processes == 1:
        return values
    gathered: Tensor = accelerator.gather(values.to(accelerator.device))
    return gathered.cpu()[:n]


def _refuse_nonfinite(fields: dict[str, Tensor], n: int) -> None:
    bad = fields.pop("bad").nonzero().flatten()
    if len(bad):
        raise NonFiniteError(f"inputs hold NaN or infinity in {describe_rows(bad, n)}: repair or drop these rows")
    for name in ("logits", "features", "mc_logits"):
        if name in fields and len(bad := nonfinite_rows(fields[name])):
            raise NonFiniteError(
                f"the network's {name} are NaN or infinite for {describe_rows(bad, n)} though the inputs are finite: "
                "its weights may have diverged (train at a lower rate) or the precision be too low (use fp32)"
            )
