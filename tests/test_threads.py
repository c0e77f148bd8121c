"""Calls of several threads, and of other processes, answer what they would have answered one after the other."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import blobs, same, seeded, weights
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunefuse_al import FunctionTrainer, PrunedProxySelector, PruneFuseEstimator, prune
from prunefuse_al.costs.ledger import CostLedger, CostRow, macs
from prunefuse_al.data.randomness import isolated_rng
from prunefuse_al.data.turns import alone
from prunefuse_al.errors import BudgetError, NonFiniteError
from prunefuse_al.network.signals import collect

PICTURES = torch.randn(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(0, 20, (60, 5), generator=torch.Generator().manual_seed(1))
X, _ = blobs(60)
Y = torch.arange(60) % 3
# Python 3.12 warns of every fork of a process with threads; what is tested is that it goes well.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def pictures() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 8, 3),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Embedding(20, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True)
        self.read, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        read, _ = self.read(self.attend(self.embed(words)))
        logits: Tensor = self.head(read[:, -1])
        return logits


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


trainer = partial(fakes.trainer, epochs=1)
selector = partial(fakes.selector, trainer=trainer())


def at_once(threads: int, calls: list[Callable[[], Any]]) -> list[Any]:
    """Return what the calls answer, which so many threads make."""
    together = threading.Barrier(min(threads, len(calls)))

    def begin(number: int, call: Callable[[], Any]) -> Any:
        if number < together.parties:
            together.wait(60)
        return call()

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(begin, number, call) for number, call in enumerate(calls)]
        return [future.result(300) for future in futures]


@contextmanager
def busy() -> Iterator[None]:
    """Have another thread's turn last for as long as the block does."""
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        with isolated_rng(5):
            begun.set()
            done.wait(300)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("threads", [2, 20])
@pytest.mark.parametrize("scorer", ["k_center", "bald", "margin"])  # features; dropout; BatchNorm folded
def test_queries_at_once_answer_and_leave_behind_what_one_does(threads: int, scorer: str) -> None:
    chosen = selector(seeded(pictures), scorer=scorer).fit(PICTURES[:40], Y[:40])
    alone_ = chosen.query(PICTURES, 8)
    before, modes = weights(chosen.model), [m.training for m in chosen.model.modules()]
    rows = len(chosen.costs)
    answers = at_once(threads, [lambda: chosen.query(PICTURES, 8)] * 20)
    assert sum(not np.array_equal(answer, alone_) for answer in answers) == 0
    assert same(before, weights(chosen.model))
    assert modes == [m.training for m in chosen.model.modules()]
    assert len(chosen.costs) == rows + 20 * 2
    np.testing.assert_array_equal(chosen.query(PICTURES, 8), alone_)


def whole_method(network: nn.Module, data: Tensor, scorer: str, **options: Any) -> tuple[Any, ...]:
    """Return what one selector picks and the weights it ends with."""
    chosen = selector(network, scorer=scorer, **options).fit(data[:30], Y[:30])
    first = chosen.query(data, 6)
    second = chosen.fit(data[:40], Y[:40]).query(data, 6)
    return first.tolist(), second.tolist(), chosen.predict_proba(data[:4]), weights(chosen.fit_target())


def test_selectors_at_once_do_what_they_do_alone() -> None:
    methods = [
        partial(whole_method, seeded(pictures), PICTURES, "k_center"),
        partial(whole_method, seeded(pictures), PICTURES, "entropy", trainer=trainer(epochs=2, channels_last=True)),
        partial(whole_method, seeded(Words), WORDS, "margin"),
        partial(whole_method, seeded(dropping), X, "bald", trainer=trainer(epochs=3)),
        partial(
            whole_method,
            seeded(dropping),
            X,
            "badge",
            sync_every=2,
            target_trainer=trainer(),
            trainer=trainer(epochs=2),
        ),
    ]
    expected = [method() for method in methods]
    for (*picks, proba, target), (*its, its_proba, its_target) in zip(at_once(5, methods), expected, strict=True):
        assert picks == its
        np.testing.assert_array_equal(proba, its_proba)
        assert same(target, its_target)


def test_fits_and_queries_at_once_each_count() -> None:
    chosen = selector(seeded(dropping)).fit(X, Y)
    calls: list[Callable[[], Any]] = [lambda: chosen.fit(X, Y), lambda: chosen.query(X, 3)] * 4
    at_once(4, calls)
    stages = [row.stage for row in chosen.costs.rows()]
    assert chosen.round == stages.count("train_proxy") == 5
    assert stages.count("score") == stages.count("rank") == 4


