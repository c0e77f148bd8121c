"""What every scorer shares: reading signals with checks, and taking the best k with ties broken on purpose."""

from __future__ import annotations

from operator import index
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from ..errors import BudgetError, InputError, NonFiniteError
from ..types import RngLike, Selection, Signals, as_rng

_SHOWN = 10  # how many offending samples a message lists


def check_k(name: str, k: SupportsIndex, n: int) -> int:
    """Return `k` as an int, or raise `BudgetError` unless it is between 1 and the number of candidates `n`."""
    try:
        wanted = index(k)
    except TypeError:
        raise BudgetError(f"{name}: k={k!r} is a {type(k).__name__}; pass a whole number of samples") from None
    if n == 0:
        raise BudgetError(f"{name}: k={wanted} but there are no candidates; nothing is left to label")
    if not 1 <= wanted <= n:
        raise BudgetError(f"{name}: k={wanted} but there are {n:,} candidates; ask for 1 to {n:,}")
    return wanted


def check_finite(name: str, what: str, values: Tensor, indices: Tensor) -> None:
    """Raise `NonFiniteError` naming the samples whose row of `values` [n ...] holds NaN or infinity."""
    # A sum is finite only if all its terms are: one cheap pass for the usual case.
    wide = torch.promote_types(values.dtype, torch.float32) if values.is_floating_point() else values.dtype
    if torch.isfinite(values.sum(dtype=wide)) or torch.isfinite(values).all():
        return
    bad = ~torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else ~torch.isfinite(values)  # [n]
    named = indices.to(bad.device)[bad].tolist()
    shown = ", ".join(str(i) for i in named[:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")
    raise NonFiniteError(
        f"{name}: {what} of {len(named):,} of {len(indices):,} samples are NaN or infinite: indices [{shown}]; "
        "look at these inputs, or train with a lower learning rate"
    )


def read_logits(name: str, signals: Signals) -> Tensor:
    """Return `signals.logits` [n c] in at least single precision, checked: present, two classes or more, finite."""
    logits = signals.logits
    if logits is None:
        raise InputError(f"{name} reads signals.logits, but it is None; collect what scorer.needs names")
    if logits.ndim != 2 or logits.shape[0] != len(signals) or logits.shape[1] < 2:
        raise InputError(
            f"{name}: logits have shape {list(logits.shape)} for {len(signals):,} samples; "
            "expected [samples, classes] with two classes or more"
        )
    check_finite(name, "logits", logits, signals.indices)
    return logits


def read_features(name: str, signals: Signals) -> Tensor:
    """Return `signals.features` [n d], checked: present, one row per sample, finite."""
    features = signals.features
    if features is None:
        raise InputError(f"{name} reads signals.features, but it is None; collect what scorer.needs names")
    if features.ndim != 2 or features.shape[0] != len(signals):
        raise InputError(
            f"{name}: features have shape {list(features.shape)} for {len(signals):,} samples; "
            "expected [samples, width]"
        )
    check_finite(name, "features", features, signals.indices)
    return features


def read_labels(name: str, signals: Signals) -> Tensor:
    """Return `signals.labels`, int64 [n], checked: present, whole numbers, one per sample."""
    labels = signals.labels
    if labels is None:
        raise InputError(f"{name} reads signals.labels, but it is None; collect what scorer.needs names")
    if labels.shape != (len(signals),) or labels.is_floating_point():
        raise InputError(
            f"{name}: labels have shape {list(labels.shape)} and dtype {labels.dtype} for {len(signals):,} samples; "
            "expected the number of a class for each"
        )
    return labels.long()


def read_dynamics(name: str, signals: Signals, key: str) -> Tensor:
    """Return `signals.dynamics[key]`, float [n] in at least single precision, checked: present, finite."""
    if signals.dynamics is None:
        raise InputError(f"{name} reads signals.dynamics[{key!r}], but dynamics is None; record them while training")
    if key not in signals.dynamics:
        known = ", ".join(sorted(signals.dynamics)) or "nothing"
        raise InputError(f"{name} reads signals.dynamics[{key!r}], but what was recorded is: {known}")
    values = signals.dynamics[key]
    if values.shape != (len(signals),):
        raise InputError(
            f"{name}: dynamics[{key!r}] has shape {list(values.shape)} for {len(signals):,} samples; expected [samples]"
        )
    check_finite(name, f"dynamics[{key!r}]", values, signals.indices)
    return values if values.dtype == torch.float64 else values.float()


def top_k(scores: Tensor, k: int, *, rng: RngLike = None) -> Tensor:
    """Return the positions of the `k` highest scores, best first.

    Args:
        scores: finite float [n].
        k: how many, 1 to n.
        rng: breaks ties; None prefers the lower position.

    Returns:
        int64 [k] on the CPU. Only what ties with or beats the k-th score is sorted: O(n + k log k) without ties.
    """
    values = scores.detach().cpu().double().numpy()  # [n]
    n = len(values)
    threshold = np.partition(values, n - k)[n - k]
    near = np.flatnonzero(values >= threshold)  # at least k positions
    ties = near if rng is None else as_rng(rng).permutation(n)[near]
    return torch.from_numpy(near[np.lexsort((ties, -values[near]))][:k])


def select_top(name: str, scores: Tensor, signals: Signals, k: SupportsIndex, rng: RngLike) -> Selection:
    """Return the `k` highest of `scores` [n] as a `Selection` of the candidates' own indices."""
    k = check_k(name, k, len(signals))
    positions = top_k(scores, k, rng=rng)  # [k]
    indices = signals.indices.cpu()[positions]
    return Selection(indices, scores.detach().cpu()[positions])
