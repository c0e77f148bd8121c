"""What every scorer has to do, one check each; `testing.check_scorer` runs them all."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import scorers
from ..errors import BudgetError, NonFiniteError
from ..types import PointScorer, RngLike, Scorer, Selection, Signals
from .examples import (
    FIELDS,
    INTEGERS,
    SHARED,
    degenerate_signals,
    example_signals,
    map_fields,
    poisoned,
    take_rows,
    tensors_of,
)

_N, _K = 40, 7
_SEEDS = 60  # draws by which scorers that draw are compared


def _declares_known_needs(scorer: Scorer) -> None:
    expect(isinstance(scorer.needs, frozenset), f"needs must be a frozenset, got {type(scorer.needs).__name__}")
    unknown = sorted(scorer.needs - FIELDS)
    expect(not unknown, f"needs {unknown}, which no Signals has; known {sorted(FIELDS)}")


def _picks_exactly_k(scorer: Scorer) -> None:
    for n, k in ((_N, _K), (_N, 1), (_N, _N), (1, 1)):
        _expect_k_of(scorer, _example(scorer, n=n), k, f"k={k} of n={n}")


def _handles_degenerate_inputs(scorer: Scorer) -> None:
    for what, signals in degenerate_signals(scorer.needs, _N, outputs=_kind(scorer)).items():
        if isinstance(scorer, PointScorer):
            _expect_scores(scorer.score(signals), what)
        for k in (1, _K, _N):
            _expect_k_of(scorer, signals, k, f"{what}, k={k} of n={_N}")


def _renaming_renames(scorer: Scorer) -> None:
    """New names run the other way: neither their size nor their order may matter."""
    signals = _example(scorer)
    highest = int(signals.indices.max())
    renamed = replace(signals, indices=highest - signals.indices)
    want = [highest - index for index in _picks(scorer, signals)]
    expect(_picks(scorer, renamed) == want, "other indices for the same rows gave other rows: positions leaked out")


def _row_order_is_irrelevant(scorer: Scorer) -> None:
    """Exactly where nothing is drawn; else each sample must be picked as often, whatever row it is in."""
    signals = _example(scorer)
    reversed_ = take_rows(signals, torch.arange(_N - 1, -1, -1))
    drawn = {frozenset(_picks(scorer, signals, rng=seed)) for seed in range(4)}
    if len(drawn) == 1:
        one, other = _picks(scorer, signals), _picks(scorer, reversed_)
        same = one == other if isinstance(scorer, PointScorer) else set(one) == set(other)
        expect(same, "the order of the rows changed the picks")
        return
    gap, worst = (_frequencies(scorer, signals) - _frequencies(scorer, reversed_).flip(0)).abs().max(0)
    expect(
        bool(gap < 0.5),
        f"over {_SEEDS} seeds, sample {int(signals.indices[worst])} is picked {float(gap):.0%} more often in one order "
        "of the rows than in another",
    )


def _same_seed_same_picks(scorer: Scorer) -> None:
    signals = _example(scorer)
    expect(_picks(scorer, signals) == _picks(scorer, signals), "two calls with the same rng gave different picks")


def _takes_any_rng(scorer: Scorer) -> None:
    """Each kind of `RngLike`, made anew for each call."""
    signals = _example(scorer)
    kinds: dict[str, Callable[[], Any]] = {
        "a NumPy Generator": lambda: np.random.default_rng(3),
        "a RandomState": lambda: np.random.RandomState(3),
        "a torch.Generator": lambda: torch.Generator().manual_seed(3),
    }
    for what, make in kinds.items():
        picked = _picks(scorer, signals, rng=make())
        expect(picked == _picks(scorer, signals, rng=make()), f"{what} of the same seed gave different picks")
    _expect_k_of(scorer, signals, _K, "rng=None", rng=None)


def _leaves_inputs_alone(scorer: Scorer) -> None:
    signals = _example(scorer)
    tensors = tensors_of(signals)
    before = {name: (tensor.clone(), tensor._version) for name, tensor in tensors.items()}
    _picks(scorer, signals)
    written = [name for name, (copy, version) in before.items() if not _untouched(tensors[name], copy, version)]
    expect(not written, f"wrote to {', '.join(written)}")


def _accepts_read_only_inputs(scorer: Scorer) -> None:
    """Tensors made in inference mode refuse to be written to outside it."""
    signals = _example(scorer)
    with torch.inference_mode():
        locked = map_fields(replace(signals, indices=signals.indices.clone()), lambda _, values: values.clone())
    expect(_picks(scorer, locked) == _picks(scorer, signals), "read-only inputs changed the picks")


def _reads_only_declared_needs(scorer: Scorer) -> None:
    signals = _example(scorer)
    noise = poisoned(example_signals(FIELDS, outputs=_kind(scorer)), FIELDS, None, float("nan"))
    with_noise = replace(noise, indices=signals.indices, **{name: getattr(signals, name) for name in scorer.needs})
    expect(_picks(scorer, signals) == _picks(scorer, with_noise), "signals outside `needs` changed the picks")


def _refuses_non_finite(scorer: Scorer) -> None:
    for name in sorted(scorer.needs - INTEGERS):
        for value in (float("nan"), float("inf"), -float("inf")):
            signals = _example(scorer)
            bad = poisoned(signals, frozenset({name}), 3, value)
            message = _refusal(scorer, bad, _K, NonFiniteError, f"{value} in {name}")
            index = str(int(signals.indices[3]))
            expect(name in SHARED or index in message, f"error does not name sample {index}: {message}")


def _refuses_bad_budgets(scorer: Scorer) -> None:
    signals = _example(scorer)
    for k in (_N + 1, 0, -1):
        message = _refusal(scorer, signals, k, BudgetError, f"k={k} of {_N}")
        expect(str(k) in message and str(_N) in message, f"error must name k={k} and n={_N}: {message}")
    _refusal(scorer, _example(scorer, n=0), 1, BudgetError, "no candidates")


def _precisions_agree(scorer: Scorer) -> None:
    single, double = (_example(scorer, dtype=dtype) for dtype in (torch.float32, torch.float64))
    expect(_picks(scorer, single) == _picks(scorer, double), "float32 and float64 signals gave different picks")


def _scores_rank(scorer: Scorer) -> None:
    if not isinstance(scorer, PointScorer):
        return
    signals = _example(scorer)
    scores = scorer.score(signals)
    _expect_scores(scores, "an ordinary pool")
    picked = scorer.select(signals, _K, rng=0)
    places = {index: place for place, index in enumerate(signals.indices.tolist())}
    theirs = scores[torch.tensor([places[index] for index in picked.indices.tolist()])]
    highest = scores.sort(descending=True).values[:_K]  # whose they are is open where there are ties
    expect(torch.equal(theirs, highest), "select must return the highest scores, best first")
    if picked.scores is not None:
        same = torch.allclose(picked.scores.double(), theirs.double())
        expect(same, f"the scores that come with the picks are not those of `score`: {picked.scores.tolist()}")


def _scores_are_of_the_row_alone(scorer: Scorer) -> None:
    """A pool is scored in parts that are put together."""
    if not isinstance(scorer, PointScorer):
        return
    signals = _example(scorer)
    parts = [scorer.score(take_rows(signals, rows)) for rows in torch.arange(_N).split(9)]
    same = torch.allclose(torch.cat(parts), scorer.score(signals), rtol=1e-5, atol=1e-7)
    expect(same, "the score of a sample depends on the samples scored with it; leave `score` out, select is enough")


def _survives_pickle_and_repr(scorer: Scorer) -> None:
    text = repr(scorer)
    expect(" at 0x" not in text, f"repr must evaluate back, got {text}")
    namespace = {**vars(scorers), **vars(sys.modules[type(scorer).__module__]), type(scorer).__name__: type(scorer)}
    signals = _example(scorer)
    for how, twin in (("pickle", pickle.loads(pickle.dumps(scorer))), ("repr", eval(text, namespace))):
        expect(repr(twin) == text, f"{how} gave {twin!r} back")
        expect(_picks(twin, signals) == _picks(scorer, signals), f"after {how} it picks other samples")


CHECKS: dict[str, Callable[[Scorer], None]] = {
    check.__name__.removeprefix("_"): check
    for check in (
        _declares_known_needs,
        _picks_exactly_k,
        _same_seed_same_picks,
        _takes_any_rng,
        _renaming_renames,
        _row_order_is_irrelevant,
        _leaves_inputs_alone,
        _accepts_read_only_inputs,
        _reads_only_declared_needs,
        _refuses_non_finite,
        _refuses_bad_budgets,
        _precisions_agree,
        _handles_degenerate_inputs,
        _scores_rank,
        _scores_are_of_the_row_alone,
        _survives_pickle_and_repr,
    )
}


def expect(condition: bool, message: str) -> None:
    """Raise `AssertionError`, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def _picks(scorer: Scorer, signals: Signals, k: int = _K, *, rng: RngLike = 0) -> list[int]:
    selection = scorer.select(signals, k, rng=rng)
    expect(isinstance(selection, Selection), f"select must return a Selection, got {type(selection).__name__}")
    expect(selection.indices.dtype == torch.int64, f"indices must be int64, got {selection.indices.dtype}")
    if selection.scores is not None:
        expect(selection.scores.shape == selection.indices.shape, "one score for each index")
        expect(bool(torch.isfinite(selection.scores).all()), "the scores of picks must be finite")
    picked: list[int] = selection.indices.tolist()
    return picked