def test_a_call_that_fails_drops_no_row_of_another_thread() -> None:
    chosen, ill = selector(seeded(dropping)).fit(X, Y), X.clone()
    ill[50] = torch.nan

    def failing() -> None:
        with pytest.raises(NonFiniteError):
            chosen.query(ill, 3)

    def asked() -> None:
        chosen.query(X, 3)

    rows = len(chosen.costs)
    at_once(4, [failing, asked] * 8)
    assert len(chosen.costs) == rows + 8 * 2


def test_rows_that_other_threads_add_outlast_a_failed_transaction() -> None:
    ledger, row = CostLedger(), CostRow(1, "score", "proxy", 0.0, 1, 1, 0, 1, 1, 0)
    inside, tried = threading.Event(), threading.Event()

    def add() -> None:
        inside.wait(60)
        tried.set()
        ledger.extend([row])

    def fail() -> None:
        with pytest.raises(BudgetError), ledger.transaction():  # noqa: PT012
            inside.set()
            tried.wait(60)
            ledger.extend([row, row])
            raise BudgetError

    at_once(2, [add, fail])
    assert ledger.rows() == (row,)


def test_seeded_blocks_of_threads_draw_what_they_draw_alone_and_put_the_states_back() -> None:
    def draws(seed: int) -> list[float]:
        found = []
        with isolated_rng(seed):
            for _ in range(50):
                found += [float(torch.rand(())), float(np.random.rand())]
        return found

    expected = [draws(seed) for seed in range(8)]
    assert at_once(8, [partial(draws, seed) for seed in range(8)]) == expected


def test_functions_that_seed_or_switch_settings_are_alone_too() -> None:
    network, words = seeded(pictures).eval(), seeded(Words)
    calls: list[Callable[[], Any]] = [
        lambda: prune(network, PICTURES[:2], 0.5).channel_map,
        lambda: collect(network, PICTURES, {"mc_logits"}, device="cpu").mc_logits,
        lambda: macs(words, WORDS[:2]),
        lambda: prune(words, WORDS[:2], 0.5).report().proxy_macs,
    ]
    expected = [call() for call in calls]
    for number, found in enumerate(at_once(4, calls * 2)):
        right = expected[number % 4]
        assert torch.equal(found, right) if isinstance(right, Tensor) else found == right
    assert torch.backends.mkldnn.enabled
    assert torch.backends.cuda.flash_sdp_enabled()


class Witness(nn.Module):
    """Notes whether modules are called as ever while it is run: what is patched there breaks all other threads."""

    seen: list[bool]

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hooks = (nn.modules.module._global_forward_pre_hooks, nn.modules.module._global_forward_hooks)
        self.seen.append(nn.Module.__call__ is CALL and not any(hooks))
        return self.head(self.norm(self.layer(x)).relu())


CALL = nn.Module.__call__


def test_nothing_of_ours_stands_in_the_way_of_networks_that_other_threads_run() -> None:
    Witness.seen = []
    chosen = selector(seeded(Witness)).fit(X, Y)
    chosen.query(X, 3)
    chosen.fit_target()
    assert len(Witness.seen) > 20
    assert all(Witness.seen)


@pytest.mark.parametrize("scorer", ["margin", "k_center", "bald"])
def test_the_proxy_is_as_it_was_while_it_is_asked(scorer: str) -> None:
    def as_it_was(x: Tensor) -> Tensor:
        for network in asked:
            same_modes.append([m.training for m in network.modules()] == modes)
            same_modes.append(not any(m._forward_pre_hooks or m._forward_hooks for m in network.modules()))
        return x

    asked: list[nn.Module] = []
    same_modes: list[bool] = []
    chosen = selector(seeded(pictures), scorer=scorer, trainer=trainer(eval_transform=as_it_was)).fit(PICTURES, Y)
    asked.append(chosen.model)
    modes = [m.training for m in chosen.model.modules()]
    chosen.query(PICTURES, 3)
    chosen.predict_proba(PICTURES[:5])
    assert len(same_modes) > 2
    assert all(same_modes)


def test_a_transform_may_ask_a_selector_in_its_own_thread() -> None:
    adviser = selector(seeded(dropping), scorer="bald").fit(X, Y)
    advised = adviser.query(X, 4).tolist()

    def asking(x: Tensor) -> Tensor:
        found.append(adviser.query(X, 4).tolist())
        return x

    found: list[list[int]] = []
    plain = selector(seeded(dropping)).fit(X, Y)
    chosen = selector(seeded(dropping), trainer=trainer(transform=asking, eval_transform=asking)).fit(X, Y)
    assert chosen.query(X, 5).tolist() == plain.query(X, 5).tolist()
    assert same(weights(chosen.model), weights(plain.model))
    assert len(found) > 3
    assert all(answer == advised for answer in found)


