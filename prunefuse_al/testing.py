"""Contract checks for scorers of your own, and a guard that global random states are left alone.

from prunefuse_al.testing import check_scorer
check_scorer(MyScorer())
"""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import BudgetError, NonFiniteError
from .types import PointScorer, Scorer, Selection, Signals

_N, _K, _C, _D, _T = 40, 7, 5, 6, 3
_DYNAMICS = ("aum", "correct", "el2n", "forgetting", "grand", "moso")


@contextmanager
def unchanged_global_rng() -> Iterator[None]:
    """Raise `AssertionError` if the block moved the global random state of `random`, NumPy or torch.

    Examples:
        >>> with unchanged_global_rng():
        ...     _ = torch.rand(3, generator=torch.Generator())
    """
    before = _global_rng()
    yield
    moved = [name for name, state in _global_rng().items() if not _same(state, before[name])]
    _expect(not moved, f"global random state of {', '.join(moved)} was moved; draw from the generator that is passed")


def check_scorer(scorer: Scorer, *, expected_failed_checks: Mapping[str, str] | None = None) -> list[str]:
    """Check that a scorer keeps the contract of `prunefuse_al.types.Scorer`.

    Picks are exactly k, unique, from the candidates and in the candidates' own index space; the same seed gives the
    same picks; nothing is written to; only declared signals are read; NaN and k > n are refused with an error that
    tells what to do; single and double precision agree; global random states are left alone; the scorer pickles
    and its `repr` evaluates back. Scorers with `score` must give finite scores, best first, whatever the row order.

    Args:
        scorer: the object to check.
        expected_failed_checks: name of a check -> why it is known to fail; such a check must fail.

    Returns:
        Names of the checks that were run, so that a test can assert that none was left out.

    Raises:
        AssertionError: a check failed; the message starts with its name.
    """
    known = dict(expected_failed_checks or {})
    unknown = set(known) - set(_CHECKS)
    _expect(not unknown, f"expected_failed_checks names no check: {sorted(unknown)}; known: {', '.join(_CHECKS)}")
    for name, check in _CHECKS.items():
        try:
            with unchanged_global_rng():
                check(scorer)
        except Exception as error:
            if name not in known:
                raise AssertionError(f"{name}: {scorer!r}: {error}") from error
        else:
            _expect(name not in known, f"{name}: was expected to fail ({known.get(name)}), but passed")
    return list(_CHECKS)


