"""baal's loop on pictures with a ResNet: the wrapper and the heuristic change, the loop does not.

    python examples/hosts/baal_loop.py  # scikit-learn's digits
    python examples/hosts/baal_loop.py --data fashion-mnist --root data
    python examples/hosts/baal_loop.py --before  # the script as it was, with the dense network

Needs baal 2.1: pip install "prunefuse_al[baal]".
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the structlog that baal needs
    from baal import ModelWrapper
    from baal.active import ActiveLearningDataset, ActiveLearningLoop
    from baal.active.heuristics import Margin
    from baal.modelwrapper import TrainingArgs
    from baal.utils.metrics import Accuracy

from data import load
from loop_options import loop_options
from networks import cifar_resnet

from prunefuse_al import PrunedProxySelector
from prunefuse_al.adapters.baal import ProxyHeuristic, ProxyWrapper, trainer_of


def main(argv: list[str] | None = None) -> float:
    """Run the loop and return the accuracy on the test pictures."""
    args = loop_options(__doc__, argv, pictures=True, pool=1000, rounds=2, epochs=15)
    images = load(args.data, args.root)
    scale = images.transforms()[1]
    rows = np.random.default_rng(0).permutation(len(images.y_train))[: args.pool]
    train = TensorDataset(scale(torch.from_numpy(images.x_train[rows])), torch.from_numpy(images.y_train[rows]))
    test = TensorDataset(scale(torch.from_numpy(images.x_test[:1000])), torch.from_numpy(images.y_test[:1000]))
    print(f"{args.data}: {len(train):,} pictures to choose from")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cifar_resnet(8, train[0][0].shape[0], images.classes)
    training = TrainingArgs(
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        criterion=nn.CrossEntropyLoss(),
        batch_size=32,
        epoch=args.epochs,
        use_cuda=torch.cuda.is_available(),
        workers=0,
    )
    dataset = ActiveLearningDataset(train, random_state=0)
    dataset.label_randomly(100)
    if args.before:  # BEFORE
        wrapper = ModelWrapper(model, training)
        loop = ActiveLearningLoop(dataset, wrapper.predict_on_dataset, Margin(), query_size=50, iterations=1)
    else:  # AFTER
        wrapper = ProxyWrapper(model, training, pruning_ratio=0.5, random_state=0)
        loop = ActiveLearningLoop(dataset, wrapper.get_probabilities, ProxyHeuristic(wrapper, "margin"), query_size=50)
    wrapper.add_metric("accuracy", Accuracy)
    for number in range(args.rounds):
        wrapper.train_on_dataset(dataset)
        core = None if args.before or number else pick_by_core(model, training, train, dataset.labelled)
        before = dataset.labelled.copy()
        loop.step()
        if core is not None:
            assert set(core.tolist()) == set(np.flatnonzero(dataset.labelled & ~before).tolist())
        print(f"round {number + 1}: {len(dataset)} labels")
    wrapper.train_on_dataset(dataset)
    if not args.before:
        wrapper.fit_target()
        print(f"choosing took {wrapper.selector.costs.ratio():.2f} of the dense network's MACs")
    wrapper.test_on_dataset(test)
    accuracy = float(wrapper.get_metrics("test")["test_accuracy"])
    print(f"accuracy of the {'dense network' if args.before else 'fused target'}: {accuracy:.1%}")
    return accuracy


def pick_by_core(model: nn.Module, training: TrainingArgs, train: TensorDataset, labelled: np.ndarray) -> np.ndarray:
    """Return what the library picks without baal, from the same weights and labels."""
    core = PrunedProxySelector(model, 0.5, scorer="margin", trainer=trainer_of(training), random_state=0)
    known = torch.from_numpy(np.flatnonzero(labelled))
    core.fit(train.tensors[0][known], train.tensors[1][known])
    return core.query(train, 50, candidates=~labelled)


if __name__ == "__main__":
    main()
