"""Data behind one face: nothing copied whole, rows in order, and what cannot be used is said so."""

from __future__ import annotations

import pickle
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from fakes import Items, mlp
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator, TorchTrainer
from prunefuse_al.data.datasets import ArrayDataset, as_dataset, labels_of, subset, to_dataset
from prunefuse_al.data.loading import BatchLoader, batches, check_finite
from prunefuse_al.errors import InputError, NonFiniteError
from prunefuse_al.testing.contracts import unchanged_global_rng


class Squares(Dataset[Any]):
    """A dataset that computes its items, as one reading files would; not vectorised."""

    def __init__(self, n: int, labelled: bool = True) -> None:
        self.n, self.labelled = n, labelled

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> Any:
        x = torch.tensor([row, row**2], dtype=torch.float32)
        return (x, row % 3) if self.labelled else x


def whole(dataset: Any, batch_size: int = 4, **options: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    read = list(batches(dataset, batch_size, **options))
    rows, x = torch.cat([b[0] for b in read]), torch.cat([b[1] for b in read])
    return rows, x, None if read[0][2] is None else torch.cat([b[2] for b in read if b[2] is not None])


X = np.arange(22, dtype=np.float64).reshape(11, 2)
Y = np.arange(11) % 3


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, lambda a: a.tolist(), np.asfortranarray])
def test_every_kind_of_array_gives_the_same_rows(make: Any) -> None:
    rows, x, y = whole(as_dataset(make(X), make(Y)))
    assert rows.tolist() == list(range(11))
    assert torch.equal(x.double(), torch.as_tensor(X))
    assert y.dtype == torch.int64
    assert y.tolist() == Y.tolist()


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", ">f4", "<f8", "longdouble", "uint8", "uint16", "uint32", "uint64", "int16", ">i8", "bool"],
)
def test_every_number_format_arrives_with_its_values(dtype: str) -> None:
    array = (X % 2).astype(dtype)
    _, x, _ = whole(as_dataset(array))
    assert torch.equal(x.double(), torch.as_tensor(X % 2))


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint32, torch.uint64, torch.bfloat16, torch.int8, torch.bool])
def test_every_kind_of_tensor_arrives_with_its_values(kind: torch.dtype) -> None:
    tensor = torch.as_tensor(X % 2).to(kind)
    for data in (as_dataset(tensor), as_dataset(Items([row for row in tensor]))):
        found = whole(data)[1]
        assert torch.equal(found.double(), torch.as_tensor(X % 2))
        assert found.dtype == (torch.int64 if "uint" in str(kind) else kind)  # of these torch can do little


class Frame:
    """Columns of several kinds, as a frame of pandas has them."""

    def __init__(self, **columns: Any) -> None:
        self.values, self.columns = columns, list(columns)
        self.dtypes = [np.asarray(column).dtype for column in columns.values()]
        self.shape = (11, len(columns))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        mixed = len({kind.kind in "if" for kind in self.dtypes}) > 1
        return np.asarray(
            np.stack([np.asarray(column, object if mixed else None) for column in self.values.values()], 1)
        )


def test_frames_and_arrays_without_a_masked_entry_are_their_values() -> None:
    frame, unmasked = Frame(a=X[:, 0].astype(int), b=X[:, 1]), np.ma.masked_array(X)
    for values in (frame, unmasked):
        assert torch.equal(whole(as_dataset(values))[1].double(), torch.as_tensor(X))


def test_frames_of_pandas_are_their_values() -> None:
    pandas = pytest.importorskip("pandas", reason="a host's library, not needed by this one")
    kinds = {"a": pandas.Categorical(X[:, 0].astype(int)), "b": X[:, 1]}
    for frame in (pandas.DataFrame(X), pandas.DataFrame(kinds), pandas.DataFrame({**kinds, "a": X[:, 0].astype(int)})):
        assert torch.equal(whole(as_dataset(frame))[1].double(), torch.as_tensor(X))
    assert torch.equal(whole(as_dataset(pandas.Series(X[:, 1])))[1].double(), torch.as_tensor(X[:, 1]))
    with pytest.raises(InputError, match=r"DataFrame with the columns a \(float64\), b \(.*numbers of one kind"):
        as_dataset(pandas.DataFrame({"a": X[:, 0], "b": ["x"] * 11}))


PAIRS = TensorDataset(torch.as_tensor(X).float(), torch.as_tensor(Y))


