"""What the user froze stays as it was: by every way of fusing, in every kind of round, for every trainer."""

from __future__ import annotations

import copy
import itertools
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from fakes import PlainTrainer, blobs, mlp, seeded
from freezable import FROZEN, BatchNormed, LoRALinear, PreNorm, Tied, assert_kept, freeze, still, values
from torch import Tensor, nn

from prunefuse_al import (
    FunctionTrainer,
    ProgressivePruning,
    PrunedProxySelector,
    PruneFuseEstimator,
    ShrinkPerturb,
    TorchTrainer,
    fuse,
    prune,
)
from prunefuse_al.errors import CheckpointError, FallbackWarning
from prunefuse_al.network import Processes
from prunefuse_al.network.freezing import held_still
from prunefuse_al.pruning import Proxy
from prunefuse_al.training import recalibrate_batchnorm

X, Y = blobs(120)
OVER_CHANNELS = [name for name, make in FROZEN.items() if any("Norm" in type(m).__name__ for m in make().children())]
# At a quarter widths are no multiples of the proxy's, and statistics over channels are adjusted in another way.
CASES = [*itertools.product(FROZEN, [0.5]), *itertools.product(OVER_CHANNELS, [0.25])]
CROSSES = ("preserve", "copy", 0.5, 0.0)
quietly = pytest.mark.filterwarnings("ignore::prunefuse_al.errors.FallbackWarning")


trainer = partial(fakes.trainer, lr=0.1)


def shaken(module: nn.Module, *, frozen_too: bool = False) -> None:
    """Change what a training changes, and if asked what it must not."""
    generator, kept = torch.Generator().manual_seed(1), set() if frozen_too else still(module)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point() and name not in kept:
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor.abs() + 0.1 * noise.abs() if "var" in name else tensor + 0.3 * noise)


def answers(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(module).double().eval()(X.double())


# --- fusing


@quietly
@pytest.mark.parametrize(("name", "ratio"), CASES)
def test_no_way_of_fusing_changes_it(name: str, ratio: float) -> None:
    """Whatever the proxy has there; and by a factor all else is fused as if nothing were frozen."""
    network = FROZEN[name]()
    before, kept = values(network), still(network)
    proxy = prune(network, X[:3], ratio)
    assert_kept(proxy.channel_map.extract(before), proxy.module, set(before))
    assert still(proxy.module) == kept
    shaken(proxy.module, frozen_too=True)
    free = copy.deepcopy(network).train().requires_grad_(True)
    for cross in CROSSES:
        target = fuse(network, proxy, cross=cross)
        assert_kept(before, target, kept)
        assert still(target) == kept
        if cross != "preserve":
            assert_kept(values(fuse(free, proxy, cross=cross)), target, set(before) - kept)
        for norm, own in zip(target.modules(), network.modules(), strict=True):
            if isinstance(own, nn.LayerNorm) and not own.weight.requires_grad:
                assert norm.eps == own.eps
    assert_kept(before, network, set(before))


@pytest.mark.parametrize(("name", "ratio"), CASES)
def test_what_the_report_says_of_preserving_holds_and_the_rest_is_warned_of(name: str, ratio: float) -> None:
    network = FROZEN[name]()
    proxy = prune(network, X[:3], ratio)
    shaken(proxy.module)
    report, free = proxy.report(), prune(FROZEN[name]().train().requires_grad_(True), X[:3], ratio).report()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target = fuse(network, proxy)
    distance = float((answers(target) - answers(proxy.module)).abs().max() / answers(proxy.module).abs().max())
    said = [str(w.message) for w in caught if w.category is FallbackWarning]
    assert (distance < 1e-5) == report.preserve_exact
    assert len(said) <= (not report.preserve_exact)
    assert len(said) == 1 or report.preserve_exact or not free.preserve_exact
    if said:
        assert caught[0].filename == __file__
        assert f"{len(report.frozen)} tensors are frozen" in said[0]
        assert f"distance {report.preserve_distance:.2g}; {len(report.frozen)} tensors are frozen" in str(report)
    assert set(report.frozen) == still(network)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("bias alone", True), ("batch norms", True), ("batch norms in eval mode", True), ("first layer", True),
        ("group norms", True), ("layer norms", True), ("body", False), ("head", False), ("all but lora", False),
        ("tied", False), ("everything", False), ("places", False),
    ],
)  # fmt: skip
def test_what_is_exact_all_the_same(name: str, exact: bool) -> None:
    """Frozen tensors without weights from removed channels to kept ones stand in nobody's way, as long as copies do."""
    assert prune(FROZEN[name](), X[:3], 0.5).report().preserve_exact == exact


