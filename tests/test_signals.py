"""One pass over data: the right rows, the right layer, and a network that is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunefuse_al.errors import InputError, NonFiniteError, UnsupportedModelError
from prunefuse_al.network.model_checks import check_model
from prunefuse_al.network.signals import collect, logits_of


def made(make: Callable[[], nn.Module]) -> Any:
    """Return a network with the same first weights every time."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return make()


def network() -> nn.Sequential:
    return made(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)))


X = np.random.default_rng(0).normal(size=(23, 4))
NO_HEAD = made(
    lambda: nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2)), nn.LayerNorm(2), nn.MaxPool1d(2), nn.Flatten())
)
ALL = {"logits", "features", "mc_logits", "labels"}


def test_signals_are_what_the_network_says_in_eval_mode() -> None:
    model, labels = network().eval(), np.arange(23) % 3
    with torch.no_grad():
        features = model[:-1](torch.as_tensor(X, dtype=torch.float32))
        logits = model[-1](features)
    found = collect(model.train(), (X, labels), ALL, batch_size=5, device="cpu", mc_samples=4)
    assert found.indices.tolist() == list(range(23))
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.features, features)
    assert found.labels.tolist() == labels.tolist()
    assert found.mc_logits.shape == (4, 23, 3)
    assert not torch.equal(found.mc_logits[0], found.mc_logits[1])


def test_only_what_is_needed_comes_back() -> None:
    found = collect(network(), X, {"features"})
    assert found.logits is None
    assert found.mc_logits is None
    assert found.labels is None


def test_the_network_is_left_as_it_was() -> None:
    model = network()
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, (X, np.zeros(23, dtype=int)), ALL)
    assert [m.training for m in model.modules()] == [True, False, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not m._forward_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_the_same_seed_draws_the_same_masks() -> None:
    first, again, other = (collect(network(), X, {"mc_logits"}, seed=s).mc_logits for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batch_norm_stays_in_eval_mode_under_dropout_passes() -> None:
    model = network()
    model[3].p = 0.0
    found = collect(model, X, {"logits", "mc_logits"})
    assert torch.equal(found.mc_logits[0], found.logits)


def test_results_can_be_used_in_autograd_and_changed_in_place() -> None:
    logits = collect(network(), X).logits
    logits.add_(1)
    (logits * torch.ones(3, requires_grad=True)).sum().backward()


@pytest.mark.parametrize(
    "output",
    [
        torch.ones(2, 3),
        SimpleNamespace(logits=torch.ones(2, 3)),
        {"loss": 1.0, "logits": torch.ones(2, 3), "a": torch.zeros(2)},
        (torch.ones(2, 3), torch.zeros(2)),
        [None, {"x": torch.ones(2, 3)}],
    ],
)
def test_logits_are_found_in_what_networks_return(output: Any) -> None:
    assert torch.equal(logits_of(output), torch.ones(2, 3))
    with pytest.raises(InputError, match="str without a tensor"):
        logits_of("nothing")


class Wrapped(nn.Module):
    """Takes two inputs by name, returns a dict, and softens its logits after the last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.a(x) * scale[:, None]).log_softmax(1)}


def test_inputs_by_name_and_a_softmax_at_the_end() -> None:
    model, scale = made(Wrapped), torch.linspace(0, 1, 23, dtype=torch.float64)
    found = collect(model, {"x": X, "scale": scale}, {"features"}, batch_size=7)
    expected = model.a(torch.as_tensor(X).float()) * scale[:, None].float()
    torch.testing.assert_close(found.features, expected.detach())


def test_embeddings_get_integers_and_others_get_floats() -> None:
    tokens = np.arange(12).reshape(6, 2)
    text = made(lambda: nn.Sequential(nn.Embedding(12, 4), nn.Flatten(), nn.Linear(8, 3)))
    linear = made(lambda: nn.Linear(2, 3))
    assert collect(text, tokens).logits is not None
    assert collect(linear, tokens).logits is not None
    assert collect(linear.double(), tokens.astype(np.float32)).logits.dtype == torch.float64
    with pytest.raises(InputError, match=r"uint8 \[6, 2\]: scale pictures with a transform.*x / 255"):
        collect(linear, tokens.astype(np.uint8))
    scaled = collect(linear.float(), tokens.astype(np.uint8), transform=lambda x: x / 255).logits
    assert torch.allclose(scaled, linear(torch.as_tensor(tokens) / 255))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: collect(network(), X[:, :3]), InputError, r"float64 \[23, 3\].*Linear\(in_features=4"),
        (lambda: collect(network(), X, {"labels"}), InputError, "labels are needed"),
        (lambda: collect(network(), X, {"aum"}), InputError, r"\['aum'\].*mc_logits"),
        (lambda: collect(network(), X, device="nowhere"), InputError, "device='nowhere'"),
        (lambda: collect(made(lambda: nn.Linear(4, 2)), X, {"mc_logits"}), UnsupportedModelError, "no dropout"),
        (lambda: collect(network(), X, {"mc_logits"}, mc_samples=0), InputError, "mc_samples=0; .* at least 1 pass"),
        (lambda: collect(NO_HEAD, X, {"features"}), UnsupportedModelError, "take a scorer that needs only logits"),
        (
            lambda: collect(made(lambda: nn.Sequential(nn.Linear(4, 2), nn.Flatten(0))), X),
            InputError,
            r"shape \[46\].* 23 rows",
        ),
    ],
)
def test_what_cannot_be_collected_is_said(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_rows_with_nan_are_named_once_all_are_known() -> None:
    bad = X.copy()
    bad[3, 0], bad[17, 2] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match=r"inputs hold NaN or infinity in rows 3, 17 \(2 of 23\)"):
        collect(network(), bad, batch_size=4)
    with pytest.raises(NonFiniteError, match=r"logits are NaN or infinite for rows? .* of 23\) though the inputs"):
        collect(made(lambda: nn.Sequential(nn.Linear(4, 2), Log())), X, batch_size=4)


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def test_networks_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="pass an instance, not the class"):
        check_model(nn.Linear)
    with pytest.raises(UnsupportedModelError, match="found str"):
        check_model("resnet18")
    with pytest.raises(UnsupportedModelError, match="lazy parameter"):
        check_model(nn.LazyLinear(3))
    with pytest.raises(UnsupportedModelError, match="meta device"):
        check_model(nn.Linear(2, 2, device="meta"))
    with pytest.raises(UnsupportedModelError, match=r"'0' .* is quantised"):
        check_model(nn.Sequential(torch.ao.nn.quantized.ReLU6()))
    assert check_model(model := network()) is model


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated", "ignore::DeprecationWarning")
def test_torchscript_is_refused() -> None:
    scripted = made(lambda: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)))
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        collect(scripted, X)
