"""Random small networks for property-based tests: every topology the laws are claimed for, in any combination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

BLOCKS = (
    "plain", "residual", "concat", "grouped", "depthwise", "gated", "shuffle", "excite", "pixels",
)  # fmt: skip
SIZE = 6


@dataclass(frozen=True)
class Spec:
    """What a random network is made of."""

    seed: int
    blocks: tuple[str, ...]
    width: int
    norm: str
    flatten: str
    heads: int
    attention: bool
    bias: bool


class Block(nn.Module):
    def __init__(self, kind: str, inputs: int, width: int, norm: str, bias: bool) -> None:
        super().__init__()
        self.kind = kind
        out = {"residual": inputs, "concat": width, "depthwise": inputs, "gated": inputs}.get(kind, width)
        inner = {"gated": 2 * inputs, "shuffle": inputs, "pixels": 4 * width}.get(kind, out)
        groups = {"grouped": 2, "depthwise": inputs}.get(kind, 1)
        self.conv = nn.Conv2d(inputs, inner, 3, padding=1, groups=groups, bias=bias)
        self.norm = _norm(norm, inner)
        read = 2 * inner if kind == "shuffle" else inner
        mixes = kind in ("residual", "depthwise", "shuffle", "excite")
        self.after = nn.Conv2d(read, out, 1, bias=bias) if mixes else nn.Identity()
        self.outputs = inputs + out if kind == "concat" else out

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        if self.kind == "gated":
            value, gate = y.chunk(2, 1)
            return value * torch.sigmoid(gate)
        if self.kind == "shuffle":
            n, c, h, w = x.shape
            mixed = torch.stack([x, torch.relu(y)], 1).transpose(1, 2).reshape(n, 2 * c, h, w)
            return self.after(mixed)
        if self.kind == "excite":
            return y * torch.sigmoid(self.after(y.mean((2, 3), keepdim=True)))
        if self.kind == "pixels":
            return nn.functional.avg_pool2d(nn.functional.pixel_shuffle(y, 2), 2)
        y = self.after(torch.relu(y))
        if self.kind == "residual":
            return x + y
        return torch.cat([x, y], 1) if self.kind == "concat" else y


def _norm(kind: str, width: int) -> nn.Module:
    return {"batch": nn.BatchNorm2d(width), "group": nn.GroupNorm(2, width), "none": nn.Identity()}[kind]


class RandomNetwork(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        layers: list[Block] = []
        for kind in spec.blocks:
            layers.append(Block(kind, width, spec.width, spec.norm, spec.bias))
            width = layers[-1].outputs
        self.blocks = nn.Sequential(*layers)
        self.squeeze = nn.Conv2d(width, 8, 1)
        self.ln, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 4, batch_first=True)
        self.last = nn.LayerNorm(8)
        features = 8 if spec.flatten == "mean" else 8 * SIZE * SIZE
        self.heads = nn.ModuleList(nn.Linear(features, 3 + i) for i in range(spec.heads))

    def forward(self, x: Tensor) -> Any:
        x = self.squeeze(torch.relu(self.blocks(self.stem(x))))
        if self.spec.attention:
            tokens = x.flatten(2).transpose(1, 2)
            normed = self.ln(tokens)
            tokens = self.last(tokens + self.attention(normed, normed, normed)[0])
            x = tokens.transpose(1, 2).reshape(x.shape)
        if self.spec.flatten == "mean":
            x = x.mean((2, 3))
        else:
            x = (x if self.spec.flatten == "channels first" else x.permute(0, 2, 3, 1)).flatten(1)
        outputs = tuple(head(x) for head in self.heads)
        return outputs if len(outputs) > 1 else outputs[0]


specs = st.builds(
    Spec,
    seed=st.integers(0, 2**16),
    blocks=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3).map(tuple),
    width=st.sampled_from([4, 6, 8]),
    norm=st.sampled_from(["batch", "group", "none"]),
    flatten=st.sampled_from(["mean", "channels first", "channels last"]),
    heads=st.integers(1, 3),
    attention=st.booleans(),
    bias=st.booleans(),
)
ratios = st.sampled_from([0.0, 0.3, 0.5, 0.7])


def build(spec: Spec) -> RandomNetwork:
    """Build the network with generic values: nothing is zero, one or equal by construction."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        network = RandomNetwork(spec)
        randomise(network)
    return network


def randomise(network: nn.Module) -> None:
    """Shake every parameter and statistic (call inside a forked generator)."""
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point():
                noise = torch.randn_like(tensor)
                tensor.copy_(0.5 + noise.abs() if "running_var" in name else tensor + 0.2 * noise)


def example(rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(rows))