def example_signals(needs: frozenset[str], *, n: int = _N, dtype: torch.dtype = torch.float32) -> Signals:
    """Return random signals with exactly the fields in `needs`, for `n` candidates with scattered indices."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(dtype)

    made: dict[str, Any] = {
        "logits": 3 * normal(n, _C),
        "features": normal(n, _D),
        "mc_logits": 3 * normal(_T, n, _C),
        "labels": torch.randint(_C, (n,), generator=rng),
        "dynamics": {name: normal(n) for name in _DYNAMICS},
        "labelled_features": normal(9, _D),
        "labelled_logits": 3 * normal(9, _C),
    }
    indices = torch.randperm(10 * n, generator=rng)[:n]
    return Signals(indices, **{name: made[name] for name in needs})


def _declares_known_needs(scorer: Scorer) -> None:
    known = {field.name for field in fields(Signals)} - {"indices"}
    _expect(isinstance(scorer.needs, frozenset), f"needs must be a frozenset, got {type(scorer.needs).__name__}")
    _expect(scorer.needs <= known, f"needs {sorted(scorer.needs - known)}, which no Signals has; known {sorted(known)}")


def _picks_exactly_k(scorer: Scorer) -> None:
    for n, k in ((_N, _K), (_N, 1), (_N, _N), (1, 1)):
        signals = example_signals(scorer.needs, n=n)
        picked = _picks(scorer, signals, k)
        _expect(len(picked) == k, f"k={k} of n={n} gave {len(picked)} samples")
        _expect(len(set(picked)) == k, f"k={k} of n={n} gave a sample twice")
        _expect(set(picked) <= set(signals.indices.tolist()), f"k={k} of n={n} gave indices that are no candidates")


def _renaming_renames(scorer: Scorer) -> None:
    signals = example_signals(scorer.needs)
    renamed = replace(signals, indices=signals.indices + 1_000)
    want = [index + 1_000 for index in _picks(scorer, signals)]
    _expect(_picks(scorer, renamed) == want, "other indices for the same rows gave other rows: positions leaked out")


def _same_seed_same_picks(scorer: Scorer) -> None:
    signals = example_signals(scorer.needs)
    _expect(_picks(scorer, signals) == _picks(scorer, signals), "two calls with the same rng gave different picks")


def _leaves_inputs_alone(scorer: Scorer) -> None:
    signals = example_signals(scorer.needs)
    tensors = _tensors(signals)
    before = {name: (tensor.clone(), tensor._version) for name, tensor in tensors.items()}
    _picks(scorer, signals)
    written = [n for n, (copy, version) in before.items() if not _untouched(tensors[n], copy, version)]
    _expect(not written, f"wrote to {', '.join(written)}")


def _reads_only_declared_needs(scorer: Scorer) -> None:
    signals = example_signals(scorer.needs)
    full = example_signals(frozenset(field.name for field in fields(Signals)) - {"indices"})
    poisoned = {name: _poisoned(getattr(full, name), None) for name in _present(full) - scorer.needs}
    with_noise = replace(signals, **poisoned)
    _expect(_picks(scorer, signals) == _picks(scorer, with_noise), "signals outside `needs` changed the picks")


def _refuses_non_finite(scorer: Scorer) -> None:
    for name in sorted(scorer.needs - {"labels"}):
        for value in (float("nan"), float("inf")):
            signals = example_signals(scorer.needs)
            bad = replace(signals, **{name: _poisoned(getattr(signals, name), 3, value)})
            message = _refusal(scorer, bad, _K, NonFiniteError, f"{value} in {name}")
            index = str(int(signals.indices[3]))
            _expect(name.startswith("labelled_") or index in message, f"error does not name sample {index}: {message}")


def _refuses_bad_budgets(scorer: Scorer) -> None:
    signals = example_signals(scorer.needs)
    for k in (_N + 1, 0, -1):
        message = _refusal(scorer, signals, k, BudgetError, f"k={k} of {_N}")
        _expect(str(k) in message and str(_N) in message, f"error must name k={k} and n={_N}: {message}")
    _refusal(scorer, example_signals(scorer.needs, n=0), 1, BudgetError, "no candidates")


def _precisions_agree(scorer: Scorer) -> None:
    single, double = (example_signals(scorer.needs, dtype=dtype) for dtype in (torch.float32, torch.float64))
    _expect(_picks(scorer, single) == _picks(scorer, double), "float32 and float64 signals gave different picks")


def _scores_rank(scorer: Scorer) -> None:
    if not isinstance(scorer, PointScorer):
        return
    signals = example_signals(scorer.needs)
    scores = scorer.score(signals)
    _expect(scores.shape == (_N,), f"score gave shape {list(scores.shape)} for {_N} samples")
    _expect(scores.is_floating_point() and bool(torch.isfinite(scores).all()), "scores must be finite floats")
    best = signals.indices[scores.argsort(descending=True)][:_K].tolist()
    _expect(_picks(scorer, signals) == best, "select must return the highest scores, best first")


def _row_order_is_irrelevant(scorer: Scorer) -> None:
    if not isinstance(scorer, PointScorer):
        return
    signals = example_signals(scorer.needs)
    order = torch.arange(_N - 1, -1, -1)
    shuffled = replace(signals, indices=signals.indices[order], **{n: _take(signals, n, order) for n in scorer.needs})
    _expect(_picks(scorer, signals) == _picks(scorer, shuffled), "the order of the rows changed the picks")


def _survives_pickle_and_repr(scorer: Scorer) -> None:
    text = repr(scorer)
    _expect(" at 0x" not in text, f"repr must evaluate back, got {text}")
    namespace = {**vars(sys.modules[type(scorer).__module__]), type(scorer).__name__: type(scorer)}
    signals = example_signals(scorer.needs)
    for how, twin in (("pickle", pickle.loads(pickle.dumps(scorer))), ("repr", eval(text, namespace))):
        _expect(repr(twin) == text, f"{how} gave {twin!r} back")
        _expect(_picks(twin, signals) == _picks(scorer, signals), f"after {how} it picks other samples")


_CHECKS: dict[str, Callable[[Scorer], None]] = {
    check.__name__.removeprefix("_"): check
    for check in (
        _declares_known_needs,
        _picks_exactly_k,
        _renaming_renames,
        _same_seed_same_picks,
        _leaves_inputs_alone,
        _reads_only_declared_needs,
        _refuses_non_finite,
        _refuses_bad_budgets,
        _precisions_agree,
        _scores_rank,
        _row_order_is_irrelevant,
        _survives_pickle_and_repr,
    )
}


def _expect(condition: bool, message: str) -> None:
    """Raise `AssertionError`, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def _picks(scorer: Scorer, signals: Signals, k: int = _K) -> list[int]:
    selection = scorer.select(signals, k, rng=np.random.default_rng(0))
    _expect(isinstance(selection, Selection), f"select must return a Selection, got {type(selection).__name__}")
    _expect(selection.indices.dtype == torch.int64, f"indices must be int64, got {selection.indices.dtype}")
    _expect(selection.scores is None or selection.scores.shape == selection.indices.shape, "one score for each index")
    picked: list[int] = selection.indices.tolist()
    return picked


