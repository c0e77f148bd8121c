"""Hugging Face transformers (``pip install "transformers[torch]"``): its `Trainer` as the one that trains.

    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, TrainingArguments
    from prunefuse_al import PrunedProxySelector
    from prunefuse_al.adapters.transformers import transformers_trainer

    args = TrainingArguments("out", num_train_epochs=3, learning_rate=5e-5, save_strategy="no", report_to="none")
    trainer = transformers_trainer(args, data_collator=DataCollatorWithPadding(tokenizer))
    selector = PrunedProxySelector(model, 0.5, trainer=trainer).fit(tokenised)  # items with "labels"
    rows = selector.query(pool, k=50)

Datasets are what a `Trainer` takes: items {"input_ids": ..., "attention_mask": ..., "labels": ...}, or such a dict
without labels and y beside it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from prunefuse_al.adapters import require_host
from prunefuse_al.data import read_items, split_item
from prunefuse_al.errors import InputError
from prunefuse_al.training import FunctionTrainer

require_host("transformers", extra="transformers")

from transformers import Trainer, TrainingArguments  # noqa: E402


def transformers_trainer(
    args: TrainingArguments,
    *,
    data_collator: Any = None,
    trainer_class: type[Trainer] = Trainer,
    options: dict[str, Any] | None = None,
    **reading: Any,
) -> FunctionTrainer:
    """Return a trainer for `PrunedProxySelector` and `PruneFuseEstimator` that trains with Hugging Face's.

    Args:
        args: copied for each training, with the selector's seed in it, and after fusing with the learning rate
            multiplied by `fine_tune_lr_scale`.
        data_collator: makes a batch of a list of items, for training and for reading pools; None stacks them.
        trainer_class: `Trainer`, or a class derived from it.
        options: further options of it, for example `callbacks`, `eval_dataset` or `compute_metrics`.
        reading: how pools are read, options of `FunctionTrainer` (`eval_batch_size`, `device`, ...).

    The metrics of the last training are the selector's `history`.
    """
    rest = {"eval_batch_size": args.per_device_eval_batch_size, "device": args.device, "collate": data_collator}
    return FunctionTrainer(_Fit(args, data_collator, trainer_class, options or {}), **{**rest, **reading})


@dataclass(frozen=True)
class _Fit:
    args: TrainingArguments
    data_collator: Any
    trainer_class: type[Trainer]
    options: dict[str, Any]

    def __call__(self, model: nn.Module, data: Any, seed: int | None, lr_scale: float) -> dict[str, Any]:
        args = copy.copy(self.args)
        args.learning_rate = self.args.learning_rate * lr_scale
        if seed is not None:
            args.seed = args.data_seed = seed % 2**32  # NumPy's largest
        named = _Named(data)
        trainer = self.trainer_class(
            model=model, args=args, train_dataset=named, data_collator=self.data_collator, **self.options
        )
        metrics: dict[str, Any] = trainer.train().metrics
        return metrics


class _Named(Dataset[Any]):
    """Items as a `Trainer` takes them: the arguments of the network by name, the label called "labels"."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        x = split_item(dataset[0])[0]
        if not isinstance(x, dict):
            raise InputError(
                f"the data's inputs are of type {type(x).__name__}; a Hugging Face Trainer names what it gives the "
                'network: pass dicts, for example {"input_ids": ids, "attention_mask": mask}'
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        """Return the items of several rows, read at once where the dataset can."""
        return [{**x, "labels": y} for x, y, _ in map(split_item, read_items(self.dataset, rows))]
