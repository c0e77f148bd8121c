"""Measures of importance that read data, for a selector: its labelled rows, as its trainer hands them on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..data import common_length, labels_of, subset
from ..errors import InputError
from ..network import of_trainer, stand_in
from ..pruning import WITH_DATA
from ..training import Objective
from ..types import Trainer, altered
from .options import Options
from .scoring import LOGITS

ROWS = 256
"""Labelled rows that the loss is read on, drawn by the seed; each costs a pass of the dense network, there and back."""


def with_data(options: Options, model: nn.Module, data: Any) -> Any:
    """Return `options.importance`, with labelled data where it is the name of a measure that reads some.

    Args:
        options: see `Options`; its seed draws at most `ROWS` rows, its trainer converts them and states the loss.
        model: the dense network.
        data: dataset with labels.

    Raises:
        InputError: what the trainer calls the network with cannot be told.
    """
    measure = WITH_DATA.get(options.importance) if isinstance(options.importance, str) else None
    if measure is None or options.pruning_ratio == 0:
        return options.importance if measure is None else "l2"  # at ratio 0 all channels stay
    order = np.random.default_rng(options.seed("prune")).permutation(len(data))[:ROWS]
    rows = subset(data, np.sort(order))
    return measure(called_inputs(options.trainer, model, rows), labels_of(rows), _loss_of(options.trainer))


def _loss_of(trainer: Any) -> Any:
    """Return a trainer's loss as a function that is given labels as it takes them; None where it states none."""
    loss, outputs = getattr(trainer, "loss", None), of_trainer(trainer)
    if not callable(loss) and loss != "cross_entropy":
        return None

    def aligned(logits: Tensor, labels: Tensor) -> Tensor:
        objective = Objective(loss, logits, outputs)
        objective.asked.check(labels)
        return objective(logits, objective.asked.aligned(labels, logits))

    return aligned


def called_inputs(trainer: Trainer, model: nn.Module, data: Any) -> Any:
    """Return what `model` is called with for all rows of `data`: a tensor, or a tuple or dict of tensors."""
    calls: list[Any] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append(tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, kwargs or args))

    network = stand_in(model)
    network.register_forward_pre_hook(note, with_kwargs=True)
    _in_this_process(trainer).infer(network, data, LOGITS)
    try:
        inputs = tree_map(lambda *parts: torch.cat(parts), *calls) if calls else ()
        inputs = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
        complete = common_length(inputs) == len(data)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise _cannot(trainer, f"batches of its calls cannot be joined ({error})") from error
    if not complete:
        raise _cannot(trainer, f"it called the network with {common_length(inputs)} of {len(data)} rows")
    return inputs


def _in_this_process(trainer: Any) -> Any:
    """Return a trainer that reads all rows in this process: every process must choose the same channels."""
    if getattr(trainer, "accelerator", None) is None:
        return trainer
    return altered(trainer, device=trainer.accelerator.device, accelerator=None)


def _cannot(trainer: Any, why: str) -> InputError:
    return InputError(
        f"importance: what {type(trainer).__name__}.infer hands to the network cannot be used: {why}; pass "
        "importance=Taylor(inputs, labels) or Hessian(inputs, labels) from prunefuse_al.pruning"
    )
