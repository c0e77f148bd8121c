"""Items as Hugging Face tokenizers and models have them: dicts, labels inside, texts of several lengths."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fakes import seeded
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from prunefuse_al import EarlyStopping, PrunedProxySelector, PruneFuseEstimator, TorchTrainer
from prunefuse_al.data import as_dataset, labels_of
from prunefuse_al.errors import InputError
from prunefuse_al.items import split_item
from prunefuse_al.loading import batches
from prunefuse_al.signals import collect
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
