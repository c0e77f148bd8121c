"""Scoring candidates with a network through any trainer: which rows are asked, what is read, who is picked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .. import checks
from ..costs import Call, PassCounter
from ..data import as_dataset, has_labels, isolated_rng, labels_of, split_row, subset, to_dataset
from ..errors import InputError
from ..network import RowStore, from_probabilities, of_trainer, predicted_classes, stand_in
from ..network import probabilities as of_logits
from ..scorers import picks_of, refuse_other_outputs, scores_of
from ..training import looks_independent
from ..types import RngLike, Scorer, Selection, Signals, Trainer, altered, as_rng
from .asking import ask
from .past import Past

CHUNK = 16_384
"""Rows read at once, at most: what a pool of any size needs in memory is their signals and one score per row."""
VALUES = 2**24
"""Numbers in the signals of the rows read at once: 64 MB in single precision, however many classes and passes."""

Int64s = np.ndarray[Any, np.dtype[np.int64]]
Float64s = np.ndarray[Any, np.dtype[np.float64]]
LOGITS = frozenset({"logits"})
_INFERRED = frozenset({"logits", "features", "mc_logits"})
LABELLED = {"labelled_features": "features", "labelled_logits": "logits"}
"""What is asked about the labelled samples, and what it is called there."""
OF_LABELLED = frozenset({*LABELLED, "labelled_labels"})
"""All that is known of the labelled samples; their labels are not asked for but read."""
_KNOWN = _INFERRED | {"labels", "dynamics"} | OF_LABELLED


def candidate_rows(candidates: Any, n: int) -> Tensor:
    """Return the row numbers, int64 [m], that `candidates` names in a pool of `n` rows.

    Args:
        candidates: row numbers, a boolean mask [n], or None for all rows.
        n: rows of the pool.

    Raises:
        InputError: a mask of another length, numbers that are not whole, outside the pool or repeated.
    """
    if candidates is None:
        return torch.arange(n)
    needed = f"row numbers [m], or a mask of length {n:,}"
    found = checks.array("candidates", candidates, needed).cpu()
    if not found.numel():
        return torch.empty(0, dtype=torch.int64)
    if found.ndim != 1 or found.is_floating_point():
        raise InputError(f"candidates has shape {list(found.shape)} and dtype {found.dtype}; pass {needed}")
    rows = found.numpy()
    if rows.dtype.kind == "b":
        if len(rows) != n:
            raise InputError(
                f"candidates is a mask of length {len(rows):,}, but the pool has {n:,} rows; pass {needed}"
            )
        return torch.from_numpy(np.flatnonzero(rows))
    outside = rows[(rows < 0) | (rows >= n)]
    if len(outside):
        raise InputError(
            f"candidates holds row {outside[0]}, but the pool has rows 0 to {n - 1:,} ({len(outside):,} outside); pass "
            "rows of this pool"
        )
    if len(np.unique(rows)) < len(rows):
        raise InputError(f"candidates holds {len(rows) - len(np.unique(rows)):,} repeated rows; name each one once")
    return torch.from_numpy(rows.astype(np.int64))


def call_rng(random_state: RngLike, round: int, n: int) -> np.random.Generator:
    """Return the generator of one call for a pool of `n` rows: the same call draws the same.

    Another pool or round draws other numbers from the same number as seed.
    """
    if isinstance(random_state, int | np.integer):
        return np.random.default_rng([checks.whole("random_state", random_state, least=0), round, n])
    return as_rng(random_state, "random_state")


def check_needs(scorer: Scorer) -> frozenset[str]:
    """Return what a scorer reads, or raise `InputError` if that cannot be had from a trained network."""
    unknown = sorted(frozenset(scorer.needs) - _KNOWN)
    if unknown:
        raise InputError(
            f"{type(scorer).__name__} needs {', '.join(unknown)}, which a pool cannot be asked for here; "
            f"known: {', '.join(sorted(_KNOWN))}"
        )
    return frozenset(scorer.needs)


def point_scores(
    scorer: Any,
    trainer: Trainer,
    model: nn.Module,
    data: Any,
    rows: Tensor,
    needs: frozenset[str],
    known: Mapping[str, Any],
    past: Past | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the scores, float [m], of `rows` of `data`, and their labels if needed; computed chunk by chunk.

    `known`, what is known of labelled samples, is added to each chunk.
    """
    store = RowStore(len(rows))
    for signals in _chunks(trainer, model, data, rows, needs, past):
        refuse_unread(scorer, signals)
        scores = {"scores": scores_of(scorer, replace(signals, **known)).cpu()}
        store.add(scores if signals.labels is None else {**scores, "labels": signals.labels})
    return store.tensors["scores"], store.tensors.get("labels")


