"""What a network's outputs mean follows from its loss, and everything that reads them agrees about it."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any, ClassVar

import fakes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import PlainTrainer, mlp
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from prunefuse_al import Distillation, PrunedProxySelector, TorchTrainer, advise
from prunefuse_al.errors import InputError
from prunefuse_al.network.outputs import (
    STATED,
    Outputs,
    from_probabilities,
    of_loss,
    of_trainer,
    probabilities,
    seen_by_scorers,
)
from prunefuse_al.network.signals import collect
from prunefuse_al.scorers import SCORERS, get_scorer, margin, ml_entropy
from prunefuse_al.selector import select_by_probability
from prunefuse_al.training import EarlyStopping, FunctionTrainer
from prunefuse_al.types import Selection, Signals

generator = torch.Generator().manual_seed(0)
X = torch.randn(150, 6, generator=generator)
W = torch.randn(6, 4, generator=generator)
LABELS = (X @ W > 0).long()
ONE = LABELS[:, 0]
VALUES = (X @ W[:, :1]).tanh()
BCE = nn.BCEWithLogitsLoss()


trainer = partial(fakes.trainer, epochs=40, batch_size=32, lr=0.1)


def network(width: int, *tail: nn.Module) -> nn.Sequential:
    return nn.Sequential(*mlp(6, 16, 16), nn.ReLU(), nn.Dropout(0.2), mlp(16, width, seed=1)[0], *tail)


def selector(width: int, *tail: nn.Module, scorer: Any = "k_center", **options: Any) -> PrunedProxySelector:
    rest = {name: options.pop(name) for name in ("distillation", "importance") if name in options}
    training = options.pop("trainer", None) or trainer(**options)
    return PrunedProxySelector(
        network(width, *tail), 0.5, trainer=training, scorer=scorer, example_inputs=X[:2], random_state=0, **rest
    )


# ---- the loss says it ----


@pytest.mark.parametrize(
    ("loss", "stated"),
    [
        ("cross_entropy", "softmax"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "softmax"),
        (nn.NLLLoss(), "softmax"),
        (F.multi_margin_loss, "softmax"),
        (BCE, "sigmoid"),
        (nn.MultiLabelSoftMarginLoss(), "sigmoid"),
        (functools.partial(F.binary_cross_entropy_with_logits, reduction="none"), "sigmoid"),
        (functools.partial(functools.partial(sigmoid_focal_loss, gamma=1.0), reduction="mean"), "sigmoid"),
        (nn.BCELoss(), "sigmoid_probabilities"),
        (nn.MSELoss(), "values"),
        (F.smooth_l1_loss, "values"),
        (nn.MultiLabelMarginLoss(), "values"),
        (lambda z, y: z.sum(), None),
        (nn.TripletMarginLoss(), None),
    ],
)
def test_torchs_losses_say_what_outputs_they_take(loss: Any, stated: str | None) -> None:
    found = of_loss(loss)
    assert (None if found is None else found.name) == stated
    assert of_trainer(TorchTrainer(loss=loss)) == found


def test_a_loss_or_a_trainer_of_ones_own_states_it() -> None:
    def own(z: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, y)

    own.outputs = "sigmoid"  # type: ignore[attr-defined]
    assert of_loss(own) == of_loss(functools.partial(own)) == Outputs("sigmoid")
    assert of_trainer(TorchTrainer(loss=own)) == Outputs("sigmoid")
    assert of_trainer(TorchTrainer(loss=lambda z, y: z.sum(), outputs="values")) == Outputs("values")
    assert of_trainer(PlainTrainer()) is None
    assert [Outputs.named(name).name for name in STATED] == list(STATED)
    for call in (lambda: Outputs.named("logits"), lambda: FunctionTrainer(print, outputs="logits")):
        with pytest.raises(
            InputError, match=r"outputs='logits'.* one of 'softmax', 'softmax_probabilities', 'sigmoid'"
        ):
            call()


# ---- one output: two classes, exactly as softmax of (0, z) ----


@pytest.mark.parametrize("tail", [(), (nn.Flatten(0),)], ids=["[n 1]", "[n]"])
@pytest.mark.parametrize("squashed", [False, True])
def test_one_output_is_two_classes_for_every_scorer(tail: Any, squashed: bool) -> None:
    tail = (*tail, nn.Sigmoid()) if squashed else tail
    loss = nn.BCELoss() if squashed else BCE
    chosen = selector(1, *tail, loss=loss, scorer="aum").fit(X[:100], ONE[:100])
    with torch.no_grad():
        given = chosen.model.eval()(X).reshape(150)
    z = torch.logit(given.double(), 1e-7).float() if squashed else given
    two = torch.stack([torch.zeros(150), z], 1)
    said = chosen.signals(X)
    assert said.outputs == "softmax"
    near = z.abs() < 5  # further out probabilities in single precision tell less
    torch.testing.assert_close(said.logits[near], two[near], rtol=1e-3, atol=1e-3)
    proba = chosen.predict_proba(X)
    np.testing.assert_allclose(proba, two.double().softmax(1), atol=1e-5)
    np.testing.assert_allclose(proba[:, 1], z.double().sigmoid(), atol=1e-5)
    assert ((proba[:, 1] > 0.5) == ONE.bool().numpy()).mean() > 0.85
    ranked = chosen.select(X, 150, scorer="margin")
    np.testing.assert_allclose(ranked.scores, margin(two)[ranked.indices], atol=1e-4)
    for name in SCORERS.keys() - {"adapruner"}:  # which is refused on pools
        picked = chosen.select(X, 5, candidates=range(100, 150), scorer=name).indices
        assert len(set(picked.tolist())) == 5, name
    assert chosen.fit_target()[-1 - len(tail)].in_features == 16


def test_core_sets_advice_and_v2_with_one_output() -> None:
    chosen = selector(1, loss=BCE)
    kept = chosen.coreset(X, 0.4, ONE[:, None].float(), scorer="el2n")
    assert (len(kept.indices), kept.labels) == (60, "given")
    advice = advise(
        network(1),
        X[:2],
        labelled=(X, ONE.float()),
        ratios=[0.5],
        trainer=trainer(epochs=2, loss=BCE),
        repeats=1,
        trial_epochs=2,
    )
    assert np.isfinite(advice.rows[0].agreement.spearman)
    several = advise(
        network(4),
        X[:2],
        labelled=(X, LABELS),
        ratios=[0.5],
        trainer=trainer(epochs=2, loss=BCE),
        repeats=1,
        trial_epochs=2,
        scorer="ml_entropy",
    )
    assert np.isfinite(several.rows[0].agreement.spearman)
    alone = advise(network(1), X[:2], ratios=[0.5], trainer=trainer(epochs=2, loss=BCE), repeats=1)
    assert alone.rows[0].timing.train.median > 0


# ---- several: independent labels ----


@pytest.mark.parametrize("squashed", [False, True])
def test_independent_labels_are_scored_by_their_sigmoids(squashed: bool) -> None:
    tail, loss = ((nn.Sigmoid(),), nn.BCELoss()) if squashed else ((), BCE)
    chosen = selector(4, *tail, loss=loss, distillation=Distillation(0.3)).fit(X[:100], LABELS[:100].bool())
    with torch.no_grad():
        given = chosen.model.eval()(X)
    z = torch.logit(given.double(), 1e-7).float() if squashed else given
    said = chosen.signals(X)
    assert said.outputs == "sigmoid"
    near = z.abs() < 5
    torch.testing.assert_close(said.logits[near], z[near], rtol=1e-3, atol=1e-3)
    proba = chosen.predict_proba(X)
    np.testing.assert_allclose(proba, z.double().sigmoid(), atol=1e-5)
    assert ((proba > 0.5) == LABELS.bool().numpy()).mean() > 0.7
    ranked = chosen.select(X, 150, scorer="ml_entropy")
    np.testing.assert_allclose(ranked.scores, ml_entropy(z)[ranked.indices], atol=1e-4)
    target = chosen.fit_target()
    with torch.no_grad():
        assert (((target.eval()(X) > (0.5 if squashed else 0)).long() == LABELS).float().mean()) > 0.8


def test_scorers_of_classes_refuse_independent_labels_by_name_and_others_work() -> None:
    chosen = selector(4, loss=BCE).fit(X[:100], LABELS[:100])
    before, rows = chosen.predict_proba(X), len(chosen.costs.rows())
    for name, cls in SCORERS.items():
        if name == "adapruner":  # is refused on pools
            continue
        scorer, pool = get_scorer(name), {"candidates": range(100, 150)}
        if getattr(cls(), "outputs", None) == "sigmoid" or not scorer.needs & {
            "logits",
            "mc_logits",
            "labels",
            "dynamics",
        }:
            assert len(set(chosen.select(X, 5, scorer=name, **pool).indices.tolist())) == 5, name
            continue
        with pytest.raises(
            InputError, match=r"independent labels.* take .*ml_entropy|training dynamics compare .*ml_entropy"
        ):
            chosen.select(X, 5, scorer=name, **pool)
    np.testing.assert_array_equal(chosen.predict_proba(X), before)
    assert {row.stage for row in chosen.costs.rows()[rows:]} <= {"score", "rank", "predict"}
    with pytest.raises(InputError, match=r"the number of a class for each sample is needed: .* ml_entropy"):
        chosen.coreset(X, 0.5, LABELS, scorer="moderate")
    assert len(chosen.coreset(X, 0.5, LABELS, scorer="ml_badge").indices) == 75
    with pytest.raises(InputError, match=r"rows of 0 and 1 that do not sum to 1 .*BCEWithLogitsLoss"):
        selector(4).fit(X, LABELS)


class Own:
    """A scorer of the user's own, that takes what it is given for logits of classes."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def select(self, signals: Signals, k: int, *, rng: Any = None) -> Selection:
        assert signals.logits is not None
        return Selection(signals.indices[signals.logits.softmax(1).amax(1).argsort()[:k]])


