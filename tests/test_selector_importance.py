"""Measures that read data inside a selector: rows as the trainer hands them to the network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from fakes import PlainTrainer, blobs, mlp
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator, TorchTrainer, errors, proxies, prune
from prunefuse_al.data.datasets import as_dataset
from prunefuse_al.proxies import labelled_importance as importance
from prunefuse_al.pruning import Activation, GlobalScope, Hessian, Taylor
from prunefuse_al.training import Reader

X, Y = blobs(90)
KINDS = {"taylor": Taylor, "hessian": Hessian}


selector = partial(fakes.selector, trainer=fakes.trainer(1, 64))


def kept(fitted: PrunedProxySelector) -> list[int]:
    index = fitted.proxy.channel_map.tensors["0.weight"].kept[0]
    assert index is not None
    return index.tolist()


@pytest.mark.parametrize("name", KINDS)
def test_a_name_is_resolved_with_the_labelled_data(name: str) -> None:
    found = selector(importance=name).fit(X, Y)
    expected = prune(mlp(6, 16, 3), X, 0.5, importance=KINDS[name](X, Y)).channel_map.tensors["0.weight"].kept[0]
    assert kept(found) == expected.tolist()
    assert kept(found) != kept(selector().fit(X, Y))
    again = selector(importance=KINDS[name](X, Y)).fit(X, Y)
    assert kept(again) == kept(found)


def test_only_so_many_rows_are_read_and_the_seed_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "ROWS", 10)
    seen: list[int] = []

    class Noting(PlainTrainer):
        def infer(self, model: nn.Module, data: Any, needs: frozenset[str]) -> Any:
            seen.append(len(data))
            return super().infer(model, data, needs)

    first, second = (selector(importance="taylor", trainer=Noting(), random_state=s).fit(X, Y) for s in (0, 0))
    assert kept(first) == kept(second)
    assert 10 in seen
    assert max(seen) == 10


def test_the_trainers_transform_and_loss_are_respected() -> None:
    bytes_, scale = (X * 40 + 120).clamp(0, 255).to(torch.uint8), lambda x: x / 255 - 0.5
    ours = TorchTrainer(1, transform=scale, eval_transform=scale, progress=False, device="cpu", loss=first_output)
    found = selector(importance="taylor", trainer=ours).fit(bytes_, Y)
    expected = prune(mlp(6, 16, 3), X, 0.5, importance=Taylor(scale(bytes_), Y, loss=first_output)).channel_map
    assert kept(found) == expected.tensors["0.weight"].kept[0].tolist()
    assert kept(found) != kept(selector(importance="taylor").fit(scale(bytes_), Y))


def first_output(logits: Tensor, labels: Tensor) -> Tensor:
    """A loss of one's own, of one value per row."""
    return (logits[:, 0] - 0.3).square()


@pytest.mark.parametrize("name", KINDS)
def test_a_trainer_of_the_users_own(name: str) -> None:
    found = selector(importance=name, trainer=PlainTrainer()).fit(X, Y)
    assert kept(found) == kept(selector(importance=name).fit(X, Y))


def test_the_dense_baseline_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "Reader", None)
    dense = PrunedProxySelector(mlp(6, 16, 3), 0, importance="taylor", trainer=PlainTrainer(), random_state=0)
    assert dense.fit(X, Y).model[0].out_features == 16


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.CostWarning")
def test_a_trained_target_is_measured_again() -> None:
    """V2: the second proxy is cut by what the loss says about the target."""
    found = selector(importance="taylor", sync_every=1, trainer=TorchTrainer(8, progress=False, device="cpu"))
    first = kept(found.fit(X, Y))
    assert kept(found.fit(X, Y)) != first


def test_the_estimator_and_a_saved_selector(tmp_path: Path) -> None:
    options: dict[str, Any] = {"importance": "hessian", "scope": GlobalScope(0.2)}
    trainer = TorchTrainer(1, progress=False, device="cpu")
    estimator = PruneFuseEstimator(mlp(6, 16, 3), 0.5, trainer=trainer, random_state=0, **options)
    assert estimator.fit(X.numpy(), Y.numpy()).selector_.model[0].out_features == 8
    fitted = selector(**options).fit(X, Y)
    fitted.save(tmp_path / "file")
    loaded = PrunedProxySelector.load(tmp_path / "file", mlp(6, 16, 3))
    assert (loaded.options.importance, loaded.options.scope) == ("hessian", GlobalScope(0.2))
    assert kept(loaded) == kept(fitted)
    with_tensors = selector(importance=Taylor(X, Y)).fit(X, Y)
    with_tensors.save(tmp_path / "other")
    with pytest.raises(errors.CheckpointError, match=r"could not hold importance; pass importance=\.\.\."):
        PrunedProxySelector.load(tmp_path / "other", mlp(6, 16, 3))


