"""Networks of every kind that people freeze parts of, for data of `fakes.blobs`: float32 [n 6], three classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fakes import seeded
from torch import Tensor, nn

from prunefuse_al.network.states import named_tensors


def freeze(module: nn.Module) -> None:
    module.requires_grad_(False)


class BatchNormed(nn.Module):
    """Two hidden layers with batch norm, and a head; the statistics are those of a trained network."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        norms = [nn.BatchNorm1d(n, affine=affine) for n in (16, 12)]
        self.body = nn.Sequential(
            *(nn.Linear(6, 16, bias=False), norms[0], nn.ReLU()), *(nn.Linear(16, 12), norms[1], nn.ReLU())
        )
        self.head = nn.Linear(12, 3)
        for norm in norms:
            norm.running_mean.normal_()  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            norm.num_batches_tracked += 7

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class PreNorm(nn.Module):
    """A residual stream read through LayerNorms, with scales on its branches."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(6, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down, self.head = nn.Linear(width, 24), nn.Linear(24, width), nn.Linear(width, 3)
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        for norm in (self.norm1, self.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.scale * self.down(torch.relu(self.up(self.norm1(x))))
        return self.head(self.norm2(x))


class Grouped(nn.Module):
    """Convolutions with GroupNorm, on features laid out as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(1, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.conv, self.after, self.head = nn.Conv1d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Linear(8, 3)
        for norm in (self.norm, self.after):
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x[:, None])))
        return self.head(torch.relu(self.after(self.conv(x))).mean(2))


class Tokens(nn.Module):
    """An embedding of signs, summed with an embedding of places."""

    def __init__(self) -> None:
        super().__init__()
        self.signs, self.places = nn.Embedding(2, 16), nn.Parameter(torch.randn(6, 16))
        self.norm, self.up, self.head = nn.LayerNorm(16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.signs((x > 0).long()) + self.places)
        return self.head(torch.relu(self.up(tokens)).mean(1))


class LoRALinear(nn.Module):
    """A frozen layer, and a low-rank one beside it that trains: a [r, in], b [out, r]."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base, self.rank = base, rank
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        freeze(base)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_a.T @ self.lora_b.T


def lora() -> nn.Module:
    return nn.Sequential(
        *(LoRALinear(nn.Linear(6, 16)), nn.ReLU(), LoRALinear(nn.Linear(16, 12)), nn.ReLU()),
        LoRALinear(nn.Linear(12, 3)),
    )


class Tied(nn.Module):
    """One weight under two names, of which the second is frozen by name."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(torch.relu(self.into(x)))))))


def normed_weights() -> nn.Module:
    hidden = [nn.utils.parametrizations.weight_norm(nn.Linear(m, n)) for m, n in ((6, 16), (16, 12))]
    return nn.Sequential(hidden[0], nn.ReLU(), hidden[1], nn.ReLU(), nn.Linear(12, 3))


def _with(make: Callable[[], nn.Module], *names: str, eval_mode: tuple[str, ...] = ()) -> Callable[[], nn.Module]:
    """Return how to make a network with modules or tensors of these names frozen, and modules in eval mode."""

    def made() -> nn.Module:
        network: Any = seeded(make)
        for name in names:
            owner, _, last = name.rpartition(".")
            found = getattr(network.get_submodule(owner), last)
            found.requires_grad_(False)
        for name in eval_mode:
            network.get_submodule(name).eval()
        return network

    return made


FROZEN: dict[str, Callable[[], nn.Module]] = {
    "body": _with(BatchNormed, "body"),
    "head": _with(BatchNormed, "head"),
    "weights but not norms": _with(BatchNormed, "body.0", "body.3"),
    "first layer": _with(BatchNormed, "body.0", "body.1"),
    "bias alone": _with(BatchNormed, "body.3.bias"),
    "batch norms": _with(BatchNormed, "body.1", "body.4"),
    "batch norms in eval mode": _with(BatchNormed, eval_mode=("body.1", "body.4")),
    "plain batch norms in eval mode": _with(lambda: BatchNormed(affine=False), eval_mode=("body.1",)),
    "everything": _with(BatchNormed, "body", "head"),
    "layer norms": _with(PreNorm, "norm1", "norm2"),
    "one layer norm": _with(PreNorm, "norm2"),
    "all but layer norms": _with(PreNorm, "embed", "up", "down", "scale", "head"),
    "layer scale": _with(PreNorm, "scale"),
    "what layer scale scales": _with(PreNorm, "down"),
    "writer of a stream": _with(PreNorm, "embed"),
    "group norms": _with(Grouped, "norm", "after"),
    "convolution": _with(Grouped, "conv"),
    "stem": _with(Grouped, "stem"),
    "embedding": _with(Tokens, "signs"),
    "places": _with(Tokens, "places"),
    "all but lora": _with(lora),
    "tied": _with(Tied, "b.weight"),
    "direction of a normed weight": _with(normed_weights, "2.parametrizations.weight.original1"),
    "length of a normed weight": _with(normed_weights, "2.parametrizations.weight.original0"),
}


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(module).items()}


def still(module: nn.Module) -> set[str]:
    """Return the names of what must stay, found without the library's own words for it."""
    names = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    for path, norm in module.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            own = list(norm.parameters())
            if (own and not any(p.requires_grad for p in own)) or (module.training and not norm.training):
                names |= {f"{path}.{name}" for name, _ in norm.named_buffers()}
    return names


def assert_kept(before: dict[str, Tensor], after: nn.Module, names: set[str]) -> None:
    """Assert that tensors have, bit for bit, the values they had."""
    now = values(after)
    changed = [name for name in sorted(names) if not torch.equal(now[name], before[name])]
    assert not changed
