"""How many channels stay: laws over random groups, and what is asked, taken and reported for networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from examples.networks import ViT, cifar_resnet
from prunefuse_al import errors, prune
from prunefuse_al.pruning import GlobalScope
from prunefuse_al.pruning.groups import Group
from prunefuse_al.pruning.trace.atoms import Axis
from prunefuse_al.pruning.widths import choose_widths, rounded
from tests.laws.random_networks import Spec, build, example, specs

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.zeros(2, 3, 32, 32)


@st.composite
def competitions(draw: st.DrawFn) -> tuple[list[Group], np.ndarray]:
    """Draw groups of channels or of heads, and scores with ties among them."""
    groups, start, component = [], 1, 1
    for _ in range(draw(st.integers(1, 5))):
        n, count = draw(st.integers(2, 300)), draw(st.sampled_from([1, 1, 4]))
        n = min(n, 12) if count > 1 else n
        axis = Axis(f"layer{len(groups)}.weight", 0, start, n * count)
        groups.append(Group(((axis, count),), np.arange(component, component + n)))
        start, component = start + n * count, component + n
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    scores = rng.gamma(draw(st.sampled_from([0.3, 1.0, 50.0])), size=component)
    return groups, np.round(scores, draw(st.integers(0, 6)))


ratios = st.floats(0.0, 0.99)
roundings = st.sampled_from([None, 1, 4, 8, 16])
scopes = st.sampled_from(["local", "global", GlobalScope(0.0), GlobalScope(0.3)])


def positions(groups: list[Group]) -> int:
    return sum(len(g.channels) * g.positions for g in groups)


@given(competitions(), ratios, roundings, scopes, st.booleans())
def test_a_width_lies_between_one_channel_and_all(found: Any, ratio: float, to: Any, scope: Any, equal: bool) -> None:
    groups, scores = found
    widths = choose_widths(groups, scores, ratio, scope=scope, round_to=to, equal_widths=equal)
    for group, asked, taken in zip(groups, widths.asked, widths.taken, strict=True):
        assert 1 <= taken <= len(group.channels)
        assert 0 < asked <= len(group.channels)


@given(competitions(), ratios, ratios, roundings, scopes)
def test_a_higher_ratio_never_keeps_more(found: Any, low: float, high: float, to: Any, scope: Any) -> None:
    groups, scores = found
    low, high = sorted((low, high))
    more, fewer = (choose_widths(groups, scores, ratio, scope=scope, round_to=to) for ratio in (low, high))
    if scope == "local":
        assert all(a >= b for a, b in zip(more.taken, fewer.taken, strict=True))
        assert all(a >= b for a, b in zip(more.asked, fewer.asked, strict=True))
    total = [sum(w * g.positions for w, g in zip(ws.asked, groups, strict=True)) for ws in (more, fewer)]
    assert total[0] >= total[1]


@given(competitions(), st.floats(0.01, 0.99), roundings, scopes.filter(lambda scope: scope != "local"), st.booleans())
def test_globally_the_total_is_what_was_asked(found: Any, ratio: float, to: Any, scope: Any, equal: bool) -> None:
    groups, scores = found
    taken = choose_widths(groups, scores, ratio, scope=scope, round_to=to, equal_widths=equal).taken
    stays = sum(w * g.positions for w, g in zip(taken, groups, strict=True))
    sizes = [len(g.channels) for g in groups]
    # The coarsest step that anything may take: one channel, one head, one multiple, or the rest above the last one.
    step = max((2 * to if to and to > 1 and g.positions == 1 else 8 if to is None else 1) * g.positions for g in groups)
    if equal:
        step *= len(groups)
    # One channel, or one multiple, of every group stays whatever is asked.
    least = sum(max(1, min(to or 1, n)) * g.positions for n, g in zip(sizes, groups, strict=True))
    assert abs(stays - max(least, positions(groups) * (1 - ratio))) <= max(step, 1) + (least if stays <= least else 0)


@given(competitions(), ratios)
def test_to_the_channel_where_nothing_is_rounded(found: Any, ratio: float) -> None:
    groups, scores = found
    if any(g.block for g in groups):
        return
    taken = choose_widths(groups, scores, ratio, scope="global", round_to=1).taken
    sizes = [len(g.channels) for g in groups]
    floors = [max(1, min(math.ceil(n / 10), int(n * (1 - ratio) + 1e-9))) for n in sizes]
    assert sum(taken) == max(sum(floors), int(sum(sizes) * (1 - ratio) + 1e-9))


@given(competitions(), st.floats(0.01, 0.99), st.sampled_from([0.0, 0.1, 0.3]))
def test_the_floor_of_every_layer_holds(found: Any, ratio: float, floor: float) -> None:
    groups, scores = found
    taken = choose_widths(groups, scores, ratio, scope=GlobalScope(floor), round_to=1).taken
    for group, width in zip(groups, taken, strict=True):
        n = len(group.channels)
        assert width >= min(floor * n, int(n * (1 - ratio)))


@given(competitions(), st.floats(0.01, 0.9))
def test_equal_scores_leave_every_group_in_proportion(found: Any, ratio: float) -> None:
    groups, scores = found
    taken = choose_widths(groups, np.full(len(scores), 0.3), ratio, scope="global", round_to=1).taken
    for group, width in zip(groups, taken, strict=True):
        assert (
            abs(width - len(group.channels) * (1 - ratio)) <= 1.5 + max(g.positions for g in groups) / group.positions
        )


def test_global_scope_against_a_list_sorted_by_hand() -> None:
    groups = [Group(((Axis("a", 0, 1, 4), 1),), np.arange(1, 5)), Group(((Axis("b", 0, 5, 4), 1),), np.arange(5, 9))]
    scores = np.array([0, 9, 8, 7, 6, 5, 0.4, 0.3, 0.2])
    assert choose_widths(groups, scores, 0.5, scope="global").taken == [3, 1]  # 9 8 7 and 5, which the floor protects
    assert choose_widths(groups, scores, 0.375, scope="global").taken == [4, 1]
    assert choose_widths(groups, scores, 0.75, scope="global").taken == [1, 1]
    assert choose_widths(groups, scores, 0.75, scope=GlobalScope(0.0)).taken == [1, 1]
    assert choose_widths(groups, scores, 0.5, scope=GlobalScope(0.5)).taken == [2, 2]


def test_a_head_counts_as_the_channels_it_holds() -> None:
    heads = Group(((Axis("qkv", 0, 1, 48), 12), (Axis("out", 1, 49, 16), 4)), np.arange(1, 5))
    hidden = Group(((Axis("fc", 0, 65, 16), 1),), np.arange(5, 21))
    assert (heads.positions, heads.block) == (4, True)
    scores = np.concatenate([[0], [4.0, 3, 2, 1], np.full(16, 1.5)])
    widths = choose_widths([heads, hidden], scores, 0.25, scope="global", round_to=1)
    assert widths.taken == [3, 12]  # the weakest head is 4 of the 8 channels that leave, and a tie the other 4
    assert choose_widths([heads, hidden], scores, 0.5).asked == [2, 8]
    assert choose_widths([heads, hidden], scores, 0.4).asked == [9 / 4, 9]  # int(16 * 0.6) channels of four to a head


def test_equal_widths_stay_equal_under_a_global_scope() -> None:
    heads = Group(((Axis("qkv", 0, 1, 48), 12), (Axis("out", 1, 49, 16), 4)), np.arange(1, 5))
    stream = Group(((Axis("fc", 0, 65, 16), 1),), np.arange(5, 21))
    scores = np.concatenate([[0], [4.0, 3, 2, 1], np.linspace(0.1, 5, 16)])
    for ratio in (0.2, 0.4, 0.6, 0.8):
        taken = choose_widths([heads, stream], scores, ratio, scope="global", equal_widths=True).taken
        assert 4 * taken[0] == taken[1]
        assert abs(8 * taken[0] - int(32 * (1 - ratio))) <= 4  # half a step


# --- rounding


@given(st.integers(2, 5000), st.data())
def test_by_default_a_width_moves_by_a_thirty_second_at_most(full: int, data: Any) -> None:
    width = data.draw(st.integers(1, full))
    taken = rounded(width, full, None)
    assert abs(taken - width) <= width / 32
    assert taken == width or (taken % 8 == 0 and taken < full)
    assert taken % 8 == 0 or width < 128 or width > full - 4
    assert rounded(width, full, 1) == width


@given(st.integers(2, 5000), st.sampled_from([2, 8, 16, 32]), st.data())
def test_round_to_takes_the_nearest_multiple(full: int, to: int, data: Any) -> None:
    width = data.draw(st.integers(1, full))
    taken = rounded(width, full, to)
    if full < to:
        assert taken == width
    else:
        assert taken == full or taken % to == 0
        assert taken >= to
        assert abs(taken - width) <= to / 2 or taken == to


@pytest.mark.parametrize(
    ("width", "full", "taken"),
    [
        (9, 16, 9),
        (19, 32, 19),
        (38, 64, 38),
        (11, 16, 11),
        (44, 64, 44),
        (358, 512, 360),
        (63, 64, 63),
        (130, 256, 128),
    ],
)
def test_widths_of_known_networks(width: int, full: int, taken: int) -> None:
    assert rounded(width, full, None) == taken


def wide(hidden: int = 512) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 20), nn.ReLU(), nn.Linear(20, 3))


def test_the_report_states_what_was_asked_and_what_was_taken() -> None:
    report = prune(wide(), X, 0.3).report()
    assert [(w.dense, w.asked, w.proxy) for w in report.widths] == [(512, 358, 360), (20, 14, 14), (3, 3, 3)]
    lines = str(report).splitlines()
    assert lines[1].split() == ["dense", "asked", "proxy", "share"]
    assert next(line for line in lines if line.startswith("0.weight")).split() == [
        "0.weight",
        "512",
        "358",
        "360",
        "0.703",
    ]
    assert [w.proxy for w in prune(wide(), X, 0.3, round_to=1).report().widths] == [358, 14, 3]
    assert [w.proxy for w in prune(wide(), X, 0.3, round_to=16).report().widths] == [352, 16, 3]
    whole = prune(wide(), X, 0).report()
    assert [(w.asked, w.proxy) for w in whole.widths] == [(512, 512), (20, 20), (3, 3)]


def test_heads_are_not_rounded_and_the_report_says_what_was_asked() -> None:
    widths = {w.name: w for w in prune(ViT(depth=1, dim=48, heads=3), IMAGES, 0.4, round_to=8).report().widths}
    attention, hidden = widths["blocks.0.attention.qkv.weight"], widths["blocks.0.mlp.0.weight"]
    assert (attention.dense, attention.asked, attention.proxy) == (144, 84, 96)  # int(48 * 0.6) = 28 each; two heads
    assert (hidden.dense, hidden.asked, hidden.proxy) == (96, 57, 56)


def test_layers_kept_whole_were_asked_for_all_the_same() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(12, 20), nn.Linear(20, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.b(torch.cumprod(torch.sigmoid(self.a(x)), 1))))

    with pytest.warns(errors.NoEffectWarning):
        widths = prune(Padded(), X, 0.5).report().widths
    assert [(w.dense, w.asked, w.proxy) for w in widths] == [(12, 6, 12), (20, 10, 10), (3, 3, 3)]
    kept = prune(wide(), X, 0.5, keep="0").report().widths  # on request: not asked
    assert [(w.dense, w.asked, w.proxy) for w in kept] == [(512, 512, 512), (20, 10, 10), (3, 3, 3)]


def test_rounding_that_takes_most_of_it_back_is_said() -> None:
    with pytest.warns(errors.NoEffectWarning, match=r"only 0.11 of the channels could leave \(widths were rounded"):
        prune(wide(16), X, 0.2, round_to=16)


@pytest.mark.parametrize("value", [0, -8, 2.5, True, "8"])
def test_bad_rounding_is_refused(value: Any) -> None:
    with pytest.raises(errors.InputError, match=f"round_to={value!r}; pass a positive integer"):
        prune(wide(), X, 0.5, round_to=value)


@pytest.mark.parametrize("floor", [-0.1, 1.0, float("nan")])
def test_bad_floors_are_refused(floor: float) -> None:
    with pytest.raises(errors.InputError, match=r"GlobalScope: floor=.*0 <= floor < 1"):
        GlobalScope(floor)


# --- networks


@pytest.mark.parametrize("importance", ["l2", "lamp", "bn_scale", "random"])
def test_a_global_scope_removes_the_fraction_from_a_resnet(importance: str) -> None:
    """A stage's stream and the inner layer of each block are one group each."""
    network = cifar_resnet(20)
    proxy = prune(network, IMAGES, 0.6, importance=importance, scope="global", random_state=0)
    thin = proxy.module
    inner = [(a.conv1.out_channels, b.conv1.out_channels) for a, b in zip(network.blocks, thin.blocks, strict=True)]
    streams = [(network.blocks[i].conv2.out_channels, thin.blocks[i].conv2.out_channels) for i in (0, 3, 6)]
    dense, kept = (sum(column) for column in zip(*inner, *streams, strict=True))
    assert abs(kept - 0.4 * dense) <= 8
    assert all(b >= a / 10 for a, b in [*inner, *streams])
    assert proxy.report().preserve_exact


@pytest.mark.filterwarnings(
    "ignore::prunefuse_al.errors.NoEffectWarning", "ignore::prunefuse_al.errors.FallbackWarning"
)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(specs.filter(lambda spec: spec.norm != "none"), st.sampled_from(["l2", "fpgm", "bn_scale"]))
def test_kept_channels_are_nested(spec: Spec, importance: str) -> None:
    network = build(spec)
    few, more = (prune(network, example(), p, importance=importance).channel_map.tensors for p in (0.6, 0.3))
    for name, tensor_map in few.items():
        for small, large in zip(tensor_map.kept, more[name].kept, strict=True):
            if small is None:
                assert large is None, name
            else:
                assert large is None or set(small.tolist()) <= set(large.tolist()), name
