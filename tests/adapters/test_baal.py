"""baal's own loop and experiment around a proxy."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from fakes import assert_same_picks, seeded
from hosts import need_host
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Subset, TensorDataset

need_host("baal")
# ruff: noqa: E402
from baal.active import ActiveLearningDataset, ActiveLearningLoop
from baal.active.heuristics import BALD, Entropy, Margin
from baal.bayesian.dropout import MCDropoutModule, patch_module
from baal.experiments.base import ActiveLearningExperiment
from baal.modelwrapper import TrainingArgs
from baal.utils.metrics import Accuracy

from prunefuse_al import FunctionTrainer, Selection, TorchTrainer
from prunefuse_al.adapters.baal import ProxyHeuristic, ProxyWrapper, trainer_of
from prunefuse_al.errors import InputError, NotFittedError, UnsupportedModelError
from prunefuse_al.proxies import Probe

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:baal")  # its logger's use of threading

X, Y = load_digits(return_X_y=True)
DATA = TensorDataset(torch.from_numpy(X / 16).float(), torch.from_numpy(Y))
POOL, TEST = Subset(DATA, range(500)), Subset(DATA, range(1000, 1400))


@pytest.fixture
def model() -> nn.Sequential:
    def make() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
        )

    return seeded(make)


def args(model: nn.Module, **options: Any) -> TrainingArgs:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rest = {"batch_size": 16, "epoch": 15, "use_cuda": False, "workers": 0, "criterion": nn.CrossEntropyLoss()}
    return TrainingArgs(optimizer=optimizer, **{**rest, **options})


def wrap(model: nn.Module, **options: Any) -> ProxyWrapper:
    return ProxyWrapper(model, args(model), 0.5, random_state=0, **options)


def labelled(n: int = 100) -> ActiveLearningDataset:
    dataset = ActiveLearningDataset(POOL, random_state=0)
    dataset.label_randomly(n)
    return dataset


def test_a_probe_reads_each_row_once(model: nn.Module) -> None:
    wrapper, dataset = wrap(model, proxy=Probe()), labelled()
    loop = ActiveLearningLoop(dataset, wrapper.get_probabilities, ProxyHeuristic(wrapper, "margin"), query_size=20)
    for _ in range(2):
        wrapper.train_on_dataset(dataset)
        loop.step()
    wrapper.train_on_dataset(dataset)
    assert sum(row.samples for row in wrapper.selector.costs.rows() if row.stage == "features") == len(POOL)
    assert wrapper.fit_target()[-1].in_features == 32
    other = ActiveLearningDataset(POOL, pool_specifics={"indices": list(range(500))}, random_state=0)
    other.label_randomly(100)
    wrapper.train_on_dataset(other)
    for pool in (other.pool, POOL, dataset.pool):  # read otherwise, or of other data
        assert wrapper.get_probabilities(pool) is pool


class Spread:
    """Reads features, and what is labelled: picks the candidates farthest from any labelled one."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "labelled_features"})

    def select(self, signals: Any, k: int, *, rng: Any = None) -> Selection:
        far = torch.cdist(signals.features, signals.labelled_features).amin(1)
        return Selection(signals.indices[far.argsort(descending=True)[:k]])


@pytest.mark.parametrize("scorer", ["margin", Spread()], ids=["point", "features"])
def test_the_loop_labels_what_the_core_picks(model: nn.Module, scorer: Any) -> None:
    dataset, wrapper = labelled(), wrap(model)
    loop = ActiveLearningLoop(dataset, wrapper.get_probabilities, ProxyHeuristic(wrapper, scorer, 20), query_size=20)
    for _ in range(2):
        losses = wrapper.train_on_dataset(dataset)
        assert len(losses) == 15
        assert losses[-1] < losses[0]
        assert wrapper.get_metrics("train") == {"train_loss": pytest.approx(losses[-1]), "dataset_size": len(dataset)}
        free, known = np.flatnonzero(~dataset.labelled), np.flatnonzero(dataset.labelled)
        expected = wrapper.selector.select(POOL, 20, candidates=free, scorer=scorer).indices.tolist()
        assert loop.step()
        assert sorted(np.setdiff1d(np.flatnonzero(dataset.labelled), known)) == sorted(expected)
    assert len(dataset) == 140
    assert wrapper.model[0].out_features == 16
    before = wrapper.test_on_dataset(TEST)
    assert wrapper.fit_target()[0].out_features == 32
    assert wrapper.test_on_dataset(TEST) < before * 1.2
    assert {row.stage for row in wrapper.selector.costs.rows()} >= {
        "prune",
        "train_proxy",
        "score",
        "fuse",
        "train_target",
    }


