"""Public calls and what they may not be given, as a table.

`LINES` has a line for each call, `KINDS` says of what kind each argument is, wherever it occurs, and `BAD` which values
are refused for each kind. So a new option enters by one entry of `KINDS`, and a new call by one line, which says what
differs there. A test goes through the signatures of all that is public and finds what is missing.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from fakes import blobs, mlp
from torch import nn

import prunefuse_al
from prunefuse_al import advisor, checks, estimator, plots, pooled, proxies, pruning, scorers, selector, training
from prunefuse_al.network import signals
from prunefuse_al.pruning import Proxy, prune
from prunefuse_al.scorers import SCORERS, Margin, Random
from prunefuse_al.testing import contracts as testing
from prunefuse_al.training import schedules, transforms

X, Y = blobs(60)
NET, OTHER = mlp(6, 8, 3), mlp(6, 4, 3)
CUT: Proxy = prune(NET, X[:2], 0.5)
QUICK = {"epochs": 1, "progress": False, "device": "cpu"}
trainer = training.TorchTrainer(**QUICK)
UID = pooled.Table("uid", "x")
PARTS = pooled.Parts([{"uid": np.arange(60), "x": X.numpy()}], UID)
fitted = prunefuse_al.PrunedProxySelector(NET, trainer=trainer, random_state=0).fit(X, Y)
classifier = prunefuse_al.PruneFuseEstimator(NET, trainer=trainer, random_state=0).fit(X.numpy(), Y.numpy())
ledger = prunefuse_al.CostLedger()
SELECTORS = (fitted, classifier.selector_)
NETWORKS = (NET, OTHER, CUT.module, *(each.model for each in SELECTORS))


@dataclass(frozen=True)
class Bad:
    """A value and, where its own text is not what the message must hold, the words that it must."""

    value: Any
    words: str | None = None

    @property
    def shown(self) -> str:
        return checks.shown(self.value)[:24].rstrip(".") if self.words is None else self.words


NAN, INF, WORD, CLASS = float("nan"), float("inf"), "no such thing", dict
RAGGED, COMPLEX, NOT_FINITE = [[1.0], [1.0, 2.0]], np.zeros(2, complex), "NaN or infinite"
BAD: dict[str, tuple[Any, ...]] = {
    "whole": (True, 1.5, "3", [1], NAN, -2),
    "count": (True, 1.5, "3", [1], NAN, 0),  # from 1
    "positive": (True, "0.5", [0.5], NAN, INF, 0, -1),
    "unsigned": (True, "0.5", [0.5], NAN, INF, -0.5),
    "share": (True, "0.5", [0.5], NAN, -0.1, 1.5),
    "part": (True, "0.5", [0.5], NAN, -0.1, 1.5, 0),  # above 0
    "ratio": (True, "half", [0.5], NAN, -0.1, 1.0, CLASS),  # below 1
    "flag": (1, 0.0, "yes", [True]),
    "name": (WORD, 3, ["l2"], CLASS),
    "function": (3, WORD, CLASS, [print]),
    "instance": (3, WORD, CLASS, {"a": 1}),
    "mapping": (3, WORD, [1], CLASS),
    "network": ("resnet", 3, nn.Linear, print),
    "scorer": (Bad("entrophy", "did you mean 'entropy'"), 3, Margin),
    "score": (Bad("entrophy", "did you mean 'entropy'"), 3, Bad("k_center", "KCenter()")),
    "difficulty": (Bad("amu", "did you mean 'aum'"), 3, "random"),
    "trainer": ("sgd", 3, training.TorchTrainer, nn.Identity()),
    "seed": (True, 1.5, "3", [1], -1),
    "path": (3, True, ["a"], ""),
    "feature file": (3, True, ["a"], "", "features.bin", "no/such/folder/f.npy"),
    "k": (True, 1.5, "3", 0, -1, Bad(61, "there are")),
    "importance": (WORD, 3, ["l2"], CLASS),
    "cross": (WORD, True, NAN, [1.0]),
    "keep": (3, Bad([3], "3"), Bad(dict, "class 'dict'"), Bad(OTHER[0], "Linear(in_features=6")),
    "warm": (1, "yes", training.ShrinkPerturb, 0.5),
    "example": (WORD, 3, [], Bad(torch.tensor(1.0), "[[]]"), Bad(X[:0], "[[0, 6]]")),
    "device": ("gpu0", 3.5, True, [0]),
    "optimizer": ("lion", 3, ["sgd"], torch.optim.SGD(NET.parameters(), 0.1)),
    "schedule": ("linear", 3, ["cosine"]),
    "loss": ("mse", 3, nn.CrossEntropyLoss),
    "class weight": ("even", 3, NAN, [1, -1, 1], Bad({"a": 1.0}, "'a'"), Bad({0: -1.0}, "-1.0"), [[1, 1, 1]]),
    "compile": (3, "max-autotune", Bad({"speed": 1}, "'speed'")),
    "needs": (Bad("foo", "'foo'"), Bad({"foo"}, "'foo'"), 3),
    "axes": (3, WORD, CLASS),
    "data": (Bad(WORD, ""), Bad(np.array(["a", "b"]), "dtype"), Bad(X[:0], "0 rows")),
    "targets": (Bad("abc", "dtype"), Bad(Y[:7], "7")),
    "weights": (Bad(-X[:, 0].abs(), "negative"), Bad([1.0], "(1,)")),
    "candidates": (WORD, 3.0, Bad([0.5], "float64"), Bad([True], "length 1"), Bad([-1], "-1"), Bad([60], "60")),
    "logits": (WORD, 3.0, RAGGED, COMPLEX, Bad(X[0], "[6]"), Bad(X[:, :1], "[60, 1]")),
    "finite logits": (WORD, 3.0, RAGGED, Bad(X[0], "[6]"), Bad(X[:, :3] / 0, NOT_FINITE)),
    "passes": (WORD, 3.0, COMPLEX, Bad(X, "[60, 6]")),
    "features": (WORD, 3.0, RAGGED, Bad(X[0], "[6]"), Bad(X[None], "[1, 60, 6]"), Bad(X[:, :4] / 0, NOT_FINITE)),
    "labelled features": (WORD, 3.0, Bad(X[0], "[6]"), Bad(X, "6 columns"), Bad(X[:, :4] / 0, NOT_FINITE)),
    "column": (WORD, 3.0, COMPLEX, Bad(X, "[60, 6]")),
    "finite column": (WORD, 3.0, COMPLEX, Bad(X, "[60, 6]"), Bad(X[:, 0] / 0, NOT_FINITE)),
    "labels": (WORD, 3.0, Bad(X, "[60, 6]"), Bad(Y.float(), "float32"), Bad(Y[:7], "[7]")),
    "classes of logits": (WORD, Bad(Y.float(), "float32"), Bad(Y[:7], "[7]"), Bad(Y + 9, "9..11"), Bad(Y - 1, "-1..1")),
    "rows": (WORD, 3.0, [0.5], [True, False], Bad([-1], "-1"), Bad([60], "60")),
    "signals": (3, X, {"logits": X}),
    "signal": (WORD, 3.0, RAGGED, COMPLEX),
    "indices": (WORD, 3, [0.5], [True], [[1]]),
    "search": ("ball", 3, CLASS),
}
KINDS: dict[str, str | tuple[Any, ...]] = {
    **dict.fromkeys(
        ("accelerator", "baseline", "early_stopping", "progressive", "recorder", "within"), "maybe instance"
    ),
    **dict.fromkeys(("batch_size", "classes", "columns", "epochs", "max_clusters", "most", "n_neighbors"), "count"),
    **dict.fromkeys(
        ("mc_samples", "outcomes", "patience", "pool_size", "passes", "repeats", "rounds", "steps", "strata"), "count"
    ),
    **dict.fromkeys(("trial_epochs", "width"), "count"),
    **dict.fromkeys(
        ("dense_epochs", "eval_batch_size", "initial", "max_rows", "round_to", "sync_every"), "maybe count"
    ),
    **dict.fromkeys(("target_epochs",), "maybe count"),
    **dict.fromkeys(("n", "num_workers", "padding", "snapshots", "warmup"), "whole"),
    **dict.fromkeys(("channels_last", "deterministic", "fold_batchnorm", "from_neighbours", "progress"), "flag"),
    **dict.fromkeys(
        ("accept_changes", "bias", "by_labels", "centre", "include_labelled", "keep_frozen", "sequential"), "flag"
    ),
    **dict.fromkeys(("checked_precision", "recalibrate", "return_embeddings", "return_scores", "total"), "flag"),
    **dict.fromkeys(
        (
            "annealing",
            "features_dtype",
            "measure",
            "monitor",
            "name",
            "network",
            "parts",
            "passes_by",
            "precision",
            "scope",
        ),
        "name",
    ),
    **dict.fromkeys(("collate", "eval_transform", "infer", "on_epoch"), "maybe function"),
    **dict.fromkeys(("advice", "channel_map", "dtype", "other"), "instance"),
    **dict.fromkeys(
        ("data", "dataset", "labelled", "pool", "recalibration_data", "unlabelled", "validation_data"), "data"
    ),
    **dict.fromkeys(("inputs", "X"), "data"),
    **dict.fromkeys(("lr", "momentum", "weight_decay"), "maybe unsigned"),
    **dict.fromkeys(("final", "gamma", "min_delta", "perturb"), "unsigned"),
    **dict.fromkeys(("flip", "lambda_", "share", "shrink"), "share"),
    **dict.fromkeys(("candidate_fraction", "fraction", "purity"), "part"),
    **dict.fromkeys(("dropout", "end", "floor", "mislabelled", "pruning_ratio", "start"), "ratio"),
    **dict.fromkeys(("damping", "length", "lr_scale", "oversampling", "tau"), "positive"),
    **dict.fromkeys(("fine_tune_lr_scale", "grad_clip"), "maybe positive"),
    **dict.fromkeys(("random_state", "rng", "seed"), "maybe seed"),
    **dict.fromkeys(("first", "second", "scorer"), "scorer"),
    **dict.fromkeys(("clusterer", "neighbours"), "search"),
    **dict.fromkeys(("logits", "features", "indices", "k", "keep", "path", "labels", "signals"), ""),
    "ax": "maybe axes",
    "class_weight": "maybe class weight",
    "compile": "compile",
    "cross": "cross",
    "delta": "maybe unsigned",
    "batchnorm": "name",
    "device": "device",
    "difficulty": "difficulty",
    "distillation": "maybe instance",
    "eval_precision": "maybe name",
    "example_inputs": "example",
    "features_path": "maybe feature file",
    "head": (None, WORD, 3.0, RAGGED, Bad(X[0], "[6]"), Bad(X, "[60, 6]"), Bad(X[:3, :5] / 0, NOT_FINITE)),
    "fit": "function",
    "importance": "importance",
    "labelled_features": "labelled features",
    "loss": "loss",
    "mc_logits": "passes",
    "metrics": (
        *(3, WORD, [print], print),
        *(Bad({name: print}, f"{name!r}") for name in ("loss", "epoch", "val_f1", "", 3)),
        *(Bad({"f1": value}, "f1") for value in (None, 3, nn.Linear)),
    ),
    "model": "network",
    "needs": "needs",
    "optimizer": "optimizer",
    "points": "features",
    "pretrained": (WORD, 1, None),
    "proxy": "maybe network",
    "rates": "name",
    "repair": (WORD, 1, None, Bad({"speed": 3}, "no 'speed'")),
    "sample_weight": "weights",
    "scheduler": "schedule",
    "scale": "name",
    "scope": "name",
    "scores": "finite column",
    "sync_importance": (WORD, 3, ["same"], Bad("l2", "sync_every")),
    "target_trainer": "maybe trainer",
    "teacher": "maybe network",
    "trainer": "maybe trainer",
    "transform": "maybe function",
    "validation_fraction": (*BAD["part"], 1),
    "warm_start": "warm",
    "callbacks": (
        3,
        WORD,
        Bad([3], "3"),
        training.Callback,
        Bad([print], "callbacks[0]"),
        Bad([training.Recorder], "Recorder"),
    ),
    "candidates": "maybe candidates",
    "y": "targets",
}
"""Argument -> its kind in `BAD`, "" for that of its own name; "maybe ": None is right. Or its bad values themselves."""

Z, H, P, G = X[:, :3], X[:, :4], X[None, :, :3].repeat(2, 1, 1), X[None, :, :4].repeat(2, 1, 1)
GOOD: dict[str, Any] = {
    "advice": None,
    "channel_map": CUT.channel_map,
    "correct": [[0, 1]],
    "dataset": X,
    "difficulty": X[:, 0],
    "example": X,
    "example_inputs": X[:2],
    "features": H,
    "fit": print,
    "fraction": 0.1,
    "head": X[:3, :5],
    "indices": [0, 1],
    "inputs": X,
    "k": 2,
    "labels": Y,
    "labelled_features": H,
    "labelled_logits": Z,
    "logits": Z,
    "mc_logits": P,
    "model": NET,
    "needs": frozenset(),
    "other": fitted,
    "path": "file",
    "pool": X,
    "unlabelled": X,
    "points": H,
    "proxy": CUT,
    "X": X,
}
"""What an argument is given that must be given, where nothing is wrong with it."""
SELVES = {
    "PrunedProxySelector": fitted,
    "Holder": fitted,
    "PruneFuseEstimator": classifier,
    "TorchTrainer": trainer,
    "FunctionTrainer": training.FunctionTrainer(lambda model, data: None),
    "Recorder": training.Recorder(),
    "VeSSALStream": scorers.VeSSALStream(2, 60),
    "CostLedger": ledger,
    "LoopPlan": advisor.LoopPlan(),
}
CALLED = {  # by another word, in messages
    **dict.fromkeys(
        ("data", "dataset", "labelled", "pool", "recalibration_data", "unlabelled", "validation_data"), "X|data"
    ),
    **dict.fromkeys(("inputs", "X"), "X|data"),
    **dict.fromkeys(("first", "second"), "scorer"),
    "y": "y|label",
    "labelled_features": "labelled",
    "labelled_logits": "labelled.logits",
    "difficulty": "difficult|scorer",
}


@dataclass(frozen=True)
class Line:
    """A public call, and the bad values of each of its arguments."""

    name: str
    function: Callable[..., Any]
    run: Callable[..., Any]
    good: Mapping[str, Any]
    called: Mapping[str, str]
    bad: Mapping[str, list[Bad]]

    def call(self, argument: str, value: Any) -> Any:
        return self.run(**{**self.good, argument: value})


def line(
    function: Any,
    good: Mapping[str, Any] | None = None,
    /,
    *,
    called: Mapping[str, str] | None = None,
    run: Callable[..., Any] | None = None,
    title: str | None = None,
    **kinds: Any,
) -> Line:
    """Return a line of the table.

    Args:
        function: what is called; for a method, of the class.
        good: arguments besides `GOOD` that are right.
        called: argument -> what the message calls it.
        run: is called instead of it.
        title: its name in the table; None is its own.
        kinds: argument -> its kind here, or its bad values.
    """
    title = title or function.__qualname__
    needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    given = {name: GOOD[name] for name in needed if name in GOOD}
    if "self" in needed:
        given["self"] = SELVES.get(title.partition(".")[0])
    every = {name: kinds.get(name, KINDS.get(name)) for name in {**dict.fromkeys(parameters(function)), **kinds}}
    return Line(
        title,
        function,
        run or function,
        {**given, **(good or {})},
        {**CALLED, **(called or {})},
        {name: bad_values(name, kind) for name, kind in every.items() if kind is not None},
    )


def bad_values(name: str, kind: str | tuple[Any, ...]) -> list[Bad]:
    if isinstance(kind, str):
        values = BAD[kind.removeprefix("maybe ") or name]
        kind = values if kind.startswith("maybe ") or kind in ("data", "targets", "weights") else (*values, None)
    return [value if isinstance(value, Bad) else Bad(value) for value in kind]


def parameters(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.kind not in kinds and p.name not in ("self", "cls")]


def by_estimator(**options: Any) -> Any:
    """Fit with the options of an estimator, which looks at none before."""
    made = prunefuse_al.PruneFuseEstimator(**{"module": NET, "trainer": trainer, **options})
    return made.fit(X.numpy(), Y.numpy())


def by_fit(**options: Any) -> Any:
    return training.TorchTrainer(**{**QUICK, **options}).fit(NET, (X, Y), seed=0)


def by_selector(**options: Any) -> Any:
    return prunefuse_al.PrunedProxySelector(NET, trainer=training.TorchTrainer(**{**QUICK, **options}))


def by_parts(**options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        fitted.save(f"{folder}/file")
        saved = pooled.Saved(f"{folder}/file", lambda: mlp(6, 8, 3))
        return pooled.select_over(**{"saved": saved, **options})


Q, E, T = prunefuse_al.PrunedProxySelector, prunefuse_al.PruneFuseEstimator, training.TorchTrainer
XY = {"X": X.numpy(), "y": Y.numpy()}
MAYBE_SCORER = {"scorer": "maybe scorer"}
CLASSES: tuple[Any, ...] = ("abc", 3, [0])
BOTH_ENDS = (True, "half", NAN, -0.1, 1.1)  # a share that may be 0 or 1
ONE_LABEL = (None, WORD, 3.0, RAGGED, COMPLEX, Bad(X[0], "[6]"))
KNOWN_LABELS = (None, WORD, 3.0, Bad(X, "[60, 6]"), Bad(Z[:0] > 0, "[0, 3]"))
KNOWN: dict[str, Any] = {"labelled": "maybe rows", "called": {"labelled": "labelled"}}
TABLE = [
    line(prune),
    line(prunefuse_al.fuse, proxy=(None, 3, CUT.module, Proxy)),
    line(pruning.rebuild),
    line(
        pruning.repair,
        {"device": "cpu"},
        proxy=(None, 3, CUT.module, Proxy),
        rows="maybe count",
        positions="positive",
        memory="positive",
        distil=(True, 1.5, "3", [1], -1, pruning.Imitation),
    ),
    line(pruning.Imitation, on="name", lr="positive", epochs="whole", rows="maybe count"),
    line(pruning.GlobalScope),
    line(
        pruning.register_rule,
        {"operation": "aten::sort", "rule": "elementwise"},
        operation=(None, 3, WORD, "mm", "aten::layer_norm", "mylib::no_such", ["aten::sort"]),
        rule=(None, 3, WORD, ["elementwise"], "sort", CLASS, pruning.Mixes),
        replace="flag",
    ),
    *(
        line(each, dims=(None, (), WORD, 1.5, True, Bad([0, WORD], WORD), NAN))
        for each in (pruning.Mixes, pruning.Reduces, pruning.Normalises)
    ),
    *(
        line(data, {"labels": Y}, labels=(Bad(None, "no labels"),), loss="maybe function")
        for data in (pruning.Taylor, pruning.Hessian)
    ),
    line(pruning.Activation),
    line(
        pruning.Gates,
        {"labels": Y},
        labels=(Bad(None, "no labels"),),
        loss="maybe function",
        rate="positive",
        share="part",
    ),
    line(Q, example_inputs="maybe example"),
    line(
        proxies.Probe,
        features=(None, *BAD["feature file"]),
        head="name",
        dropout=(True, "0.5", [0.5], NAN, -0.1, 1.0),
        refresh=(True, "0.5", [0.5], NAN, 0, 1.5),
    ),
    line(Q.prepare, {"self": Q(NET, trainer=trainer)}),
    line(Q.fit, {"labelled": X, "y": Y}, y=(*BAD["targets"], Bad(Y + 9, "11")), warm_start="maybe warm"),
    line(Q.query),
    line(Q.select, **MAYBE_SCORER),
    line(Q.coreset, {"y": Y}, **MAYBE_SCORER),
    line(Q.follow),
    line(Q.save),
    line(Q.load),
    line(Q.predict_proba),
    line(
        Q.signals,
        model="maybe network",
        mc_samples="maybe count",
        needs=(*BAD["needs"], Bad({"dynamics"}, "dynamics"), Bad({"labelled_logits"}, "labelled_logits")),
    ),
    line(Q.fuse),
    line(Q.fit_target, {"labelled": X, "y": Y}),
    line(
        E,
        run=by_estimator,
        module=("resnet", 3, [NET], CLASS, Bad(lambda *_: None, "NoneType")),
        classes=(*CLASSES, [0, 0, 1], Bad([0, 1], "2")),
        dataset=(Bad(WORD, "row numbers"), Bad(3, "row numbers")),
    ),
    line(
        E.partial_fit,
        {"self": E(NET, trainer=trainer), **XY},
        X=None,
        y=None,
        classes=CLASSES,
        sample_weight=(Bad([-1.0] * 60, "negative"),),
    ),
    line(E.save),
    line(E.load, module=("resnet", 3, nn.Linear), dataset=()),
    line(E.query, {"X_pool": X.numpy()}, n_instances=(*BAD["k"][:3], None), **MAYBE_SCORER),
    line(E.predict_proba, X=None),
    line(prunefuse_al.selector_preset),
    line(
        prunefuse_al.FallingRatio,
        {"start": 0.7, "end": 0.4, "labels": (10, 80)},
        end=(*BAD["ratio"], Bad(0.8, "0.8")),
        labels=(None, 3, "ab", (1, 2, 3), (0, 5), (5, 5), (1.5, 3)),
    ),
    line(T, run=by_fit, outputs="name"),
    line(T, run=by_selector, title="TorchTrainer given to a selector", outputs="name"),
    line(T.fit, {"data": (X, Y)}, data=(*BAD["data"], Bad((X,), "tuple of 1"))),
    line(T.infer, {"data": X}),
    line(T.preset),
    line(training.FunctionTrainer, eval_batch_size="count", outputs="maybe name"),
    line(training.FunctionTrainer.fit, {"data": (X, Y)}, data=None, teacher=None),
    line(training.FunctionTrainer.infer, {"data": X}),
    line(training.EarlyStopping),
    line(training.Distillation),
    line(training.ShrinkPerturb, epochs=(True, "half", 0, -1, 1.5, NAN, [1])),
    line(
        training.ProgressivePruning,
        steps=(*BAD["count"], 21),
        schedule=(*BAD["name"], Bad(lambda p: "x", "'x'"), Bad(lambda p: p / 2, "end at 1")),
    ),
    line(
        training.larger_batches, {"trainer": trainer, "times": 2}, trainer=(None, 3, T), times=(*BAD["positive"], 0.5)
    ),
    line(training.Recorder),
    line(training.Recorder.begin, {"n": 3, "epochs": 3}, n="count"),
    line(training.fold_batchnorm, example=None),
    line(training.recalibrate_batchnorm, {"model": nn.Sequential(nn.BatchNorm1d(6)), "data": X}, seed="seed"),
    line(schedules.Cosine),
    line(schedules.Steps, phases=(3, WORD, (), ((1,),), ((1, -1),), ((0, 1.0),), ((NAN, 1.0),))),
    line(transforms.Compose, steps=(3, Bad((3,), "3"), Bad((CLASS,), "dict"))),
    line(
        transforms.Normalize,
        {"mean": (0.5,), "std": (0.5,)},
        called={"mean": "mean|std"},
        mean=(3, WORD, (NAN,), ("x",), Bad((0.1, 0.2), "(0.5,)")),
        std=(3, WORD, (NAN,), (0.0,), (0.1, 0.2)),
    ),
    line(transforms.RandomCropFlip),
    *(line(each, transform="function") for each in (transforms.PerSample, transforms.per_sample)),
    line(signals.collect, seed="seed", outputs="maybe instance"),
    line(
        prunefuse_al.advise,
        {"repeats": 1},
        called={"target": "target|cost", "labelled": "labelled"},
        kinds=(
            WORD,
            3,
            (),
            proxies.Probe,
            Bad(("pruned", 3), "3"),
            Bad((proxies.Pruned(lambda n: 0.5),), "Pruned"),
            Bad((proxies.Probe(head="logistic"),), "logistic"),
        ),
        random_state="seed",
        parts="name",
        scope="name",
        importance="importance",
        round_to="maybe count",
        keep="keep",
        labelled=(Bad(X, "no labels"), Bad((X[:3], Y[:3]), "3 rows")),
        target=("cheap", NAN, -0.1, [1], True, Bad({"speed": 1}, "'speed'")),
        ratios=("half", 3, (), Bad((1.0,), "1.0"), Bad((NAN,), "nan"), Bad((True,), "True"), Bad((0.5, 0.5), "twice")),
        plan=(WORD, 3, advisor.LoopPlan, Bad({"speed": 1}, "'speed'")),
    ),
    line(
        advisor.LoopPlan,
        pool="count",
        epochs="maybe count",
        called={"pool": "pool"},
        k=(*BAD["count"][:3], 0, Bad([1], "1 numbers"), Bad((1, 2.5, 1, 1, 1), "2.5")),
    ),
    line(advisor.LoopPlan.trained),
    line(advisor.FewerEpochs, share=(True, "0.5", [0.5], NAN, 0, 1, 1.5)),
    line(
        advisor.rows.Target,
        cost="maybe unsigned",
        seconds="maybe unsigned",
        total="maybe unsigned",
        spearman=(True, "x", NAN, -1.5, 2),
        overlap="maybe share",
        accuracy="maybe unsigned",
    ),
    line(testing.check_scorer, {"scorer": Random()}, scorer=(3, WORD, Random), expected_failed_checks="maybe mapping"),
    line(testing.example_signals, needs=("logits", 3, {"foo"}), outputs="maybe name"),
    line(
        pooled.Saved,
        {"file": "file", "model_factory": mlp},
        called={"file": "selector_file", "options": "load_options"},
        file="path",
        model_factory=(None, 3, WORD, NET),
        options=(3, WORD, [1]),
    ),
    line(
        pooled.Table,
        {"id": "uid", "input": "x"},
        id=(None, 3, "", ["uid"]),
        input=(None, 3, "", [], Bad(["x", 3], "3"), Bad({"x": 3}, "3")),
        shape=(6, "6", Bad((2, 0), "0"), Bad((2.5,), "2.5")),
    ),
    line(
        pooled.Parts,
        {"batches": [], "table": UID},
        batches=(None, 3, WORD, [X]),
        table=(None, "uid"),
        workers="count",
    ),
    line(
        pooled.select_over,
        {"pool": PARTS, "table": UID, "k": 2},
        run=by_parts,
        called={"pool": "pool", "labelled": "X|data|labelled"},
        pool=(None, 3, [], Bad(pooled.Parts, "Parts")),
        saved=(None, "file"),
        table=(None, "uid", {"uid": "x"}),
        **MAYBE_SCORER,
        shards="count",
        at_once="whole",
        labelled=("abc", Bad(3, "single number")),
    ),
    line(prunefuse_al.CostLedger.ratio),
    line(plots.plot_advice, ax=None),
    line(
        plots.plot_learning_curve,
        {"labels": [1, 2], "accuracy": {"a": [0.1, 0.2]}},
        called={"labels": "labels|budgets"},
        labels=(WORD, 3.0, RAGGED, Bad([1], "1 budgets")),
        accuracy=("x", 3, [0.5], Bad({"a": "x"}, "'x'"), Bad({"a": [1.0]}, "[1]")),
    ),
    line(plots.plot_costs, {"ledgers": fitted.costs}, ledgers=(3, WORD, {"a": 3}, None)),
    line(
        plots.plot_pareto,
        {"points": {"a": ([1.0], [0.5])}},
        called={"points": "points|plot_pareto"},
        cost=(3, None),
        points=(
            3,
            WORD,
            {},
            {"a": 3},
            {"a": ([1.0],)},
            Bad({"a": (["x"], [1.0])}, "'x'"),
            Bad({"a": ([1.0], [1.0, 2.0])}, "[2]"),
        ),
    ),
    line(plots.pareto_front, points=(WORD, 3.0, RAGGED, Bad(np.ones(3), "1."))),
    line(plots.plot_widths, proxy="instance"),
    line(
        plots.plot_selection,
        {"pool": torch.zeros(4, 2, 2), "selection": prunefuse_al.Selection([0, 1, 2])},
        called={"pool": "X|data|pool|row"},
        pool=(*BAD["data"], Bad(torch.zeros(2, 2, 2), "0 to 1"), Bad(X, "[6]")),
        selection="instance",
    ),
    line(scorers.get_scorer),
    line(
        prunefuse_al.Signals,
        dynamics=(WORD, 3, [1.0], Bad({"aum": "x"}, "'x'")),
        **dict.fromkeys(
            (
                "logits",
                "features",
                "mc_logits",
                "labels",
                "labelled_features",
                "labelled_logits",
                "labelled_labels",
                "head",
            ),
            BAD["signal"],
        ),
        outputs="maybe name",
        called={"labelled_logits": "labelled_logits"},
    ),
    line(prunefuse_al.Selection, labels=None, scores=(WORD, 3.0, Bad([1.0], "2 indices"))),
    line(scorers.BatchBALD),
    line(scorers.CAL, neighbours="maybe search"),
    line(scorers.CCS),
    line(scorers.ClassBalanced),
    line(scorers.ClassStandardised, scorer="score"),
    line(
        scorers.CostAware,
        {"scorer": "margin", "costs": [1.0]},
        scorer="score",
        costs=(WORD, 3.0, None, Bad([0.0], "entry 0 is 0"), Bad([NAN], "nan"), Bad([[1.0]], "(1, 1)")),
    ),
    line(scorers.D2, neighbours="maybe search"),
    line(scorers.MLAdaptive, weight=BOTH_ENDS),
    line(scorers.MLMargin, top="maybe count"),
    line(scorers.Mixture),
    line(scorers.TwoStage, keep=(*BAD["positive"], 0.5)),
    line(scorers.ProbCover, classes="maybe count", clusterer="maybe search"),
    line(scorers.TypiClust, clusterer="maybe search", neighbours="maybe search"),
    line(scorers.DropQuery, clusterer="maybe search"),
    line(scorers.DropQueryInit, clusterer="maybe search"),
    line(scorers.dropquery, logits="finite logits", clusterer="maybe search"),
    line(scorers.dropquery_flips, logits="finite logits"),
    line(scorers.dropquery_init, clusterer="maybe search"),
    line(scorers.VeSSAL),
    line(scorers.VeSSALStream, {"k": 2, "n": 60}, n="count"),
    *(line(each, logits="finite logits") for each in (scorers.VeSSALStream.offer, scorers.VeSSALStream.know)),
    line(scorers.VeSSALStream.finish),
    line(
        scorers.vessal,
        {"labelled_logits": Z, "labelled_features": H},
        called={"labelled_logits": "labelled.logits"},
        logits="finite logits",
        labels=(*BAD["classes of logits"], Bad(X, "[60, 6]")),
        labelled_logits=(WORD, 3.0, Bad(Z[:7], "[7, 3]"), Bad(X, "[60, 6]"), Bad(Z / 0, NOT_FINITE)),
        labelled_features=(*BAD["labelled features"], Bad(None, "go together")),
    ),
    line(scorers.AdaPruner, rate="positive"),
    line(
        scorers.mask_gradient,
        {"loss": [0.1, 1.0], "mask": [1.0, 1.0], "steepness": 1.0, "keep": 0.5, "share": 1.0},
        loss=(*BAD["column"], Bad([-1.0, 1.0], "-1.0")),
        mask=(*BAD["column"], Bad([1.0], "[1]")),
        steepness=(None, *BAD["positive"]),
        keep=(None, *BAD["part"]),
        share=(None, *BAD["share"]),
    ),
    line(scorers.Influence),
    line(scorers.influence, logits="finite logits", labels="classes of logits"),
    line(scorers.influence_vectors, logits="finite logits", labels="classes of logits"),
    line(scorers.smallest_removal, {"vectors": H, "size": 2}, vectors="features", size=(*BAD["whole"], 61)),
    line(
        scorers.largest_removal,
        {"vectors": H, "tolerance": 0.1},
        vectors="features",
        tolerance=(None, *BAD["unsigned"]),
        keep=(*BAD["whole"], 61),
        relative="flag",
    ),
    line(scorers.loss_band, labels="classes of logits"),
    line(scorers.entropy),
    line(scorers.margin),
    line(scorers.least_confidence),
    line(scorers.bald, mc_logits=(None, *BAD["passes"], Bad(P[:1], "[1, 60, 3]"), Bad(P[:, :, :1], "[2, 60, 1]"))),
    line(scorers.batchbald, mc_logits=(None, *BAD["passes"], Bad(P / 0, NOT_FINITE))),
    line(scorers.badge, logits="finite logits"),
    line(scorers.ml_badge, logits=(None, *BAD["finite logits"][:-1]), features="features"),
    line(scorers.ml_bald, mc_logits=(None, *BAD["passes"], Bad(P[:1], "[1, 60, 3]"))),
    *(line(each, logits=ONE_LABEL) for each in (scorers.ml_entropy, scorers.ml_min_margin)),
    line(scorers.ml_margin, logits=ONE_LABEL, top="maybe count"),
    line(scorers.label_cardinality, {"labelled_labels": Z > 0}, logits=ONE_LABEL, labelled_labels=KNOWN_LABELS),
    line(
        scorers.ml_adaptive,
        {"labelled_labels": Z > 0},
        logits=ONE_LABEL,
        labelled_labels=KNOWN_LABELS,
        weight=BOTH_ENDS,
    ),
    line(
        scorers.mmc,
        {"labelled_labels": Z > 0, "labelled_logits": Z},
        logits=ONE_LABEL,
        labelled_labels=KNOWN_LABELS,
        labelled_logits=(None, WORD, 3.0, Bad(Z[:7], "[7, 3]")),
    ),
    line(scorers.k_center, **KNOWN, labelled_features="maybe labelled features"),
    line(
        scorers.typiclust,
        **KNOWN,
        labelled_features="maybe labelled features",
        clusterer="maybe search",
        neighbours="maybe search",
    ),
    line(
        scorers.probcover,
        {"delta": 0.5},
        **KNOWN,
        labelled_features="maybe labelled features",
        clusterer="maybe search",
    ),
    line(scorers.purity_radius, {"clusters": Y}, clusters="labels", called={"clusters": "clusters|labels"}),
    line(
        scorers.cal,
        logits="finite logits",
        labelled_features=(*BAD["labelled features"], Bad(None, "0 labelled")),
        labelled_logits=(None, WORD, 3.0, Bad(Z[:7], "[7, 3]"), Bad(X, "[60, 6]"), Bad(Z / 0, NOT_FINITE)),
        neighbours="maybe search",
    ),
    line(scorers.ccs, difficulty="finite column"),
    line(scorers.d2, difficulty="finite column", labels="maybe labels", neighbours="maybe search"),
    line(scorers.moderate),
    *(line(each, {"logits": P}, logits="passes", labels="classes of logits") for each in (scorers.aum, scorers.el2n)),
    line(
        scorers.grand,
        {"logits": P, "features": G},
        logits="passes",
        features=(*BAD["passes"], Bad(G[:1], "1 moments")),
        labels="classes of logits",
    ),
    line(
        scorers.moso,
        {"logits": P, "features": G, "rates": [0.1, 0.1]},
        logits="passes",
        features=(*BAD["passes"], Bad(G[:1], "1 moments")),
        labels="classes of logits",
        rates=(None, WORD, 0.1, Bad([0.1], "1 rates"), Bad([[0.1], [0.1]], "[2, 1]")),
    ),
    line(scorers.forgetting, correct=(None, WORD, 3.0, [0, 1], Bad([[0, 2]], "[[0, 2]]"), Bad(X, "[60, 6]"))),
    line(
        scorers.class_budgets, {"sizes": [3, 4]}, sizes=(None, WORD, 3, [0.5], [-1, 3], [[1]]), k=(*BAD["k"][:3], -1, 8)
    ),
    line(scorers.standardised_by_class, {"scores": X[:, 0]}),
    line(
        scorers.score_per_cost,
        {"scores": X[:, 0].abs(), "costs": X[:, 0].abs() + 1},
        scores=(*BAD["column"], Bad(X[:, 0] - 99, "below 0")),
        costs=(*BAD["column"], Bad(X[:7, 0], "[7]"), Bad(X[:, 0] * 0, "60 of 60")),
    ),
]


def of_scorer(name: str) -> Iterator[Line]:
    """Yield the lines of a scorer's `select` and `score`."""
    scorer: Any = SCORERS[name]()
    given = {"self": scorer, "signals": testing.example_signals(scorer.needs, n=60, classes=3)}
    yield line(type(scorer).select, given, title=f"{name}.select", **({"rng": None} if name == "moderate" else {}))
    if hasattr(scorer, "score"):
        yield line(type(scorer).score, given, title=f"{name}.score")