@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "shuffle": True}, {"batch_size": 3, "num_workers": 1}])
def test_a_loader_gives_its_dataset(options: dict[str, Any]) -> None:
    loader = DataLoader(PAIRS, **options)
    assert as_dataset(loader) is PAIRS
    assert to_dataset(loader) is PAIRS
    assert labels_of(as_dataset(loader, Y[::-1].copy())).tolist() == Y[::-1].tolist()
    trainer = TorchTrainer(1, device="cpu", progress=False)
    for make in (PrunedProxySelector, PruneFuseEstimator):
        chosen, other = (make(mlp(2, 8, 3), trainer=trainer, random_state=0) for _ in range(2))
        assert chosen.fit(loader).query(loader, 4).tolist() == other.fit(PAIRS).query(PAIRS, 4).tolist()


def own_collate(items: list[Any]) -> Any:
    return items


def test_negative_strides_and_read_only_arrays_are_read() -> None:
    array = X[::-1]
    array.flags.writeable = False
    assert torch.equal(whole(as_dataset(array))[1], torch.as_tensor(X[::-1].copy()))


def unaligned(array: np.ndarray) -> np.ndarray:
    """Return the same numbers, each starting one byte after where a processor wants it."""
    room = np.zeros(array.nbytes + 1, np.uint8)
    room[1:] = np.frombuffer(array.tobytes(), np.uint8)
    return room[1:].view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize("name", ["c", "fortran", "columns", "big_endian", "unaligned", "bytes"])
def test_rows_are_the_same_however_an_array_lies_and_are_copies(name: str) -> None:
    plain = np.arange(60, dtype=np.float32).reshape(12, 5)
    array = {
        "c": plain.copy(),
        "fortran": np.asfortranarray(plain),
        "columns": np.repeat(plain, 2, axis=1)[:, ::2],
        "big_endian": plain.astype(">f4"),
        "unaligned": unaligned(plain),
        "bytes": plain.astype(np.uint8),
    }[name]
    ((_, x, _, _),) = batches(as_dataset(array), 4, order=torch.tensor([7, 0, 7]))
    assert x.tolist() == plain[[7, 0, 7]].tolist()
    x.zero_()
    assert np.array_equal(array, plain)


def test_rows_of_rows_are_counted_from_either_end() -> None:
    some = subset(as_dataset(X), [5, 2, 9])
    assert torch.equal(some.take(torch.tensor([-1, 0]))[0], torch.as_tensor(X[[9, 5]]))
    assert [x.tolist() for x in some.__getitems__([2, 0])] == X[[9, 5]].tolist()


def test_arrays_are_kept_by_reference() -> None:
    tensor = torch.zeros(5, 2)
    assert as_dataset(X).x is X
    assert as_dataset(tensor).x.data_ptr() == tensor.data_ptr()