def test_the_target_is_trained_on_what_the_last_training_saw(model: nn.Module) -> None:
    """An `ActiveLearningDataset` moves on with every label; what was fitted on must not."""
    dataset, wrapper = labelled(60), wrap(model)
    wrapper.train_on_dataset(dataset)
    seen = [x.clone() for x, _ in dataset]
    dataset.label(list(range(40)))
    data = wrapper.selector._state.labelled
    assert torch.equal(torch.stack([data[row][0] for row in range(len(data))]), torch.stack(seen))


@pytest.mark.touches_global_rng  # baal's own heuristics draw from NumPy's
@pytest.mark.parametrize("heuristic", [Entropy(), Margin(), BALD()], ids=["entropy", "margin", "bald"])
@pytest.mark.parametrize("generator", [True, False])
def test_baals_own_heuristics_read_the_proxys_predictions(model: nn.Module, heuristic: Any, generator: bool) -> None:
    dataset, wrapper = labelled(), wrap(model)
    predict = wrapper.predict_on_dataset_generator if generator else wrapper.predict_on_dataset
    loop = ActiveLearningLoop(dataset, predict, heuristic, query_size=10, iterations=4)
    wrapper.train_on_dataset(dataset)
    assert loop.step()
    assert len(dataset) == 110


@pytest.mark.touches_global_rng  # baal's Entropy does
def test_our_heuristics_read_predictions_as_baals_do(model: nn.Module) -> None:
    dataset, wrapper = labelled(), wrap(model)
    wrapper.train_on_dataset(dataset)
    pool = dataset.pool
    ours = ProxyHeuristic(wrapper, "entropy")
    ranks, scores = ours.get_ranks(wrapper.predict_on_dataset(pool, 1))
    again = ours.get_ranks(pool)
    assert_same_picks(ranks[:50], again[0][:50], scores)
    np.testing.assert_allclose(scores, again[1], rtol=1e-5)
    assert_same_picks(ranks[:50], Entropy()(wrapper.predict_on_dataset(pool, 1))[:50], scores)
    several = wrapper.predict_on_dataset(pool, 5)
    _, mean = ours.get_ranks(several)
    assert_same_picks(ours(several)[:50], Entropy()(torch.from_numpy(several).softmax(1).numpy())[:50], mean)
    chunks = (several[start : start + 64] for start in range(0, len(several), 64))
    assert_same_picks(ours(chunks), ours(several), mean)
    assert scores.shape == (400,)
    assert (np.argsort(-scores)[:50] == ranks[:50]).all()


@pytest.mark.touches_global_rng  # baal's own heuristics draw from NumPy's
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("generator", [True, False])
def test_maps_of_logits_are_predicted_as_baal_predicts_them(iterations: int, generator: bool) -> None:
    """One class for each pixel, [n c h w iterations]."""
    network = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(8, 5, 1))
    )
    pictures, classes = torch.from_numpy(X[:60] / 16).float().view(-1, 1, 8, 8), torch.from_numpy(Y[:60] % 5)
    dataset = ActiveLearningDataset(TensorDataset(pictures, classes[:, None, None].expand(-1, 8, 8)), random_state=0)
    dataset.label_randomly(20)
    wrapper = wrap(network)
    wrapper.train_on_dataset(dataset)
    predict = wrapper.predict_on_dataset_generator if generator else wrapper.predict_on_dataset
    found = predict(dataset.pool, iterations)
    found = np.concatenate(list(found)) if generator else found
    assert found.shape == (40, 5, 8, 8, iterations)
    if iterations > 1:  # a pass is last, so that its mean is near what the network says without dropout
        sure = wrapper.predict_on_dataset(dataset.pool, 1)[..., 0]
        assert np.corrcoef(wrapper.predict_on_dataset(dataset.pool, 50).mean(-1).ravel(), sure.ravel())[0, 1] > 0.9
        assert np.abs(found - found[..., :1]).max() > 0
    heuristic = Entropy(reduction="mean")
    assert ActiveLearningLoop(dataset, predict, heuristic, query_size=10, iterations=iterations).step()
    assert len(dataset) == 30
    with pytest.raises(InputError, match=rf"have shape \[40, 5, 8, 8, {iterations}\].*or use baal's own"):
        ProxyHeuristic(wrapper, "entropy").get_ranks(found)


class Disagreement:
    """A batch scorer of stochastic passes, without scores."""

    needs: ClassVar[frozenset[str]] = frozenset({"mc_logits"})

    def select(self, signals: Any, k: int, *, rng: Any = None) -> Selection:
        spread = signals.mc_logits.softmax(2).var(0).sum(1)
        return Selection(signals.indices[spread.argsort(descending=True)[:k]])


