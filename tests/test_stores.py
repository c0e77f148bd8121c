"""Whatever can give several rows at once is read so: through subsets, pairings, and whoever else asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp, trainer
from torch import Tensor
from torch.utils.data import Dataset, Subset

from prunefuse_al import FunctionTrainer, PrunedProxySelector, PruneFuseEstimator
from prunefuse_al.data import Rows, as_dataset, check_finite, labels_of, subset
from prunefuse_al.errors import InputError, PruneFuseError
from prunefuse_al.training import recalibrate_batchnorm

X, Y = blobs(90, 6, 3)


class Shards(Rows):
    """A table in several files, of which a batch opens each at most once."""

    def __init__(self, files: Sequence[Any]) -> None:
        self.files = [np.load(file, mmap_mode="r") for file in files]
        self.starts = np.cumsum([0, *map(len, self.files)])
        self.asked: list[int] = []

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, None]:
        self.asked.append(len(rows))
        found = np.empty((len(rows), 7), dtype=np.float32)
        file = np.searchsorted(self.starts, rows.numpy(), side="right") - 1
        for number in np.unique(file):
            here = file == number
            found[here] = self.files[number][rows.numpy()[here] - self.starts[number]]
        table = torch.from_numpy(found)
        return table[:, :6], table[:, 6].long(), None


@pytest.fixture
def shards(tmp_path: Any) -> Shards:
    table = torch.cat([X, Y[:, None].float()], 1).numpy()
    files = [tmp_path / f"{start}.npy" for start in (0, 40, 80)]
    for file, part in zip(files, np.split(table, [40, 80]), strict=True):
        np.save(file, part)
    return Shards(files)


def test_a_store_of_the_users_own_is_trained_on_and_read_by_batches(shards: Shards) -> None:
    """As arrays of the same values are, number for number: the same operations on the same shapes."""
    network, other = mlp(6, 8, 3), mlp(6, 8, 3)
    trainer().fit(network, shards, seed=0)
    assert sum(shards.asked[1:]) == 3 * 90  # after the first two rows, which are looked at
    assert set(shards.asked[1:]) == {16, 10}
    trainer().fit(other, (X, Y), seed=0)
    for name, value in other.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    shards.asked.clear()
    found = trainer().infer(network, shards, {"logits", "labels"})
    assert shards.asked == [90]
    assert torch.equal(found.logits, trainer().infer(other, X).logits)
    assert found.labels.equal(Y)


def test_a_store_goes_through_the_whole_method(shards: Shards) -> None:
    def chosen(data: Any, labelled: Any) -> tuple[list[int], np.ndarray[Any, Any]]:
        selector = PrunedProxySelector(mlp(6, 16, 3), 0.5, trainer=trainer(), random_state=0).fit(labelled)
        return selector.query(data, 9, candidates=range(30, 90)).tolist(), selector.predict_proba(data)

    picked, probabilities = chosen(shards, subset(shards, range(30)))
    wanted, given = chosen(X, subset(as_dataset(X, Y), range(30)))
    assert picked == wanted
    np.testing.assert_array_equal(probabilities, given)
    est = PruneFuseEstimator(mlp(6, 16, 3), 0.5, trainer=trainer(), random_state=0).fit(shards, Y)
    assert est.predict(shards).shape == (90,)
    assert est.fit(shards).predict(subset(shards, [3])).shape == (1,)


def test_a_store_is_a_dataset_too(shards: Shards) -> None:
    assert len(list(shards)) == 90
    assert shards[-1][0].equal(X[-1])
    assert shards[7][1] == Y[7]
    shards.asked.clear()
    assert labels_of(shards).equal(Y)
    assert labels_of(subset(shards, [80, 3]), read=False) is None
    assert min(shards.asked[1:]) > 20
    pairs = as_dataset(shards, 2 - Y)
    assert [int(y) for _, y in pairs] == (2 - Y).tolist()


class Gives(Rows):
    """Gives whatever it is told to."""

    def __init__(self, batch: Callable[[Tensor], Any]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 8

    def take(self, rows: Tensor) -> Any:
        return self.batch(rows)


GOOD = torch.zeros(8, 6)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (lambda rows: GOOD[rows], "Gives.take gave a Tensor; it must return \\(x, y, sample_weight\\)"),
        (lambda rows: (GOOD[rows], rows), "Gives.take gave a tuple of 2; it must return"),
        (lambda rows: (GOOD, rows, None), r"Gives.take gave inputs of shape \[8, 6\] for 2 rows; it must return one"),
        (lambda rows: (GOOD[0, 0], rows, None), r"gave inputs of shape \[\] for 2 rows"),
        (
            lambda rows: (GOOD[rows].numpy(), rows, None),
            "a batch of inputs holds ndarray where a network takes",
        ),
        (lambda rows: (GOOD[rows], rows[:1], None), "X has 2 rows and y has 1 rows; they must match"),
        (lambda rows: (GOOD[rows], rows, rows), "gave sample weights int64 of shape .* it must return floats"),
        (lambda rows: (GOOD[rows], rows, torch.ones(9)), "gave sample weights float32 of shape"),
        (lambda rows: {}["gone"], r"rows 0, 1 \(2 of 8\) of the data cannot be read: KeyError: 'gone'"),
    ],
)
def test_what_a_store_gives_is_looked_at(batch: Any, says: str) -> None:
    network = mlp(6, 8, 8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=says):
        trainer().fit(network, Gives(batch), seed=0)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("full"), PruneFuseError("ours")])
def test_what_is_no_fault_of_a_store_stays_what_it_is(error: Exception) -> None:
    def fail(rows: Tensor) -> Any:
        raise error

    with pytest.raises(type(error)):
        check_finite(Gives(fail))


# ---- datasets of items that are read several at a time ----


class Counting(Dataset[Any]):
    """Gives items, several at once if asked, and says how many at once it was asked for."""

    def __init__(self, labelled: bool = True) -> None:
        self.labelled = labelled
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 90

    def __getitem__(self, row: int) -> Any:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[Any]:
        self.asked.append(len(rows))
        return [(X[row], int(Y[row])) if self.labelled else X[row] for row in rows]


def fit(data: Any) -> None:
    trainer().fit(mlp(6, 8, 3), data, seed=0)


def read(data: Any) -> None:
    trainer().infer(mlp(6, 8, 3), data)


def by_function(data: Any) -> None:
    def logits(model: Any, inputs: Any) -> Tensor:
        return torch.cat([model(x).detach() for x in torch.utils.data.DataLoader(inputs, 16)])

    FunctionTrainer(lambda model, data: None, logits).infer(mlp(6, 8, 3), data)


def statistics(data: Any) -> None:
    recalibrate_batchnorm(torch.nn.BatchNorm1d(6), data, batch_size=16, device="cpu")


ASKERS = [fit, read, by_function, check_finite, labels_of, statistics]


@pytest.mark.parametrize("asker", ASKERS, ids=lambda asker: asker.__name__)
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda d: d,
        lambda d: subset(d, range(80)),
        lambda d: subset(subset(d, range(80)), range(70)),
        lambda d: as_dataset(d, Y),
        lambda d: as_dataset(d, Y, sample_weight=np.ones(90)),
        lambda d: subset(as_dataset(d, Y), range(80)),
        lambda d: as_dataset(subset(d, range(80)), Y[:80]),
        lambda d: as_dataset(Subset(d, range(80)), Y[:80]),
        lambda d: as_dataset(as_dataset(d, 2 - Y), Y),
    ],
    ids=[
        "itself",
        "part",
        "part of part",
        "paired",
        "weighted",
        "part of pairs",
        "pairs of part",
        "torch",
        "pairs of pairs",
    ],
)
def test_items_are_asked_for_in_batches_through_whatever_is_around_them(asker: Any, wrapped: Any) -> None:
    data = Counting()
    whole = wrapped(data)
    asker(whole)
    assert sum(data.asked) >= 64 or asker is labels_of
    single = data.asked.count(1)
    assert single <= 3, f"{single} rows were read one by one of {sum(data.asked)}"  # whether there are labels


@pytest.mark.parametrize("labelled", [True, False])
def test_pairs_read_at_once_are_those_read_one_by_one(labelled: bool) -> None:
    weights = np.linspace(0.5, 1, 90)
    pairs = as_dataset(Counting(labelled), 2 - Y, sample_weight=weights)
    some = [5, 3, 88]
    for row, (x, y, w) in zip(some, pairs.__getitems__(some), strict=True):
        one, label, weight = pairs[row]
        assert x.equal(one)
        assert (int(y), float(w)) == (int(label), float(weight)) == (2 - int(Y[row]), weights[row])


def test_a_query_reads_its_pool_in_batches() -> None:
    data = Counting()
    selector = PrunedProxySelector(mlp(6, 16, 3), 0.5, trainer=trainer(), random_state=0).fit(X, Y)
    for pool in (data, as_dataset(data, Y)):
        data.asked.clear()
        selector.query(pool, 5)
        assert data.asked.count(1) <= 1