def _expect_scores(scores: Tensor, what: str) -> None:
    expect(scores.shape == (_N,), f"{what}: score gave shape {list(scores.shape)} for {_N} samples")
    bad = _N if not scores.is_floating_point() else int((~torch.isfinite(scores)).sum())
    expect(not bad, f"{what}: the scores of {bad} samples are not finite floats")


def _expect_k_of(scorer: Scorer, signals: Signals, k: int, what: str, *, rng: RngLike = 0) -> None:
    picked = _picks(scorer, signals, k, rng=rng)
    expect(len(picked) == k, f"{what} gave {len(picked)} samples")
    expect(len(set(picked)) == k, f"{what} gave a sample twice")
    expect(set(picked) <= set(signals.indices.tolist()), f"{what} gave indices that are no candidates")


def _kind(scorer: Scorer) -> str:
    """Return what logits a scorer says it reads, see `Scorer.needs`."""
    return str(getattr(scorer, "outputs", "softmax"))


def _example(scorer: Scorer, **options: Any) -> Signals:
    return example_signals(scorer.needs, outputs=_kind(scorer), **options)


def _frequencies(scorer: Scorer, signals: Signals) -> Tensor:
    """Return how often each row is picked, float [n]."""
    counts = torch.zeros(len(signals))
    for seed in range(1, _SEEDS + 1):
        counts += torch.isin(signals.indices, torch.tensor(_picks(scorer, signals, rng=seed)))
    return counts / _SEEDS


def _refusal(scorer: Scorer, signals: Signals, k: int, kind: type[Exception], what: str) -> str:
    try:
        scorer.select(signals, k, rng=0)
    except kind as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{what} must raise {kind.__name__}, raised {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} must raise {kind.__name__}, raised nothing")


def _untouched(tensor: Tensor, copy: Tensor, version: int) -> bool:
    return tensor._version == version and torch.equal(tensor, copy)
