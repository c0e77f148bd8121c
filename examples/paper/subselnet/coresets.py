"""SubSelNet on the labelled pool of one seed: a family trained, encoder, approximator, and what they guess of a
network.

Every step is done once and kept in a file, with what it cost, so that a run that was stopped goes on after the last
step that was done, and so that arms of one seed share it. Each arm states the whole cost of the steps that it
reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prunefuse_al import CostLedger, TorchTrainer, prune
from prunefuse_al.data import replacing
from prunefuse_al.data.datasets import as_dataset, subset

from . import approximator as approximators
from . import encoder as encoders
from . import subsets
from .family import PREFIX, Architecture, drawn_family, random_architecture
from .graphs import Graphs, batched, graph_of

if TYPE_CHECKING:
    from sources import Source

Tensors = dict[str, Tensor]
WAYS = {  # what stands behind the colon of an arm -> whose logits are taken for the network's, and how samples are
    "": ("approximator", "drawn"),
    "smallest": ("approximator", "smallest"),
    "inductive": ("approximator", "inductive"),
    "mean": ("mean", "drawn"),
    "nearest": ("nearest", "drawn"),
    "proxy": ("proxy", "drawn"),
}
PRETRAINING = ("family", "samples", "encoder", "approximator", "chooser")  # stages that serve every later architecture
GUESSING = "guess"  # the one that each architecture pays


@dataclass(frozen=True)
class Recipe:
    """How large all of it is.

    Attributes:
        training: architectures that the approximator is trained on.
        validation: those that say which epoch of it is kept.
        test: those that are only ever compared with.
        epochs: for which each of them is trained on the whole pool, and the pruned proxy that they are compared with.
        batch_size: of these trainings.
        graphs: random ones that the encoder is trained on.
        encoder_epochs: of the encoder.
        approximator_epochs: of the approximator.
        reader: the fixed network, not of the family, whose features are the samples' embeddings, trained on the pool.
    """

    training: int = 14
    validation: int = 3
    test: int = 3
    epochs: int = 12
    batch_size: int = 64
    graphs: int = 2000
    encoder_epochs: int = 10
    approximator_epochs: int = 30
    reader: str = "mlp/2"

    @property
    def parts(self) -> dict[str, Tensor]:
        """Which of the family are for what; they are drawn in no order, so the first ones are as good as any."""
        rows = torch.arange(self.training + self.validation + self.test)
        sizes = (self.training, self.validation, self.test)
        return dict(zip(("training", "validation", "test"), rows.split(sizes), strict=True))


RECIPE = Recipe()


@dataclass(frozen=True)
class Task:
    """What is chosen from, and for which network.

    Attributes:
        data: the samples.
        rows: numbers of those in the labelled pool.
        dense: the network that will be trained on the subset, untrained.
        architecture: its place in the family; it is never trained on the pool.
        ratio: pruning ratio of the proxy that is compared with.
        k: samples that are kept in the end, which the inductive network is trained for.
        trainer: makes a trainer, given what is to differ from the plan's.
        seed: of everything that is drawn.
    """

    data: Source
    rows: np.ndarray
    dense: nn.Module
    architecture: Architecture
    ratio: float
    k: int
    trainer: Callable[..., TorchTrainer]
    seed: int

    @property
    def y(self) -> Tensor:
        """The labels of the pool."""
        return torch.as_tensor(self.data.y_train[self.rows])


@dataclass(frozen=True)
class CoreSet:
    """An order of the pool, the first k of which are the subset of k.

    Attributes:
        order: numbers of rows.
        costs: rows of a ledger, of all steps that led to it.
        checks: of each test architecture the KL divergence from what it says once trained, by guess; and how well the
            encoder's embeddings tell what graphs are. Empty where no family was trained.
    """

    order: np.ndarray
    costs: list[dict[str, Any]]
    checks: dict[str, Any]


class Steps:
    """The steps of a task, each done when it is first asked for, unless its file is there.

    Attributes:
        costs: rows of a ledger, of the steps asked for so far.
    """

    def __init__(self, task: Task, folder: Path, recipe: Recipe) -> None:
        self.task, self.folder, self.recipe = task, folder, recipe
        self.costs: list[dict[str, Any]] = []
        self._done: dict[str, Tensors] = {}
        count = recipe.training + recipe.validation + recipe.test
        self.family = drawn_family(count, np.random.default_rng([task.seed, 1]), but=task.architecture)
        self.graphs = batched([graph_of(each) for each in (*self.family, task.architecture)])  # the dense one last
        settings = {"epochs": recipe.epochs, "batch_size": recipe.batch_size}
        self.trainer = task.trainer(**settings)

    def step(self, name: str, make: Callable[[CostLedger], Tensors]) -> Tensors:
        """Return what a step makes, and count what it cost or had cost."""
        if name not in self._done:
            path = self.folder / f"{name}.safetensors"
            if not path.exists():
                ledger = CostLedger()
                made = {key: value.contiguous() for key, value in make(ledger).items()}
                content = save(made, metadata={"costs": json.dumps(ledger.to_dicts())})
                with replacing(path) as file:
                    file.write(content)
            with safe_open(path, "pt") as file:
                self._done[name] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
                self.costs += json.loads(file.metadata()["costs"])
        return self._done[name]

    def learnt(self, network: nn.Module, needs: str, ledger: CostLedger, stage: str, of: str) -> Tensor:
        """Train a network on the pool and return what it then says of each sample of it, not augmented."""
        data, rows = self.task.data, self.task.rows
        labelled = data.labelled(rows)
        with ledger.stage(stage, round=1, network=of) as measured:
            measured.watch(network)
            self.trainer.fit(network, labelled, seed=self.task.seed)
            found = self.trainer.infer(network, subset(as_dataset(data.unlabelled), rows), (needs,))
        said: Tensor = getattr(found, needs)
        return said.float()

    def logits(self) -> Tensor:
        """Return what the trained family says, [a n c]; each training is a step."""

        def trained(ledger: CostLedger, name: str) -> Tensors:
            network = self.task.data.network(name, self.task.seed)
            return {"logits": self.learnt(network, "logits", ledger, "family", "family")}

        names = [f"{PREFIX}{architecture}" for architecture in self.family]
        steps = [self.step(f"family-{a}", partial(trained, name=name)) for a, name in enumerate(names)]
        return torch.stack([step["logits"] for step in steps])

    def samples(self) -> Tensor:
        """Return the embeddings of samples, standardised, [n d]."""

        def make(ledger: CostLedger) -> Tensors:
            network = self.task.data.network(self.recipe.reader, self.task.seed)
            return {"features": self.learnt(network, "features", ledger, "samples", "reader").flatten(1)}

        features = self.step("samples", make)["features"]
        return (features - features.mean(0)) / (features.std(0) + 1e-6)

    def encoded(self) -> Tensors:
        """Return the nodes' embeddings of the family and the dense network, and how well they tell what graphs are."""

        def make(ledger: CostLedger) -> Tensors:
            rng = np.random.default_rng([self.task.seed, 2])
            graphs, fresh = (random_graphs(count, rng) for count in (self.recipe.graphs, 256))
            encoder, decoder = encoders.new_encoder(self.task.seed)
            with ledger.stage("encoder", round=1, network="encoder") as measured:
                measured.watch(encoder, decoder)
                encoders.train_encoder(encoder, decoder, graphs, self.recipe.encoder_epochs, self.task.seed)
                nodes = encoders.embedded(encoder, self.graphs)
            told = encoders.reconstructed(encoder, decoder, fresh)
            return {"nodes": nodes, **{name: torch.tensor(value) for name, value in told.items()}}

        return self.step("encoder", make)

    def embedded(self) -> approximators.Embedded:
        """Return family and dense network as the approximator reads them."""
        return approximators.Embedded(self.encoded()["nodes"], self.graphs.mask, self.graphs.output)

    def approximator(self) -> approximators.Approximator:
        """Return the approximator, trained."""
        logits, samples, embedded = self.logits(), self.samples(), self.embedded()
        found = approximators.new_approximator(samples.shape[1], logits.shape[2], self.task.seed)

        def make(ledger: CostLedger) -> Tensors:
            parts = self.recipe.parts
            lessons = [
                approximators.Lessons(embedded[rows], samples, logits[rows])
                for rows in (parts["training"], parts["validation"])
            ]
            with ledger.stage("approximator", round=1, network="approximator") as measured:
                measured.watch(found.head, found.attention)
                epochs = self.recipe.approximator_epochs
                approximators.train_approximator(found, *lessons, epochs, self.task.seed)
            return found.state_dict()

        found.load_state_dict(self.step("approximator", make))
        return found.eval()

    def guessed(self) -> Tensor:
        """Return what the approximator guesses for the dense network, [n c]."""
        found, dense = self.approximator(), torch.tensor([len(self.family)])

        def make(ledger: CostLedger) -> Tensors:
            with ledger.stage(GUESSING, round=1, network="approximator") as measured:
                measured.watch(found.head, found.attention)
                return {"logits": approximators.guesses(found, self.embedded()[dense], self.samples())[0]}

        return self.step(GUESSING, make)["logits"]

    def mean(self) -> Tensor:
        """Return the mean logits of the training architectures, whatever the network, [n c]."""
        return self.logits()[self.recipe.parts["training"]].mean(0)

    def nearest(self, number: int | None = None) -> Tensor:
        """Return the logits of the training architecture nearest to the dense network, or to one of the family."""
        rows = self.recipe.parts["training"]
        wholes = encoders.whole(self.encoded()["nodes"], self.graphs.mask)
        distance = (wholes[rows] - wholes[len(self.family) if number is None else number]).norm(dim=1)
        return self.logits()[rows[int(distance.argmin())]]

    def proxy(self) -> Tensor:
        """Return the logits of one pruned proxy of the dense network, trained on the pool, [n c]."""
        task, transform = self.task, self.task.data.transforms[1]

        def make(ledger: CostLedger) -> Tensors:
            example = torch.zeros(2, *task.data.shape)
            example = example if transform is None else transform(example)
            network = prune(task.dense, example, task.ratio, random_state=task.seed).module
            return {"logits": self.learnt(network, "logits", ledger, GUESSING, "proxy")}

        return self.step(f"proxy-{task.ratio:g}", make)["logits"]  # arms may differ in the ratio

    def chosen(self) -> Tensor:
        """Return the probabilities with which the inductive network keeps samples for the dense network, [n]."""
        found, samples, y = self.approximator(), self.samples(), self.task.y
        rows, own = self.recipe.parts["training"], self.guessed()
        wholes = encoders.whole(self.encoded()["nodes"], self.graphs.mask)

        def make(ledger: CostLedger) -> Tensors:
            chooser = subsets.new_chooser(wholes.shape[1] + samples.shape[1] + 2 * own.shape[1], self.task.seed)
            with ledger.stage("chooser", round=1, network="chooser") as measured:
                measured.watch(chooser, found.head, found.attention)
                guessed = approximators.guesses(found, self.embedded()[rows], samples)
                loss = torch.stack([subsets.losses(of, y) for of in guessed])
                pairs = zip(wholes[rows], guessed, strict=True)
                inputs = torch.stack([subsets.chooser_inputs(whole, samples, y, of) for whole, of in pairs])
                subsets.train_chooser(chooser, inputs, loss, self.task.k)
                with torch.no_grad():
                    pi = chooser(subsets.chooser_inputs(wholes[len(self.family)], samples, y, own))
            return {"pi": pi}

        return self.step("chooser", make)["pi"]

    def checks(self) -> dict[str, Any]:
        """Return how far guesses are from what the test architectures say once trained; no cost of the arm."""
        rows, logits, mean = self.recipe.parts["test"], self.logits(), self.mean()
        guessed = approximators.guesses(self.approximator(), self.embedded()[rows], self.samples())
        tested = []
        for a, guess in zip(rows.tolist(), guessed, strict=True):
            by = {"approximator": guess, "mean": mean, "nearest": self.nearest(a)}
            errors = {name: round(float(approximators.kl(logits[a], of)), 5) for name, of in by.items()}
            tested.append({"architecture": str(self.family[a]), **errors})
        told = {name: round(float(self.encoded()[name]), 4) for name in ("operations", "edges")}
        return {"test": tested, "encoder": told}