def test_a_memory_map_is_read_in_batches_and_never_copied(tmp_path: Any) -> None:
    np.lib.format.open_memmap(tmp_path / "pool.npy", mode="w+", dtype=np.float32, shape=(40_000, 100))[:] = 1
    pool = np.load(tmp_path / "pool.npy", mmap_mode="r")  # 16 MB
    dataset = as_dataset(pool, np.zeros(len(pool), dtype=int))
    tracemalloc.start()
    total = sum(float(x.sum()) for _, x, _, _ in batches(subset(dataset, np.arange(1, 40_000)), 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 39_999 * 100
    assert peak < 4e6, f"{peak / 1e6:.1f} MB were held at once"


def test_several_inputs_stay_together() -> None:
    data = as_dataset({"a": X, "b": torch.arange(11)}, Y)
    rows, x, y, _ = next(batches(data, 3, order=torch.tensor([7, 2, 9])))
    assert rows.tolist() == [7, 2, 9] == x["b"].tolist()
    assert x["a"][0].tolist() == X[7].tolist()
    assert y.tolist() == Y[[7, 2, 9]].tolist()
    assert [leaf.shape[0] for leaf in next(batches(as_dataset((X, X[:, :1])), 4))[1]] == [4, 4]
    with pytest.raises(InputError, match=r"\[11, 10\] rows"):
        as_dataset((X, X[:10]))


def test_a_dataset_passes_through_and_may_get_labels() -> None:
    squares = Squares(7)
    assert as_dataset(squares) is squares
    _, x, y = whole(squares)
    assert x[:, 1].tolist() == [0, 1, 4, 9, 16, 25, 36]
    assert y.tolist() == [0, 1, 2, 0, 1, 2, 0]
    paired = as_dataset(squares, np.arange(7)[::-1], sample_weight=np.ones(7))
    assert labels_of(paired).tolist() == list(range(6, -1, -1))
    _, _, y, w = next(batches(paired, 7))
    assert y.tolist() == list(range(6, -1, -1))
    assert w.tolist() == [1] * 7
    assert whole(Squares(3, labelled=False))[2] is None


def test_labels_of_reads_a_dataset_only_when_asked() -> None:
    assert labels_of(Squares(4), read=False) is None
    assert labels_of(Squares(4)).tolist() == [0, 1, 2, 0]
    assert labels_of(subset(Squares(4), [3, 1])).tolist() == [0, 1]
    assert labels_of(subset(as_dataset(X, Y), [4, 2]), read=False).tolist() == [1, 2]
    assert labels_of(Squares(4, labelled=False)) is None


def test_workers_read_the_same_batches_again_and_again() -> None:
    loader = BatchLoader(Squares(10), 4, num_workers=1)
    order = torch.tensor([9, 1, 5, 0, 3])
    for _ in range(2):
        read = list(loader.batches(order))
        assert [b[0].tolist() for b in read] == [[9, 1, 5, 0], [3]]
        assert torch.cat([b[1] for b in read])[:, 0].tolist() == order.tolist()


def test_a_plain_loader_of_torch_can_read_array_datasets() -> None:
    x, y = next(iter(DataLoader(as_dataset(X, Y), batch_size=3, generator=torch.Generator())))
    assert torch.equal(x, torch.as_tensor(X[:3]))
    assert y.tolist() == [0, 1, 2]
    assert as_dataset(X, Y, sample_weight=np.ones(11))[2][2] == 1.0
    assert pickle.loads(pickle.dumps(subset(as_dataset(X, Y), [1])))[0][1] == 1


@given(st.data(), st.integers(1, 30), st.integers(1, 12))
def test_subsets_of_subsets_name_their_own_rows(data: st.DataObject, n: int, batch_size: int) -> None:
    dataset = as_dataset(np.arange(n), np.arange(n) * 10)
    outer = data.draw(st.lists(st.integers(0, n - 1), min_size=1))
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), min_size=1))
    rows, x, y = whole(subset(subset(dataset, outer), np.array(inner)), batch_size)
    assert rows.tolist() == list(range(len(inner)))
    assert x.tolist() == [outer[i] for i in inner]
    assert y.tolist() == [10 * outer[i] for i in inner]


@given(st.integers(1, 40), st.integers(1, 10))
def test_a_single_last_row_joins_the_batch_before(n: int, batch_size: int) -> None:
    sizes = [len(b[0]) for b in BatchLoader(as_dataset(np.zeros(n)), batch_size).batches(merge_single=True)]
    assert sum(sizes) == n
    assert n == 1 or batch_size == 1 or 1 not in sizes
    assert max(sizes) <= batch_size + 1


def test_a_mask_selects_rows() -> None:
    assert whole(subset(as_dataset(X), X[:, 0] > 15))[1][:, 0].tolist() == [16, 18, 20]


MASKED = np.ma.masked_array(X, mask=X > 18)
HUGE = np.array([[1], [2**63]], np.uint64)


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are about to leave torch
        return torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)


