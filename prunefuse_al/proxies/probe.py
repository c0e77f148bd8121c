"""`Probe`: a frozen trunk stands in, whose features are computed once, and a head that each round trains on them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import checks
from ..costs import Call, Stage
from ..data import ArrayDataset, labels_of, to_dataset
from ..errors import CheckpointError, FallbackWarning, InputError, warn
from ..fusing import Fusion
from ..network import SIGMOID, copied, of_trainer, predicted_classes
from ..pruning import Proxy
from ..training import LOGITS, Reader, class_numbers
from ..types import Trainer, altered, statement
from .dense import Dense
from .feature_store import IN_MEMORY, FeatureStore, trunk_digest
from .first_head import fit_first
from .head_training import FeatureAsker, LogisticTrainer, on_features, with_labels
from .probe_head import ProbeHead
from .protocol import AnyProxy, Kind, Prepared, Task, Training

HEADS = ("linear", "logistic")


@dataclass(frozen=True, eq=False)
class Probed(Proxy):
    """A network whose head alone was trained, with the features of its trunk.

    Attributes:
        features: what the trunk says of rows, as far as it is known.
    """

    features: FeatureStore | None = None

    def with_module(self, module: nn.Module) -> Probed:
        """Return the same of another network with the same trunk."""
        return replace(self, module=module)


@dataclass(frozen=True, eq=False)
class FeatureReader(Reader):
    """Asks a head about features.

    Attributes:
        call: what the whole network is called with, two rows: what the dense loop costs is stated beside.
    """

    call: Call = ((), {})

    def watched(self, stage: Stage, *others: nn.Module) -> None:
        """Have a stage count what passes through the head."""
        super().watched(stage, *others)
        stage.compare(self.call)


@dataclass(frozen=True)
class Probe(Kind):
    """Selects with a linear probe: the network's last linear layer, trained on what the layers before it say.

    Those stay as they are, so their features of a pool are computed once, in the first query, and kept; each further
    round trains the head and asks it, which costs next to nothing. It is the proxy for networks that were trained on
    much data elsewhere ("Selection via Proxy" with pretrained features; LabelBench, Zhang et al., 2023); where features
    are weak, as of pictures unlike those the network knows, a `Pruned` or the `Dense` network selects better. Way back:
    the target is the dense network with the trained head in its place, all of it trained by ``fit_target`` (linear
    probing, then fine-tuning: Kumar et al., 2022); what the user froze stays frozen. `cross` changes nothing.

    Features are those that ``signals(X, {"features"})`` of the dense network gives, in eval mode and with the trainer's
    `eval_transform`. A row is computed once for as long as the selector lives, also where it comes again as another
    object: a dataset is known if it is the same object, or arrays over the same memory (some rows of it as well:
    `torch.utils.data.Subset`, candidates); rows of arrays are known wherever all of their bytes are. A dataset of items
    (pictures in files) has to be the same object, so let what is labelled be a `Subset` of the pool. Arrays that were
    written to in between are computed again; of a NumPy array a few rows are looked at to tell. Pickles and files of
    `save` hold no features, copies of a selector share them. What `predict_proba` and `signals` are asked of other rows
    is computed and not kept. The last bits of features depend on the batch in which a row was first read, and so may
    those of what is trained on them.

    The trainer's `transform` is for inputs, and no augmentation reaches a frozen trunk: it is left out in training the
    head, as `collate` is, with a warning where it is another than `eval_transform`. A trainer of your own is given an
    `nn.Linear` and rows of features.

    Attributes:
        features: "memory"; "float16", for half of it; or the path of a .npy file for the features of the pool, mapped
            into memory, that outlives the process. It is written by the first query, of all rows of the pool, whole or
            not at all, and read by later selectors of the same network (but for its head) and the same pool; a file of
            another network or other data is refused. With `sync_every` it is written anew after each sync.
        head: "linear": trained by the selector's trainer, with its loss, from the head's present weights or, where
            these do not answer and the loss is cross entropy of classes, from those that "logistic" gives; "logistic":
            by scikit-learn's `LogisticRegression` on features brought to one scale (cross entropy of classes alone;
            the trainer's epochs and rates, and `warm_start`, say nothing then). EfficientNet-Lite0 with ImageNet
            weights, 400 pictures of CIFAR-10 at 96 px, mean of three seeds: logistic 66.4 % right, linear from
            a head that knew nothing 65.9 (AdamW at 1e-3, 15 epochs) or 63.0 (the default trainer).
        dropout: share of the features that each of the passes for "mc_logits" (`bald`, `batchbald`) leaves out; 0: the
            head has no dropout, and such scorers are refused.
        refresh: with `sync_every`, when features are computed again, from a target trained on what is labelled (ASVP,
            Wen et al., 2024): None, each time one is due; or a share of the labelled rows, above 0 and up to 1: only
            where the head answers fewer of them rightly. A linear head that no longer fits even what it was trained on
            says that the features no longer tell the classes apart.

    Raises:
        InputError: an option is out of range, or the file has no folder.

    Example:
        >>> from prunefuse_al import PrunedProxySelector, TorchTrainer
        >>> X, y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
        >>> with torch.random.fork_rng():
        ...     net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> trainer = TorchTrainer(epochs=2, progress=False)
        >>> selector = PrunedProxySelector(net, proxy=Probe(), trainer=trainer, random_state=0).fit(X[:20], y[:20])
        >>> len(selector.query(X, k=5, candidates=range(20, 60)))
        5
        >>> [(row.samples, row.round) for row in selector.costs.rows() if row.stage == "features"]
        [(20, 1), (40, 1)]
    """

    features: str | os.PathLike[str] = "memory"
    head: str = "linear"
    dropout: float = 0.5
    refresh: float | None = None

    fuses: ClassVar[bool] = True
    syncs: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.one_of("head", self.head, HEADS)
        what = "the share of features that a pass leaves out, 0 <= share < 1"
        share = "None, or the share of labelled rows that the head must fit, above 0 and up to 1"
        checks.settle(
            self,
            features=_place("features", self.features),
            dropout=float(checks.number("dropout", self.dropout, least=0, below=1, what=what)),
            refresh=checks.maybe(checks.number, "refresh", self.refresh, above=0, most=1, what=share),
        )

    def cut(self, task: Task, before: AnyProxy | None = None) -> Probed:
        """Return the dense network, whose features are not known yet."""
        store = FeatureStore(str(self.features))
        head = store.head(task).of(task.dense)
        if before is not None and self.features not in IN_MEMORY:
            store.replaces = trunk_digest(before.module, store.head(task).name)
        whole = Dense().cut(task)
        if before is None:
            _warn_of_transform(task.trainer)
        report = replace(whole.report(), proxy_macs=head.in_features * head.out_features)
        return Probed(whole.module, whole.channel_map, report, features=store)

    def prepare(self, task: Task) -> Prepared:
        """Return the dense network, which answers with the head that it has."""
        start = self.cut(task)
        return Prepared(start, start.with_module(copied(start.module)))

    def stale(self, proxy: AnyProxy, n: int) -> bool:
        """Return False: however much is labelled, it is the same trunk."""
        return False

    def check(self, trainer: Trainer, sync_every: int | None) -> None:
        """Raise `InputError` for a loss that the head is not trained by, or a `refresh` of what is never trained."""
        self.trains(trainer)
        if self.refresh is not None and sync_every is None:
            raise InputError(
                f"refresh={self.refresh} says when features are computed again from a trained target, and targets are "
                "trained between rounds in V2 alone: give sync_every= as well"
            )

    def trains(self, trainer: Trainer) -> Trainer:
        """Return who trains heads."""
        return on_features(trainer) if self.head == "linear" else LogisticTrainer(trainer)

    def begin(self, task: Task, start: AnyProxy, stage: Stage) -> Training:
        """Return a training of the head on features of what is labelled, from the head that fits them."""
        return self._training(task, start, stage, new=True)

    def go_on(self, task: Task, proxy: AnyProxy, stage: Stage) -> Training:
        """Return a training of the head from the weights that it has."""
        return self._training(task, proxy, stage, new=False)

    def _training(self, task: Task, start: AnyProxy, stage: Stage, *, new: bool) -> Training:
        store = _store(start)
        data = _labelled(store, task, task.data, stage)
        trainer, head = self._validated(store, task, stage), store.head(task)
        layer = head.of(copied(start.module))
        if new and self.head == "linear":
            _begin_fitted(task.trainer, layer, data)
        begun, network = (ProbeHead(layer, self.dropout) for _ in range(2))
        stage.compare(head.call)

        def trained() -> AnyProxy:
            whole = copied(task.dense)
            with torch.no_grad():
                for name, parameter in head.of(whole).named_parameters():
                    parameter.copy_(network.get_parameter(name))
            return start.with_module(whole)

        return Training(network, trained, begun=begun, trainer=trainer, data=data)

    def reader(self, task: Task, proxy: AnyProxy, rows: Tensor | None = None, *, pool: bool = False) -> Reader:
        """Return what asks the head about features, those that are not known computed."""
        store = _store(proxy)
        data = store.rows(task, rows, stage="features" if pool else "predict", kept=pool, pool=pool)
        head = store.head(task)
        network = ProbeHead(head.of(proxy.module), self.dropout).eval()
        return FeatureReader(FeatureAsker(task.trainer), network, data, head.call)

    def put_back(self, dense: nn.Module, proxy: AnyProxy, fusion: Fusion) -> nn.Module:
        """Return a copy of the dense network with the trained head: the proxy is just that."""
        return copied(proxy.module)

    def serves(self, task: Task, proxy: AnyProxy) -> bool:
        """Tell whether the head fits as many of the labelled rows as `refresh` asks for."""
        if self.refresh is None:
            return False
        outputs, given = of_trainer(task.trainer), labels_of(task.data)
        independent = outputs is not None and outputs.kind == SIGMOID
        labels = None if given is None else class_numbers(given, independent=independent)
        if labels is None:
            raise InputError(
                f"refresh={self.refresh} compares answers with the number of a class, and the labels are none: leave "
                "refresh= out, to train every target that is due"
            )
        answers = predicted_classes(self.reader(task, proxy).signals(None, LOGITS))
        return float((answers.cpu() == labels).double().mean()) >= self.refresh

    def restored(self, proxy: AnyProxy) -> AnyProxy:
        """Return a proxy out of a file, whose features are not known."""
        assert isinstance(proxy, Proxy)
        if any(tensor.proxy_shape != tensor.shape for tensor in proxy.channel_map.tensors.values()):
            raise CheckpointError(
                "load(): the proxy of the file is thinner than the network, which no Probe is; pass proxy="
            )
        store = FeatureStore(str(self.features))
        return Probed(proxy.module, proxy.channel_map, proxy.pruning_report, features=store)

    def _validated(self, store: FeatureStore, task: Task, stage: Stage) -> Trainer:
        """Return who trains, with features of the rows that early stopping goes by."""
        trainer, rule = self.trains(task.trainer), statement(task.trainer).early_stopping
        given = getattr(rule, "validation_data", None)
        if given is None or self.head == "logistic":
            return trainer
        held = _labelled(store, task, to_dataset(given), stage)
        changed: Trainer = altered(trainer, early_stopping=replace(rule, validation_data=held))
        return changed


def _store(proxy: AnyProxy) -> FeatureStore:
    assert isinstance(proxy, Probed)
    assert proxy.features is not None
    return proxy.features


def _begin_fitted(trainer: Trainer, head: nn.Linear, data: ArrayDataset) -> None:
    """Fit a head that knows nothing by logistic regression, where the loss is that of classes."""
    try:
        solver = LogisticTrainer(trainer)
    except InputError:
        return
    logits = FeatureAsker(trainer).infer(head, data, LOGITS).logits
    assert logits is not None
    fit_first(solver, head, data, logits)


def _labelled(store: FeatureStore, task: Task, data: Any, stage: Stage) -> ArrayDataset:
    """Return features and labels of a dataset; to look for the features has a stage of its own."""
    with stage.aside():
        rows = store.rows(replace(task, data=data))
    return with_labels(ArrayDataset(rows.take(torch.arange(len(rows)))[0]), data)


def _warn_of_transform(trainer: Trainer) -> None:
    said = statement(trainer)
    given = said.transform
    if given is not None and given is not said.eval_transform:
        warn(
            "proxy=Probe(...) trains a head on features that are computed once, and augmentation cannot be seen by a "
            f"frozen trunk: the trainer's transform ({given!r:.80}) is left out there; the target is trained with it",
            FallbackWarning,
        )


def _place(name: str, given: Any) -> str:
    """Return where features are kept: one of `IN_MEMORY`, or the path of a .npy file in a folder that is there."""
    what = "'memory', 'float16', or the path of a .npy file in a folder that is there"
    path = checks.path(name, given, what)
    if path in IN_MEMORY:
        return path
    file = Path(path)
    if file.suffix != ".npy" or not file.parent.is_dir() or (file.exists() and not file.is_file()):
        raise checks.refused(name, given, what)
    return path
