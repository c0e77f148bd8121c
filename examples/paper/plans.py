"""Ready plans: the paper's set-ups, smaller ones of the same shape, and the questions that its reviewers asked.

`../../docs` and the reports say what is ours in them. The papers': PruneFuse (arXiv 2501.01118) for CIFAR and ImageNet:
networks, ratios, budgets, epochs, optimiser, augmentation. The rate of fused targets is not stated there; half of
the rate is this library's default. Tiny-ImageNet's epochs and rates are not stated either: CIFAR's are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from plan import Plan

from prunefuse_al import TorchTrainer

MAIN = ("random", "dense-reinit", "dense-continue", "prunefuse-v1", "prunefuse-v2:2")
SEEDS = (0, 1, 2)
GOES_ON = "prunefuse-v1 warm=continue"
CHEAP = "prunefuse-v1 warm=continue warm_share=0.34"
CHEAPEST = "prunefuse-v1 ratio=0.7 warm=continue warm_share=0.1 fraction=0.3"
CHEAPEST_OF_HALF = "prunefuse-v1 ratio=0.7 epochs=15 warm=continue warm_share=0.2 fraction=0.3"  # as many from then on

DIGITS = Plan(
    "digits",
    seeds=(0, 1),
    arms=("random", "dense-reinit", "svp:resnet8/2", "prunefuse-v1", "prunefuse-v2:2"),
    note="Every part at work in a minute; too small to tell anything about the method.",
)
# The shape of the paper's CIFAR runs, smaller. Epochs, batches and rates are such that the dense network trained on the
# first labels is worth asking: with fewer steps least confidence picks outliers and every arm falls behind random.
FASHION = Plan(
    "fashion-mnist",
    data="fashion-mnist",
    size=14,
    train=15_000,
    test=4_000,
    network="resnet20/2",
    first=300,
    budgets=(500, 1000, 1500, 2000),
    epochs=30,
    batch_size=64,
    references=("dense-continue",),
    arms=(
        *(*MAIN, "svp:resnet8/2", GOES_ON, CHEAP, CHEAPEST, CHEAPEST_OF_HALF),
        *(f"{arm} target_epochs=15" for arm in ("prunefuse-v1", GOES_ON)),
    ),
)
CIFAR = Plan(
    "cifar10-scaled",
    data="cifar10",
    size=16,
    train=20_000,
    test=5_000,
    network="resnet20/2",
    first=500,
    budgets=(1000, 2000, 3000),
    epochs=20,
    batch_size=64,
    references=("dense-continue",),
    arms=(
        *(*MAIN, GOES_ON, CHEAP, CHEAPEST),
        *(f"{arm} target_epochs=10" for arm in ("prunefuse-v1", GOES_ON)),
    ),
)
CIFAR_GPU = replace(
    CIFAR,
    name="cifar10-gpu",
    size=0,
    network="resnet20",
    first=1000,
    budgets=(2000, 4000, 6000, 8000),
    epochs=30,
    lr=0.05,
    arms=(*MAIN, "svp:resnet8", CHEAP),
)
PAPER_CIFAR = Plan(
    "cifar10-paper",
    data="cifar10",
    network="resnet56",
    first=1000,
    budgets=(5000, 10_000, 15_000, 20_000, 25_000),
    trainer="cifar",
    epochs=0,
    batch_size=0,
    lr=0,
    arms=("random", "dense-reinit", "dense-continue", "svp:resnet20", "prunefuse-v1", "prunefuse-v2:2"),
)
PAPER_IMAGENET = Plan(
    "imagenet-paper",
    data="folder:data/imagenet",
    network="torchvision:resnet50",
    first=0.02,
    budgets=(0.1, 0.2, 0.3, 0.4, 0.5),
    trainer="imagenet",
    epochs=0,
    batch_size=0,
    lr=0,
    precision="auto",
    arms=MAIN,
)
# Fine-tuning of weights learnt from ImageNet. Pictures are small, so that a training takes a minute or two on a core.
PRETRAINED = Plan(
    "cifar10-pretrained",
    data="cifar10",
    resize=64,
    train=25_000,
    pool=4352,
    test=2000,
    network="pretrained:efficientnet-lite0",
    scorer="margin",
    first=100,
    budgets=(400,),
    trainer="adamw",
    epochs=10,
    batch_size=32,
    lr=1e-3,
    references=("random", "random epochs=20 rate=0.5"),
    arms=(
        *("random", "random rate=0.5", "random epochs=20 rate=0.5", "dense-reinit", "probe"),
        *("prunefuse-v1", "prunefuse-v1 repair=no"),
        *("prunefuse-v1 subset=random", "prunefuse-v1 imitate=4 subset=random"),
        *("random subset=probe", "random subset=prunefuse-v1"),
    ),
    note="Whose labels are worth what, and what a target is worth beside fine-tuning on the same labels.",
)
PRETRAINED_CELLS = replace(PRETRAINED, name="elpv-pretrained", data="elpv", size=100, train=0, pool=0, test=0)

# Small enough for twenty seeds of every arm on two cores: the main claims, with few labels, by the recommended scorer.
CLAIMS = (
    *(*MAIN, "prunefuse-v1 start=scratch", "prunefuse-v1 subset=dense-reinit", GOES_ON),
    *(f"prunefuse-v1 ratio={ratio}" for ratio in (0.25, 0.75, 0.9)),
    *(
        f"{arm} scorer={scorer}"
        for scorer in ("least_confidence", "badge", "k_center")
        for arm in ("dense-reinit", "prunefuse-v1")
    ),
)
DIGITS_20 = Plan(
    "digits-20",
    network="mlp",
    scorer="margin",
    first=40,
    budgets=(80, 120, 160),
    epochs=30,
    lr=0.05,
    seeds=tuple(range(20)),
    references=("prunefuse-v1", "prunefuse-v1 start=scratch", "dense-continue"),
    arms=(*CLAIMS, "svp:mlp/2"),
    note="The main claims on twenty seeds: scikit-learn's digits, a perceptron.",
)
LETTERS_20 = replace(
    DIGITS_20,
    name="letters-20",
    data="letters",
    pool=6000,
    test=4000,
    first=260,
    budgets=(520, 780, 1040),
    batch_size=32,
    epochs=30,
    note="The main claims on twenty seeds: a table, R's LetterRecognition, 26 classes, a perceptron.",
)
MAILS_20 = replace(
    DIGITS_20,
    name="mails-20",
    data="mails",
    first=40,
    budgets=(80, 160, 320),
    note="The main claims on twenty seeds: texts, SpamAssassin's mails as tf-idf, a perceptron.",
)
MNIST_20 = replace(
    DIGITS_20,
    name="mnist-20",
    data="mnist-5000",
    size=14,
    network="resnet8x2/2",
    first=100,
    budgets=(200, 300, 400),
    batch_size=32,
    epochs=20,
    lr=0.1,
    arms=tuple(arm for arm in CLAIMS if not arm.endswith(("=0.25", "=0.9", "badge", "k_center"))),
    note="The main claims on twenty seeds: 5,000 pictures of MNIST at 14 x 14, a small residual network.",
)
# A core set: all labels of the pool are known, k of them are kept. A network of the family's grammar.
DIGITS_SUBSELNET = Plan(
    "digits-subselnet",
    network="family:16-2r3-2r3s-2r3s",
    scorer="margin",
    first=20,
    budgets=(100, 200, 400),
    epochs=30,
    batch_size=32,
    seeds=SEEDS,
    baseline="random",
    references=("subselnet:proxy",),
    arms=(
        *("random", "subselnet", "subselnet:smallest", "subselnet:inductive", "subselnet:mean", "subselnet:nearest"),
        *("subselnet:proxy", "prunefuse-v1", "prunefuse-v1 start=scratch"),
    ),
    note="SubSelNet on scikit-learn's digits. Its arms know all labels of the pool and keep k of them; those of "
    "PruneFuse know the labels that they ask for alone. Subsets of a seed are nested and hold the first 20.",
)
TWENTY = (DIGITS_20, LETTERS_20, MAILS_20, MNIST_20)


def variants(plan: Plan) -> dict[str, Plan]:
    """Return a set-up otherwise: other first labels and queries, a long tail, wrong labels, tuned, not augmented."""
    budgets = [int(b) for b in plan.budgets]
    changes: dict[str, dict[str, Any]] = {
        "small-first": {"first": plan.first // 2},
        "large-first": {"first": (plan.first + budgets[0]) // 2},
        "small-queries": {"budgets": tuple(int(b) for b in between(plan.first, budgets))},
        "large-queries": {"budgets": tuple(budgets[::-2][::-1])},
        "long-tail": {"imbalance": 20.0},
        "noise": {"noise": 0.2},
        # Tuned, the chooser of "start=scratch" has settings of its own: the same labels are those of another arm.
        "tuned": {"tuning": 8, "arms": (*MAIN, "random subset=prunefuse-v1", GOES_ON)},
        "plain": {"augment": "none"},
    }
    same = {"arms": (*MAIN, "prunefuse-v1 start=scratch", GOES_ON), "note": ""}
    return {
        f"{plan.name}-{name}": replace(plan, **{"name": f"{plan.name}-{name}", **same, **change})
        for name, change in changes.items()
    }


def between(first: float, budgets: Sequence[float]) -> list[float]:
    """Return budgets with one more in the middle of each two."""
    steps = [first, *budgets]
    return [value for a, b in pairwise(steps) for value in ((a + b) / 2, b)]


Question = tuple[str, ...]  # name, what is asked, and the arms that answer it


def about_the_method(plan: Plan, epochs: int) -> list[Question]:
    """Return which parts of the method matter; `epochs` are those of a training."""
    ratios = [f"prunefuse-v1 ratio={tenth / 10:g}" if tenth != 5 else "prunefuse-v1" for tenth in range(1, 9)]
    halved = {"resnet20": "resnet20/2", "resnet20/2": "resnet20/4", "resnet56": "resnet56/2"}[plan.network]
    return [
        (
            "fusion-distillation",
            "Fusion on or off, distillation on or off; the proxy chooses the same labels in all four.",
            "dense-reinit",
            "prunefuse-v1",
            "prunefuse-v1 distill=0.3",
            "prunefuse-v1 start=scratch",
            "prunefuse-v1 distill=0.3 start=scratch",
            "prunefuse-v1 cross=copy",
        ),
        ("ratios", "From hardly pruned to hardly anything left.", "dense-reinit", *ratios),
        (
            "controls",
            "Does it matter which channels stay, and that they are put back? Random channels, and a network that is "
            "drawn at the size of the proxy and cannot be fused.",
            "dense-reinit",
            "prunefuse-v1",
            "prunefuse-v1 importance=random",
            f"svp:{halved}",
        ),
        (
            "pruning",
            "At once, gradually, or again from the trained target.",
            "dense-reinit",
            "prunefuse-v1",
            f"prunefuse-v1 progressive={min(20, epochs // 3)}",
            "prunefuse-v2:1",
            "prunefuse-v2:2",
        ),
        (
            "stopping",
            "The target trained until its held-out loss no longer falls, and for half of the epochs, at several rates.",
            "dense-reinit",
            "dense-reinit stop=3",
            "prunefuse-v1",
            "prunefuse-v1 stop=3",
            "prunefuse-v1 start=scratch",
            "prunefuse-v1 start=scratch stop=3",
            f"prunefuse-v1 target_epochs={epochs // 2}",
            f"prunefuse-v1 fine_tune=0.2 target_epochs={epochs // 2}",
            f"prunefuse-v1 fine_tune=1 target_epochs={epochs // 2}",
            f"{CHEAP} target_epochs={epochs // 2}",
            f"prunefuse-v1 start=scratch target_epochs={epochs // 2}",
        ),
    ]


def about_the_labels(plan: Plan) -> list[Question]:
    """Return what the chosen labels are worth elsewhere, and who should choose them."""
    scorers = ("least_confidence", "entropy", "margin", "k_center", "badge", "moderate", "ccs", "d2", "forgetting")
    choosers = ("dense-reinit", "svp:resnet8" + ("/2" if plan.network.endswith("/2") else ""), "prunefuse-v1")
    by_scorer = [arm if s == plan.scorer else f"{arm} scorer={s}" for s in scorers for arm in choosers]
    return [
        (
            "subsets",
            "The labels of one method with the start of another.",
            "random",
            "dense-reinit",
            "prunefuse-v1",
            "prunefuse-v1 subset=dense-reinit",
            "prunefuse-v1 subset=random",
            "dense-reinit subset=prunefuse-v1",
        ),
        (
            "transfer",
            "Labels that one network chose, used to train another architecture from scratch.",
            "random",
            "dense-reinit",
            "prunefuse-v1",
            *(
                f"random subset={subset} target={target}"
                for target in ("vgg", "resnet14")
                for subset in ("random", "dense-reinit", "prunefuse-v1")
            ),
        ),
        ("scorers", "Scorers inside dense active learning, Selection via Proxy and PruneFuse.", "random", *by_scorer),
    ]


def about_the_costs(plan: Plan, epochs: int) -> list[Question]:
    """Return what makes rounds cheaper, and starts better."""
    pretrained: list[Question] = [
        (
            "pretrained",
            "From weights that learnt another task; make the file first, see pretrain.py.",
            "random",
            "dense-reinit",
            "prunefuse-v1",
            *(f"{arm} checkpoint=mnist.pt" for arm in ("random", "dense-reinit", "prunefuse-v1")),
        ),
    ]
    cheaper: list[Question] = [
        (
            "cheaper",
            "Rounds that do less: warm starts, fewer epochs, a plateau, a part of the pool, a ratio that falls.",
            "random",
            "dense-reinit",
            "prunefuse-v1",
            GOES_ON,
            "prunefuse-v1 warm=shrink",
            "prunefuse-v1 warm=shrink warm_share=0.34",
            f"prunefuse-v1 epochs={epochs // 3}",
            "prunefuse-v1 plateau=2",
            "prunefuse-v1 fraction=0.3",
            "prunefuse-v1 ratio=0.75 falls_to=0.5",
            CHEAP,
            "prunefuse-v1 warm=continue warm_share=0.34 fraction=0.3",
            "prunefuse-v1 ratio=0.7 warm=continue warm_share=0.34 fraction=0.3",
            CHEAPEST,
        ),
    ]
    return cheaper + (pretrained if plan.data == "fashion-mnist" else [])  # MNIST's pictures have one channel


REFERENCES = {  # what a question compares with beside the baseline
    "fusion-distillation": ("prunefuse-v1 start=scratch", "prunefuse-v1"),
    "controls": ("prunefuse-v1",),
    "pruning": ("prunefuse-v1",),
    "stopping": ("prunefuse-v1 start=scratch", "prunefuse-v1 start=scratch stop=3"),
    "subsets": ("prunefuse-v1",),
    "transfer": ("random subset=random target=vgg", "random subset=random target=resnet14"),
    "cheaper": ("prunefuse-v1",),
    "pretrained": ("dense-reinit checkpoint=mnist.pt",),
}


def questions(plan: Plan) -> dict[str, Plan]:
    """Return a plan for each question that reviewers asked, on the set-up of `plan`."""
    epochs = plan.epochs or TorchTrainer.preset(plan.trainer).epochs
    asked = [*about_the_method(plan, epochs), *about_the_labels(plan), *about_the_costs(plan, epochs)]
    return {
        f"{plan.name}-{name}": replace(
            plan,
            name=f"{plan.name}-{name}",
            note=note,
            arms=arms,
            seeds=SEEDS,
            references=REFERENCES.get(name, ()),
        )
        for name, note, *arms in asked
    }


SETUPS = {"fashion-mnist": FASHION, "cifar10-scaled": CIFAR, "cifar10-paper": PAPER_CIFAR}
GROUPS = {  # they share records; the pretrained start needs a file first
    f"{name}-questions": [plan for plan in questions(setup) if not plan.endswith("-pretrained")]
    for name, setup in SETUPS.items()
}
PLANS = {
    plan.name: plan
    for plan in (
        DIGITS,
        FASHION,
        CIFAR,
        CIFAR_GPU,
        PRETRAINED,
        PRETRAINED_CELLS,
        PAPER_CIFAR,
        replace(PAPER_CIFAR, name="cifar100-paper", data="cifar100"),
        replace(PAPER_CIFAR, name="tiny-imagenet-paper", data="folder:data/tiny-imagenet", size=64, network="resnet18"),
        PAPER_IMAGENET,
        *TWENTY,
        DIGITS_SUBSELNET,
    )
}
PLANS |= {name: plan for setup in SETUPS.values() for name, plan in questions(setup).items()}
PLANS |= {name: plan for setup in (DIGITS_20, MNIST_20) for name, plan in variants(setup).items()}
