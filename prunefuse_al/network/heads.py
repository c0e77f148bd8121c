"""Which linear layer made the logits, and what it was given: found by following one pass, call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..data import leaves
from ..errors import UnsupportedModelError

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_PRODUCTS = (torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__)
_ADDED = (torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One linear layer at work: its place in the pass, what it was given and made, and whether it is a convolution."""

    number: int
    given: Tensor
    made: Tensor
    convolution: bool


class HeadTrace(TorchFunctionMode):
    """While active, follows which linear layers each tensor comes from without another one in between.

    A linear layer is a product of data with what is not data: `nn.Linear`, `F.linear`, ``x @ W``, a convolution. So
    products of data with data (attention) are followed through. Tensors are not kept longer than the network keeps
    them, but for the inputs and outputs of the last layers.

    Args:
        inputs: what the network is called with.
    """

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self._count = 0
        self._from: Any = WeakTensorKeyDictionary()  # tensor that depends on the data -> its last linear layers
        for leaf in leaves(inputs):
            self._from[leaf] = frozenset()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the call and note where its results come from."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        used = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor) and leaf in self._from]
        if not used:
            return result
        layer = self._layer(func, args, kwargs, result)
        sources = frozenset([layer]) if layer else frozenset().union(*(self._from[leaf] for leaf in used))
        changed = args[:1] if func is Tensor.__setitem__ else ()
        for leaf in tree_leaves((result, changed)):
            if isinstance(leaf, Tensor):
                self._from[leaf] = sources
        return result

    def _layer(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> _Layer | None:
        convolution = func in _CONVOLUTIONS
        if func is F.linear or convolution:
            operands = [*args, *(kwargs[name] for name in ("input", "weight") if name in kwargs)][:2]
        elif func in _PRODUCTS or func in _ADDED:
            operands = list(args[1 if func in _ADDED else 0 :])[:2]
        else:
            return None
        data = [operand for operand in operands if isinstance(operand, Tensor) and operand in self._from]
        if len(data) != 1:
            return None
        self._count += 1
        # Detached: other objects over the same memory, or each layer would keep the one before it alive.
        return _Layer(self._count, data[0].detach(), result.detach(), convolution)

    def features(self, logits: Tensor) -> Tensor:
        """Return the input, float [b d], of the last linear layer on the way to `logits` [b c], or [b] of one output.

        Applied at several positions, it is the input at the position that became the logits, else the mean over
        positions. Several layers that meet in the logits give their inputs side by side, each input once.

        Raises:
            UnsupportedModelError: no linear layer with as many outputs as there are logits is on the way, or the logits
                are not one row a sample.
        """
        layers = self._from.get(logits, frozenset())
        if logits.ndim == 1:
            logits = logits[:, None]
        if logits.ndim != 2:
            raise UnsupportedModelError(
                f"features belong to logits [rows classes], and these are {list(logits.shape)}: average over positions "
                "in forward, or take a scorer that needs only logits"
            )
        last = sorted((one for one in layers if _width(one) == logits.shape[1]), key=lambda layer: layer.number)
        inputs = {(layer.given.data_ptr(), layer.given.shape): _per_sample(layer, logits) for layer in last}
        found = [given for given in inputs.values() if given is not None]
        if not found:
            widths = sorted({_width(layer) for layer in layers})
            ends = f"the last ones have {widths} outputs" if widths else "there is none on the way to them"
            raise UnsupportedModelError(
                f"features are the input of the linear layer that makes the logits {list(logits.shape)}, and {ends}: "
                "end the network in an nn.Linear (or a convolution, averaged), or take a scorer that needs only logits"
            )
        return torch.cat(found, 1) if len(found) > 1 else found[0]


def head_between(network: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
    """Return the linear layer that makes `logits` [b c] of `features` [b d]: weights, then bias, float [c d+1].

    It is found by what it makes, among all layers of that shape. Logits may be shifted, or be those of probabilities
    that a network ends in; a single output that counts as two classes has weights of 0 for the first.

    Raises:
        UnsupportedModelError: no layer makes them.
    """
    wanted, given = _logs(logits), features.double()
    found = [
        (_gap(_logs(given @ head[:, :-1].T + head[:, -1]), wanted), head) for head in _heads(network, features, logits)
    ]
    gap, best = min(found, key=lambda pair: pair[0], default=(1.0, features))
    if gap > 0.02:  # rounding of half precision, at worst
        raise UnsupportedModelError(
            f"the head is the linear layer that makes logits {list(logits.shape)} of features {list(features.shape)}, "
            f"and no layer of {type(network).__name__} does: end the network in an nn.Linear, or take a scorer that "
            "reads no head, such as DropQuery(passes_by='network')"
        )
    return best if features.dtype == torch.float64 else best.float()


def _heads(network: nn.Module, features: Tensor, logits: Tensor) -> Iterator[Tensor]:
    """Yield layers that take features [b d] and give logits [b c], weights and bias, float64 [c d+1]."""
    for layer in network.modules():
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2 or weight[0].numel() != features.shape[1]:
            continue
        rows = weight.detach().double().cpu().flatten(1)
        offsets = bias.detach().double().cpu() if isinstance(bias, Tensor) else torch.zeros(len(rows)).double()
        head = torch.cat([rows, offsets[:, None]], 1)
        if (len(head), logits.shape[1]) == (1, 2):
            head = torch.cat([torch.zeros_like(head), head])
        if len(head) == logits.shape[1]:
            yield head


def _logs(logits: Tensor) -> Tensor:
    """Return logarithms of probabilities, without those of what single precision cannot tell from 0."""
    return logits.double().log_softmax(1).clamp_min(-10)


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))


def _width(layer: _Layer) -> int:
    """Return how many outputs a layer has at each position."""
    return int(layer.made.shape[1 if layer.convolution else -1]) if layer.made.ndim > 1 else 0


def _per_sample(layer: _Layer, logits: Tensor) -> Tensor | None:
    """Return what a layer was given for each sample, [b d], or None where it cannot be told."""
    b, given, made = len(logits), layer.given, layer.made
    if layer.convolution:
        if made.ndim == 2 or made.shape[0] != b:
            return None
        given, made = given.flatten(2).transpose(1, 2), made.flatten(2).transpose(1, 2)  # [b l d], [b l c]
        if made.shape[1] == 1:  # a kernel as large as the picture: a linear layer of all of it
            return layer.given.flatten(1)
        if given.shape[1] != made.shape[1]:
            return None
    elif given.shape[0] % b == 0 and given.ndim > 1:
        given, made = given.reshape(b, -1, given.shape[-1]), made.reshape(b, -1, made.shape[-1])
    else:
        return None
    if given.shape[1] == 1:
        return given[:, 0]
    chosen = (made == logits[:, None]).all(2)  # [b l]
    if chosen.any(1).all():
        return given[torch.arange(b, device=given.device), chosen.int().argmax(1)]
    return given.mean(1)
