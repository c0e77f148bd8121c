"""A Hugging Face network, trained by Hugging Face's Trainer."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import mlp, seeded
from hosts import need_host
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Subset

need_host("transformers")
need_host("accelerate")
# ruff: noqa: E402
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from prunefuse_al import PrunedProxySelector
from prunefuse_al.adapters.transformers import transformers_trainer
from prunefuse_al.errors import InputError
from prunefuse_al.proxies import Probe

RNG = np.random.default_rng(0)
CONFIG = BertConfig(
    vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, num_labels=2,
    max_position_embeddings=16,
)  # fmt: skip


class Texts(torch.utils.data.Dataset[Any]):
    """Tokenised texts of several lengths; those of class 1 are of the upper half of the vocabulary."""

    def __init__(self, n: int = 100) -> None:
        self.labels = np.arange(n) % 2
        self.ids = [RNG.integers(1, 20, RNG.integers(3, 12)) + 20 * int(label) for label in self.labels]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        ids = self.ids[row].tolist()
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(self.labels[row])}


TEXTS = Texts()


def pad(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Do what `DataCollatorWithPadding` does, without a tokenizer to load."""
    names = ("input_ids", "attention_mask")
    batch = {name: pad_sequence([torch.as_tensor(i[name]) for i in items], batch_first=True) for name in names}
    labels = {} if "labels" not in items[0] else {"labels": torch.tensor([int(i["labels"]) for i in items])}
    return {**batch, **labels}


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    rest = {"num_train_epochs": 6, "learning_rate": 0.003, "per_device_train_batch_size": 16, "use_cpu": True}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_strategy": "no"}
    return TrainingArguments(str(folder), **{**rest, **quiet, **options})


def selector(trainer: Any, **options: Any) -> PrunedProxySelector:
    network = seeded(lambda: BertForSequenceClassification(CONFIG))
    return PrunedProxySelector(network, 0.5, trainer=trainer, random_state=0, **options)


class Rates(TrainerCallback):
    seen: list[tuple[float, int]]

    def __init__(self) -> None:
        self.seen = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen.append((args.learning_rate, args.seed))


def test_the_whole_method_by_hugging_face(tmp_path: Path) -> None:
    rates, args = Rates(), arguments(tmp_path / "out")
    trainer = transformers_trainer(args, data_collator=pad, options={"callbacks": [rates]})
    chosen = selector(trainer, fine_tune_lr_scale=0.5).fit(Subset(TEXTS, range(60)))
    assert chosen.history["epoch"] == 6
    assert chosen.model.classifier.in_features == 16
    assert (chosen.predict_proba(TEXTS).argmax(1) == TEXTS.labels).mean() > 0.9
    copy.deepcopy(chosen)
    picked = chosen.query(TEXTS, 5, candidates=range(60, 100))
    assert len(set(picked.tolist())) == 5
    assert picked.min() >= 60
    target = chosen.fit_target()
    assert target.classifier.in_features == 32
    assert args.learning_rate == 0.003
    (first, seed), (second, _) = rates.seen
    assert (first, second) == (0.003, 0.0015)
    assert seed == chosen.options.seed("train_proxy")
    again = selector(transformers_trainer(args, data_collator=pad)).fit(Subset(TEXTS, range(60)))
    np.testing.assert_array_equal(again.query(TEXTS, 5, candidates=range(60, 100)), picked)


def test_a_dict_of_arrays_with_labels_beside_it(tmp_path: Path) -> None:
    batch = pad([TEXTS[row] for row in range(40)])
    y = batch.pop("labels")

    class Counting(Trainer):
        rows = 0

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            Counting.rows += len(inputs["labels"])
            return super().compute_loss(model, inputs, *args, **options)

    trainer = transformers_trainer(arguments(tmp_path, num_train_epochs=2), trainer_class=Counting)
    chosen = selector(trainer).fit(batch, y)
    assert Counting.rows == 80
    assert chosen.predict_proba(batch).shape == (40, 2)


def test_a_probe_takes_a_solver_for_its_head_which_the_hosts_trainer_cannot_train(tmp_path: Path) -> None:
    trainer = transformers_trainer(arguments(tmp_path), data_collator=pad)
    chosen = selector(trainer, proxy=Probe(head="logistic"))
    for last in (60, 70):
        chosen.fit(Subset(TEXTS, range(last)))
        assert len(set(chosen.query(TEXTS, 5, candidates=range(last, 100)).tolist())) == 5
    assert sum(row.samples for row in chosen.costs.rows() if row.stage == "features") == 100
    assert chosen.fit_target().classifier.in_features == 32
    with pytest.raises(InputError, match="inputs are of type Tensor; a Hugging Face Trainer names"):
        selector(trainer, proxy=Probe()).fit(Subset(TEXTS, range(60)))


def test_it_pickles_and_says_what_it_cannot_train(tmp_path: Path) -> None:
    trainer = transformers_trainer(arguments(tmp_path), data_collator=pad)
    assert pickle.loads(pickle.dumps(trainer)).fit_function.args.learning_rate == 0.003
    rows = [(torch.ones(4), 0)] * 8
    with pytest.raises(InputError, match="inputs are of type Tensor; a Hugging Face Trainer names"):
        trainer.fit(mlp(4, 8, 2), rows, seed=0)
