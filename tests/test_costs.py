"""Counting must agree with arithmetic, and measuring must not disturb what is measured."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import mlp, seeded
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.costs.ledger import CostLedger, CostRow, macs
from prunefuse_al.errors import InputError


def test_macs_of_a_linear_layer_by_hand() -> None:
    forward, backward = macs(mlp(8, 6, 3), torch.zeros(4, 8))
    assert forward == 8 * 6 + 6 * 3
    assert backward == 8 * 6 + 2 * 6 * 3  # the first layer needs no gradient of its input


def test_macs_of_a_convolution_by_hand() -> None:
    forward, backward = macs(seeded(lambda: nn.Conv2d(3, 8, 3, padding=1)), torch.zeros(2, 3, 10, 10))
    assert forward == backward == 3 * 9 * 8 * 100


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_macs_of_recurrent_layers_are_not_missed(kind: Callable[..., nn.RNNBase], gates: int) -> None:
    features, hidden, steps = 5, 7, 6
    forward, backward = macs(seeded(lambda: kind(features, hidden, batch_first=True)), torch.zeros(2, steps, features))
    assert forward == gates * steps * hidden * (features + hidden)
    assert backward > forward


class Recurrent(nn.Module):
    """A recurrent layer that gets a state of its own, in single precision, as most code makes one."""

    def __init__(self, kind: Callable[..., nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.read, self.head = kind(3, 8, batch_first=True, **options), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        directions = 1 + self.read.bidirectional
        state = torch.zeros(directions * self.read.num_layers, len(x), self.read.hidden_size)
        states: Any = (state, state) if isinstance(self.read, nn.LSTM) else state
        read, _ = self.read(x, states)
        logits: Tensor = self.head(read.unflatten(2, (directions, -1)).sum(2)[:, -1])
        return logits


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_macs_of_recurrent_layers_with_a_state_of_their_own(
    kind: Callable[..., nn.RNNBase], gates: int, bidirectional: bool, layers: int, dtype: torch.dtype
) -> None:
    make = lambda: Recurrent(kind, bidirectional=bidirectional, num_layers=layers, dropout=0.1 * (layers - 1))  # noqa: E731
    with default_dtype(dtype):
        forward, backward = macs(seeded(make).to(dtype), torch.zeros(2, 10, 3, dtype=dtype))
    directions = 1 + bidirectional
    widths = [3, *[8 * directions] * (layers - 1)]
    of_weights = directions * gates * 10 * sum(8 * (width + 8) for width in widths) + 8 * 2
    assert forward == of_weights
    assert of_weights < backward < 2 * of_weights  # gradients of the inputs of the first layer are not needed


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.LSTM(3, 8, batch_first=True, proj_size=4)

    def forward(self, x: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 2]), batch_first=True)
        padded: Tensor = nn.utils.rnn.pad_packed_sequence(self.read(rows)[0], batch_first=True)[0]
        return padded


def test_macs_of_packed_sequences_are_those_of_their_steps() -> None:
    per_step = 4 * 8 * (3 + 4) + 8 * 4
    assert macs(seeded(Packed), torch.zeros(2, 6, 3))[0] == (6 + 2) / 2 * per_step


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("ratio", [0, 0.5])
def test_a_selector_of_recurrent_layers_with_a_state_of_their_own(kind: Any, ratio: float) -> None:
    x, y = torch.randn(40, 10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    trainer = TorchTrainer(1, device="cpu", progress=False)
    chosen = PrunedProxySelector(seeded(lambda: Recurrent(kind)), ratio, trainer=trainer, random_state=0).fit(x, y)
    assert len(chosen.query(x, 3)) == 3
    assert all(row.macs and not row.uncounted for row in chosen.costs.rows() if row.samples)


class FixedBatch(nn.Module):
    """Written for one number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.view(10, 4))
        return logits


def test_a_network_that_takes_one_number_of_rows_is_counted_with_that() -> None:
    ledger, net = CostLedger(), seeded(FixedBatch)
    with ledger.stage("score", round=1, network="proxy") as stage:
        stage.watch(net)
        net(torch.zeros(10, 4))
    (row,) = ledger.rows()
    assert (row.samples, row.forward_macs, row.uncounted) == (10, 80, "")


