"""Having the training of a proxy recorded where a scorer reads it, before or after it happened."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace
from typing import Any

from ..costs import CostLedger
from ..errors import FallbackWarning, InputError
from ..network import copied
from ..scorers import dynamics_of
from ..training import Recorder
from ..types import Scorer, Trainer
from .options import Options, State
from .past import Past


def recorder_for(trainer: Trainer, scorer: Scorer, state: State) -> Recorder | None:
    """Return a recorder for the next training where `scorer` reads dynamics, or some were asked for before.

    Raises:
        InputError: the trainer takes none, and the scorer has nothing else to go by.
    """
    if "dynamics" not in scorer.needs and not state.snapshots:
        return None
    if _records(trainer):
        return Recorder()
    if "dynamics" in scorer.needs and not hasattr(scorer, "without_dynamics"):
        raise InputError(_cannot(scorer, f"{type(trainer).__name__}.fit takes no `recorder`"))
    return None


def traced(options: Options, ledger: CostLedger, state: State, scorer: Scorer, labelled: Any) -> tuple[State, Scorer]:
    """Return a state with the snapshots that `scorer` reads, and the scorer, or what it falls back to, which is said.

    Where the training was not watched it is run again, from the same weights, with the same data and seed; the ledger
    has it as a stage of its own. From then on every training is watched.

    Raises:
        InputError: that cannot be done, and the scorer has nothing else to go by.
    """
    if "dynamics" not in scorer.needs or state.snapshots:
        return state, scorer
    reason = None
    if not _records(options.trainer):
        reason = f"{type(options.trainer).__name__}.fit takes no `recorder`"
    elif options.gradual and state.begun is None:
        reason = "a training that thins the network is not run again to be watched: name the scorer before fit()"
    elif labelled is None or state.begun is None:
        reason = "neither the training nor its data is kept in a selector that was saved or pickled"
    if reason is None:
        return _trained_again(ledger, state, labelled), scorer
    if not hasattr(scorer, "without_dynamics"):
        raise InputError(_cannot(scorer, reason))
    other: Scorer = scorer.without_dynamics()
    warnings.warn(f"{scorer!r} reads training dynamics, but {reason}; {other!r} is used", FallbackWarning, stacklevel=3)
    return state, other


def past_of(state: State, scorer: Scorer) -> Past | None:
    """Return what is asked of a pool about the training of the proxy, or None where `scorer` reads nothing of it."""
    if "dynamics" not in scorer.needs:
        return None
    return Past(copied(state.trained), state.snapshots, dynamics_of(scorer))


def _trained_again(ledger: CostLedger, state: State, labelled: Any) -> State:
    assert state.begun is not None
    begun, seed, trainer = state.begun
    network, recorder = copied(begun), Recorder()
    with ledger.stage("retrain_proxy", round=state.round, network="proxy", dense=state.dense) as stage:
        stage.watch(network)
        trainer.fit(network, labelled, seed=seed, recorder=recorder)  # type: ignore[call-arg]
    return replace(state, snapshots=recorder.snapshots)


def _records(trainer: Any) -> bool:
    return "recorder" in inspect.signature(trainer.fit).parameters


def _cannot(scorer: Scorer, reason: str) -> str:
    return (
        f"{scorer!r} reads training dynamics, but {reason}: use a TorchTrainer and call fit() first, let your "
        "trainer's fit take `recorder=None` (see training.Recorder), or choose a scorer that reads none"
    )
