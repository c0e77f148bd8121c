"""What the loss on labelled data says about each weight: first order (Taylor) and second order (Hessian).

Both are measured on a copy of the network in eval mode, so the network itself, its gradients, buffers and modes, and
all random states stay as they are. BatchNorm layers that have seen no data get statistics from the data first: before
training, those they were made with are not those of any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import checks
from ..data import BatchLoader, as_dataset, check_finite, has_labels, isolated_rng
from ..errors import InputError, NonFiniteError
from ..network import Forward, averaging, copied, explained, forward_for, logits_of

Loss = Callable[[Tensor, Tensor], Tensor]
BATCH = 64  # rows of a pass
IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """One number for each entry of each parameter: a channel's score is their sum over all it owns, or its square."""

    entries: dict[str, Tensor]
    squared: bool


@dataclass(frozen=True, eq=False)
class OnData:
    """Labelled data and a loss, checked when they are given."""

    inputs: Any = field(repr=False)
    labels: Any = field(default=None, repr=False)
    loss: Loss | None = None

    def __post_init__(self) -> None:
        checks.maybe(checks.function, "loss", self.loss, "a function (logits, labels) -> scalar or [n]")
        self.data()

    def data(self) -> Any:
        """Return inputs and labels as a dataset, or raise `InputError`."""
        data = as_dataset(self.inputs, self.labels)
        if not has_labels(data):
            name = type(self).__name__
            raise InputError(
                f"{name}: there are {len(data)} inputs and no labels; pass {name}(inputs, labels), or a Dataset whose "
                "items are (input, label)"
            )
        return data


@dataclass(frozen=True, eq=False)
class Taylor(OnData):
    """First-order importance (Molchanov et al. 2019, arXiv 1906.10771): (sum of gradient x weight)^2 of a channel.

    The estimate of how the squared loss changes when a channel leaves, with the gradient of the mean loss.

    Attributes:
        inputs: rows as the network takes them: array or tensor [n ...], a tuple or dict of them, or a Dataset. Floating
            inputs are converted to the network's dtype.
        labels: int64 [n] (or soft targets [n c]); None where `inputs` is a Dataset that gives (input, label).
        loss: (logits, labels) -> scalar or [n]; None is cross entropy.

    Raises:
        InputError: there are no labels, or lengths differ.

    Example:
        >>> from prunefuse_al import prune
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> X, y = torch.zeros(6, 8), torch.arange(6) % 3
        >>> prune(net, X, 0.5, importance=Taylor(X, y)).module[0].out_features
        8
    """

    def measure(self, model: nn.Module) -> Sensitivity:
        """Return gradient x weight of every parameter."""
        gradients = mean_gradients(model, self.data(), self.loss)
        return Sensitivity({name: gradients[name] * p.detach() for name, p in model.named_parameters()}, squared=True)


@dataclass(frozen=True, eq=False)
class Hessian(OnData):
    """Second-order importance: optimal brain damage's 1/2 h w^2 (LeCun et al. 1989), added over a channel.

    The diagonal h is that of the empirical Fisher matrix, the mean over rows of squared gradients, as in Fisher pruning
    (Theis et al. 2018, arXiv 1801.05787): never negative, and needs one backward pass per row and no second
    derivatives.

    Attributes:
        inputs: see `Taylor`.
        labels: see `Taylor`.
        loss: see `Taylor`.

    Raises:
        InputError: there are no labels, or lengths differ.
    """

    def measure(self, model: nn.Module) -> Sensitivity:
        """Return half of Fisher diagonal x squared weight of every parameter."""
        fisher = mean_squared_gradients(model, self.data(), self.loss)
        entries = {name: fisher[name] * p.detach().square() / 2 for name, p in model.named_parameters()}
        return Sensitivity(entries, squared=False)


def mean_gradients(model: nn.Module, data: Any, loss: Loss | None = None) -> dict[str, Tensor]:
    """Return the gradient of the mean loss over `data` for every parameter, in eval mode; frozen ones included."""
    with copy_with_gradients(model, data) as (network, forward):
        for rows, x, y, _ in BatchLoader(data, BATCH, network=network).batches():
            value = mean_loss(network, forward, x, y, loss)
            (value * (len(rows) / len(data))).backward()
        return {name: _gradient(p) for name, p in network.named_parameters()}


def mean_squared_gradients(model: nn.Module, data: Any, loss: Loss | None = None) -> dict[str, Tensor]:
    """Return the mean over the rows of `data` of the squared gradient of each row's loss, for every parameter."""
    with copy_with_gradients(model, data) as (network, forward):
        total = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        for _, x, y, _ in BatchLoader(data, 1, network=network).batches():
            network.zero_grad()
            mean_loss(network, forward, x, y, loss).backward()
            for name, p in network.named_parameters():
                total[name] += _gradient(p).square() / len(data)
        return total


@contextmanager
def copy_with_gradients(model: nn.Module, data: Any) -> Iterator[tuple[nn.Module, Forward]]:
    """Yield a copy in eval mode whose floating parameters all take gradients, and how it is called."""
    network = copied(model).eval()
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    for p in network.parameters():
        p.grad = None
        p.requires_grad_(p.is_floating_point())
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    with (
        isolated_rng(0, device),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=not recurrent, deterministic=True),  # its RNNs only learn in train mode
    ):
        check_finite(data, network=network)
        forward = forward_for(network, device)
        estimate_statistics(network, forward, data)
        yield network, forward


def estimate_statistics(network: nn.Module, forward: Forward, data: Any) -> None:
    """Give BatchNorm layers that have seen no data the averages over `data`."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    fresh = [m for m in norms if m.num_batches_tracked is not None and not m.num_batches_tracked]
    if not fresh:
        return
    with averaging(fresh), torch.no_grad():
        for _, x, _, _ in BatchLoader(data, BATCH, network=network, labelled=False).batches(merge_single=True):
            with explained(network, x):
                forward(network, forward.inputs(x))


def mean_loss(network: nn.Module, forward: Forward, x: Any, y: Any, loss: Loss | None) -> Tensor:
    """Return the mean loss of a batch, refused where labels do not fit or it is not finite."""
    with explained(network, x):
        logits = logits_of(forward(network, forward.inputs(x)))
    labels = y.to(logits.device)
    if loss is None:
        _check_labels(labels, logits)
        labels = labels.to(logits.dtype) if labels.is_floating_point() else labels
    elif isinstance(loss, nn.Module):
        loss = copied(loss).to(logits.device)
    value = (F.cross_entropy if loss is None else loss)(logits, labels).mean()
    if not bool(value.isfinite()):
        raise NonFiniteError(
            f"importance: the loss of a batch of {len(labels)} rows is {float(value.detach())}; weights or inputs "
            "are out of range: repair them, or take a measure that needs no data"
        )
    return value


def _check_labels(labels: Tensor, logits: Tensor) -> None:
    if logits.ndim < 2:
        raise InputError(
            f"importance: the network gives {list(logits.shape)}, and cross entropy needs [n c]; pass a loss"
        )
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            raise InputError(
                f"importance: soft targets have shape {list(labels.shape)} and logits {list(logits.shape)}; pass "
                "integer labels [n], targets [n c], or a loss"
            )
        return
    known = labels[labels != IGNORED]
    low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
    if low < 0 or high >= logits.shape[1]:
        raise InputError(
            f"importance: labels {low}..{high} found, the network has {logits.shape[1]} outputs "
            f"(labels 0..{logits.shape[1] - 1}): re-encode the labels"
        )


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
