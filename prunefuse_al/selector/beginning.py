"""What a round's training begins with: the pruned initial weights, or the last proxy's, as they are or shrunk."""

from __future__ import annotations

from torch import nn

from ..network import copied
from ..training import ShrinkPerturb, shrink_perturb
from ..types import Trainer, altered, epochs_of
from .options import Options, State, WarmStart


def beginning(options: Options, state: State, warm: WarmStart) -> tuple[nn.Module, Trainer]:
    """Return the network that the next training starts from, which must not be changed, and who trains it.

    Args:
        options: see `Options`.
        state: where the last round ended; its `trained` is None if a proxy has been cut since.
        warm: how to go on from the last trained proxy, if there is one.
    """
    assert state.start is not None
    if not warm or state.trained is None:
        return state.start, options.trainer
    if not isinstance(warm, ShrinkPerturb) or state.round == 0:  # then it is as it was cut: there is nothing to shrink
        return state.trained, options.trainer
    network = copied(state.trained)
    shrink_perturb(network, state.start, warm, options.seed("perturb", state.round + 1))
    if warm.epochs is None:
        return network, options.trainer
    whole = epochs_of(options.trainer)
    assert whole is not None  # `check_warm` has looked
    return network, altered(options.trainer, epochs=warm.epochs_of(whole))
