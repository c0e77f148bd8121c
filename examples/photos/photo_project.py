"""What there is on one day: photographs, labels and the selector of the day before."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import label_files
import numpy as np
import timm
import torch
from label_files import Labels
from picture_files import Photos, Problem, find, read
from torch import nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.errors import CheckpointError, NotFittedError
from prunefuse_al.proxies import Probe, Pruned
from prunefuse_al.scorers import TwoStage
from prunefuse_al.training.transforms import Compose, Normalize, RandomCropFlip

ROOM = 32
"""Outputs of the network: labels may turn up on any day, and the selector's file goes on."""
STEPS = 400  # of a training, about


@dataclass(frozen=True)
class Project:
    """What there is on one day.

    Attributes:
        args: the options.
        photos: the photographs.
        labels: what is known of them.
        classes: the labels, sorted; their places are what the network says.
    """

    args: argparse.Namespace
    photos: Photos
    labels: Labels
    classes: list[str]

    @classmethod
    def opened(cls, args: argparse.Namespace) -> Project:
        """Return what there is in the places that the options name, and say what is odd about it."""
        without = [args.sheet, args.folder / args.sheet.name]
        names = find(args.folder, without) if args.folder.is_dir() else []
        label_files.gather(args.labels, args.offers, names)  # refused before anything is read
        photos = read(args.folder, args.size, without=without, progress=not args.quiet)
        labels = label_files.gather(args.labels, args.offers, photos.names, photos.unreadable)
        project = cls(args, photos, labels, sorted(set(labels.of.values())))
        project.report()
        if len(project.classes) > ROOM:
            raise Problem(f"there are {len(project.classes)} different labels, and room for {ROOM}: {project.classes}")
        return project

    def report(self) -> None:
        """Print what was found, and what a user should look after."""
        labels, args = self.labels, self.args
        print(f"{len(self.photos)} photographs, {len(labels.of)} with a label, {len(labels.open)} asked for and open")
        counts = ", ".join(f"{name} {list(labels.of.values()).count(name)}" for name in self.classes)
        print(f"labels: {counts or 'none yet'}")
        if not args.labels.exists():
            print(f"{args.labels} is not there; that is fine, answers may also be written into {args.offers.name}")
        if labels.skipped or labels.unsure:
            print(f"left out: {len(labels.skipped)} skip, {len(labels.unsure)} unsure")
        listed("cannot be read and are left out", [f"{n}: {why}" for n, why in self.photos.unreadable.items()])
        listed("have labels that disagree, and are not used until one is gone", labels.conflicts.items())
        listed("have a label and are not in the folder (the label stays in its table)", labels.gone)
        for words in labels.said:
            print(words)

    def is_check(self, name: str) -> bool:
        """Tell whether a photograph is one of those that only measure: drawn by its name, so always the same ones."""
        return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < self.args.check * 2**32

    def labelled(self, *, check: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and classes of what is labelled, in the order in which it was; of the checks or the others."""
        row = {name: place for place, name in enumerate(self.photos.names)}
        chosen = [name for name in self.labels.of if check is None or self.is_check(name) == check]
        return (
            np.array([row[name] for name in chosen], np.int64),
            np.array([self.classes.index(self.labels.of[name]) for name in chosen], np.int64),
        )

    def not_settled(self, *, check: bool) -> list[int]:
        """Return rows that may be offered."""
        settled = self.labels.settled - (self.labels.unsure if self.args.unsure else set())
        names = enumerate(self.photos.names)
        return [row for row, name in names if name not in settled and self.is_check(name) == check]

    def fit(self, selector: PrunedProxySelector, rows: np.ndarray, y: np.ndarray) -> None:
        """Train the selector's proxy on some photographs."""
        selector.fit(self.photos.pixels[rows], y)

    def guesses(self, selector: PrunedProxySelector, rows: Sequence[int]) -> np.ndarray:
        """Return how likely each class is, [n classes], for some photographs."""
        return selector.predict_proba(self.photos.pixels[list(rows)])[:, : len(self.classes)]


def selector_for(project: Project) -> PrunedProxySelector:
    """Return the selector of the day before, or a new one."""
    args = project.args
    labelled = max(1, len(project.labels.of))
    network, normalize = network_for(args)
    steps = -(-labelled // args.batch_size)
    trainer = TorchTrainer(
        args.epochs or min(60, max(10, STEPS // steps)),
        args.batch_size,
        optimizer="adamw",
        transform=Compose((RandomCropFlip(padding=args.size // 12, flip=0.0 if args.no_flip else 0.5), normalize)),
        eval_transform=normalize,
        progress=not args.quiet,
    )
    if args.selector.exists():
        try:
            selector = PrunedProxySelector.load(args.selector, network, trainer=trainer)
        except CheckpointError as error:
            raise Problem(
                f"{args.selector} does not go with these options ({error}); give --network as on the first day, or "
                "move the file away to start anew (labels are kept)"
            ) from error
        if args.weights and not isinstance(selector.options.proxy, Probe):
            print(
                f"{args.selector} was begun without weights, and --weights says nothing now: move it away to begin anew"
            )
        return selector
    if not args.weights:
        print("the network begins without having seen a photograph; with --weights far fewer labels are needed")
    kind = Probe() if args.weights else Pruned(0.5)
    scorer = TwoStage("margin", "k_center")
    return PrunedProxySelector(network, proxy=kind, scorer=scorer, trainer=trainer, random_state=args.seed)


def network_for(args: argparse.Namespace) -> tuple[nn.Module, Normalize]:
    """Return the network to start from, and what it wants done to pictures."""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(args.seed)
            given = {} if args.weights in (None, "download") else {"pretrained_cfg_overlay": {"file": args.weights}}
            network = timm.create_model(args.network, pretrained=args.weights is not None, num_classes=ROOM, **given)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise Problem(f"--network {args.network} --weights {args.weights}: {error}") from error
    told = network.pretrained_cfg
    return network, Normalize(tuple(told["mean"]), tuple(told["std"]))


def prepared(selector: PrunedProxySelector) -> bool:
    """Tell whether there is a proxy to ask: it is cut once, and comes with the selector's file from then on."""
    try:
        return selector.model is not None
    except NotFittedError:
        return False


def of_target(project: Project, selector: PrunedProxySelector, rows: Sequence[int]) -> np.ndarray:
    """Return how likely the whole network, trained on, thinks each class, [n classes], for some photographs."""
    target = selector.fit_target()
    logits = selector.signals(project.photos.pixels[list(rows)], frozenset({"logits"}), model=target).logits
    return torch.softmax(logits.double(), 1).numpy()[:, : len(project.classes)]


def listed(what: str, found: Sequence, most: int = 10) -> None:
    """Print names and what they have in common, where there are any."""
    if found:
        lines = [line if isinstance(line, str) else ": ".join(line) for line in found]
        more = [f"  ... and {len(lines) - most} more"] * (len(lines) > most)
        print("\n".join([f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:most]), *more]))