class Accelerated:
    """Stands in for an accelerator of two processes, each of which would read half."""

    device = torch.device("cpu")


def test_every_process_reads_all_rows() -> None:
    trainer = TorchTrainer(1, progress=False, device="meta", accelerator=Accelerated())
    inputs = Reader(trainer, mlp(6, 16, 3), as_dataset(X, Y)).inputs()
    assert torch.equal(inputs, X)
    assert trainer.accelerator is not None


def test_a_trainer_whose_calls_cannot_be_told() -> None:
    class Half(PlainTrainer):
        def infer(self, model: nn.Module, data: Any, needs: frozenset[str]) -> Any:
            return super().infer(model, torch.utils.data.Subset(data, range(len(data) // 2)), needs)

    class Silent(PlainTrainer):
        def infer(self, model: nn.Module, data: Any, needs: frozenset[str]) -> Any:
            return None

    for trainer, why in ((Half(), "with 15 of 30 rows"), (Silent(), "cannot be joined|with 0 of 30 rows")):
        with pytest.raises(errors.InputError, match=rf"{why}.*pass importance=Taylor\(inputs, labels\)"):
            selector(importance="taylor", trainer=trainer, example_inputs=X[:2]).fit(X[:30], Y[:30])


POOL = blobs(120, seed=5)[0] * torch.linspace(0.1, 3, 6)


def of(importance: Any) -> list[int]:
    index = prune(mlp(6, 16, 3), X, 0.5, importance=importance).channel_map.tensors["0.weight"].kept[0]
    assert index is not None
    return index.tolist()


@pytest.mark.parametrize(
    ("options", "read"),
    [({}, X), ({"recalibration_data": POOL}, POOL), ({"unlabelled": POOL, "recalibration_data": X}, POOL)],
)
def test_activations_are_those_of_unlabelled_rows(options: dict[str, Any], read: Tensor) -> None:
    found = selector(importance="activation", **options).fit(X, Y)
    assert kept(found) == of(Activation(read))
    assert kept(found) == kept(selector(importance=Activation(read)).fit(X, Y))
    assert of(Activation(POOL)) != of(Activation(X))


def test_channels_are_chosen_as_it_suits_what_becomes_of_the_proxy() -> None:
    """By activations where a trained network's proxy is repaired, else by norms; what was said is done."""
    assert selector().options.importance == "auto"
    trained: dict[str, Any] = {"pretrained": True, "unlabelled": POOL}
    assert kept(selector(**trained).fit(X, Y)) == of(Activation(POOL))
    assert kept(selector(**trained).prepare()) == of(Activation(POOL))
    new = {**trained, "pretrained": False}
    for untouched in (new, {**trained, "repair": False}, {**trained, "importance": "l2"}):
        assert kept(selector(**untouched).fit(X, Y)) == of("l2")


def test_norms_choose_where_a_trainer_does_not_show_what_it_calls() -> None:
    class Silent(PlainTrainer):
        def infer(self, model: nn.Module, data: Any, needs: frozenset[str]) -> Any:
            return None

    with pytest.warns(errors.FallbackWarning, match="chosen by importance='l2': .*Activation"):
        found = selector(trainer=Silent(), pretrained=True, example_inputs=X[:2]).fit(X, Y)
    assert kept(found) == of("l2")
    with pytest.raises(errors.InputError, match=r"Activation\(inputs\)"):
        selector(trainer=Silent(), importance="activation", example_inputs=X[:2]).fit(X, Y)


class Residual(nn.Module):
    """A block whose inner layer is thinned beside its stream, or alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer, self.head = (nn.Linear(*w) for w in ((6, 8), (8, 8), (8, 8), (8, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.outer(self.inner(x).relu()))


def test_parts_go_from_the_selector_to_the_proxy_and_its_file(tmp_path: Path) -> None:
    def made(**options: Any) -> PrunedProxySelector:
        return selector(fakes.seeded(Residual), **options).fit(X, Y)

    fitted = made(parts="interiors")
    assert (fitted.proxy.module.stem.out_features, fitted.proxy.module.inner.out_features) == (8, 4)
    assert made().proxy.module.stem.out_features == 4
    fitted.save(tmp_path / "file")
    assert PrunedProxySelector.load(tmp_path / "file", fakes.seeded(Residual)).options.parts == "interiors"
    by_kind = made(pruning_ratio=0.5, proxy=proxies.Pruned(0.5, parts="interiors"))
    assert by_kind.options.parts == "interiors"
    estimator = PruneFuseEstimator(fakes.seeded(Residual), 0.5, parts="interiors", trainer=fakes.trainer(1))
    assert estimator.fit(X.numpy(), Y.numpy()).selector_.options.parts == "interiors"
