"""Networks half of whose channels add nothing: they are copies of the others, multiples of them, or constants.

In each the first half of every thinned dimension can stand for all of it, so that a repair of a proxy that keeps these
has to give the dense network's function back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


def copies(*tensors: Tensor, dim: int = 0, factor: float = 1.0) -> None:
    """Have the second half of each tensor be `factor` times the first."""
    with torch.no_grad():
        for tensor in tensors:
            half = tensor.shape[dim] // 2
            tensor.narrow(dim, half, half).copy_(tensor.narrow(dim, 0, half) * factor)


def constant(layer: nn.Linear | nn.Conv2d, value: float = 1.5) -> None:
    """Have the second half of a layer's outputs be one number whatever it is given."""
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight[len(layer.weight) // 2 :] = 0
        layer.bias[len(layer.bias) // 2 :] = value


def perceptron() -> nn.Module:
    net = nn.Sequential(
        nn.Linear(6, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(16, 3)
    )
    copies(net[0].weight, net[0].bias, factor=0.7)  # relu(0.7 h) is 0.7 relu(h)
    constant(net[2])
    return net


def convolutions() -> nn.Module:
    """With batch norm after layers without bias, a kernel of 3 with padding, and a depthwise layer between."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 2 * WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(2 * WIDTH), nn.ReLU()),
        *(nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1, groups=2 * WIDTH), nn.ReLU()),
        *(nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * WIDTH), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * WIDTH, 3)),
    )
    for norm in (net[1], net[6]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
        norm.running_var.uniform_(0.5, 2)
        norm.running_mean.normal_(0, 0.2)
        copies(norm.weight, norm.bias, norm.running_mean, norm.running_var)
    copies(net[0].weight, net[3].weight, net[3].bias, net[5].weight)
    return net


def constants_before_convolutions() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 2 * WIDTH, 3), nn.ReLU(), nn.Conv2d(2 * WIDTH, 4, 2), nn.Flatten(), nn.Linear(36, 3)
    )
    constant(net[0])
    return net


def upwards() -> nn.Module:
    """Transposed convolutions keep their in-channels in the first dimension; in 1-D, on a sequence of the features."""
    net = nn.Sequential(
        *(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2 * WIDTH, 3), nn.GELU(), nn.ConvTranspose1d(2 * WIDTH, 5, 3)),
        *(nn.Flatten(), nn.Linear(30, 3)),
    )
    copies(net[1].weight, net[1].bias)
    return net


class Conv1D(nn.Module):
    """GPT-2's linear layer: weight [in out], used as it lies."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5),
            nn.Parameter(torch.randn(outputs)),
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.reshape(*x.shape[:-1], -1)


def as_it_lies() -> nn.Module:
    net = nn.Sequential(Conv1D(6, 2 * WIDTH), nn.GELU(), Conv1D(2 * WIDTH, 3))
    copies(net[0].weight, dim=1)
    copies(net[0].bias)
    return net


class Gated(nn.Module):
    """A gated MLP without biases on tokens, as in Llama, with a residual stream that stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(6, 2 * WIDTH, bias=False) for _ in range(2))
        self.down, self.head = nn.Linear(2 * WIDTH, 6, bias=False), nn.Linear(6, 3)
        copies(self.gate.weight)
        copies(self.up.weight, factor=-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(F.silu(self.gate(x)) * self.up(x)))


class Transformer(nn.Module):
    """A stream read through LayerNorm by attention (whose tokens lie one beside the other of all rows) and an MLP."""

    def __init__(self, width: int = 2 * WIDTH) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(2, width), nn.Parameter(torch.randn(3, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.q, self.k, self.v = (nn.Linear(width, WIDTH) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(WIDTH, width), nn.Linear(width, 12), nn.Linear(12, width)
        self.head = nn.Linear(width, 3)
        for writer in (self.embed, self.out, self.down):
            copies(writer.weight, writer.bias)
        copies(self.places, dim=1)
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unflatten(1, (3, 2))) + self.places
        y = self.norms[0](x).transpose(0, 1)  # [t b d]
        q, k, v = (part(y).transpose(0, 1) for part in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer that reads redundant features at every step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(2, 2 * WIDTH), kind(2 * WIDTH, 4), nn.Linear(4, 3)
        copies(self.embed.weight, self.embed.bias)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.tanh(self.embed(x.unflatten(1, (3, 2)))).transpose(0, 1)  # [t b d]
        return self.head(self.cell(steps)[0][-1])


class Packed(nn.Module):
    """Two parts of one weight, and of one bias, at work on two inputs, as in cross-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 2 * WIDTH), nn.Linear(3, 2 * WIDTH)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 2 * WIDTH) / 4), nn.Parameter(torch.randn(8))
        self.head = nn.Linear(4, 3)
        constant(self.one)
        copies(self.two.weight, self.two.bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (
            F.linear(torch.tanh(layer(part)), weight, bias)
            for layer, part, weight, bias in zip(
                (self.one, self.two), x.split(3, 1), self.weight.chunk(2), self.bias.chunk(2), strict=True
            )
        )
        return self.head(q * k)


@dataclass(frozen=True)
class Redundant:
    """A network, a batch for it, and which parts are not to be thinned."""

    build: Callable[[], nn.Module]
    data: Callable[[int], Tensor]
    keep: tuple[str, ...] = ()


def rows(n: int) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(n))


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(n))


REDUNDANT: dict[str, Redundant] = {
    "perceptron": Redundant(perceptron, rows),
    "convolutions": Redundant(convolutions, pictures),
    "constants before convolutions": Redundant(constants_before_convolutions, pictures, ("2",)),
    "transposed convolution": Redundant(upwards, rows, ("3",)),
    "weights that lie the other way": Redundant(as_it_lies, rows),
    "gated": Redundant(Gated, rows, ("down",)),
    "transformer": Redundant(Transformer, rows, ("q", "k", "v", "up")),
    "packed": Redundant(Packed, rows, ("weight",)),
    "gru": Redundant(lambda: Recurrent(nn.GRU), rows, ("cell",)),
    "lstm": Redundant(lambda: Recurrent(nn.LSTM), rows, ("cell",)),
}


def first_ones(name: str, tensor: Tensor, dim: int) -> Tensor:
    """Importance by which the first half of every dimension stays."""
    return -torch.arange(tensor.shape[dim], dtype=torch.float64)


def difference(found: Any, expected: Any, x: Tensor) -> float:
    """Return how far apart two networks answer, as a share of the largest answer."""
    with torch.no_grad():
        one, other = found(x), expected(x)
    return float((one - other).abs().max() / other.abs().max())