class Pairwise(BatchSampler):
    pass


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: as_dataset(torch.eye(3).to_sparse()), r"Sparse data.*to_dense"),
        (lambda: as_dataset([[1, 2], [3]]), "ragged"),
        (lambda: as_dataset(np.array(["a", "b"])), "dtype <U1"),
        (lambda: as_dataset(X.astype(complex)), "complex128; real numbers"),
        (lambda: as_dataset(torch.as_tensor(X) + 1j), r"complex128 of shape \[11, 2\].*view_as_real"),
        (lambda: as_dataset([torch.ones(2) * 1j]), r"complex64 of shape \[1, 2\].*view_as_real"),
        (lambda: as_dataset(torch.zeros(3, 2, device="meta")), r"float32 of shape \[3, 2\], on the device 'meta'"),
        (
            lambda: as_dataset(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)),
            "nested: .*to_padded_tensor",
        ),
        (lambda: as_dataset(torch.zeros(3, 2).to(torch.float8_e4m3fn)), r"float8_e4m3fn of shape \[3, 2\].*float32"),
        (
            lambda: as_dataset(quantised()),
            r"qint8.*dequantize\(\)",
        ),
        (lambda: as_dataset(MASKED), r"masked array with 3 of 22 entries masked.*filled"),
        (lambda: as_dataset({"a": X, "b": MASKED}), "3 of 22 entries masked"),
        (lambda: as_dataset(list(MASKED)), "1 of 2 entries masked"),
        (lambda: list(batches(as_dataset(HUGE), 2)), r"2\*\*63 or more in uint64"),
        (lambda: list(batches(as_dataset(torch.as_tensor(HUGE)), 2)), r"2\*\*63 or more in uint64"),
        (lambda: as_dataset(None), "X is None: pass the data"),
        (lambda: as_dataset((X, None)), "X is None"),
        (lambda: as_dataset("data/train"), "X='data/train' is a text or a path.*ImageFolder"),
        (lambda: as_dataset(Path("x.npy")), r"x.npy'\) is a text or a path"),
        (lambda: as_dataset(b"data"), "X=b'data' is a text or a path"),
        (lambda: as_dataset({1.0, 2.0}), "X holds a set where an array"),
        (lambda: as_dataset((X, {"a": X})), "X holds a dict where an array"),
        (lambda: as_dataset((X, PAIRS)), "X holds a TensorDataset where an array"),
        (
            lambda: as_dataset({"train": PAIRS, "test": PAIRS}),
            r"several datasets, dict of 'train', 'test'.*X\['train'\]",
        ),
        (lambda: as_dataset({"train": Endless()}), "several datasets, dict of 'train'"),
        (lambda: as_dataset([(row, 0) for row in X]), "list of tuples: pass one array for each input.*or a Dataset"),
        (lambda: as_dataset([{"a": 1}, {"a": 2}]), "list of dicts: pass one array for each input"),
        (lambda: as_dataset(X.astype(object)), "dtype object of float"),
        (lambda: as_dataset(np.zeros((3, 2), "datetime64[s]")), r"dtype datetime64\[s\]; real numbers"),
        (lambda: as_dataset(np.zeros(3, [("a", float), ("b", int)])), "structured array with the fields a, b"),
        (
            lambda: as_dataset(Frame(a=X[:, 0], b=["x"] * 11)),
            r"columns a \(float64\), b \(.*numbers of one",
        ),
        (
            lambda: as_dataset(Frame(a=X[:, 0], b=X[:, 1] > 3)),
            r"a \(float64\), b \(bool\).*astype\(float\)",
        ),
        (lambda: as_dataset(DataLoader(Endless())), "Endless is an iterable without row numbers"),
        (lambda: as_dataset(DataLoader(PAIRS, collate_fn=own_collate)), r"own_collate.*TorchTrainer\(collate="),
        (lambda: as_dataset(DataLoader(PAIRS, batch_size=None)), "batch_size=None, whose items may be whole batches"),
        (
            lambda: as_dataset(DataLoader(PAIRS, sampler=SubsetRandomSampler([1, 2]))),
            "SubsetRandomSampler chooses rows",
        ),
        (
            lambda: as_dataset(DataLoader(PAIRS, sampler=RandomSampler(PAIRS, num_samples=3))),
            "RandomSampler chooses rows",
        ),
        (lambda: as_dataset(DataLoader(PAIRS, sampler=WeightedRandomSampler([1.0] * 11, 11))), "WeightedRandomSampler"),
        (lambda: as_dataset(DataLoader(PAIRS, batch_sampler=Pairwise(SequentialSampler(PAIRS), 2, False))), "Pairwise"),
        (lambda: as_dataset(np.empty((0, 3))), "0 rows"),
        (lambda: as_dataset(np.float64(3)), "single number"),
        (lambda: as_dataset(Endless()), "without row numbers"),
        (lambda: as_dataset(X, Y[:-1]), "11 rows and y has 10"),
        (lambda: as_dataset(X, ["a"] * 11), "LabelEncoder"),
        (lambda: as_dataset(X, Y, sample_weight=[1.0]), r"shape \(1,\)"),
        (lambda: as_dataset(X, Y, sample_weight=-np.ones(11)), r"rows 0, 1, 2, 3, 4, \.\.\. \(11 of 11\)"),
        (lambda: as_dataset(X, Y, sample_weight=np.zeros(11)), "zero in all 11 rows"),
        (lambda: as_dataset(X, sample_weight=np.ones(11)), "without y"),
        (lambda: as_dataset(Squares(11), sample_weight=np.ones(11)), "without y"),
        (lambda: to_dataset((X, Y, None, None)), "tuple of 4"),
        (lambda: subset(as_dataset(X), [3, 11]), r"row 11 was asked for; the data has rows 0\.\.10 \(1 of 2"),
        (lambda: subset(as_dataset(X), [-1]), "row -1"),
        (lambda: subset(as_dataset(X), [1.5]), "whole numbers or a boolean mask; float64 was given"),
        (lambda: subset(as_dataset(X), np.ones(4, dtype=bool)), r"shape \(4,\) was given for 11 rows"),
        (lambda: list(batches(as_dataset(X), 0)), "batch_size=0"),
    ],
)
def test_what_cannot_be_used_is_said(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize("form", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_every_sparse_format_is_refused_by_the_selector_and_taken_by_the_estimator(form: str, kind: str) -> None:
    sparse = getattr(scipy.sparse, f"{form}_{kind}")(X)
    for data in (sparse, (sparse, X), {"a": sparse}):
        with pytest.raises(InputError, match=rf"Sparse data was passed \({form}_{kind}\).*\.toarray\(\)"):
            as_dataset(data)
    trainer = TorchTrainer(1, device="cpu", progress=False)
    est = PruneFuseEstimator(trainer=trainer, random_state=0).fit(sparse, Y)
    dense = PruneFuseEstimator(trainer=trainer, random_state=0).fit(X, Y)
    np.testing.assert_allclose(est.predict_proba(sparse), dense.predict_proba(X))


@pytest.mark.parametrize("module", [None, mlp(2, 8, 3)])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "X is None"),
        ("data/train", "is a text or a path"),
        (MASKED, "3 of 22 entries masked"),
        (torch.as_tensor(X) + 1j, "complex128"),
        (torch.as_tensor(X).to_sparse(), "Sparse data"),
        (torch.zeros(11, 2, device="meta"), "'meta'"),
        (torch.zeros(11, 2).to(torch.float8_e5m2), "float8_e5m2"),
        (np.zeros((11, 2), "datetime64[s]"), "datetime64"),
        (np.zeros(11, [("a", float), ("b", int)]), "structured array"),
    ],
    ids=["None", "path", "masked", "complex", "sparse", "meta", "fp8", "dates", "structured"],
)
def test_the_estimator_refuses_what_scikit_learn_would_take_for_something_else(
    module: Any, given: Any, says: str
) -> None:
    est = PruneFuseEstimator(module, trainer=TorchTrainer(1, device="cpu", progress=False), random_state=0)
    with pytest.raises(InputError, match=says):
        est.fit(given, Y)
    est.fit(X, Y)
    before = est.predict_proba(X)
    for call in (est.query, est.predict, lambda x: est.partial_fit(x, Y)):
        with pytest.raises(InputError, match=says):
            call(given)
    np.testing.assert_array_equal(est.predict_proba(X), before)


