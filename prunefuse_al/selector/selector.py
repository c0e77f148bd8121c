"""The whole method: prune, train the proxy, pick what to label with it, fuse it back, fine-tune the target.

PruneFuse V1: every round trains the proxy again from the same pruned initial weights; V2 (`sync_every`) cuts a new
proxy out of a target trained on what was labelled so far.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from .. import checks
from ..costs import CostLedger
from ..data import alone, as_dataset
from ..errors import FallbackWarning, InputError, warn
from ..fusing import Fusion
from ..network import check_model, copied, looks_trained
from ..proxies import ProxyKind, PruningRatio
from ..pruning import GlobalScope, check_keep
from ..scorers import get_scorer
from ..training import Distillation, ProgressivePruning
from ..types import RngLike, Scorer, Selection, Trainer, as_rng
from .candidates import Int64s
from .coreset import budget, choose
from .holding import Holder
from .labelled import labelled_dataset
from .options import Options, WarmStart, check_warm, told
from .picking import pick
from .restoring import check_names, load_selector
from .rounds import prepare, train_proxy
from .saving import Beside, save_selector
from .state import State, Uncut
from .watching import recorder_for


class PrunedProxySelector(Holder):
    """Chooses what to label with a pruned copy of a network, and gives the trained copy back to the network.

    With the same `random_state`, fitting on the same data gives the same proxy, and asking again after the same
    number of fits gives the same picks. A call that fails leaves the selector as it was. Calls of several threads, also
    of several selectors, come one after the other (see `turns`), each as if it were alone.

    Args:
        model: the dense network; copied, never changed. Its present weights are what every round starts from.
        pruning_ratio: fraction of channels removed, 0 <= p < 1; 0 is the dense baseline. Or a `FallingRatio`, or any
            function from the number of labelled samples to a ratio: where it changes, that round's proxy is cut anew
            out of the same dense network, by `importance`, and starts as it was cut, also with `warm_start`.
        scorer: name in `SCORERS`, or any `Scorer`.
        trainer: any `Trainer`; None is `TorchTrainer()`.
        importance: which channels stay, see `prune`; "taylor", "hessian" and "gates" read 256 of the labelled rows,
            "activation" on as many of `unlabelled`. "auto" is "activation" where `model` was trained before, and "l2"
            where it was not or ``repair=False``.
        sync_every: None for V1; T for V2: at the end of every T-th `fit` the proxy is fused and the target trained on
            the same data, and the next proxy is cut out of that target. `fit_target()` gives that target as it is.
        sync_importance: which channels stay when V2 prunes a trained target: None goes by `importance`, "same" takes
            those of the proxy before (no search, and it starts nearer to what was learnt), anything else as
            `importance`.
        cross: what fusing does to the other weights, see `fuse`; "auto" is "delta" for a pretrained network, its weight
            chosen on labelled rows with 0 allowed, and "preserve" for one at initialisation.
        distillation: a `Distillation` that teaches the target by the proxy; None: what its trainer does.
        example_inputs: what `model` takes, two rows; None takes them from the first data seen.
        proxy: the kind of what is selected with, see `prunefuse_al.proxies`: None is ``Pruned``, as the options here
            say; a ``Pruned(...)`` says them itself; ``Dense()`` is the dense network, ``Probe()`` it with all but its
            head frozen; another network, or ``Another(network)``, selects in its place (Selection via Proxy, Coleman
            et al., 2020): nothing can be fused
            then, and the target is trained from the dense network's initial weights. Or a `ProxyKind` of your own.
        random_state: seed of everything; None draws one.
        warm_start: train on from the last proxy instead of starting again each round; a `ShrinkPerturb`: from its
            weights made smaller, with noise, perhaps for fewer epochs. What was newly cut starts as it was cut.
        target_trainer: trains the target at its own learning rate; None: `trainer`, at the rate stated next.
        fine_tune_lr_scale: factor on `trainer`'s learning rates after fusing; None or 1 leaves them. "auto": 0.5 (a
            high rate throws the proxy's knowledge away, a low one leaves no time to go beyond it), and 1 for a
            pretrained network, whose rate is one for fine-tuning already.
        recalibrate: re-estimate BatchNorm statistics where they are wrong: of a proxy cut from a network that has
            been trained, and of the target unless ``cross="preserve"`` keeps them exact. A target's frozen layers (see
            `fuse`) keep theirs.
        recalibration_data: unlabelled data to estimate them on (at most 10,000 rows are read), arrays or a Dataset;
            None: the labelled data. Networks without BatchNorm, at initialisation, or given as `proxy` have nothing
            to estimate again. Pickles hold this data, files of `save` do not.
        fold_batchnorm: score pools with BatchNorm folded into the layer before it, where that is exact.
        progressive: a `ProgressivePruning`, to let channels leave during the first epochs of each training instead of
            before it; None prunes at once. Proxies that go on from the last one (`warm_start`) are thin already.
        keep: layers never thinned, see `prune`.
        parts: ``"all"``, or ``"interiors"`` to keep residual streams whole, see `prune`.
        scope: ``"local"``, ``"global"`` or a `GlobalScope`, see `prune`.
        round_to: round widths to a multiple of this; None where it costs nothing, 1 never; see `prune`.
        candidate_fraction: share of the candidates that a query draws at random and scores, in (0, 1], at least k of
            them; for large pools, where scoring costs more than training. `Selection.considered` says how many.
        features_dtype: how a query keeps features that its scorer reads for all candidates at once: "float32", or
            "float16" for half the memory.
        features_path: a .npy file for those features, mapped into memory, so that they may be larger than it. Every
            query writes it anew; row i is candidate i, in the order in which candidates are named.
        pretrained: whether `model` was trained before, elsewhere: then its proxy is repaired (see `repair` of this
            package) instead of having BatchNorm statistics estimated again, and ``cross="auto"`` is "delta". "auto"
            looks at its normalisations (`network.looks_trained`), and is False in `options` where it was not.
        unlabelled: data to repair on, such as the pool; None: `recalibration_data`, else the data of the first `fit`,
            or of `prepare`. Pickles hold it, files of `save` do not.
        repair: False leaves the proxy of a pretrained network as it was cut; or a dict of arguments of `repair`.

    Raises:
        InputError: an option is out of range or unknown.
        UnsupportedModelError: the network cannot be worked on.

    Attributes:
        options: the options, checked and frozen.
        history: what the trainer returned for the last `fit`.

    Example:
        >>> import torch
        >>> from prunefuse_al import TorchTrainer
        >>> X, y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
        >>> with torch.random.fork_rng():
        ...     net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> selector = PrunedProxySelector(net, 0.5, trainer=TorchTrainer(epochs=2, progress=False), random_state=0)
        >>> picked = selector.fit(X[:20], y[:20]).query(X, k=5, candidates=range(20, 60))
        >>> len(picked), bool((picked >= 20).all())
        (5, True)
        >>> selector.fit_target()[0].out_features
        16
    """

    def __init__(
        self,
        model: nn.Module,
        pruning_ratio: PruningRatio = Options.pruning_ratio,
        *,
        scorer: str | Scorer = Options.scorer,
        trainer: Trainer | None = Options.trainer,
        importance: Any = Options.importance,
        sync_every: int | None = Options.sync_every,
        sync_importance: Any = Options.sync_importance,
        cross: str | float | Fusion = Options.cross,
        distillation: Distillation | None = Options.distillation,
        example_inputs: Any = Options.example_inputs,
        proxy: ProxyKind | nn.Module | None = Options.proxy,
        random_state: RngLike = Options.random_state,
        warm_start: WarmStart = Options.warm_start,
        target_trainer: Trainer | None = Options.target_trainer,
        fine_tune_lr_scale: float | str | None = Options.fine_tune_lr_scale,
        recalibrate: bool = Options.recalibrate,
        recalibration_data: Any = Options.recalibration_data,
        fold_batchnorm: bool = Options.fold_batchnorm,
        keep: Any = Options.keep,
        parts: str = Options.parts,
        scope: str | GlobalScope = Options.scope,
        round_to: int | None = Options.round_to,
        progressive: ProgressivePruning | None = Options.progressive,
        candidate_fraction: float = Options.candidate_fraction,
        features_dtype: str = Options.features_dtype,
        features_path: str | os.PathLike[str] | None = Options.features_path,
        pretrained: bool | str = Options.pretrained,
        unlabelled: Any = Options.unlabelled,
        repair: bool | Mapping[str, Any] = Options.repair,
    ) -> None:
        given = told(locals())
        check_model(model)
        options = Options(**given)
        new = isinstance(options.pretrained, str) and not looks_trained(model)  # whatever becomes of it in V2
        trained = False if new else options.pretrained
        self.options = replace(options, keep=check_keep(options.keep, model), pretrained=trained)
        self.history: Any = None
        self._state: State = Uncut(copied(model))
        self._ledger = CostLedger()

    def prepare(self, unlabelled: Any = None) -> PrunedProxySelector:
        """Prune before anything is labelled, so that a network trained elsewhere can choose the first samples.

        Until `fit`, `query` and `fuse` answer with the proxy as it was cut; a pretrained network's is repaired first.

        Args:
            unlabelled: data to read the network's input from, and to repair the proxy on unless the option `unlabelled`
                is there for that; None: that option's, or `recalibration_data`.

        Raises:
            InputError: after a `fit`, or no data was given.
        """
        own = (unlabelled, self.options.unlabelled, self.options.recalibration_data)
        given = next((data for data in own if data is not None), None)
        if given is None:
            raise InputError(
                "prepare: pass unlabelled data, such as the pool, or unlabelled= or recalibration_data= to the class"
            )
        with self._ledger.transaction():
            if self._state.round or not isinstance(self._state, Uncut):
                raise InputError(f"prepare: the proxy is there already (round {self.round}); prepare comes before fit")
            self._state = prepare(self.options, self._ledger, self._state, as_dataset(given))
        return self

    def fit(
        self, labelled: Any, y: Any = None, sample_weight: Any = None, *, warm_start: WarmStart | None = None
    ) -> PrunedProxySelector:
        """Prune if needed, then train the proxy, and in V2's turn the target; returns the selector.

        Args:
            labelled: arrays, tensors, memmaps or a map-style Dataset, with labels in it or in `y`; or the tuple (X, y)
                or (X, y, sample_weight). With `y`, a tuple is several inputs of the network.
            y: labels, int64 [n], or as the trainer's loss takes them, see `TorchTrainer`.
            sample_weight: weights [n].
            warm_start: overrides the selector's own for this call.

        Raises:
            InputError: the data cannot be used, or not by this network.
            PruningError: the network cannot be pruned as asked.
            NonFiniteError: NaN or infinity in inputs or loss.
        """
        data = labelled_dataset("fit", labelled, y, sample_weight)
        given = self.options.warm_start if warm_start is None else warm_start
        warm = check_warm(given, self.options.trainer)
        with self._ledger.transaction():
            learner = self.options.kind.trains(self.options.trainer)
            recorder = recorder_for(learner, self.options.scorer, self._state)
            self._state, self.history = train_proxy(
                self.options, self._ledger, self._state, data, warm=warm, recorder=recorder
            )
        return self

    def query(self, pool: Any, k: int, candidates: Any = None) -> Int64s:
        """Return the k samples to label next.

        Args:
            pool: arrays, tensors, memmaps or a map-style Dataset; read in chunks, labels in a Dataset are ignored. A
                tuple is several inputs of the network.
            k: how many, 1 to the number of candidates.
            candidates: row numbers of `pool`, or a boolean mask, of what may be picked; None: all of it.

        Returns:
            int64 [k], best first, unique, indices into `pool`.

        Raises:
            BudgetError: `k` is not between 1 and the number of candidates.
            NonFiniteError: NaN or infinity in rows of the pool, which are named.
            NotFittedError: before `fit`.
        """
        picked: Int64s = self.select(pool, k, candidates).indices.numpy()
        return picked

    def select(
        self, pool: Any, k: int, candidates: Any = None, *, scorer: str | Scorer | None = None, rng: RngLike = None
    ) -> Selection:
        """Return what `query` does as a `Selection`, with scores where the scorer gives them.

        Args:
            pool: see `query`.
            k: see `query`.
            candidates: see `query`.
            scorer: used instead of the selector's own.
            rng: breaks ties and draws; None: derived from `random_state` and the round.
        """
        with alone():
            state, data = self._fitted("query"), as_dataset(pool)
            self._state, picked = pick(self.options, self._ledger, state, data, k, candidates, scorer=scorer, rng=rng)
        return picked

    def coreset(
        self,
        dataset: Any,
        fraction: float,
        y: Any = None,
        sample_weight: Any = None,
        *,
        scorer: str | Scorer | None = None,
        rng: RngLike = None,
    ) -> Selection:
        """Train the proxy on all of a labelled dataset and return the part of it that is worth keeping.

        Counts as a `fit`, on the part that is kept: `fit_target()` fuses the proxy and trains the target on that.

        Args:
            dataset: with labels in it or in `y`, see `fit`.
            fraction: share to keep, 0 < fraction <= 1.
            y: labels, int64 [n].
            sample_weight: weights [n].
            scorer: used instead of the selector's own.
            rng: breaks ties and draws; None: derived from `random_state` and the round.

        Returns:
            A `Selection`: int64 indices into `dataset`, best first; its `labels` are "given" where the scorer read any.

        Raises:
            InputError: the data, the fraction, or the scorer with this trainer cannot be used.
        """
        data = labelled_dataset("coreset", dataset, y, sample_weight)
        chosen = self.options.scorer if scorer is None else get_scorer(scorer)
        k = budget(fraction, len(data))
        with self._ledger.transaction():
            generator = as_rng(self.options.seed("query", self.round + 1) if rng is None else rng)
            self._state, self.history, picked = choose(
                self.options, self._ledger, self._state, data, k, chosen, generator
            )
        return picked

    def follow(self, other: PrunedProxySelector) -> None:
        """Go on with the rounds and the ledger of `other`, whose place this selector takes, before its first fit."""
        checks.instance("other", other, PrunedProxySelector, "another PrunedProxySelector")
        self._ledger, self._state = other._ledger, replace(self._state, round=other.round)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the selector to one file: safetensors with JSON in its header, all or nothing, no pickle.

        The labelled data is not written. Options that JSON cannot hold, such as functions in a trainer, are left
        out and asked for by `load`; `features_path` is left out as well. A symbolic link is followed, and the file has
        the permissions of the one it replaces, or those of any new file.

        Raises:
            CheckpointError: the network's state holds what is no tensor.
            OSError: the file cannot be written (no such folder, no permission, the disk is full); what was there is
                still there.
        """
        stored(self, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: nn.Module, *, accept_changes: bool = False, **options: Any
    ) -> PrunedProxySelector:
        """Return the selector that `save` wrote: it picks the same samples.

        Files may come from anyone: a file makes no objects but this library's options, and names nothing that is
        written to. One that an earlier version wrote loads with a `FallbackWarning` of what its digest leaves out.

        Args:
            path: the file.
            model: a network of the same architecture, with any weights; it is not changed.
            accept_changes: take a network of the same tensors whose modules are of other classes, were told something
                else, or whose code names something else than those that were saved: it may pick otherwise.
            **options: constructor options that are not in the file (`trainer`, `proxy`, ...), or to replace.

        Raises:
            CheckpointError: damaged or foreign file, another architecture, or an option is missing.
            FileNotFoundError: there is no such file.
            OSError: it may not be read.
            InputError: one of `options` is unknown or out of range.
        """
        check_model(model)
        check_names(cls, "load", options)
        accept = checks.flag("accept_changes", accept_changes)
        return restored(cls, path, model, options, accept_changes=accept).selector

    def __repr__(self) -> str:
        o = self.options
        name = type(self._state.dense).__name__
        return f"<PrunedProxySelector of {name}, pruning_ratio={o.pruning_ratio}, {o.scorer!r}, round {self.round}>"


