"""Options of `prune`, what it refuses, and architectures with a trap in them."""

from __future__ import annotations

import io
import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.networks import cifar_resnet, vgg
from prunefuse_al import errors, fuse, prune
from prunefuse_al.data import showing
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning.trace.tracing import trace

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def mlp(hidden: int = 64) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)
        )


def widths(proxy: Any) -> list[int]:
    return [w.proxy for w in proxy.report().widths]


class Wrapped(nn.Module):
    """A module from a function, for networks of one test."""

    def __init__(self, forward: Any, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


# --- options


@pytest.mark.parametrize(("ratio", "kept"), [(0.1, 57), (0.5, 32), (0.75, 16), (0.99, 1)])
def test_a_layer_keeps_int_of_its_width(ratio: float, kept: int) -> None:
    assert widths(prune(mlp(), X, ratio, round_to=1)) == [kept, kept, 3]


def test_widths_that_are_whole_in_decimals_are_not_lost_to_rounding() -> None:
    assert widths(prune(mlp(10), X, 0.9))[0] == 1
    assert widths(prune(mlp(50), X, 0.42))[0] == 29  # 50 * 0.58 = 28.999999999999996 in floating point


def test_round_to_takes_the_nearest_multiple_and_never_zero() -> None:
    assert widths(prune(mlp(60), X, 0.5, round_to=8)) == [32, 32, 3]
    with pytest.warns(errors.NoEffectWarning):
        assert widths(prune(mlp(16), X, 0.9, round_to=8)) == [8, 8, 3]
    assert widths(prune(mlp(6), X, 0.5, round_to=8)) == [3, 3, 3]


def test_l2_keeps_the_strongest_channels() -> None:
    network = mlp()
    with torch.no_grad():
        network[0].weight[10:] *= 0.01
        network[2].weight[:, 10:] *= 0.01
        network[0].bias[10:] *= 0.01
    kept = prune(network, X, 54 / 64).channel_map.tensors["0.weight"].kept[0]
    assert kept.tolist() == list(range(10))


def test_equal_scores_keep_the_first_channels() -> None:
    network = mlp()
    for tensor in network.parameters():
        nn.init.ones_(tensor)
    assert prune(network, X, 0.5).channel_map.tensors["0.weight"].kept[0].tolist() == list(range(32))


def test_random_importance_follows_its_seed() -> None:
    maps = [prune(mlp(), X, 0.5, importance="random", random_state=s).channel_map for s in (1, 1, 2)]
    assert maps[0] == maps[1]
    assert maps[0] != maps[2]


def test_importance_may_be_a_function() -> None:
    def last_first(name: str, tensor: Tensor, dim: int) -> Tensor:
        return torch.arange(tensor.shape[dim])

    kept = prune(mlp(), X, 0.5, importance=last_first).channel_map.tensors["0.weight"].kept[0]
    assert kept.tolist() == list(range(32, 64))


def test_global_scope_takes_more_from_weak_layers_and_leaves_a_tenth() -> None:
    network = vgg((16, "M", 16, "M"), size=16)
    proxy = prune(network, IMAGES, 0.5, scope="global")
    total = sum(w.dense for w in proxy.report().widths[:-1])
    assert abs(sum(widths(proxy)[:-1]) - total / 2) <= 3
    assert min(widths(proxy)[:-1]) >= 1


@pytest.mark.parametrize("keep", ["0", ["0", "0.bias"], "0.weight", nn.Linear, "module"])
def test_protected_layers_keep_their_outputs(keep: Any) -> None:
    network = mlp()
    if keep == nn.Linear:
        with pytest.raises(
            errors.PruningError, match=r"nothing in this network can be thinned.*kept on request \(Linear\)"
        ):
            prune(network, X, 0.5, keep=keep)
        return
    proxy = prune(network, X, 0.5, keep=network[0] if keep == "module" else keep)
    assert widths(proxy)[0] == 64
    assert widths(proxy)[1] == 32
    assert "kept on request" in str(proxy.report())


def test_report_prints_what_it_measured() -> None:
    text = str(prune(mlp(), X, 0.5).report())
    assert "pruning ratio 0.5" in text
    assert f"{sum(p.numel() for p in mlp().parameters()):,}" in text
    assert "0.weight, dimension 1: reads an input of fixed size" in text
    assert 'fuse(cross="preserve"): exact' in text


def test_frozen_parameters_stay_frozen() -> None:
    network = mlp()
    network[0].weight.requires_grad_(False)
    proxy = prune(network, X, 0.5)
    assert not proxy.module[0].weight.requires_grad
    assert proxy.module[2].weight.requires_grad
    assert not fuse(network, proxy)[0].weight.requires_grad


# --- what is refused


@pytest.mark.parametrize("ratio", [1, 1.0, -0.1, float("nan"), "half", None, True])
def test_a_ratio_outside_its_range_is_refused(ratio: Any) -> None:
    with pytest.raises(errors.InputError, match=r"pruning_ratio=.*; pass the share of channels removed, 0 <= p < 1"):
        prune(mlp(), X, ratio)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"importance": "l3"},
            r"importance='l3'; pass one of \['activation', 'bn_scale', 'fpgm', 'gates', 'hessian', 'l1', 'l2', .*\]",
        ),
        ({"scope": "layer"}, r'scope=\'layer\'; pass "local", "global" or a GlobalScope'),
        ({"round_to": 0}, "round_to=0; pass a positive integer"),
        ({"keep": "no_such_layer"}, "keep='no_such_layer' matches no layer with channels"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InputError, match=message):
        prune(mlp(), X, 0.5, **options)


