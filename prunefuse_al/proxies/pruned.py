"""`Pruned`: a thin part of the dense network stands in for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from ..costs import Stage
from ..errors import FallbackWarning, InputError, warn
from ..fusing import Fusion, fuse
from ..network import copied, statistics_moved
from ..pruning import Proxy, prune, rebuild, repair
from ..types import statement
from .cutting import Pruning
from .first_head import with_first_head
from .labelled_importance import measured_on
from .protocol import AnyProxy, Kind, Prepared, Task, Training, from_a_copy
from .ratios import ratio_of
from .reestimating import recalibrate
from .thinning import Thinning


@dataclass(frozen=True, eq=False)
class Pruned(Pruning, Kind):
    """Selects with the dense network thinned, at once or while it is trained (`progressive`); see `Pruning`.

    Example:
        >>> from prunefuse_al import PrunedProxySelector
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> PrunedProxySelector(net, proxy=Pruned(0.75)).options.pruning_ratio
        0.75
    """

    fuses: ClassVar[bool] = True
    syncs: ClassVar[bool] = True

    def cut(self, task: Task, before: AnyProxy | None = None) -> Proxy:
        """Return the thin network; or where it is thinned while it is trained, the whole one and what it leads to."""
        proxy = self._cut(task, before)
        return proxy.with_module(task.dense) if self.gradual(task.n) else self._answering(task, proxy)

    def prepare(self, task: Task) -> Prepared:
        """Return the thin network, repaired where the dense one was trained before, else as it was cut."""
        proxy = self._answering(task, self._cut(task, None))
        start = proxy.with_module(task.dense) if self.gradual(task.n) else proxy
        return Prepared(start, proxy.with_module(copied(proxy.module)))

    def stale(self, proxy: AnyProxy, n: int) -> bool:
        """Tell whether the ratio for `n` labelled samples is another than that of the proxy."""
        assert isinstance(proxy, Proxy)
        return proxy.report().pruning_ratio != self.ratio(n)

    def begin(self, task: Task, start: AnyProxy, stage: Stage) -> Training:
        """Return a training of a copy; where it is gradual, one in which channels leave."""
        assert isinstance(start, Proxy)
        if not self.gradual(task.n):
            return from_a_copy(start) if start.repaired is None else self._probing_first(task, start, stage)
        thinning = Thinning(self, task, start, self.example(task), stage)
        return Training(thinning.network, thinning.proxy, watching={"on_epoch": thinning})

    def put_back(self, dense: nn.Module, proxy: AnyProxy, fusion: Fusion) -> nn.Module:
        """Return a new network: the proxy's weights where they came from."""
        assert isinstance(proxy, Proxy)
        return fuse(dense, proxy, cross=fusion)

    def ratio(self, n: int) -> float:
        """Return the pruning ratio for `n` labelled samples."""
        return ratio_of(self.pruning_ratio, n)

    def gradual(self, n: int) -> bool:
        """Tell whether proxies are thinned while they are trained: at ratio 0 there is nothing to thin."""
        return self.progressive is not None and self.ratio(n) != 0

    def example(self, task: Task) -> Any:
        """Return what the dense network is called with, two rows."""
        return task.reader().example() if self.example_inputs is None else self.example_inputs

    def pruned(self, task: Task, *, example: Any, ratio: float, **options: Any) -> Proxy:
        """Return what `prune` makes of the dense network with these options, and others beside or instead."""
        given = {
            "importance": self._measure(task, ratio),
            "scope": self.scope,
            "keep": self.keep,
            "parts": self.parts,
            "round_to": self.round_to,
            "random_state": task.seed("prune"),
            "progress": statement(task.trainer).progress is not False,
        }
        return prune(task.dense, example, ratio, **{**given, **options})

    def _measure(self, task: Task, ratio: float) -> Any:
        """Return the measure of importance, with the data that it reads; "auto" suits what becomes of the proxy."""
        data = self._unlabelled(task)
        if not (isinstance(self.importance, str) and self.importance == "auto"):
            return measured_on(self.importance, task, ratio, data)
        if not self._repairs(task):
            return "l2"
        try:
            return measured_on("activation", task, ratio, data)
        except InputError as error:
            warn(f"the channels of this trained network are chosen by importance='l2': {error}", FallbackWarning)
            return "l2"

    def _repairs(self, task: Task) -> bool:
        """Tell whether the proxy of the dense network is repaired, if it can be and is not thinned by and by."""
        return self.repair is not False and self._unlabelled(task) is not None and self.trained(task.dense)

    def _unlabelled(self, task: Task) -> Any:
        """Return what is read without labels, None where there is nothing."""
        return next((d for d in (self.unlabelled, self.recalibration_data, task.data) if d is not None), None)

    def _cut(self, task: Task, before: AnyProxy | None) -> Proxy:
        with task.ledger.stage("prune", round=task.round, network="proxy") as stage:
            proxy = self._chosen(task, before, self.ratio(task.n))
            stage.describe(proxy.module)
        return proxy

    def _chosen(self, task: Task, before: AnyProxy | None, ratio: float) -> Proxy:
        """Return the proxy of the dense network, perhaps with the channels that it had before V2 trained it on."""
        own = self
        if isinstance(before, Proxy) and self.sync_importance is not None:
            if self.sync_importance != "same":
                own = replace(self, importance=self.sync_importance)
            elif before.report().pruning_ratio == ratio:  # else they are not as many as before
                return before.with_module(rebuild(task.dense, before.channel_map))
        return own.pruned(task, example=self.example(task), ratio=ratio)

    def _answering(self, task: Task, proxy: Proxy) -> Proxy:
        """Return the proxy with what the wider network knew, as far as it has lost that."""
        if self.ratio(task.n) == 0:
            return proxy
        if self._repairs(task):
            try:
                return self._repaired(task, proxy, self._unlabelled(task))
            except InputError as error:
                if not isinstance(self.pretrained, str) or self.repair is not True:  # it was asked for
                    raise
                warn(f"the proxy of this trained network is not repaired: {error}", FallbackWarning)
        return self._recalibrated(task, proxy) if self.recalibrate and statistics_moved(task.dense) else proxy

    def _probing_first(self, task: Task, start: Proxy, stage: Stage) -> Training:
        """Return a training that begins with a head that fits what a repaired proxy knows."""
        with stage.aside():
            begun = with_first_head(task, start)
        return replace(from_a_copy(start.with_module(begun)), begun=begun)

    def _repaired(self, task: Task, proxy: Proxy, data: Any) -> Proxy:
        """Return the proxy repaired on unlabelled data, read as the trainer reads data for evaluation."""
        said, own = statement(task.trainer), {} if isinstance(self.repair, bool) else self.repair
        reading = {"transform": said.eval_transform, "collate": said.collate, "num_workers": said.num_workers}
        reading["device"] = said.device if said.accelerator is None else said.accelerator.device
        given = {name: value for name, value in reading.items() if value is not None}
        with task.ledger.stage("repair", round=task.round, network="proxy") as stage:
            stage.watch(proxy.module, task.dense)
            repaired = repair(task.dense, proxy, data, **given, random_state=task.seed("prune"), **own)
            stage.let_go(repaired.module)
            stage.describe(repaired.module)
        return repaired

    def _recalibrated(self, task: Task, proxy: Proxy) -> Proxy:
        """Return the proxy with BatchNorm statistics of its own in the place of those of the wider network."""
        module = copied(proxy.module)
        with task.ledger.stage("recalibrate", round=task.round, network="proxy") as stage:
            stage.watch(module)
            given = task.data if self.recalibration_data is None else self.recalibration_data
            recalibrate(module, given, task.trainer)
        return proxy.with_module(module)
