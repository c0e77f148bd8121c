"""H(mean_t q_t) - mean_t H(q_t), in forty decimal digits, so that the difference needs no care."""

from __future__ import annotations

from decimal import Decimal, localcontext


def score(mc_logits):
    """Return the scores of logits given as lists [t][n][c]."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 40, -999_999, 999_999
        return [float(information([exact_softmax(one[i]) for one in mc_logits])) for i in range(len(mc_logits[0]))]


def information(passes):
    mean = [sum(column) / len(passes) for column in zip(*passes, strict=True)]
    return entropy(mean) - sum(entropy(q) for q in passes) / len(passes)


def entropy(q):
    return -sum(p * p.ln() for p in q if p > 0)


def exact_softmax(row):
    highest = Decimal(max(row))
    weights = [(Decimal(value) - highest).exp() for value in row]
    total = sum(weights)
    return [weight / total for weight in weights]