class Singular(nn.Linear):
    """What it costs is told by running a copy, and there is none."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise KeyError("there is but one")


def test_what_cannot_be_counted_fails_nothing_and_is_said() -> None:
    ledger, net = CostLedger(), seeded(lambda: Singular(4, 2))
    for _ in range(2):
        with ledger.stage("train_proxy", round=1, network="proxy") as stage:
            stage.watch(net)
            net(torch.zeros(3, 4)).sum().backward()
    with ledger.stage("predict", round=1, network="proxy") as stage:
        stage.watch(mlp(4, 2))
    rows = ledger.rows()
    assert [row.samples for row in rows] == [3, 3, 0]
    assert rows[0].uncounted == rows[1].uncounted == "KeyError: 'there is but one'"
    assert math.isnan(ledger.ratio())
    assert math.isnan(ledger.totals()["train_proxy"]["macs"])
    assert ledger.verdict() == ""
    text = str(ledger)
    assert text.count("not counted") == 2
    assert (
        text.count("MACs of 2 rows could not be counted, so what sums them says nan: KeyError: 'there is but one'") == 1
    )
    assert "nan%" not in text
    assert CostLedger.from_dicts(ledger.to_dicts()) == ledger
    assert "uncounted" not in ledger.to_dicts()[2]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_call_whose_rows_cannot_be_told_fails_nothing_and_is_said() -> None:
    ledger, net = CostLedger(), seeded(lambda: nn.Linear(4, 2))
    with ledger.stage("score", round=1, network="proxy") as stage:
        stage.watch(net)
        net(torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)]))
        net(torch.zeros(5, 4))
    (row,) = ledger.rows()
    assert row.samples == 5
    assert row.uncounted.startswith("RuntimeError: ")


def test_inference_is_counted_without_gradients() -> None:
    asked: list[bool] = []

    class NoBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            asked.append(True)
            return gradient

    ledger = CostLedger()
    net = seeded(lambda: Calling(NoBackward.apply))
    with ledger.stage("score", round=1, network="proxy") as stage, torch.inference_mode():
        stage.watch(net)
        net(torch.zeros(3, 4))
    assert (ledger.rows()[0].forward_macs, asked) == (24, [])
    with ledger.stage("train_proxy", round=1, network="proxy") as stage:
        stage.watch(net)
        net(torch.zeros(3, 4)).sum()
    assert (ledger.rows()[1].forward_macs, ledger.rows()[1].backward_macs, len(asked)) == (24, 24, 1)


class Calling(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))  # type: ignore[no-any-return]


def test_a_network_that_was_moved_back_is_counted_with_calls_from_where_it_worked() -> None:
    # "meta" stands for any device that is not the network's: trainers move a network for the work, then back.
    assert macs(mlp(8, 6, 3).to("meta"), torch.zeros(4, 8)) == macs(mlp(8, 6, 3), torch.zeros(4, 8))


def test_macs_of_attention_do_not_depend_on_the_kernel() -> None:
    forward, _ = macs(seeded(lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)), torch.zeros(2, 5, 16))
    assert forward == 5 * (3 * 16 * 16 + 16 * 16 + 2 * 16 * 32) + 2 * 5 * 5 * 16


def test_frozen_parameters_need_no_backward() -> None:
    net = mlp(8, 2).requires_grad_(False)
    assert macs(net, torch.zeros(2, 8)) == (16.0, 0.0)


def test_macs_leaves_the_network_alone() -> None:
    net = nn.Sequential(mlp(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    before = copy.deepcopy(net.state_dict())
    macs(net, torch.ones(2, 4))
    assert not net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class _TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left: Tensor, *, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.left(left) + self.right(right)}


def test_several_inputs() -> None:
    assert macs(seeded(_TwoInputs), {"left": torch.zeros(2, 4), "right": torch.zeros(2, 2)})[0] == 18
    ledger, net = CostLedger(), seeded(_TwoInputs)
    with ledger.stage("score", round=1, network="proxy") as stage:
        stage.watch(net)
        net(torch.zeros(7, 4), right=torch.zeros(7, 2))
    assert (ledger.rows()[0].samples, ledger.rows()[0].forward_macs) == (7, 7 * 18)


def _train_and_score(ledger: CostLedger, net: nn.Module, dense: nn.Module) -> None:
    with ledger.stage("train_proxy", round=1, network="proxy", dense=dense) as stage:
        stage.watch(net)
        net.train()
        for size in (4, 4, 2):
            net(torch.zeros(size, 8)).sum().backward()
    with ledger.stage("score", round=1, network="proxy", dense=dense) as stage, torch.inference_mode():
        stage.watch(net)
        net.eval()
        copy.deepcopy(net)(torch.zeros(100, 8))  # a loop may work on a copy


def test_training_and_inference_are_counted_apart() -> None:
    ledger, thin, dense = CostLedger(), seeded(lambda: nn.Linear(8, 2, bias=False)), mlp(8, 8)
    _train_and_score(ledger, thin, dense)
    train, score = ledger.rows()
    assert (train.samples, train.forward_macs, train.backward_macs) == (10, 160, 160)
    assert (score.samples, score.forward_macs, score.backward_macs) == (100, 1600, 0)
    assert (train.dense_macs, score.dense_macs) == (10 * 128, 100 * 64)
    assert ledger.ratio() == pytest.approx(0.25)
    assert train.parameters == 16
    assert train.seconds > 0
    assert train.peak_memory_bytes > 0
    assert not thin._forward_pre_hooks


def test_one_row_and_no_rows() -> None:
    ledger, net = CostLedger(), nn.Sequential(mlp(3, 3), nn.BatchNorm1d(3)).eval()
    with ledger.stage("score", round=1, network="proxy") as stage:
        stage.watch(net)
        net(torch.zeros(1, 3))
        net(torch.zeros(0, 3))
    assert (ledger.rows()[0].samples, ledger.rows()[0].forward_macs) == (1, 9)


def test_rows_of_several_shapes_are_counted_each() -> None:
    ledger, net = CostLedger(), seeded(lambda: nn.Conv1d(2, 4, 3, padding=1))
    with ledger.stage("score", round=1, network="proxy") as stage:
        stage.watch(net)
        for length in (5, 9, 5):
            net(torch.zeros(3, 2, length))
    assert ledger.rows()[0].forward_macs == 2 * 3 * 4 * 3 * (5 + 9 + 5)


def test_a_helper_network_adds_macs_but_no_samples() -> None:
    ledger, student, teacher = CostLedger(), mlp(4, 2), mlp(4, 2)
    with ledger.stage("train_target", round=1, network="target", dense=student) as stage:
        stage.watch(student, teacher)
        with torch.no_grad():
            goal = teacher(torch.zeros(3, 4))
        (student(torch.zeros(3, 4)) - goal).sum().backward()
    row = ledger.rows()[0]
    assert (row.samples, row.forward_macs, row.backward_macs, row.dense_macs) == (3, 48, 24, 48)


def test_a_failed_stage_leaves_no_row_and_no_hook() -> None:
    ledger, net = CostLedger(), mlp(2, 2)
    with pytest.raises(ZeroDivisionError), ledger.stage("score", round=1, network="proxy") as stage:  # noqa: PT012
        stage.watch(net)
        raise ZeroDivisionError
    assert len(ledger) == 0
    assert not net._forward_pre_hooks


def test_a_failed_transaction_drops_its_rows() -> None:
    ledger = CostLedger()
    with ledger.stage("prune", round=1, network="proxy"):
        pass
    with pytest.raises(ZeroDivisionError), ledger.transaction():  # noqa: PT012
        with ledger.stage("score", round=1, network="proxy"):
            pass
        raise ZeroDivisionError
    assert [row.stage for row in ledger.rows()] == ["prune"]


def test_ratio_against_a_measured_run() -> None:
    def row(stage: str, seconds: float, work: int) -> CostRow:
        return CostRow(1, stage, "proxy", seconds, 10, work, 0, 4 * work, 5, 0)

    proxy = CostLedger([row("score", 1.0, 10), row("train_target", 9.0, 99), row("predict", 5.0, 5)])
    dense = CostLedger([row("score", 4.0, 50), row("predict", 7.0, 7)])
    assert proxy.ratio(dense, measure="seconds") == 0.25
    assert proxy.ratio(dense, measure="seconds", total=True) == 2.5
    assert proxy.ratio(dense) == 0.2
    assert proxy.ratio() == 0.25
    assert proxy.ratio(total=True) == 109 / 40
    synced = CostLedger([row("score", 1.0, 10), row("sync", 9.0, 20)])
    assert synced.ratio() == 30 / 40
    assert CostLedger().ratio() != CostLedger().ratio()  # nan
    with pytest.raises(InputError, match="needs baseline="):
        proxy.ratio(measure="seconds")
    with pytest.raises(InputError, match="one of 'macs', 'seconds', 'samples'"):
        proxy.ratio(measure="hours")


def loop_of(rounds: int, share: float, *, target: bool = True, sync: int = 0) -> CostLedger:
    """Return the ledger of a loop whose dense network costs 100 a round, the proxy `share` of it, and a sync 100."""
    rows = []
    for number in range(1, rounds + 1):
        rows.append(CostRow(number, "train_proxy", "proxy", 0.0, 1, round(80 * share), 0, 80, 9, 0))
        if sync and number % sync == 0:
            rows.append(CostRow(number, "sync_recalibrate", "target", 0.0, 1, 20, 0, 20, 9, 0))
            rows.append(CostRow(number, "sync", "target", 0.0, 1, 80, 0, 80, 9, 0))
        rows.append(CostRow(number, "score", "proxy", 0.0, 1, round(20 * share), 0, 20, 9, 0))
    if target:
        rows.append(CostRow(rounds, "train_target", "target", 0.0, 1, 80, 0, 80, 9, 0))
    return CostLedger(rows)


def test_the_report_says_whether_the_loop_pays() -> None:
    assert loop_of(5, 0.25).verdict() == "with the target 0.41 of the dense loop's MACs: it pays"
    expected = "with the target, if trained as long as the last proxy, 0.41 of the dense loop's MACs: it pays"
    assert loop_of(5, 0.25, target=False).verdict() == expected
    once = loop_of(1, 0.25).verdict()
    assert "1.05 of the dense loop's MACs: it does not pay after 1 round; more rounds" in once
    assert "does not pay after 5 rounds" in loop_of(5, 0.9).verdict()
    synced = loop_of(5, 0.25, sync=1, target=False)  # the last sync made the target
    expected = "with the target 1.25 of the dense loop's MACs: it does not pay after 5 rounds; syncs alone took 1.00"
    assert synced.verdict().startswith(expected)
    assert str(synced).endswith(f"selection took 125.0% of the dense network's MACs\n{synced.verdict()}")
    expected = "with the target, if trained as long as the last proxy, 0.81 of the dense loop's MACs: it pays"
    assert loop_of(5, 0.25, sync=2, target=False).verdict() == expected  # the last sync was before the last labels
    assert loop_of(5, 1.0).verdict() == ""  # the dense loop itself
    assert "does not pay" in loop_of(5, 1.5).verdict()  # a network larger than the dense one
    assert CostLedger().verdict() == ""


def core_set_of(share: float, *, target: float | None = None, retrained: bool = False) -> CostLedger:
    """Return the ledger of a core set: the dense network takes 100 to train on all of the data, and 20 to score it."""
    rows = [CostRow(1, "train_proxy", "proxy", 0.0, 1, round(100 * share), 0, 100, 9, 0)]
    rows += [CostRow(1, "retrain_proxy", "proxy", 0.0, 1, round(100 * share), 0, 100, 9, 0)] * retrained
    rows.append(CostRow(1, "score", "proxy", 0.0, 1, round(20 * share), 0, 20, 9, 0))
    rows.append(CostRow(1, "coreset", "proxy", 0.0, 0, 0, 0, 0, 0, 0))
    if target is not None:
        rows.append(CostRow(1, "train_target", "target", 0.0, 1, round(100 * target), 0, round(100 * target), 9, 0))
    return CostLedger(rows)


def test_the_report_says_whether_a_core_set_pays() -> None:
    chosen = "choosing the core set took 0.25 of the MACs of choosing it with the dense network, trained on all data"
    assert core_set_of(0.25).verdict() == chosen
    pays = f"{chosen}; with the target 0.60 of one training of the dense network on all data: it pays"
    assert core_set_of(0.25, target=0.3).verdict() == pays
    later = core_set_of(0.25, target=0.9).verdict()  # 30 to choose, and every training on the core set saves 10
    assert later.endswith(
        "with the target 1.20 of one training of the dense network on all data: it pays after 4 such trainings"
    )
    never = core_set_of(0.25, target=1.0).verdict()
    assert never.endswith(
        "1.30 of one training of the dense network on all data: it does not pay, "
        "for training the target took no less than that"
    )
    dense = "with the target 1.50 of one training of the dense network on all data: it pays after 2 such trainings"
    assert core_set_of(1.0, target=0.3).verdict() == dense
    assert core_set_of(1.0).verdict() == ""
    sixth = [replace(row, round=6) for row in core_set_of(0.25, target=0.3).rows()]
    mixed = CostLedger([*loop_of(5, 0.25).rows(), *sixth])
    assert mixed.verdict() == pays  # what was done last is what is spoken of
    assert str(mixed).endswith(f"\n{pays}")


def test_a_training_that_is_run_again_has_no_counterpart_in_the_dense_loop() -> None:
    again = core_set_of(0.25, retrained=True)
    assert again.ratio() == pytest.approx(55 / 120)
    assert "took 0.46 of the MACs" in again.verdict()


def test_prints_as_a_table_and_exports_rows() -> None:
    ledger = CostLedger()
    assert "nothing counted" in str(ledger)
    assert repr(ledger) == "<CostLedger: 0 rows>"
    _train_and_score(ledger, mlp(8, 2), mlp(8, 8))
    text = str(ledger)
    assert "train_proxy" in text
    assert "total" in text
    assert "selection took 25.0% of the dense network's MACs" in text
    assert CostLedger.from_dicts(ledger.to_dicts()) == ledger
    assert ledger.totals()["total"]["samples"] == 110
    assert list(ledger.totals())[-1] == "total"
    assert ledger._repr_html_().count("<tr>") == 3


def test_a_compiled_network_is_counted_without_recompiling() -> None:
    ledger, net = CostLedger(), mlp(4, 2)
    graphs = 0

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return graph

    with ledger.stage("score", round=1, network="proxy") as stage:
        stage.watch(net)
        fast = torch.compile(net, backend=backend)
        fast(torch.zeros(3, 4))
        after_one = graphs
        for _ in range(20):
            fast(torch.zeros(3, 4))
    assert (ledger.rows()[0].samples, graphs) == (63, after_one)


def test_rows_are_counted_at_the_widths_they_passed_and_what_is_aside_has_no_seconds() -> None:
    ledger, net, x = CostLedger(), mlp(8, 6, 3), torch.zeros(5, 8)
    with ledger.stage("train_proxy", round=1, network="proxy", dense=mlp(8, 20, 3)) as stage:
        stage.watch(net)
        net(x)
        stage.settle()
        with stage.aside():
            time.sleep(0.2)
            first: nn.Linear = net[0]  # type: ignore[assignment]
            last: nn.Linear = net[2]  # type: ignore[assignment]
            first.weight.data, first.bias.data = first.weight.data[:2], first.bias.data[:2]
            last.weight.data = last.weight.data[:, :2]
        net(x)
    (row,) = ledger.rows()
    assert row.samples == 10
    assert row.forward_macs == 5 * (8 * 6 + 6 * 3) + 5 * (8 * 2 + 2 * 3)
    assert row.dense_macs == 3 * 10 * (8 * 20 + 20 * 3) - 10 * 8 * 20
    assert row.seconds < 0.2
