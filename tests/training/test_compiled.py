"""`TorchTrainer(compile="auto")`: the same training and the same logits to rounding, and as before where it fails."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import batch_norm, blobs, mlp, same, seeded, trainer, weights
from torch import Tensor, nn

from prunefuse_al import ProgressivePruning, PrunedProxySelector, TorchTrainer
from prunefuse_al.errors import FallbackWarning
from prunefuse_al.network.signals import collect

X, Y = blobs(90)
PICTURES = torch.randn(90, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + Y[:, None, None, None]
compile_of_torch = torch.compile


class Named(nn.Module):
    """Takes its two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = seeded(lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)))
        self.head = mlp(16, 3)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.body(x * scale))}


def frozen() -> nn.Module:
    network = batch_norm()
    for layer in list(network)[:3]:  # type: ignore[call-overload]
        layer.requires_grad_(False)
    return network


def dropout() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 3)))


def conv() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
    )


CASES: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "batch norm": (batch_norm, X, {}),
    "dropout": (dropout, X, {"optimizer": "adamw"}),
    "frozen parts": (frozen, X, {"grad_clip": 0.5}),
    "inputs by name": (Named, {"x": X, "scale": torch.ones(90, 1)}, {}),
    "channels last": (conv, PICTURES, {"channels_last": True}),
    "half precision": (dropout, X, {"precision": "bf16"}),
}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have few batches pay, and a backend that needs no C++ compiler; what is above it is torch's own."""

    def without_kernels(function: Any, *, dynamic: bool, options: dict[str, Any]) -> Any:
        assert options["fallback_random"]
        return compile_of_torch(function, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", without_kernels)
    few(monkeypatch)


def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunefuse_al.training.fitting.STEPS_TO_TRAIN", 1)
    monkeypatch.setattr("prunefuse_al.network.signals.BATCHES_TO_READ", 1)
    monkeypatch.setattr("prunefuse_al.network.precision.has_bf16", lambda device: True)


def fitted(network: nn.Module, data: Any, **options: Any) -> tuple[dict[str, Tensor], bool]:
    history = trainer(3, **options).fit(network, (data, Y), seed=0)
    return weights(network), history.compiled


@pytest.mark.parametrize("case", CASES)
def test_a_compiled_training_reaches_the_weights_of_a_plain_one(case: str, soon: None) -> None:
    make, data, options = CASES[case]
    network, calls = make(), []
    network.register_forward_pre_hook(lambda _, args: calls.append(len(args)), prepend=True)
    found, compiled = fitted(network, data, compile="auto", **options)
    expected, plain = fitted(make(), data, **options)
    assert (compiled, plain) == (True, False)
    half = "precision" in options
    torch.testing.assert_close(found, expected, rtol=5e-2 if half else 1e-4, atol=1e-2 if half else 1e-5)
    assert len(calls) == 1 + 3 * 6  # two rows that are looked at, then each batch once: the rehearsal is not heard
    assert "forward" not in vars(network)
    assert all(p.grad is None for p in network.parameters())


def test_with_the_compiler_of_this_machine_it_is_the_same_or_said(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    told = []
    monkeypatch.setattr("prunefuse_al.network.compiling.warn", lambda message, _: told.append(message))
    found, compiled = fitted(mlp(6, 8, 3), X, compile="auto")
    assert compiled != bool(told)
    torch.testing.assert_close(found, fitted(mlp(6, 8, 3), X)[0], rtol=1e-4, atol=1e-5)


# ---- where it cannot be done ----


def broken_backend(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler here")


def broken_later(graph: Any, inputs: Any) -> Any:
    def run(*args: Any) -> Any:
        graph(*args)
        raise RuntimeError("the kernel cannot be run")

    return run


def broken_backwards(graph: Any, inputs: Any) -> Any:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise RuntimeError("no way back")

    return lambda *args: [Failing.apply(out) for out in graph(*args)]


def wrong(graph: Any, inputs: Any) -> Any:
    return lambda *args: [out * 1.5 for out in graph(*args)]


FAILURES: dict[str, Any] = {
    "there is no compiler": broken_backend,
    "what was compiled cannot be run": broken_later,
    "gradients cannot be": broken_backwards,
    "it computes something else": wrong,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_said_and_changes_nothing(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    backend = FAILURES[failure]
    monkeypatch.setattr(torch, "compile", lambda f, **_: compile_of_torch(f, dynamic=False, backend=backend))
    make = lambda: nn.Sequential(batch_norm(), nn.Dropout(0.2))  # noqa: E731
    network, calls = make(), []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.warns(FallbackWarning, match=r"compile='auto': Sequential was not compiled \(.+with the same results"):
        found, compiled = fitted(network, X, compile="auto")
    assert not compiled
    assert same(found, fitted(make(), X)[0])
    assert len(calls) == 1 + 3 * 6
    assert "forward" not in vars(network)


def test_torch_that_cannot_compile_at_all_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Dynamo is not supported on this Python")

    few(monkeypatch)
    monkeypatch.setattr(torch, "compile", refuses)
    with pytest.warns(FallbackWarning, match="Dynamo is not supported on this Python"):
        found = fitted(batch_norm(), X, compile="auto")[0]
    assert same(found, fitted(batch_norm(), X)[0])


def refused(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing was to be compiled")


def test_short_work_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", refused)
    assert not fitted(batch_norm(), X, compile="auto")[1]
    trainer(compile="auto").infer(batch_norm(), X)


def test_a_network_that_grows_thinner_on_the_way_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    gradual = {"progressive": ProgressivePruning(2, 2), "random_state": 0}
    chosen = {}
    for compile in (False, "auto"):
        plain = PrunedProxySelector(mlp(6, 16, 3), 0.5, trainer=trainer(4), **gradual).fit(X, Y)
        chosen[compile] = weights(plain.model)
        monkeypatch.setattr(torch, "compile", refused)
    assert same(chosen[False], chosen["auto"])


def test_an_accelerator_compiles_what_it_prepares_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    few(monkeypatch)
    monkeypatch.setattr(torch, "compile", refused)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    options = {"accelerator": accelerate.Accelerator(cpu=True), "compile": "auto"}
    try:
        with pytest.warns(FallbackWarning, match=r"compiles nothing where an accelerator.*dynamo_backend"):
            found, compiled = fitted(batch_norm(), X, **options)
        with pytest.warns(FallbackWarning, match="compiles nothing where an accelerator"):
            trainer(**options).infer(batch_norm(), X)
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    assert not compiled
    torch.testing.assert_close(found, fitted(batch_norm(), X)[0])


# ---- reading ----


@pytest.mark.parametrize("case", ["batch norm", "inputs by name", "channels last"])
def test_logits_of_full_batches_come_from_a_compiled_network(
    case: str, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, data, options = CASES[case]
    network, asked = make().eval(), []
    counted = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kw: asked.append(1) or counted(*args, **kw))
    t = trainer(compile="auto", eval_batch_size=16, **options)
    found, expected = (t.infer(network, data).logits, trainer(**options).infer(network, data).logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert asked == [1]
    t.infer(network, data, ("logits", "features"))  # which are followed call by call
    assert asked == [1]
    assert "forward" not in vars(network)


def test_reading_falls_back_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    monkeypatch.setattr(torch, "compile", lambda f, **_: compile_of_torch(f, dynamic=False, backend=broken_backend))
    with pytest.warns(FallbackWarning, match="no compiler here"):
        found = collect(batch_norm(), X, batch_size=16, compile=True).logits
    assert torch.equal(found, collect(batch_norm(), X, batch_size=16).logits)  # type: ignore[arg-type]


# ---- nothing of it lasts ----


def test_copies_and_files_made_on_the_way_hold_the_network_itself(soon: None, tmp_path: Path) -> None:
    class Keeps:
        def begin(self, model: nn.Module, epochs: int) -> None:
            self.kept: list[bytes] = []

        def end_epoch(self, model: nn.Module, row: Any) -> None:
            self.kept += [pickle.dumps(model), pickle.dumps(copy.deepcopy(model))]

        def end(self, history: Any) -> None:
            self.history = history

    keeps, network = Keeps(), batch_norm()
    trainer(2, compile="auto", callbacks=[keeps]).fit(network, (X, Y), seed=0)
    assert keeps.history.compiled
    assert all(same(weights(pickle.loads(kept)), weights(network)) for kept in keeps.kept[-2:])
    again = pickle.loads(pickle.dumps(trainer(compile="auto")))
    assert isinstance(again, TorchTrainer)
    assert again.compile == "auto"


def test_a_selector_compiles_in_every_round_and_is_saved_as_ever(soon: None, tmp_path: Path) -> None:
    picks = {}
    for compile in ("auto", False):
        chooser = PrunedProxySelector(
            batch_norm(), 0.5, trainer=trainer(3, compile=compile, eval_batch_size=16), random_state=0, warm_start=True
        )
        for _ in range(2):
            chooser.fit(X, Y)
        picks[compile] = chooser.predict_proba(X)
    torch.testing.assert_close(picks["auto"], picks[False], rtol=1e-3, atol=1e-4)
    chooser.save(tmp_path / "file")
    loaded = PrunedProxySelector.load(tmp_path / "file", batch_norm())
    torch.testing.assert_close(loaded.predict_proba(X), chooser.predict_proba(X))


def test_the_history_of_a_training_that_says_nothing_of_it_is_plain() -> None:
    assert not trainer(1).fit(mlp(6, 4, 3), (X, Y), seed=0).compiled
    assert functools.partial(trainer, compile="auto")().compile == "auto"
