"""What the gate compares besides the example: another size where the network takes one, more rows, and its choices."""

from __future__ import annotations

import copy as copying
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes import seeded
from torch import Tensor, nn

from prunefuse_al import fuse, prune
from prunefuse_al.errors import NoEffectWarning
from prunefuse_al.pruning import gate
from prunefuse_al.pruning.gate import Verdict
from prunefuse_al.pruning.generic import make_generic, of_sizes
from prunefuse_al.pruning.subject import subject
from tests.pruning.test_prune import Wrapped


def pictures(size: int, rows: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(0))


def texts(length: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, length, 6, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Takes another way for small pictures."""

    def __init__(self, small: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.mid, self.leave = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 3)
        self.small = small
        if small is by_parameter:
            self.extra = nn.Parameter(torch.randn(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        if x.shape[2] < 6:
            hidden = self.small(self, hidden)
        return self.leave(self.mid(hidden.relu()).mean((2, 3)))


def by_number(m: Any, hidden: Tensor) -> Tensor:
    return hidden * hidden.shape[1]


def by_parameter(m: Any, hidden: Tensor) -> Tensor:
    return hidden + m.extra


def by_view(m: Any, hidden: Tensor) -> Tensor:
    return hidden.flatten(1).view(-1, 16, *hidden.shape[2:])


def shapes_of(network: nn.Module, *inputs: Any) -> str | None:
    found = subject(network, (inputs, {})).elsewhere
    return None if found is None or not found.resized else str(found)


def fully() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def fixed(size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8 * size**2, 3))


class Regrouped(nn.Module):
    """`x.view(-1, 512)`, which makes four rows of one at twice the size."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.numbers)


def masked() -> nn.Module:
    def forward(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        return m.b((m.a(x) * mask[:, :, None]).mean(1))

    return Wrapped(forward, a=nn.Linear(6, 16), b=nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("make", "inputs", "expected"),
    [
        (fully, (pictures(8),), "[5, 3, 4, 4]"),
        (lambda: fixed(8), (pictures(8),), None),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Regrouped(8 * 64), nn.Linear(8 * 64, 3)), (pictures(8),), None),
        (lambda: nn.Sequential(nn.MaxPool2d(8), fully()), (pictures(32),), "[2, 3, 64, 64]"),
        (masked, (texts(8), torch.ones(2, 8)), "[5, 4, 6], [5, 4]"),
        (masked, (texts(1), torch.ones(2, 1)), None),
        (lambda: nn.Sequential(nn.Conv1d(6, 8, 1), nn.AdaptiveAvgPool1d(1)), (texts(9).mT,), "[5, 6, 4]"),
        (lambda: nn.EmbeddingBag(9, 4), (torch.arange(12).view(2, 6) % 9,), "[5, 3]"),
        (lambda: nn.Linear(6, 3), (texts(1)[:, 0],), None),
    ],
)  # fmt: skip
def test_another_size_is_found_where_the_network_takes_one(make: Any, inputs: Any, expected: str | None) -> None:
    assert shapes_of(seeded(make), *inputs) == expected


def test_more_rows_where_it_takes_no_other_size() -> None:
    found = subject(seeded(lambda: fixed(8)), ((pictures(8),), {})).elsewhere
    assert str(found) == "[3, 3, 8, 8]"
    assert found is not None
    assert found.answers == [(3, 3)]


def test_what_is_right_at_one_size_only_is_not_called_exact() -> None:
    proxy = prune(seeded(lambda: Small(by_number)), pictures(10))
    report = proxy.report()
    assert report.parameter_share < 0.4
    assert not report.preserve_exact
    assert report.remarks == ("not at inputs [5, 3, 5, 5]",)
    assert report.compared_at == ("[2, 3, 10, 10]", "[5, 3, 5, 5]")
    assert "not exact" in str(report)
    assert "not at inputs [5, 3, 5, 5]" in str(report)


def test_what_only_another_size_reaches_is_thinned_too() -> None:
    network = seeded(lambda: Small(by_parameter))
    proxy = prune(network, pictures(10))
    assert proxy.module.extra.shape == (8, 1, 1)
    assert proxy.report().preserve_exact
    target = fuse(network, proxy, cross="preserve").eval()
    torch.testing.assert_close(target(pictures(5)), proxy.module.eval()(pictures(5)))


