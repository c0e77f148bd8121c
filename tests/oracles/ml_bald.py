"""The mean over labels of H(mean_t p_t) - mean_t H(p_t), each label a coin of its own."""

from __future__ import annotations

from ._sigmoid import both, digits, entropy


@digits
def score(mc_logits):
    """Return the scores of logits given as lists [t][n][c]."""
    return [
        float(sum(information([one[i][j] for one in mc_logits]) for j in range(len(row))) / len(row))
        for i, row in enumerate(mc_logits[0])
    ]


def information(passes):
    coins = [both(z) for z in passes]
    mean = tuple(sum(side) / len(coins) for side in zip(*coins, strict=True))
    return entropy(mean) - sum(map(entropy, coins)) / len(coins)