def test_nothing_to_prune_is_an_error_that_says_why() -> None:
    with pytest.raises(errors.PruningError, match=r"nothing in this network can be thinned: weight, dimension 1"):
        prune(nn.Linear(8, 3), X, 0.5)
    assert prune(nn.Linear(8, 3), X, 0).module.weight.shape == (3, 8)


def test_inputs_that_do_not_fit_are_refused_with_their_shapes() -> None:
    with pytest.raises(errors.PruningError, match=r"does not run on example_inputs \[\[2, 5\]\].*mat1 and mat2"):
        prune(mlp(), torch.zeros(2, 5), 0.5)
    attention = nn.MultiheadAttention(8, 2)  # asserts instead of raising
    with pytest.raises(errors.PruningError, match=r"does not run on example_inputs .*AssertionError"):
        prune(attention, (torch.zeros(3, 2, 5),) * 3, 0.5)
    with pytest.raises(errors.InputError, match="pass a batch of inputs as a tensor"):
        prune(mlp(), "images", 0.5)
    with pytest.raises(errors.InputError, match="at least one row"):
        prune(mlp(), torch.zeros(0, 8), 0.5)


def test_networks_without_python_code_are_refused() -> None:
    with pytest.warns((DeprecationWarning, FutureWarning), match="deprecated"):
        scripted = torch.jit.script(mlp())
    with pytest.raises(errors.UnsupportedModelError, match="TorchScript"):
        prune(scripted, X, 0.5)
    with pytest.raises(errors.UnsupportedModelError, match=r"must be a torch.nn.Module, found function"):
        prune(lambda x: x, X, 0.5)
    with pytest.raises(errors.UnsupportedModelError, match="lazy"):
        prune(nn.Sequential(nn.LazyLinear(4)), X, 0.5)


def test_weights_that_are_nan_are_named() -> None:
    network = mlp()
    network[0].weight.data[3] = float("nan")
    with pytest.raises(
        errors.NonFiniteError, match=r"importance of '0.weight' along dimension 0 .* at 1 of 64 .*\[3\]"
    ):
        prune(network, X, 0.5)


def test_a_function_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(errors.InputError, match=r"returned shape \[2\]; it must be \[64\]"):
        prune(mlp(), X, 0.5, importance=lambda name, tensor, dim: torch.ones(2))


# --- architectures with a trap


def test_an_operation_not_understood_is_kept_whole_and_named() -> None:
    network = Wrapped(
        lambda m, x: m.c(torch.relu(m.b(torch.cumprod(torch.sigmoid(m.a(x)), 1)))),
        a=nn.Linear(8, 12), b=nn.Linear(12, 20), c=nn.Linear(20, 3),
    )  # fmt: skip
    with pytest.warns(errors.NoEffectWarning, match=r"only 0.31 of the channels could leave \(a.weight, dimension 0"):
        proxy = prune(network, X, 0.5)
    assert widths(proxy) == [12, 10, 3]
    assert "goes through cumprod, which is not understood" in proxy.report().kept_whole["a.weight, dimension 0"]


def test_a_result_nobody_uses_keeps_nothing() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        y.mean(1)  # computed and thrown away, as attention weights often are
        return m.b(y)

    assert widths(prune(Wrapped(forward, a=nn.Linear(8, 12), b=nn.Linear(12, 3)), X, 0.5)) == [6, 3]


def test_parameters_no_forward_uses_are_kept() -> None:
    network = Wrapped(
        lambda m, x: m.b(torch.relu(m.a(x))), a=nn.Linear(8, 12), b=nn.Linear(12, 3), spare=nn.Linear(9, 9)
    )
    with pytest.warns(errors.NoEffectWarning, match="spare.weight"):
        proxy = prune(network, X, 0.5)
    assert proxy.module.spare.weight.shape == (9, 9)
    assert "not both written and read" in proxy.report().kept_whole["spare.weight, dimension 0"]


