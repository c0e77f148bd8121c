"""`advise` on kinds of proxies: which are looked at, what they know and cost, which is named, and in what words."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from fakes import PlainTrainer, batch_norm, blobs, mlp, same, seeded, trainer, weights
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from prunefuse_al import CostLedger, PrunedProxySelector, advise, plots
from prunefuse_al.advisor import Advice, AdviceRow, FewerEpochs, LoopPlan, Prediction, Target
from prunefuse_al.advisor.agreement import Agreement, Sample
from prunefuse_al.advisor.considered import Candidate
from prunefuse_al.advisor.loop_costs import Rates
from prunefuse_al.advisor.making import Made
from prunefuse_al.advisor.timing import Spread, Timing, Work
from prunefuse_al.costs import CostRow
from prunefuse_al.errors import FusionError, InputError, UnsupportedModelError
from prunefuse_al.fusing import Fusion
from prunefuse_al.proxies import Another, AnyProxy, Dense, Prepared, Probe, Pruned, Task, Training
from prunefuse_al.pruning import RepairReport, prune
from prunefuse_al.training import ProgressivePruning, Reader

X, Y = blobs(120)
PLAN = LoopPlan(pool=300, rounds=3, initial=20, k=40)
ALL = ("pruned", "unrepaired", "probe", "fewer epochs")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    network = batch_norm()
    trainer(epochs=6).fit(network, (X, Y), seed=0)
    return network


def asked(model: nn.Module, target: Any = None, **options: Any) -> Advice:
    given = {"ratios": (0.5,), "plan": PLAN, "trainer": trainer(epochs=4), "repeats": 1, "trial_epochs": 2}
    return advise(model, options.pop("example_inputs", X[:2]), target, **{**given, **options})


@pytest.fixture(scope="module")
def advice(net: nn.Module) -> Advice:
    before = weights(net)
    found = asked(net, labelled=(X, Y), unlabelled=X, kinds=(*ALL, Probe(dropout=0.2), FewerEpochs(0.25)))
    assert same(before, weights(net))
    assert not any(module._forward_pre_hooks for module in net.modules())
    return found


# ---- what is looked at


def test_each_kind_has_a_row(advice: Advice) -> None:
    assert [(row.name, row.kind, row.pruning_ratio) for row in advice.every] == [
        ("dense", "dense", 0.0),
        ("p=0.5", "pruned", 0.5),
        ("p=0.5 as cut", "unrepaired", 0.5),
        ("probe", "probe", None),
        ("0.5 of epochs", "fewer epochs", 0.0),
        ("probe (2)", "probe", None),
        ("0.25 of epochs", "fewer epochs", 0.0),
    ]
    assert advice.trained
    assert not advice.left_out
    assert {len(row) for row in advice.to_dicts()} == {len(advice.to_dicts()[0])}
    stages = advice.costs.totals()
    assert {"prune", "repair", "features", "measure", "trial"} <= stages.keys()


def test_by_default_a_trained_network_is_looked_at_in_all_ways_and_a_new_one_as_ever(net: nn.Module) -> None:
    old, new = asked(net), asked(batch_norm())
    assert [row.name for row in old.every] == ["dense", "p=0.5", "probe", "0.5 of epochs"]
    assert [row.name for row in new.every] == ["dense", "p=0.5"]
    assert set(new.left_out) == {"probe"}
    assert "probe is not looked at: the network does not look trained" in str(new)
    assert "pass pretrained=True" in str(new)
    assert [row.name for row in asked(batch_norm(), pretrained=True).others] == ["probe", "0.5 of epochs"]
    assert new.rows[0].macs.once == 0


def test_a_probe_costs_its_head_and_the_pool_once(advice: Advice, net: nn.Module) -> None:
    probe = next(row for row in advice.others if row.kind == "probe")
    assert (probe.parameters, probe.forward_macs, probe.backward_macs) == (12 * 3 + 3, 36, 36)
    assert probe.macs.once == PLAN.pool * advice.dense.forward_macs
    assert 0 < probe.seconds.once <= probe.seconds.selection


def test_fewer_epochs_are_timed_as_the_dense_network_that_they_are(advice: Advice) -> None:
    half, quarter = (row for row in advice.others if row.kind == "fewer epochs")
    assert half.timing == quarter.timing == advice.dense.timing
    assert quarter.macs.selection < half.macs.selection < advice.dense.macs.selection
    score = PLAN.scored * advice.dense.forward_macs
    assert half.macs.selection - score == pytest.approx(2 * (quarter.macs.selection - score))


def test_what_makes_no_sense_is_left_out_with_the_reason(net: nn.Module) -> None:
    whole = asked(net, kinds=ALL, repair=False, trainer=trainer(epochs=1))
    assert set(whole.left_out) == {"unrepaired", "fewer epochs"}
    assert whole.rows[0].name == "p=0.5 as cut"  # which says that it is not repaired
    silent = asked(net, kinds=ALL, trainer=_Silent())
    assert silent.left_out == {"fewer epochs": "the trainer does not say for how many epochs it trains"}

    class Pairs(nn.Module):  # two layers make the logits, so that no head is the last
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = mlp(6, 12, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x).relu()
            return self.one(h) + self.two(h)

    network = seeded(Pairs)
    found = asked(network, pretrained=True)
    assert [row.name for row in found.others] == ["0.5 of epochs"]
    assert "end the network in an nn.Linear" in found.left_out["probe"]
    assert not [row for row in found.costs.rows() if row.stage == "features"]
    with pytest.raises(UnsupportedModelError, match=r"end the network in an nn\.Linear"):
        asked(network, pretrained=True, kinds=("pruned", Probe()))


class _Silent(PlainTrainer):
    def __init__(self) -> None:
        super().__init__()
        del self.epochs
        self.times = 2

    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> float:
        return PlainTrainer(self.times).fit(model, data, teacher=teacher, seed=seed)


class Thirds:
    """A kind of the user's own that says nothing but what it must."""

    fuses: ClassVar[bool] = True

    def cut(self, task: Task, before: AnyProxy | None = None) -> AnyProxy:
        return prune(task.dense, X[:2], 1 / 3)

    def prepare(self, task: Task) -> Prepared:
        raise AssertionError("not asked for")

    def stale(self, proxy: AnyProxy, n: int) -> bool:
        return False

    def begin(self, task: Task, start: AnyProxy, stage: Any) -> Training:
        network = copy.deepcopy(start.module)
        return Training(network, lambda: start.with_module(network))

    def put_back(self, dense: nn.Module, proxy: AnyProxy, fusion: Fusion) -> nn.Module:
        raise FusionError("not asked for")


