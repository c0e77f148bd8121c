"""A family of small convolutional networks written in one grammar, as SubSelNet needs one: many that are alike.

    16-2r3-1p5s-3r3m

is a 3 x 3 convolution to 16 channels, then three stages of 16, 32 and 64: 2 residual blocks of kernel 3; 1 plain
block of kernel 5 after a stride of 2; 3 residual blocks of kernel 3 after a max-pool of 2. A block is two
convolutions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

WIDTHS, BLOCKS, KERNELS, STAGES = (4, 8, 16), (1, 2, 3), (3, 5), 3
HALVED = ("s", "m")  # by a stride, by a max-pool; the first stage is not
PREFIX = "family:"
GRAMMAR = (
    f"WIDTH-STAGE-STAGE-STAGE as in 16-2r3-1p5s-3r3m: a width of {', '.join(map(str, WIDTHS))}; stages of 1 to 3 "
    "blocks, r(esidual) or p(lain), kernel 3 or 5, all but the first with s(tride) or m(ax-pool)"
)


@dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        blocks: how many.
        residual: whether their input is added to what they give.
        kernel: of their convolutions.
        halved: how pictures are halved before: "s" by a stride, "m" by a max-pool; "": they are not.
    """

    blocks: int
    residual: bool
    kernel: int
    halved: str

    def __str__(self) -> str:
        return f"{self.blocks}{'r' if self.residual else 'p'}{self.kernel}{self.halved}"


@dataclass(frozen=True)
class Architecture:
    """A member of the family.

    Attributes:
        width: channels of the first stage; each next one has twice as many.
        stages: three of them.
    """

    width: int
    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        return "-".join(map(str, (self.width, *self.stages)))

    def build(self, channels: int, classes: int) -> Member:
        """Return its network for pictures of so many channels, drawn from torch's global generator."""
        return Member(self, channels, classes)


def parse_architecture(text: str) -> Architecture:
    """Return the architecture that a text names; "family:" may stand before it.

    Raises:
        ValueError: the grammar has no such text.
    """
    width, *stages = text.removeprefix(PREFIX).split("-")
    form = f"[{''.join(map(str, BLOCKS))}][rp][{''.join(map(str, KERNELS))}]"
    forms = [form, *[f"{form}[{''.join(HALVED)}]"] * (STAGES - 1)]
    fits = len(stages) == STAGES and all(re.fullmatch(f, s) for f, s in zip(forms, stages, strict=True))
    if width not in map(str, WIDTHS) or not fits:
        raise ValueError(f"network {text!r} is not of the family; it is written {GRAMMAR}")
    return Architecture(int(width), tuple(Stage(int(s[0]), s[1] == "r", int(s[2]), s[3:]) for s in stages))


def random_architecture(rng: np.random.Generator) -> Architecture:
    """Return a member, everything in it drawn evenly."""

    def stage(place: int) -> Stage:
        halved = str(rng.choice(HALVED)) if place else ""
        return Stage(int(rng.choice(BLOCKS)), bool(rng.integers(2)), int(rng.choice(KERNELS)), halved)

    return Architecture(int(rng.choice(WIDTHS)), tuple(stage(place) for place in range(STAGES)))


def drawn_family(count: int, rng: np.random.Generator, but: Architecture) -> list[Architecture]:
    """Return different members, none of them `but`: the network that is asked about is never among those trained."""
    found: dict[Architecture, None] = {}
    while len(found) < count:
        drawn = random_architecture(rng)
        if drawn != but:
            found[drawn] = None
    return list(found)


class Block(nn.Module):
    """Two convolutions with BatchNorm; `residual` adds the input, through a 1 x 1 convolution where shapes differ."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, 1, kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if residual and (stride > 1 or inputs != width):
            self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n i h w] to [n width h/stride w/stride]."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x) if self.residual else out)


class Member(nn.Module):
    """The network of an architecture."""

    def __init__(self, architecture: Architecture, channels: int, classes: int) -> None:
        super().__init__()
        inputs = architecture.width
        self.stem = nn.Sequential(nn.Conv2d(channels, inputs, 3, 1, 1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU())
        layers: list[nn.Module] = []
        for place, stage in enumerate(architecture.stages):
            width = architecture.width << place
            if stage.halved == "m":
                layers.append(nn.MaxPool2d(2))
            for block in range(stage.blocks):
                stride = 2 if stage.halved == "s" and not block else 1
                layers.append(Block(inputs, width, stage.kernel, stride, stage.residual))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [n channels h w] to logits [n classes]."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
