"""What the core does with the target, in `PruneFuseNet`: the proxy as its teacher, and targets between rounds (V2)."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hosts import need_host
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import nn

need_host("skorch", at_least="1.4")
# ruff: noqa: E402
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping

from prunefuse_al import Distillation, PrunedProxySelector, TorchTrainer, fuse, prune
from prunefuse_al.adapters.skorch import PruneFuseNet
from prunefuse_al.errors import CostWarning, FallbackWarning, InputError
from prunefuse_al.training.distillation import distillation_loss

pytestmark = pytest.mark.touches_global_rng  # skorch shuffles and initialises with torch's global generator

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
FEW, POOL = slice(0, 150), slice(150, 450)


class Digits(nn.Module):
    """Pass `end` to make it return probabilities, as skorch's default criterion wants."""

    def __init__(self, hidden=24, end=None):
        super().__init__()
        self.first, self.drop, self.head = nn.Linear(64, hidden), nn.Dropout(0.2), nn.Linear(hidden, 10)
        self.end = end

    def forward(self, x, scale=1.0):
        logits = self.head(self.drop(self.first(x).relu())) * scale
        return logits if self.end is None else self.end(logits)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def net(module=Digits, kind=PruneFuseNet, **options):
    settings = {"criterion": nn.CrossEntropyLoss, "lr": 0.2, "max_epochs": 4, "batch_size": 32, "verbose": 0}
    return kind(module, **{**settings, "train_split": None, "random_state": 0, **options})


def stages(model, number):
    return [row.stage for row in model.costs_.rows() if row.round == number]


# The proxy as a teacher


