"""Items of datasets: what each entry is, labels and weights, and dicts as Hugging Face's tokenizers make them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fakes import Items, mlp, seeded
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, TensorDataset

from prunefuse_al import EarlyStopping, PrunedProxySelector, PruneFuseEstimator, TorchTrainer
from prunefuse_al.data.datasets import as_dataset, labels_of
from prunefuse_al.data.items import split_item
from prunefuse_al.data.loading import batches
from prunefuse_al.errors import InputError, NoEffectWarning
from prunefuse_al.network.signals import collect
from prunefuse_al.training import recalibrate_batchnorm

PAD = partial(pad_sequence, batch_first=True)


def sentences(n: int = 60, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Return texts of 3 to 9 words; those of class 1 are of the upper half of the vocabulary."""
    rng = np.random.default_rng(seed)
    labels = torch.arange(n) % 2
    texts = [torch.from_numpy(rng.integers(1, 20, rng.integers(3, 10)) + 20 * int(y)) for y in labels]
    return texts, labels


def pad_dicts(inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Do what `transformers.DataCollatorWithPadding` does."""
    return {key: PAD([torch.as_tensor(x[key]) for x in inputs]) for key in ("input_ids", "attention_mask")}


class Tokenised(Dataset[Any]):
    """Items like those of `datasets.Dataset` after a tokenizer: plain lists, the label inside."""

    def __init__(self, n: int = 60, key: str | None = "label") -> None:
        self.texts, self.labels = sentences(n)
        self.key = key

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> dict[str, Any]:
        ids = self.texts[row].tolist()
        item = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        return item if self.key is None else {**item, self.key: int(self.labels[row])}


class TextNet(nn.Module):
    """Averages word vectors where the mask is 1, and answers as a Hugging Face model does."""

    def __init__(self, vocabulary: int = 40, width: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        mask = attention_mask[..., None].to(self.words.weight.dtype)
        mean = (self.words(input_ids) * mask).sum(1) / mask.sum(1)
        logits = self.head(torch.relu(self.norm(self.hidden(mean))))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def trainer(**options: Any) -> TorchTrainer:
    rest = {"lr": 0.02, "device": "cpu", "progress": False, "collate": pad_dicts, **options}
    return TorchTrainer(15, 16, optimizer="adam", **rest)


@pytest.mark.parametrize("key", ["labels", "label"])
def test_a_label_inside_a_dict_is_its_label(key: str) -> None:
    data = Tokenised(key=key)
    x, y, w = split_item(data[3])
    assert (sorted(x), y, w) == (["attention_mask", "input_ids"], 1, None)
    assert labels_of(data).tolist() == data.labels.tolist()
    assert split_item(Tokenised(key=None)[3])[1] is None


def test_a_dict_of_arrays_may_hold_the_labels() -> None:
    ids, labels = torch.ones(5, 3), np.arange(5)
    data = as_dataset({"input_ids": ids, "labels": labels})
    assert labels_of(data).tolist() == [0, 1, 2, 3, 4]
    assert sorted(data[0][0]) == ["input_ids"]
    assert labels_of(as_dataset({"input_ids": ids, "labels": labels}, labels + 1)).tolist() == [1, 2, 3, 4, 5]


def test_texts_are_padded_to_the_longest_of_their_batch() -> None:
    data = Tokenised(7)
    for rows, x, y, _ in batches(data, 3, collate=pad_dicts):
        lengths = [len(data.texts[row]) for row in rows]
        assert x["input_ids"].shape == (len(rows), max(lengths))
        assert x["attention_mask"].sum(1).tolist() == lengths
        assert y.tolist() == data.labels[rows].tolist()


def test_lists_of_one_length_are_stacked_as_numbers_and_not_across() -> None:
    items = [{"input_ids": [row, 0, 1], "label": row} for row in range(4)]
    ((_, x, y, _),) = batches(as_dataset(Rows(items)), 4)
    assert x["input_ids"].tolist() == [[row, 0, 1] for row in range(4)]
    assert y.tolist() == [0, 1, 2, 3]


def test_something_with_rows_and_a_shape_is_a_dataset_if_it_reads_many_items() -> None:
    """`datasets.Dataset` has `shape`, as arrays do, and `__getitems__`, as they do not."""
    rows = Rows([{"input_ids": [1, 2], "label": 0}])
    assert as_dataset(rows) is rows


class Rows:
    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items, self.shape = items, (len(items), len(items[0]))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.items[row]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        return [self.items[row] for row in rows]


@pytest.mark.parametrize("stop", [None, EarlyStopping(patience=3, validation_fraction=0.2)])
def test_the_whole_method_on_texts_of_several_lengths(stop: EarlyStopping | None) -> None:
    data = Tokenised(120)
    options = {"trainer": trainer(early_stopping=stop), "random_state": 0, "cross": "copy"}
    selector = PrunedProxySelector(seeded(TextNet), 0.5, **options).fit(data)
    assert selector.model.words.weight.shape == (40, 8)
    assert (selector.predict_proba(data).argmax(1) == data.labels.numpy()).mean() > 0.9
    picked = selector.query(data, 10, candidates=range(50, 120))
    assert len(set(picked.tolist())) == 10
    assert picked.min() >= 50
    target = selector.fit_target()  # "copy" estimates BatchNorm again, which reads the texts once more
    assert target.words.weight.shape == (40, 16)
    logits = collect(target, data, collate=pad_dicts).logits
    assert float((logits.argmax(1) == data.labels).double().mean()) > 0.9


def test_padding_does_not_change_what_a_masked_network_says() -> None:
    data, network = Tokenised(30), seeded(TextNet)
    alone = collect(network, data, ["logits", "features"], batch_size=1, collate=pad_dicts)
    together = collect(network, data, ["logits", "features"], batch_size=30, collate=pad_dicts)
    torch.testing.assert_close(alone.logits, together.logits)
    torch.testing.assert_close(alone.features, together.features)


def test_a_recurrent_network_reads_padded_tensors() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.lstm = nn.Embedding(40, 8), nn.LSTM(8, 16, batch_first=True)
            self.head = nn.Linear(16, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.lstm(self.words(ids))[0].amax(1))

    texts, labels = sentences(80)
    pairs = Pairs(texts, labels)
    selector = PrunedProxySelector(seeded(Recurrent), 0.5, trainer=trainer(collate=PAD), random_state=0).fit(pairs)
    assert (selector.predict_proba(pairs).argmax(1) == labels.numpy()).mean() > 0.9
    assert selector.fit_target().lstm.hidden_size == 16


class Pairs(Dataset[Any]):
    def __init__(self, texts: list[Tensor], labels: Tensor) -> None:
        self.texts, self.labels = texts, labels

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.texts[row], self.labels[row]


def test_a_first_text_of_another_length_does_not_start_the_estimator_again() -> None:
    texts, _ = sentences(60)
    est = PruneFuseEstimator(seeded(TextNet), 0.5, trainer=trainer(), random_state=0)
    selector = est.fit(Tokenised(60)).selector_
    longer = next(row for row in range(60) if len(texts[row]) != len(texts[0]))
    rows = [longer, *(row for row in range(60) if row != longer)]
    assert est.fit(torch.utils.data.Subset(Tokenised(60), rows)).selector_ is selector
    assert selector.round == 2


def test_batchnorm_is_estimated_on_padded_texts() -> None:
    network = seeded(TextNet)
    assert recalibrate_batchnorm(network, Tokenised(20), batch_size=5, device="cpu", collate=pad_dicts) == 20
    assert float(network.norm.running_mean.abs().sum()) > 0


class Strings(Tokenised):
    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": [1, 2], "text": "a mail", "label": 0}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: list(batches(Tokenised(), 4)), r"texts of several lengths: pad them in TorchTrainer\(collate"),
        (lambda: list(batches(Strings(), 4)), r"holds str where a network takes tensors \(text\): leave out"),
        (lambda: as_dataset(sentences()[0]), r"tensors of 7 shapes, \(3,\) to \(9,\).*TorchTrainer\(collate"),
        (lambda: collect(TextNet(), Tokenised(), collate=lambda inputs: None), "holds NoneType where"),
    ],
    ids=["lengths", "strings", "list", "collate"],
)
def test_what_cannot_be_put_together_is_said(call: Any, says: str) -> None:
    with torch.random.fork_rng(devices=[]), pytest.raises(InputError, match=says):
        call()


# ---- what an item's entries are ----

X = torch.linspace(-1, 1, 24).view(12, 2)


def plain(**options: Any) -> TorchTrainer:
    return TorchTrainer(1, 4, device="cpu", progress=False, **options)


WEIGHTS = [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5]).half(), np.array(0.5)]


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda weight: type(weight).__name__)
def test_a_third_entry_is_a_weight_where_it_is_a_floating_number(weight: Any) -> None:
    ((_, _, _, w),) = batches(Items([(x, 0, weight) for x in X]), 12)
    assert (w.dtype, w.tolist()) == (torch.float64, [0.5] * 12)
    assert split_item((0, 1, None)) == (0, 1, None)


NO_WEIGHTS: dict[str, tuple[Any, str]] = {
    "index": (7, "int 7"),
    "index of NumPy": (np.int64(7), r"int64.7\)?"),  # NumPy 2 puts brackets around it
    "index in a tensor": (torch.tensor(7), r"int64 of shape \[\]"),
    "bool": (True, "bool True"),
    "path": ("cats/7.png", "str 'cats/7.png'"),
    "labels of a TensorDataset": (torch.tensor([1]), r"int64 of shape \[1\]"),
    "mask": (torch.zeros(5, dtype=torch.bool), r"bool of shape \[5\]"),
    "several numbers": (np.ones(2), r"float64 of shape \[2\]"),
    "dict": ({"id": 7}, "dict {'id': 7}"),
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_any_other_third_entry_is_refused_wherever_items_are_read(name: str) -> None:
    entry, found = NO_WEIGHTS[name]
    data = Items([(x, row % 2, entry) for row, x in enumerate(X)])
    sound = PrunedProxySelector(mlp(2, 8, 2), trainer=plain(), random_state=0).fit(X, torch.arange(12) % 2)
    for call in (
        lambda: sound.fit(data),
        lambda: sound.fit(data, torch.arange(12) % 2),
        lambda: sound.query(data, 2),
        lambda: sound.predict_proba(data),
        lambda: sound.fit_target(data),
        lambda: sound.coreset(data, 0.5),
        lambda: PruneFuseEstimator(mlp(2, 8, 2), trainer=plain()).fit(data),
    ):
        with pytest.raises(InputError, match=rf"third entry of an item is its sample weight, and it is .*{found}: let"):
            call()
    assert sound.round == 1


def test_ids_mask_and_labels_are_refused_and_right_as_a_pair() -> None:
    ids, mask = torch.arange(60).view(12, 5), torch.ones(12, 5, dtype=torch.bool)
    labels = torch.arange(12) % 2
    with pytest.raises(
        InputError, match=r"row 0 of the data: the third entry .* int64 of shape \[\].*\(\(ids, mask\), label"
    ):
        list(batches(TensorDataset(ids, mask, labels), 4))
    with pytest.raises(
        InputError, match=r"items of the dataset are \(x, bool of shape \[5\]\), which is not one label"
    ):
        list(batches(as_dataset(TensorDataset(ids, mask), labels), 4))
    right = Items([((ids[row], mask[row]), labels[row]) for row in range(12)])
    ((_, x, y, w),) = batches(right, 12)
    assert (torch.equal(x[0], ids), torch.equal(x[1], mask), torch.equal(y, labels), w) == (True, True, True, None)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_is_named_by_its_row(weight: float) -> None:
    items = [(x, row % 2, weight if row == 9 else 1.0) for row, x in enumerate(X)]
    with pytest.raises(InputError, match=rf"row 9 of the data: the sample weight of an item={weight}; pass a finite"):
        PrunedProxySelector(mlp(2, 8, 2), trainer=plain(), random_state=0).fit(Items(items))


def test_a_batch_may_have_no_weight_at_all_and_some_items_may_not_lack_it() -> None:
    found = [w.tolist() for *_, w in batches(Items([(x, 0, float(row > 3)) for row, x in enumerate(X)]), 4)]
    assert found == [[0.0] * 4, [1.0] * 4, [1.0] * 4]
    with pytest.raises(InputError, match="3 of 12 items have no sample weight"):
        list(batches(Items([(x, 0, None if row < 3 else 1.0) for row, x in enumerate(X)]), 12))


# ---- labels of items are labels as those of arrays ----

CLASSES = [0, 1, 2] * 4
LABELS: dict[str, list[Any]] = {
    "int": CLASSES,
    "int8": [np.int8(c) for c in CLASSES],
    "int32": [np.int32(c) for c in CLASSES],
    "uint16": [np.uint16(c) for c in CLASSES],
    "uint64": [np.uint64(c) for c in CLASSES],
    "uint8 tensors": [torch.tensor(c, dtype=torch.uint8) for c in CLASSES],
    "int32 tensors": [torch.tensor(c, dtype=torch.int32) for c in CLASSES],
    "int16 of shape [1]": [torch.tensor([c], dtype=torch.int16) for c in CLASSES],
    "arrays of shape [1]": [np.array([c], dtype=np.int32) for c in CLASSES],
    "bool": [bool(c) for c in CLASSES],
    "bool tensors": [torch.tensor(bool(c)) for c in CLASSES],
    "float16, soft": [torch.eye(3)[c].half() for c in CLASSES],
    "float64, soft": [np.eye(3)[c] for c in CLASSES],
    "float": [float(c) for c in CLASSES],
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_items_are_what_labels_of_arrays_are(name: str) -> None:
    given = LABELS[name]
    expected = as_dataset(X, np.stack([np.asarray(label) for label in given])).y
    data = Items([(x, label) for x, label in zip(X, given, strict=True)])
    ((_, _, found, _),) = batches(data, 12)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(found, expected)
    assert torch.equal(labels_of(data), expected)
    if expected.is_floating_point() and expected.ndim == 1:
        return  # cross entropy takes none
    one, other = (PrunedProxySelector(mlp(2, 8, 3), trainer=plain(), random_state=0) for _ in range(2))
    assert one.fit(data).query(X, 5).tolist() == other.fit(X, expected).query(X, 5).tolist()


@pytest.mark.parametrize(
    "label", ["cat", np.str_("cat"), b"cat", {"boxes": 1}, None], ids=["str", "np.str_", "bytes", "dict", "None"]
)
def test_labels_that_are_no_numbers_are_refused_with_the_same_words_and_do_not_matter_in_a_pool(label: Any) -> None:
    data, trainer = Items([(x, label) for x in X]), plain()
    sound = PrunedProxySelector(mlp(2, 8, 2), trainer=trainer, random_state=0).fit(X, torch.arange(12) % 2)
    picked = sound.query(X, 3)
    words = (
        "the data has no labels" if label is None else r"labels have dtype .*integers 0\.\.C-1 are needed: encode them"
    )
    for call in (lambda: sound.fit(data), lambda: sound.fit_target(data), lambda: sound.coreset(data, 0.5)):
        with pytest.raises(InputError, match=words):
            call()
    assert sound.query(data, 3).tolist() == picked.tolist()
    np.testing.assert_array_equal(sound.predict_proba(data), sound.predict_proba(X))


def test_labels_that_some_items_lack_do_not_matter_in_a_pool_and_are_refused_in_training() -> None:
    for missing in ((0, 1, 2), (5, 7)):
        data = Items([(x, None if row in missing else row % 2) for row, x in enumerate(X)])
        sound = PrunedProxySelector(mlp(2, 8, 2), trainer=plain(), random_state=0).fit(X, torch.arange(12) % 2)
        assert sound.query(data, 3).tolist() == sound.query(X, 3).tolist()
        with pytest.raises(InputError, match=r"items have no label \(None\)|the data has no labels|labels are needed"):
            sound.fit(data)


def test_labels_of_several_shapes_are_shown() -> None:
    with pytest.raises(
        InputError, match=r"labels of items cannot be put together .* the first is int64 of shape \[0\]"
    ):
        labels_of(Items([(x, torch.zeros(row, dtype=torch.int64)) for row, x in enumerate(X)]))


def test_the_estimator_encodes_strings_of_items() -> None:
    names = ["cat", "dog", "eel"] * 4
    data = Items([(x, name) for x, name in zip(X, names, strict=True)])
    one, other = (PruneFuseEstimator(mlp(2, 8, 3), trainer=plain(), random_state=0) for _ in range(2))
    np.testing.assert_array_equal(one.fit(data).predict_proba(X.numpy()), other.fit(X, names).predict_proba(X.numpy()))
    assert one.classes_.tolist() == ["cat", "dog", "eel"]


# ---- entries of dicts ----


class Named(nn.Module):
    """Names what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        hidden = self.layer(x).relu()
        return self.head(hidden if scale is None else hidden * scale[:, None])


class Open(Named):
    """Takes whatever else there is, as today's models of Hugging Face do."""

    def forward(self, x: Tensor, **others: Any) -> Tensor:
        assert set(others) <= {"scale", "idx"}
        return super().forward(x, others.get("scale"))


ROWS = [{"x": x, "scale": 1.5, "text": "a mail", "label": row % 2} for row, x in enumerate(X)]


@pytest.mark.parametrize("make", [Named, Open])
@pytest.mark.parametrize("batch", [None, torch.utils.data.default_collate])
def test_entries_that_the_network_does_not_take_are_left_out(make: Any, batch: Any) -> None:
    network = seeded(make)
    chosen = PrunedProxySelector(network, trainer=plain(collate=batch), random_state=0).fit(Items(ROWS))
    expected = PrunedProxySelector(network, trainer=plain(), random_state=0)
    expected.fit({"x": X, "scale": torch.full((12,), 1.5)}, torch.arange(12) % 2)
    pool = {"x": X, "scale": torch.full((12,), 1.5)}
    assert chosen.query(Items(ROWS), 5).tolist() == expected.query(pool, 5).tolist()


@pytest.mark.parametrize("lacking", [0, 2])
def test_items_of_different_entries_are_refused(lacking: int) -> None:
    rows = [{"x": x, "label": 0} if row == lacking else {"x": x, "scale": 0.5, "label": 0} for row, x in enumerate(X)]
    with pytest.raises(InputError, match=r"different entries, \['.*'\] and \['.*'\]: all need the same"):
        collect(seeded(Named), Items(rows), batch_size=12)


def test_numbers_that_are_left_out_are_named_once() -> None:
    data = Items([{**row, "idx": number, "spans": [number] * number} for number, row in enumerate(ROWS)])
    with pytest.warns(
        NoEffectWarning, match=r"have 'idx', 'spans', which Named\.forward does not take: left out"
    ) as caught:
        logits = collect(seeded(Named), data, batch_size=3).logits
    assert len(caught) == 1
    torch.testing.assert_close(logits, collect(seeded(Named), Items(ROWS)).logits)
    with_idx = Items([{**row, "idx": number} for number, row in enumerate(ROWS)])
    torch.testing.assert_close(collect(seeded(Open), with_idx).logits, logits)  # which takes them


def test_a_collate_gets_all_where_it_makes_the_inputs_of_the_rest() -> None:
    texts = Items([{"text": "ab" * row, "label": row % 2} for row in range(12)])

    def count(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {"x": torch.tensor([[len(item["text"]), item["text"].count("a")] for item in items]).float()}

    assert collect(seeded(Named), texts, collate=count).logits.shape == (12, 2)


@pytest.mark.parametrize(("make", "name"), [(Named, "scale"), (Named, "x"), (Open, "x")])
def test_a_text_that_the_network_takes_is_refused_by_name(make: Any, name: str) -> None:
    rows = Items([{**row, name: "large"} for row in ROWS])
    with pytest.raises(InputError, match=rf"holds str where a network takes tensors \({name}\)"):
        collect(seeded(make), rows)


def test_lists_of_numbers_are_arrays_of_any_depth_and_as_exact() -> None:
    items = [{"x": [[row, 0.1], [2, 3]], "n": [2**53 + 1, row], "flags": [True, False]} for row in range(3)]
    ((_, x, _, _),) = batches(Items(items), 3)
    assert (x["x"].dtype, tuple(x["x"].shape)) == (torch.float64, (3, 2, 2))
    assert x["x"][2].tolist() == [[2, 0.1], [2, 3]]
    assert x["n"].tolist() == [[2**53 + 1, row] for row in range(3)]
    assert (x["flags"].dtype, x["flags"].tolist()) == (torch.bool, [[True, False]] * 3)
    ((_, pair, _, _),) = batches(Items([(([1, 2], [0.5]), 1)] * 3), 3)
    assert [part.tolist() for part in pair] == [[[1, 2]] * 3, [[0.5]] * 3]


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.ones(2) * 1j, r"a batch of inputs is a tensor, complex64 of shape \[3, 2\].*view_as_real"),
        (np.ones(2) * 1j, "complex128"),
        ({"x": np.ma.masked_array([1.0, 2.0], [True, False])}, "masked array with 1 of 2 entries masked"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "masked array with 1 of 2 entries masked"),
        (torch.eye(2).to_sparse(), "[Ss]parse"),
        (torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(2, device="meta"), "'meta'"),
        (np.array([2**63, 1], np.uint64), r"2\*\*63 or more"),
        ("a mail", "str where a network takes tensors"),
        (None, "cannot be stacked into a batch"),
        ([[1], [2, 3]], "cannot be stacked into a batch"),
    ],
    ids=[
        "complex",
        "complex array",
        "masked",
        "masked x",
        "sparse",
        "fp8",
        "meta",
        "uint64",
        "str",
        "None",
        "ragged",
    ],
)
def test_inputs_that_are_no_plain_numbers_are_refused_in_items_too(x: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(batches(Items([(x, 0)] * 3), 3))


def test_a_masked_array_that_hides_nothing_is_its_values() -> None:
    ((_, x, _, _),) = batches(Items([(np.ma.masked_array([1.0, 2.0]), 0)] * 3), 3)
    assert x.tolist() == [[1, 2]] * 3
