"""What a loss asks of labels: given as it takes them where there is one way, else refused with the rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import fakes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import mlp, seeded, weights
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.ops import sigmoid_focal_loss

from prunefuse_al.errors import InputError, NonFiniteError
from prunefuse_al.network.outputs import Outputs
from prunefuse_al.training import Distillation, EarlyStopping, Recorder, TorchTrainer
from prunefuse_al.training.distillation import distillation_loss

generator = torch.Generator().manual_seed(0)
X = torch.randn(120, 6, generator=generator)
W = torch.randn(6, 4, generator=generator)
LABELS = (X @ W > 0).long()  # independent ones
ONE = LABELS[:, 0]
CLASSES = (X @ W).argmax(1)
VALUES = (X @ W[:, :1]).tanh()
ROWS = r"rows 0, 1, 2, 3, 4, \.\.\. \(120 of 120\)"


trainer = partial(fakes.trainer, batch_size=32)


def trained(y: Any, width: int = 4, *, network: nn.Module | None = None, **options: Any) -> nn.Module:
    model = mlp(6, 16, width) if network is None else network
    trainer(**options).fit(model, (X, y), seed=0)
    return model


def close(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-5, atol=1e-6)


class Flat(nn.Module):
    """Gives one number a row, [n] and not [n 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(6, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).squeeze(1)


# ---- right: one answer, however it is given ----

FORMS: dict[str, Callable[[Tensor], Any]] = {
    "int": lambda y: y,
    "bool": lambda y: y.bool().numpy(),
    "float": lambda y: y.float(),
    "double": lambda y: y.double().numpy(),
    "[n 1] int": lambda y: y[:, None].numpy(),
    "[n 1] float": lambda y: y[:, None].float(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", ["[n 1]", "[n]"])
def test_one_output_takes_0_and_1_in_any_form(form: str, network: str) -> None:
    make = {"[n 1]": lambda: mlp(6, 16, 1), "[n]": Flat}[network]
    loss = nn.BCEWithLogitsLoss()
    want, found = make(), trained(FORMS[form](ONE), network=make(), loss=loss)
    plain = trainer(loss=lambda z, y: F.binary_cross_entropy_with_logits(z.reshape(-1), y))
    plain.fit(want, (X, ONE.float()), seed=0)
    close(found, want)


@pytest.mark.parametrize("form", ["int", "bool", "float", "double"])
@pytest.mark.parametrize(
    "loss",
    [
        nn.BCEWithLogitsLoss(),
        F.binary_cross_entropy_with_logits,
        functools.partial(sigmoid_focal_loss, reduction="mean"),
        nn.MultiLabelSoftMarginLoss(),
    ],
    ids=["BCE", "functional", "focal", "soft margin"],
)
def test_independent_labels_train_in_any_form(form: str, loss: Any) -> None:
    own = mlp(6, 16, 4)
    trainer(loss=lambda z, y: loss(z, y), outputs="sigmoid").fit(own, (X, LABELS.float()), seed=0)
    close(trained(FORMS[form](LABELS), loss=loss), own)


@pytest.mark.parametrize("y", [VALUES, VALUES[:, 0], VALUES.double().numpy()], ids=["[n 1]", "[n]", "double"])
@pytest.mark.parametrize("make", [lambda: mlp(6, 16, 1), Flat], ids=["[n 1]", "[n]"])
@pytest.mark.parametrize("loss", [nn.MSELoss(), F.mse_loss, nn.SmoothL1Loss()], ids=["MSE", "functional", "smooth"])
def test_a_regression_compares_each_row_with_its_own_value(y: Any, make: Any, loss: Any) -> None:
    model = trained(y, network=make(), loss=loss, epochs=150)
    with torch.no_grad():
        error = (model(X).reshape(-1) - VALUES[:, 0]).square().mean() / VALUES.var()
    assert float(error) < 0.1  # a broadcast n x n learns the mean alone: 1.0


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.int32, torch.uint8])
def test_rows_with_a_single_1_are_the_numbers_of_classes(kind: torch.dtype) -> None:
    one_hot = F.one_hot(CLASSES).to(kind)
    history, expected = (
        trainer(class_weight="balanced").fit(mlp(6, 16, 4), (X, y), seed=0) for y in (one_hot, CLASSES)
    )
    assert history.epochs == expected.epochs  # accuracy and weights of classes too
    items = TensorDataset(X, one_hot)  # in the items of a dataset as well
    assert trainer(class_weight="balanced").fit(mlp(6, 16, 4), items, seed=0).epochs == expected.epochs


def test_weights_of_classes_may_have_another_type() -> None:
    double, single = (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4], dtype=d)) for d in (torch.float64, None))
    close(trained(CLASSES, loss=double), trained(CLASSES, loss=single))
    assert double.weight.dtype == torch.float64