def test_the_message_names_what_stands_in_the_way() -> None:
    network = FROZEN["body"]()
    proxy = prune(network, X[:3], 0.5)
    with pytest.warns(FallbackWarning, match=r"^fuse\(cross='preserve'\): 13 tensors are frozen and keep .*'body.3' "):
        fuse(network, proxy)
    with pytest.warns(FallbackWarning, match=r"would have to change for cross=0.5 to hold there; unfreeze them"):
        fuse(network, proxy, cross=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fuse(network, proxy, cross="copy")
    places = FROZEN["places"]()
    with pytest.warns(FallbackWarning, match=r"Those of the network itself would .* proxy\(x\): it is only near to it"):
        fuse(places, prune(places, X[:3], 0.5))


def test_where_only_a_normalisation_sees_more_the_target_is_near_and_elsewhere_it_is_the_copy() -> None:
    """Switching off what trains is right where the frozen part reads nothing of it, and a loss where it does."""
    for name in ("places", "embedding", "stem"):
        network = FROZEN[name]()
        proxy = prune(network, X[:3], 0.5)
        shaken(proxy.module)
        with pytest.warns(FallbackWarning, match="only near"):
            target = fuse(network, proxy)
        copied, expected = answers(fuse(network, proxy, cross="copy")), answers(proxy.module)
        assert (answers(target) - expected).norm() < 0.7 * (copied - expected).norm()
    for name in ("body", "weights but not norms", "all but lora"):
        network = FROZEN[name]()
        proxy = prune(network, X[:3], 0.5)
        shaken(proxy.module)
        with pytest.warns(FallbackWarning, match="fused as by cross='copy'"):
            target = fuse(network, proxy)
        assert_kept(values(fuse(network, proxy, cross="copy")), target, set(values(target)))


def test_frozen_after_pruning_counts_and_thawed_before_fusing_does_not() -> None:
    network = seeded(PreNorm)
    proxy = prune(network, X[:3], 0.5)
    shaken(proxy.module)
    free = values(fuse(network, proxy))
    before = values(network)
    freeze(network.down)
    with pytest.warns(FallbackWarning, match="'down'"):
        assert_kept(before, fuse(network, proxy), {"down.weight", "down.bias"})
    network.requires_grad_(True)
    assert_kept(free, fuse(network, proxy), set(free))
    assert torch.allclose(answers(fuse(network, proxy)), answers(proxy.module), atol=1e-5)


def test_epsilons_and_scales_of_frozen_norms_stay_where_statistics_are_adjusted() -> None:
    network = FROZEN["one layer norm"]()
    proxy = prune(network, X[:3], 0.25)
    assert proxy.channel_map.streams
    with pytest.warns(FallbackWarning, match="'norm2'"):
        target: Any = fuse(network, proxy)
    assert target.norm2.eps == target.norm1.eps == 1e-5
    assert torch.equal(target.norm2.weight, network.get_parameter("norm2.weight"))


def test_tensors_made_in_inference_mode() -> None:
    with torch.inference_mode():
        network = FROZEN["body"]()
        proxy = prune(network, X[:3], 0.5)
        with pytest.warns(FallbackWarning):
            target = fuse(network, proxy)
    assert_kept(values(network), target, still(network))
    trainer().fit(target, (X, Y), seed=0)
    assert_kept(values(network), target, still(network))


def test_two_parameters_over_one_memory_part_ways() -> None:
    """Tied by `.data`, they are two parameters, of which one is frozen."""
    network: Any = seeded(Tied)
    network.b.weight = nn.Parameter(network.a.weight.data, requires_grad=False)
    before = values(network)
    chosen = PrunedProxySelector(network, 0.5, trainer=trainer(), random_state=0).fit(X, Y)
    with pytest.warns(FallbackWarning):
        target = chosen.fit_target()
    assert_kept(before, target, {"b.weight"})
    assert not torch.equal(values(target)["a.weight"], before["a.weight"])
    assert_kept(before, network, set(before))


# --- rounds of a selector


ROUNDS: dict[str, dict[str, Any]] = {
    "v1": {},
    "copy": {"cross": "copy"},
    "half": {"cross": 0.5},
    "v2": {"sync_every": 1},
    "v2, the same channels": {"sync_every": 1, "sync_importance": "same"},
    "progressive": {"progressive": ProgressivePruning(2, 2)},
    "progressive v2": {"progressive": ProgressivePruning(2, 2), "sync_every": 1},
    "warm": {"warm_start": True},
    "shrunk": {"warm_start": ShrinkPerturb(0.4, 0.1)},
    "dense": {"pruning_ratio": 0},
}


@quietly
@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.CostWarning")
@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        *itertools.product(["body", "batch norms in eval mode", "all but lora"], ROUNDS),
        *itertools.product(["weights but not norms", "batch norms", "layer norms", "tied"], ["v2", "progressive"]),
    ],
)
def test_rounds_train_neither_proxy_nor_target_there(name: str, rounds: str) -> None:
    network = FROZEN[name]()
    before, kept = values(network), still(network)
    parameters = {n for n in kept if n in dict(network.named_parameters(remove_duplicate=False))}
    options = {"pruning_ratio": 0.5, "trainer": trainer(), "random_state": 0, **ROUNDS[rounds]}
    chosen = PrunedProxySelector(network, **options)
    for m in (40, 60, 80):
        chosen.fit(X[:m], Y[:m])
        assert_kept(chosen.proxy.channel_map.extract(before), chosen.model, parameters)
        assert still(chosen.model) == kept
        assert_kept(before, chosen._state.dense, kept)
        if chosen._state.synced is not None:
            assert_kept(before, chosen._state.synced, kept)
    for target in (chosen.fuse(), chosen.fit_target(), chosen.fit_target(X, Y)):
        assert_kept(before, target, kept)
        assert still(target) == kept
    trained = values(chosen.fit_target(X, Y))
    assert any(not torch.equal(trained[n], before[n]) for n in set(before) - kept)
    assert_kept(before, network, set(before))


