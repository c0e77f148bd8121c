"""`PruneFuseNet` speaks skorch: what skorch offers works on the proxy and on the target, and the core picks."""

from __future__ import annotations

import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fakes import assert_same_picks
from hosts import need_host
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from torch import nn

need_host("skorch", at_least="1.4")
# ruff: noqa: E402
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import Checkpoint, EarlyStopping, EpochScoring, LRScheduler, ProgressBar

from prunefuse_al import Distillation, FallingRatio, PrunedProxySelector, Signals, TorchTrainer, fuse, get_scorer
from prunefuse_al.adapters.skorch import PruneFuseNet
from prunefuse_al.adapters.skorch_training import LEFT_OUT, SKORCHS_OWN
from prunefuse_al.errors import BudgetError, InputError
from prunefuse_al.scorers import SCORERS
from prunefuse_al.selector import NAMES, Options

pytestmark = pytest.mark.touches_global_rng  # skorch shuffles and initialises with torch's global generator

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
FEW, POOL = slice(0, 150), slice(150, 450)


class Digits(nn.Module):
    """Pass `end` to make it return probabilities, as skorch's default criterion wants."""

    def __init__(self, hidden=24, end=None):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, 10)
        )
        self.end = end

    def forward(self, x):
        logits = self.layers(x)
        return logits if self.end is None else self.end(logits)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def net(module=Digits, **options):
    settings = {"criterion": nn.CrossEntropyLoss, "lr": 0.2, "max_epochs": 8, "batch_size": 32, "verbose": 0}
    return PruneFuseNet(module, **{**settings, "random_state": 0, **options})


def widths(module):
    return [p.shape[0] for name, p in module.named_parameters() if name.endswith("0.weight")]


def test_the_loop_from_the_first_labels_to_the_target():
    model = net()
    labelled = np.arange(100)
    for round in (1, 2, 3):
        model.fit(X[labelled], Y[labelled])
        assert widths(model.module_) == [12]
        assert len(model.history) == 8
        rest = np.setdiff1d(np.arange(600), labelled)
        picked = model.query(X, 50, candidates=rest)
        assert set(picked) <= set(rest)
        assert [row.round for row in model.costs_.rows()][-1] == round
        labelled = np.append(labelled, picked)
    proxy = model.score(X[800:], Y[800:])
    model.fit_target()
    assert widths(model.target_) == widths(model.dense_) == [24]
    assert model.target_ is model.module_
    assert model.score(X[800:], Y[800:]) > max(proxy - 0.02, 0.8)
    stages = [row.stage for row in model.costs_.rows()]
    assert stages == ["prune", "train_proxy", "score", "rank"] * 3 + ["fuse", "train_target"]
    assert model.costs_.ratio() < 0.6
    model.fit(X[labelled], Y[labelled])
    assert not hasattr(model, "target_")
    assert widths(model.module_) == [12]


def test_without_pruning_it_is_skorchs_own_net():
    """Bit for bit, so nothing draws from the generator that skorch initialises, shuffles and drops out with."""
    torch.manual_seed(3)
    ours = net(pruning_ratio=0).fit(X[FEW], Y[FEW])
    torch.manual_seed(3)
    theirs = NeuralNetClassifier(Digits, criterion=nn.CrossEntropyLoss, lr=0.2, max_epochs=8, batch_size=32, verbose=0)
    theirs.fit(X[FEW], Y[FEW])
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    assert ours.history[:, ("train_loss", "valid_loss")] == theirs.history[:, ("train_loss", "valid_loss")]


# Where no class has half of the probability, all samples have the same ml_margin, to rounding.
@pytest.mark.parametrize("name", [name for name in SCORERS if name != "ml_margin"])
def test_a_query_is_the_cores_answer_to_what_the_proxy_says(name):
    model = net().fit(X[FEW], Y[FEW])
    candidates = np.array([7, 3, 250, 101])
    scorer = get_scorer(name)
    if scorer.needs - {"logits"}:
        pytest.skip("its signals are compared in the core's own tests")
    rows, scores = model.query(X[POOL], 3, scorer=name, candidates=candidates, random_state=5, return_scores=True)
    logits = model.forward(X[POOL][candidates])
    signals = Signals(torch.as_tensor(candidates), logits=logits, outputs="softmax")
    expected = scorer.select(signals, 3, rng=np.random.default_rng([5, 1, 300]))
    assert rows.tolist() == expected.indices.tolist()
    assert (scores is None) == (expected.scores is None)
    assert model.query(X[POOL], 3, scorer=name, candidates=candidates, random_state=5).tolist() == rows.tolist()