def test_selectors_that_ask_each_other_from_two_threads_do_not_wait_for_ever() -> None:
    pair = [selector(seeded(dropping)).fit(X, Y) for _ in range(2)]

    def asking(other: PrunedProxySelector, x: Tensor) -> Tensor:
        other.query(X, 2)
        return x

    both = [
        selector(seeded(dropping), trainer=trainer(eval_transform=partial(asking, pair[1 - number]))).fit(X, Y)
        for number in range(2)
    ]
    pair[:] = both
    expected = [chosen.query(X, 5).tolist() for chosen in both]
    assert at_once(2, [lambda n=n: both[n].query(X, 5).tolist() for n in (0, 1, 0, 1)]) == expected * 2  # type: ignore[misc]


def test_copies_pickles_and_files_made_meanwhile_answer_the_same(tmp_path: Path) -> None:
    network = seeded(pictures)
    chosen = selector(network, scorer="margin").fit(PICTURES, Y)
    expected = chosen.query(PICTURES, 5).tolist()

    def saved(number: int) -> PrunedProxySelector:
        path = tmp_path / str(number)
        chosen.save(path)
        return PrunedProxySelector.load(path, network)

    others: list[Callable[[], Any]] = [
        lambda: pickle.loads(pickle.dumps(chosen)),
        lambda: copy.deepcopy(chosen),
        partial(saved, 0),
    ]
    asked: list[Callable[[], Any]] = [lambda: chosen.query(PICTURES, 5)] * 3
    for answer in at_once(4, [call for pair in zip(others, asked, strict=True) for call in pair] * 3):
        picked = answer.query(PICTURES, 5) if isinstance(answer, PrunedProxySelector) else answer
        assert picked.tolist() == expected


@pytest.mark.parametrize("threads", [2, 20])
def test_one_estimator_asked_and_trained_by_threads(threads: int) -> None:
    est = PruneFuseEstimator(seeded(dropping), trainer=trainer(epochs=3), random_state=0).fit(X.numpy(), Y.numpy())
    proba, picked = est.predict_proba(X.numpy()), est.query(X.numpy(), 4)
    calls: list[Callable[[], Any]] = [
        lambda: est.predict_proba(X.numpy()),
        lambda: est.query(X.numpy(), 4),
        lambda: est.fit(X.numpy(), Y.numpy()).selector_.round,
    ]
    answers = at_once(threads, calls * 7)
    assert all(np.array_equal(answer, proba) for answer in answers[::3])
    assert all(np.array_equal(answer, picked) for answer in answers[1::3])
    assert est.selector_.round == 8


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_scores_do_not_depend_on_where_scikit_learn_fits(backend: str) -> None:
    est = PruneFuseEstimator(trainer=trainer(epochs=4), random_state=0)
    data, labels = X.numpy(), Y.numpy()
    expected = cross_val_score(est, data, labels, cv=4)
    with parallel_config(backend, n_jobs=2, inner_max_num_threads=1 if backend == "loky" else None):
        np.testing.assert_allclose(cross_val_score(clone(est), data, labels, cv=4), expected)


@cache
def fitted() -> PrunedProxySelector:
    return selector(seeded(pictures), scorer="margin").fit(PICTURES, Y)


def inherited(data: Tensor) -> list[int]:
    return fitted().query(data, 5).tolist()  # type: ignore[no-any-return]


def unpickled(pickled: bytes, data: Tensor) -> list[int]:
    torch.set_num_threads(1)
    return pickle.loads(pickled).query(data, 5).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", sorted({"fork", "spawn"} & {*multiprocessing.get_all_start_methods()}))
def test_processes_that_are_made_while_another_thread_has_a_turn(method: str) -> None:
    expected, pickled = inherited(PICTURES), pickle.dumps(fitted())
    with busy(), multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(unpickled, (pickled, PICTURES)).get(120) == expected
        assert pool.apply_async(inherited, (PICTURES,)).get(120) == expected


class Asked(Dataset[Any]):
    """Items that a selector is asked about, in whatever process reads them."""

    def __init__(self) -> None:
        self.x = X

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with alone():
            sure = fitted().predict_proba(PICTURES[row : row + 1]).max()
        return self.x[row] * float(sure > 0), int(Y[row])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_a_training_may_ask_a_selector(workers: int) -> None:
    def train(model: nn.Module, data: Any) -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for x, y in torch.utils.data.DataLoader(data, 6, shuffle=True, num_workers=workers):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    def trained() -> dict[str, Tensor]:
        loop = FunctionTrainer(train, device="cpu", num_workers=workers)
        return weights(selector(network, trainer=loop).fit(Asked()).model)

    fitted()
    network = seeded(dropping)
    expected = trained()
    assert all(same(found, expected) for found in at_once(2, [trained] * 2))
