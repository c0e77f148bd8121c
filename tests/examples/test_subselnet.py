"""SubSelNet in the protocol: its closed form, its masks, what it learns, its costs, going on where it was."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "paper"))

import cells
import run
from compare import Results
from plan import Plan, parse_arm
from plans import PLANS
from records import Store
from subselnet import PREFIX, RECIPE, WAYS, Task, core_set, parse_architecture, total_macs
from subselnet.approximator import Embedded, Lessons, guesses, kl, new_approximator, train_approximator
from subselnet.coresets import PRETRAINING, Steps, random_graphs
from subselnet.encoder import autoencoder_loss, embedded, new_encoder, reconstructed, train_encoder, whole
from subselnet.family import drawn_family, random_architecture
from subselnet.graphs import NODES, OPERATIONS, Graph, batched, graph_of
from subselnet.subsets import drawn_order, losses, new_chooser, objective, probabilities, smallest_first, train_chooser

LOSSES = torch.tensor([0.1, 1.0, 3.0])
NETWORK = f"{PREFIX}8-1r3-1r3s-1p3m"
SMALL = replace(RECIPE, training=3, validation=1, test=1, epochs=1, graphs=64, encoder_epochs=1, approximator_epochs=2)
ARMS = ("random", *(f"subselnet:{way}".rstrip(":") for way in WAYS))
TINY = ["digits", "--network", NETWORK, "--epochs", "1", "--test", "150", "--pool", "300", "--budgets", "60", "80"]
TINY += ["--seeds", "0", "--device", "cpu", "--baseline", "random"]


# --- the subset


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1.0, (0.684185, 0.278169, 0.037646)), (0.5, (0.855925, 0.141483, 0.002591))]
)
def test_probabilities_of_the_worked_example(temperature, expected):
    assert probabilities(LOSSES, temperature).tolist() == pytest.approx(expected, abs=1e-6)


def value(p: Tensor, temperature: float = 1.0) -> float:
    """Return expected loss minus temperature times entropy."""
    return float((p * LOSSES).sum() + temperature * (p * p.log()).sum())


def test_no_other_distribution_makes_the_papers_objective_less():
    p = probabilities(LOSSES)
    assert float((p * LOSSES).sum()) == pytest.approx(0.459526, abs=1e-6)
    assert -float((p * p.log()).sum()) == pytest.approx(0.739052, abs=1e-6)
    assert value(p) == pytest.approx(-0.279527, abs=1e-6)
    assert value(p) == pytest.approx(-float((-LOSSES).logsumexp(0)), abs=1e-6)
    others = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(3), 200))
    for temperature in (0.3, 1.0, 2.0):
        best = value(probabilities(LOSSES, temperature), temperature)
        assert all(value(other, temperature) >= best for other in others)


def test_the_released_objective_adds_the_entropy_that_the_papers_takes_off():
    half = torch.full((3,), 0.5)
    assert float(objective(half, LOSSES, 1, size=0.1, entropy=-1)) == pytest.approx(3.198612, abs=1e-6)
    assert float(objective(half, LOSSES, 1)) == pytest.approx(2.05 + 0.5 - 0.1 * np.log(3), abs=1e-6)


def test_orders_are_drawn_one_by_one_without_replacement():
    p = probabilities(LOSSES).numpy()
    exact = {(i, j, k): p[i] * p[j] / (1 - p[i]) for i, j, k in permutations(range(3))}
    rng, draws = np.random.default_rng(0), 4000
    found = [tuple(drawn_order(LOSSES, rng).tolist()) for _ in range(draws)]
    for order, share in exact.items():
        assert found.count(order) / draws == pytest.approx(share, abs=4 * np.sqrt(share / draws))


def test_a_sample_that_is_surely_wrong_never_breaks_the_order():
    loss = torch.tensor([1e6, 0.0, 2e6, 0.0])
    assert set(drawn_order(loss, np.random.default_rng(0))[:2]) == {1, 3}
    assert sorted(drawn_order(loss, np.random.default_rng(0))) == [0, 1, 2, 3]


def test_the_smallest_come_first_and_equal_ones_in_any_order():
    loss = torch.tensor([3.0, 1.0, 1.0, 0.5, 1.0])
    orders = {tuple(smallest_first(loss, np.random.default_rng(seed)).tolist()) for seed in range(40)}
    assert {order[0] for order in orders} == {3}
    assert {order[-1] for order in orders} == {0}
    assert len({order[1:4] for order in orders}) == 6


def test_losses_are_cross_entropies():
    found = losses(torch.tensor([[2.0, 0.0], [0.0, 0.0], [2000.0, 0.0]]), torch.tensor([0, 1, 1]))
    assert found.tolist() == pytest.approx([np.log1p(np.exp(-2)), np.log(2), 2000], rel=1e-6)


def test_the_inductive_network_learns_to_keep_what_is_easy():
    loss = torch.linspace(0, 3, 60).repeat(2, 1)
    inputs = loss[:, :, None].expand(-1, -1, 4).contiguous()
    chooser = new_chooser(4, seed=0)
    before = chooser(inputs[0]).detach()
    train_chooser(chooser, inputs, loss, k=20, steps=80)
    after = chooser(inputs[0]).detach()
    assert abs(float(after.sum()) - 20) < abs(float(before.sum()) - 20)
    assert (after[:20].mean() > after[20:40].mean() > after[40:].mean()).item()


# --- the family and its graphs


def members(count: int = 12) -> list:
    rng = np.random.default_rng(0)
    return [random_architecture(rng) for _ in range(count)]


def test_architectures_are_written_as_they_are_read():
    for architecture in members(60):
        assert parse_architecture(str(architecture)) == architecture
        assert parse_architecture(f"{PREFIX}{architecture}") == architecture


@pytest.mark.parametrize(
    "text",
    [
        *("", "16", "16-2r3", "16-2r3-2r3s", "16-2r3-2r3s-2r3s-2r3s", "32-2r3-2r3s-2r3s", "x-2r3-2r3s-2r3s"),
        *("16-2r3s-2r3s-2r3s", "16-2r3-2r3-2r3s", "16-0r3-2r3s-2r3s", "16-4r3-2r3s-2r3s", "16-2q3-2r3s-2r3s"),
        *("16-2r7-2r3s-2r3s", "16-2r3-2r3x-2r3s", "016-2r3-2r3s-2r3s", " 16-2r3-2r3s-2r3s", "16-2r3-2r3s-2r3s\n"),
    ],
)
def test_what_the_grammar_has_not_is_refused(text):
    with pytest.raises(ValueError, match=r"is not of the family; it is written WIDTH-STAGE-STAGE-STAGE"):
        parse_architecture(text)


def test_a_graph_is_that_of_its_network():
    for architecture in members():
        with torch.random.fork_rng(devices=[]):
            network, graph = architecture.build(1, 10), graph_of(architecture)
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        kinds = [OPERATIONS[row] for row in graph.features[:, : len(OPERATIONS)].argmax(1).tolist()]
        convolutions = [m for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in name]
        assert [kind for kind in kinds if kind.startswith("conv")] == [f"conv{m.kernel_size[0]}" for m in convolutions]
        rows = [row for row, kind in enumerate(kinds) if kind.startswith("conv")]
        widths, strides = (2 ** graph.features[rows, -2]).tolist(), graph.features[rows, -1].tolist()
        assert widths == [m.out_channels for m in convolutions]
        assert strides == [m.stride[0] for m in convolutions]
        assert kinds.count("maxpool") == sum(isinstance(m, nn.MaxPool2d) for m in network.modules())
        residual = sum(stage.blocks for stage in architecture.stages if stage.residual)
        assert graph.adjacency.sum() / 2 == len(kinds) - 1 + residual
        assert torch.equal(graph.adjacency, graph.adjacency.T)
        assert len(kinds) <= NODES


def test_the_network_that_is_asked_about_is_never_among_those_trained():
    but = random_architecture(np.random.default_rng(5))
    family = drawn_family(20, np.random.default_rng(5), but=but)
    assert len(set(family)) == 20
    assert but not in family


def test_graphs_that_do_not_fit_are_refused():
    graph = graph_of(members(1)[0])
    for graphs, places in (([], 32), ([graph], len(graph.names) - 1)):
        with pytest.raises(ValueError, match="pass one or more that fit"):
            batched(graphs, places)


# --- masks


def tokens(graphs: list[Graph], places: int) -> tuple[Tensor, Tensor]:
    """Return embeddings of whole graphs and tokens of an approximator, which has seen nothing."""
    batch = batched(graphs, places)
    nodes = embedded(new_encoder(0)[0].eval(), batch)
    approximator = new_approximator(5, 3, seed=0).eval()
    return whole(nodes, batch.mask), approximator.tokens(Embedded(nodes, batch.mask, batch.output)).detach()


def test_padding_changes_no_embedding():
    graphs = [graph_of(each) for each in members()]
    most = max(len(graph.names) for graph in graphs)
    assert len({len(graph.names) for graph in graphs}) > 3
    narrow, wide = tokens(graphs, most), tokens(graphs, most + 20)
    for one, other in zip(narrow, wide, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for row, graph in enumerate(graphs):  # nor do the others of the batch
        for one, other in zip(narrow, tokens([graph], len(graph.names)), strict=True):
            torch.testing.assert_close(one[row], other[0], rtol=1e-4, atol=1e-5)


def test_padding_changes_no_training():
    graphs = [graph_of(each) for each in members()]
    found = []
    for places in (23, 40):
        encoder, decoder = new_encoder(0)
        encoder.dropout.p = 0.0
        encoder.log_deviation.weight.data.zero_()
        encoder.log_deviation.bias.data.fill_(-30.0)  # nothing is drawn: a draw depends on the shape
        with torch.random.fork_rng(devices=[]):
            loss = autoencoder_loss(encoder, decoder, batched(graphs, places))
        found.append(torch.stack([loss.operations, loss.numbers, loss.edges, loss.kl]).detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_what_stands_where_there_is_no_node_is_read_by_no_other():
    batch = batched([graph_of(each) for each in members(4)])
    nodes = embedded(new_encoder(0)[0].eval(), batch)
    assert (nodes[~batch.mask] == 0).all()
    approximator = new_approximator(5, 3, seed=0).eval()
    plain, littered = (
        approximator.tokens(Embedded(each, batch.mask, batch.output))
        for each in (nodes, nodes + 1e3 * ~batch.mask[:, :, None])
    )
    torch.testing.assert_close(plain, littered)


def test_the_order_of_nodes_does_not_matter_and_the_output_is_found_by_its_name():
    graphs = [graph_of(each) for each in members(5)]
    rng = np.random.default_rng(1)
    shuffled = [graph.permuted(rng.permutation(len(graph.names)).tolist()) for graph in graphs]
    assert any(graph.names[-1] != "output" for graph in shuffled)
    for one, other in zip(tokens(graphs, NODES), tokens(shuffled, NODES), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    moved = [replace(graph, names=(graph.names[-1], *graph.names[1:-1], graph.names[0])) for graph in graphs]
    assert not torch.allclose(tokens(graphs, NODES)[1], tokens(moved, NODES)[1])


# --- what is learnt


def test_kl_of_the_worked_example():
    assert float(kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))) == pytest.approx(0.0671308, abs=1e-6)
    rows = kl(torch.tensor([[2.0, 0.0], [5.0, 5.0]]), torch.tensor([[1.0, 0.0], [3.0, 3.0]]))
    assert float(rows) == pytest.approx(0.0671308 / 2, abs=1e-6)
    far = float(kl(torch.tensor([[3000.0, 0.0]]), torch.tensor([[0.0, 3000.0]])))
    assert far == pytest.approx(3000)  # the log of a softmax would be infinite


def test_the_encoder_learns_to_tell_graphs():
    rng = np.random.default_rng(0)
    graphs, fresh = random_graphs(200, rng), random_graphs(50, rng)
    encoder, decoder = new_encoder(0)
    found = []
    for epochs in (0, 8):
        train_encoder(encoder, decoder, graphs, epochs, seed=0)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            loss = autoencoder_loss(encoder, decoder, fresh)
        found.append((loss, reconstructed(encoder, decoder, fresh)["operations"]))
    (before, told_before), (after, told_after) = found
    assert told_after > 0.45 > told_before
    assert all(getattr(after, part) < getattr(before, part) for part in ("operations", "numbers", "edges"))
    assert after.kl > 0.1  # embeddings say something


def test_the_approximator_learns_what_depends_on_architecture_and_sample():
    rng = np.random.default_rng(2)
    batch = batched([graph_of(each) for each in drawn_family(24, rng, but=members(1)[0])])
    nodes = torch.from_numpy(0.3 * rng.normal(size=(24, NODES, 16))).float() * batch.mask[:, :, None]
    sure = torch.from_numpy(rng.choice([-1.0, 1.0], 24)).float()  # of everything, or of nothing: its output node says
    nodes[torch.arange(24), batch.output] += sure[:, None] * torch.ones(16).cumsum(0) / 8
    samples = torch.from_numpy(rng.normal(size=(80, 3))).float()
    lessons = Lessons(Embedded(nodes, batch.mask, batch.output), samples, sure.exp()[:, None, None] * samples)
    training, validation, test = (lessons[rows] for rows in torch.arange(24).split((18, 3, 3)))
    approximator = new_approximator(3, 3, seed=0)
    errors = train_approximator(approximator, training, validation, epochs=40, seed=0)
    assert validation.error(approximator) == pytest.approx(min(errors), rel=1e-5)
    mean = training.logits.mean(0).expand_as(test.logits).flatten(0, 1)
    assert test.error(approximator) < 0.5 * float(kl(test.logits.flatten(0, 1), mean))
    assert guesses(approximator, test.architectures, samples).shape == (3, 80, 3)


# --- in the protocol


def small(monkeypatch) -> None:
    monkeypatch.setattr(cells, "core_set", partial(core_set, recipe=SMALL))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subselnet") / "out"
    with pytest.MonkeyPatch.context() as patched:
        small(patched)
        run.main([*TINY, "--out", str(folder), "--arms", *ARMS])
    return folder


def record(folder: Path, arm: str, number: int = 0) -> dict:
    found = Store(folder).record(parse_arm(arm), 0, number)
    assert found is not None
    return found


def test_subsets_grow_and_hold_no_sample_twice(done):
    for arm in ARMS:
        picked = [row for number in range(3) for row in record(done, arm, number)["picked"]]
        assert [record(done, arm, number)["labels"] for number in range(3)] == [40, 60, 80]
        assert len(set(picked)) == len(picked) == 40
    assert len({tuple(record(done, arm)["picked"]) for arm in ARMS}) > 4
    assert len({record(done, arm)["accuracy"] for arm in ARMS}) == 1  # nothing is chosen yet
    assert {path.name for path in done.iterdir()} == {"plan.json", "records.jsonl", "timings.jsonl", ".lock", "digits"}


SELECTORS = {"train_proxy", "prune", "rank"}  # stages of a selector that asks nobody
STAGES = {
    "random": set(),
    "subselnet": {"family", "samples", "encoder", "approximator", "guess"},
    "subselnet:smallest": {"family", "samples", "encoder", "approximator", "guess"},
    "subselnet:inductive": {"family", "samples", "encoder", "approximator", "guess", "chooser"},
    "subselnet:mean": {"family"},
    "subselnet:nearest": {"family", "encoder"},
    "subselnet:proxy": {"guess"},
}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_states_what_was_paid_before_and_nothing_else(done, arm):
    costs = record(done, arm)["costs"]
    assert {row["stage"] for row in costs} - SELECTORS == STAGES[arm]
    assert all(row["forward_macs"] > 0 for row in costs if row["stage"] in STAGES[arm])
    if "family" in STAGES[arm]:
        trained = [row for row in costs if row["stage"] == "family"]
        assert len(trained) == SMALL.training + SMALL.validation + SMALL.test
        assert all(row["samples"] >= 270 * (SMALL.epochs + 1) for row in trained)  # learnt from, then asked
    assert {row["stage"] for number in (1, 2) for row in record(done, arm, number)["costs"]} <= SELECTORS
    plan = replace(PLANS["digits"], arms=ARMS, seeds=(0,), budgets=(60, 80), baseline="random")
    results = Results.read(plan, Store(done))
    own = total_macs(costs, [*PRETRAINING, "guess"])
    last = total_macs(record(done, arm, 2)["costs"], ["train_proxy"])
    assert results.cost(plan.arm(arm), 2, "macs") == (own, last)


def test_the_report_says_how_far_guesses_are_and_when_they_pay(done):
    text = (done / "digits" / "report.md").read_text()
    guesses = text[text.index("## Guesses") : text.index("## Costs")]
    (test,) = record(done, "subselnet")["guesses"]["test"]
    assert f"| {test['approximator']:.3f} | {test['mean']:.3f} | {test['nearest']:.3f} |" in guesses
    assert f"{int(test['approximator'] < test['mean'])} of 1" in guesses
    assert "pay back" in guesses
    assert "guesses" not in record(done, "subselnet", 1)
    assert "guesses" not in record(done, "random")
    assert record(done, "subselnet:proxy")["guesses"] == {}


def test_a_family_that_was_stopped_goes_on_after_its_last_training(done, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    small(monkeypatch)
    learnt, trained = Steps.learnt, []

    def until(most: int):
        def counted(self, network, *of):
            trained.append(type(network).__name__)
            if len(trained) == most:
                raise Killed
            return learnt(self, network, *of)

        return counted

    for most in (3, 8):  # in the family, and at the pruned proxy, whose rows are another arm's
        monkeypatch.setattr(Steps, "learnt", until(most))
        with pytest.raises(Killed):
            run.main([*TINY, "--out", str(tmp_path / "out"), "--arms", *ARMS])
    monkeypatch.setattr(Steps, "learnt", until(0))
    run.main([*TINY, "--out", str(tmp_path / "out"), "--arms", *ARMS])
    assert len(trained) == 5 + 1 + 1 + 2  # five of the family, what reads samples, a proxy; two were stopped
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == (done / "records.jsonl").read_bytes()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in done.iterdir()}


def test_what_another_process_is_at_is_waited_for(tmp_path):
    store = Store(tmp_path)
    with store.shared(0) as mine, store.shared(0) as other, store.shared(1) as next_seed:
        assert mine is not None
        assert next_seed is not None
        assert other is None


def test_randomness_of_a_subset_is_that_of_its_seed(tmp_path):
    plan = Plan("p", network=NETWORK, pool=120, test=50)
    data = run.source(plan, "")
    rows = np.arange(100, 200)
    architecture = parse_architecture(NETWORK)
    make = partial(cells.trainer, plan, data.transforms, cells.TorchTrainer, "cpu")
    task = Task(data, rows, data.network(NETWORK, 0), architecture, 0.5, 20, make, 0)
    state = torch.random.get_rng_state()
    one, again, other = (
        core_set(replace(task, seed=seed), "proxy", folder, SMALL)
        for seed, folder in ((0, tmp_path / "a"), (0, tmp_path / "b"), (1, tmp_path / "c"))
        if not folder.mkdir()
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert sorted(one.order) == rows.tolist()
    assert one.order.tolist() == again.order.tolist() != other.order.tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--network", "resnet8"], r"network 'resnet8' is not of the family"),
        (["--network", "family:7-1r3-1r3s-1r3s"], r"network 'family:7-1r3-1r3s-1r3s' is not of the family"),
    ],
)
def test_plans_whose_network_is_not_of_the_family(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run.main([*TINY, "--out", str(tmp_path / "out"), "--arms", "random", "subselnet", *options])
    assert not list(tmp_path.iterdir())


def test_pictures_that_are_too_small_to_be_halved_twice(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.random((300, 2, 2), np.float32), y=np.arange(300) % 3)
    plan = [*TINY, "--data", str(tmp_path / "rows.npz"), "--pool", "150", "--network", f"{PREFIX}4-1r3-1r3s-1r3s"]
    with pytest.raises(ValueError, match="subselnet needs pictures of 4 x 4 or more"):
        run.main([*plan, "--out", str(tmp_path / "out"), "--arms", "random", "subselnet"])
    assert not (tmp_path / "out" / "records.jsonl").exists()
