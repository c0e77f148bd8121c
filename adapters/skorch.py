"""skorch (``pip install skorch``, 1.4 and later): a `NeuralNetClassifier` that trains, and asks, a pruned proxy.

from skorch.callbacks import EarlyStopping
from prunefuse_al.adapters.skorch import PruneFuseNet

net = PruneFuseNet(Network, pruning_ratio=0.5, criterion=nn.CrossEntropyLoss, callbacks=[EarlyStopping()])
rows = net.fit(X, y).query(X_pool, k=20)   # trains the proxy, which then picks
net.fit_target().predict(X_test)           # fused and fine-tuned; answers until the next fit
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from sklearn.base import clone
from torch import nn

from prunefuse_al.adapters import require_host
from prunefuse_al.costs import CostLedger
from prunefuse_al.errors import InputError, NotFittedError
from prunefuse_al.estimator.estimator import unchanged_on_error
from prunefuse_al.pruning import Proxy
from prunefuse_al.scorers import get_scorer
from prunefuse_al.selector.options import Options, State, entropy_of
from prunefuse_al.selector.picking import pick
from prunefuse_al.selector.scoring import call_rng
from prunefuse_al.selector.steps import prepare
from prunefuse_al.selector.target import fused_target
from prunefuse_al.types import RngLike, Scorer

require_host("skorch", extra="skorch")

from skorch import NeuralNetClassifier  # noqa: E402
from skorch.utils import to_device  # noqa: E402

from prunefuse_al.adapters.skorch_reading import NetReader, uncompiled  # noqa: E402

OPTIONS = (
    *("pruning_ratio", "importance", "cross", "fine_tune_lr_scale", "keep", "scope", "round_to"),
    *("recalibrate", "example_inputs"),
)


class PruneFuseNet(NeuralNetClassifier):
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
        fine_tune_lr_scale: factor on the optimizer's learning rates in `fit_target`; 1 leaves them.
        keep: names, patterns or types of layers never thinned.
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
    """

    cuda_dependent_attributes_: ClassVar = ["state_"]  # skorch pickles these so that they load without a GPU
    module_: Any
    history_: Any
    proxy_history_: Any
    state_: State

    def __init__(
        self,
        module: Any,
        *args: Any,
        pruning_ratio: float = 0.5,
        scorer: str | Scorer = "least_confidence",
        importance: Any = "l2",
        cross: str | float = "preserve",
        fine_tune_lr_scale: float = 0.2,
        keep: Any = (),
        scope: str = "local",
        round_to: int | None = None,
        recalibrate: bool = True,
        example_inputs: Any = None,
        random_state: RngLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, *args, **kwargs)
        self.pruning_ratio = pruning_ratio
        self.scorer = scorer
        self.importance = importance
        self.cross = cross
        self.fine_tune_lr_scale = fine_tune_lr_scale
        self.keep = keep
        self.scope = scope
        self.round_to = round_to
        self.recalibrate = recalibrate
        self.example_inputs = example_inputs
        self.random_state = random_state
        self.costs_ = CostLedger()

    @classmethod
    def from_net(cls, net: NeuralNetClassifier, pruning_ratio: float = 0.5, **options: Any) -> PruneFuseNet:
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
            settings["module"] = copy.deepcopy(uncompiled(net.module_))
        return cls(**{**settings, "pruning_ratio": pruning_ratio, **options})

    # Training

    def initialize_module(self) -> PruneFuseNet:
        """Make the module as skorch does, then thin it; optimizers, made later, see the thinned parameters."""
        super().initialize_module()
        dense = copy.deepcopy(self.module_) if self.module_ is self.module else self.module_
        self.module_ = to_device(dense, self.device)
        self.entropy_ = entropy_of(self.random_state)
        self.state_ = State(self.module_, round=self.state_.round if hasattr(self, "state_") else 0)
        if self.example_inputs is not None or getattr(self, "labelled_", None) is not None:
            self._thin()
        return self

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> PruneFuseNet:
        """Train the proxy from the start (or on, with `warm_start`); see skorch."""
        self.labelled_ = (X, y)
        super().fit(X, y, **fit_params)
        return self

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any) -> PruneFuseNet:
        """Train the proxy on from its present weights, also after `fit_target`; see skorch."""
        self.labelled_ = (X, y)
        if not self.initialized_:
            self.initialize()
        if self.state_.start is None:
            with self._current_init_context("module"):
                self._thin()
            self._replace_module(self.module_, "the network is thinned to the first data")
        elif hasattr(self, "target_"):
            self.history_ = self.proxy_history_
            self._replace_module(self.proxy_.module, "the proxy is trained again")
        self._train("train_proxy", self.state_.round + 1, X, y, classes=classes, **fit_params)
        self.state_ = replace(self.state_, round=self.state_.round + 1)
        return self

    def fit_target(self, X: Any = None, y: Any = None, **fit_params: Any) -> PruneFuseNet:
        """Fuse, and fine-tune the target as skorch trains; `predict` and the like answer with it until the next fit.

        The target gets a new optimizer and a `history` of its own, the proxy's is kept in `proxy_history_`.

        Args:
            X: None: the data of the last fit (not kept in pickles).
            y: labels, see skorch.
            **fit_params: see skorch; ``epochs=`` overrides `max_epochs`.

        Raises:
            NotFittedError: before `fit`, or without data in a net that was loaded.
        """
        state = self._trained("fit_target")
        if X is None:
            X, y = self._require_labelled("fit_target")
        with unchanged_on_error(self), self.costs_.transaction():
            target = fused_target(self._options(), self.costs_, state, self.get_dataset(X, y))
            if not hasattr(self, "target_"):
                self.proxy_history_ = self.history_
            self.history_ = None
            self._initialize_history()
            self._replace_module(target, "the proxy is fused into the whole network")
            for group in self.optimizer_.param_groups:
                group["lr"] *= self.fine_tune_lr_scale
            self._train("train_target", state.round, X, y, **fit_params)
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
        state = self._trained("proxy_")
        assert state.trained is not None
        assert state.channel_map is not None
        return Proxy(state.trained, state.channel_map, state.report)

    @property
    def target_(self) -> nn.Module:
        """The fused and fine-tuned network; absent until `fit_target` and again after the next fit."""
        module: nn.Module | None = uncompiled(getattr(self, "module_", None))
        if module is None or self.state_.trained is None or module is self.state_.trained:
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
        state, pool = self._trained("query"), self.get_dataset(X_pool)
        labelled = None if getattr(self, "labelled_", None) is None else self.get_dataset(*self.labelled_)
        _, picked = pick(
            self._options(as_logits=True),
            self.costs_,
            state,
            (pool, k, candidates),
            scorer=scorer,
            rng=None if random_state is None else call_rng(random_state, state.round, len(pool)),
            labelled=labelled,
        )
        indices = picked.indices.numpy()
        return (indices, None if picked.scores is None else picked.scores.numpy()) if return_scores else indices

    # Saving

    def load_params(self, *args: Any, **kwargs: Any) -> None:
        """Load what `save_params` wrote; see skorch. ``f_dense=`` is the file of the weights that are fused into.

        Raises:
            NotFittedError: the net has seen no input yet, so that it is not thinned and weights of a proxy cannot fit.
        """
        if kwargs.get("checkpoint") is not None and not self.initialized_:
            self.initialize()
        before = copy.deepcopy(self.dense_.state_dict()) if self.initialized_ else {}
        try:
            super().load_params(*args, **kwargs)
        except RuntimeError as error:  # torch's: shapes that do not fit
            if not self.initialized_ or self.state_.start is not None:
                raise
            raise NotFittedError(
                "load_params: the weights are a proxy's, and this net's module is whole: it is thinned when it first "
                "sees an input; pass example_inputs= to the constructor, then initialize() thins it"
            ) from error
        changed = any(not torch.equal(value, before[name]) for name, value in self.dense_.state_dict().items())
        if changed and self.state_.start is not None:
            self.state_ = replace(self._cut(), trained=self.state_.trained)  # other weights, other channels

    def __getstate__(self) -> dict[str, Any]:
        """Leave the user's data out of pickles: it may be larger than memory."""
        return {**super().__getstate__(), "labelled_": None}

    # Within

    def _options(self, *, as_logits: bool = False) -> Options:
        """Return the options in the core's form; what reads may have to make logits of what the module returns."""
        reader: Any = NetReader(self, as_logits)  # a trainer that only reads
        return Options(
            **{name: getattr(self, name) for name in OPTIONS},
            scorer=get_scorer(self.scorer),
            trainer=reader,
            sync_every=None,
            sync_importance=None,
            recalibration_data=None,
            progressive=None,
            candidate_fraction=1.0,
            features_dtype="float32",
            features_path=None,
            distillation=None,
            warm_start=False,
            target_trainer=None,
            fold_batchnorm=True,
            entropy=self.entropy_,
        )

    def _cut(self) -> State:
        """Return a state with an untrained proxy cut from the whole network."""
        labelled = getattr(self, "labelled_", None)
        data = None if labelled is None else self.get_dataset(*labelled)
        options = self._options().at(0 if data is None else len(data))
        options = replace(options, recalibrate=self.recalibrate and data is not None)
        state = State(self.state_.dense, round=self.state_.round)
        return replace(prepare(options, self.costs_, state, None, data), trained=None)

    def _thin(self) -> None:
        state = self._cut()
        self.state_ = replace(state, trained=copy.deepcopy(state.start))
        self.module_ = self.state_.trained

    def _replace_module(self, module: nn.Module, reason: str) -> None:
        """Train `module` from now on, with a new optimizer."""
        with self._current_init_context("module"):
            self.module_ = self.torch_compile(to_device(module, self.device), name="module")
        self._initialize_optimizer(reason=f"Re-initializing module and optimizer: {reason}.")

    def _train(self, stage_name: str, number: int, X: Any, y: Any, **fit_params: Any) -> None:
        role = stage_name.removeprefix("train_")
        with self.costs_.stage(stage_name, round=number, network=role, dense=self.state_.dense) as stage:
            stage.watch(uncompiled(self.module_))
            super().partial_fit(X, y, **fit_params)

    def _trained(self, call: str) -> State:
        self.check_is_fitted()
        if self.state_.start is None:
            raise NotFittedError(f"{call}: the net is initialised but has seen no data; call fit(X, y) first")
        return self.state_

    def _require_labelled(self, call: str) -> Any:
        if getattr(self, "labelled_", None) is None:
            raise NotFittedError(
                f"{call}: the labelled data is not in memory (it is not pickled with a net); pass X and y"
            )
        return self.labelled_
