"""Batch norm statistics estimated anew are those of the data; folded networks say what the whole ones say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import mobilenet_v2, resnet18

from prunefuse_al.errors import NonFiniteError
from prunefuse_al.network.batchnorm import fold_batchnorm, recalibrate_batchnorm
from prunefuse_al.network.signals import collect

X = np.random.default_rng(0).normal(3, 2, (60, 4)).astype(np.float32)


def made(make: Any) -> Any:
    """Return a network in eval mode, with weights and statistics that are alike every time and not special."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.normal_(module.weight, 1.0, 0.3)
                    nn.init.normal_(module.bias)
    return model.eval()


def test_statistics_are_those_of_the_data() -> None:
    model = made(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)))
    weight, momentum = model[2].weight.detach().clone(), model[0].momentum
    assert recalibrate_batchnorm(model, X, batch_size=60, device="cpu") == 60
    torch.testing.assert_close(model[0].running_mean, torch.as_tensor(X.mean(0)))
    torch.testing.assert_close(model[0].running_var, torch.as_tensor(X.var(0, ddof=1)))
    assert model[0].momentum == momentum
    assert torch.equal(model[2].weight, weight)
    assert not any(m.training for m in model.modules())


def test_full_batches_count_the_same_and_the_rest_is_left_out() -> None:
    model = made(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))).train()
    assert recalibrate_batchnorm(model, X, batch_size=25, device="cpu") == 50
    assert recalibrate_batchnorm(model, X, max_rows=30, device="cpu") == 30
    assert int(model[0].num_batches_tracked) == 1
    assert all(m.training for m in model.modules())


def test_without_running_statistics_there_is_nothing_to_do() -> None:
    model = made(lambda: nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)))
    assert recalibrate_batchnorm(model, X) == 0


@pytest.mark.parametrize("broken", ["input", "weight"])
def test_a_failure_puts_the_old_statistics_back(broken: str) -> None:
    model = made(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    before = [buffer.clone() for buffer in model.buffers()]
    data = X.copy()
    if broken == "input":
        data[41] = np.nan
    else:
        model[0].weight.data[2] = torch.inf
    with pytest.raises(
        NonFiniteError,
        match=r"row 41 \(1 of 60\)" if broken == "input" else "statistics of 1 of 1 batch norms became NaN",
    ):
        recalibrate_batchnorm(model, data, batch_size=20, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert model[1].momentum == 0.1


class PreActivation(nn.Module):
    """Batch norm before the convolution: nothing to fold into, but for the first pair."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm2, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x + self.conv(self.norm2(x).relu())
        return self.head(x.mean((2, 3)))


class ReadBeside(nn.Module):
    """What batch norm reads is read by something else as well: by code, by a hook, or by whoever calls the network."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.norm, self.how = nn.Linear(4, 4), nn.BatchNorm1d(4), how
        if how == "hook":
            self.a.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x: Tensor) -> Any:
        made = self.a(x)
        read = self.norm(made)
        if self.how == "code":
            return read + made.relu()
        return (read, made) if self.how == "answer" else read


class OneNormTwice(nn.Module):
    """Of two batch norms, one serves in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.first, self.second = (
            nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(self.b(self.first(self.a(x)))) + self.second(x)
        return made


class UnderTwoNames(nn.Module):
    """One pair of layers that two names lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.layers, self.also = nn.ModuleList([self.a, self.norm]), [self.norm]

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.also[0](self.layers[0](x))
        return made


class Lengths(nn.Module):
    """Its code goes by shapes, which do not depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x)).relu()
        for _ in range(len(x[0]) - 3):
            x = x + 1
        return x.mean(2) if x.shape[2] > 2 else x.sum(2)


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@pytest.mark.parametrize(
    ("make", "shape", "left"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), (6, 4), 0),
        (lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5, affine=False), nn.Flatten()), (6, 2, 8), 0),
        (PreActivation, (5, 3, 8, 8), 1),
        (UnderTwoNames, (5, 4), 0),
        (OneNormTwice, (5, 4), 1),
        (Lengths, (5, 2, 8), 0),
        (lambda: ReadBeside("nothing"), (5, 4), 0),
        (lambda: resnet18(num_classes=5), (2, 3, 33, 33), 0),
        (lambda: mobilenet_v2(num_classes=5), (2, 3, 32, 32), 0),
    ],
)
def test_a_folded_network_says_the_same(make: Any, shape: tuple[int, ...], left: int) -> None:
    model = made(make)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batchnorm(model, x)
    assert folded is not None
    assert norms(folded) == left
    other = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(folded(other), model(other), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_features_and_counters_work_on_a_folded_network() -> None:
    model, counted = made(PreActivation), []
    model.register_forward_pre_hook(lambda _module, args: counted.append(len(args[0])))
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    folded = fold_batchnorm(model, x)
    assert folded is not None
    assert counted == []
    first, second = (collect(m, x, {"features"}, device="cpu").features for m in (model, folded))
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    assert counted == [5, 5]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        return x if x.sum() > 0 else -x


class Twice(nn.Module):
    """One linear layer in two places; its batch norm follows only one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(self.a(x)))


class Sequence(nn.Module):
    """Batch norm over time steps, which a linear layer over features does not commute with."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x)).sum(2)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Branching, (3, 4)),
        (Twice, (3, 4)),
        (Sequence, (3, 4, 4)),
        (lambda: ReadBeside("code"), (3, 4)),
        (lambda: ReadBeside("hook"), (3, 4)),
        (lambda: ReadBeside("answer"), (3, 4)),
        (lambda: nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4)), (3, 4)),
        (lambda: nn.Sequential(nn.Linear(4, 2)), (3, 4)),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), (3, 4)),
    ],
)
def test_what_cannot_be_folded_exactly_is_not(make: Any, shape: tuple[int, ...]) -> None:
    assert fold_batchnorm(made(make), torch.ones(shape)) is None
