"""Arrays of any make are right at the door of `Signals` and of every pure function, or refused by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import prunefuse_al.scorers as scorers
from prunefuse_al.errors import InputError
from prunefuse_al.scorers import SCORERS, get_scorer
from prunefuse_al.testing.contracts import example_signals
from prunefuse_al.types import Selection, Signals

N, C, D, T, M = 12, 3, 4, 3, 5


def whole(*shape: int, below: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


LOGITS, FEATURES, PASSES = whole(N, C), whole(N, D, seed=1), whole(T, N, C, seed=2)
LABELS, SCORES, COSTS = whole(N, below=C), whole(N, below=99), whole(N) + 1
KNOWN_LOGITS, KNOWN = whole(M, C, seed=3), whole(M, D, seed=4)
HEAD = whole(C, D + 1, seed=7)
KNOWN_LABELS = whole(M, C, below=2, seed=6)
MOMENTS = whole(T, N, D, seed=5)

CALLS: dict[str, tuple[Callable[..., Any], list[Tensor], dict[str, Any]]] = {
    "aum": (scorers.aum, [PASSES, LABELS], {}),
    "badge": (scorers.badge, [LOGITS, FEATURES], {"k": 3, "rng": 0}),
    "bald": (scorers.bald, [PASSES], {}),
    "batchbald": (scorers.batchbald, [PASSES], {"k": 3, "rng": 0}),
    "cal": (scorers.cal, [LOGITS, FEATURES, KNOWN_LOGITS, KNOWN], {"n_neighbors": 2}),
    "ccs": (scorers.ccs, [SCORES], {"k": 3, "rng": 0}),
    "class_budgets": (scorers.class_budgets, [torch.tensor([4, 1, 4])], {"k": 5}),
    "d2": (lambda s, h, y, **o: scorers.d2(s, h, labels=y, **o), [SCORES, FEATURES, LABELS], {"k": 3, "rng": 0}),
    "dropquery": (scorers.dropquery, [LOGITS, FEATURES, HEAD], {"k": 3, "rng": 0}),
    "dropquery_flips": (scorers.dropquery_flips, [LOGITS, FEATURES, HEAD], {"rng": 0}),
    "dropquery_init": (scorers.dropquery_init, [FEATURES], {"k": 3, "rng": 0}),
    "el2n": (scorers.el2n, [PASSES, LABELS], {}),
    "entropy": (scorers.entropy, [LOGITS], {}),
    "forgetting": (scorers.forgetting, [whole(T, N, below=2)], {}),
    "grand": (scorers.grand, [PASSES, MOMENTS, LABELS], {}),
    "influence": (scorers.influence, [LOGITS, FEATURES, LABELS], {"k": 5, "rng": 0}),
    "influence_vectors": (scorers.influence_vectors, [LOGITS, FEATURES, LABELS], {}),
    "k_center": (
        lambda h, rows, known, **o: scorers.k_center(h, labelled=rows, labelled_features=known, **o),
        [FEATURES, torch.tensor([3, 5]), KNOWN],
        {"k": 3},
    ),
    "largest_removal": (lambda v, **o: scorers.largest_removal(v, 1.0, **o).rows, [FEATURES], {"rng": 0}),
    "least_confidence": (scorers.least_confidence, [LOGITS], {}),
    "margin": (scorers.margin, [LOGITS], {}),
    "loss_band": (scorers.loss_band, [LOGITS, LABELS], {}),
    "label_cardinality": (scorers.label_cardinality, [LOGITS, KNOWN_LABELS], {}),
    "mask_gradient": (
        lambda z, m: scorers.mask_gradient(z, m, steepness=0.5, keep=0.5, share=1),
        [SCORES, COSTS],
        {},
    ),
    "ml_adaptive": (scorers.ml_adaptive, [LOGITS, KNOWN_LABELS], {}),
    "ml_badge": (scorers.ml_badge, [LOGITS, FEATURES], {"k": 3, "rng": 0}),
    "ml_bald": (scorers.ml_bald, [PASSES], {}),
    "ml_entropy": (scorers.ml_entropy, [LOGITS], {}),
    "ml_margin": (scorers.ml_margin, [LOGITS], {}),
    "ml_min_margin": (scorers.ml_min_margin, [LOGITS], {}),
    "mmc": (scorers.mmc, [LOGITS, KNOWN_LOGITS, KNOWN_LABELS], {}),
    "moderate": (scorers.moderate, [FEATURES, LABELS], {"k": 3}),
    "moso": (scorers.moso, [PASSES, MOMENTS, LABELS, torch.ones(T, dtype=torch.int64)], {}),
    "probcover": (
        lambda h, known, **o: scorers.probcover(h, labelled_features=known, **o),
        [FEATURES, KNOWN],
        {"k": 3, "delta": 0.5},
    ),
    "purity_radius": (scorers.purity_radius, [FEATURES, LABELS], {"purity": 0.5}),
    "score_per_cost": (scorers.score_per_cost, [SCORES, COSTS], {}),
    "smallest_removal": (lambda v, **o: scorers.smallest_removal(v, 3, **o).rows, [FEATURES], {"rng": 0}),
    "standardised_by_class": (scorers.standardised_by_class, [SCORES, LABELS], {}),
    "typiclust": (
        lambda h, known, **o: scorers.typiclust(h, labelled_features=known, **o),
        [FEATURES, KNOWN],
        {"k": 3, "rng": 0},
    ),
    "vessal": (
        lambda z, h, y, known_z, known, **o: scorers.vessal(
            z, h, labels=y, labelled_logits=known_z, labelled_features=known, **o
        ),
        [LOGITS, FEATURES, LABELS, KNOWN_LOGITS, KNOWN],
        {"k": 3, "rng": 0},
    ),
}
MAKES: dict[str, Callable[[Tensor], Any]] = {
    "integers": lambda t: t,
    "arrays": lambda t: t.numpy(),
    "arrays of floats": lambda t: t.numpy(),
    "bytes": lambda t: t.numpy().astype(np.uint8),
    "unsigned": lambda t: t.numpy().astype(np.uint32),
    "lists": lambda t: t.tolist(),
    "read-only": lambda t: locked(t.numpy().copy()),
    "backwards in memory": lambda t: np.ascontiguousarray(t.numpy()[::-1])[::-1],
    "of another machine": lambda t: t.numpy().astype(">i4"),
}


def locked(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def as_floats(given: Tensor, kind: torch.dtype = torch.float64) -> Tensor:
    """What is no number of a class or row becomes floats, as a network gives it."""
    counts = (LABELS, CALLS["class_budgets"][1][0], CALLS["k_center"][1][1])
    return given if any(given is each for each in counts) else given.to(kind)


def test_every_pure_function_is_here() -> None:
    functions = {name for name in scorers.__all__ if inspect.isfunction(getattr(scorers, name))}
    assert functions - {"get_scorer"} == CALLS.keys()


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_any_make_give_what_tensors_do(name: str, make: str) -> None:
    function, given, options = CALLS[name]
    kind = torch.float32 if make == "bytes" else torch.float64  # the shortest that holds them
    want = function(*(as_floats(each, kind) for each in given), **options)
    made = [MAKES[make](as_floats(each) if make == "arrays of floats" else each) for each in given]
    kept = copy.deepcopy(made)
    got = function(*made, **options)
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(want), check_dtype=False)
    for each, before in zip(made, kept, strict=True):
        np.testing.assert_array_equal(each, before)


@pytest.mark.parametrize("name", SCORERS)
def test_signals_of_arrays_give_what_signals_of_tensors_do(name: str) -> None:
    scorer = get_scorer(name)
    signals = example_signals(scorer.needs)
    made: dict[str, Any] = {}
    for field in fields(Signals):
        value = getattr(signals, field.name)
        if isinstance(value, Tensor):
            made[field.name] = value.numpy()
        elif isinstance(value, dict):
            made[field.name] = {key: each.numpy() for key, each in value.items()}
    assert torch.equal(scorer.select(Signals(**made), 5, rng=0).indices, scorer.select(signals, 5, rng=0).indices)


@pytest.mark.parametrize("name", ["margin", "bald", "k_center", "badge"])
def test_signals_of_flags_and_bytes_are_floats(name: str) -> None:
    scorer = get_scorer(name)
    plain = example_signals(scorer.needs)
    rounded = {n: (getattr(plain, n) > 0) for n in scorer.needs}
    want = scorer.select(replace(plain, **{n: v.float() for n, v in rounded.items()}), 5, rng=0).indices
    for kind in (torch.bool, torch.uint8, torch.int64):
        given = replace(plain, **{n: v.to(kind) for n, v in rounded.items()})
        assert torch.equal(scorer.select(given, 5, rng=0).indices, want)


def test_what_a_signal_is_already_is_not_copied() -> None:
    logits, features = torch.zeros(4, 2), np.zeros((4, 3), dtype=np.float32)
    signals = Signals(np.arange(4, dtype=np.int32), logits, features)  # type: ignore[arg-type]
    assert signals.logits is logits
    assert signals.features.data_ptr() == features.ctypes.data  # type: ignore[union-attr]
    assert signals.indices.dtype == torch.int64
    assert Signals(range(3)).indices.tolist() == [0, 1, 2]  # type: ignore[arg-type]
    assert Selection([2, 0], [0.5, 0.25]).scores.tolist() == [0.5, 0.25]  # type: ignore[arg-type,union-attr]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"indices": np.array([0.5, 1.5])}, r"Signals: indices=array\(\[0\.5, 1\.5\]\); pass whole numbers \[n\]"),
        ({"indices": np.array([True, False])}, "Signals: indices=.*; pass whole numbers"),
        ({"indices": [[0], [1]]}, r"Signals: indices=\[\[0\], \[1\]\]; pass whole numbers"),
        ({"indices": None}, "Signals: indices=None"),
        ({"logits": "high"}, "Signals: logits='high'; pass an array, a tensor or a list of numbers"),
        ({"logits": 3.0}, r"Signals: logits=3\.0; pass an array"),
        ({"logits": [[1.0, 2.0], [1.0]]}, r"Signals: logits=\[\[1\.0, 2\.0\], \[1\.0\]\]; pass an array"),
        ({"logits": np.zeros((2, 2), complex)}, r"Signals: logits=<complex128 array \[2, 2\]>; pass"),
        ({"features": torch.zeros(2, 2, dtype=torch.complex64)}, r"features=<complex64 tensor \[2, 2\]>; pass"),
        ({"features": torch.zeros(2, 2).to_sparse()}, "Signals: features=.*; pass an array"),
        ({"features": np.ma.masked_array(np.zeros((2, 2)), True)}, "Signals: features=.*; pass an array"),
        ({"labels": np.array([2**63, 1], dtype=np.uint64)}, "Signals: labels=.*; pass an array"),
        ({"dynamics": [1, 2]}, r"Signals: dynamics=\[1, 2\]; pass a dict"),
        ({"dynamics": {"aum": "x"}}, r"Signals: dynamics\['aum'\]='x'; pass"),
    ],
)
def test_what_is_no_array_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Signals(**{"indices": [0, 1], **given})