def test_stochastic_passes_and_batch_scorers(model: nn.Module) -> None:
    dataset, wrapper = labelled(), wrap(model)
    wrapper.train_on_dataset(dataset)
    several = wrapper.predict_on_dataset(dataset.pool, 6)
    assert several.shape == (400, 10, 6)
    assert several.std(-1).min() >= 0 < several.std(-1).max()
    assert wrapper.predict_on_dataset(dataset.pool, 2, half=True).dtype == np.float16
    ranks, scores = ProxyHeuristic(wrapper, Disagreement(), 7).get_ranks(several)
    probabilities = torch.from_numpy(several).softmax(1)
    spread = probabilities.var(-1).sum(1)
    assert_same_picks(ranks, spread.argsort(descending=True)[:7], spread)
    assert (scores.shape, np.isnan(scores).all()) == ((400,), True)
    with pytest.raises(InputError, match="picks a batch as a whole: pass query_size="):
        ProxyHeuristic(wrapper, Disagreement())
    with pytest.raises(InputError, match="reads features, labelled_features, but all that was given here is logits"):
        ProxyHeuristic(wrapper, Spread(), 5).get_ranks(wrapper.predict_on_dataset(dataset.pool, 1))


def test_baals_experiment_runs(model: nn.Module) -> None:
    dataset, wrapper = labelled(480), wrap(model)
    wrapper.add_metric("accuracy", Accuracy)
    experiment = ActiveLearningExperiment(wrapper, dataset, TEST, ProxyHeuristic(wrapper), query_size=10, iterations=2)
    records = experiment.start()
    assert len(records) == 2
    assert records[-1]["test_accuracy"] > 0.8
    assert wrapper.active_learning_metrics[490]["test_loss"] == records[-1]["test_loss"]


def test_weights_to_reset_to_are_those_it_starts_from(model: nn.Module) -> None:
    wrapper = wrap(model)
    start = copy.deepcopy(wrapper.state_dict())
    assert [w.shape for w in start.values()] == [w.shape for w in model.state_dict().values()]
    wrapper.train_on_dataset(labelled())
    first = copy.deepcopy(wrapper.model.state_dict())
    wrapper.load_state_dict(start)
    wrapper.reset_fcs()
    wrapper.reset_all()
    wrapper.train_on_dataset(labelled())
    assert all(torch.equal(first[name], value) for name, value in wrapper.model.state_dict().items())
    start["0.weight"] = start["0.weight"] + 1
    with pytest.raises(InputError, match="these are others; make a new ProxyWrapper"):
        wrapper.load_state_dict(start)


def test_training_args_are_taken_over(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.8, nesterov=True)
    optimizer.param_groups[0]["lr"] = 0.2
    given = args(model, batch_size=8, epoch=3, collate_fn=lambda items: (torch.stack([x for x, _ in items]) + 1, None))
    given.optimizer = optimizer
    made = trainer_of(given)
    ours = made.optimizer(list(model[0].parameters()))
    assert isinstance(ours, torch.optim.SGD)
    assert {name: ours.defaults[name] for name in ("lr", "momentum", "nesterov")} == {
        "lr": 0.2,
        "momentum": 0.8,
        "nesterov": True,
    }
    assert (made.epochs, made.batch_size, made.num_workers, made.device) == (3, 8, 0, "cpu")
    assert made.collate([torch.zeros(2), torch.ones(2)]).tolist() == [[1, 1], [2, 2]]


def test_a_trainer_of_your_own(model: nn.Module) -> None:
    def fit(network: nn.Module, data: Any) -> str:
        next(network.parameters()).data.add_(0.1)  # a training that changes nothing gives a warning
        return f"saw {len(data)} rows"

    wrapper = wrap(model, trainer=FunctionTrainer(fit), fine_tune_lr_scale=None)
    assert wrapper.train_on_dataset(labelled(30)) == "saw 30 rows"


def test_what_cannot_be_taken_over_is_said(model: nn.Module) -> None:
    for patched in (MCDropoutModule(copy.deepcopy(model)), patch_module(model, inplace=False)):
        with pytest.raises(InputError, match=r"of baal\.bayesian, random in every pass"):
            ProxyWrapper(patched, args(model))
    for options in ({"optimizer": None}, {"regularizer": lambda: 0}):
        given = args(model)
        vars(given).update(options)
        with pytest.raises(InputError, match=r"cannot be taken over to a proxy; pass trainer="):
            ProxyWrapper(model, given)
    wrapper = wrap(model)
    with pytest.raises(NotFittedError, match="nothing has been trained yet"):
        wrapper.predict_on_dataset(TEST, 1)
    with pytest.raises(NotImplementedError, match="trained as a whole"):
        wrapper.train_and_test_on_datasets(POOL, TEST)
    plain = wrap(nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.Dropout))))
    plain.train_on_dataset(labelled())
    with pytest.raises(UnsupportedModelError, match="has no dropout that can be switched on"):
        plain.predict_on_dataset(TEST, 3)
    with pytest.raises(InputError, match="the data has no labels"):
        plain.test_on_dataset([x for x, _ in TEST])


