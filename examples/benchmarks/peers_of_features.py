"""Peers of the scorers that compare features."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
from peer_access import Call, cloned, package
from sklearn.cluster import KMeans, MiniBatchKMeans
from torch import nn

from prunefuse_al.scorers._neighbours import FEW_CLUSTERS
from prunefuse_al.types import Signals

DELTA = 0.6
"""Radius of the balls of ProbCover."""


def both(signals: Signals) -> np.ndarray:
    """Return features of candidates, then those of labelled rows, float32 [n+m d]."""
    return torch.cat([signals.features, signals.labelled_features]).numpy()


def labels(signals: Signals) -> np.ndarray:
    """Return labels as scikit-activeml wants them, for `both`: NaN for what has none."""
    return np.where(np.arange(len(signals) + len(signals.labelled_features)) < len(signals), np.nan, 0.0)


def plain_k_center(signals: Signals, k: int) -> Call:
    """The loop of the textbook: one distance per row and pick, a vector of minima."""
    x, n = both(signals), len(signals)

    def run() -> list[int]:
        norms = np.einsum("nd,nd->n", x, x)
        minima = np.full(n, np.inf, np.float32)
        for start in range(n, len(x), 256):
            block = x[start : start + 256]
            for rows in range(0, n, 8192):
                products = x[rows : min(rows + 8192, n)] @ block.T
                gap = norms[start : start + 256] - 2 * products
                minima[rows : rows + 8192] = np.minimum(minima[rows : rows + 8192], gap.min(1))
        minima = np.maximum(minima + norms[:n], 0)
        picked: list[int] = []
        for _ in range(k):
            best = int(minima.argmax())
            picked.append(best)
            minima = np.minimum(minima, norms[:n] + norms[best] - 2 * (x[:n] @ x[best]))
            minima[picked] = -1
        return picked

    return run


def skactiveml_k_center(signals: Signals, k: int) -> Call:
    """scikit-activeml's `k_greedy_center`, which fills a matrix of picks by rows."""
    k_greedy_center = package("skactiveml.pool").k_greedy_center
    x, y = both(signals), labels(signals)
    return lambda: k_greedy_center(x, y, batch_size=k, random_state=0)[0].tolist()


def smalltext_k_center(signals: Signals, k: int) -> Call:
    """small-text's `greedy_coreset`, with the rows ordered as its class does."""
    greedy_coreset = package("small_text.query_strategies.coresets").greedy_coreset
    x, n = both(signals), len(signals)
    own, known = np.arange(n), np.arange(n, len(x))
    return lambda: greedy_coreset(x, own, known, k, distance_metric="euclidean", normalized=True).tolist()


def svp_k_center(signals: Signals, k: int) -> Call:
    """Selection via Proxy's `k_center_greedy`."""
    k_center_greedy = cloned("selection-via-proxy", "svp.common.selection").k_center_greedy
    x, n = both(signals), len(signals)
    return lambda: k_center_greedy(x, np.arange(n, len(x)), k)


def deepcore_k_center(signals: Signals, k: int) -> Call:
    """DeepCore's `k_center_greedy`."""
    methods = cloned("DeepCore", "deepcore.methods.kcentergreedy")
    x, n = torch.from_numpy(both(signals)), len(signals)
    known = np.arange(n, len(x))

    def run() -> np.ndarray:
        vars(np).setdefault("in1d", np.isin)  # the name that it uses is gone from NumPy 2.4
        picked = methods.k_center_greedy(x, k, methods.euclidean_dist, "cpu", 0, already_selected=known)
        return picked[picked < n]

    return run


def skactiveml_badge(signals: Signals, k: int) -> Call:
    """scikit-activeml's `Badge` with a classifier that looks the logits up."""
    base, pool = package("skactiveml.base"), package("skactiveml.pool")

    class Head(base.SkactivemlClassifier):  # type: ignore[misc, name-defined]
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            return self

        def predict_proba(self, X: Any) -> Any:
            return signals.logits.double().softmax(1).numpy()

    x = signals.features.numpy()
    classifier = Head(classes=list(range(signals.logits.shape[1])), missing_label=np.nan)
    query = pool.Badge(random_state=0)
    return lambda: list(query.query(x, np.full(len(x), np.nan), classifier, fit_clf=False, batch_size=k))


