"""skorch (``pip install skorch``, 1.4 and later): a `NeuralNetClassifier` that trains, and asks, a pruned proxy.

from skorch.callbacks import EarlyStopping
from prunefuse_al.adapters.skorch import PruneFuseNet

net = PruneFuseNet(Network, pruning_ratio=0.5, criterion=nn.CrossEntropyLoss, callbacks=[EarlyStopping()])
rows = net.fit(X, y).query(X_pool, k=20)   # trains the proxy, which then picks
net.fit_target().predict(X_test)           # fused and fine-tuned; answers until the next fit
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from sklearn.base import clone
from torch import nn

from prunefuse_al import Distillation
from prunefuse_al.adapters import require_host
from prunefuse_al.costs import CostLedger
from prunefuse_al.data import alone
from prunefuse_al.errors import InputError, NotFittedError
from prunefuse_al.estimator import unchanged_on_error
from prunefuse_al.fusing import Fusion
from prunefuse_al.network import WithoutHistory, copied, looks_trained
from prunefuse_al.proxies import PruningRatio
from prunefuse_al.pruning import GlobalScope, Proxy
from prunefuse_al.selector import Options, Trained, Uncut, call_rng, entropy_of, pick, refuse_alone
from prunefuse_al.types import RngLike, Scorer

require_host("skorch", extra="skorch")

from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier  # noqa: E402
from skorch.utils import to_device  # noqa: E402

from prunefuse_al.adapters.skorch_reading import uncompiled  # noqa: E402
from prunefuse_al.adapters.skorch_training import ProxyTraining  # noqa: E402


class PruneFuseNet(ProxyTraining):
    """A `skorch.NeuralNetClassifier` whose module is a pruned proxy until `fit_target` makes it the fused target.

    Everything skorch knows (criterion, optimizer, callbacks, ``iterator_*``, ``train_split``, ``history``) works on
    whichever of the two is being trained. As in skorch, a module class or function is called anew by every `fit`; a
    module *instance* is copied, so that every `fit` starts from the weights it has and never changes them.

    Args:
        module: see skorch.
        *args: see skorch.
        pruning_ratio: fraction of channels removed, 0 <= p < 1; 0 trains as skorch's own net does. Or a `FallingRatio`
            or function of the number of labelled samples, asked when the module is made, so by every `fit`.
        scorer: name in `SCORERS`, or any `Scorer`; what `query` uses.
        importance: which channels stay, see `prune`.
        cross: what fusing does to the other weights, see `fuse`.
        distillation: a `Distillation`: while the target trains, the proxy's part is in the loss of its training
            batches (`get_loss`); `train_loss` is that of both, and what is scored on held-out data is as ever. Or None.
        fine_tune_lr_scale: factor on the optimizer's learning rates where a target trains; see `PrunedProxySelector`.
        sync_every: V2: the T-th, 2T-th, ... fit also trains a target, and the proxies of the fits that follow are cut
            from that instead of a module made anew; `initialize` and new settings of the module start over.
            None: V1, never.
        keep: names, patterns or types of layers never thinned.
        parts: "all", or "interiors" to keep residual streams whole, see `prune`.
        scope: see `prune`.
        round_to: see `prune`.
        recalibrate: re-estimate BatchNorm statistics where they are wrong, see `PrunedProxySelector`.
        example_inputs: a batch as the module is called. None: taken from the first data seen, and until then, that is
            after `initialize` alone, the module is the whole network.
        random_state: seed of what pruning and `query` draw. skorch itself draws from torch's global generator.
        **kwargs: see skorch.

    Attributes:
        module_: what answers: the trained proxy, after `fit_target` the target.
        costs_: `CostLedger`, one row per stage and round.
        pretrained_: whether the module looked trained when it was made, see `PrunedProxySelector`.
        proxy_history_: after `fit_target`, the proxy's `history`.
        sync_history_: with `sync_every`, the `history` of the target that was trained last between rounds.
    """

    cuda_dependent_attributes_: ClassVar = ["state_"]  # skorch pickles these so that they load without a GPU
    proxy_history_: Any
    _goes_on = False  # whether a fit is under way, so that V2 goes on with the network it has

    def __init__(
        self,
        module: Any,
        *args: Any,
        pruning_ratio: PruningRatio = Options.pruning_ratio,
        scorer: str | Scorer = Options.scorer,
        importance: Any = Options.importance,
        cross: str | float | Fusion = Options.cross,
        distillation: Distillation | None = Options.distillation,
        fine_tune_lr_scale: Any = Options.fine_tune_lr_scale,
        sync_every: int | None = Options.sync_every,
        keep: Any = Options.keep,
        parts: str = Options.parts,
        scope: str | GlobalScope = Options.scope,
        round_to: int | None = Options.round_to,
        recalibrate: bool = Options.recalibrate,
        example_inputs: Any = Options.example_inputs,
        random_state: RngLike = Options.random_state,
        **kwargs: Any,
    ) -> None:
        if isinstance(self, NeuralNetBinaryClassifier) and not args:
            kwargs.setdefault("criterion", nn.BCEWithLogitsLoss)  # the binary net's own
        super().__init__(module, *args, **kwargs)
        self.pruning_ratio = pruning_ratio
        self.scorer = scorer
        self.importance = importance
        self.cross = cross
        self.distillation = distillation
        self.fine_tune_lr_scale = fine_tune_lr_scale
        self.sync_every = sync_every
        self.keep = keep
        self.parts = parts
        self.scope = scope
        self.round_to = round_to
        self.recalibrate = recalibrate
        self.example_inputs = example_inputs
        self.random_state = random_state
        self.costs_ = CostLedger()

    @classmethod
    def from_net(
        cls, net: NeuralNetClassifier, pruning_ratio: PruningRatio = Options.pruning_ratio, **options: Any
    ) -> PruneFuseNet:
        """Return a net with the settings of `net` and, if that is initialised, its present weights to start from.

        Args:
            net: a `NeuralNetClassifier`; not changed.
            pruning_ratio: see the class.
            **options: further arguments of the class, or settings to replace.

        Raises:
            InputError: `net` is of a class whose own methods would be lost.
        """
        if not issubclass(cls, type(net)):
            name = type(net).__name__
            raise InputError(
                f"from_net: the net is a {name}, and {cls.__name__} has none of its methods; define "
                f"`class Pruned{name}({cls.__name__}, {name})` and call Pruned{name}.from_net(net)"
            )
        settings = clone(net).get_params(deep=False)
        if net.initialized_:
            settings = {name: value for name, value in settings.items() if not name.startswith("module__")}
            settings["module"] = copied(uncompiled(net.module_))
        return cls(**{**settings, "pruning_ratio": pruning_ratio, **options})

    # Training

    def initialize_module(self) -> PruneFuseNet:
        """Make the module as skorch does, then thin it; optimizers, made later, see the thinned parameters."""
        last = getattr(self, "state_", Uncut(nn.Identity()))
        super().initialize_module()
        synced = last.synced if isinstance(last, Trained) else None
        self.of_target_ = self._goes_on and (self.of_target_ or synced is not None)
        if self.of_target_:
            dense = last.dense if synced is None else synced
        else:
            dense = copied(self.module_) if self.module_ is self.module else self.module_
        self.module_ = to_device(dense, self.device)
        self.entropy_ = entropy_of(self.random_state)
        if not self.of_target_:  # a target of ours is trained, but not elsewhere
            self.pretrained_ = looks_trained(self.module_)
        self.state_ = Uncut(self.module_, last.round, last.proxy if isinstance(last, Trained) else last.before)
        labelled = getattr(self, "labelled_", None)
        if self.example_inputs is not None or labelled is not None:
            self._thin(self.module_, labelled)
        return self

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> PruneFuseNet:
        """Train the proxy from the start (or on, with `warm_start`); see skorch."""
        with alone():
            self.labelled_, self._goes_on = (X, y), True
            try:
                super().fit(X, y, **fit_params)
            finally:
                self._goes_on = False
        return self

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any) -> PruneFuseNet:
        """Train the proxy on from its present weights, also after `fit_target`; see skorch."""
        with alone():
            self.labelled_ = (X, y)
            if not self.initialized_:
                self.initialize()
            self._begin_proxy(self.labelled_)
            number = self.state_.round + 1
            self._train("train_proxy", number, X, y, classes=classes, **fit_params)
            self.state_ = replace(self.state_, round=number)
            if self.sync_every and number % self.sync_every == 0:
                fit_params.pop("_routing_method", None)
                self._sync(X, y, **fit_params)
        return self

    def fit_target(self, X: Any = None, y: Any = None, **fit_params: Any) -> PruneFuseNet:
        """Fuse, and fine-tune the target as skorch trains; `predict` and the like answer with it until the next fit.

        The target gets a new optimizer and a `history` of its own, the proxy's is kept in `proxy_history_`.

        Args:
            X: None: the data of the last fit (not kept in pickles), on which V2 may have trained the target already.
            y: labels, see skorch.
            **fit_params: see skorch; ``epochs=`` overrides `max_epochs`.

        Raises:
            NotFittedError: before `fit`, or without data in a net that was loaded.
            InputError: y is given without X.
        """
        with self.costs_.transaction(), unchanged_on_error(self):
            state = self._trained("fit_target")
            if X is None:
                refuse_alone("fit_target", "X", y=y)
            there = X is None and not fit_params and state.synced is not None
            if X is None and not there:
                X, y = self._require_labelled("fit_target")
            if not hasattr(self, "target_"):
                self.proxy_history_ = self.history_
            if there:
                self.history_ = self.sync_history_
                self._replace_module(copied(state.synced), "the target is there already")
            else:
                self._train_target(X, y, sync=False, **fit_params)
        return self

    # Answers

    @property
    def dense_(self) -> nn.Module:
        """The whole network with the weights it had before training."""
        self.check_is_fitted()
        return self.state_.dense

    @property
    def proxy_(self) -> Proxy:
        """The proxy as it is trained by now, its channel map and its report."""
        proxy = self._trained("proxy_").proxy
        assert isinstance(proxy, Proxy)  # a net has no other kind
        return proxy

    @property
    def target_(self) -> nn.Module:
        """The fused and fine-tuned network; absent until `fit_target` and again after the next fit."""
        module: nn.Module | None = uncompiled(getattr(self, "module_", None))
        if module is None or isinstance(self.state_, Uncut) or module is self.state_.proxy.module:
            raise AttributeError("target_: there is no target; call fit_target() after fit(X, y)")
        return module

    def query(
        self,
        X_pool: Any,
        k: int = 1,
        *,
        scorer: str | Scorer | None = None,
        candidates: Any = None,
        random_state: RngLike = None,
        return_scores: bool = False,
    ) -> Any:
        """Return the `k` samples to label next, asking the proxy; see `PruneFuseEstimator.query`.

        `X_pool` is anything skorch predicts on, read with ``iterator_valid``.

        Returns:
            int64 [k], best first, indices into `X_pool`; with `return_scores` also the scores, float [k] or None.
        """
        with alone():
            state, pool = self._trained("query"), self.get_dataset(X_pool)
            labelled = None if getattr(self, "labelled_", None) is None else self.get_dataset(*self.labelled_)
            _, picked = pick(
                self._options(as_logits=True),
                self.costs_,
                replace(state, labelled=labelled),
                pool,
                k,
                candidates,
                scorer=scorer,
                rng=None if random_state is None else call_rng(random_state, state.round, len(pool)),
            )
        return picked.arrays() if return_scores else picked.arrays()[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module answers; see skorch."""
        with alone():  # a query of another thread has another network in the module's place
            return super().forward(*args, **kwargs)

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, [n c]; see skorch."""
        with alone():
            return super().predict_proba(X)

    # Saving

    def load_params(self, *args: Any, **kwargs: Any) -> None:
        """Load what `save_params` wrote; see skorch. ``f_dense=`` is the file of the weights that are fused into.

        Raises:
            NotFittedError: the net has seen no input yet, so that it is not thinned and weights of a proxy cannot fit.
        """
        if kwargs.get("checkpoint") is not None and not self.initialized_:
            self.initialize()
        before = copied(self.dense_.state_dict()) if self.initialized_ else {}
        try:
            super().load_params(*args, **kwargs)
        except RuntimeError as error:  # torch's: shapes that do not fit
            if not self.initialized_ or isinstance(self.state_, Trained):
                raise
            raise NotFittedError(
                "load_params: the weights are a proxy's, and this net's module is whole: it is thinned when it first "
                "sees an input; pass example_inputs= to the constructor, then initialize() thins it"
            ) from error
        changed = any(not torch.equal(value, before[name]) for name, value in self.dense_.state_dict().items())
        if changed and isinstance(self.state_, Trained):  # other weights, other channels
            cut = self._cut(self.state_.dense, getattr(self, "labelled_", None))
            proxy = cut.proxy.with_module(self.state_.proxy.module)
            self.state_ = replace(cut, proxy=proxy, synced=self.state_.synced)

    def __sklearn_clone__(self) -> PruneFuseNet:
        with WithoutHistory():  # the module may keep what it computed
            net: PruneFuseNet = super().__sklearn_clone__()
        return net

    def __getstate__(self) -> dict[str, Any]:
        """Leave the user's data out of pickles: it may be larger than memory."""
        return {**super().__getstate__(), "labelled_": None}