def test_kinds_as_objects_of_ones_own_as_well(net: nn.Module) -> None:
    kinds = (Thirds(), Another(mlp(6, 4, 3)), Dense(), Pruned(0.4, repair={"distil": 1}), Pruned(0.5))
    found = asked(net, kinds=kinds, labelled=(X, Y), unlabelled=X)
    assert found.rows == ()
    assert [(row.name, row.kind) for row in found.others] == [
        ("Thirds", "Thirds"),
        ("another", "another"),
        ("Dense", "Dense"),
        ("p=0.4", "pruned"),
        ("p=0.5 (2)", "pruned"),
    ]
    thirds, other, dense = found.others[:3]
    assert thirds.parameters == sum(p.numel() for p in prune(net, X[:2], 1 / 3).module.parameters())
    assert other.parameters == sum(p.numel() for p in mlp(6, 4, 3).parameters())
    assert dense.forward_macs == found.dense.forward_macs
    assert found.best is not None
    assert found.nearest in found.others
    assert "Thirds" in str(found)
    assert [row.name for row in asked(net, kinds="probe").others] == ["probe"]


# ---- what they know


def test_accuracy_is_that_of_a_selector_trained_on_the_same_half(advice: Advice, net: nn.Module) -> None:
    halves, rows = Sample.of(TorchPair(), trainer(), 0), {row.name: row for row in advice.every}
    for name, kind, epochs in (
        ("dense", Dense(), 2),
        ("0.5 of epochs", Dense(), 1),
        ("probe", Probe(), 2),
        ("p=0.5 as cut", Pruned(0.5, repair=False, pretrained=True), 2),
    ):
        own = PrunedProxySelector(net, proxy=kind, trainer=trainer(epochs=epochs), random_state=0, scorer="margin")
        own.fit(X[halves.train], Y[halves.train])
        right = sum(
            int(a == b) for a, b in zip(own.predict_proba(X[halves.held]).argmax(1), Y[halves.held], strict=True)
        )
        assert rows[name].accuracy == pytest.approx(right / 60), name
        assert rows[name].accuracy_share == pytest.approx(rows[name].accuracy / rows["dense"].accuracy)


