"""`FunctionTrainer`: a training loop that is a function of the user's own, in the place of `TorchTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .. import checks
from ..data import Collate, isolated_rng, split_row, split_rows
from ..errors import InputError
from ..network import STATED, Transform, check_model, collect, home_device, of_trainer, seen_by_scorers
from ..types import Signals
from .checking import OPTIONS
from .placement import in_training

OFFERED = ("seed", "teacher", "lr_scale")


class FunctionTrainer:
    """Trains by a function, and reads signals by another or by `signals.collect`.

    The training function runs with all global random states seeded, and they are as before when it is done; so a
    ``DataLoader(data, shuffle=True)`` in it gives the same batches for the same seed. The network goes back to the
    device and modes it came with.

    Args:
        fit: ``fit(model, data)`` trains the network in place; `data` is a map-style dataset of (x, y[, w]). Of these it
            gets what it has parameters for: `seed`; `teacher`, the trained proxy to distil from when a target is
            trained, else None; `lr_scale`, a factor for its learning rate, below 1 after fusing. What it returns is
            the selector's `history`.
        infer: ``infer(model, data)`` returns logits [n c] of all rows in order, `data` being a dataset of inputs x
            alone; with a third parameter `needs`, the names of what is asked, it gets the dataset as it is and returns
            `Signals`. None: `signals.collect`.
        eval_batch_size: rows per batch of `signals.collect`.
        eval_transform: applied to each batch of inputs by it.
        device: where it runs the network, "auto" or a torch device.
        num_workers: processes that read a dataset's items for it.
        mc_samples: its passes for the signal "mc_logits".
        collate: makes a batch of a list of a dataset's inputs for it; None stacks them.
        outputs: what the networks give, by a name of `prunefuse_al.network.outputs`: "sigmoid" for labels that are
            independent, or for a single output; None: logits of classes.

    Raises:
        InputError: an option cannot be used.

    Example:
        >>> def fit(model, data):
        ...     optimizer = torch.optim.SGD(model.parameters(), 0.1)
        ...     for x, y in torch.utils.data.DataLoader(data, 16, shuffle=True):
        ...         optimizer.zero_grad()
        ...         nn.functional.cross_entropy(model(x), y).backward()
        ...         optimizer.step()
        >>> trainer = FunctionTrainer(fit)
    """

    def __init__(
        self,
        fit: Callable[..., Any],
        infer: Callable[..., Any] | None = None,
        *,
        eval_batch_size: int = 256,
        eval_transform: Transform | None = None,
        device: str | torch.device = "auto",
        num_workers: int = 0,
        mc_samples: int = 10,
        collate: Collate | None = None,
        outputs: str | None = None,
    ) -> None:
        self.fit_function = checks.function("fit", fit, "a function of (model, data)")
        self.infer_function = checks.maybe(checks.function, "infer", infer, "a function of (model, data)")
        self.eval_batch_size: int = OPTIONS["batch_size"]("eval_batch_size", eval_batch_size)
        self.eval_transform: Transform | None = OPTIONS["eval_transform"]("eval_transform", eval_transform)
        self.device: str | torch.device = OPTIONS["device"]("device", device)
        self.num_workers: int = OPTIONS["num_workers"]("num_workers", num_workers)
        self.mc_samples: int = OPTIONS["mc_samples"]("mc_samples", mc_samples)
        self.collate: Collate | None = OPTIONS["collate"]("collate", collate)
        self.outputs: str | None = checks.maybe(checks.one_of, "outputs", outputs, STATED)
        # A selector sets what it finds: see `fine_tune_lr_scale` and `distillation` there.
        if checks.takes(fit, "lr_scale"):
            self.lr_scale = 1.0
        if checks.takes(fit, "teacher"):
            self.distillation: Any = True

    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> Any:
        """Train `model` in place with the function given, and return what it returns.

        Raises:
            InputError: a seed that is no whole number from 0.
        """
        check_model(model)
        seed = checks.maybe(checks.whole, "seed", seed, least=0, most=2**64 - 1)
        home = home_device(model) or torch.device("cpu")
        offered = {"seed": seed, "teacher": teacher, "lr_scale": getattr(self, "lr_scale", 1.0)}
        taken = {name: offered[name] for name in OFFERED if checks.takes(self.fit_function, name)}
        with isolated_rng(seed, home), in_training(model, home, channels_last=False):
            try:
                return self.fit_function(model, data, **taken)
            finally:
                model.to(home)

    def infer(self, model: nn.Module, data: Any, needs: Iterable[str] = ("logits",)) -> Signals:
        """Return the signals in `needs` for every row of `data`, in order.

        Raises:
            InputError: more than logits is asked of a function that gives logits, or it gives other rows.
        """
        check_model(model)
        if self.infer_function is None:
            return self._collect(model, data, needs)
        with isolated_rng(0, home_device(model) or "cpu"):  # reading through a DataLoader draws a number already
            if checks.takes(self.infer_function, "needs"):
                signals: Signals = self.infer_function(model, data, needs=frozenset(needs))
                return seen_by_scorers(signals, of_trainer(self))
            if more := sorted(frozenset(needs) - {"logits"}):
                raise InputError(
                    f"infer(model, data) gives logits, and {', '.join(more)} are asked for: give it a parameter "
                    "`needs` and return Signals, or leave infer= out"
                )
            return seen_by_scorers(_as_signals(self.infer_function(model, _Inputs(data)), len(data)), of_trainer(self))

    def _collect(self, model: nn.Module, data: Any, needs: Iterable[str]) -> Signals:
        return collect(
            model,
            data,
            needs,
            batch_size=self.eval_batch_size,
            device=self.device,
            transform=self.eval_transform,
            num_workers=self.num_workers,
            mc_samples=self.mc_samples,
            collate=self.collate,
            outputs=of_trainer(self),
        )

    def __repr__(self) -> str:
        names = [getattr(f, "__name__", repr(f)) for f in (self.fit_function, self.infer_function) if f is not None]
        return f"FunctionTrainer({', '.join(names)})"


class _Inputs(Dataset[Any]):
    """A dataset's inputs without labels, whether or not it has some: a pool may have none."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        return split_row(self.dataset, row)[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Return the inputs of several rows, read at once where the dataset can."""
        return [x for x, _, _ in split_rows(self.dataset, rows)]


def _as_signals(logits: Any, n: int) -> Signals:
    if not isinstance(logits, Tensor) or logits.ndim not in (1, 2) or len(logits) != n:
        found = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(f"infer(model, data) gave {found} for {n} rows; it must give a tensor of logits [n c]")
    return Signals(torch.arange(n), logits.detach().cpu())