def test_a_scorer_of_ones_own_sees_only_what_it_says_it_reads() -> None:
    chosen = selector(4, loss=BCE).fit(X, LABELS)
    with pytest.raises(InputError, match="Own compares classes of which a sample has one"):
        chosen.select(X, 3, scorer=Own())
    both = type("Both", (Own,), {"outputs": "sigmoid"})
    assert len(chosen.select(X, 3, scorer=both()).indices) == 3


def test_known_labels_of_what_is_labelled_reach_scorers() -> None:
    chosen = selector(4, loss=BCE).fit(X[:100], LABELS[:100])
    z = chosen.signals(X).logits
    count = LABELS[:100].double().sum(1).mean()
    ranked = chosen.select(X, 150, scorer="label_cardinality")
    np.testing.assert_allclose(ranked.scores, ((z > 0).sum(1) - count).abs()[ranked.indices])
    classes = selector(4).fit(X[:100], (X @ W).argmax(1)[:100])  # of classes every sample has one
    logits = classes.signals(X).logits
    ranked = classes.select(X, 150, scorer="label_cardinality")
    np.testing.assert_allclose(ranked.scores, ((logits.softmax(1) > 0.5).sum(1) - 1).abs()[ranked.indices])


def test_a_network_may_end_in_a_softmax_where_the_loss_takes_probabilities() -> None:
    classes = (X @ W).argmax(1)
    own = {"loss": lambda p, y: F.nll_loss(p.log(), y), "outputs": "softmax_probabilities"}
    chosen = selector(4, nn.Softmax(1), **own).fit(X, classes)
    with torch.no_grad():
        p = chosen.model.eval()(X)
    np.testing.assert_allclose(chosen.predict_proba(X), p, atol=1e-6)
    ranked = chosen.select(X, 150, scorer="least_confidence")
    np.testing.assert_allclose(ranked.scores, (1 - p.amax(1))[ranked.indices], atol=1e-6)


