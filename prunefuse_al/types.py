"""Data that crosses module boundaries, and the protocols users may implement themselves.

Shape letters: n samples, c classes, d feature width, t stochastic passes, k picked, m labelled samples.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from . import checks
from .errors import InputError

RngLike = int | np.random.Generator | np.random.RandomState | torch.Generator | None


OUTPUTS = ("softmax", "sigmoid", "values")  # what logits may be, see `Signals.outputs`


@dataclass(frozen=True, eq=False)
class Signals:
    """What a network says about candidates; row i of every field belongs to `indices[i]`.

    Fields take arrays of NumPy and lists of numbers as well, and hold tensors. What a network says becomes floats if it
    is whole numbers; indices and labels stay whole.

    Attributes:
        indices: int64 [n], indices into the array or dataset the caller passed.
        logits: float [n c], outputs of the classifier in eval mode.
        features: float [n d], input of the last linear layer in eval mode.
        mc_logits: float [t n c], outputs of t passes with only dropout layers in train mode.
        labels: int64 [n], given labels, or predicted ones where the caller says so.
        dynamics: named float [n] tensors of how the network answered while it was trained: "aum", "correct", "el2n",
            "forgetting", "grand", "moso"; or "adapruner", what was learnt beside it.
        labelled_features: float [m d], features of what is labelled already.
        labelled_logits: float [m c], logits of what is labelled already.
        labelled_labels: the labels of what is labelled already, [m c] of 0 and 1, or numbers of classes [m].
        outputs: what the logits are: "softmax", of classes of which a sample has one; "sigmoid", of independent
            labels; "values", no logits at all; None, not said, which every scorer takes for what it reads.
        head: float [c d+1], the linear layer that makes the logits of the features: its weights, then its bias.
    """

    indices: Tensor
    logits: Tensor | None = None
    features: Tensor | None = None
    mc_logits: Tensor | None = None
    labels: Tensor | None = None
    dynamics: Mapping[str, Tensor] | None = None
    labelled_features: Tensor | None = None
    labelled_logits: Tensor | None = None
    labelled_labels: Tensor | None = None
    outputs: str | None = None
    head: Tensor | None = None

    def __post_init__(self) -> None:
        checks.settle(self, indices=_numbers("Signals: indices", self.indices, "whole numbers [n]", 1))
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or field.name == "indices":
                continue
            name = f"Signals: {field.name}"
            if str(field.type).startswith("Mapping"):
                known = checks.instance(name, value, Mapping, "a dict of floats [n] by name")
                checks.settle(self, **{field.name: {key: _floats(f"{name}[{key!r}]", v) for key, v in known.items()}})
            elif str(field.type).startswith("Tensor"):
                convert = checks.array if field.name.endswith("labels") else _floats
                checks.settle(self, **{field.name: convert(name, value, _NUMBERS)})
            else:
                checks.one_of(name, value, OUTPUTS)

    def __len__(self) -> int:
        return int(self.indices.shape[0])


@dataclass(frozen=True, eq=False)
class Selection:
    """What a scorer picked.

    Attributes:
        indices: int64 [k], best first, unique.
        scores: float [k], or None where the scorer has none.
        labels: which labels the scorer went by: "given" ones, those "predicted" by the network on a pool, or None where
            it went by none (or where it was not a selector that asked).
        considered: from how many candidates they were picked: all there were, or the `candidate_fraction` that a query
            drew; None where it was not a query.
    """

    indices: Tensor
    scores: Tensor | None = None
    labels: str | None = None
    considered: int | None = None

    def __post_init__(self) -> None:
        indices = _numbers("Selection: indices", self.indices, "whole numbers [k], the indices of candidates", 1)
        scores = checks.maybe(_floats, "Selection: scores", self.scores, "floats [k], one for each index")
        if scores is not None and scores.shape != indices.shape:
            raise InputError(
                f"Selection: scores={checks.shown(scores)} for {len(indices):,} indices; pass one for each, or None"
            )
        checks.settle(self, indices=indices, scores=scores)

    def arrays(self) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, Any] | None]:
        """Return indices and scores, or None, as NumPy arrays."""
        return self.indices.numpy(), None if self.scores is None else self.scores.numpy()

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each pick, best first: "index", and "score" where there are any.

        ``pool.iloc[selection.to_frame()["index"]]`` are the picked rows of a pool that is a data frame.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        indices, scores = self.arrays()
        columns = {"index": indices} if scores is None else {"index": indices, "score": scores}
        return checks.installed("pandas", extra="data").DataFrame(columns)


@runtime_checkable
class Scorer(Protocol):
    """Chooses k of the candidates described by signals."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the `Signals` fields it reads.

        A scorer that reads dynamics may name them in a further attribute `dynamics`; else all are worked out. One that
        takes logits of independent labels too, see `Signals.outputs`, says so by an attribute ``outputs = "sigmoid"``;
        others are given those of classes alone. One whose `select` has a parameter `progress` is told by it to show a
        bar, unless a selector's trainer shows none.
        """
        ...

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k candidates to label next, best first."""
        ...


@runtime_checkable
class PointScorer(Scorer, Protocol):
    """A scorer whose score of one sample does not depend on the other samples."""

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        ...