def test_a_proxy_that_fails_at_a_size_the_network_takes_is_refused_and_that_layer_stays() -> None:
    with pytest.warns(NoEffectWarning, match=r"at inputs \[5, 3, 5, 5\] the proxy does not run.* at Small.by_view"):
        proxy = prune(seeded(lambda: Small(by_view)), pictures(10))
    assert proxy.module.enter.out_channels == 16
    assert proxy.module.mid.out_channels == 8
    assert proxy.module.eval()(pictures(5)).shape == (2, 3)
    assert proxy.report().preserve_exact


def test_where_sizes_agree_both_are_said() -> None:
    proxy = prune(seeded(fully), pictures(8))
    assert proxy.report().compared_at == ("[2, 3, 8, 8]", "[5, 3, 4, 4]")
    assert "compared at inputs [2, 3, 8, 8] and [5, 3, 4, 4]" in str(proxy.report())
    assert proxy.report().preserve_exact
    assert not proxy.report().remarks


class Counted(nn.Module):
    """Notes what it was asked."""

    def __init__(self, asked: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 3)
        self.asked = asked

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        copy = Counted(self.asked)
        copy.train(self.training)
        copy.enter, copy.norm, copy.leave = (copying.deepcopy(m, memo) for m in (self.enter, self.norm, self.leave))
        return copy

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(("dense" if len(self.enter.weight) == 16 else "thin", len(x), x.shape[-1]))
        return self.leave(self.norm(self.enter(x)).relu().mean((2, 3)))


def test_each_pass_tells_as_much_as_it_can() -> None:
    """The dense network is asked once as it is, on one row for its other size, and once as a target at each size."""
    asked: list[tuple[str, int, int]] = []
    report = prune(seeded(lambda: Counted(asked)), pictures(8)).report()
    assert report.preserve_exact
    assert report.compared_at == ("[2, 3, 8, 8]", "[5, 3, 4, 4]")
    assert [of for of in asked if of[0] == "dense"] == [
        ("dense", 2, 8),
        ("dense", 1, 4),
        ("dense", 2, 8),
        ("dense", 5, 4),
    ]
    # It trains, is calibrated on the smaller inputs, and is compared.
    assert [of for of in asked if of[0] == "thin"] == [("thin", 2, 8), ("thin", 5, 4), ("thin", 2, 8), ("thin", 5, 4)]


def at_most(rows: int) -> Callable[[Any, Tensor], Tensor]:
    def small(m: Any, hidden: Tensor) -> Tensor:
        if len(hidden) > rows:
            raise ValueError("too many")
        return hidden

    return small


def test_inputs_that_the_network_does_not_take_after_all_are_not_asked_of_its_proxy() -> None:
    report = prune(seeded(lambda: Small(at_most(3))), pictures(10)).report()
    assert report.preserve_exact
    assert report.compared_at == ("[2, 3, 10, 10]", "[2, 3, 20, 20]")
    assert report.parameter_share < 0.4


def test_answers_that_stand_in_rows_of_another_number_are_compared_too() -> None:
    network = seeded(lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3), nn.Flatten(0, 1)))
    report = prune(network, texts(4)).report()
    assert report.preserve_exact
    assert report.compared_at == ("[2, 4, 6]", "[5, 2, 6]")
    assert report.parameter_share < 0.6


def test_rows_differ_in_size_where_nothing_keeps_them_apart() -> None:
    (rows, numbers), _ = of_sizes(((torch.ones(4, 9, 9), torch.arange(4)), {}))
    torch.testing.assert_close(rows[:, 0, 0], torch.tensor([1.0, 0.7, 0.4, 0.1]))
    assert numbers.tolist() == [0, 1, 2, 3]


class Codes(nn.Module):
    """Takes for each row the nearest of 64 codes, by the distance to them that is given."""

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.read, self.leave = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.codes, self.distance = nn.Parameter(torch.randn(64, 32)), distance

    def forward(self, x: Tensor) -> Tensor:
        nearest = self.distance(self.enter(x), self.codes).argmin(1)
        return self.leave(self.read(self.codes[nearest]).relu())


