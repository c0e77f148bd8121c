"""Peers of the scorers that read class probabilities."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peer_access import Call, Peer, cloned, package
from torch import nn
from torch.utils.data import TensorDataset

from prunefuse_al.types import Signals


def probabilities(signals: Signals) -> np.ndarray:
    """Return class probabilities, float32 [n c]."""
    return signals.logits.softmax(1).numpy()


class Fixed:
    """A classifier whose answers are known."""

    def __init__(self, proba: Any) -> None:
        self.proba = proba

    def predict_proba(self, _: Any, **__: Any) -> Any:
        """Return them."""
        return self.proba


def by_modal(function: str) -> Peer:
    """Return one of modAL's uncertainty strategies."""

    def prepare(signals: Signals, k: int) -> Call:
        strategy, proba = getattr(package("modAL.uncertainty"), function), probabilities(signals)
        return lambda: strategy(Fixed(proba), proba, n_instances=k)[0]

    return Peer(prepare, "1 - max q is 0 for sure samples, whose order is then lost")


def by_skactiveml(method: str) -> Peer:
    """Return one of scikit-activeml's uncertainty scores."""

    def prepare(signals: Signals, k: int) -> Call:
        score, proba = package("skactiveml.pool").uncertainty_scores, probabilities(signals)
        return lambda: score(proba, method=method).argsort()[::-1][:k]

    return Peer(prepare)


def by_small_text(strategy: str, **options: Any) -> Peer:
    """Return one of small-text's strategies."""

    def prepare(signals: Signals, k: int) -> Call:
        query = getattr(package("small_text.query_strategies"), strategy)(**options)
        if signals.mc_logits is not None:
            proba = signals.mc_logits.softmax(2).transpose(0, 1).contiguous().numpy()  # [n t c]
        else:
            proba = probabilities(signals)
        rows = np.arange(len(signals))
        return lambda: query.query(Fixed(proba), rows, rows, rows[:0], rows[:0], n=k)

    return Peer(prepare, "returns them in no order")


def by_svp(method: str) -> Peer:
    """Return a strategy of Selection via Proxy, data loader included."""

    def prepare(signals: Signals, k: int) -> Call:
        select = cloned("selection-via-proxy", "svp.common.selection").select
        data, rows = TensorDataset(signals.logits, torch.zeros(len(signals))), np.arange(len(signals))
        how = (k, method, 8192, torch.device("cpu"), (), 0, False)
        return lambda: select(nn.Identity().eval(), data, rows[:0], rows, *how, keep=None)[0]

    return Peer(prepare, "time includes its data loader; no guard against log 0" * (method == "entropy"))


def by_deepcore(method: str) -> Peer:
    """Return a strategy of DeepCore's `Uncertainty`, data loader included."""

    def prepare(signals: Signals, k: int) -> Call:
        cls = cloned("DeepCore", "deepcore.methods.uncertainty").Uncertainty
        query = object.__new__(cls)
        query.__dict__.update(selection_method=method, balance=False, coreset_size=k, model=nn.Identity())
        query.dst_train = TensorDataset(signals.logits, torch.zeros(len(signals)))
        query.args = SimpleNamespace(selection_batch=8192, workers=0, print_freq=1000, device="cpu")
        return lambda: query.finish_run()["indices"].copy()

    why = "takes the surest: sorts the wrong way round unless balance=True"
    return Peer(prepare, why + (", and goes by the largest logit" if method == "LeastConfidence" else ""))


def by_dal(strategy: str, **peer: Any) -> Peer:
    """Return a strategy of deep-active-learning."""

    def prepare(signals: Signals, k: int) -> Call:
        cls = getattr(cloned("deep-active-learning", "query_strategies"), strategy)
        n, features = len(signals), None
        if signals.features is not None:
            features = torch.cat([signals.features, signals.labelled_features])
        total = n if features is None else len(features)
        known = np.arange(total) >= n
        data = SimpleNamespace(
            n_pool=total,
            labeled_idxs=known,
            get_unlabeled_data=lambda: (np.arange(n), None),
            get_train_data=lambda: (known.copy(), None),
        )
        proba = None if signals.logits is None else signals.logits.softmax(1)
        passes = None if signals.mc_logits is None else signals.mc_logits.softmax(2)
        net = SimpleNamespace(
            predict_prob=lambda _: proba.clone(),
            predict_prob_dropout_split=lambda _, n_drop: passes.clone(),
            get_embeddings=lambda _: features,
        )
        query = cls(data, net)
        return lambda: query.query(k)

    return Peer(prepare, **peer)


def skactiveml_batchbald(signals: Signals, k: int) -> Call:
    """scikit-activeml's `batch_bald`, as many draws as ours."""
    batch_bald = package("skactiveml.pool").batch_bald
    proba = signals.mc_logits.double().softmax(2).numpy()
    return lambda: np.nanargmax(batch_bald(proba.copy(), k, n_MC_samples=1024, random_state=0), axis=1)
