"""Greedy choice by the joint information of all labels of the batch, every joint label written out."""

from __future__ import annotations

import itertools
import math

from ._softmax import softmax


def joint_information(batch):
    """Return I(y_1 .. y_b; w) of samples given as their probabilities in each pass, [b][t][c]."""
    t, c = len(batch[0]), len(batch[0][0])
    joint_entropy = 0.0
    for labels in itertools.product(range(c), repeat=len(batch)):
        chance = sum(math.prod(sample[i][label] for sample, label in zip(batch, labels, strict=True)) for i in range(t))
        chance /= t
        joint_entropy -= chance * math.log(chance) if chance > 0 else 0.0
    given_pass = -sum(q * math.log(q) for sample in batch for row in sample for q in row if q > 0) / t
    return joint_entropy - given_pass


def informations(mc_logits, picked):
    """Return the information of `picked` with each sample not in it added, by sample."""
    samples = [[softmax(one[i]) for one in mc_logits] for i in range(len(mc_logits[0]))]
    chosen = [samples[i] for i in picked]
    return {i: joint_information([*chosen, samples[i]]) for i in range(len(samples)) if i not in picked}
