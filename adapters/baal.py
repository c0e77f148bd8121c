"""baal 2.1 (``pip install baal``): its loop, with a pruned proxy that trains and selects.

    from baal.active import ActiveLearningDataset, ActiveLearningLoop
    from prunefuse_al.adapters.baal import ProxyHeuristic, ProxyWrapper

    wrapper = ProxyWrapper(model, training_args, pruning_ratio=0.5)  # instead of ModelWrapper(model, training_args)
    loop = ActiveLearningLoop(dataset, wrapper.get_probabilities, ProxyHeuristic(wrapper, "margin"), query_size=20)
    for _ in range(rounds):
        wrapper.train_on_dataset(dataset)
        loop.step()
    target = wrapper.fit_target()

baal's own heuristics work as well: give the loop ``wrapper.predict_on_dataset`` and ``iterations=``, as before.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from prunefuse_al.adapters import require_host
from prunefuse_al.data import as_dataset, labels_of, subset
from prunefuse_al.errors import InputError
from prunefuse_al.network import SIGMOID, SOFTMAX, Outputs, of_trainer, probabilities
from prunefuse_al.proxies import PruningRatio
from prunefuse_al.scorers import get_scorer
from prunefuse_al.selector import PrunedProxySelector, select_known
from prunefuse_al.training import Objective, TorchTrainer
from prunefuse_al.types import PointScorer, RngLike, Scorer, Signals, Trainer

require_host("baal", extra="baal")

from baal.active.heuristics import AbstractHeuristic  # noqa: E402
from baal.modelwrapper import ModelWrapper, TrainingArgs  # noqa: E402

_ROWS = 1024  # rows of predictions held at once


class ProxyWrapper(ModelWrapper):
    """A `ModelWrapper` whose training and predictions are those of a pruned proxy.

    Every training starts from the pruned initial weights, so there is nothing to reset between rounds.

    Args:
        model: the dense network, without layers of `baal.bayesian`: `iterations` passes turn its own dropout on.
        args: what baal trains with. The optimiser is made anew for the proxy, of the same class and options.
        pruning_ratio: fraction of channels removed, or a function of the number of labelled samples, see
            `PrunedProxySelector`.
        trainer: any `Trainer`, instead of one made from `args`.
        options: of `PrunedProxySelector`.

    Attributes:
        selector: the `PrunedProxySelector` that does the work.
        model: the trained proxy; after `fit_target` the target, until the next training.

    Raises:
        InputError: the network is random in every pass, or `args` cannot be taken over.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArgs,
        pruning_ratio: PruningRatio = 0.5,
        *,
        trainer: Trainer | None = None,
        **options: Any,
    ) -> None:
        random = [type(m).__name__ for m in model.modules() if type(m).__module__.startswith("baal.bayesian")]
        if random:
            raise InputError(
                f"the network has {random[0]} of baal.bayesian, random in every pass, so no proxy can be checked "
                "against it; give the plain network: predictions of several iterations turn its dropout on"
            )
        super().__init__(model, args)
        made = trainer_of(args) if trainer is None else trainer
        self.selector = PrunedProxySelector(model, pruning_ratio, trainer=made, **options)
        self._start = copy.deepcopy(model.state_dict())
        self._all: _Raw | None = None  # rows of the dataset trained on last, always by the same object

    def train_on_dataset(self, dataset: Any) -> Any:
        """Train the proxy; return the loss of every epoch, or what a `trainer` of your own returned.

        The proxy of a pretrained network is repaired on all rows of an `ActiveLearningDataset`, labelled or not.
        """
        new = not self.selector.round and not len(self.selector.costs)
        if self._all is None or self._all.dataset is not dataset:
            self._all = _Raw(dataset) if hasattr(dataset, "get_raw") else None
        if new and self.selector.options.pretrained and self._all is not None:
            self.selector.prepare(self._all)
        self.model = self.selector.fit(self._as_it_is_now(dataset)).model
        self._reset_metrics("train")
        self.set_dataset_size(len(dataset))
        history = self.selector.history
        if hasattr(history, "epochs"):
            history = [row["loss"] for row in history.epochs]
            self.metrics["train_loss"].update(torch.tensor(history[-1]))
        self.active_step(len(dataset), self.get_metrics("train"))
        return history

    def test_on_dataset(self, dataset: Any, average_predictions: int = 1) -> Any:
        """Return the mean loss of the proxy, or of the target, and update baal's metrics."""
        target = labels_of(as_dataset(dataset))
        if target is None:
            raise InputError("test_on_dataset: the data has no labels; its items must be (input, label)")
        self._reset_metrics("test")
        logits = torch.from_numpy(self.predict_on_dataset(dataset, average_predictions, verbose=False)).mean(-1)
        outputs = of_trainer(self.selector.options.trainer)
        objective = Objective(self.args.criterion or "cross_entropy", given(logits, outputs), outputs)
        objective.asked.check(target)
        loss = objective(given(logits, outputs), objective.asked.aligned(target, given(logits, outputs)))
        self._update_metrics(logits, target, loss, "test")
        self.active_step(None, self.get_metrics("test"))
        return self.get_metrics("test")["test_loss"]

    def predict_on_dataset_generator(
        self, dataset: Any, iterations: int = 1, half: bool = False, verbose: bool = True
    ) -> Iterator[np.ndarray]:
        """Yield logits [b c ... iterations], 1,024 rows at a time; with several iterations, of passes with dropout.

        One output with a sigmoid comes as two classes, (0, z), which baal's own heuristics read as they do others.
        """
        final = None if self.model is self.selector.model else self.model
        name, passes = ("logits", None) if iterations == 1 else ("mc_logits", iterations)
        for rows in torch.arange(len(dataset)).split(_ROWS) if len(dataset) else ():
            batch = subset(as_dataset(dataset), rows)
            found = getattr(self.selector.signals(batch, frozenset({name}), model=final, mc_samples=passes), name)
            logits = found[..., None] if passes is None else found.movedim(0, -1)  # [b c ... t]
            yield (logits.half() if half else logits).numpy()

    def get_probabilities(self, pool: Any, **_: Any) -> Any:
        """Return the pool itself: a `ProxyHeuristic` asks the proxy what its scorer reads, which may be features.

        baal copies the data for each step. Where the copy differs in nothing, the same rows of the data itself are
        returned, of which a probe knows the features.
        """
        part: Any = getattr(pool, "_dataset", None)  # a Subset of the copy
        rows, data = getattr(part, "indices", None), self._all
        if data is None or rows is None or data.dataset.pool_specifics:
            return pool
        same = len(part.dataset) == len(data) and len(rows) == data.unlabelled
        return subset(data, list(rows)) if same else pool

    def fit_target(self, dataset: Any = None) -> nn.Module:
        """Return the fused and fine-tuned network; None: on the data of the last training, as it was then."""
        self.model = self.selector.fit_target(None if dataset is None else self._as_it_is_now(dataset))
        return self.model

    def _as_it_is_now(self, dataset: Any) -> Any:
        """Return what an `ActiveLearningDataset`, whose rows move with every label, holds now; other data as it is."""
        if not hasattr(dataset, "get_indices_for_active_step"):
            return dataset
        every = self._all if self._all is not None and self._all.dataset is dataset else _Raw(dataset)
        return subset(every, list(dataset.get_indices_for_active_step()))

    def train_on_batch(self, *_: Any, **__: Any) -> Any:
        """Refuse: only all that is labelled trains a proxy."""
        raise NotImplementedError("a proxy is trained as a whole: call train_on_dataset(dataset) and test_on_dataset")

    train_and_test_on_datasets = train_on_batch

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights of the dense network that the first proxy is cut from."""
        return self._start

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True) -> None:
        """Accept the weights that every training starts from anyway, and raise `InputError` for others."""
        same = state_dict.keys() == self._start.keys()
        if not same or not all(torch.equal(value, state_dict[name]) for name, value in self._start.items()):
            raise InputError(
                "load_state_dict: every training starts from the weights the network had when it was wrapped, and "
                "these are others; make a new ProxyWrapper to start from them"
            )

    def reset_fcs(self) -> None:
        """Do nothing: every training starts from the pruned initial weights."""

    reset_all = reset_fcs


class ProxyHeuristic(AbstractHeuristic):
    """A scorer as baal's heuristic.

    Args:
        wrapper: whose proxy is asked when `get_ranks` is given a pool.
        scorer: name in `SCORERS` or a scorer; None: the selector's own.
        query_size: how many to pick, needed by scorers that pick a batch as a whole; None ranks the whole pool.
        rng: see `PrunedProxySelector.select`.
    """

    def __init__(
        self,
        wrapper: ProxyWrapper,
        scorer: str | Scorer | None = None,
        query_size: int | None = None,
        rng: RngLike = None,
    ) -> None:
        super().__init__(reverse=True)
        self.selector, self.query_size, self.rng = wrapper.selector, query_size, rng
        self.scorer = self.selector.options.scorer if scorer is None else get_scorer(scorer)
        if query_size is None and not isinstance(self.scorer, PointScorer):
            raise InputError(f"{self.scorer!r} picks a batch as a whole: pass query_size=, the same as to the loop")

    def get_ranks(self, predictions: Any, target_predictions: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of the pool, int64 [k], best first, and scores [n] in the pool's order, NaN where there is none.

        Args:
            predictions: the pool, a Dataset, of which the scorer may read any signal; or predictions [n c t], logits or
                probabilities, or a generator of such, for scorers of logits or of stochastic passes.
            target_predictions: not used.

        Raises:
            InputError: predictions have more dimensions, such as pixels, or the scorer reads something else.
        """
        signals = None if isinstance(predictions, Dataset) else self._signals(predictions)
        n = len(predictions if signals is None else signals)
        k = n if self.query_size is None else min(self.query_size, n)
        if signals is None:
            picked = self.selector.select(predictions, k, scorer=self.scorer, rng=self.rng)
        else:
            picked = select_known(self.scorer, signals, k, self.rng)
        scores = np.full(n, np.nan)
        if picked.scores is not None:
            scores[picked.indices] = picked.scores
        return picked.indices.numpy(), scores

    def _signals(self, predictions: Any) -> Signals:
        chunks = predictions if isinstance(predictions, GeneratorType) else [predictions]
        passes, outputs = "mc_logits" in self.scorer.needs, of_trainer(self.selector.options.trainer)
        found = [_logits(np.asarray(chunk), passes, outputs) for chunk in chunks]
        logits, kind = torch.cat([logits for logits, _ in found]), found[0][1]
        rows = torch.arange(len(logits))
        if passes:
            return Signals(rows, mc_logits=logits.permute(2, 0, 1), outputs=kind)
        return Signals(rows, logits, outputs=kind)