def test_it_picks_as_a_selector_with_the_same_proxy_does():
    model = net().fit(X[FEW], Y[FEW])
    trainer = TorchTrainer(epochs=1, progress=False, device="cpu")
    selector = PrunedProxySelector(model.dense_, proxy=model.proxy_.module, trainer=trainer, random_state=0)
    selector.fit(X[FEW], Y[FEW])
    selector.model.load_state_dict(model.proxy_.module.state_dict())
    scores = model.predict_proba(X[POOL]).max(1)
    assert_same_picks(model.query(X[POOL], 20), selector.query(X[POOL], 20), scores)  # each reads batches of its own


def test_probabilities_are_read_as_such():
    """skorch's default criterion takes probabilities, and their softmax would make every sample look uncertain."""
    model = net(module__end=nn.Softmax(1), criterion=nn.NLLLoss).fit(X[FEW], Y[FEW])
    rows, scores = model.query(X[POOL], 300, return_scores=True)
    first, second = np.sort(model.predict_proba(X[POOL])[rows], 1)[:, :-3:-1].T
    np.testing.assert_allclose(scores, 1 - (first - second), atol=1e-5)


def test_outputs_that_are_no_probabilities_are_refused():
    model = net(criterion=nn.MultiMarginLoss).fit(X[FEW], Y[FEW])
    with pytest.raises(InputError, match=r"MultiMarginLoss, predict_proba gives rows such as .*predict_nonlinearity="):
        model.query(X[POOL])
    model.set_params(predict_nonlinearity=lambda outputs: outputs.softmax(1))
    assert model.query(X[POOL], 2).shape == (2,)


class Wide(nn.Module):
    """A perceptron of any number of outputs; pass `end` to make it return probabilities, `flat` to return [n]."""

    def __init__(self, outputs=1, end=None, flat=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, outputs))
        self.end, self.flat = end, flat

    def forward(self, x):
        z = self.layers(x) if self.end is None else self.end(self.layers(x))
        return z.squeeze(1) if self.flat else z


class PrunedBinary(PruneFuseNet, NeuralNetBinaryClassifier):
    """The class that `from_net` tells to define."""


EVEN = (Y % 2 == 0).astype(np.float32)
BITS = ((Y[:, None] >> np.arange(3)) & 1).astype(np.float32)  # the digit in binary: labels that are independent


@pytest.mark.parametrize("flat", [False, True], ids=["[n 1]", "[n]"])
def test_a_binary_net_trains_and_is_asked(flat):
    theirs = NeuralNetBinaryClassifier(Wide, module__flat=flat, lr=0.3, max_epochs=30, batch_size=32, verbose=0)
    with pytest.raises(InputError, match=r"class PrunedNeuralNetBinaryClassifier\(PruneFuseNet, NeuralNetBinary"):
        PruneFuseNet.from_net(theirs)
    model = PrunedBinary.from_net(theirs, 0.5, random_state=0).fit(X[:600], EVEN[:600])
    assert widths(model.module_) == [12]
    proba = model.predict_proba(X)
    assert proba.shape == (len(X), 2)
    assert model.score(X[800:], EVEN[800:]) > 0.8
    rows, scores = model.query(X[POOL], 300, scorer="margin", return_scores=True)
    np.testing.assert_allclose(scores, 1 - np.abs(proba[POOL][:, 1] - proba[POOL][:, 0])[rows], atol=1e-5)
    for name in SCORERS:
        if "dynamics" not in get_scorer(name).needs:  # a net records none
            assert len(set(model.query(X[POOL], 5, scorer=name))) == 5, name
    assert model.set_params(distillation=Distillation(0.5)).fit_target().score(X[800:], EVEN[800:]) > 0.8


