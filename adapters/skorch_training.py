"""How a `PruneFuseNet` trains: which network stands in the module's place, with which optimizer, and who teaches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunefuse_al import Distillation
from prunefuse_al.adapters import require_host
from prunefuse_al.costs import CostLedger
from prunefuse_al.errors import FallbackWarning, InputError, NotFittedError, warn
from prunefuse_al.network import Outputs, held_still, home_device, logits_of, settled
from prunefuse_al.selector import NAMES, Options, State, Trained, Uncut, fused_target, prepare
from prunefuse_al.training import distillation_loss

require_host("skorch", extra="skorch")

from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier  # noqa: E402
from skorch.utils import to_device  # noqa: E402

from prunefuse_al.adapters.skorch_reading import NetReader, uncompiled  # noqa: E402

LEFT_OUT = (
    *("sync_importance", "progressive", "recalibration_data", "candidate_fraction", "features_dtype", "features_path"),
    *("fold_batchnorm", "proxy", "unlabelled", "repair"),
)
"""Options of a selector that the net does not have; they keep their defaults."""
SKORCHS_OWN = ("trainer", "target_trainer", "warm_start", "distillation", "random_state", "pretrained")
"""Options that are the net's own matter: it trains, goes on, and mixes its teacher in by itself."""
OPTIONS = tuple(name for name in NAMES if name not in LEFT_OUT + SKORCHS_OWN)


class Teacher:
    """The trained proxy while the target learns from it.

    Args:
        net: what is trained.
        network: who teaches, in eval mode and without gradients.
        distillation: how much of it counts.
        epochs: how many there will be.
        params: what `fit` passes to the module's `forward`.
    """

    def __init__(
        self, net: ProxyTraining, network: nn.Module, distillation: Distillation, epochs: int, params: dict[str, Any]
    ) -> None:
        self.net, self.network, self.distillation, self.epochs, self.params = net, network, distillation, epochs, params
        self.asked = False

    def mixed(self, loss: Tensor, y_pred: Any, X: Any) -> Tensor:
        """Return the loss of a batch with the teacher's part in it; every row of the batch counts the same in that."""
        self.asked = True
        share = self.distillation.weight(len(self.net.history) - 1, self.epochs)
        if not share:
            return loss
        reader = NetReader(self.net, as_logits=True)
        with torch.no_grad():
            taught, _ = reader.seen(reader.answer(self.network, X, self.params), "distillation")
        student, kind = reader.seen(logits_of(y_pred), "distillation")
        kl = distillation_loss(student, taught, self.distillation.tau, outputs=Outputs(kind))  # [b]
        return (1 - share) * loss + share * kl.mean()

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Be asked by the net's `get_loss` in the block; warn if it never was."""
        self.net._teacher = self
        try:
            with settled(self.network, device=home_device(self.network) or torch.device("cpu")):
                yield
        finally:
            self.net._teacher = None
        if len(self.net.history) and not self.asked:
            name = type(self.net).__name__
            warn(
                f"distillation= had no effect: {name}.get_loss does not call super().get_loss(y_pred, y_true, X=X, "
                "training=training), which mixes the teacher in; call it there, or leave distillation= out",
                FallbackWarning,
            )


