"""What the settings of an arm mean to trainers and to the selector."""

from __future__ import annotations

from typing import Any

from plan import WAYS, Arm, Plan
from sources import epochs_of, rate_of
from tuning import Settings

from prunefuse_al import Distillation, EarlyStopping, FallingRatio, ProgressivePruning, ShrinkPerturb

UNTUNED = Settings()


def trainer_changes(plan: Plan, arm: Arm, tuned: Settings = UNTUNED) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how the trainers of the network that chooses and of the target differ from the plan's."""
    both: dict[str, Any] = {"channels_last": True} if arm.layout == "last" else {}
    rate = arm.rate * tuned.rate
    if rate != 1:
        both["lr"] = rate * rate_of(plan)
    if tuned.weight_decay is not None:
        both["weight_decay"] = tuned.weight_decay
    choosing, finishing = {"epochs": epochs_of(plan, arm), **both}, dict(both)
    if arm.plateau:
        rule = EarlyStopping(patience=arm.plateau, min_delta=0.01, monitor="train_loss")
        choosing |= {"early_stopping": rule, "scheduler": "constant"}  # no schedule that is cut off half-way
    if arm.fused:
        finishing["lr_scale"] = plan.fine_tune if arm.fine_tune is None else arm.fine_tune
    if arm.target_epochs:
        finishing["epochs"] = arm.target_epochs
    if arm.stop:
        stopped = finishing if arm.own_target else choosing
        stopped["early_stopping"] = EarlyStopping(patience=arm.stop)
    return choosing, finishing


def selector_options(plan: Plan, arm: Arm, seed: int, labels: list[int]) -> dict[str, Any]:
    """Return what the selector is told, but for trainers and networks; `labels` are those of each round."""
    options: dict[str, Any] = {
        "pruning_ratio": ratio(plan, arm, labels) if arm.pruned else 0.0,
        "scorer": "random" if arm.method in ("random", "subselnet") else arm.scorer or plan.scorer,
        "random_state": seed,
        "warm_start": warm(arm),
        "cross": arm.cross if arm.cross in WAYS else float(arm.cross),
        "importance": arm.importance,
        "sync_every": int(arm.argument) if arm.method == "prunefuse-v2" else None,
        "candidate_fraction": arm.fraction,
    }
    if arm.distill:
        options["distillation"] = Distillation(lambda_=arm.distill)
    if arm.repair == "no":
        options["pretrained"] = False
    if arm.imitate:
        options["repair"] = {"distil": arm.imitate}
    if arm.progressive:
        options["progressive"] = ProgressivePruning(epochs=arm.progressive)
    return options


def ratio(plan: Plan, arm: Arm, labels: list[int]) -> float | FallingRatio:
    """Return the pruning ratio, or how it falls."""
    start = plan.ratio if arm.ratio is None else arm.ratio
    return start if arm.falls_to is None else FallingRatio(start, arm.falls_to, labels=(labels[0], labels[-1]))


def warm(arm: Arm) -> bool | ShrinkPerturb:
    """Return what the network that chooses starts from in later rounds."""
    if arm.method == "dense-continue":
        return True
    if not arm.warm:
        return False
    shrink, perturb = (0.4, 0.1) if arm.warm == "shrink" else (1.0, 0.0)
    return ShrinkPerturb(shrink, perturb, epochs=arm.warm_share)