def test_tied_weights_stay_tied() -> None:
    network = Wrapped(
        lambda m, ids: F.linear(torch.tanh(m.mix(m.embed(ids))).mean(1), m.out.weight), embed=nn.Embedding(11, 16),
        mix=nn.Linear(16, 16), out=nn.Linear(16, 11, bias=False),
    )  # fmt: skip
    network.out.weight = network.embed.weight
    proxy = prune(network, torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0)), 0.5)
    assert proxy.module.out.weight is proxy.module.embed.weight
    assert proxy.module.embed.weight.shape == (11, 8)
    assert fuse(network, proxy).out.weight.shape == (11, 16)


def test_inputs_by_name_and_outputs_in_a_dict() -> None:
    network = Wrapped(
        lambda m, left, right: {"logits": m.c(torch.relu(m.a(left) * m.b(right))), "hidden": m.b(right)},
        a=nn.Linear(8, 12), b=nn.Linear(8, 12), c=nn.Linear(12, 3),
    )  # fmt: skip
    with pytest.raises(errors.PruningError, match="nothing"):  # the hidden layer is an output, and ties all others
        prune(network, {"left": X, "right": X}, 0.5, keep="outputs")
    assert widths(prune(network, {"left": X, "right": X}, 0.5)) == [6, 6, 3]
    network.function = lambda m, left, right: {"logits": m.c(torch.relu(m.a(left) * m.b(right)))}
    assert widths(prune(network, {"left": X, "right": X}, 0.5)) == [6, 6, 3]
    assert widths(prune(network, (X, X), 0.5)) == [6, 6, 3]


def test_zero_padded_shortcuts_keep_the_padded_channels() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.a(x))
        return m.head(torch.relu(m.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))).mean((2, 3)))

    network = Wrapped(forward, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 16, 3, 2, 1), head=nn.Linear(16, 3))
    with pytest.warns(errors.NoEffectWarning, match="is joined with positions of fixed size"):
        proxy = prune(network, IMAGES, 0.5)
    assert widths(proxy) == [4, 12, 3]
    assert proxy.report().preserve_exact


def test_depthwise_and_transposed_convolutions() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.ReLU(), nn.ConvTranspose2d(16, 12, 2, 2),
        nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=3), nn.Flatten(), nn.Linear(12 * 30 * 30, 4),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    module = proxy.module
    assert (module[1].in_channels, module[1].groups, module[1].out_channels) == (4, 4, 8)
    assert (module[3].in_channels, module[3].out_channels) == (8, 6)
    assert (module[6].groups, module[6].in_channels, module[6].out_channels) == (3, 6, 6)
    assert proxy.report().preserve_exact
    proxy.module(IMAGES).sum().backward()


def test_a_batch_dimension_in_a_view_does_not_mislead() -> None:
    network = Wrapped(
        lambda m, x: m.b(torch.relu(m.a(x)).view(-1, 24).view(len(x), 24)), a=nn.Linear(8, 24), b=nn.Linear(24, 3)
    )
    with pytest.raises(errors.PruningError, match="nothing in this network can be thinned"):
        prune(network, X, 0.5)  # 24 is written into the code: the layer is kept whole, never regrouped


