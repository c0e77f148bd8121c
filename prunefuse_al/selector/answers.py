"""What scorers read, and answers that are there already: as probabilities, and for scorers that take no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from .. import checks
from ..errors import InputError
from ..network import from_probabilities, predicted_classes
from ..network import probabilities as of_logits
from ..scorers import picks_of
from ..training import INFERRED, refuse_unread
from ..types import RngLike, Scorer, Selection, Signals, Trainer, alterable, altered

Float64s = np.ndarray[Any, np.dtype[np.float64]]
LABELLED = {"labelled_features": "features", "labelled_logits": "logits"}
"""What is asked about the labelled samples, and what it is called there."""
OF_LABELLED = frozenset({*LABELLED, "labelled_labels"})
"""All that is known of the labelled samples; their labels are not asked for but read."""
_KNOWN = INFERRED | {"labels", "dynamics", "head"} | OF_LABELLED


def check_needs(scorer: Scorer) -> frozenset[str]:
    """Return what a scorer reads, or raise `InputError` if that cannot be had from a trained network."""
    unknown = sorted(frozenset(scorer.needs) - _KNOWN)
    if unknown:
        raise InputError(
            f"{type(scorer).__name__} needs {', '.join(unknown)}, which a pool cannot be asked for here; "
            f"known: {', '.join(sorted(_KNOWN))}"
        )
    return frozenset(scorer.needs)


def probabilities(signals: Signals) -> Float64s:
    """Return the probabilities in the logits, float64 [n c]: of classes, summing to 1, or of independent labels.

    Raises:
        InputError: the outputs are values, or one for each sample of which nobody says what it is.
    """
    assert signals.logits is not None  # the caller asked for them
    result: Float64s = of_logits(signals.logits.double(), signals.outputs).numpy()  # [n c]
    return result


def with_passes(trainer: Trainer, mc_samples: int | None) -> Trainer:
    """Return `trainer`, or where `mc_samples` is given a copy that makes so many passes for the signal "mc_logits"."""
    if mc_samples is None:
        return trainer
    mc_samples = checks.whole("mc_samples", mc_samples, least=1)
    if not alterable(trainer, "mc_samples"):
        raise InputError(f"{mc_samples} passes are asked of {type(trainer).__name__}, which has no `mc_samples` to set")
    return cast("Trainer", altered(trainer, mc_samples=mc_samples))


def select_known(scorer: Scorer, signals: Signals, k: int, rng: RngLike) -> Selection:
    """Return what `scorer` picks from signals that a host had, or raise `InputError` if it reads others."""
    if "labels" in scorer.needs and signals.labels is None and signals.logits is not None:
        signals = replace(signals, labels=predicted_classes(signals))
    lacking = [name for name in sorted(scorer.needs) if getattr(signals, name, None) is None]
    if lacking:
        given = [name for name in sorted(_KNOWN) if getattr(signals, name) is not None]
        raise InputError(
            f"{scorer!r} reads {', '.join(lacking)}, but all that was given here is {', '.join(given)}; "
            "let it ask a pruned proxy, or take a scorer that needs no more"
        )
    refuse_unread(scorer, signals)
    return picks_of(scorer, signals, k, rng)


def select_by_probability(
    scorer: Scorer, probabilities: Any, k: int, *, indices: Any = None, rng: RngLike = None
) -> Selection:
    """Return what a scorer of logits picks where nothing but class probabilities is known, of whatever classifier.

    Args:
        scorer: who picks; sees logits whose softmax (or sigmoid) gives the probabilities back.
        probabilities: of each candidate, [n c]; of classes if rows sum to 1, else of independent labels.
        k: how many.
        indices: what the candidates are called, [n]; None: their positions.
        rng: breaks ties and draws.

    Raises:
        InputError: the scorer reads more than logits.
    """
    p = torch.from_numpy(np.require(probabilities, np.float64, "W"))  # [n c]
    names = torch.arange(len(p)) if indices is None else torch.from_numpy(np.require(indices, requirements="W"))
    return select_known(scorer, from_probabilities(names, p), k, rng)
