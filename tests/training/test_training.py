"""`TorchTrainer`: what it trains, what it leaves alone, and what it says when training cannot work."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import same, trainer, weights
from sklearn.base import clone
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from prunefuse_al.errors import FallbackWarning, InputError, NonFiniteError, UnsupportedModelError
from prunefuse_al.training import Distillation, EarlyStopping, TorchTrainer
from prunefuse_al.training.transforms import per_sample
from prunefuse_al.types import Trainer

rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 90)
X = (rng.normal(size=(90, 5)) + 2 * np.eye(5)[Y]).astype(np.float32)  # three clouds, easily told apart
IMAGES = rng.integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)


def network(outputs: int = 3, dropout: float = 0.2) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, outputs)
        )


def conv() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def fitted(data: Any = (X, Y), seed: int = 0, model: nn.Module | None = None, **options: Any) -> dict[str, Tensor]:
    model = network() if model is None else model
    trainer(**options).fit(model, data, seed=seed)
    return weights(model)


# ---- training as such ----


def test_it_learns_and_keeps_a_history() -> None:
    model, t = network(), trainer(epochs=20)
    history = t.fit(model, (X, Y), seed=0)
    logits = t.infer(model, X).logits
    assert logits is not None
    assert float((logits.argmax(1).numpy() == Y).mean()) > 0.85
    assert [row["epoch"] for row in history.epochs] == list(range(1, 21))
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    assert history.epochs[0]["lr"] == 0.05 > history.epochs[10]["lr"] > history.epochs[-1]["lr"]
    assert (history.samples, history.best_epoch, history.stopped_early) == (1800, None, False)
    assert history.seconds > 0
    assert isinstance(t, Trainer)


def test_it_equals_a_hand_written_loop_bit_for_bit() -> None:
    ours, theirs = network(dropout=0.0), network(dropout=0.0)
    t = trainer(3, optimizer=functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), scheduler="constant")
    t.fit(ours, (X, Y), seed=5)
    optimizer, order = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9), torch.Generator().manual_seed(5)
    for _ in range(3):
        for rows in torch.randperm(90, generator=order).split(16):
            optimizer.zero_grad()
            F.cross_entropy(theirs(torch.as_tensor(X)[rows]), torch.as_tensor(Y)[rows]).backward()
            optimizer.step()
    assert same(weights(ours), weights(theirs))


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    jitter = lambda x: x + 0.1 * torch.randn_like(x)  # noqa: E731
    first = fitted(seed=1, transform=jitter)
    assert same(first, fitted(seed=1, transform=jitter))
    assert not same(first, fitted(seed=2, transform=jitter))
    assert not same(fitted(seed=None), fitted(seed=None))


@pytest.mark.parametrize("n", [16, 17, 33, 2])
def test_batch_norm_survives_a_last_batch_of_one(n: int) -> None:
    fitted((X[:n], Y[:n]))


class Counting(Dataset[Any]):
    """Made of the same rows, read one by one."""

    def __init__(self, x: Any = X, y: Any = Y) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Any:
        return self.x[row], int(self.y[row])


def test_arrays_tensors_memory_maps_and_datasets_train_alike(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    expected = fitted()
    assert same(expected, fitted((torch.as_tensor(X), torch.as_tensor(Y))))
    assert same(expected, fitted((np.load(tmp_path / "x.npy", mmap_mode="r"), Y.tolist())))
    assert same(expected, fitted((X.astype(np.float64), Y.astype(np.uint8))))
    assert same(expected, fitted(Counting()))
    assert same(expected, fitted(Counting(), num_workers=1))


def test_weights_count_rows() -> None:
    """With whole-set steps, a weight of 2 is a row twice and a weight of 0 is a row left out."""
    options: dict[str, Any] = {"epochs": 5, "batch_size": 500, "momentum": 0.0}
    weights = np.where(np.arange(90) < 30, 2.0, np.where(np.arange(90) < 60, 1.0, 0.0))
    repeated = np.r_[np.arange(30), np.arange(60)]
    found = fitted((X, Y, weights), model=linear(), **options)
    expected = fitted((X[repeated], Y[repeated]), model=linear(), **options)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def linear() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 3))


def test_class_weights_are_those_of_torch_and_balanced_ones_those_of_sklearn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    balanced = compute_class_weight("balanced", classes=np.arange(3), y=Y)
    own = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    runs = [fitted(class_weight=w) for w in ([1.0, 2.0, 0.5], {1: 2.0, 2: 0.5})]
    runs += [fitted(loss=own), fitted(class_weight="balanced"), fitted(class_weight=balanced)]
    for first, second in ((0, 1), (0, 2), (3, 4)):
        for name, value in runs[first].items():
            torch.testing.assert_close(value, runs[second][name])
    assert not same(runs[0], runs[3])


def test_any_loss_will_do() -> None:
    soft = np.eye(3, dtype=np.float32)[Y]
    assert same(fitted(loss=nn.CrossEntropyLoss()), fitted(loss=lambda z, y: F.cross_entropy(z, y)))
    per_row = fitted(loss=functools.partial(F.cross_entropy, reduction="none"))
    for name, value in fitted().items():
        torch.testing.assert_close(per_row[name], value)
    fitted((X, soft), loss=nn.MSELoss(), class_weight=None)
    fitted((X, soft))
    ignored = np.where(np.arange(90) < 10, -100, Y)
    fitted((X, ignored))


def test_frozen_parameters_stay_and_flags_come_back() -> None:
    model = network()
    model[0].requires_grad_(False)
    model[1].eval()
    before = weights(model)
    trainer().fit(model, (X, Y), seed=0)
    after = weights(model)
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["4.weight"], after["4.weight"])
    assert [m.training for m in model] == [True, False, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_lr_scale_enters_before_the_schedule() -> None:
    history = trainer(2, lr=0.2, lr_scale=0.2, scheduler="cosine").fit(network(), (X, Y), seed=0)
    assert [row["lr"] for row in history.epochs] == pytest.approx([0.04, 0.02])


def test_schedules_of_torch_can_be_used() -> None:
    cosine = trainer(3, scheduler=torch.optim.lr_scheduler.CosineAnnealingLR).fit(network(), (X, Y), seed=0)
    assert [row["lr"] for row in cosine.epochs] == pytest.approx([0.05, 0.0375, 0.0125])
    plateau = lambda o, epochs: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9)  # noqa: E731
    rates = [row["lr"] for row in trainer(3, scheduler=plateau).fit(network(), (X, Y), seed=0).epochs]
    assert rates == pytest.approx([0.05, 0.05, 0.005])


def test_gradients_are_clipped() -> None:
    options: dict[str, Any] = {"epochs": 1, "batch_size": 90, "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0}
    start, model = linear(), linear()
    trainer(grad_clip=0.01, **options).fit(model, (X, Y), seed=0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), start.parameters(), strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(0.01, rel=1e-3)


def test_channels_last_and_compile_are_undone() -> None:
    data = (IMAGES / np.float32(255), Y[:24])
    model = conv()
    trainer(2, channels_last=True).fit(model, data, seed=0)
    assert all(p.is_contiguous() for p in model.parameters())
    expected = fitted(data, model=conv(), epochs=2)
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_compile_is_used_and_leaves_the_network_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options) or model)
    fitted(compile={"mode": "reduce-overhead"})
    fitted(compile=True)
    fitted(compile=False)
    assert asked == [{"mode": "reduce-overhead"}, {}]


# ---- transforms ----


def test_transforms_for_training_and_evaluation_are_kept_apart() -> None:
    seen: list[str] = []
    t = trainer(
        1,
        transform=lambda x: seen.append("train") or x / 255,
        eval_transform=lambda x: seen.append("eval") or x / 255,
        early_stopping=EarlyStopping(validation_fraction=0.25),
    )
    model = conv()
    t.fit(model, (IMAGES, Y[:24]), seed=0)
    assert seen == ["train", "train", "train", "eval"]  # a look at two rows, two steps, one validation
    t.infer(model, IMAGES)
    assert seen[4:] == ["eval"]


def test_torchvision_transforms_work_and_are_seeded() -> None:
    augment = v2.Compose(
        [v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    )
    one, each = (fitted((IMAGES, Y[:24]), model=conv(), epochs=2, transform=t) for t in (augment, per_sample(augment)))
    assert same(one, fitted((IMAGES, Y[:24]), model=conv(), epochs=2, transform=augment))
    assert not same(one, each)


def test_inference_is_laid_out_as_training_is_and_that_is_undone() -> None:
    model, layouts = conv(), []
    read = trainer(eval_transform=lambda x: x / 255).infer(model, IMAGES).logits

    def note(layer: nn.Module, args: Any) -> None:
        tensors = (layer.weight, args[0])
        layouts.append([t.is_contiguous(memory_format=torch.channels_last) for t in tensors])

    handle = model[0].register_forward_pre_hook(note)
    other = trainer(eval_transform=lambda x: x / 255, channels_last=True).infer(model, IMAGES).logits
    handle.remove()
    assert layouts == [[True, True]]
    assert model[0].weight.is_contiguous()
    assert not model[0].weight.is_inference()
    torch.testing.assert_close(other, read)


# ---- early stopping ----


def test_it_stops_early_and_keeps_the_best_weights() -> None:
    noise = np.random.default_rng(3).integers(0, 3, 90)
    model, rule = network(), EarlyStopping(patience=3, validation_data=(X, Y))
    history = trainer(60, lr=0.3, early_stopping=rule).fit(model, (X, noise), seed=0)
    losses = [row["val_loss"] for row in history.epochs]
    assert history.best_epoch == 1 + int(np.argmin(losses))
    assert history.stopped_early
    assert len(losses) == history.best_epoch + 3
    logits = trainer().infer(model, X).logits
    assert logits is not None
    assert float(F.cross_entropy(logits, torch.as_tensor(Y))) == pytest.approx(min(losses), rel=1e-5)


def test_a_share_is_held_out_by_class_and_never_trained_on() -> None:
    seen: list[Tensor] = []
    rows = np.arange(90, dtype=np.float32)[:, None].repeat(5, 1) / 90
    rule = EarlyStopping(validation_fraction=0.2)
    t = trainer(2, early_stopping=rule, transform=lambda x: seen.append(x[:, 0].clone()) or x)
    history = t.fit(network(), (rows, np.arange(90) % 3), seed=0)
    trained = set((torch.cat(seen[1:]) * 90).round().int().tolist())
    assert history.samples == 2 * 72 == 2 * len(trained)
    held = np.array(sorted(set(range(90)) - trained))
    assert np.bincount(held % 3).tolist() == [6, 6, 6]


def test_on_a_plateau_of_the_training_loss_it_stops_with_its_last_weights_and_nothing_held_out() -> None:
    rule = EarlyStopping(patience=2, min_delta=0.01, monitor="train_loss")
    model, options = network(), {"lr": 0.3, "scheduler": "constant"}
    history = trainer(60, early_stopping=rule, **options).fit(model, (X, Y), seed=0)
    losses = [row["loss"] for row in history.epochs]
    assert history.stopped_early
    assert history.best_epoch is None
    assert history.samples == 90 * len(losses)
    assert not {"val_loss", "val_accuracy"} & history.epochs[0].keys()
    best, waited, stopped = losses[0], 0, 0
    for epoch, loss in enumerate(losses[1:], start=2):
        best, waited = (loss, 0) if loss < best - 0.01 else (best, waited + 1)
        stopped = stopped or epoch * (waited == 2)
    assert stopped == len(losses) < 60
    assert same(weights(model), fitted(epochs=len(losses), **options))  # as if that many epochs had been asked for
    patient = EarlyStopping(patience=60, monitor="train_loss")
    assert same(fitted(early_stopping=patient), fitted())
    one_row = trainer(2, early_stopping=rule).fit(network()[:1], (X[:1], Y[:1]), seed=0)  # there is none to spare
    assert one_row.samples == 2


# ---- what cannot work ----

NAN = np.where(np.arange(90)[:, None] % 40 == 7, np.nan, X)  # rows 7, 47, 87


class Unlabelled(Counting):
    def __getitem__(self, row: int) -> Any:
        return self.x[row]


@pytest.mark.parametrize(
    ("data", "options", "error", "says"),
    [
        ((X, Y + 5), {}, InputError, r"labels 5\.\.7 found, the network has 3 outputs \(labels 0\.\.2\)"),
        ((X, Y - 1), {}, InputError, r"labels -1\.\.1 found"),
        (Counting(X, Y + 5), {}, InputError, r"labels \d\.\.7 found"),
        (X, {}, InputError, "labels are needed for training"),
        (Unlabelled(), {}, InputError, "labels are needed for training"),
        ((X[:, :4], Y), {}, InputError, r"float32 \[2, 4\].*in_features=5"),
        (
            (X, np.where(Y > 1, np.nan, Y)),
            {"loss": F.cross_entropy},
            InputError,
            "32 of 90 labels are NaN or infinite",
        ),
        ((X, Y.astype(np.float32)), {}, InputError, r"labels are float32, one number per row.*pass integers"),
        ((X * np.float32("inf"), Y), {}, NonFiniteError, r"\(90 of 90\)"),
        ((NAN, Y), {}, NonFiniteError, r"rows 7, 47, 87 \(3 of 90\)"),
        (Counting(NAN.astype(np.float32), Y), {}, NonFiniteError, r"rows 7, 47, 87 \(3 of 90\)"),
        ((X, Y), {"lr": 1e30}, NonFiniteError, r"in epoch 1 of 3.*lr 1e\+30.*end of epoch 0"),
        ((X, Y), {"loss": "mse"}, InputError, "loss='mse'"),
        ((X, Y), {"optimizer": "lion"}, InputError, "sgd, adam, adamw, or a factory"),
        ((X, Y), {"optimizer": "adam", "momentum": 0.9}, InputError, "has no momentum"),
        ((X, Y), {"optimizer": torch.optim.SGD, "lr": 0.1}, InputError, "lr was given beside an optimizer factory"),
        ((X, Y), {"scheduler": "linear"}, InputError, "warmup_cosine"),
        ((X, Y), {"epochs": 0}, InputError, "epochs=0"),
        ((X, Y), {"batch_size": 0}, InputError, "batch_size=0"),
        ((X, Y), {"epochs": None}, InputError, "epochs=None; pass a whole number from 1"),
        ((X, Y), {"epochs": 2.5}, InputError, r"epochs=2\.5; pass a whole number from 1"),
        ((X, Y), {"batch_size": "8"}, InputError, "batch_size='8'; pass a whole number from 1"),
        ((X, Y), {"num_workers": -1}, InputError, "num_workers=-1; pass a whole number from 0"),
        ((X, Y), {"lr_scale": 0}, InputError, "lr_scale=0"),
        ((X, Y), {"grad_clip": 0}, InputError, "grad_clip=0; .* above 0, or None"),
        ((X, Y), {"lr_scale": "low"}, InputError, "lr_scale='low'"),
        ((X, Y), {"precision": "fp8"}, InputError, "fp32, bf16, fp16, auto"),
        ((X, Y), {"device": "cuda:99"}, InputError, "device='cuda:99'"),
        ((X, Y), {"class_weight": [1.0]}, InputError, "3 finite weights"),
        (Counting(X, Y), {"class_weight": np.ones(2)}, InputError, "3 finite weights"),
        ((X, Y), {"class_weight": {7: 1.0}}, InputError, r"class 7; the network has outputs 0\.\.2"),
        ((X, Y), {"class_weight": "even"}, InputError, "balanced"),
        ((X, Y), {"class_weight": "balanced", "loss": F.cross_entropy}, InputError, "one value for each row"),
        ((X, Y), {"early_stopping": 3}, InputError, "EarlyStopping"),
        ((X, Y), {"distillation": 0.5}, InputError, "Distillation"),
        ((X[:1], Y[:1]), {"early_stopping": EarlyStopping()}, InputError, "the data has 1 row"),
        ((X[:1], Y[:1]), {}, InputError, "more than 1 value per channel"),
    ],
)
def test_a_failed_training_says_why_and_changes_nothing(
    data: Any, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    model = network()
    before = weights(model)
    model[2].eval()
    with pytest.raises(error, match=says):
        trainer(**options).fit(model, data, seed=0)
    assert same(before, weights(model))
    assert [m.training for m in model] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"monitor": "val_loss"}, "monitor='val_loss'; pass one of 'loss', 'accuracy', 'train_loss'"),
        ({"monitor": "train_loss", "validation_data": (X, Y)}, "watches the training data, and validation_data= was"),
    ],
)
def test_early_stopping_that_contradicts_itself(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        EarlyStopping(**options)


def test_networks_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="lazy"):
        trainer().fit(nn.LazyLinear(3), (X, Y))
    with pytest.raises(InputError, match="none of the 6 parameters of the network requires a gradient"):
        trainer().fit(network().requires_grad_(False), (X, Y))


def test_when_the_loss_diverges_later_the_last_good_epoch_stays() -> None:
    explode = lambda o, epochs: torch.optim.lr_scheduler.LambdaLR(o, lambda e: 1.0 if e < 2 else 1e30)  # noqa: E731
    model = network()
    with pytest.raises(NonFiniteError, match=r"in epoch 3 of 4.*end of epoch 2"):
        trainer(4, scheduler=explode).fit(model, (X, Y), seed=0)
    assert same(weights(model), fitted(epochs=2, scheduler="constant"))


def test_a_mask_of_minus_infinity_is_no_divergence() -> None:
    model = network()
    model.register_buffer("mask", torch.full((2,), float("-inf")))
    trainer().fit(model, (X, Y), seed=0)


def test_an_interrupted_training_keeps_the_last_epoch() -> None:
    calls = iter(range(100))

    def interrupt(x: Tensor) -> Tensor:
        if next(calls) == 9:  # one look, six steps an epoch: in the second epoch
            raise KeyboardInterrupt
        return x

    model = network()
    with pytest.raises(KeyboardInterrupt):
        trainer(3, scheduler="constant", transform=interrupt).fit(model, (X, Y), seed=0)
    assert same(weights(model), fitted(epochs=1, scheduler="constant"))


# ---- precision ----


def test_bf16_without_hardware_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunefuse_al.network.precision.has_bf16", lambda device: False)
    with pytest.warns(FallbackWarning, match="precision='bf16' is not supported in hardware"):
        found = fitted(precision="bf16")
    assert same(found, fitted())
    assert same(fitted(precision="auto"), fitted())


def test_bf16_is_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunefuse_al.network.precision.has_bf16", lambda device: True)
    found, exact = fitted(precision="bf16"), fitted()
    assert not same(found, exact)
    assert found["4.weight"].dtype == torch.float32
    torch.testing.assert_close(found["4.weight"], exact["4.weight"], rtol=0.1, atol=0.05)


# ---- as a scikit-learn object ----


def test_parameters_are_stored_untouched_and_cloned() -> None:
    rule = EarlyStopping(patience=2)
    t = TorchTrainer(7, early_stopping=rule, optimizer=torch.optim.SGD, distillation=Distillation(0.1))
    assert t.get_params()["early_stopping"] is rule
    assert clone(t).get_params()["distillation"] == Distillation(0.1)
    assert clone(t).set_params(epochs=9).epochs == 9
    assert pickle.loads(pickle.dumps(t)).epochs == 7
    assert copy.deepcopy(t).optimizer is torch.optim.SGD
    assert repr(TorchTrainer(3, lr=0.1)) == "TorchTrainer(epochs=3, lr=0.1)"


def test_presets_are_those_of_the_paper_and_can_be_shortened() -> None:
    t = TorchTrainer.preset("cifar")
    assert (t.epochs, t.batch_size, t.lr, t.momentum, t.weight_decay) == (181, 128, 0.1, 0.9, 5e-4)
    short = TorchTrainer.preset("cifar", epochs=4, progress=False, batch_size=8, device="cpu")
    history = short.fit(conv(), (IMAGES, Y[:24]), seed=0)
    assert [row["lr"] for row in history.epochs] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    imagenet = TorchTrainer.preset("imagenet")
    assert (imagenet.epochs, imagenet.weight_decay, imagenet.loss.label_smoothing) == (100, 1e-4, 0.1)
    with pytest.raises(InputError, match="one of 'cifar', 'imagenet'"):
        TorchTrainer.preset("mnist")


def test_progress_goes_to_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(progress=True)
    assert capsys.readouterr().err == ""


def test_random_numbers_of_all_three_kinds_are_seeded_and_put_back() -> None:
    import random

    drawn: list[tuple[float, float, float]] = []

    def draw(x: Tensor) -> Tensor:
        drawn.append((random.random(), np.random.random(), float(torch.rand(()))))
        return x

    fitted(epochs=1, transform=draw)
    half = len(drawn)
    fitted(epochs=1, transform=draw)
    assert drawn[:half] == drawn[half:]