def test_sizes_written_into_a_view_keep_one_layer_and_no_more() -> None:
    """`x.view(-1, 16 * 5 * 5)`, as in many a first network."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(m.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(m.conv2(x)), 2).view(-1, 16 * 4 * 4)
        return m.fc2(torch.relu(m.fc1(x)))

    network = Wrapped(
        forward, conv1=nn.Conv2d(3, 6, 3, padding=1), conv2=nn.Conv2d(6, 16, 3, padding=1), fc1=nn.Linear(256, 40),
        fc2=nn.Linear(40, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert widths(proxy) == [3, 16, 20, 3]
    reason = proxy.report().kept_whole["conv2.weight, dimension 0"]
    assert reason.startswith("cannot be thinned: the proxy does not run: RuntimeError: mat1 and mat2 shapes")
    assert proxy.report().preserve_exact


def test_width_attributes_of_own_modules_follow() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden_dim, self.seq_len = 24, 24
            self.a, self.b = nn.Linear(8, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)).view(-1, self.hidden_dim))

    proxy = prune(Own(), X, 0.5)
    assert (proxy.module.hidden_dim, proxy.module.seq_len) == (12, 24)


def test_a_single_row_is_enough_as_an_example() -> None:
    network = cifar_resnet(8)
    assert prune(network, IMAGES[:1], 0.5).channel_map == prune(network, IMAGES, 0.5).channel_map


def test_double_precision_networks() -> None:
    network = mlp().double()
    proxy = prune(network, X.double(), 0.5)
    assert proxy.module[0].weight.dtype == torch.float64
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            named_tensors(fuse(network, proxy, cross="copy")).values(), named_tensors(network).values(), strict=True
        )
    )


def test_a_convolution_over_one_input_channel_is_not_depthwise() -> None:
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    convolution = prune(network, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 0.5).module[0]
    assert (convolution.in_channels, convolution.out_channels, convolution.groups) == (1, 4, 1)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_text_classifier(cell: Any) -> None:
    network = Wrapped(
        lambda m, ids: m.head(m.cell(m.embed(ids))[0][:, -1]), embed=nn.Embedding(50, 16),
        cell=cell(16, 24, batch_first=True), head=nn.Linear(24, 3),
    )  # fmt: skip
    proxy = prune(network, torch.randint(0, 50, (2, 7)), 0.5)
    assert (proxy.module.embed.embedding_dim, proxy.module.cell.input_size, proxy.module.cell.hidden_size) == (8, 8, 12)
    assert proxy.channel_map.tensors["embed.weight"].inputs == ()
    assert proxy.report().preserve_exact
    ids = torch.randint(0, 50, (3, 9))
    assert torch.allclose(fuse(network, proxy)(ids), proxy.module(ids), atol=1e-6)


def test_instance_norm_and_prelu() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8), nn.Conv2d(8, 4, 3), nn.PReLU(),
        nn.Flatten(), nn.Linear(4 * 12 * 12, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert widths(proxy) == [4, 2, 3]
    assert (proxy.module[1].num_features, proxy.module[2].num_parameters) == (4, 4)
    assert proxy.report().preserve_exact


# --- statistics over channels


def test_rms_norm_is_thinned_and_fused_exactly() -> None:
    network = Wrapped(
        lambda m, x: m.head(m.last(m.a(x) + m.c(F.silu(m.b(m.norm(m.a(x))))))), a=nn.Linear(8, 24), norm=nn.RMSNorm(24),
        b=nn.Linear(24, 40), c=nn.Linear(40, 24), last=nn.RMSNorm(24), head=nn.Linear(24, 3),
    )  # fmt: skip
    proxy = prune(network, X, 0.5)
    assert widths(proxy) == [12, 20, 12, 3]
    assert proxy.module.norm.normalized_shape == (12,)
    assert proxy.report().preserve_exact
    assert torch.allclose(fuse(network, proxy)(X), proxy.module(X), atol=1e-5)


def test_a_mean_over_channels_is_thinned_and_its_distance_stated() -> None:
    network = Wrapped(
        lambda m, x: m.b((lambda y: y * torch.sigmoid(y.mean(1, keepdim=True)))(torch.relu(m.a(x)))),
        a=nn.Linear(8, 24), b=nn.Linear(24, 3),
    )  # fmt: skip
    assert prune(network, X, 0.5).report().preserve_exact  # at half the width copies have the same mean
    report = prune(network, X, 0.3).report()
    assert [w.proxy for w in report.widths] == [16, 3]
    assert not report.preserve_exact
    assert report.preserve_distance > 1e-3
    assert f"not exact, relative distance {report.preserve_distance:.2g}" in str(report)


def test_a_norm_over_the_width_of_a_head_lets_the_head_leave_whole() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:  # cosine attention
        q, k, v = m.qkv(x).reshape(len(x), -1, 3, m.heads, 4).permute(2, 0, 3, 1, 4)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
        return m.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).mean(1)

    network = Wrapped(forward, qkv=nn.Linear(8, 48), out=nn.Linear(16, 3))
    network.heads = 4
    proxy = prune(network, X.reshape(1, 2, 8), 0.5)
    assert proxy.module.heads == 2
    assert widths(proxy) == [24, 3]
    assert proxy.report().preserve_exact


def test_activations_are_let_go_while_the_network_is_watched() -> None:
    alive: list[bool] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            seen = weakref.ref(hidden)
            hidden = self.second(torch.relu(hidden))
            alive.append(seen() is not None)
            return self.last(torch.relu(hidden))

    trace(Watching(), (torch.randn(2, 6),), {})
    assert alive == [False]


@pytest.mark.parametrize(
    ("progress", "terminal", "shown"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_long_searches_count_their_trials_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, progress: bool, terminal: bool, shown: bool
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(showing, "SHOWN_AFTER", 0)
    prune(mlp(), X, 0.5, progress=progress)
    assert ("prune: " in written.getvalue()) == shown