def labelled_signals(
    trainer: Trainer, model: nn.Module, labelled: Any, needs: frozenset[str], data: Any, **features: Any
) -> dict[str, Any]:
    """Return those of the `needs` that are about the labelled samples, by name; of no row where nothing is labelled."""
    found: dict[str, Any] = {}
    if "labelled_labels" in needs:
        labels = None if labelled is None else labels_of(labelled)
        found["labelled_labels"] = torch.empty(0, 0) if labels is None else labels
    asked = {name: field for name, field in LABELLED.items() if name in needs}
    if not asked:
        return found
    given, rows = (data, torch.arange(1)) if labelled is None else (labelled, torch.arange(len(labelled)))
    signals = read_signals(trainer, model, given, rows, frozenset(asked.values()), **features)
    end = None if labelled is not None else 0
    return found | {name: getattr(signals, field)[:end] for name, field in asked.items()}


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


def read_signals(
    trainer: Trainer,
    model: nn.Module,
    data: Any,
    rows: Tensor,
    needs: frozenset[str],
    past: Past | None = None,
    **features: Any,
) -> Signals:
    """Return the signals of `rows` of `data`, row by row in that order; `features` is how a `RowStore` keeps them."""
    outputs = None
    with RowStore(len(rows), **features) as store:
        for signals in _chunks(trainer, model, data, rows, needs, past):
            outputs = signals.outputs
            found = {name: getattr(signals, name) for name in sorted(needs & (_INFERRED | {"labels"}))}
            if "mc_logits" in found:
                found["mc_logits"] = found["mc_logits"].transpose(0, 1)  # [m t c], so that all have rows first
            found |= {f"dynamics {name}": values for name, values in (signals.dynamics or {}).items()}
            store.add({name: values.detach().cpu() for name, values in found.items()})
    fields: dict[str, Any] = dict(store.tensors)
    if "mc_logits" in fields:
        fields["mc_logits"] = fields["mc_logits"].transpose(0, 1)
    dynamics = {name: fields.pop(name) for name in list(fields) if name.startswith("dynamics ")}
    if "dynamics" in needs:
        fields["dynamics"] = {name.removeprefix("dynamics "): values for name, values in dynamics.items()}
    return Signals(rows, **fields, outputs=outputs)