def test_a_binary_net_keeps_its_threshold_and_its_checks():
    model = PrunedBinary(Wide, threshold=0.9, lr=0.3, max_epochs=10, verbose=0, random_state=0).fit(X[FEW], EVEN[FEW])
    np.testing.assert_array_equal(model.predict(X), model.predict_proba(X)[:, 1] > 0.9)
    assert model.classes_.tolist() == [0, 1]
    with pytest.raises(ValueError, match="target data should be 1-dimensional"):
        model.fit(X[FEW], EVEN[FEW][:, None])


@pytest.mark.parametrize("criterion", [nn.BCEWithLogitsLoss, nn.BCELoss])
def test_one_output_of_a_column_is_two_classes(criterion):
    end = nn.Sigmoid() if criterion is nn.BCELoss else None
    options = {"module__end": end, "criterion": criterion, "train_split": None, "max_epochs": 20}
    model = net(Wide, **options).fit(X[:400], EVEN[:400, None])
    rows, scores = model.query(X[POOL], 300, scorer="entropy", return_scores=True)
    p = model.forward(X[POOL]).flatten().double()
    p = p if end else p.sigmoid()
    want = torch.special.entr(p) + torch.special.entr(1 - p)
    np.testing.assert_allclose(scores, want[rows], atol=1e-4)
    assert model.set_params(distillation=Distillation(0.5)).fit_target().target_.layers[0].out_features == 24


@pytest.mark.parametrize("criterion", [nn.BCEWithLogitsLoss, nn.BCELoss, nn.MultiLabelSoftMarginLoss])
def test_independent_labels_are_scored_by_their_sigmoids(criterion):
    end = nn.Sigmoid() if criterion is nn.BCELoss else None
    options = {"module__outputs": 3, "module__end": end, "criterion": criterion, "train_split": None, "max_epochs": 25}
    model = net(Wide, **options).fit(X[:400], BITS[:400])
    rows, scores = model.query(X[POOL], 300, scorer="ml_min_margin", return_scores=True)
    p = model.forward(X[POOL]).double()
    p = p if end else p.sigmoid()
    np.testing.assert_allclose(scores, (1 - (2 * p - 1).abs().amin(1))[rows], atol=1e-4)
    for name in ("ml_entropy", "ml_bald", "ml_badge", "mmc", "label_cardinality", "k_center"):
        assert len(set(model.query(X[POOL], 5, scorer=name))) == 5, name
    for name in ("margin", "bald", "badge", "class_balanced"):
        with pytest.raises(InputError, match=r"independent labels.*ml_entropy"):
            model.query(X[POOL], 5, scorer=name)
    assert model.set_params(distillation=Distillation(0.5)).fit_target().target_.layers[0].out_features == 24


def test_callbacks_and_history_work_on_the_proxy_and_on_the_target(tmp_path):
    callbacks = [
        ("f1", EpochScoring("f1_macro", lower_is_better=False, name="valid_f1")),
        ("stop", EarlyStopping(monitor="valid_loss", patience=2)),
        ("schedule", LRScheduler("StepLR", step_size=1, gamma=0.5, event_name="rate")),
        ("checkpoint", Checkpoint(dirname=str(tmp_path), monitor="valid_loss_best", load_best=True)),
        ("bar", ProgressBar()),
    ]
    model = net(callbacks=callbacks, max_epochs=30, iterator_train__shuffle=True).fit(X[:300], Y[:300])
    proxy_rows = len(model.history)
    assert proxy_rows < 30
    assert model.history[:2, "rate"] == [0.2, 0.1]
    assert widths(model.module_) == [12]
    model.fit_target()
    assert model.history[:2, "rate"] == pytest.approx([0.1, 0.05])
    assert {"train_loss", "valid_loss", "valid_acc", "valid_f1", "dur"} <= set(model.history[-1])
    assert len(model.proxy_history_) == proxy_rows
    best = min(model.history[:, "valid_loss"])
    held_out = model.history[:, ("valid_loss", "valid_loss_best")]
    assert [loss for loss, is_best in held_out if is_best][-1] == best
    saved = torch.load(tmp_path / "params.pt", weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in model.target_.state_dict().items())