TABLE += [each for name in SCORERS for each in of_scorer(name)]
LINES = {each.name: each for each in TABLE}
ROWS = [(each.name, argument, values) for each in TABLE for argument, values in each.bad.items()]

SKLEARN = "scikit-learn looks at X and y, in words of its own"
EXEMPT: dict[str, str] = {
    **dict.fromkeys(("ChannelMap", "Proxy", "LayerWidth", "PruningReport"), "made by prune"),
    "RepairReport": "made by repair",
    **dict.fromkeys(("Advice", "AdviceRow", "Prediction"), "made by advise"),
    **dict.fromkeys(
        ("make_optimizer", "make_schedule", "check_optimizer", "check_scheduler"), "called by a TorchTrainer"
    ),
    **dict.fromkeys(("PruneFuseEstimator.fit", "PruneFuseEstimator.predict", "PruneFuseEstimator.embed"), SKLEARN),
    **dict.fromkeys(("CostAware.select", "CostAware.score"), "as every other scorer's"),
    "Removal": "made by smallest_removal and largest_removal",
    "Snapshot": "made by a Recorder",
    "OperationCall": "made by prune for a rule; see tests/pruning/test_register_rule.py",
    "Marks": "made by prune for a rule; see tests/pruning/test_register_rule.py",
    "RegisteredRule": "made by register_rule",
    "TrainingHistory": "made by TorchTrainer.fit",
    "CostLedger": "written by the library; files are looked at when they are read",
    "Picks": "made by select_over",
    "read_batch": "called by adapters for every batch",
    "logits_of": "takes whatever a network returned, and says what is missing",
}
"""Calls that stand for themselves, with the reason; a class stands for its methods."""
EXEMPT_METHODS: dict[str, str] = {
    **dict.fromkeys(("weight", "epochs_of", "ratios", "split", "factor"), "called in training"),
    **dict.fromkeys(("select_scored", "compose"), "called by a selector"),
    **dict.fromkeys(("see", "end_epoch"), "called by a trainer for every batch; see tests/training/test_recording.py"),
    **dict.fromkeys(("learnt", "measure"), "called by prune"),
    **dict.fromkeys(("of", "excess", "met_by"), "called by advise"),
    **dict.fromkeys(("answers", "held", "ids", "inputs", "check"), "called by select_over; see tests/pooled"),
}
"""Methods of public classes, by name, with the reason."""
EXEMPT_ARGUMENTS: dict[tuple[str, str], str] = {
    ("PruneFuseEstimator.query", "X_pool"): SKLEARN,
    ("PruneFuseEstimator.load", "dataset"): "read when its rows are asked for",
    **{(f"PruneFuseEstimator.{call}", x): SKLEARN for call in ("partial_fit", "fit_target") for x in ("X", "y")},
    ("PruneFuseEstimator.predict_proba", "X"): SKLEARN,
    ("PruneFuseEstimator.fit_target", "sample_weight"): "as of fit_target of a selector",
    ("fold_batchnorm", "example"): "a network that does not run on it is not folded: None comes back",
    ("FunctionTrainer.fit", "data"): "handed on to the user's own function",
    ("FunctionTrainer.fit", "teacher"): "handed on to the user's own function",
    ("plot_advice", "ax"): "as of the other pictures",
    ("Selection", "labels"): "set by a selector",
    ("Selection", "considered"): "set by a selector",
    ("Saved", "digest"): "set by Saved.pinned",
    ("Moderate.select", "rng"): "it draws nothing",
}
"""Arguments that are looked at elsewhere or cannot be wrong, with the reason."""
MODULES: tuple[ModuleType, ...] = (
    *(prunefuse_al, scorers, training, selector, pruning, plots, advisor, testing, estimator, signals),
    *(schedules, transforms, pooled),
)


def public_calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the name and the function of everything public that can be called, methods of classes as "Class.method"."""
    seen: set[int] = set()
    for module in MODULES:
        home = plots.__name__ if module is plots else prunefuse_al.__name__
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            own = callable(value) and getattr(value, "__module__", "").startswith(home)
            if not own or name.startswith("_") or id(value) in seen or is_no_call(value):
                continue
            seen.add(id(value))
            yield name, value
            if isinstance(value, type):
                yield from ((f"{name}.{method}", function) for method, function in own_methods(value))


def own_methods(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for base in cls.__mro__:
        if base.__module__.startswith(prunefuse_al.__name__):
            for name, value in vars(base).items():
                function = value.__func__ if isinstance(value, classmethod) else value
                abstract = getattr(function, "__isabstractmethod__", False)  # what is called is a subclass's own
                if not name.startswith("_") and inspect.isfunction(function) and not abstract:
                    yield name, function


def is_no_call(value: Any) -> bool:
    return isinstance(value, type) and (issubclass(value, BaseException) or getattr(value, "_is_protocol", False))
