"""Which proxy to take, asked before anything is labelled but a few hundred pictures.

    python examples/advise.py
    python examples/advise.py --trained 10

Prunes ResNet-8 at four ratios, counts and times every proxy beside the dense network, predicts what five rounds of
active learning cost with each, and compares how shortly trained networks answer and rank. With --trained the network is
first trained on pictures that are not in the pool: then proxies are repaired, and a probe on its features is looked at,
and the dense network for fewer epochs. Prints the table and the verdict, saves a plot.
"""

from __future__ import annotations

import argparse

import matplotlib
import networks
import torch
from data import load

from prunefuse_al import TorchTrainer, advise

matplotlib.use("Agg")
NETWORKS = {"resnet8": lambda *shape: networks.cifar_resnet(8, *shape), "resnet18": networks.resnet18}


def main(argv: list[str] | None = None) -> None:
    """Ask for advice, print it and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist, fashion-mnist, cifar10, or a .npz file")
    parser.add_argument("--root", default="data", help="folder with the data")
    parser.add_argument("--network", default="resnet8", choices=NETWORKS)
    parser.add_argument("--pool", type=int, default=1198, help="pictures that could be labelled")
    parser.add_argument("--labelled", type=int, default=400, help="pictures that are, to compare rankings on")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--trained", type=int, default=0, help="epochs for which the network is trained beforehand")
    parser.add_argument("--sync-every", type=int, default=None, help="V2: sync every so many rounds")
    parser.add_argument("--out", default="advise.png")
    args = parser.parse_args(argv)

    images = load(args.data, args.root)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = NETWORKS[args.network](images.x_train.shape[1], images.classes)
    transform, eval_transform = images.transforms()
    trainer = TorchTrainer(args.epochs, transform=transform, eval_transform=eval_transform, progress=False)
    if args.trained:
        before = TorchTrainer(args.trained, transform=transform, eval_transform=eval_transform, progress=False)
        before.fit(dense, (images.x_test, images.y_test), seed=0)
    advice = advise(
        dense,
        eval_transform(torch.from_numpy(images.x_train[:2])),
        target={"cost": 0.5, "spearman": 0.3, "accuracy": 0.9 if args.trained else None},
        ratios=(0.1, 0.25, 0.5, 0.75),
        plan={"pool": args.pool, "sync_every": args.sync_every},
        labelled=(images.x_train[: args.labelled], images.y_train[: args.labelled]),
        unlabelled=images.x_train[: args.pool],
        trainer=trainer,
        repeats=3,
    )
    print(advice)
    print(advice.verdict)
    advice.plot().figure.savefig(args.out, dpi=120)


if __name__ == "__main__":
    main()