# ---- values ----


@pytest.mark.parametrize("y", [VALUES, VALUES[:, 0]], ids=["[n 1]", "[n]"])
def test_a_regression_trains_and_nothing_calls_its_values_classes(y: Tensor) -> None:
    chosen = selector(1, loss=nn.MSELoss(), epochs=60, lr=0.1).fit(X, y)
    found = chosen.signals(X).logits
    assert found.shape == (150, 1)
    assert float((found - VALUES).square().mean() / VALUES.var()) < 0.1
    assert len(chosen.query(X, 5)) == 5  # k_center
    with pytest.raises(InputError, match=r"probabilities were asked of .* values.*signals\(X\)\.logits"):
        chosen.predict_proba(X)
    with pytest.raises(InputError, match="Margin reads logits, and the network's outputs are values"):
        chosen.select(X, 5, scorer="margin")
    with pytest.raises(InputError, match="classes were asked of a network whose outputs are values"):
        chosen.select(X, 5, scorer="moderate")
    target = chosen.fit_target()
    with torch.no_grad():
        assert float((target.eval()(X) - VALUES).square().mean() / VALUES.var()) < 0.1


def test_one_output_of_which_nobody_says_what_it_is() -> None:
    chosen = selector(1, loss=lambda z, y: (z - y).square().mean()).fit(X, VALUES)
    with pytest.raises(
        InputError, match=r"outputs \[150, 1\], one for each sample: pass TorchTrainer\(outputs='sigmoid'\)"
    ):
        chosen.predict_proba(X)
    with pytest.raises(InputError, match=r"with two classes or more\. A single output counts as two where"):
        chosen.select(X, 3, scorer="entropy")


