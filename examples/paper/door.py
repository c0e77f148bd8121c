"""Refuses what cannot be run before anything is written: what `checking` cannot tell from a value alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from arms import selector_options, trainer_changes
from checking import nearest
from networks import NETWORKS
from plan import Arm, Plan
from sources import Source, pool_size, trainer
from subselnet import PREFIX, parse_architecture
from torch import nn

from prunefuse_al import PrunedProxySelector, TorchTrainer, prune


def check_plans(plans: Sequence[Plan]) -> None:
    """Raise `ValueError` unless all these plans can be run into one folder."""
    for place, plan in enumerate(plans):
        if plan.name in [other.name for other in plans[:place]]:
            raise ValueError(f"plan {plan.name} is asked for twice")
        now, first = plan.setup(), plans[0].setup()
        changed = [f"{name} is {now[name]}, not {first[name]}" for name in now if now[name] != first[name]]
        if changed:
            raise ValueError(
                f"plans {plans[0].name} and {plan.name} are of different set-ups: {'; '.join(changed)}. Run them one "
                "by one, each with its own --out"
            )
        for arm in plan.parsed:
            check_arm(plan, arm)


def check_arm(plan: Plan, arm: Arm) -> None:
    """Raise `ValueError` unless the library takes the settings of an arm, and there are its networks."""
    try:
        check_settings(plan, arm)
        if arm.method == "subselnet":
            parse_architecture(plan.network)
        for name in (plan.network, arm.argument if arm.method == "svp" else "", arm.target):
            check_network(name)
    except (ValueError, TypeError) as error:
        raise ValueError(f"plan {plan.name}, arm {arm.name!r}: {error}") from error


def check_settings(plan: Plan, arm: Arm) -> None:
    """Make what the arm is run with, but for its networks and data."""
    labels = plan.labels(plan.pool or plan.train or 10**6)
    choosing, finishing = (
        trainer(plan, (None, None), TorchTrainer, "cpu", **changes) for changes in trainer_changes(plan, arm)
    )
    options = selector_options(plan, arm, plan.seeds[0], labels)
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1))
    PrunedProxySelector(network, trainer=choosing, target_trainer=finishing, **options)
    if arm.importance not in ("l2", "taylor", "hessian"):  # the last two need labelled data
        prune(network, torch.zeros(1, 1), importance=arm.importance)


def check_network(name: str) -> None:
    """Raise `ValueError` unless a network can be called so; torchvision's are looked up when they are built."""
    if name.startswith(PREFIX):
        parse_architecture(name)
        return
    base, _, narrow = name.partition("/")
    known = base in NETWORKS and re.fullmatch("|[1-9]|1[0-6]", narrow) is not None and not name.endswith("/")
    if name and not known and not re.fullmatch(r"(torchvision|pretrained):[\w-]+", name):
        raise ValueError(
            f"network {name!r}: there are {', '.join(NETWORKS)}, each also as NAME/2 to NAME/16, torchvision:NAME, "
            f"pretrained:NAME or {PREFIX}..."
            f"{nearest(base, NETWORKS)}"
        )


def check_files(plan: Plan) -> None:
    """Raise `ValueError` unless the files and folders are there that a plan reads."""
    path = Path(plan.data.removeprefix("folder:"))
    if plan.data.startswith("folder:"):
        missing = [str(path / part) for part in ("train", "val") if not (path / part).is_dir()]
    else:
        missing = [plan.data] if plan.data.endswith(".npz") and not path.is_file() else []
    missing += [arm.checkpoint for arm in plan.parsed if arm.checkpoint and not Path(arm.checkpoint).is_file()]
    if missing:
        raise ValueError(f"plan {plan.name}: there is no {' and no '.join(dict.fromkeys(missing))}")


def check_data(plan: Plan, data: Source) -> None:
    """Raise `ValueError` unless the pictures are enough for the plan's labels, and its networks fit them."""
    n, probes, held_out = pool_size(plan, data.rows)
    labels, most = plan.labels(n), n - probes - held_out
    if sorted({0, *labels, most + 1}) != [0, *labels, most + 1]:
        tuned = f" and {held_out:,} are held out for tuning" if held_out else ""
        raise ValueError(
            f"plan {plan.name}: first={plan.first:g}, budgets={plan.budgets} are {labels} labels; they have to grow "
            f"from 1 to at most {most:,}, of {n:,} pictures of which {probes} are never labelled{tuned}"
        )
    smallest = 4  # the family's networks halve pictures twice
    if any(arm.method == "subselnet" for arm in plan.parsed) and min(data.shape[1:]) < smallest:
        raise ValueError(
            f"plan {plan.name}: subselnet needs pictures of {smallest} x {smallest} or more: {data.shape[1:]}"
        )
    asked = {(plan.network, arm.checkpoint) for arm in plan.parsed}
    asked |= {(name, "") for arm in plan.parsed for name in (arm.argument if arm.method == "svp" else "", arm.target)}
    for name, checkpoint in sorted(asked):
        if name:
            check_fit(data, name, checkpoint)


def check_fit(data: Source, name: str, checkpoint: str) -> None:
    """Raise `ValueError` unless a network can be made for these pictures and takes them."""
    network = data.network(name, 0, checkpoint).eval()
    try:
        with torch.no_grad():
            x = torch.zeros(1, *data.shape)
            network(x if data.transforms[1] is None else data.transforms[1](x))
    except RuntimeError as error:
        raise ValueError(f"network {name!r} does not take pictures {list(data.shape)}: {error}") from error