@dataclass(frozen=True, eq=False)
class Restored:
    """A selector out of a file, and what an estimator keeps there."""

    selector: PrunedProxySelector
    beside: Beside | None


def restored(
    kind: type[PrunedProxySelector],
    path: str | os.PathLike[str],
    model: nn.Module,
    options: Mapping[str, Any],
    *,
    accept_changes: bool = False,
) -> Restored:
    """Return what `save` wrote, as a selector of a class; see `PrunedProxySelector.load`."""
    saved = load_selector(checks.path("path", path), model, options, accept_changes=accept_changes)
    selector = saved.constructed(partial(kind, model), options)
    selector._state, selector._ledger = saved.state_of(selector.options.kind), saved.ledger
    kept = {"random_state": saved.entropy, "pretrained": saved.options["pretrained"]}  # whatever `model` looks like
    selector.options = replace(selector.options, **{k: v for k, v in kept.items() if k not in options})
    saved.check_start(selector.options)
    for words in saved.said:
        warn(words, FallbackWarning)
    return Restored(selector, saved.beside)


def stored(selector: PrunedProxySelector, path: str | os.PathLike[str], beside: Beside | None = None) -> None:
    """Write a selector's file, with what an estimator keeps there; see `PrunedProxySelector.save`."""
    with alone():
        save_selector(checks.path("path", path), selector.options, selector._state, selector._ledger, beside)