def vessal_sampler(signals: Signals, k: int) -> Call:
    """VeSSAL's `streaming_sampler`, given our gradients over their root mean square, our order and our draws.

    What its own gradients are otherwise (blocks sorted by probability) is not compared. It asks for CUDA by name; where
    there is none, it stays on the CPU.
    """
    sampler = cloned("VeSSAL", "query_strategies.vessal").StreamingSampling
    generator = np.random.default_rng(0)
    order, uniforms = generator.permutation(len(signals)), generator.random(len(signals)).tolist()
    q, h = signals.logits.double().softmax(1), signals.features.double()
    errors = q - nn.functional.one_hot(signals.logits.argmax(1), q.shape[1])
    rows = (errors[:, :, None] * h[:, None]).flatten(1)
    rows = (rows / rows.square().sum(1).mean().sqrt())[order].float()[:, None].numpy()
    stub = sampler.__new__(sampler)

    def run() -> list[int]:
        on_cpu = mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor)
        with (
            mock.patch("numpy.random.rand", side_effect=uniforms),
            nullcontext() if torch.cuda.is_available() else on_cpu,
        ):
            picked, skipped = stub.streaming_sampler(rows, k, early_stop=True)
        missing = k - len(picked)
        return order[[*picked, *generator.permutation(skipped)[:missing]] if missing else picked].tolist()

    return run


def alfm_dropquery(signals: Signals, k: int) -> Call:
    """AL-foundation-models' `Dropout`, given what our head answers to our masks, and clusters of the same k-means.

    Its own k-means, of faiss, needs a GPU and draws from global random numbers.
    """
    unused = ("faiss", "rich.progress", "ALFM.src.classifiers.classifier_wrapper")  # of what is called here
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in unused}):
        dropout = cloned("AL-foundation-models", "ALFM.src.query_strategies.dropout")
    h, head, generator = signals.features.double(), signals.head.double(), np.random.default_rng(0)
    masks = torch.from_numpy(generator.random((len(h), 3, h.shape[1])) >= 0.75)
    seed = int(generator.integers(2**31))
    passes = iter((4 * masks.transpose(0, 1) * h) @ head[:, :-1].T + head[:, -1])

    class Model:
        def get_probs(self, features: Any, dropout: bool) -> torch.Tensor:
            return next(passes).softmax(1)

        def get_probs_and_embedding(self, features: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return signals.logits.softmax(1), torch.from_numpy(features)

    def clusters(vectors: np.ndarray, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        method = KMeans(count, n_init=1, random_state=seed)
        if count > FEW_CLUSTERS:
            method = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=seed)
        of = torch.from_numpy(method.fit_predict(vectors)).long()
        centres = torch.stack([torch.from_numpy(vectors[of == c]).mean(0) for c in range(count)])
        distances = (torch.from_numpy(vectors) - centres[of]).square().sum(1)
        rows = [(of == c).nonzero().ravel() for c in range(count)]
        return torch.stack([some[distances[some].argmin()] for some in rows]), of

    query = dropout.Dropout(3, features=signals.features.numpy(), labels=np.zeros(len(h)), init_sampler=None)
    query.update_state(1, np.zeros(len(h), dtype=bool), Model())

    def run() -> list[int]:
        with mock.patch.object(dropout, "cluster_features", clusters):
            return np.flatnonzero(query.query(k)).tolist()

    return run


def skactiveml_typiclust(signals: Signals, k: int) -> Call:
    """scikit-activeml's `TypiClust`."""
    x, query = both(signals), package("skactiveml.pool").TypiClust(random_state=0, k=20)
    return lambda: query.query(x, labels(signals), batch_size=k).tolist()


def skactiveml_probcover(signals: Signals, k: int) -> Call:
    """scikit-activeml's `ProbCover` on the matrix of all distances, for the radius `DELTA`."""
    query = package("skactiveml.pool").ProbCover(random_state=0, n_classes=2, deltas=[DELTA])
    x = nn.functional.normalize(torch.from_numpy(both(signals)), dim=1).numpy()
    return lambda: query.query(x, labels(signals), batch_size=k).tolist()


def smalltext_cal(signals: Signals, k: int) -> Call:
    """small-text's `ContrastiveActiveLearning`."""
    query = package("small_text").ContrastiveActiveLearning(k=10, normalize=False)
    x, n = both(signals), len(signals)
    known, own = np.arange(n, len(x)), np.arange(n)
    proba = torch.cat([signals.logits, signals.labelled_logits]).softmax(1).numpy()
    return lambda: query.sample(None, x, own, known, np.zeros(len(known), int), k, x, embeddings_proba=proba).tolist()