def test_optimizer_settings_reach_the_thinned_parameters():
    groups = [("layers.4.*", {"lr": 0.5})]
    model = net(optimizer=torch.optim.Adam, optimizer__param_groups=groups, lr=0.01, train_split=None)
    model.fit(X[FEW], Y[FEW])
    owned = {id(p) for group in model.optimizer_.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.module_.parameters()}
    assert [group["lr"] for group in model.optimizer_.param_groups] == [0.5, 0.01]
    model.fit_target(epochs=2)
    assert [group["lr"] for group in model.optimizer_.param_groups] == pytest.approx([0.25, 0.005])
    assert {id(p) for group in model.optimizer_.param_groups for p in group["params"]} == {
        id(p) for p in model.target_.parameters()
    }
    assert len(model.history) == 2
    assert "valid_loss" not in model.history[-1]


def test_the_ratio_may_go_by_the_number_of_labels():
    falling = FallingRatio(0.75, 0.25, labels=(50, 100), steps=1)
    pruned = net(pruning_ratio=falling, max_epochs=1, train_split=None)
    for labels, ratio in ((50, 0.75), (100, 0.25)):
        fixed = net(pruning_ratio=ratio, max_epochs=1, train_split=None).fit(X[:labels], Y[:labels])
        assert widths(pruned.fit(X[:labels], Y[:labels]).module_) == widths(fixed.module_)
    assert clone(pruned).pruning_ratio == falling


def test_a_module_instance_is_never_changed_and_every_fit_starts_from_it():
    module = Digits()
    before = copy.deepcopy(module.state_dict())
    model = net(module)
    answers = []
    for _ in range(2):
        torch.manual_seed(1)
        answers.append(model.fit(X[FEW], Y[FEW]).predict_proba(X[POOL]))
        model.fit_target()
    np.testing.assert_array_equal(*answers)
    torch.manual_seed(1)
    np.testing.assert_array_equal(clone(model).fit(X[FEW], Y[FEW]).predict_proba(X[POOL]), answers[0])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.dense_.state_dict().items())


def test_partial_fit_and_warm_start_go_on_with_the_proxy_also_after_the_target():
    model = net(warm_start=True).fit(X[FEW], Y[FEW]).fit_target()
    proxy = model.proxy_.module
    before = copy.deepcopy(proxy.state_dict())
    model.partial_fit(X[FEW], Y[FEW])
    assert model.module_ is proxy
    assert not torch.equal(before["layers.0.weight"], proxy.state_dict()["layers.0.weight"])
    assert len(model.history) == 16
    model.fit_target().fit_target(epochs=3)
    with pytest.raises(InputError, match="fit_target: y came without X"):
        model.fit_target(y=Y[FEW])
    assert (len(model.history), len(model.proxy_history_)) == (3, 16)
    model.fit(X[FEW], Y[FEW])
    assert len(model.history) == 24
    assert model.module_ is proxy
    assert [row.round for row in model.costs_.rows() if row.stage == "train_proxy"] == [1, 2, 3]


def test_fusing_preserves_until_fine_tuned():
    model = net().fit(X[FEW], Y[FEW])
    expected = model.predict_proba(X[POOL])
    target = model.fit_target(epochs=0).target_
    np.testing.assert_allclose(model.predict_proba(X[POOL]), expected, atol=1e-5)
    with torch.no_grad():
        fused = fuse(model.dense_, model.proxy_)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in fused.state_dict().items())


def test_grid_search_over_the_ratio_and_set_params():
    grid = {"pruning_ratio": [0.0, 0.5, 0.9], "module__hidden": [16, 24]}
    search = GridSearchCV(net(max_epochs=2, train_split=None), grid, cv=2, scoring="accuracy").fit(X[:200], Y[:200])
    best = search.best_estimator_
    assert widths(best.module_) == [int(best.module__hidden * (1 - best.pruning_ratio))]
    assert len(search.cv_results_["params"]) == 6
    best.set_params(pruning_ratio=0.25, module__hidden=40, keep=()).fit(X[FEW], Y[FEW])
    assert widths(best.module_) == [30]
    best.set_params(keep=["layers.0"], pruning_ratio=0)
    assert widths(best.fit(X[FEW], Y[FEW]).module_) == [40]
    best.set_params(keep=(), pruning_ratio=0.4, round_to=8)
    assert widths(best.fit(X[FEW], Y[FEW]).module_) == [24]


