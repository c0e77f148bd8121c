"""What every scorer shares: reading signals with checks, and taking the best k with ties broken on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import BudgetError, InputError, NonFiniteError
from ..types import RngLike, Scorer, Selection, Signals, as_rng
from ._given import given_column, given_labels, given_logits, given_passes

Floats = np.ndarray[Any, Any]
Integers = np.ndarray[Any, np.dtype[np.int64]]
_SHOWN = 10  # how many offending samples a message lists
FEW = 32  # classes; with fewer, a CPU is faster across rows than along them, and blocks are turned over
INDEPENDENT = ("ml_entropy", "ml_margin", "ml_min_margin", "ml_bald", "ml_badge", "mmc", "label_cardinality")
"""Scorers of independent labels, by name, as messages propose them."""
_BLOCK = {"cpu": 2**18, "cuda": 2**24}  # numbers computed at once; what a CPU has in its cache


def check_k(name: str, k: SupportsIndex, n: int) -> int:
    """Return `k` as an int, or raise `BudgetError` unless it is between 1 and the number of candidates `n`."""
    try:
        wanted = checks.whole("k", k)
    except InputError:
        found = f"k={checks.shown(k)} is a {type(k).__name__}"
        raise BudgetError(f"{name}: {found}; pass a whole number of samples") from None
    if n == 0:
        raise BudgetError(f"{name}: k={wanted} but there are no candidates; nothing is left to label")
    if not 1 <= wanted <= n:
        raise BudgetError(f"{name}: k={wanted} but there are {n:,} candidates; ask for 1 to {n:,}")
    return wanted


def check_k_of(name: str, k: SupportsIndex, signals: Signals) -> int:
    """Return `k` as an int; see `check_k`. The candidates are those of the signals, which are looked at as well."""
    return check_k(name, k, len(check_signals(name, signals)))


def check_signals(name: str, signals: Signals) -> Signals:
    """Return what a scorer is given, or raise `InputError` unless it is `Signals`."""
    return checks.instance(f"{name}: signals", signals, Signals, "Signals(indices, logits=...), of what `needs` names")


def check_finite(name: str, what: str, values: Tensor, indices: Tensor) -> None:
    """Raise `NonFiniteError` naming the samples whose row of `values` [n ...] holds NaN or infinity."""
    # A sum is finite only if all terms are: nothing the size of `values` is made in the usual case.
    if values.sum(dtype=torch.promote_types(values.dtype, torch.float32)).isfinite() or values.isfinite().all():
        return
    bad = ~torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else ~torch.isfinite(values)  # [n]
    named = indices.to(bad.device)[bad].tolist()
    shown = ", ".join(str(i) for i in named[:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")
    raise NonFiniteError(
        f"{name}: {what} of {len(named):,} of {len(indices):,} samples are NaN or infinite: indices [{shown}]; "
        "look at these inputs, or train with a lower learning rate"
    )


def unless_finite(name: str, what: str, values: Tensor, indices: Tensor) -> Callable[[Tensor], None]:
    """Return a function of parts of `values` [n ...] that raises as `check_finite` of all of them does."""

    def check(part: Tensor) -> None:
        total = part.sum(dtype=torch.promote_types(part.dtype, torch.float32))
        if not (math.isfinite(total) or part.isfinite().all()):
            check_finite(name, what, values, indices)

    return check


def read_logits(name: str, signals: Signals, *, finite: bool = True) -> Tensor:
    """Return `signals.logits` [n c], checked: present, two classes or more, and finite unless the caller looks."""
    refuse_other_outputs(name, signals, "softmax")
    logits = given_logits(name, read_field(name, signals, "logits"), rows=len(signals))
    if finite:
        check_finite(name, "logits", logits, signals.indices)
    return logits


def read_mc_logits(name: str, signals: Signals) -> Tensor:
    """Return `signals.mc_logits` [t n c], checked: present, two passes and two classes or more, finite."""
    refuse_other_outputs(name, signals, "softmax")
    return _read_passes(name, signals, least=2)


def read_independent_logits(name: str, signals: Signals) -> Tensor:
    """Return `signals.logits` [n c] of independent labels, checked: present, one label or more, finite.

    Of classes of which a sample has one they are the log-odds of each: is it this one, or any other?
    """
    refuse_other_outputs(name, signals, "sigmoid")
    least = 2 if signals.outputs == "softmax" else 1
    logits = given_logits(name, read_field(name, signals, "logits"), rows=len(signals), least=least)
    check_finite(name, "logits", logits, signals.indices)
    return one_against_rest(logits) if signals.outputs == "softmax" else logits


def read_independent_mc_logits(name: str, signals: Signals) -> Tensor:
    """Return `signals.mc_logits` [t n c] of independent labels, checked; see `read_independent_logits`."""
    refuse_other_outputs(name, signals, "sigmoid")
    if signals.outputs == "softmax":
        return one_against_rest(_read_passes(name, signals, least=2))
    return _read_passes(name, signals, least=1)


def one_against_rest(logits: Tensor) -> Tensor:
    """Return log(q / (1 - q)) of the class probabilities q = softmax(logits), [... c], c >= 2."""
    logits = single(logits)
    best = logits.argmax(-1, keepdim=True)
    total = logits.logsumexp(-1, keepdim=True)
    rest = total + torch.log1p(-(logits - total).exp())  # of all but each; where q is near 1 that would be rounding
    others = logits.scatter(-1, best, -torch.inf).logsumexp(-1, keepdim=True)
    return logits - rest.scatter(-1, best, others)


def _read_passes(name: str, signals: Signals, *, least: int) -> Tensor:
    passes = given_passes(name, read_field(name, signals, "mc_logits"), rows=len(signals), width=least)
    check_finite(name, "mc_logits", passes.transpose(0, 1), signals.indices)
    return passes


def refuse_other_outputs(name: str, signals: Signals, reads: str) -> None:
    """Raise `InputError` where signals say that their logits cannot be read as `reads`; see `Signals.outputs`.

    Softmax of independent labels would call a sample uncertain that has two of them for sure.
    """
    if check_signals(name, signals).outputs == "values":
        raise InputError(
            f"{name} reads logits, and the network's outputs are values, as the loss says that trained it: take a "
            f"scorer of features alone, such as k_center, or pass TorchTrainer(outputs={reads!r}) if they are logits"
        )
    if signals.outputs == "sigmoid" and reads == "softmax":
        raise InputError(
            f"{name} compares classes of which a sample has one, and these logits are of independent labels (sigmoid): "
            f"take {', '.join(INDEPENDENT)}, or a scorer of features alone, such as k_center"
        )


def logits_read(*scorers: Scorer) -> str:
    """Return what logits scorers read that are given the same: "sigmoid" if one of them reads independent labels."""
    kinds = {getattr(scorer, "outputs", "softmax") for scorer in scorers if scorer.needs & {"logits", "mc_logits"}}
    return "sigmoid" if "sigmoid" in kinds else "softmax"


def read_labels(name: str, signals: Signals) -> Tensor:
    """Return `signals.labels` int64 [n] on the CPU, checked: present, one whole number for each sample."""
    return given_labels(name, read_field(name, signals, "labels"), len(signals)).cpu()


def read_field(name: str, signals: Signals, field: str) -> Tensor:
    """Return a field of the signals, checked to be there."""
    values: Tensor | None = getattr(check_signals(name, signals), field)
    if values is None:
        raise InputError(f"{name} reads signals.{field}, but it is None; collect what scorer.needs names")
    return values


def read_dynamics(name: str, signals: Signals, key: str) -> Tensor:
    """Return `signals.dynamics[key]`, float [n] in at least single precision, checked: present, finite."""
    dynamics = check_signals(name, signals).dynamics
    if dynamics is None:
        raise InputError(f"{name} reads signals.dynamics[{key!r}], but dynamics is None; record them while training")
    if key not in dynamics:
        known = ", ".join(sorted(dynamics)) or "nothing"
        raise InputError(f"{name} reads signals.dynamics[{key!r}], but what was recorded is: {known}")
    values = given_column(name, f"dynamics[{key!r}]", dynamics[key], rows=len(signals))
    check_finite(name, f"dynamics[{key!r}]", values, signals.indices)
    return values if values.dtype == torch.float64 else values.float()


def single(values: Tensor) -> Tensor:
    """Return half precision as single, anything else as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def in_blocks(function: Callable[[Tensor], Tensor], values: Tensor, dim: int = 0) -> Tensor:
    """Return `function(values)` [n] for the n rows along `dim`, some rows at a time: what it makes on the way is small.

    The function must treat rows one by one.
    """
    n = values.shape[dim]
    width = max(1, values.numel() // max(1, n))
    rows = max(1, _BLOCK["cpu" if values.device.type == "cpu" else "cuda"] // width)
    return torch.cat([function(block) for block in values.split(rows, dim)])


def rows_of(signals: Signals, positions: Tensor) -> Signals:
    """Return the candidates at `positions`, int64 [m] or bool [n]; what is labelled stays as it is."""

    def rows(values: Tensor) -> Tensor:
        return values[positions.to(values.device)]

    def own(name: str) -> Any:
        values = getattr(signals, name)
        return None if values is None else rows(values)

    return replace(
        signals,
        indices=rows(signals.indices),
        logits=own("logits"),
        features=own("features"),
        labels=own("labels"),
        mc_logits=None if signals.mc_logits is None else signals.mc_logits[:, positions.to(signals.mc_logits.device)],
        dynamics=None if signals.dynamics is None else {name: rows(v) for name, v in signals.dynamics.items()},
    )


def top_k(scores: Tensor, k: int, *, rng: RngLike = None) -> Tensor:
    """Return the positions of the `k` highest scores, best first.

    Args:
        scores: finite float [n].
        k: how many, 1 to n.
        rng: breaks ties; None prefers the lower position.

    Returns:
        int64 [k] on the CPU. Only what ties with or beats the k-th score is sorted: O(n + k log k) without ties.
    """
    values = single(scores.detach().cpu()).numpy()  # [n]
    some = _enough(values, k)
    threshold = np.partition(values[some], len(some) - k)[len(some) - k]
    near = some[values[some] >= threshold]  # at least k positions
    ties = near if rng is None else as_rng(rng).permutation(len(near))
    return torch.from_numpy(near[_descending(values[near], ties)[:k]])


def _enough(values: Floats, k: int) -> Integers:
    """Return positions, ascending, among which the k highest of `values` [n] are, all ties included: few, if k is few.

    A sample says what is surely too low; where it was wrong, all positions are returned.
    """
    n, step = len(values), max(1, len(values) >> 14)
    share = 1.5 * k / n + 0.002
    if step > 1 and share < 0.5:
        sample = values[::step]
        place = int((1 - share) * len(sample))
        some = np.flatnonzero(values >= np.partition(sample, place)[place])
        if len(some) >= k:
            return some
    return np.arange(n)


def _descending(values: Floats, ties: Integers) -> Integers:
    """Return the order of `values` [m], highest first; of equal ones, the lower of `ties` [m] first."""
    order = np.argsort(-values)
    ranked = values[order]
    same = ranked[1:] == ranked[:-1]
    if same.any():  # only what is equal to a neighbour is sorted again, in its places
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        rows = order[tied]
        order[tied] = rows[np.lexsort((ties[rows], -values[rows]))]
    return order


def select_top(name: str, scores: Tensor, signals: Signals, k: SupportsIndex, rng: RngLike) -> Selection:
    """Return the `k` highest of `scores` [n] as a `Selection` of the candidates' own indices."""
    k = check_k_of(name, k, signals)
    positions = top_k(scores, k, rng=rng)  # [k]
    indices = signals.indices.cpu()[positions]
    return Selection(indices, scores.detach().cpu()[positions])