PICTURES = torch.randn(60, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def segmenter(outputs: int) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, outputs, 1),
        )
    )


@pytest.mark.touches_global_rng  # baal's own heuristics draw from NumPy's
def test_predictions_at_every_position_and_several_iterations() -> None:
    data = TensorDataset(PICTURES, (PICTURES.sum(1) > 0).long())
    model = segmenter(2)
    wrapper = ProxyWrapper(model, args(model, epoch=2), 0.5, random_state=0)
    dataset = ActiveLearningDataset(data, random_state=0)
    dataset.label_randomly(20)
    wrapper.train_on_dataset(dataset)
    found = wrapper.predict_on_dataset(data, iterations=4, verbose=False)
    assert found.shape == (60, 2, 6, 6, 4)
    assert wrapper.predict_on_dataset(data, 1, verbose=False).shape == (60, 2, 6, 6, 1)
    once = wrapper.selector.signals(data, frozenset({"mc_logits"}), mc_samples=4).mc_logits
    for number in range(4):
        np.testing.assert_allclose(found[..., number], once[number], rtol=1e-5, atol=1e-6)
    loop = ActiveLearningLoop(dataset, wrapper.predict_on_dataset, BALD(reduction="mean"), query_size=5, iterations=4)
    assert loop.step()
    assert len(dataset) == 25
    assert np.isfinite(wrapper.test_on_dataset(data))
    with pytest.raises(InputError, match=r"shape \[60, 2, 6, 6, 4\], at several positions of a sample"):
        ProxyHeuristic(wrapper, "bald").get_ranks(found)


@pytest.mark.parametrize("outputs", [1, 3])
def test_losses_of_independent_labels(outputs: int) -> None:
    labels = (torch.from_numpy(Y)[:, None] >> torch.arange(outputs)) & 1
    data = TensorDataset(torch.from_numpy(X / 16).float(), labels.float() if outputs > 1 else labels[:, 0])
    model = seeded(lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, outputs)))
    wrapper = ProxyWrapper(model, args(model, criterion=nn.BCEWithLogitsLoss()), 0.5, random_state=0)
    dataset = ActiveLearningDataset(Subset(data, range(500)), random_state=0)
    dataset.label_randomly(100)
    wrapper.train_on_dataset(dataset)
    test = Subset(data, range(1000, 1400))
    proxy = wrapper.test_on_dataset(test)
    with torch.no_grad():
        z = wrapper.model.eval()(data.tensors[0][1000:1400])
    assert float(proxy) == pytest.approx(float(nn.BCEWithLogitsLoss()(z, labels[1000:1400].float())), rel=1e-4)
    pool, scorers = dataset.pool, ("margin", "bald") if outputs == 1 else ("ml_margin", "ml_bald")
    for scorer, iterations in zip(scorers, (1, 5), strict=True):
        heuristic = ProxyHeuristic(wrapper, scorer, 20)
        predicted = wrapper.predict_on_dataset(pool, iterations=iterations, verbose=False)
        assert predicted.shape == (400, max(2, outputs), iterations)
        asked = wrapper.selector.select(pool, 20, scorer=scorer) if iterations == 1 else None
        rows, _ = heuristic.get_ranks(predicted)
        assert len(set(rows.tolist())) == 20
        assert asked is None or asked.indices.tolist() == rows.tolist()
    other = ProxyHeuristic(wrapper, "entropy" if outputs > 1 else "ml_entropy", 20)
    if outputs > 1:
        with pytest.raises(InputError, match="take ml_entropy"):
            other.get_ranks(wrapper.predict_on_dataset(pool, 1, verbose=False))
    else:
        assert len(other.get_ranks(wrapper.predict_on_dataset(pool, 1, verbose=False))[0]) == 20


def test_a_pretrained_network_is_repaired_on_the_pool() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    )
    dataset = labelled()
    TorchTrainer(2, progress=False, device="cpu").fit(net, (DATA.tensors[0], DATA.tensors[1]), seed=0)
    wrapper = wrap(net)
    for _ in range(2):
        wrapper.train_on_dataset(dataset)
    stages = [row.stage for row in wrapper.selector.costs.rows()]
    assert (stages.count("repair"), stages[:2]) == (1, ["prune", "repair"])
    assert wrapper.selector.proxy.repair_report is not None
    assert wrapper.selector.proxy.repair_report.rows == len(POOL)