@runtime_checkable
class Trainer(Protocol):
    """Trains a network in place and reads signals from it; `TorchTrainer` is ours, any other may be passed in.

    What others need to know of it (its batch size, its transforms, what its networks give, ...) it states in one
    object, see `Statement`; what others may ask to be otherwise (epochs, learning rate, distillation, passes) goes
    through `altered`. Both go by attributes where it has no methods for it, so that a class with `fit`, `infer` and,
    say, ``outputs = "sigmoid"`` for labels that are independent is a whole trainer. Without `outputs` they are logits
    of classes.
    """

    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> Any:
        """Train `model` in place on `data`, a map-style dataset of (input, label[, weight]).

        A trainer takes part in progressive pruning if it has a further argument ``on_epoch=None`` and, unless that is
        None, calls ``on_epoch(epoch, optimizer)`` before every epoch, from 0: the network may come back thinner. Where
        the answer is True, weights that were kept of earlier epochs must not be gone back to.

        Scorers of training dynamics also work with a trainer whose `fit` takes ``recorder=None`` and calls it as
        `training.Recorder` says.

        A method ``check()`` that raises `InputError` where an option of its own is wrong is called by a selector before
        anything is done.
        """
        ...

    def infer(self, model: nn.Module, data: Any, needs: frozenset[str]) -> Signals:
        """Return the signals in `needs` for every row of `data`, in order, without changing `model`."""
        ...


@dataclass(frozen=True, eq=False)
class Statement:
    """What a trainer says about itself, for others to read data as it does and to count what it costs.

    A trainer says so by attributes of these names, or by a method ``statement()`` that returns one of these. None is
    what it does not say.

    Attributes:
        epochs: for how many it trains.
        batch_size: rows of a training step.
        eval_batch_size: rows read at once otherwise.
        device: where networks work, see `TorchTrainer`.
        transform: of training batches.
        eval_transform: of all others.
        collate: makes a batch of a list of a dataset's inputs.
        num_workers: processes that read.
        outputs: what its networks give, by a name of `prunefuse_al.network.outputs`.
        loss: what is minimised: a name, or a function of outputs and labels.
        accelerator: an `accelerate.Accelerator` that several processes share.
        early_stopping: an `EarlyStopping`.
        distillation: a `Distillation` from the teacher that `fit` is given.
        lr_scale: factor on its learning rates.
        mc_samples: passes for the signal "mc_logits".
        progress: False: no bars are shown of long work, its own or done for it.
    """

    epochs: Any = None
    batch_size: Any = None
    eval_batch_size: Any = None
    device: Any = None
    transform: Any = None
    eval_transform: Any = None
    collate: Any = None
    num_workers: Any = None
    outputs: Any = None
    loss: Any = None
    accelerator: Any = None
    early_stopping: Any = None
    distillation: Any = None
    lr_scale: Any = None
    mc_samples: Any = None
    progress: Any = None


def statement(trainer: Any) -> Statement:
    """Return what a trainer says about itself, by its method `statement` or by attributes of these names."""
    own = getattr(trainer, "statement", None)
    if callable(own):
        return checks.instance(f"{type(trainer).__name__}.statement()", own(), Statement, "a Statement")
    return Statement(**{field.name: getattr(trainer, field.name, None) for field in fields(Statement)})


def alterable(trainer: Any, name: str) -> bool:
    """Tell whether something of a `Statement` can be asked of a trainer otherwise than it states."""
    return hasattr(trainer, name) or name in getattr(trainer, "alterable", ())


def altered(trainer: Any, **changes: Any) -> Any:
    """Return a trainer that differs in what is given, such as ``epochs=3``; the one given stays as it is.

    Its own method ``altered(**changes)`` does so where it has one. Else it is a shallow copy with other attributes: its
    parts may hold open devices and are shared.
    """
    own = getattr(trainer, "altered", None)
    if callable(own):
        return own(**changes)
    other = copy.copy(trainer)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def epochs_of(trainer: Any) -> int | None:
    """Return for how many epochs a trainer trains, or None if it does not say so by a whole number."""
    try:
        return checks.whole("epochs", statement(trainer).epochs)
    except InputError:
        return None


_NUMBERS = "an array, a tensor or a list of numbers"


def _floats(name: str, value: Any, what: str = _NUMBERS) -> Tensor:
    return checks.array(name, value, what, floats=True)


def _numbers(name: str, value: Any, what: str, ndim: int) -> Tensor:
    found = checks.whole_numbers(name, value, what)
    if found.ndim != ndim:
        raise checks.refused(name, value, what)
    return found


def as_rng(rng: RngLike, name: str = "rng") -> np.random.Generator:
    """Return a NumPy generator for a seed, a generator of NumPy or torch, or None (fresh entropy).

    Global random states are never read or written. A torch generator is advanced by one draw.

    Args:
        rng: the seed, a whole number from 0, or the generator.
        name: what the argument is called, for messages.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, np.random.RandomState):
        return np.random.default_rng(rng.randint(0, 2**31 - 1))
    if isinstance(rng, torch.Generator):
        return np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng, device=rng.device)))
    what = "None, a whole number from 0, a numpy Generator or RandomState, or a torch Generator"
    return np.random.default_rng(None if rng is None else checks.whole(name, rng, least=0, what=what))