def test_a_row_that_cannot_be_read_is_named_as_the_user_counts() -> None:
    """Whatever the dataset raises, wherever it is read: alone, part of it, with labels beside it, by whoever asks."""
    damaged = Items([(torch.zeros(2), row % 2) for row in range(12)])
    damaged.items[7] = OSError("cannot identify image file 'cat.png'")
    trainer = TorchTrainer(1, device="cpu", progress=False)
    says = r"row 7 of the data cannot be read: OSError: cannot identify image file 'cat.png'"
    part = subset(subset(damaged, [11, 7, 3, 2]), [1, 2])
    sound = PrunedProxySelector(mlp(2, 8, 2), trainer=trainer, random_state=0).fit(Subset(damaged, range(6)))
    for read in (
        lambda: sound.fit(damaged),
        lambda: sound.fit(damaged, Y.repeat(2)[:12] % 2),
        lambda: sound.query(damaged, 2),
        lambda: sound.query(damaged, 1, candidates=[7, 3]),
        lambda: sound.coreset(damaged, 0.5),
        lambda: sound.predict_proba(damaged),
        lambda: part[0],
        lambda: part.__getitems__([1, 0]),
        lambda: as_dataset(part, [0, 1])[0],
        lambda: labels_of(damaged),
        lambda: list(batches(part, 2)),
        lambda: check_finite(damaged),
    ):
        with pytest.raises(InputError, match=says) as caught:
            read()
        causes, error = [], caught.value
        while error is not None:
            causes.append(error)
            error = error.__cause__
        assert damaged.items[7] in causes
    assert sound.round == 1
    with pytest.raises(InputError, match=r"row 1 of the data"):  # of what was passed
        sound.fit(Subset(damaged, [8, 7, 6]))


