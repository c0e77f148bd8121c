"""What a selector holds, and what can be asked of it without picking: its networks, their answers, the target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..costs import CostLedger
from ..data import alone, as_dataset
from ..errors import FusionError, NotFittedError
from ..network import check_model, check_needs, copied, stand_in
from ..proxies import NO_PLACE
from ..pruning import Proxy
from ..training import LOGITS, Reader
from ..types import Signals
from .answers import Float64s, probabilities, with_passes
from .labelled import labelled_dataset, refuse_alone
from .options import Options
from .state import State, Trained
from .target import fused_target, fusing_recalibrates, make_target


class Holder:
    """The half of `PrunedProxySelector` that follows from its state alone."""

    options: Options
    _state: State
    _ledger: CostLedger

    @property
    def costs(self) -> CostLedger:
        """One row per stage and round."""
        return self._ledger

    @property
    def round(self) -> int:
        """How many times `fit` has succeeded."""
        return self._state.round

    @property
    def proxy(self) -> Proxy:
        """The trained proxy, its channel map and its report.

        Raises:
            NotFittedError: before `fit`.
            FusionError: the proxy is another network; `model` has it.
        """
        proxy = self._fitted("proxy").proxy
        if not isinstance(proxy, Proxy):
            raise FusionError(f"proxy: {NO_PLACE}")
        return proxy

    @property
    def model(self) -> nn.Module:
        """The trained proxy network.

        Raises:
            NotFittedError: before `fit`.
        """
        return self._fitted("model").proxy.module

    def predict_proba(self, X: Any) -> Float64s:
        """Return class probabilities of the trained proxy, float64 [n c]; rows sum to 1.

        Of independent labels each column is a probability of its own.
        """
        return probabilities(self.signals(X))

    def signals(
        self,
        X: Any,
        needs: frozenset[str] = LOGITS,
        *,
        model: nn.Module | None = None,
        mc_samples: int | None = None,
    ) -> Signals:
        """Return what the trained proxy says about every row of `X`; with `model`, what that one says.

        Recorded as stage "predict", which is not counted as selection.

        Args:
            X: see `fit`; labels are not needed.
            needs: names among "logits", "features", "mc_logits" and "labels" (those that the proxy predicts).
            model: another network to ask.
            mc_samples: passes for "mc_logits", instead of the trainer's.

        Raises:
            InputError: an unknown need, or data that cannot be used.
        """
        with alone():
            state, data, needs = self._fitted("predict"), as_dataset(X), check_needs(needs)
            trainer = with_passes(self.options.trainer, mc_samples)
            if model is not None:
                reader, role = Reader(trainer, stand_in(check_model(model, "model")), data), "target"
            else:
                task = self.options.task(self._ledger, state.dense, data, state.round, trainer=trainer)
                reader, role = self.options.kind.reader(task, state.proxy), "proxy"
            with self._ledger.stage("predict", round=state.round, network=role, dense=state.dense) as stage:
                reader.watched(stage)
                return reader.signals(None, needs)

    def fuse(self, data: Any = None) -> nn.Module:
        """Return a new target: the trained proxy put back into the dense network, not fine-tuned.

        Args:
            data: what BatchNorm statistics are re-estimated on, where they are; None: the `recalibration_data`, else
                the data of the last `fit`.

        Raises:
            NotFittedError: before `fit`, or without data in a selector that was loaded or unpickled.
            FusionError: the proxy is another network, not a part of this one.
        """
        with self._ledger.transaction():
            state = self._fitted("fuse")
            options, given = self.options, state.labelled
            if not options.kind.fuses:
                raise FusionError(f"fuse: {NO_PLACE}")
            if data is not None:
                given, options = as_dataset(data), replace(options, recalibration_data=None)
            elif options.recalibration_data is None and fusing_recalibrates(options, state):
                given = self._require_labelled("fuse")
            return fused_target(options, self._ledger, state, given)

    def fit_target(self, labelled: Any = None, y: Any = None, sample_weight: Any = None) -> nn.Module:
        """Return a new target, fused and fine-tuned.

        Args:
            labelled: see `fit`; None: the data of the last `fit`, on which V2 may have trained the target already.
            y: see `fit`.
            sample_weight: see `fit`.

        Raises:
            NotFittedError: before `fit`, or without data in a selector that was loaded or unpickled.
            InputError: the data cannot be used, or labels or weights come without it.
        """
        with self._ledger.transaction():
            state = self._fitted("fit_target")
            if labelled is None:
                refuse_alone("fit_target", "labelled", y=y, sample_weight=sample_weight)
            if labelled is None and state.synced is not None:
                return copied(state.synced)
            given = self._require_labelled("fit_target") if labelled is None else labelled
            data = labelled_dataset("fit_target", given, y, sample_weight)
            return make_target(self.options, self._ledger, state, data)

    def _fitted(self, call: str) -> Trained:
        if not isinstance(self._state, Trained):
            raise NotFittedError(f"{call}: nothing has been trained yet; call fit(labelled, y) first")
        return self._state

    def _require_labelled(self, call: str) -> Any:
        if self._state.labelled is None:
            raise NotFittedError(
                f"{call}: the labelled data is not in memory (it is neither saved nor pickled with a selector); "
                "pass it to fuse() or fit_target(), or call fit() again"
            )
        return self._state.labelled

    def __getstate__(self) -> dict[str, Any]:
        """Leave the user's data out of pickles: it may be larger than memory."""
        with alone():
            state = self._state
            if isinstance(state, Trained):  # what a training began with is of use with its data alone
                state = replace(state, labelled=None, begun=None)
            return {**self.__dict__, "_state": state}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Share the user's data with copies."""
        other = object.__new__(type(self))
        with alone():
            for data in (self._state.labelled, self.options.recalibration_data):
                memo[id(data)] = data
            vars(other).update({name: copied(value, memo) for name, value in vars(self).items()})
        return other