class ProxyTraining(NeuralNetClassifier):
    """What `PruneFuseNet` trains with; see there."""

    costs_: CostLedger
    state_: State
    module_: Any
    history_: Any
    entropy_: int
    pretrained_: bool
    distillation: Distillation | None
    _teacher: Teacher | None = None
    of_target_: bool = False  # whether the dense network is a target that V2 has trained

    def get_loss(self, y_pred: Any, y_true: Any, X: Any = None, training: bool = False) -> Tensor:
        """Return the loss of a batch, with the proxy's part in it while the target learns from it; see skorch."""
        loss: Tensor = super().get_loss(y_pred, y_true, X=X, training=training)
        return loss if self._teacher is None or not training else self._teacher.mixed(loss, y_pred, X)

    def predict(self, X: Any) -> Any:
        """Return class labels; see skorch. Of a binary net these go by its own `threshold`."""
        # A class made of this one and a binary net has the methods of NeuralNetClassifier before those of that net.
        if isinstance(self, NeuralNetBinaryClassifier):
            return super(NeuralNetClassifier, self).predict(X)
        return super().predict(X)

    def check_data(self, X: Any, y: Any) -> None:
        """See skorch."""
        super().check_data(X, y)
        if isinstance(self, NeuralNetBinaryClassifier):
            super(NeuralNetClassifier, self).check_data(X, y)

    def _options(self, *, as_logits: bool = False) -> Options:
        """Return the options in the core's form; what reads may have to make logits of what the module returns."""
        if not isinstance(self.distillation, Distillation | None):
            raise InputError(f"distillation={self.distillation!r}; pass Distillation(...) or None")
        reader: Any = NetReader(self, as_logits)  # a trainer that only reads
        given = {name: getattr(self, name) for name in OPTIONS}
        return Options(**given, trainer=reader, random_state=self.entropy_, pretrained=self.pretrained_)

    def _cut(self, dense: nn.Module, labelled: Any) -> Trained:
        """Return a state with an untrained proxy cut from the whole network; `labelled` is (X, y) or None."""
        data = None if labelled is None else self.get_dataset(*labelled)
        options = replace(self._options(), recalibrate=self.recalibrate and data is not None)
        before = self.state_.proxy if isinstance(self.state_, Trained) else self.state_.before
        uncut = Uncut(dense, self.state_.round, before)
        return prepare(options, self.costs_, uncut, data, 0 if data is None else len(data))

    def _thin(self, dense: nn.Module, labelled: Any) -> None:
        """Have a new proxy of `dense` in the module's place."""
        self.state_ = self._cut(dense, labelled)
        self.module_ = self.state_.proxy.module

    def _begin_proxy(self, labelled: Any) -> None:
        """Have a proxy to train on in the module's place: a new one where there is none, or V2 has a target to cut."""
        state = self.state_
        if isinstance(state, Trained) and hasattr(self, "target_"):
            self.history_ = self.proxy_history_
            self._replace_module(state.proxy.module, "the proxy is trained again")
        synced = state.synced if isinstance(state, Trained) else None
        if isinstance(state, Uncut) or synced is not None:
            self.of_target_ |= synced is not None
            with self._current_init_context("module"):
                self._thin(state.dense if synced is None else synced, labelled)
            self._replace_module(self.module_, "the network is thinned")

    def _train_target(self, X: Any, y: Any, *, sync: bool, **fit_params: Any) -> None:
        """Fuse, and train the target in the module's place, with a history of its own."""
        state = self._trained("fit_target")
        proxy = state.proxy.module
        options = self._options()
        rate = options.rate_of_target(state.dense)
        target = fused_target(options, self.costs_, state, self.get_dataset(X, y), sync=sync)
        self.history_ = None
        self._initialize_history()
        self._replace_module(target, "the proxy is fused into the whole network")
        for group in self.optimizer_.param_groups:
            group["lr"] *= rate
        if self.distillation is None:
            self._train("sync" if sync else "train_target", state.round, X, y, **fit_params)
            return
        params = dict(fit_params)
        epochs = params.pop("epochs", None)
        teacher = Teacher(self, proxy, self.distillation, self.max_epochs if epochs is None else epochs, params)
        with teacher.teaching():
            self._train("sync" if sync else "train_target", state.round, X, y, teacher=proxy, **fit_params)

    def _sync(self, X: Any, y: Any, **fit_params: Any) -> None:
        """Train the target that the next proxy is cut from (V2); the proxy goes on answering."""
        history, state = self.history_, self._trained("fit")
        self._train_target(X, y, sync=True, **fit_params)
        self.state_ = replace(state, synced=uncompiled(self.module_))
        self.sync_history_, self.history_ = self.history_, history
        self._replace_module(state.proxy.module, "the proxy answers again")

    def _replace_module(self, module: Any, reason: str) -> None:
        """Train `module` from now on, with a new optimizer."""
        with self._current_init_context("module"):
            self.module_ = self.torch_compile(to_device(module, self.device), name="module")
        self._initialize_optimizer(reason=f"Re-initializing module and optimizer: {reason}.")

    def _train(
        self, stage_name: str, number: int, X: Any, y: Any, *, teacher: nn.Module | None = None, **fit_params: Any
    ) -> None:
        role = "target" if stage_name == "sync" else stage_name.removeprefix("train_")
        dense = None if stage_name == "sync" else self.state_.dense
        with self.costs_.stage(stage_name, round=number, network=role, dense=dense) as stage:
            stage.watch(uncompiled(self.module_), *([] if teacher is None else [teacher]))
            with held_still(uncompiled(self.module_)):
                super().partial_fit(X, y, **fit_params)

    def _trained(self, call: str) -> Trained:
        self.check_is_fitted()
        if isinstance(self.state_, Uncut):
            raise NotFittedError(f"{call}: the net is initialised but has seen no data; call fit(X, y) first")
        return self.state_

    def _require_labelled(self, call: str) -> Any:
        if getattr(self, "labelled_", None) is None:
            raise NotFittedError(
                f"{call}: the labelled data is not in memory (it is not pickled with a net); pass X and y"
            )
        return self.labelled_