# ---- trainers of the user's own ----


class Stating(PlainTrainer):
    """Trains one output by itself, and states what it is."""

    outputs = "sigmoid"

    def fit(self, model: nn.Module, data: Any, *, teacher: Any = None, seed: int | None = None) -> float:
        x, y = (torch.stack([torch.as_tensor(data[row][part]) for row in range(len(data))]) for part in (0, 1))
        optimizer = torch.optim.SGD(model.eval().parameters(), 0.3, momentum=0.9)
        for _ in range(40):
            optimizer.zero_grad()
            loss = BCE(model(x), y.reshape(len(y), -1).float())
            loss.backward()
            optimizer.step()
        return float(loss.detach())


def test_trainers_of_ones_own_state_what_their_networks_give() -> None:
    one = selector(1, trainer=Stating(), scorer="margin").fit(X, ONE)
    assert one.predict_proba(X).shape == (150, 2)
    assert len(one.query(X, 4)) == 4
    several = selector(4, trainer=Stating(), scorer="ml_margin").fit(X, LABELS)
    np.testing.assert_allclose(several.predict_proba(X), several.signals(X).logits.double().sigmoid())
    assert len(several.query(X, 4)) == 4
    with pytest.raises(InputError, match="take ml_entropy"):
        several.select(X, 4, scorer="margin")


@pytest.mark.parametrize("reading", ["collect", "logits", "signals"])
def test_a_function_that_trains_is_told_beside_it(reading: str) -> None:
    def fit(model: nn.Module, data: Any) -> None:
        Stating().fit(model, data)

    def logits(model: nn.Module, data: Any) -> Tensor:
        with torch.no_grad():
            return model.eval()(torch.stack([data[row] for row in range(len(data))]))

    def signals(model: nn.Module, data: Any, needs: frozenset[str]) -> Signals:
        return collect(model, data, needs)

    infer = {"collect": None, "logits": logits, "signals": signals}[reading]
    own = FunctionTrainer(fit, infer, outputs="sigmoid")
    assert selector(1, trainer=own, scorer="margin").fit(X, ONE.float()).query(X, 4).shape == (4,)
    chosen = selector(4, trainer=own, scorer="ml_entropy").fit(X, LABELS)
    assert chosen.query(X, 4).shape == (4,)
    np.testing.assert_allclose(chosen.predict_proba(X), chosen.signals(X).logits.double().sigmoid())


