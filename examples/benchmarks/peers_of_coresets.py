"""Peers of the scorers of labelled data and of records of a training."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peer_access import Call, clone, cloned
from torch import nn
from torch.utils.data import TensorDataset

from prunefuse_al.types import Signals


def ccs_functions(classes: int) -> SimpleNamespace:
    """Return the functions of CCS's script, which cannot be imported: it trains."""
    tree = ast.parse((clone("Coverage-centric-coreset-selection") / "generate_importance_score.py").read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names: dict[str, Any] = {"torch": torch, "np": np, "nn": nn, "num_classes": classes}
    exec(compile(tree, "generate_importance_score.py", "exec"), names)
    return SimpleNamespace(**names)


def ccs_dynamics(key: str) -> Callable[[Signals, int], Call]:
    """Return CCS's way from outputs of every epoch to a core set by `key`."""

    def prepare(signals: Signals, k: int) -> Call:
        z, y = signals.mc_logits, signals.labels
        functions = ccs_functions(z.shape[2])
        select = cloned("Coverage-centric-coreset-selection", "core.data.Coreset").CoresetSelection
        data = [(0, (0, int(label))) for label in y]
        every = torch.arange(len(y))

        def run() -> Any:
            log = [{"output": out.log_softmax(1), "idx": every, "epoch": t} for t, out in enumerate(z)]
            found: dict[str, Any] = {}
            if key == "el2n":
                functions.EL2N(log, data, found)
            else:
                functions.training_dynamics_metrics(log, data, found)
            descending = key != "accumulated_margin"
            return select.score_monotonic_selection(found, key, (k + 0.5) / len(y), descending, False)

        return run

    return prepare


def svp_forgetting(signals: Signals, k: int) -> Call:
    """Selection via Proxy's `ForgettingEventsMeter`."""
    meter_of = cloned("selection-via-proxy", "svp.common.coreset").ForgettingEventsMeter
    z, y, every = signals.mc_logits, signals.labels, np.arange(len(signals))

    def run() -> Any:
        meter = meter_of(every)
        for out in z:
            meter.callback(every, None, y, out)
        meter.nevents[~meter.was_correct] = np.inf  # as its script for CIFAR-10 does after training
        return meter.nevents.argsort()[::-1][:k]

    return run


def deepcore_forgetting(signals: Signals, k: int) -> Call:
    """DeepCore's `Forgetting`."""
    cls = cloned("DeepCore", "deepcore.methods.forgetting").Forgetting
    z, y, every = signals.mc_logits, signals.labels, np.arange(len(signals))

    def run() -> Any:
        query = object.__new__(cls)
        query.forgetting_events, query.last_acc = torch.zeros(len(y)), torch.zeros(len(y))
        for out in z:
            query.after_loss(out, None, y, every, 0)
        return np.argsort(query.forgetting_events.numpy())[::-1][:k]

    return run


def deepcore_grand(signals: Signals, k: int) -> Call:
    """DeepCore's `GraNd`, of one network, which looks up what it answers."""
    cls = cloned("DeepCore", "deepcore.methods.grand").GraNd
    (z,), h, y = signals.mc_logits, signals.features, signals.labels

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding_recorder = SimpleNamespace()

        def get_last_layer(self) -> Any:
            return SimpleNamespace(in_features=h.shape[1])

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            self.embedding_recorder.embedding = h[rows]
            return z[rows].clone()

    query = object.__new__(cls)
    query.__dict__.update(model=Network(), n_train=len(y), cur_repeat=0, criterion=nn.CrossEntropyLoss())
    query.dst_train = TensorDataset(torch.arange(len(y)), y)
    query.norm_matrix = torch.zeros(len(y), 1)
    query.model_optimizer = SimpleNamespace(zero_grad=lambda: None)
    batch = next(size for size in (256, 250, 200, 128, 100, 64, 50, 1) if len(y) % size == 0)
    query.args = SimpleNamespace(selection_batch=batch, workers=0, num_classes=z.shape[1], device="cpu")

    def run() -> Any:
        query.finish_run()
        return query.norm_matrix[:, 0].numpy().argsort()[::-1][:k]

    return run


def d2pruning_moderate(signals: Signals, k: int) -> Call:
    """d2pruning's `moderate_selection`: what it throws away when it is to keep the others."""
    select = cloned("d2pruning", "core.data.Coreset").CoresetSelection.moderate_selection
    x, y, n = signals.features.numpy(), signals.labels.numpy(), len(signals)
    return lambda: np.setdiff1d(np.arange(n), select({"targets": y}, 1 - k / n, x))


def ccs_strata(signals: Signals, k: int) -> Call:
    """CCS's own selection: the hardest tenth by AUM left out, then 50 strata."""
    select = cloned("Coverage-centric-coreset-selection", "core.data.Coreset").CoresetSelection
    aum = signals.dynamics["aum"]

    def run() -> Any:
        score = {"accumulated_margin": aum.clone()}
        score, kept = select.mislabel_mask(score, "accumulated_margin", len(aum) // 10, False, "accumulated_margin")
        rows, _ = select.stratified_sampling(score, "accumulated_margin", k)
        return kept[rows]

    return run


def d2pruning_graph(signals: Signals, k: int) -> Call:
    """d2pruning's `GraphDensitySampler`, on one graph."""
    cls = cloned("d2pruning", "core.data.sampling").GraphDensitySampler
    x, y = signals.features.numpy(), signals.dynamics["el2n"]
    how = SimpleNamespace(
        graph_mode="sum",
        graph_sampling_mode="weighted",
        precomputed_dists=None,
        precomputed_neighbors=None,
        n_neighbor=5,
    )
    return lambda: cls(x, None, 0, gamma=0.1, importance_scores=y, args=how).select_batch_(k)
