"""What SubSelNet's guesses are worth, and after how many architectures they pay back: a part of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from compare import Results
from subselnet import GUESSING, PRETRAINING, total_macs
from wording import giga, markdown

OURS, PROXY = "subselnet", "subselnet:proxy"
BY = ("approximator", "mean", "nearest")


def guessed(results: Results) -> str:
    """Return how far guesses are from trained networks of architectures never learnt from, and what they cost."""
    arm = next(
        (arm.name for arm in results.plan.parsed if arm.method == "subselnet" and with_checks(results, arm.name)), ""
    )
    if not arm:
        return ""
    seeds = results.seeds(arm, number=0)
    checks = dict(zip(seeds, results.values(arm, 0, "guesses", seeds), strict=True))
    tested = [test for each in checks.values() for test in each["test"]]
    head = ["seed", "approximator", "mean logits of the training networks", "nearest one's", "ahead of the mean on"]
    rows = [[str(seed), *errors(each["test"])] for seed, each in checks.items()]
    rows.append(["all", *errors(tested)])
    ahead = sum(test["approximator"] < test["mean"] for test in tested)
    verdict = "it is" if ahead == len(tested) else "it is not"
    told = {name: np.mean([each["encoder"][name] for each in checks.values()]) for name in ("operations", "edges")}
    caption = (
        "KL divergence from what networks of test architectures say of the pool once trained, by what is guessed "
        "without training them; the mean over architectures. The approximator counts as learnt where it is ahead of "
        f"the mean logits on every test architecture of every seed: **{verdict}** ({ahead} of {len(tested)}). From "
        f"embeddings of the encoder {told['operations']:.0%} of the operations of new graphs are told, and "
        f"{told['edges']:.0%} of the pairs of layers that are connected or not, both kinds weighing the same."
    )
    return f"## Guesses\n\n{caption}\n\n{markdown(head, rows)}\n\n{payback(results, arm)}"


def with_checks(results: Results, arm: str) -> bool:
    """Return whether records of an arm say how far its guesses are."""
    return any(each.get("test") for each in results.values(arm, 0, "guesses"))


def errors(tested: Sequence[dict[str, Any]]) -> list[str]:
    """Return cells: the mean divergence by what is guessed, and where the approximator is ahead of the mean logits."""
    means = [f"{np.mean([test[by] for test in tested]):.3f}" for by in BY]
    return [*means, f"{sum(test['approximator'] < test['mean'] for test in tested)} of {len(tested)}"]


def payback(results: Results, arm: str) -> str:
    """Say what was paid before, by step, and after how many architectures proxies that are spared pay it back."""
    paid = {stage: spent(results, arm, [stage]) for stage in PRETRAINING}
    before, each = sum(paid.values()), spent(results, arm, [GUESSING])
    steps = ", ".join(f"{stage} {giga(macs)}" for stage, macs in paid.items() if macs)
    said = f"Paid once, in GMACs of a seed: {giga(before)} ({steps}); every architecture then costs {giga(each)}."
    if not results.seeds(PROXY, number=0):
        return said
    proxy = spent(results, PROXY, [GUESSING])
    after = f"after {math.ceil(before / (proxy - each)):,} architectures" if proxy > each else "never"
    return (
        f"{said} One pruned proxy trained on the pool costs {giga(proxy)}, so beside it the guesses pay back {after}."
    )


def spent(results: Results, arm: str, stages: Sequence[str]) -> float:
    """Return multiply-accumulates of an arm's first round in some stages, the mean over seeds."""
    return float(np.mean([total_macs(costs, stages) for costs in results.values(arm, 0, "costs")]))
