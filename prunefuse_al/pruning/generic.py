"""Values without special structure, in a precision: what target and proxy are given before they are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..network import Arguments, copied, named_tensors, of_kind

NOISE = 65_537  # a prime, so that a block of noise that is repeated never falls in step with rows


def converted_network(out: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return `out` itself, in eval mode and another precision."""
    if dtype == torch.float64 and any(p.device.type == "mps" for p in out.parameters()):  # has no double precision
        out = out.cpu()
    return out.to(dtype).eval()


def converted(inputs: Arguments, dtype: torch.dtype) -> Arguments:
    """Return the inputs in another precision; what is no floating tensor stays."""
    convert = lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    args, kwargs = tree_map(convert, inputs)
    return args, kwargs


def of_sizes(arguments: Arguments) -> Arguments:
    """Return the arguments with rows that are ever smaller, down to a tenth.

    What noise alone tells apart is nearly the same after many layers, and single precision cannot settle it then.
    """

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.ndim < 2:
            return leaf
        sizes = torch.linspace(1, 0.1, len(leaf), dtype=leaf.dtype, device=leaf.device)
        return leaf * sizes.view(-1, *[1] * (leaf.ndim - 1))

    args, kwargs = tree_map(change, arguments)
    return args, kwargs


def make_generic(module: nn.Module, frozen: Set[str] = frozenset()) -> None:
    """Give a network values, in place, that have no special structure (no zeros, ones or ties); `frozen` stay."""
    with torch.no_grad():
        for name, tensor, noise in _with_noise(module):
            if name not in frozen:
                tensor.data = _generic(name, tensor, noise)


def generic_copy(model: nn.Module, dtype: torch.dtype, frozen: Set[str]) -> nn.Module:
    """Return a copy of a network with such values, in eval mode and a precision, without another of those it had."""
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for name, tensor, noise in _with_noise(model):
            if name not in frozen and not (dtype == torch.float64 and tensor.device.type == "mps"):
                memo[id(tensor)] = of_kind(tensor, _generic(name, tensor, noise, dtype))
    copy = converted_network(copied(model, memo), dtype)
    if not memo:
        make_generic(copy, frozen)
    return copy


def _with_noise(module: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the floating tensors of a network, each once, and a block of noise that starts elsewhere for each."""
    block = 2 * torch.rand(NOISE, generator=torch.Generator().manual_seed(1)) - 1
    twice = torch.cat([block, block])
    floating = {id(t): (name, t) for name, t in named_tensors(module).items() if t.is_floating_point()}
    for number, (name, tensor) in enumerate(floating.values()):
        start = 977 * number % NOISE
        yield name, tensor, twice[start : start + NOISE]


def _generic(name: str, tensor: Tensor, noise: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return new values near those of a tensor, in a precision of its own where one is given."""
    values = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=tensor.device)
    noise = noise[: tensor.numel()].to(values)
    if sum(size > 1 for size in tensor.shape) > 1 and tensor.numel():  # one dimension: a scale, maybe of 1e-6
        scale = _scale(tensor)
        _add_noise(tensor.reshape(-1), noise * (0.5 * (scale or 1 / math.sqrt(tensor[0].numel()))), values.view(-1))
        return values
    if tensor.numel() > NOISE:
        noise = noise.repeat(-(-tensor.numel() // NOISE))[: tensor.numel()]
    noise = noise.view(tensor.shape)
    return 0.5 + noise.abs() if "var" in name else tensor.to(values) * (1 + 0.3 * noise) + 0.2 * noise


def _scale(tensor: Tensor) -> float:
    """Return the root of the mean square; of a mask, of what is finite in it: what is not stays as it is."""
    norm = float(torch.linalg.vector_norm(tensor))
    if norm == math.inf:
        norm = float(torch.linalg.vector_norm(tensor[tensor.isfinite()]))
    return norm / math.sqrt(tensor.numel())


@torch.no_grad()
def set_values(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give tensors of a network values, by name, in place."""
    tensors = named_tensors(module)
    for name, value in values.items():
        tensors[name].copy_(value)


def _add_noise(values: Tensor, noise: Tensor, out: Tensor) -> None:
    """Write the sum of a vector and a block of noise, again and again, to another."""
    whole = len(values) // len(noise) * len(noise)
    blocks = (-1, len(noise))
    torch.add(values[:whole].view(blocks), noise, out=out[:whole].view(blocks))
    torch.add(values[whole:], noise[: len(values) - whole], out=out[whole:])