def trainer_of(args: TrainingArgs) -> TorchTrainer:
    """Return a trainer that trains as `args` says, or raise `InputError` if it holds what belongs to one network."""
    groups = [] if args.optimizer is None else args.optimizer.param_groups
    if len(groups) != 1 or args.regularizer is not None:
        what = "a regulariser" if args.regularizer is not None else f"{len(groups)} parameter groups"
        raise InputError(f"TrainingArgs with {what} cannot be taken over to a proxy; pass trainer= to ProxyWrapper")
    kind, group = type(args.optimizer), groups[0]
    taken = {name: group[name] for name in inspect.signature(kind).parameters if name in group and name != "params"}
    own_collate = args.collate_fn is not default_collate
    return TorchTrainer(
        args.epoch,
        args.batch_size,
        optimizer=lambda parameters: kind(parameters, **taken),
        scheduler="constant",
        loss=args.criterion or "cross_entropy",
        device="cuda" if args.use_cuda else "cpu",
        num_workers=args.workers,
        collate=(lambda inputs: args.collate_fn([(x, 0) for x in inputs])[0]) if own_collate else None,
        progress=False,
    )


class _Raw(Dataset[Any]):
    """All rows of an `ActiveLearningDataset`, labelled or not."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset.labelled)

    @property
    def unlabelled(self) -> int:
        """How many rows have no label."""
        return int((~self.dataset.labelled).sum())

    def __getitem__(self, row: int) -> Any:
        return self.dataset.get_raw(row)


def given(logits: Tensor, outputs: Outputs | None) -> Tensor:
    """Return logits as scorers see them, [n c ...], as a network with such outputs gave them to its loss."""
    if outputs is None or outputs.kind != SIGMOID:
        return logits
    z = logits[:, 1:] if _two_classes(logits) else logits
    return z.sigmoid() if outputs.squashed else z


def _two_classes(logits: Tensor) -> bool:
    """Tell whether logits [n c ...] are those of a single output z, (0, z)."""
    return logits.shape[1] == 2 and not bool(logits[:, 0].any())


def _logits(predictions: np.ndarray, passes: bool, outputs: Outputs | None) -> tuple[Tensor, str]:
    """Return predictions as logits [n c t], and their kind; without passes the logits of their mean, [n c].

    Args:
        predictions: logits or probabilities, [n c] or [n c t].
        passes: keep the passes apart.
        outputs: what the networks give whose predictions they are.

    Raises:
        InputError: there is a prediction at every position of a sample, and not one for the sample.
    """
    if predictions.ndim not in (2, 3):
        raise InputError(
            f"predictions have shape {list(predictions.shape)}, at several positions of a sample; a scorer ranks by "
            "one prediction a sample, [n c] or [n c passes]: average over positions, or use baal's own heuristics"
        )
    p = torch.from_numpy(predictions.reshape(*predictions.shape[:2], -1))  # [n c t]
    independent = outputs is not None and outputs.kind == SIGMOID and not _two_classes(p)
    bounded = bool(p.numel()) and float(p.min()) >= 0 and float(p.max()) <= 1 + 1e-6
    squashed = bounded and (independent or np.allclose(predictions.sum(1), 1))
    kind = SIGMOID if independent else SOFTMAX
    logits = Outputs(kind, squashed).logits(p.double() if squashed else p)
    if not passes and logits.shape[2] > 1:
        mean = probabilities(logits.double(), kind).mean(2)
        return Outputs(kind, squashed=True).logits(mean), kind
    return (logits if passes else logits[..., 0]), kind