def random_graphs(count: int, rng: np.random.Generator) -> Graphs:
    """Return graphs of so many random members of the family."""
    return batched([graph_of(random_architecture(rng)) for _ in range(count)])


def core_set(task: Task, way: str, folder: Path, recipe: Recipe = RECIPE) -> CoreSet:
    """Return the order in which a way takes the samples of a pool.

    Args:
        task: what is chosen from, and for which network.
        way: one of `WAYS`.
        folder: for the files of the steps.
        recipe: how large all of it is.
    """
    steps, (guess, rule) = Steps(task, folder, recipe), WAYS[way]
    # The same noise for every guess: what differs between arms of a seed is the guess.
    rng = np.random.default_rng([task.seed, 3])
    if rule == "inductive":
        order = subsets.largest_first(steps.chosen(), rng)
    else:
        by = {"approximator": steps.guessed, "mean": steps.mean, "nearest": steps.nearest, "proxy": steps.proxy}
        loss = subsets.losses(by[guess](), task.y)
        order = (subsets.smallest_first if rule == "smallest" else subsets.drawn_order)(loss, rng)
    costs = list(steps.costs)
    return CoreSet(task.rows[order], costs, steps.checks() if guess == "approximator" else {})


def total_macs(costs: Sequence[dict[str, Any]], stages: Sequence[str]) -> int:
    """Return the multiply-accumulates of some stages among rows of a ledger."""
    return sum(row["forward_macs"] + row["backward_macs"] for row in costs if row["stage"] in stages)
