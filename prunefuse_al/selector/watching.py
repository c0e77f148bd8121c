"""Having the training of a proxy recorded where a scorer reads it, before or after it happened."""

from __future__ import annotations

from dataclasses import replace

from .. import checks
from ..costs import CostLedger
from ..errors import FallbackWarning, InputError, warn
from ..network import copied
from ..scorers import dynamics_of
from ..training import Known, Recorder, Replay
from ..types import Scorer, Trainer
from .options import Options
from .state import State, Trained


def recorder_for(trainer: Trainer, scorer: Scorer, state: State) -> Recorder | None:
    """Return a recorder for the next training where `scorer` reads dynamics, or some were asked for before.

    Raises:
        InputError: the trainer takes none, and the scorer has nothing else to go by.
    """
    if "dynamics" not in scorer.needs and not (isinstance(state, Trained) and state.snapshots):
        return None
    if checks.takes(trainer.fit, "recorder"):
        return Recorder()
    if "dynamics" in scorer.needs and not hasattr(scorer, "without_dynamics"):
        raise InputError(_cannot(scorer, f"{type(trainer).__name__}.fit takes no `recorder`"))
    return None


def traced(options: Options, ledger: CostLedger, state: Trained, scorer: Scorer) -> tuple[Trained, Scorer]:
    """Return a state with the snapshots that `scorer` reads, and the scorer, or what it falls back to, which is said.

    Where the training was not watched it is run again, from the same weights, with the same data and seed; the ledger
    has it as a stage of its own. From then on every training is watched.

    Raises:
        InputError: that cannot be done, and the scorer has nothing else to go by.
    """
    if "dynamics" not in scorer.needs or state.snapshots:
        return state, scorer
    reason = None
    trainer = options.kind.trains(options.trainer)
    if not checks.takes(trainer.fit, "recorder"):
        reason = f"{type(trainer).__name__}.fit takes no `recorder`"
    elif state.begun is None and state.labelled is not None:
        reason = "a training that thins the network is not run again to be watched: name the scorer before fit()"
    elif state.labelled is None or state.begun is None:
        reason = "neither the training nor its data is kept in a selector that was saved or pickled"
    if reason is None:
        return _trained_again(ledger, state), scorer
    if not hasattr(scorer, "without_dynamics"):
        raise InputError(_cannot(scorer, reason))
    other: Scorer = scorer.without_dynamics()
    warn(f"{scorer!r} reads training dynamics, but {reason}; {other!r} is used", FallbackWarning)
    return state, other


def known_of(state: Trained, scorer: Scorer) -> Known | None:
    """Return what is known of a pool through the training of the proxy, or None where `scorer` reads nothing of it."""
    if "dynamics" not in scorer.needs:
        return None
    return Known(names=dynamics_of(scorer), replay=Replay(None, state.snapshots))


def _trained_again(ledger: CostLedger, state: Trained) -> Trained:
    begun, recorder = state.begun, Recorder()
    assert begun is not None
    network = copied(begun.network)
    with ledger.stage("retrain_proxy", round=state.round, network="proxy", dense=state.dense) as stage:
        stage.watch(network)
        data = state.labelled if begun.data is None else begun.data
        begun.trainer.fit(network, data, seed=begun.seed, recorder=recorder)  # type: ignore[call-arg]
    return replace(state, snapshots=recorder.snapshots)


def _cannot(scorer: Scorer, reason: str) -> str:
    return (
        f"{scorer!r} reads training dynamics, but {reason}: use a TorchTrainer and call fit() first, let your "
        "trainer's fit take `recorder=None` (see training.Recorder), or choose a scorer that reads none"
    )