class Watched(PruneFuseNet):
    """Notes every training batch of its target: what the module said, and the loss it got."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        self.seen = [*getattr(self, "seen", []), (X, y_pred.detach(), y_true, loss.detach(), training)]
        return loss


@pytest.mark.parametrize("end", [None, nn.Softmax(1)])
def test_the_loss_of_a_target_is_the_cores_mixture_with_what_the_proxy_says(end):
    """By hand, batch by batch, from the proxy in eval mode; skorch's default criterion reads probabilities."""
    options = {} if end is None else {"module__end": end, "criterion": nn.NLLLoss}
    model = net(kind=Watched, distillation=Distillation(0.4, tau=3.0, annealing="linear"), **options).fit(
        X[FEW], Y[FEW]
    )
    model.seen = []
    model.fit_target(epochs=4)
    assert len(model.seen) == 20  # 4 epochs of 5 batches
    proxy = copy.deepcopy(model.proxy_.module).eval()
    for number, (x, said, y, loss, _) in enumerate(model.seen):
        share = 0.4 * (1 - (number // 5) / 4)
        with torch.no_grad():
            taught = proxy(x)
        log_p, log_q = (t.log_softmax(1) if end is None else t.log() for t in (taught, said))
        kl = distillation_loss(log_q, log_p, 3.0).mean()
        expected = (1 - share) * nn.functional.nll_loss(log_q, y) + share * kl
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_only_the_training_of_a_target_is_taught():
    """The proxy learns from labels alone, and held-out losses stay comparable with those of other nets."""
    answers = {}
    for name, distillation in {"without": None, "with": Distillation(0.9)}.items():
        torch.manual_seed(1)
        model = net(distillation=distillation, callbacks=[("stop", EarlyStopping(patience=99, monitor="train_loss"))])
        model.fit(X[FEW], Y[FEW])
        answers[name] = model.predict_proba(X[POOL]), model.fit_target().predict_proba(X[POOL])
    np.testing.assert_array_equal(answers["with"][0], answers["without"][0])
    assert not np.allclose(answers["with"][1], answers["without"][1])
    watched = net(kind=Watched, distillation=Distillation(0.9), train_split=(lambda d, y=None: (d, d)))
    watched.fit(X[FEW], Y[FEW]).fit_target()
    held_out = [(said, y, loss) for _, said, y, loss, training in watched.seen if not training]
    for said, y, loss in held_out:
        torch.testing.assert_close(loss, nn.functional.cross_entropy(said, y))


def test_a_share_of_nothing_changes_nothing_and_of_everything_keeps_the_targets_answers():
    """With the teacher alone, a target that answers as its teacher has nothing to learn, dropout apart."""
    answers = []
    for distillation in (None, Distillation(0.0)):
        torch.manual_seed(1)
        answers.append(net(distillation=distillation).fit(X[FEW], Y[FEW]).fit_target().predict_proba(X[POOL]))
    np.testing.assert_array_equal(*answers)
    model = net(
        distillation=Distillation(1.0), module=lambda: nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    )
    before = model.fit(X[FEW], Y[FEW]).predict_proba(X[POOL])
    np.testing.assert_allclose(model.fit_target().predict_proba(X[POOL]), before, atol=1e-5)


def test_what_fit_passes_to_forward_reaches_the_teacher_too():
    model = net(distillation=Distillation(1.0), module=Digits).fit(X[FEW], Y[FEW], scale=0.5)
    model.fit_target(scale=0.5, epochs=1)
    halved = model.history[0, "train_loss"]
    assert halved < 0.5  # the target begins as its teacher, dropout apart; against unscaled answers it would be far off


def test_the_teachers_passes_are_counted_and_it_is_left_as_it_was():
    model = net(distillation=Distillation(0.5)).fit(X[FEW], Y[FEW])
    weights = copy.deepcopy(model.proxy_.module.state_dict())
    model.fit_target()
    taught = model.costs_.rows()[-1]
    plain = net().fit(X[FEW], Y[FEW]).fit_target().costs_.rows()[-1]
    assert taught.forward_macs > plain.forward_macs
    assert all(torch.equal(value, weights[name]) for name, value in model.proxy_.module.state_dict().items())
    assert model._teacher is None
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    assert clone(model).distillation == Distillation(0.5)


class Own(PruneFuseNet):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        return nn.functional.cross_entropy(y_pred, y_true)


def test_what_would_have_no_effect_or_no_meaning_is_said():
    model = net(kind=Own, distillation=Distillation(0.5)).fit(X[FEW], Y[FEW])
    with pytest.warns(FallbackWarning, match=r"Own.get_loss does not call super\(\).get_loss"):
        model.fit_target()
    with pytest.raises(InputError, match=r"distillation=0.5; pass Distillation\(...\) or None"):
        net(distillation=0.5).fit(X[FEW], Y[FEW])
    margins = net(criterion=nn.MultiMarginLoss, distillation=Distillation(0.5)).fit(X[FEW], Y[FEW])
    with pytest.raises(InputError, match=r"distillation: with MultiMarginLoss.*predict_nonlinearity="):
        margins.fit_target()
    assert margins._teacher is None


# V2


def test_every_second_fit_trains_the_target_that_the_next_proxies_are_cut_from():
    model = net(sync_every=2, pruning_ratio=0.75, max_epochs=15, scorer="margin")
    for number in (1, 2, 3, 4, 5):
        model.fit(X[FEW], Y[FEW])
        assert model.module_.first.out_features == 6
        assert len(model.history) == 15
        if number == 2:
            target = copy.deepcopy(model.state_.synced)
            assert not hasattr(model, "target_")  # the proxy answers
        if number in (3, 4):
            cut = prune(target, torch.zeros(2, 64), 0.75)
            assert all(
                torch.equal(v, cut.module.state_dict()[k]) for k, v in model.state_.start.module.state_dict().items()
            )
            assert all(torch.equal(v, target.state_dict()[k]) for k, v in model.dense_.state_dict().items())
    begin, synced = ["prune", "train_proxy"], ["sync_fuse", "sync"]
    assert [stages(model, n) for n in (1, 2, 3, 4, 5)] == [begin, begin + synced, begin, begin + synced, begin]
    assert not torch.equal(model.dense_.first.weight, target.first.weight)  # the fourth round's by now
    assert model.query(X[POOL], 5).shape == (5,)
    assert model.fit_target().score(X[POOL], Y[POOL]) > 0.6


def test_a_target_that_is_there_is_not_trained_again():
    model = net(sync_every=1, pruning_ratio=0.75, max_epochs=3)
    with pytest.warns(CostWarning, match="V2 with sync_every=1 costs about"):
        model.fit(X[FEW], Y[FEW])
    proxy = model.predict_proba(X[POOL])
    rows = len(model.costs_.rows())
    target = model.fit_target().predict_proba(X[POOL])
    assert len(model.costs_.rows()) == rows
    assert not np.allclose(target, proxy)
    assert (len(model.history), len(model.proxy_history_)) == (3, 3)
    assert model.history is model.sync_history_
    model.fit_target(X[FEW], Y[FEW])  # data: trained on that
    assert stages(model, 1)[-1] == "train_target"
    again = pickle.loads(pickle.dumps(net(sync_every=3).fit(X[FEW], Y[FEW])))
    assert again.state_.synced is None


def test_partial_fits_count_and_go_on_from_the_target():
    with pytest.warns(CostWarning):
        model = net(sync_every=1).partial_fit(X[FEW], Y[FEW])
    target = copy.deepcopy(model.state_.synced)
    model.partial_fit(X[FEW], Y[FEW])
    assert torch.equal(model.dense_.first.weight, target.first.weight)
    model.fit_target()
    model.partial_fit(X[FEW], Y[FEW])  # from the target, with the proxy's history
    assert len(model.history) == 12
    assert stages(model, 3) == ["prune", "train_proxy", "sync_fuse", "sync"]


def test_new_settings_of_the_module_and_initialize_start_over():
    with pytest.warns(CostWarning):
        model = net(sync_every=1).fit(X[FEW], Y[FEW])
    first = model.state_.synced
    model.set_params(module__hidden=40).fit(X[FEW], Y[FEW])
    assert model.dense_.first.out_features == 40
    model.initialize()
    assert model.state_.synced is None
    assert first.first.out_features == 24
    with pytest.raises(InputError, match="sync_every=0"):
        net(sync_every=0).fit(X[FEW], Y[FEW])


def test_rounds_of_v2_are_those_of_the_core():
    """Same starts, no training: what is fused, cut and fused again is what a selector makes."""
    dense = Digits()
    still = TorchTrainer(epochs=1, lr=1e-30, progress=False, device="cpu")
    model = net(dense, sync_every=2, pruning_ratio=0.75, max_epochs=0)
    core = PrunedProxySelector(dense, 0.75, trainer=still, sync_every=2, random_state=0)
    for _ in range(4):
        model.fit(X[FEW], Y[FEW])
        core.fit(X[FEW], Y[FEW])
    for ours, theirs in ((model.proxy_.module, core.model), (model.fit_target().target_, core.fit_target())):
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        fused = fuse(model.dense_, model.proxy_)
    torch.testing.assert_close(fused.head.weight, model.target_.head.weight)


def test_a_teacher_between_rounds():
    model = net(kind=Watched, sync_every=2, pruning_ratio=0.75, distillation=Distillation(0.5)).fit(X[FEW], Y[FEW])
    seen = len(model.seen)
    model.fit(X[FEW], Y[FEW])
    assert len(model.seen) == 3 * seen  # the second proxy's batches and the target's
    assert issubclass(type(model), NeuralNetClassifier)