class AtOnce(Items):
    """Reads several items at once, as `datasets.Dataset` does."""

    def __getitems__(self, rows: list[int]) -> list[Any]:
        return [self[row] for row in rows]


class Short(Items):
    def __getitems__(self, rows: list[int]) -> list[Any]:
        return [self[row] for row in rows[1:]]


class NotAtOnce(Items):
    def __getitems__(self, rows: list[int]) -> list[Any]:
        raise KeyError(rows)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (AtOnce, "row 2 of the data cannot be read: KeyError: 'gone'"),
        (Short, "__getitems__ gave 2 items for 3 rows"),
        (NotAtOnce, r"rows \[3, 0, 1\] of the data cannot be read at once"),
    ],
)
def test_rows_read_at_once_are_named_too(make: Any, says: str) -> None:
    items: list[Any] = [(torch.zeros(2), 0) for _ in range(4)]
    if make is AtOnce:
        items[2] = KeyError("gone")
    with pytest.raises(InputError, match=says):
        list(batches(subset(make(items), [3, 2 if make is AtOnce else 0, 1]), 3))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("full"), NonFiniteError("ours")])
def test_what_is_no_fault_of_a_row_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)):
        list(batches(Items([error]), 1))


def test_pictures_of_different_sizes_are_named_as_the_reason() -> None:
    class Ragged(Squares):
        def __getitem__(self, row: int) -> Any:
            return torch.zeros(row + 1), 0

    with pytest.raises(InputError, match="cannot be stacked into a batch"):
        list(batches(Ragged(3), 2))


def test_rows_with_nan_are_named() -> None:
    bad = X.copy()
    bad[[2, 5, 10], 1] = np.nan, np.inf, -np.inf
    check_finite(as_dataset(X))
    with pytest.raises(NonFiniteError, match=r"rows 2, 5, 10 \(3 of 11\)"):
        check_finite(as_dataset({"a": bad, "b": X}), batch_size=3)
    assert isinstance(as_dataset(bad), ArrayDataset)


def test_labels_beside_rows_of_an_array_are_read_by_batches() -> None:
    """Index-as-X over an array: what a picture-by-picture read takes a hundred times as long for."""
    array = as_dataset(np.arange(40, dtype=np.float32).reshape(20, 2))
    rows = torch.tensor([7, 3, 11])
    paired = as_dataset(subset(array, rows), torch.tensor([0, 1, 2]), sample_weight=[1.0, 2.0, 3.0])
    ((_, x, y, w),) = batches(paired, 3)
    assert x.tolist() == [[14, 15], [6, 7], [22, 23]]
    assert (y.tolist(), w.tolist()) == ([0, 1, 2], [1, 2, 3])
    assert x.equal(torch.stack([paired[i][0] for i in range(3)]))

    class Refuses(type(array)):
        def __getitem__(self, row: int) -> object:
            raise AssertionError("read row by row")

    refuses = as_dataset(subset(Refuses(array.x), rows), torch.tensor([0, 1, 2]))
    ((_, again, _, _),) = batches(refuses, 3)
    assert again.equal(x)


def test_datasets_that_draw_do_not_move_the_global_state() -> None:
    """The first item tells whether there are labels; an augmented dataset draws when it is read."""

    class Augmented(Dataset[object]):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, row: int) -> object:
            return torch.rand(6) + row, row % 3

    selector = PrunedProxySelector(mlp(6, 8, 3), trainer=TorchTrainer(1, 4, device="cpu", progress=False))
    with unchanged_global_rng():
        assert labels_of(Augmented()).tolist() == [0, 1, 2] * 4
        selector.fit(Augmented()).query(Augmented(), 2)
        selector.fit_target()


def test_read_only_arrays_are_taken_and_never_written_through() -> None:
    """torch warns of tensors over memory that it may not write to, once a process, and would write to it."""

    def locked(values: Any) -> Any:
        array = np.array(values)
        array.setflags(write=False)
        return array

    y, weights, rows = locked([0, 1, 0]), locked([1.0, 2.0, 3.0]), locked([2, 0])
    data = as_dataset(locked(np.ones((3, 2))), y, sample_weight=weights)
    part = subset(data, rows)
    for tensor, array in ((data.y, y), (data.sample_weight, weights), (part.rows, rows)):
        before = array.copy()
        tensor.add_(1)
        assert (array == before).all()