def test_soft_targets_of_probabilities_train() -> None:
    soft = torch.full((120, 4), 0.05).scatter(1, CLASSES[:, None], 0.85)
    for y in (soft, soft.double().numpy(), soft.half().float()):
        trained(y)
        trained(y, loss=nn.CrossEntropyLoss(label_smoothing=0.1))


# ---- weights, accuracy, held-out rows, a teacher, a recorder ----


def test_weights_of_the_two_classes_of_one_output_are_those_of_two_outputs() -> None:
    """A network whose second output is the one, and whose first is 0, has the same loss under cross entropy."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(6, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            z = self.body(x)
            return torch.cat([torch.zeros_like(z), z], 1)

    for weight in ("balanced", {1: 3.0}, [1.0, 0.5]):
        one = trained(ONE, network=mlp(6, 16, 1), loss=nn.BCEWithLogitsLoss(), class_weight=weight)
        two = trained(ONE, network=Two(), class_weight=weight)
        torch.testing.assert_close(weights(one), {k.removeprefix("body."): v for k, v in weights(two).items()})


def test_rows_count_by_their_weights() -> None:
    weights = torch.where(torch.arange(120) < 60, 1.0, 0.0)
    for y, outputs in ((LABELS, 4), (ONE, 1)):
        some, same = mlp(6, 16, outputs), mlp(6, 16, outputs)
        options = {"loss": nn.BCEWithLogitsLoss(), "epochs": 1, "batch_size": 120, "momentum": 0.0}
        TorchTrainer(device="cpu", progress=False, **options).fit(some, (X, y, weights), seed=0)
        TorchTrainer(device="cpu", progress=False, **options).fit(same, (X[:60], y[:60]), seed=0)
        close(some, same)


@pytest.mark.parametrize(("y", "outputs"), [(ONE, 1), (LABELS, 4)])
def test_accuracy_is_that_all_labels_of_a_row_are_right(y: Tensor, outputs: int) -> None:
    rule = EarlyStopping(monitor="accuracy", validation_data=(X, y))
    model = mlp(6, 16, outputs)
    history = trainer(loss=nn.BCEWithLogitsLoss(), early_stopping=rule, epochs=4).fit(model, (X, y), seed=0)
    with torch.no_grad():
        right = ((model(X) > 0) == y.reshape(120, -1).bool()).all(1).float().mean()
    assert max(row["val_accuracy"] for row in history.epochs) == pytest.approx(float(right))
    squashed = trainer(loss=nn.BCELoss()).fit(nn.Sequential(mlp(6, 16, outputs), nn.Sigmoid()), (X, y), seed=0)
    plain = trainer(loss=nn.BCEWithLogitsLoss()).fit(mlp(6, 16, outputs), (X, y), seed=0)
    assert [row["accuracy"] for row in squashed.epochs] == [row["accuracy"] for row in plain.epochs]


def test_early_stopping_cannot_go_by_an_accuracy_that_there_is_not() -> None:
    for y, outputs, loss in ((VALUES, 1, nn.MSELoss()), (torch.full((120, 4), 0.25), 4, "cross_entropy")):
        with pytest.raises(InputError, match="monitor='accuracy', and soft targets or values have no accuracy"):
            trained(y, outputs, loss=loss, early_stopping=EarlyStopping(monitor="accuracy"))


def test_a_teacher_of_independent_labels_teaches_each() -> None:
    s, t = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    found = distillation_loss(s, t, 2.0, outputs=Outputs("sigmoid"))
    each = [
        distillation_loss(*(torch.stack([torch.zeros(5), z[:, j]], 1) for z in (s, t)), 2.0) for j in range(3)
    ]  # each label as two classes
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    squashed = distillation_loss(s.sigmoid(), t.sigmoid(), 2.0, outputs=Outputs("sigmoid", squashed=True))
    torch.testing.assert_close(squashed, found, rtol=1e-4, atol=1e-5)
    teacher, loss = trained(LABELS, loss=nn.BCEWithLogitsLoss(), epochs=30, lr=0.5), nn.BCEWithLogitsLoss()
    taught = mlp(6, 16, 4)
    noise = 1 - LABELS
    options = {"loss": loss, "epochs": 30, "lr": 0.5, "distillation": Distillation(1.0, 1.0)}
    trainer(**options).fit(taught, (X, noise), teacher=teacher, seed=0)
    with torch.no_grad():
        assert float(((taught(X) > 0) == (teacher(X) > 0)).float().mean()) > 0.9
    with pytest.raises(InputError, match="distillation compares probabilities, and MSELoss is a loss of values"):
        trainer(loss=nn.MSELoss(), distillation=Distillation()).fit(mlp(6, 8, 1), (X, VALUES), teacher=mlp(6, 8, 1))


def test_dynamics_of_one_output_are_those_of_two_classes() -> None:
    recorder = Recorder()
    trainer(loss=nn.BCEWithLogitsLoss(), epochs=4).fit(
        mlp(6, 16, 1), (X, ONE[:, None].float()), seed=0, recorder=recorder
    )
    assert sorted(recorder.dynamics) == ["aum", "correct", "el2n", "forgetting"]
    assert all(values.isfinite().all() for values in recorder.dynamics.values())
    refused = [(LABELS, 4, nn.BCEWithLogitsLoss()), (VALUES, 1, nn.MSELoss())]
    for y, outputs, loss in refused:
        with pytest.raises(InputError, match=r"training dynamics compare .* train without a recorder"):
            trainer(loss=loss).fit(mlp(6, 16, outputs), (X, y), recorder=Recorder())
    with pytest.raises(InputError, match="training dynamics need labels of 0 or 1, and some lie between"):
        trainer(loss=nn.BCEWithLogitsLoss()).fit(mlp(6, 16, 1), (X, ONE * 0.9), recorder=Recorder())


# ---- refused: nothing is guessed, nothing is broadcast ----

INF = torch.full((120, 4), torch.inf)
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "several labels": (
        LABELS,
        {},
        r"CrossEntropyLoss takes one class for each row, and rows of 0 and 1 that do not sum to 1 are in rows .* "
        r"pass TorchTrainer\(loss=nn\.BCEWithLogitsLoss\(\)\)",
    ),
    "several labels, float": (LABELS.float(), {}, r"do not sum to 1 .*BCEWithLogitsLoss"),
    "several labels, functional": (LABELS.float(), {"loss": F.cross_entropy}, "cross_entropy takes one class for each"),
    "several labels, own loss": (
        LABELS.float(),
        {"loss": lambda z, y: F.cross_entropy(z, y)},
        r"nothing says what outputs <lambda> takes: pass TorchTrainer\(outputs='sigmoid'\)",
    ),
    "counts": (LABELS * 3, {}, r"labels are int64 \[n, 4\], and CrossEntropyLoss takes the number of a class"),
    "width": (F.one_hot(CLASSES % 3), {}, r"labels have shape \[n, 3\] and the network's outputs \[n, 4\]"),
    "negative": (torch.tensor([[1.5, -0.5, 0, 0]] * 120), {}, f"soft targets below 0 are in {ROWS}, for example"),
    "sums": (torch.full((120, 4), 0.3), {}, f"soft targets that do not sum to 1 are in {ROWS}"),
    "nan": (torch.full((120, 4), torch.nan), {}, "120 of 120 labels are NaN or infinite, the first in row 0"),
    "inf": (INF, {"loss": nn.BCEWithLogitsLoss()}, "120 of 120 labels are NaN or infinite"),
    "nan values": (VALUES * torch.nan, {"loss": nn.MSELoss(), "outputs_": 1}, "labels are NaN or infinite"),
    "soft to NLL": (
        torch.full((120, 4), 0.25),
        {"network": nn.Sequential(mlp(6, 8, 4), nn.LogSoftmax(1)), "loss": nn.NLLLoss()},
        r"labels are float32 \[n, 4\], and NLLLoss takes the number of a class for each row",
    ),
    "beyond 1": (LABELS * 2, {"loss": nn.BCEWithLogitsLoss()}, r"labels outside 0 to 1 are in rows .* encode them"),
    "minus 1": (2 * ONE - 1, {"loss": nn.BCEWithLogitsLoss(), "outputs_": 1}, "labels outside 0 to 1 are in rows"),
    "class for independent": (
        CLASSES,
        {"loss": nn.BCEWithLogitsLoss()},
        r"labels have shape \[n\] and the network's outputs \[n, 4\]: BCEWithLogitsLoss takes 0 or 1 for each of them",
    ),
    "columns": (LABELS[:, :3], {"loss": nn.BCEWithLogitsLoss()}, r"shape \[n, 3\] and the network's outputs \[n, 4\]"),
    "columns of one": (LABELS, {"loss": nn.BCEWithLogitsLoss(), "outputs_": 1}, r"shape \[n, 4\] .* outputs \[n, 1\]"),
    "values and columns": (
        VALUES,
        {"loss": nn.MSELoss()},
        r"labels have shape \[n, 1\] and the network's outputs \[n, 4\]",
    ),
    "one output": (ONE, {"outputs_": 1}, r"compares two outputs or more, and the network has 1.*BCEWithLogitsLoss"),
    "plus and minus": (ONE, {"loss": nn.SoftMarginLoss(), "outputs_": 1}, r"labels of -1 and 1.*BCEWithLogitsLoss"),
    "own loss, [n 1] and [n]": (
        VALUES[:, 0],
        {"loss": lambda z, y: (z - y).square().mean(), "outputs_": 1},
        r"<lambda> pairs every row with every other: outputs \[32, 1\] meet labels \[32\] and torch broadcasts",
    ),
    "own loss, [n] and [n 1]": (
        VALUES,
        {"loss": lambda z, y: F.l1_loss(z[:, 0], y), "outputs_": 1},
        "pairs every row with every other",
    ),
    "class": (CLASSES, {"loss": nn.BCEWithLogitsLoss}, r"the class BCEWithLogitsLoss, not an instance\); pass 'cross_"),
    "nothing back": (
        CLASSES,
        {"loss": lambda z, y: None},
        "loss: what <lambda> returned=None; pass a loss that returns",
    ),
    "loss fails": (
        CLASSES,
        {"loss": nn.CosineEmbeddingLoss()},
        r"the loss CosineEmbeddingLoss failed on outputs float32 \[32, 4\] and labels int64 \[32\]: .*another loss",
    ),
    "length of weights": (
        CLASSES,
        {"loss": nn.CrossEntropyLoss(weight=torch.ones(3))},
        "the loss CrossEntropyLoss failed on outputs",
    ),
    "weights of independent": (
        LABELS,
        {"loss": nn.BCEWithLogitsLoss(), "class_weight": "balanced"},
        r"class_weight='balanced' weighs rows by their class, and a row has not one.*pos_weight",
    ),
    "weights of soft targets": (
        torch.full((120, 4), 0.25),
        {"class_weight": [1, 1, 1, 1]},
        r"by the number of their class, and labels are float32 \[32, 4\].*CrossEntropyLoss\(weight=",
    ),
    "outputs": (CLASSES, {"outputs": "logits"}, "outputs='logits'; pass one of 'auto', 'softmax', 'softmax_prob"),
    "outputs and loss": (
        CLASSES,
        {"outputs": "sigmoid"},
        "outputs='sigmoid', but CrossEntropyLoss is a loss of classes",
    ),
    "softmax twice": (
        CLASSES,
        {"network": nn.Sequential(mlp(6, 8, 4), nn.Softmax(1))},
        "the network ends in a softmax, and CrossEntropyLoss takes logits: it applies its own",
    ),
    "sigmoid twice": (
        LABELS,
        {"network": nn.Sequential(mlp(6, 8, 4), nn.Sigmoid()), "loss": nn.BCEWithLogitsLoss()},
        "the network ends in a sigmoid, and BCEWithLogitsLoss takes logits",
    ),
    "softmax and own loss": (
        CLASSES,
        {"network": nn.Sequential(mlp(6, 8, 4), nn.Softmax(1)), "loss": lambda p, y: F.nll_loss(p.log(), y)},
        r"ends in a softmax, and nothing says whether <lambda> takes probabilities: .*'softmax_probabilities'",
    ),
    "no log-probabilities": (CLASSES, {"loss": nn.NLLLoss()}, r"NLLLoss takes log-probabilities, .* a row .* sum to"),
    "no probabilities": (LABELS, {"loss": nn.BCELoss()}, "the loss BCELoss failed on outputs .* between 0 and 1"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("items", [False, True], ids=["arrays", "items"])
def test_what_a_loss_cannot_take_is_refused_and_nothing_is_changed(name: str, items: bool) -> None:
    y, options, says = REFUSED[name]
    options = dict(options)
    network = options.pop("network", None) or mlp(6, 16, options.pop("outputs_", 4))
    before = weights(network)
    data = TensorDataset(X, torch.as_tensor(y)) if items else (X, y)
    if items:  # only the rows of a batch are known then
        says = says.replace(ROWS, "rows .*").replace("120 of 120", r"\d+ of 120").replace(", the first in row 0", "")
    with pytest.raises(InputError, match=says):
        trainer(**options).fit(network, data, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in weights(network).items())


def test_rows_are_those_of_the_data_also_where_some_are_held_out() -> None:
    soft = torch.full((120, 4), 0.25)
    soft[77] = torch.tensor([2.0, -1, 0, 0])
    for data in ((X, soft), TensorDataset(X, soft)):
        with pytest.raises(InputError, match=r"soft targets below 0 are in row 77 \(1 of 120\)|row \d+ \(1 of \d+\)"):
            trainer(early_stopping=EarlyStopping(validation_fraction=0.3)).fit(mlp(6, 8, 4), data, seed=0)


def test_what_is_stated_is_believed() -> None:
    """The way out where a check is wrong about a network or a loss."""
    trained(CLASSES, network=nn.Sequential(mlp(6, 8, 4), nn.Softmax(1)), outputs="softmax")
    trained(LABELS, loss=lambda z, y: F.mse_loss(z, y.float()), outputs="softmax")

    def own(z: Tensor, y: Tensor) -> Tensor:
        assert z.shape == y.shape
        return F.binary_cross_entropy_with_logits(z, y)

    own.outputs = "sigmoid"  # type: ignore[attr-defined]
    close(trained(LABELS, loss=own), trained(LABELS, loss=nn.BCEWithLogitsLoss()))
    close(trained(ONE, 1, loss=functools.partial(own)), trained(ONE, 1, loss=nn.BCEWithLogitsLoss()))


def test_a_loss_of_ones_own_may_compare_rows_on_purpose() -> None:
    def ranking(z: Tensor, y: Tensor) -> Tensor:
        signs = (y[:, None] - y[None]).sign()
        return F.softplus(-signs * (z - z.T)).mean()

    trained(VALUES[:, 0], 1, loss=ranking)
    trained(VALUES[:, 0], 1, loss=lambda z, y: (z[:, 0] - y).square().mean())
    trained(VALUES, 1, loss=lambda z, y: (z - y).square().mean())


def test_classes_at_positions_train_as_ever() -> None:
    pictures = torch.randn(20, 2, 6, 6, generator=generator)
    numbers = (pictures.sum(1) > 0).long()
    network, single = (
        seeded(lambda n=n: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, n, 1))) for n in (2, 1)
    )
    trainer().fit(network, (pictures, numbers), seed=0)
    with pytest.raises(InputError, match=r"labels 0\.\.5 found, the network has 2 outputs"):
        trainer().fit(network, (pictures, numbers * 5), seed=0)
    for y in (numbers, numbers[:, None], numbers.bool()):
        trainer(loss=nn.BCEWithLogitsLoss()).fit(single, (pictures, y), seed=0)


def test_labels_that_a_loss_leaves_out_are_named_where_it_does_not() -> None:
    y = VALUES.expand(-1, 4).clone()
    y[3] = torch.nan
    masked = lambda z, y: (z - y)[~y.isnan()].square().mean()  # noqa: E731
    trained(y, loss=masked)
    with pytest.raises(NonFiniteError, match=r"labels are NaN or infinite in rows \[3\] \(1 in all\): leave them out"):
        trained(y, loss=lambda z, y: (z - y).square().mean())


@pytest.mark.parametrize("weight", [1e300, 1e31, 1e-300])
def test_weights_that_single_precision_cannot_sum_are_refused(weight: float) -> None:
    weights = np.where(np.arange(120) == 5, weight, 1.0)
    items = TensorDataset(X, CLASSES, torch.from_numpy(weights))
    for data in ((X, CLASSES, weights), items):
        with pytest.raises(InputError, match=r"sample_weight is .* in row 5 \(1 of 120\).*divide all by the largest"):
            trainer(1).fit(mlp(6, 8, 4), data, seed=0)
    with pytest.raises(InputError, match="sample_weight has dtype <U1; one number for each"):
        trainer().fit(mlp(6, 8, 4), (X, CLASSES, ["a"] * 120))


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.array(["a", None, "b"] * 40, dtype=object), r"labels are None in rows 1, 4, 7, .* \(40 of 120\).*drop"),
        (np.ma.masked_equal(CLASSES.numpy(), 0), r"labels are masked in rows .*drop these rows"),
        (CLASSES.to(torch.complex64), r"labels have dtype torch\.complex64"),
        (np.array(["a", "b"] * 60), "labels have dtype <U1; integers"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(y: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        trainer().fit(mlp(6, 8, 4), (X, y))