def _refusal(scorer: Scorer, signals: Signals, k: int, kind: type[Exception], what: str) -> str:
    try:
        scorer.select(signals, k, rng=0)
    except kind as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{what} must raise {kind.__name__}, raised {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} must raise {kind.__name__}, raised nothing")


def _present(signals: Signals) -> set[str]:
    return {field.name for field in fields(signals) if getattr(signals, field.name) is not None} - {"indices"}


def _tensors(signals: Signals) -> dict[str, Tensor]:
    found = {name: getattr(signals, name) for name in (*sorted(_present(signals)), "indices")}
    found.update({f"dynamics[{name!r}]": tensor for name, tensor in found.pop("dynamics", {}).items()})
    return found


def _poisoned(value: Any, row: int | None, bad: float = float("nan")) -> Any:
    """Return a copy with `bad` in one sample's row (None: everywhere); integer labels become one class."""
    if isinstance(value, Mapping):
        return {name: _poisoned(tensor, row, bad) for name, tensor in value.items()}
    if not value.is_floating_point():
        return torch.zeros_like(value)
    rows = value.clone()
    by_sample = rows if rows.ndim < 3 else rows.transpose(0, 1)  # mc_logits are [t n c]
    by_sample[slice(None) if row is None else row] = bad
    return rows


def _take(signals: Signals, name: str, order: Tensor) -> Any:
    value = getattr(signals, name)
    if name.startswith("labelled_"):
        return value
    if name == "dynamics":
        return {key: tensor[order] for key, tensor in value.items()}
    return value[:, order] if name == "mc_logits" else value[order]


def _untouched(tensor: Tensor, copy: Tensor, version: int) -> bool:
    return tensor._version == version and torch.equal(tensor, copy)


def _global_rng() -> dict[str, Any]:
    states: dict[str, Any] = {
        "random": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["torch.cuda"] = torch.cuda.get_rng_state()
    return states


def _same(state: Any, other: Any) -> bool:
    if isinstance(state, tuple):
        return len(state) == len(other) and all(map(_same, state, other))
    if isinstance(state, Tensor):
        return torch.equal(state, other)
    return bool(np.array_equal(state, other))