def _chunks(
    trainer: Trainer, model: nn.Module, data: Any, rows: Tensor, needs: frozenset[str], past: Past | None = None
) -> Iterator[Signals]:
    if "dynamics" in needs and past is None:
        raise InputError(
            "dynamics are of a training, not of one look at data: scorers get them in select() and coreset()"
        )
    past = past or Past()
    by_label = needs & {"labels", "dynamics"}
    asked = needs & _INFERRED | (LOGITS if by_label and past.labels is None else frozenset())
    start, size = 0, min(CHUNK, 1024)  # few at first, to see how many numbers a row takes
    while start < len(rows):
        chunk = rows[start : start + size]
        signals = ask(trainer, model, data, chunk, asked) if asked else Signals(chunk)
        missing = sorted(name for name in asked if getattr(signals, name) is None)
        if missing:
            raise InputError(
                f"{type(trainer).__name__}.infer was asked for {', '.join(missing)} and gave none; "
                "let it return prunefuse_al.network.collect(model, data, needs), or take a scorer that needs less"
            )
        if by_label:
            signals = replace(signals, labels=past.labels_of(chunk, signals))
            if "dynamics" in needs:
                signals = replace(signals, dynamics=past.dynamics(trainer, data, signals))
        yield signals
        start += len(chunk)
        read = (getattr(signals, name) for name in asked)
        numbers = sum(values.numel() for values in read if values is not None)
        size = max(1, min(CHUNK, VALUES * len(chunk) // max(1, numbers)))


def first_call(trainer: Trainer, model: nn.Module, data: Any) -> Call:
    """Return what `model` is called with for two rows of `data`, after the trainer's transforms and conversions."""
    counter, network = PassCounter(), stand_in(model)
    network.register_forward_pre_hook(counter.hook(), with_kwargs=True)
    trainer.infer(network, subset(data, range(min(2, len(data)))), LOGITS)
    if not counter.calls:
        raise InputError(
            f"{type(trainer).__name__}.infer did not call the network, so its input is not known; pass example_inputs="
        )
    return next(iter(counter.calls.values()))


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
    if not hasattr(trainer, "mc_samples"):
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


def refuse_unread(scorer: Scorer, signals: Signals) -> None:
    """Raise `InputError` where logits are of another kind than the scorer reads, one of the user's own as well."""
    if frozenset(scorer.needs) & {"logits", "mc_logits"}:
        reads = "sigmoid" if getattr(scorer, "outputs", None) == "sigmoid" else "softmax"
        refuse_other_outputs(type(scorer).__name__, signals, reads)


def labelled_dataset(call: str, X: Any, y: Any, sample_weight: Any) -> Any:
    """Return X and y as a dataset whose items have labels, or raise `InputError`; a tuple alone is (X, y[, w])."""
    if y is None and isinstance(X, tuple):  # as inputs without labels it would be of no use
        if len(X) == 3 and sample_weight is not None:
            raise InputError(f"{call}: the tuple of 3 holds weights, and sample_weight= gives them twice; leave one")
        data = to_dataset(X if sample_weight is None else (*X, sample_weight))
    else:
        data = as_dataset(X, y, sample_weight=sample_weight)
    if not has_labels(data):
        raise InputError(f"{call}: the data has no labels; pass y, or a Dataset whose items are (input, label)")
    return data


def refuse_unsaid(trainer: Trainer, data: Any) -> None:
    """Raise `InputError` for labels that look independent where nothing says what the trainer's networks give.

    Of data that is read item by item only the first label is looked at.
    """
    if of_trainer(trainer) is not None:
        return
    labels = labels_of(data, read=False)
    if labels is None:
        with isolated_rng(0):  # items may draw, as augmentation does
            first = np.asarray(split_row(data, 0)[1])
        labels = torch.as_tensor(first)[None] if first.dtype.kind in "fiub" else torch.empty(0)
    if looks_independent(labels):
        name = type(trainer).__name__
        raise InputError(
            f"labels [n, {labels.shape[1]}] are 0 and 1 with rows that do not sum to 1, and {name} does not say that "
            f"its networks give independent labels, so they would be scored as classes: give {name} an attribute "
            "outputs = 'sigmoid' (an argument of FunctionTrainer and TorchTrainer), or 'softmax' if that is meant"
        )


def refuse_alone(call: str, data: str, **beside: Any) -> None:
    """Raise `InputError` where labels or weights are given without the data they belong to, called `data`."""
    given = [name for name, value in beside.items() if value is not None]
    if given:
        raise InputError(
            f"{call}: {' and '.join(given)} came without {data}; pass {data} as well, or neither, for the data of the "
            "last fit as it was"
        )