@quietly
def test_saved_and_loaded_it_stays(tmp_path: Path) -> None:
    network = FROZEN["body"]()
    before, kept = values(network), still(network)
    chosen = PrunedProxySelector(network, 0.5, trainer=trainer(), sync_every=2, random_state=0)
    for m in (40, 60):
        chosen.fit(X[:m], Y[:m])
    chosen.save(tmp_path / "s")
    loaded = PrunedProxySelector.load(tmp_path / "s", FROZEN["body"]())
    loaded.fit(X, Y)
    assert_kept(before, loaded.fit_target(), kept)


def sgd(model: nn.Module, data: Any) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    x, y = (torch.stack([torch.as_tensor(column) for column in columns]) for columns in zip(*data, strict=True))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@quietly
@pytest.mark.parametrize("own", [FunctionTrainer(sgd, device="cpu"), PlainTrainer(3)], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("name", ["body", "batch norms in eval mode"])
def test_whoever_trains(name: str, own: Any) -> None:
    """A loop that puts the whole network in train mode does not move the statistics of frozen batch norms."""
    network = FROZEN[name]()
    before, kept = values(network), still(network)
    chosen = PrunedProxySelector(network, 0.5, trainer=own, random_state=0).fit(X, Y)
    target = chosen.fit_target()
    assert_kept(before, target, kept)
    assert not any("train" in vars(module) for module in [*target.modules(), *chosen.model.modules()])


@quietly
def test_the_estimator_keeps_it() -> None:
    network = FROZEN["body"]()
    before, kept = values(network), still(network)
    estimator = PruneFuseEstimator(network, trainer=trainer(), random_state=0).fit(X.numpy(), Y.numpy())
    assert_kept(before, estimator.fit_target().target_, kept)


# --- the start that does least harm


def accuracy(module: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((module.eval()(x).argmax(1) == y).float().mean())


def problem(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return points, float32 [n 20], and labels for which layers have to be learnt from more than 400 of them."""
    fixed, drawn = torch.Generator().manual_seed(7), torch.Generator().manual_seed(seed)
    into, out = torch.randn(20, 12, generator=fixed), torch.randn(12, 6, generator=fixed)
    x = torch.randn(n, 20, generator=drawn)
    return x, (torch.tanh(x @ into / 4) @ out).argmax(1)


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    widths = (20, 64, 64)
    layers = [
        part
        for m, n in itertools.pairwise(widths)
        for part in (seeded(lambda m=m, n=n: nn.Linear(m, n)), nn.BatchNorm1d(n), nn.ReLU())
    ]
    network = nn.Sequential(nn.Sequential(*layers), seeded(lambda: nn.Linear(64, 6)))
    TorchTrainer(12, 64, lr=0.1, progress=False, device="cpu").fit(network, problem(6000, 1), seed=0)
    return network


@quietly
@pytest.mark.parametrize("what", ["body", "norms", "lora"])
def test_a_frozen_trained_body_comes_out_as_training_the_rest_of_the_dense_network(
    trained: nn.Sequential, what: str
) -> None:
    network: Any = copy.deepcopy(trained)
    if what == "norms":
        freeze(network[0][1])
        freeze(network[0][4])
    else:
        freeze(network[0])
        network[1] = seeded(lambda: nn.Linear(64, 6), 5)
    if what == "lora":
        network[0][3] = seeded(lambda: LoRALinear(network[0][3]))
    labelled, held_out = problem(400, 2), problem(3000, 3)
    own = TorchTrainer(15, 32, lr=0.05, progress=False, device="cpu")
    alone = copy.deepcopy(network)
    own.fit(alone, labelled, seed=0)
    found = {}
    for cross in ("preserve", "copy"):
        chosen = PrunedProxySelector(network, 0.5, trainer=own, cross=cross, random_state=0).fit(*labelled)
        found[cross] = accuracy(chosen.fit_target(), *held_out)
    reached, proxy = accuracy(alone, *held_out), accuracy(chosen.model, *held_out)
    assert what == "norms" or reached > proxy + 0.03  # the thin body has lost something: the target might have, too
    assert found["preserve"] > reached - 0.03
    assert found["preserve"] > found["copy"] - 0.02


# --- batch norms while training


def test_statistics_of_frozen_batch_norms_do_not_move_and_modes_come_back() -> None:
    for name in ("body", "batch norms", "batch norms in eval mode", "plain batch norms in eval mode"):
        network = FROZEN[name]()
        before, kept, modes = values(network), still(network), [m.training for m in network.modules()]
        trainer().fit(network, (X, Y), seed=0)
        assert_kept(before, network, kept)
        assert [m.training for m in network.modules()] == modes
        if name == "plain batch norms in eval mode":  # the other one trains
            assert not torch.equal(values(network)["body.4.running_mean"], before["body.4.running_mean"])


def test_a_network_in_eval_mode_as_a_whole_is_not_frozen_by_that() -> None:
    network = seeded(BatchNormed).eval()
    before = values(network)
    trainer().fit(network, (X, Y), seed=0)
    assert not torch.equal(values(network)["body.1.running_mean"], before["body.1.running_mean"])
    assert not any(m.training for m in network.modules())
    train = seeded(BatchNormed).train()
    trainer().fit(train, (X, Y), seed=0)
    assert_kept(values(train), network, set(before))


def test_they_normalise_by_their_statistics_while_the_rest_trains() -> None:
    seen: list[bool] = []
    network: Any = FROZEN["batch norms in eval mode"]()
    network.body[1].register_forward_hook(lambda module, *_: seen.append(module.training))
    dropped: list[bool] = []
    network.body[2].register_forward_hook(lambda module, *_: dropped.append(module.training))
    trainer(epochs=2).fit(network, (X, Y), seed=0)
    assert not any(seen)
    assert any(dropped)


def test_the_proxys_own_statistics_are_estimated_again_and_the_targets_are_not() -> None:
    for name in ("body", "batch norms in eval mode"):
        network = FROZEN[name]()
        before, kept = values(network), still(network)
        chosen = PrunedProxySelector(
            network, 0.5, trainer=trainer(), cross="copy", random_state=0, pretrained=False
        ).fit(X, Y)
        assert [row.stage for row in chosen.costs.rows()] == ["prune", "recalibrate", "train_proxy"]
        cut = chosen.proxy.channel_map.extract(before)
        assert not torch.equal(values(chosen.model)["body.1.running_mean"], cut["body.1.running_mean"])
        assert_kept(before, chosen.fuse(), kept)
        assert "recalibrate_target" not in chosen.costs.totals()


def test_statistics_of_the_others_are_estimated_again_in_a_target_that_cannot_preserve() -> None:
    network = FROZEN["weights but not norms"]()
    chosen = PrunedProxySelector(network, 0.5, trainer=trainer(), random_state=0, pretrained=False).fit(X, Y)
    with pytest.warns(FallbackWarning):
        target: Any = chosen.fuse()
    assert "recalibrate_target" in chosen.costs.totals()
    torch.testing.assert_close(target.body[1].running_mean, target.body[0](X).mean(0), rtol=1e-4, atol=1e-5)


def test_recalibration_leaves_them_out_where_asked() -> None:
    network = FROZEN["first layer"]()
    before = values(network)
    assert recalibrate_batchnorm(network, X, device="cpu", keep_frozen=True) == 120
    assert_kept(before, network, {n for n in before if n.startswith("body.1.")})
    assert not torch.equal(values(network)["body.4.running_mean"], before["body.4.running_mean"])
    assert recalibrate_batchnorm(FROZEN["body"](), X, device="cpu", keep_frozen=True) == 0


class Activated(nn.BatchNorm1d):
    """A batch norm with a layer inside, as timm has them."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(super().forward(x))


def test_held_still_blocks_may_be_nested_and_copied_in() -> None:
    network: Any = seeded(lambda: nn.Sequential(nn.Linear(6, 6), Activated(6)))
    freeze(network[1])
    with held_still(network):
        with held_still(network):
            assert not network.train()[1].training
        inside = copy.deepcopy(network).train()
        assert network.train()[1].drop.training
        assert not inside[1].training
        assert not inside[1].eval().drop.training
        assert network[1].drop.training  # the copy's own layer was meant
    assert network.train()[1].training


@quietly
def test_a_compiled_training_leaves_them_alone() -> None:
    network = FROZEN["batch norms"]()
    before, kept = values(network), still(network)
    trainer(epochs=2, compile={"backend": "eager"}).fit(network, (X, Y), seed=0)
    assert_kept(before, network, kept)


def test_the_mean_over_processes_is_not_taken_of_them() -> None:
    """Each has the same ones, of which a mean of three would differ in the last bit."""

    class Three:
        num_processes, process_index = 3, 0

        def reduce(self, values: Tensor, reduction: str) -> Tensor:
            return (values + values + values) * (1 / 3)

    network = FROZEN["first layer"]().train()
    before, kept = values(network), still(network)
    Processes(Three()).align_buffers(network)
    assert_kept(before, network, kept)
    assert not torch.equal(values(network)["body.4.running_var"], before["body.4.running_var"])


def test_nothing_is_said_and_nothing_held_where_nothing_is_frozen() -> None:
    network = mlp(6, 16, 3)
    proxy: Proxy = prune(network, X[:2], 0.5)
    assert proxy.report().frozen == ()
    assert "frozen" not in str(proxy.report())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fuse(network, proxy)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_file_remembers_what_was_frozen(frozen: bool, tmp_path: Path) -> None:
    def network(freeze: bool) -> nn.Module:
        net = mlp(6, 16, 16, 3)
        net[2].weight.requires_grad_(not freeze)
        return net

    trainer = TorchTrainer(2, progress=False, device="cpu")
    x, y = blobs(60)
    chosen = PrunedProxySelector(network(frozen), cross="copy", trainer=trainer, random_state=0).fit(x, y)
    chosen.save(tmp_path / "file")
    says = "'2.weight' was frozen and is not" if frozen else "'2.weight' is frozen and was not"
    with pytest.raises(CheckpointError, match=rf"{says} \(1 differ\): set requires_grad_\(\)"):
        PrunedProxySelector.load(tmp_path / "file", network(not frozen))
    assert PrunedProxySelector.load(tmp_path / "file", network(frozen)).round == 1
    other = PrunedProxySelector.load(tmp_path / "file", network(not frozen), accept_changes=True)
    assert other._state.dense[2].weight.requires_grad is frozen
