"""What to tell a user whose network cannot be pruned as asked: what was found, and what to do in that very case."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..network import Arguments, copied
from .groups import Structure
from .nonfinite import first_not_finite
from .places import place_raised
from .quietly import answer_of

NATURAL = ("reads an input", "is not both written")  # what no pruning removes: inputs, kernel positions, tables
NOT_UNDERSTOOD = "is not understood"
DRAWS = "draws random numbers in eval mode"
UNCHECKED = "cannot be checked"
CURES = {  # a word of the reason -> what helps; of several the first, as what is kept whole makes what reads it fail
    NOT_UNDERSTOOD: "say what that does with prunefuse_al.pruning.register_rule, or compute it with others",
    "fixed size": "expand what is the same for all channels or heads, such as a mask, from size 1 inside forward",
    "does not run": "take widths in forward from the shapes of tensors or from attributes, not from numbers",
    DRAWS: "draw nothing in eval mode: ask self.training first, as nn.Dropout does",
    "not a sub-network": "let no result depend on how many channels there are",
    "out of step": "let which operations run depend neither on values nor on the number of rows",
    UNCHECKED: "keep answers finite whatever the weights are",
    "answers with": "answer with the logits alone",
    "kept on request": "name fewer layers in keep=",
    "is a residual stream": "pass parts='all'",
}
REST = "or pass pruning_ratio=0 to work with the whole network, or a small network of your own as a selector's proxy="


def nothing_prunable(found: Structure, ratio: float) -> str:
    """Return what to tell a user whose network has no group of channels that can be thinned."""
    reasons = _by_reason(found)
    answers = [list(answer.shape) for answer in found.trace.answers]
    if not reasons and len(answers) > 1:
        reasons = [f"it answers with {len(answers)} tensors, {answers}, which stay as they are"]
    what = "; ".join(reasons[:5] or _by_reason(found, natural=True)[:2])
    cure = next(
        (cure for word, cure in CURES.items() if any(word in reason for reason in reasons)),
        "pass a network with at least one hidden layer",
    )
    return (
        f"prune(): pruning_ratio={ratio:g} was asked, and nothing in this network can be thinned"
        f"{': ' + what if what else ''}. To have it thinned, {cure}; {REST}"
    )


def _by_reason(found: Structure, *, natural: bool = False) -> list[str]:
    """Return each reason once, with the first tensor that it was given for; those that say nothing apart."""
    axes, meant = found.trace.atoms.axes, defaultdict(list)
    for number, reason in sorted(found.reasons.items()):
        if reason.startswith(NATURAL) == natural:
            meant[reason].append(f"{axes[number].name}, dimension {axes[number].dim}")
    more = {reason: f" and {len(names) - 1} more" if len(names) > 1 else "" for reason, names in meant.items()}
    return [f"{names[0]}{more[reason]}, {reason}" for reason, names in meant.items()]


def does_not_run(model: nn.Module, arguments: Arguments, given: Arguments, error: Exception) -> str:
    """Return what to tell a user whose network does not run on two rows of its example inputs.

    Args:
        model: the network.
        arguments: two rows of `given`.
        given: the example inputs as they were passed.
        error: what it raised.
    """
    place = place_raised(error)
    why = f"{type(error).__name__}: {error}".rstrip(". \n") + (f" at {place}" if place else "")
    if shapes(given) != shapes(arguments) and _runs(model, given):
        return (
            f"prune(): the network runs on example_inputs {shapes(given)}, but not on two rows of them, "
            f"{shapes(arguments)}: {why}. Inputs that have rows need as many as the first one, and the network has to "
            "take any number of rows: make what has several rows for a sample, as a mask for each head, inside "
            "forward, and give a graph, whose nodes are no samples, a leading dimension of graphs"
        )
    return (
        f"prune(): the network does not run on example_inputs {shapes(given)}: {why}; pass inputs of the shapes and "
        "types that it is called with"
    )


def no_tensors(model: nn.Module, answer: object) -> str:
    """Return what to tell a user whose network answers with something in which there are no tensors."""
    return (
        f"prune(): {type(model).__name__}.forward answers with {type(answer).__name__}, in which no tensor was found "
        "to compare a proxy by; return a tensor, or a tuple or dict of tensors, such as the logits of a distribution, "
        "and make the rest of them outside forward"
    )


def not_finite(model: nn.Module, arguments: Arguments) -> str:
    """Return what to tell a user whose network answers with NaN."""
    place = first_not_finite(model, arguments)
    return (
        f"prune(): the network answers with NaN or infinite values on example_inputs {shapes(arguments)}"
        f"{f', first in {place}' if place else ''}, so no proxy can be checked against it; pass inputs with finite "
        "answers (a row that is padding throughout has none in an attention), or repair the weights"
    )


def shapes(arguments: Arguments) -> list[list[int]]:
    """Return the shape of every tensor."""
    return [list(leaf.shape) for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]


def _runs(model: nn.Module, arguments: Arguments) -> bool:
    try:
        answer_of(copied(model).eval(), arguments)
    except Exception:  # whatever a user's code raises
        return False
    return True
