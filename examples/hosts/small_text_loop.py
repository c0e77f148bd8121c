"""small-text's learner on mails or documentation: the factory and the strategy change, the loop does not.

    python examples/hosts/small_text_loop.py  # texts that come with scikit-learn
    python examples/hosts/small_text_loop.py --root data  # SpamAssassin's mails, if they are in there
    python examples/hosts/small_text_loop.py --before  # the loop as it was, with the dense network

Needs small-text and transformers: pip install "prunefuse_al[small-text]". The network is a small DistilBERT with
random weights, so that nothing is downloaded; a model `from_pretrained` goes in the same place. Since small-text's own
factory can only load one from disk, --before trains this same network, not pruned, with small-text's own strategy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from small_text import BreakingTies, PoolBasedActiveLearner
from small_text.integrations.transformers.datasets import TransformersDataset
from transformers import DistilBertConfig, DistilBertForSequenceClassification

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import load_texts
from loop_options import loop_options

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator, TorchTrainer
from prunefuse_al.adapters.small_text import PruneFuseClassifierFactory, ScorerStrategy

LENGTH, VOCABULARY = 48, 2000


def main(argv: list[str] | None = None) -> float:
    """Run the loop and return the accuracy on held-out texts."""
    args = loop_options(__doc__, argv, pool=600, rounds=2, epochs=12)
    found = load_texts(args.root, args.pool + 300)
    tokens, classes = found.tokens(LENGTH, VOCABULARY), int(found.y.max()) + 1
    print(f"{found.source}: {args.pool:,} texts to choose from")
    pool, test = (as_dataset(tokens, found.y, classes, part) for part in (slice(args.pool), slice(args.pool, None)))
    trainer = TorchTrainer(args.epochs, 16, optimizer="adamw", lr=0.001, progress=False)
    network, y = make_network(classes), found.y[: args.pool]
    ratio = 0.0 if args.before else 0.5
    estimator = PruneFuseEstimator(network, ratio, trainer=trainer, random_state=0)
    factory = PruneFuseClassifierFactory(estimator, num_classes=classes)  # BEFORE TransformerBasedClassificationFactory
    strategy = BreakingTies() if args.before else ScorerStrategy("margin")  # BEFORE, else AFTER
    learner = PoolBasedActiveLearner(factory, strategy, pool)
    learner.initialize_data(np.arange(100), y[:100])
    for number in range(args.rounds):
        indices = learner.query(num_samples=50)
        if not args.before and not number:
            assert indices.tolist() == picked_by_core(network, trainer, tokens, y).tolist()
        learner.update(y[indices])
        print(f"round {number + 1}: {len(learner.indices_labeled)} labels")
    if not args.before:
        factory.fit_target()  # from here on the classifier answers with the target
        print(f"choosing took {factory.estimator.costs_.ratio():.2f} of the dense network's MACs")
    accuracy = float((learner.classifier.predict(test) == found.y[args.pool :]).mean())
    print(f"accuracy of the {'dense network' if args.before else 'fused target'}: {accuracy:.1%}")
    return accuracy


def as_dataset(tokens: dict[str, np.ndarray], y: np.ndarray, classes: int, part: slice) -> TransformersDataset:
    """Return some rows as small-text has them: a list of (ids [1 t], mask [1 t], label)."""
    ids, mask = (torch.from_numpy(tokens[name][part])[:, None] for name in ("input_ids", "attention_mask"))
    return TransformersDataset(list(zip(ids, mask, y[part].tolist(), strict=True)), target_labels=np.arange(classes))


def make_network(classes: int) -> DistilBertForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": LENGTH}
        return DistilBertForSequenceClassification(
            DistilBertConfig(vocab_size=VOCABULARY, num_labels=classes, pad_token_id=0, **shape)
        )


def picked_by_core(
    network: torch.nn.Module, trainer: TorchTrainer, tokens: dict[str, np.ndarray], y: np.ndarray
) -> np.ndarray:
    """Return what the library picks without small-text, from the same weights and labels."""
    pool = {name: values[: len(y)] for name, values in tokens.items()}
    few = {name: values[:100] for name, values in tokens.items()}
    core = PrunedProxySelector(network, 0.5, scorer="margin", trainer=trainer, random_state=0).fit(few, y[:100])
    return core.query(pool, 50, candidates=range(100, len(y)))


if __name__ == "__main__":
    main()