def test_labels_that_look_independent_are_refused_where_nobody_says_so() -> None:
    for own in (FunctionTrainer(lambda model, data: None), PlainTrainer()):
        for data in ((X, LABELS), torch.utils.data.TensorDataset(X, LABELS.float())):
            with pytest.raises(InputError, match=rf"\[n, 4\] are 0 and 1 .* {type(own).__name__} does not say"):
                selector(4, trainer=own).fit(data)
    taught = PrunedProxySelector(network(4), trainer=trainer(loss=BCE), target_trainer=trainer(loss=BCE, lr=0.01))
    assert taught.options.target_trainer is not None
    with pytest.raises(InputError, match="outputs are 'sigmoid' and target_trainer= such with 'softmax'"):
        PrunedProxySelector(network(4), trainer=trainer(loss=BCE), target_trainer=trainer())


# ---- hosts, that have probabilities ----


def test_probabilities_of_other_libraries_are_read_as_what_they_are() -> None:
    rows = torch.arange(3)
    classes = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    found = from_probabilities(rows, classes)
    assert found.outputs == "softmax"
    torch.testing.assert_close(found.logits.softmax(1), classes)
    independent = torch.tensor([[0.2, 0.9], [1.0, 0.0], [0.5, 0.6]], dtype=torch.float64)
    found = from_probabilities(rows, independent)
    assert found.outputs == "sigmoid"
    torch.testing.assert_close(found.logits.sigmoid(), independent)
    with pytest.raises(InputError, match=r"numbers -0\.1 to 1\.1 were given as probabilities"):
        from_probabilities(rows, torch.tensor([[-0.1, 1.1]]))
    with pytest.raises(InputError, match="Margin compares classes"):
        select_by_probability(get_scorer("margin"), independent.numpy(), 1)
    assert select_by_probability(get_scorer("ml_min_margin"), independent.numpy(), 1).indices.tolist() == [2]
    with pytest.raises(InputError, match="the class of each sample was asked of a network of independent labels"):
        select_by_probability(get_scorer("class_balanced"), independent.numpy(), 1)


def test_outputs_that_should_be_probabilities_and_are_none() -> None:
    with pytest.raises(InputError, match=r"outputs -3 to 2 found where the loss takes probabilities .* 0 to 1"):
        seen_by_scorers(Signals(torch.arange(2), torch.tensor([[-3.0], [2.0]])), Outputs("sigmoid", squashed=True))
    edges = Outputs("sigmoid", squashed=True).logits(torch.tensor([[0.0, 1.0, 0.5]]))
    assert edges.isfinite().all()
    assert float(edges[0, 2]) == 0
    passes = torch.randn(3, 5, 1, generator=generator)
    found = seen_by_scorers(Signals(torch.arange(5), mc_logits=passes), Outputs("sigmoid"))
    assert (found.mc_logits.shape, found.outputs) == ((3, 5, 2), "softmax")
    torch.testing.assert_close(found.mc_logits[..., 1:], passes)
    assert seen_by_scorers(found, Outputs("sigmoid")) is found  # once is enough
    torch.testing.assert_close(probabilities(torch.zeros(2, 3), "sigmoid"), torch.full((2, 3), 0.5))


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
@pytest.mark.parametrize(("y", "width", "loss"), [(ONE, 1, BCE), (LABELS, 4, BCE), (VALUES[:, 0], 1, nn.MSELoss())])
def test_importance_reads_labels_as_the_loss_does(importance: str, y: Tensor, width: int, loss: Any) -> None:
    chosen = selector(width, loss=loss, importance=importance, epochs=1).fit(X[:40], y[:40])
    assert chosen.model[0].out_features == 8


def test_early_stopping_holds_rows_out_for_every_kind() -> None:
    for y, width, loss in ((ONE, 1, BCE), (LABELS, 4, BCE), (VALUES, 1, nn.MSELoss())):
        history = trainer(epochs=3, loss=loss, early_stopping=EarlyStopping()).fit(network(width), (X, y), seed=0)
        assert all(np.isfinite(row["val_loss"]) for row in history.epochs)