def squared(x: Tensor, codes: Tensor) -> Tensor:
    return (x[:, None] - codes).square().sum(-1)


def expanded(x: Tensor, codes: Tensor) -> Tensor:
    return x.square().sum(1, keepdim=True) - 2 * x @ codes.T + codes.square().sum(1)


def cosine(x: Tensor, codes: Tensor) -> Tensor:
    return -(x / x.norm(dim=1, keepdim=True)) @ (codes / codes.norm(dim=1, keepdim=True)).T


def product(x: Tensor, codes: Tensor) -> Tensor:
    return -x @ codes.T


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.NoEffectWarning")
@pytest.mark.parametrize("distance", [squared, expanded, cosine, product])
def test_the_nearest_code_is_not_called_exact_by_luck(distance: Any) -> None:
    network = seeded(lambda: Codes(distance))
    proxy = prune(network, texts(1)[:, 0])
    with torch.no_grad():
        make_generic(proxy.module)
    rows = texts(200)[0]
    target = fuse(network, proxy, cross="preserve").eval()
    thin = proxy.module.eval()
    same = torch.allclose(target(rows), thin(rows), rtol=1e-3, atol=1e-4)
    report = proxy.report()
    assert same or not report.preserve_exact
    chosen = distance(target.enter(rows), target.codes), distance(thin.enter(rows), thin.codes)
    alike = torch.allclose(*chosen, rtol=1e-3, atol=1e-3)
    assert report.preserve_exact == alike
    if not alike:
        (remark,) = report.remarks
        assert re.match(
            r"argmin at Codes.forward \(test_sizes.py, line \d+: `nearest = .*chooses from values that", remark
        )


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.NoEffectWarning")
@pytest.mark.parametrize(
    "pick", [lambda x: x.argmax(1), lambda x: x.sort(1).indices[:, 0], lambda x: x.topk(2, 1).indices[:, 1]]
)
def test_a_choice_of_experts_by_what_agrees_is_exact(pick: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = m.a(x).relu()
        outputs = torch.stack([m.b(hidden), m.c(hidden), m.d(hidden)], 1)
        return outputs[torch.arange(len(x)), pick(m.route(hidden))]

    layers = {name: nn.Linear(32, 3) for name in ("b", "c", "d", "route")}
    report = prune(seeded(lambda: Wrapped(forward, a=nn.Linear(6, 32), **layers)), texts(1)[:, 0]).report()
    assert report.preserve_exact
    assert report.parameter_share < 0.6


def test_double_precision_decides_where_single_only_falls_short(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def verdict(self: Any, candidate: gate.Candidate, *_: Any) -> Verdict:
        asked.append(self.dtype)
        return Verdict("", candidate.channel_map, 2e-4, exact=self.dtype == torch.float64)

    monkeypatch.setattr(gate._Comparison, "verdict", verdict)
    assert prune(seeded(fully), pictures(8)).report().preserve_exact
    assert asked == [torch.float32, torch.float64]


def test_the_distance_is_relative_to_the_largest_answer() -> None:
    """However little rows differ beside it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.b(m.norm(m.a(x) + m.c(x).relu())) + 1000

    layers = {"a": nn.Linear(6, 30), "c": nn.Linear(6, 30), "norm": nn.LayerNorm(30, elementwise_affine=False)}
    network = seeded(lambda: Wrapped(forward, b=nn.Linear(30, 3), **layers))
    report = prune(network, texts(1)[:, 0], 0.3).report()
    assert not report.preserve_exact
    assert 0 < report.preserve_distance < 0.05


def test_buffers_that_have_a_meaning_of_their_own_are_not_shaken() -> None:
    class Prior(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)
            self.register_buffer("prior", torch.tensor([0.2, 0.0, 0.8]))
            self.register_buffer("variances", torch.linspace(0.01, 1, 3))

        def forward(self, x: Tensor) -> Tensor:
            return (self.b(self.a(x).relu()) + (self.prior + 1e-6).log()) / self.variances.sqrt()

    with warnings.catch_warnings():
        warnings.simplefilter("error", NoEffectWarning)
        report = prune(seeded(Prior), texts(1)[:, 0]).report()
    assert report.preserve_exact
    assert report.parameter_share < 0.6