class TorchPair(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return X[row], Y[row]


def test_repaired_rows_know_more_than_those_as_they_were_cut(net: nn.Module) -> None:
    idle = trainer(epochs=1, lr=1e-9, optimizer="adam", batchnorm="as_is")  # asked is what is left before training
    found = asked(net, labelled=(X, Y), unlabelled=X, trainer=idle, ratios=(0.75,), kinds=("pruned", "unrepaired"))
    repaired, bare = found.rows[0], found.others[0]
    assert repaired.accuracy >= bare.accuracy
    assert repaired.agreement.spearman > bare.agreement.spearman


def test_labels_that_are_no_classes_have_no_accuracy(net: nn.Module) -> None:
    several = trainer(epochs=2, loss=nn.BCEWithLogitsLoss())
    labels = nn.functional.one_hot(Y, 3).float()
    labels[::5, 0] = 1
    found = asked(net, labelled=(X, labels), trainer=several, scorer="ml_entropy")
    assert found.target == Target()
    assert [row.accuracy for row in found.every] == [None] * 4
    assert "accuracy" not in str(found).replace("accuracy=,", "")
    with pytest.raises(InputError, match="labels of the sample are no classes"):
        asked(net, {"accuracy": 0.9}, labelled=(X, labels), trainer=several, scorer="ml_entropy")


def test_of_a_trained_network_accuracy_is_asked_for_unless_something_else_is(advice: Advice, net: nn.Module) -> None:
    assert advice.target == Target(accuracy=0.9)
    assert asked(net).target == asked(net, None, repair=False).target == Target()
    assert asked(net, 0.5, labelled=(X, Y)).target == Target(cost=0.5)
    assert asked(batch_norm(), labelled=(X, Y)).target == Target()
    assert asked(batch_norm(), {"accuracy": 0.0}, labelled=(X, Y)).best is not None
    with pytest.raises(InputError, match=r"target asks for accuracy.*pass labelled=\(X, y\)"):
        asked(net, {"accuracy": 0.5})


# ---- what they cost


def test_the_seconds_of_a_repair_grow_with_its_rows() -> None:
    network = mlp(6, 8, 8, 3)
    cut = prune(network, X[:2], 0.5)
    report, work = RepairReport(60, 60, (), (), {}), Work(*[Reader(trainer(), network, X)] * 2, X[:2])
    taken = tuple(CostRow(0, stage, "proxy", s, 0, 0, 0, 0, 0, 0) for stage, s in (("prune", 1.0), ("repair", 6.0)))
    spread = Spread(1.0, 1.0, 1.0)
    timing = Timing(spread, spread, spread, spread)
    dense = Made(Candidate("dense", "dense", Dense()), cut, work, 10.0, 20.0, (), 60)
    for repair, pool, seconds, passed in (
        (True, 60, 7.0, 60 * 14),
        (True, 240, 1 + 6 * 4, 240 * 14),
        (True, 5000, 1 + 6 * 1024 / 60, 1024 * 14),
        ({"rows": 60}, 240, 7.0, 60 * 14),
        ({"rows": None}, 240, 25.0, 240 * 14),
        ({"distil": 2}, 240, 25.0, 240 * (14 + 14 + 2 * 12)),
    ):
        start = replace(cut, repair_report=report)
        made = Made(Candidate("p", "pruned", Pruned(0.5, repair=repair)), start, work, 4.0, 8.0, taken, 60)
        plan = LoopPlan(pool=pool, rounds=1, initial=2, k=2)
        assert made.of_macs(plan, dense) == Rates(12.0, 4.0, cut=passed)
        assert made.of_seconds(plan, dense, timing, timing).cut == pytest.approx(seconds)
    bare = Made(Candidate("p", "pruned", Pruned(0.5)), cut, work, 4.0, 8.0, taken[:1], 60)
    assert bare.of_macs(PLAN, dense) == Rates(12.0, 4.0)
    assert bare.of_seconds(PLAN, dense, timing, timing).cut == 1.0


def test_data_is_read_as_the_trainer_reads_it(net: nn.Module) -> None:
    def scaled(x: Tensor) -> Tensor:
        assert x.shape[1:] == (2, 6)
        return x.mean(1)

    own, twice = trainer(epochs=2, transform=scaled, eval_transform=scaled), torch.stack([X, X], dim=1)
    found = asked(net, trainer=own, unlabelled=twice)
    assert (found.rows[0].macs.once > 0, found.trial) == (True, None)
    repaired = next(row for row in found.costs.rows() if row.stage == "repair")
    assert repaired.samples >= len(X)
    labelled = asked(net, trainer=own, labelled=(twice, Y))
    assert labelled.others[0].accuracy is not None


# ---- which is named, and in what words


def row_of(name: str, kind: str, ratio: float | None, total: float, accuracy: float, cost: float = 0.1) -> AdviceRow:
    spread = Spread(1.0, 1.0, 1.0)
    predicted = Prediction(cost, total, cost, total), Prediction(cost, total, 2 * cost, 2 * total)
    timing, agreed = Timing(spread, spread, spread, spread), Agreement(0.71, 0.5)
    share = accuracy / 0.652
    return AdviceRow(name, ratio, 1, 1.0, 2.0, 0.0, timing, *predicted, agreed, kind, accuracy, share)


def advice_of(rows: list[AdviceRow], others: list[AdviceRow], target: Target, **beside: Any) -> Advice:
    dense = row_of("dense", "dense", 0.0, 1, 0.652, 1)
    ledger = CostLedger([CostRow(0, "measure", "dense", 1.0, 1, 1, 1, 1, 1, 0)])
    return Advice(tuple(rows), dense, None, PLAN, target, None, ledger, 1, "cpu", tuple(others), **beside)


RATIO, PROBE = row_of("p=0.5", "pruned", 0.5, 0.6, 0.6), row_of("probe", "probe", None, 0.3, 0.641, 0.012)


def test_the_verdict_is_one_sentence_from_the_figures() -> None:
    found = advice_of([RATIO], [PROBE], Target(accuracy=0.9))
    assert found.best is PROBE
    assert found.verdict == (
        "probe: choosing takes 0.012 of the dense loop's MACs and 0.024 of its seconds, with the target 0.30 and 0.60, "
        "accuracy 64.1 % against 65.2 %, agreement 0.71"
    )
    assert f"best by the target (total <= 1, accuracy >= 0.9) is {found.verdict}" in str(found)
    assert [row["best"] for row in found.to_dicts()] == [False, False, True]


def test_what_is_not_as_good_as_it_has_to_be_is_passed_over() -> None:
    weak = replace(PROBE, accuracy=0.3, accuracy_share=0.46)
    assert advice_of([RATIO], [weak], Target(accuracy=0.9)).best is RATIO
    none = advice_of([replace(RATIO, accuracy_share=0.8)], [weak], Target(accuracy=0.9))
    assert none.best is None
    assert none.verdict == (
        "no ratio meets the target (total <= 1, accuracy >= 0.9); p=0.5 comes nearest and misses accuracy, nor does "
        "another kind meet it"
    )
    assert advice_of([replace(RATIO, accuracy_share=None)], [], Target(accuracy=0)).best is None


def test_none_pays() -> None:
    dear = row_of("p=0.5", "pruned", 0.5, 1.3, 0.6, 0.4), row_of("probe", "probe", None, 1.03, 0.6, 0.05)
    found = advice_of([dear[0]], [dear[1]], Target())
    assert found.best is None
    assert found.verdict == (
        "none pays: probe, the cheapest, takes 1.03 of the dense loop's MACs, 0.05 for choosing and the rest for the "
        "target; let the dense network choose, or plan more rounds or a larger pool"
    )
    assert found.verdict in str(found)
    assert "does not pay, for the target is paid on top: p=0.5 (1.30), probe (1.03)" in str(found)


def test_costs_alone_say_what_they_do_not_tell() -> None:
    found = advice_of([RATIO], [PROBE], Target(), trained=True)
    assert "whether the features of this trained network tell your classes apart" in str(found)
    assert "labelled=(X, y)" in str(found)
    assert "costs alone always favour the largest ratio" in str(advice_of([RATIO], [], Target()))


numbers = st.floats(0.01, 2, allow_nan=False)


@given(st.lists(st.tuples(numbers, numbers), max_size=4), st.lists(st.tuples(numbers, numbers), max_size=4))
def test_the_cheapest_of_the_largest_ratio_and_other_kinds_is_taken(ratios: list[Any], kinds: list[Any]) -> None:
    target = Target(total=1, accuracy=0.5)
    rows = [row_of(f"p=0.{n}", "pruned", n / 10, total, 0.652 * right) for n, (total, right) in enumerate(ratios, 1)]
    others = [row_of(f"k{n}", "own", None, total, 0.652 * right) for n, (total, right) in enumerate(kinds)]
    wanted = None
    for row in rows:
        wanted = row if target.met_by(row) else wanted
    for row in others:
        if target.met_by(row) and (wanted is None or row.macs.total < wanted.macs.total):
            wanted = row
    assert advice_of(rows, others, target).best is wanted


def test_other_kinds_are_drawn_as_lines_across(advice: Advice) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    for found in (advice, replace(advice, rows=())):
        ax = figure.Figure().subplots()
        found.plot(ax)
        assert plots._title(found) == ax.get_title()
        drawn = {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}
        assert drawn["probe total, MACs"] == [found.others[1].macs.total_share] * 2


# ---- refusals

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a word": ({"kinds": "brobe"}, "holds 'brobe'; pass any of 'pruned', 'unrepaired', 'probe', 'fewer epochs'"),
    "no kinds": ({"kinds": ()}, "is empty; pass one or more"),
    "a class": ({"kinds": (Probe,)}, "holds <class .*Probe"),
    "a network": ({"kinds": (mlp(6, 3),)}, "holds Sequential"),
    "widths that change": ({"kinds": (Pruned(lambda n: 0.5),)}, "costed at one ratio"),
    "thinned in training": ({"kinds": (Pruned(progressive=ProgressivePruning(5)),)}, "leave progressive= out"),
    "a solver": ({"kinds": (Probe(head="logistic"),)}, "no steps to be timed: look at Probe"),
    "one epoch": ({"kinds": (FewerEpochs(),), "trainer": trainer(epochs=1)}, "trainings last for one epoch"),
    "taylor on nothing": ({"importance": "taylor"}, "measured on labelled rows, and there are none"),
    "a word for pretrained": ({"pretrained": "yes"}, "pretrained='yes'; pass True, False"),
    "repairs of another kind": ({"repair": {"epochs": 3}}, "there is no 'epochs' to set"),
    "no rows": ({"unlabelled": X[:0]}, "0 rows"),
    "other rows": ({"unlabelled": X[:, :4]}, r"\[16, 6\]|\[\d+, 4\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_words_and_changes_nothing(name: str, net: nn.Module) -> None:
    options, message = REFUSED[name]
    before = weights(net)
    with pytest.raises(InputError, match=message):
        asked(net, **options)
    assert same(before, weights(net))
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_importance_may_be_measured_on_the_sample(net: nn.Module) -> None:
    assert asked(net, importance="taylor", labelled=(X, Y)).rows[0].accuracy is not None


def test_shares_of_epochs_are_shares() -> None:
    assert FewerEpochs(torch.tensor(0.25)) == FewerEpochs(0.25)
    for share in (0, 1, 1.5, True, "half"):
        with pytest.raises(InputError, match="0 < share < 1"):
            FewerEpochs(share)  # type: ignore[arg-type]
