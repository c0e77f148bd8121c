"""What `advise` is given, checked and completed: the grid, the plan, the sample, and data to time networks on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .. import checks
from ..data import as_dataset, has_labels, subset, to_dataset
from ..errors import InputError
from ..network import (
    VALUES,
    Arguments,
    as_inputs,
    copied,
    home_device,
    likeliest,
    of_trainer,
    resolve_device,
    seen_by_scorers,
    with_rows,
)
from ..training import LOGITS
from ..types import Scorer, Trainer, altered, epochs_of, statement
from .agreement import check_ranking
from .loop_costs import LoopPlan
from .rows import OF_SAMPLE, Target

PRUNING = frozenset({"importance", "parts", "scope", "keep", "round_to"})
"""Options of `prune` that `advise` passes on."""
SHOWN = 256
"""Rows that networks are timed on where nothing is labelled."""


def check_pruning(options: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that `prune` does not get from `advise`."""
    for name in sorted(options.keys() - PRUNING):
        raise InputError(
            f"advise: {name}={checks.shown(options[name])} is no option; pass to prune one of "
            f"{', '.join(sorted(PRUNING))}"
        )


def check_ratios(ratios: Any) -> list[float]:
    """Return the grid, ascending, or raise `InputError` unless it holds different numbers between 0 and 1."""
    try:
        given: list[Any] = [ratios] if isinstance(ratios, str) else list(ratios)
    except TypeError:  # one number will do
        given = [ratios]
    needed = (
        "pass shares of channels to remove, 0 < p < 1, for example (0.3, 0.5); the dense network (0) is always there"
    )
    if not given:
        raise InputError(f"advise: ratios={checks.shown(ratios)} is empty; {needed}")
    found: list[float] = []
    for ratio in given:
        try:
            found.append(checks.number("ratios", ratio, above=0, below=1))
        except InputError:
            held = f"ratios={checks.shown(given)} holds {checks.shown(ratio)}"
            raise InputError(f"advise: {held}; {needed}") from None
    if len(set(found)) < len(found):
        raise InputError(f"advise: ratios={found!r} holds a number twice; name each one once")
    return sorted(float(ratio) for ratio in found)


def resolved(plan: LoopPlan | Mapping[str, Any] | None, trainer: Any) -> LoopPlan:
    """Return the plan, with the trainer's epochs where it leaves them open."""
    if isinstance(plan, Mapping):
        known = [field.name for field in fields(LoopPlan)]
        unknown = sorted(set(plan) - set(known))
        if unknown:
            raise InputError(f"advise: plan has {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
        plan = LoopPlan(**plan)
    plan = LoopPlan() if plan is None else checks.instance("advise: plan", plan, LoopPlan, "a LoopPlan, a dict or None")
    own = epochs_of(trainer)
    return replace(plan, epochs=own) if plan.epochs is None and own is not None else plan


def sample(labelled: Any, scorer: str | Scorer, target: Target) -> tuple[Scorer | None, Any]:
    """Return who ranks and the labelled sample as a dataset; None without one."""
    if labelled is None:
        needing = [name for name, _ in target.asked() if name in OF_SAMPLE]
        if needing:
            raise InputError(
                f"advise: the target asks for {' and '.join(needing)}, and how proxies answer and rank beside the "
                "dense network is only known after training on a labelled sample: pass labelled=(X, y)"
            )
        return None, None
    data = to_dataset(labelled)
    if not has_labels(data):
        raise InputError("advise: the labelled sample has no labels; pass labelled=(X, y) or a Dataset with labels")
    if len(data) < 4:
        raise InputError(
            f"advise: the labelled sample has {len(data)} rows; half of it is trained on and half of it ranked, "
            "so at least 4 are needed, and some hundreds for a figure that means something"
        )
    return check_ranking(scorer), data


def stand_in(trainer: Trainer, model: nn.Module, arguments: Arguments, seed: int) -> Any:
    """Return a dataset of rows like the example's, no two alike, with labels that the network has outputs for."""
    generator = torch.Generator().manual_seed(seed)

    def vary(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.detach().cpu()
        if not leaf.is_floating_point():
            return leaf
        return leaf + torch.randn(leaf.shape, generator=generator, dtype=torch.float32).to(leaf.dtype)

    return with_likeliest(trainer, model, as_dataset(as_inputs(*tree_map(vary, with_rows(arguments, SHOWN)))))


def with_likeliest(trainer: Trainer, model: nn.Module, data: Any) -> Any:
    """Return the first rows of a dataset with labels that the network has outputs for."""
    rows = subset(data, range(min(SHOWN, len(data))))
    said = seen_by_scorers(trainer.infer(copied(model), rows, LOGITS), of_trainer(trainer))
    assert said.logits is not None  # they were asked for
    return as_dataset(rows, said.logits if said.outputs == VALUES else likeliest(said.logits, said.outputs))


def without_transforms(trainer: Any) -> Any:
    """Return a copy of a trainer that takes inputs as the network does."""
    said = statement(trainer)
    given = [name for name in ("transform", "eval_transform") if getattr(said, name) is not None]
    return altered(trainer, **dict.fromkeys(given))


def device_of(trainer: Any, model: nn.Module) -> str:
    """Return in words where the trainer works."""
    said = statement(trainer)
    place = home_device(model) if said.device is None else resolve_device(said.device)
    if said.accelerator is not None:
        place = said.accelerator.device
    if place is not None and place.type == "cuda":
        return torch.cuda.get_device_name(place)
    threads = torch.get_num_threads()
    return f"{place} ({threads} thread{'s' * (threads > 1)})"
