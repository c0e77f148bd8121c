"""Other people's own code for what the scorers here do, made callable on the same arrays; none of it is copied.

    pip install modAL-python skorch scikit-activeml small-text==1.4.1
    mkdir peers && cd peers        # its path is --peers-root of the benchmarks
    git clone https://github.com/PatrickZH/DeepCore
    git clone https://github.com/stanford-futuredata/selection-via-proxy
    git clone https://github.com/ej0cl6/deep-active-learning
    git clone https://github.com/haizhongzheng/Coverage-centric-coreset-selection
    git clone https://github.com/adymaharana/d2pruning

The clones are research code without releases: they are imported from where they lie, and need torchvision. What is not
there is said and left out. Where their code asks a network, it is given one that looks the answers up.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from prunefuse_al.types import Signals

DELTA = 0.6
REPOSITORIES = {
    "DeepCore": "PatrickZH",
    "selection-via-proxy": "stanford-futuredata",
    "deep-active-learning": "ej0cl6",
    "Coverage-centric-coreset-selection": "haizhongzheng",
    "d2pruning": "adymaharana",
}
PACKAGES = {"modAL": "modAL-python skorch", "skactiveml": "scikit-activeml", "small_text": "small-text==1.4.1"}
ALL = 10**9
Call = Callable[[], Any]


class AbsentError(Exception):
    """Says how to get what is not there."""


@dataclass(frozen=True)
class Peer:
    """Someone else's implementation.

    Attributes:
        prepare: (signals, k) -> a function without arguments that picks and returns rows of the candidates.
        note: why it may pick others than we do.
        most: candidates at most, where it needs a matrix of all pairs or a loop over them.
    """

    prepare: Callable[[Signals, int], Call]
    note: str = ""
    most: int = ALL


def package(module: str) -> Any:
    """Return an installed module."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AbsentError(f"not installed: pip install {PACKAGES[module.split('.')[0]]} ({error})") from error


def clone(folder: str) -> Path:
    """Return the folder of a clone."""
    path = Path(os.environ.get("PEERS_ROOT", "peers")) / folder
    if not path.is_dir():
        url = f"https://github.com/{REPOSITORIES[folder]}/{folder}"
        raise AbsentError(f"no {path}: git clone {url} in the folder that --peers-root names")
    return path


def cloned(folder: str, module: str) -> Any:
    """Return a module of a clone."""
    sys.path.insert(0, str(clone(folder)))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AbsentError(f"{folder} cannot be imported: {error}") from error


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


_PAIRS = {"most": 10_000}  # a matrix of all pairs of rows, or of picks and labelled rows by rows
NEVER = "gives what was never learnt 0, as if it were learnt at once"
PEERS: dict[str, dict[str, Peer]] = {
    "least_confidence": {
        "modAL": by_modal("uncertainty_sampling"),
        "scikit-activeml": by_skactiveml("least_confident"),
        "small-text": by_small_text("LeastConfidence"),
        "SVP": by_svp("least_confidence"),
        "DeepCore": by_deepcore("LeastConfidence"),
        "deep-active-learning": by_dal("LeastConfidence"),
    },
    "margin": {
        "modAL": by_modal("margin_sampling"),
        "scikit-activeml": by_skactiveml("margin_sampling"),
        "small-text": by_small_text("BreakingTies"),
        "DeepCore": by_deepcore("Margin"),
        "deep-active-learning": by_dal("MarginSampling"),
    },
    "entropy": {
        "modAL": by_modal("entropy_sampling"),
        "scikit-activeml": by_skactiveml("entropy"),
        "small-text": by_small_text("PredictionEntropy"),
        "SVP": by_svp("entropy"),
        "DeepCore": by_deepcore("Entropy"),
        "deep-active-learning": by_dal("EntropySampling"),
    },
    "bald": {"small-text": by_small_text("BALD"), "deep-active-learning": by_dal("BALDDropout")},
    "batchbald": {"scikit-activeml": Peer(skactiveml_batchbald, "draws other outcomes once there are many", 10_000)},
    "k_center": {
        "plain": Peer(plain_k_center, "rounds in single precision"),
        "scikit-activeml": Peer(skactiveml_k_center, **_PAIRS),
        "small-text": Peer(smalltext_k_center, **_PAIRS),
        "SVP": Peer(svp_k_center, **_PAIRS),
        "DeepCore": Peer(deepcore_k_center, **_PAIRS),
        "deep-active-learning": by_dal("KCenterGreedy", note="single precision; in order of rows", most=5000),
    },
    "badge": {"scikit-activeml": Peer(skactiveml_badge, "draws otherwise", 10_000)},
    "typiclust": {"scikit-activeml": Peer(skactiveml_typiclust, "another k-means", **_PAIRS)},
    "probcover": {
        "scikit-activeml": Peer(skactiveml_probcover, "ties in another order, of which there are many", **_PAIRS)
    },
    "cal": {"small-text": Peer(smalltext_cal, "looks for neighbours among all rows, not the labelled ones", **_PAIRS)},
    "moderate": {"d2pruning": Peer(d2pruning_moderate, "its complement: it keeps the two tails")},
    "ccs": {"CCS": Peer(ccs_strata, "draws otherwise; its upper edge loses the maximum where that is <= 0")},
    "forgetting()": {
        "CCS": Peer(ccs_dynamics("forgetting"), NEVER),
        "DeepCore": Peer(deepcore_forgetting, NEVER),
        "SVP": Peer(svp_forgetting, "ties in another order"),
    },
    "aum()": {"CCS": Peer(ccs_dynamics("accumulated_margin"))},
    "el2n()": {"CCS": Peer(ccs_dynamics("el2n"))},
    "grand()": {"DeepCore": Peer(deepcore_grand)},
    "d2()": {"d2pruning": Peer(d2pruning_graph, "ties in another order", 2000)},
}


@contextlib.contextmanager
def quiet() -> Any:
    """Keep what others print off this process's output, and their progress bars too."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