@pytest.mark.parametrize("copied", [lambda n: pickle.loads(pickle.dumps(n)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_answer_alike_and_leave_the_data_behind(copied):
    model = net().fit(X[FEW], Y[FEW])
    other = copied(model)
    np.testing.assert_array_equal(other.query(X[POOL], 9), model.query(X[POOL], 9))
    with pytest.raises(NotFittedError, match=r"labelled data is not in memory.*pass X and y"):
        other.fit_target()
    torch.manual_seed(1)
    expected = model.fit_target().predict_proba(X[POOL])
    torch.manual_seed(1)
    np.testing.assert_array_equal(other.fit_target(X[FEW], Y[FEW]).predict_proba(X[POOL]), expected)
    third = copied(other)
    np.testing.assert_array_equal(third.predict_proba(X[POOL]), expected)
    third.partial_fit(X[FEW], Y[FEW])
    assert widths(third.module_) == [12]


@pytest.mark.parametrize("safetensors", [False, True])
def test_saved_parameters_go_on_where_they_were(tmp_path, safetensors):
    model = net().fit(X[FEW], Y[FEW])
    files = {"f_params": str(tmp_path / "params"), "f_dense": str(tmp_path / "dense")}
    model.save_params(**files, use_safetensors=safetensors)
    other = net(example_inputs=torch.zeros(2, 64)).initialize()
    other.load_params(**files, use_safetensors=safetensors)
    np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    assert other.proxy_.channel_map == model.proxy_.channel_map
    fused, again = (m.fit_target(X[FEW], Y[FEW], epochs=0).target_.state_dict() for m in (model, other))
    assert all(torch.equal(value, again[name]) for name, value in fused.items())


def test_saved_parameters_and_a_net_that_has_seen_nothing(tmp_path):
    model = net().fit(X[FEW], Y[FEW])
    file = str(tmp_path / "params")
    model.save_params(f_params=file)
    with pytest.raises(NotFittedError, match=r"the weights are a proxy's.*pass example_inputs="):
        net().initialize().load_params(f_params=file)
    seen = net().fit(X[:100], Y[:100])
    seen.load_params(f_params=file)
    np.testing.assert_array_equal(seen.predict_proba(X), model.predict_proba(X))
    with pytest.raises(RuntimeError, match="size mismatch"):
        net(module__hidden=10).fit(X[:100], Y[:100]).load_params(f_params=file)
    whole = net(pruning_ratio=0).fit(X[FEW], Y[FEW])
    whole.save_params(f_params=file)
    pending = net().initialize()
    pending.load_params(f_params=file)  # whole weights, which the proxy will be cut from
    assert torch.equal(pending.dense_.layers[0].weight, whole.module_.layers[0].weight)


def test_initialised_without_data_it_is_whole_and_is_thinned_by_the_first():
    model = net().initialize()
    assert widths(model.module_) == [24]
    weights = model.dense_.layers[0].weight.clone()
    for call in (lambda: model.query(X[POOL]), lambda: model.fit_target(X, Y), lambda: model.proxy_):
        with pytest.raises(NotFittedError, match="initialised but has seen no data"):
            call()
    model.partial_fit(X[FEW], Y[FEW])
    assert widths(model.module_) == [12]
    assert torch.equal(model.dense_.layers[0].weight, weights)
    with pytest.raises(NotFittedError, match="not initialized yet"):
        net().query(X[POOL])
    given = net(example_inputs=torch.zeros(2, 64)).initialize()
    assert widths(given.module_) == [12]


def test_a_net_that_is_there_becomes_a_pruned_one():
    settings = {"module__hidden": 32, "criterion": nn.CrossEntropyLoss, "verbose": 0, "batch_size": 16, "lr": 0.1}
    theirs = NeuralNetClassifier(Digits, **settings, callbacks=[("rate", LRScheduler("StepLR", step_size=1))])
    theirs.set_params(callbacks__rate__step_size=2, optimizer__momentum=0.9, max_epochs=2).fit(X[:300], Y[:300])
    expected = theirs.predict_proba(X)
    ours = PruneFuseNet.from_net(theirs, pruning_ratio=0.75, scorer="margin")
    assert (ours.batch_size, ours.optimizer__momentum, ours.scorer, ours.max_epochs) == (16, 0.9, "margin", 2)
    ours.fit(X[FEW], Y[FEW])
    assert widths(ours.module_) == [8]
    assert ours.optimizer_.param_groups[0]["momentum"] == 0.9
    assert dict(ours.callbacks_)["rate"].kwargs["step_size"] == 2
    assert torch.equal(ours.dense_.layers[0].weight, theirs.module_.layers[0].weight)
    assert "repair" in [row.stage for row in ours.costs_.rows()]  # what 32 channels knew is fitted to 8
    np.testing.assert_array_equal(theirs.predict_proba(X), expected)
    unfitted = PruneFuseNet.from_net(NeuralNetClassifier(Digits, **settings))
    assert (unfitted.module, unfitted.module__hidden, unfitted.pruning_ratio) == (Digits, 32, 0.5)


class Smoothed(NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return super().get_loss(y_pred, y_true, *args, **kwargs) * 2


class PrunedSmoothed(PruneFuseNet, Smoothed):
    pass


def test_methods_of_the_users_own_class_are_not_lost():
    theirs = Smoothed(Digits, criterion=nn.CrossEntropyLoss, verbose=0, max_epochs=1).fit(X[FEW], Y[FEW])
    with pytest.raises(InputError, match=r"the net is a Smoothed.*class PrunedSmoothed\(PruneFuseNet, Smoothed\)"):
        PruneFuseNet.from_net(theirs)
    ours = PrunedSmoothed.from_net(theirs, 0.0)
    torch.manual_seed(0)
    double = ours.fit(X[FEW], Y[FEW]).history[0, "train_loss"]
    torch.manual_seed(0)
    single = net(ours.module, pruning_ratio=0, lr=0.01, batch_size=128).fit(X[FEW], Y[FEW]).history[0, "train_loss"]
    assert double == pytest.approx(2 * single, rel=1e-3)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(32, 16), nn.Linear(32, 16), nn.Linear(16, 10)

    def forward(self, left, right):
        return self.head((self.left(left) + self.right(right)).relu())


class Lazy(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return torch.from_numpy(X[self.rows[row]]), int(Y[self.rows[row]])


def test_inputs_by_name_and_datasets():
    named = {"left": X[:, :32], "right": X[:, 32:]}
    model = net(TwoInputs, train_split=None).fit({k: v[FEW] for k, v in named.items()}, Y[FEW])
    assert model.module_.left.out_features == 8
    assert model.query({k: v[POOL] for k, v in named.items()}, 4).shape == (4,)
    assert model.fit_target().target_.left.out_features == 16
    lazy = net(train_split=None).fit(Lazy(np.arange(150)), None)
    assert lazy.query(Lazy(np.arange(150, 450)), 4, scorer="margin").shape == (4,)
    assert lazy.fit_target().score(X, Y) > 0.5


class Unlabelled(Lazy):
    def __getitem__(self, row):
        return super().__getitem__(row)[0]


def test_what_is_asked_wrongly_is_said_and_changes_nothing():
    model = net().fit(X[FEW], Y[FEW])
    before = model.predict_proba(X[POOL])
    with pytest.raises(BudgetError, match="k=301 but there are 300 candidates"):
        model.query(X[POOL], 301)
    with pytest.raises(InputError, match="did you mean 'margin'"):
        model.query(X[POOL], scorer="margn")
    with pytest.raises(ValueError, match="must return exactly 2 values"):
        model.query(Unlabelled([1, 2]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.query(np.full((3, 64), np.nan, dtype=np.float32))
    rows = len(model.costs_.rows())
    with pytest.raises(RuntimeError):
        model.fit_target(X[FEW, :5], Y[FEW])
    assert len(model.costs_.rows()) == rows
    assert not hasattr(model, "target_")
    np.testing.assert_array_equal(model.predict_proba(X[POOL]), before)
    assert len(model.history) == 8
    for wrong in ({"pruning_ratio": 1.0}, {"scorer": "margn"}, {"cross": "keep"}, {"round_to": 0}):
        with pytest.raises(InputError):
            net(**wrong).fit(X[FEW], Y[FEW])
    with pytest.raises(ValueError, match=r"unexpected argument\(s\) prunning_ratio"):
        net(prunning_ratio=0.5).fit(X[FEW], Y[FEW])


def test_queries_and_pruning_leave_the_global_generators_alone():
    model = net().fit(X[FEW], Y[FEW])
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    model.query(X[POOL], 5, scorer="random")
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.FallbackWarning", "ignore::prunefuse_al.errors.CostWarning")
@pytest.mark.parametrize("options", [{}, {"cross": "copy"}, {"sync_every": 1}], ids=str)
def test_what_is_frozen_stays_in_proxy_and_target(options):
    class Frozen(Digits):
        def __init__(self):
            super().__init__()
            self.layers[:2].requires_grad_(False)

    dense = Frozen()
    names = {name for name in dense.state_dict() if name.startswith(("layers.0.", "layers.1."))}
    model = net(dense, max_epochs=2, **options)
    for _ in range(2):
        model.fit(X[FEW], Y[FEW])
        cut = model.proxy_.channel_map.extract(dict(dense.state_dict()))
        learnt = model.proxy_.module.state_dict()
        assert all(torch.equal(learnt[name], cut[name]) for name in names if name.endswith(("weight", "bias")))
    target = model.fit_target().target_.state_dict()
    assert all(torch.equal(target[name], dense.state_dict()[name]) for name in names)
    assert not torch.equal(target["layers.4.weight"], dense.state_dict()["layers.4.weight"])


class Keeps(Digits):
    """Keeps what it computed, as Grad-CAM and KL terms do; one weight is made by a hook before every pass."""

    def __init__(self):
        super().__init__()
        self.out = nn.utils.weight_norm(nn.Linear(10, 10))

    def forward(self, x):
        self.kept = {"last": [super().forward(x)]}
        return self.out(self.kept["last"][0])


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:importance='activation'.*they are measured by l2")  # read by a weight that is made
def test_a_module_that_keeps_what_it_computed():
    chosen = net(Keeps(), max_epochs=1, sync_every=2).fit(X[:200], Y[:200])
    chosen.fit(X[:200], Y[:200]).fit_target()
    chosen.partial_fit(X[:200], Y[:200])
    picked = chosen.query(X, 5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(chosen)).query(X, 5), picked)
    assert len(clone(chosen).fit(X[:200], Y[:200]).query(X, 5)) == 5
    plain = NeuralNetClassifier(Keeps(), criterion=nn.CrossEntropyLoss, max_epochs=1, verbose=0).fit(X[:200], Y[:200])
    assert len(PruneFuseNet.from_net(plain).fit(X[:200], Y[:200]).query(X, 5)) == 5


def test_threads_that_ask_one_net_at_once_get_the_same_answers():
    chosen = net(max_epochs=1).fit(X[:200], Y[:200])
    calls = [
        lambda: chosen.query(X, 5, scorer="k_center"),
        lambda: chosen.predict_proba(X[:50]),
        lambda: chosen.query(X, 5),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda call: call(), calls * 8))
    assert all(np.array_equal(answer, expected[i % 3]) for i, answer in enumerate(answers))


def test_a_net_has_every_option_of_a_selector_but_those_it_lists():
    given = inspect.signature(PruneFuseNet).parameters
    own = {"distillation", "random_state"}  # which it has, and sees to itself
    assert {*NAMES} - given.keys() == {*LEFT_OUT, *SKORCHS_OWN} - own
    for name in {*NAMES} & given.keys():
        assert given[name].default is getattr(Options, name)
