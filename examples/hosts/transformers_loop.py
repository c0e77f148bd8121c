"""A Hugging Face model and its `Trainer` in an active-learning loop, on mails or documentation.

    python examples/hosts/transformers_loop.py  # texts that come with scikit-learn
    python examples/hosts/transformers_loop.py --root data  # SpamAssassin's mails, if they are in there
    python examples/hosts/transformers_loop.py --before  # the loop as it was, with the dense network

Needs transformers: pip install "prunefuse_al[transformers]". The network is a small BERT with random weights, so that
nothing is downloaded; `AutoModelForSequenceClassification.from_pretrained(...)` goes in the same place. Texts keep
their lengths: the data collator pads each batch.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Subset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import Texts, load_texts
from loop_options import loop_options

from prunefuse_al import PrunedProxySelector, get_scorer
from prunefuse_al.adapters.transformers import transformers_trainer
from prunefuse_al.network.signals import collect

LENGTH, VOCABULARY = 48, 2000


class Tokenised(Dataset):
    """Items as tokenizers give them: token numbers of any length, the label among them."""

    def __init__(self, texts: Texts) -> None:
        tokens = texts.tokens(LENGTH, VOCABULARY)
        lengths = tokens["attention_mask"].sum(1).clip(min=1)
        self.ids = [ids[:length].tolist() for ids, length in zip(tokens["input_ids"], lengths, strict=True)]
        self.labels = texts.y

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        ids = self.ids[row]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(self.labels[row])}


def pad(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad a batch; with a tokenizer, `transformers.DataCollatorWithPadding(tokenizer)` does it."""
    names = ("input_ids", "attention_mask")
    batch = {name: pad_sequence([torch.as_tensor(item[name]) for item in items], batch_first=True) for name in names}
    labels = {"labels": torch.tensor([int(item["labels"]) for item in items])} if "labels" in items[0] else {}
    return {**batch, **labels}


def main(argv: list[str] | None = None) -> float:
    """Run the loop and return the accuracy on held-out texts."""
    args = loop_options(__doc__, argv, pool=600, rounds=2, epochs=12)
    found = load_texts(args.root, args.pool + 300)
    data = Tokenised(found)
    print(f"{found.source}: {args.pool:,} texts to choose from")
    model = make_network(int(found.y.max()) + 1)
    labelled, free = np.arange(100), np.arange(100, args.pool)
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingArguments(folder, num_train_epochs=args.epochs, learning_rate=0.001, **QUIET)
        trainer = transformers_trainer(training, data_collator=pad)
        selector = PrunedProxySelector(model, 0.5, scorer="margin", trainer=trainer, random_state=0)
        for number in range(args.rounds):
            if args.before:  # BEFORE
                trained = fitted(model, training, Subset(data, labelled))
                picked = free[get_scorer("margin").select(says(trained, Subset(data, free)), 50).indices]
            else:  # AFTER
                selector.fit(Subset(data, labelled))
                picked = selector.query(data, k=50, candidates=free)
                core = get_scorer("margin").select(says(selector.model, Subset(data, free)), 50).indices
                assert set(free[core].tolist()) == set(picked.tolist())
            labelled, free = np.append(labelled, picked), np.setdiff1d(free, picked)
            print(f"round {number + 1}: {len(labelled)} labels")
        known = Subset(data, labelled)
        final = fitted(model, training, known) if args.before else selector.fit_target(known)
    test = range(args.pool, len(data))
    accuracy = float((says(final, Subset(data, test)).logits.argmax(1).numpy() == found.y[args.pool :]).mean())
    print(f"accuracy of the {'dense network' if args.before else 'fused target'}: {accuracy:.1%}")
    if not args.before:
        print(f"choosing took {selector.costs.ratio():.2f} of the dense network's MACs")
    return accuracy


QUIET: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def make_network(classes: int) -> BertForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        return BertForSequenceClassification(
            BertConfig(vocab_size=VOCABULARY, num_labels=classes, max_position_embeddings=LENGTH, **shape)
        )


def fitted(model: torch.nn.Module, training: TrainingArguments, data: Dataset) -> torch.nn.Module:
    trained = copy.deepcopy(model)
    Trainer(model=trained, args=training, train_dataset=data, data_collator=pad).train()
    return trained


def says(model: torch.nn.Module, data: Dataset) -> Any:
    """Return logits of a dataset."""
    return collect(model, data, collate=pad)


if __name__ == "__main__":
    main()
