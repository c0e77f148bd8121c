"""What is to be run: a plan, and the arms that it compares."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import checking
from checking import nearest
from subselnet import WAYS as SUBSETS

METHODS = ("random", "dense-reinit", "dense-continue", "svp", "probe", "subselnet", "prunefuse-v1", "prunefuse-v2")
PRUNED = METHODS[6:]
STARTS = ("fused", "scratch")
WAYS = ("auto", "preserve", "copy", "delta")


@dataclass(frozen=True)
class Arm:
    """One way to spend the labels; written as its method and settings, "prunefuse-v2:2 cross=copy distill=0.3".

    Attributes:
        name: the text it was read from, settings in a fixed order.
        method: one of `METHODS`. "random" trains the dense network on random labels; "dense-reinit" is active learning
            with the dense network, from its initial weights in every round, and "dense-continue" from those it has;
            "svp:NETWORK" chooses with another network (Coleman et al., 2020); "prunefuse-v1" and "prunefuse-v2:T" with
            the pruned one; "probe" with a head on features of the network as it is; "subselnet" takes a subset of a
            pool whose labels are all known, by what a model guesses of the network (see `subselnet`), and trains it as
            "random" does.
        argument: what stands behind the colon: the network of "svp", T of "prunefuse-v2", one of `subselnet.WAYS`.
        start: "fused", or "scratch": the target starts from the network's initial weights (fusion off).
        cross: how the proxy is fused: "auto", "preserve", "copy", "delta", or a number.
        repair: "auto": the proxy of a network that was trained before is repaired on the pool; "no": it is not, and the
            network counts as one at initialisation.
        imitate: epochs in which a repaired proxy imitates the network on the pool, without labels.
        distill: weight of the proxy as teacher of the target, 0 (off) to 1.
        stop: the target is trained until its held-out loss has not fallen for so many epochs; 0: for all epochs.
        importance: which channels stay; "random" is the control.
        progressive: epochs during which channels leave, 0: at once.
        ratio: pruning ratio, and `falls_to` what it falls to as labels grow; None: the plan's, no fall.
        scorer: who picks; None: the plan's.
        epochs: of the network that chooses; 0: the plan's.
        target_epochs: of the target; 0: the plan's.
        rate: factor on the plan's rate, in every training.
        fine_tune: factor on the rate of a fused target; None: the plan's.
        warm: the proxy goes on from the last round's: "" no, "continue" as it was, or "shrink" (shrunk and perturbed;
            Ash & Adams, 2020); after the first round for `warm_share` of the epochs.
        plateau: the network that chooses stops when its training loss has not fallen for so many epochs; 0: never.
        fraction: share of the unlabelled samples that is scored.
        layout: "last" lays pictures out with channels last.
        checkpoint: file with the state dict of the dense network, to start from; "" is a random start.
        subset: name of another arm, whose labels are taken instead of choosing.
        target: another network, trained from scratch on the labels, instead of the plan's.
    """

    name: str
    method: str
    argument: str = ""
    start: str = "fused"
    cross: str = "auto"
    repair: str = "auto"
    imitate: int = 0
    distill: float = 0.0
    stop: int = 0
    importance: str = "l2"
    progressive: int = 0
    ratio: float | None = None
    falls_to: float | None = None
    scorer: str | None = None
    epochs: int = 0
    target_epochs: int = 0
    rate: float = 1.0
    fine_tune: float | None = None
    warm: str = ""
    warm_share: float = 1.0
    plateau: int = 0
    fraction: float = 1.0
    layout: str = ""
    checkpoint: str = ""
    subset: str = ""
    target: str = ""

    @property
    def pruned(self) -> bool:
        """Whether the network that chooses is cut from the dense one."""
        return self.method in PRUNED

    @property
    def unasked(self) -> bool:
        """Whether samples are taken without asking the network that is trained on them."""
        return self.method in ("random", "subselnet") or bool(self.subset)

    @property
    def fused(self) -> bool:
        """Whether the target starts from what the network that chooses has learnt."""
        return (self.pruned or self.method == "probe") and self.start == "fused"

    @property
    def own_target(self) -> bool:
        """Whether a target is trained beside the network that chooses."""
        return self.pruned or self.method in ("svp", "probe") or bool(self.target)

    @property
    def idle(self) -> bool:
        """Whether nothing is trained to choose: the labels come from elsewhere and the target is another network."""
        return bool(self.subset and self.target)

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return slug(self.name)


def slug(arm: str) -> str:
    """Return the name of an arm's folder."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", arm)


def parse_arm(text: str) -> Arm:
    """Return the arm that a text names; a subset's arm is written with "+" for its spaces.

    Raises:
        ValueError: an unknown method or setting, or a value out of place.
    """
    head, *settings = checking.text("arm", text, most=200).split()
    method, _, argument = head.partition(":")
    if method not in METHODS:
        raise ValueError(f"arm {text!r}: {method!r} is not one of {', '.join(METHODS)}{nearest(method, METHODS)}")
    given: dict[str, Any] = {}
    for key, value in (parse_setting(text, setting) for setting in settings):
        if key in given:
            raise ValueError(f"arm {text!r}: {key} is set twice")
        given[key] = value
    name = " ".join([head, *sorted(settings)])
    arm = Arm(name, method, argument, **given)
    complaint = next(complaints(arm), None)
    if complaint:
        raise ValueError(f"arm {text!r}: {complaint}")
    return arm


def parse_setting(text: str, setting: str) -> tuple[str, Any]:
    """Return the name and the value of a setting of the arm that is written `text`.

    Raises:
        ValueError: an unknown setting, or a value out of place.
    """
    key, _, written = setting.partition("=")
    kinds = {f.name: str(f.type) for f in fields(Arm) if f.name not in ("name", "method", "argument")}
    if key not in kinds or not written:
        known = f"write NAME=VALUE, NAME of {', '.join(kinds)}{nearest(key, kinds)}"
        raise ValueError(f"arm {text!r}: {setting!r} is not a setting; {known}")
    convert = next((kind for kind in (int, float) if kind.__name__ in kinds[key]), str)
    try:
        value = convert(written)
    except ValueError:
        needed = "a whole number" if convert is int else "a number"
        raise ValueError(f"arm {text!r}: {key}={written!r}; pass {needed}") from None
    if key in checking.ARM:
        checking.ARM[key](f"arm {text!r}: {key}", value)
    return key, value


def complaints(arm: Arm) -> Iterator[str]:
    """Yield what is wrong with an arm."""
    if arm.method == "svp" and not arm.argument:
        yield "name the network that chooses, as in svp:resnet8"
    if arm.method == "prunefuse-v2" and not re.fullmatch("[1-9][0-9]{0,5}", arm.argument):
        yield "name the rounds between two syncs, as in prunefuse-v2:2"
    if arm.method == "subselnet" and arm.argument not in SUBSETS:
        known = [way for way in SUBSETS if way]
        yield f"{arm.argument!r} is not one of {', '.join(known)}{nearest(arm.argument, known)}, or nothing, no colon"
    if arm.method == "subselnet" and (arm.subset or arm.target or arm.checkpoint or arm.scorer):
        yield "subselnet takes its own subset for the plan's network; leave out subset, target, checkpoint, scorer"
    if arm.argument and arm.method not in ("svp", "prunefuse-v2", "subselnet"):
        yield f"{arm.method} takes nothing behind a colon"
    if arm.start not in STARTS:
        yield f"start={arm.start}; choose {' or '.join(STARTS)}"
    if arm.warm not in ("", "continue", "shrink"):
        yield f"warm={arm.warm}; choose continue or shrink"
    if arm.cross not in WAYS and not is_number(arm.cross):
        yield f"cross={arm.cross}; choose {', '.join(WAYS)} or a number"
    if arm.repair not in ("auto", "no"):
        yield f"repair={arm.repair}; choose auto or no"
    if arm.imitate and (arm.repair == "no" or not arm.pruned):
        yield f"imitate={arm.imitate} is a part of repairing a pruned network"
    if arm.target and arm.start == "fused" and arm.pruned:
        yield f"target={arm.target} cannot be fused with a proxy of another network; add start=scratch"
    if arm.subset and "subset=" in arm.subset:
        yield "subset= names an arm that has a subset of another itself"


def is_number(text: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True)
class Plan:
    """What is compared with what; see `plans.PLANS` for ready ones. Every value is checked, see `checking.PLAN`.

    Attributes:
        name: what reports call it, and the folder of its report.
        data: a name that `data.load` or `tables.load` knows, an .npz file, or "folder:PATH" with PATH/train and
            PATH/val by class.
        size: pictures are averaged down to this many pixels where that divides; 0: as they are.
        resize: pictures are interpolated to this many pixels on their way into the network, in three colours, and
            normalised as ImageNet's are; 0: normalised by their own statistics.
        train: training pictures used, the first ones; 0: all.
        pool: of these, how many there are to choose from, drawn for each seed; 0: all.
        test: test pictures used, the first ones; 0: all.
        imbalance: how many times as many training pictures the first class has as the last, those between falling
            geometrically (Cui et al., 2019); 1: as they are. Test pictures stay as they are.
        noise: share of the training labels that are another class, drawn once for all seeds.
        augment: "standard" shifts pictures, and mirrors those that may be; "none" does not.
        network: a name that `networks.build` knows.
        ratio: pruning ratio of the pruned arms.
        scorer: who picks.
        first: labels to start with, drawn at random; below 1: a share of the pool.
        budgets: labels after each query; below 1: shares of the pool.
        trainer: "scaled" (SGD with momentum, a cosine), "adamw" (the same with AdamW), or a preset of `TorchTrainer`,
            "cifar" or "imagenet".
        epochs: of every training; 0: those of the preset.
        batch_size: rows per step; 0: those of the preset.
        lr: learning rate; 0: that of the preset.
        fine_tune: factor on the rate of fused targets.
        precision: of training, see `TorchTrainer`.
        tuning: trials of learning rate and weight decay, for each arm and seed at the first labels and at the last
            budget, see `tuning`; 0: none.
        seeds: each draws the first labels, the dense network's weights and everything else.
        arms: what is compared.
        baseline: the arm that others are compared with, in accuracy and costs.
        references: further arms that accuracies are compared with, those of the same target network.
        note: what the report says under its title.
    """

    name: str
    data: str = "digits"
    size: int = 0
    resize: int = 0
    train: int = 0
    pool: int = 0
    test: int = 0
    imbalance: float = 1.0
    noise: float = 0.0
    augment: str = "standard"
    network: str = "resnet8"
    ratio: float = 0.5
    scorer: str = "least_confidence"
    first: float = 40
    budgets: tuple[float, ...] = (80, 120, 160)
    trainer: str = "scaled"
    epochs: int = 10
    batch_size: int = 16
    lr: float = 0.1
    fine_tune: float = 0.5
    precision: str = "fp32"
    tuning: int = 0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    arms: tuple[str, ...] = ("random", "dense-reinit", "prunefuse-v1")
    baseline: str = "dense-reinit"
    references: tuple[str, ...] = ()
    note: str = ""
    parsed: tuple[Arm, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whose = "a plan's"
        for name, check in checking.PLAN.items():
            check(f"{whose} {name}", getattr(self, name))
            whose = f"plan {self.name}:"
        for name in ("budgets", "seeds", "arms", "references"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "parsed", tuple(parse_arm(text) for text in self.arms))
        for text in (self.baseline, *self.references):
            parse_arm(text)
        names = [arm.name for arm in self.parsed]
        if len({arm.slug for arm in self.parsed}) < len(names):
            raise ValueError(f"plan {self.name}: an arm stands there twice: {', '.join(names)}")
        for arm in self.parsed:
            if arm.subset and subset_of(arm) not in names:
                raise ValueError(f"arm {arm.name!r} takes the labels of {subset_of(arm)!r}, which is not in the plan")
        if sorted({self.first, *self.budgets}) != [self.first, *self.budgets]:
            raise ValueError(f"plan {self.name}: first={self.first:g}, budgets={self.budgets}; labels have to grow")
        if self.data.startswith("folder:") and (self.imbalance > 1 or self.noise or self.augment == "none"):
            raise ValueError(
                f"plan {self.name}: pictures in folders are taken as they are: imbalance={self.imbalance:g}, "
                f"noise={self.noise:g}, augment={self.augment!r} need data={', '.join(checking.DATA)} or an .npz file"
            )

    @property
    def rounds(self) -> int:
        """How many trainings of the network that chooses there are: one for the first labels, one for each budget."""
        return 1 + len(self.budgets)

    def arm(self, name: str) -> Arm:
        """Return the arm called `name`."""
        return next(arm for arm in self.parsed if arm.name == name)

    def labels(self, n: int) -> list[int]:
        """Return how many labels there are in each round, of a pool of `n`."""
        return [int(n * b) if b < 1 else int(b) for b in (self.first, *self.budgets)]

    @property
    def tuned(self) -> tuple[int, ...]:
        """The rounds that begin with trials of learning rate and weight decay."""
        return (0, self.rounds - 1) if self.tuning else ()

    def setup(self) -> dict[str, Any]:
        """Return what all plans have in common that share records: all but arms, seeds and words."""
        beside = ("parsed", "arms", "seeds", "name", "note", "baseline", "references")
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in beside}))


# What plans had before there were such fields; their folders do not name them.
BEFORE = {f.name: f.default for f in fields(Plan) if f.name in ("resize", "imbalance", "noise", "augment", "tuning")}


def subset_of(arm: Arm) -> str:
    """Return the name of the arm whose labels an arm takes."""
    return parse_arm(arm.subset.replace("+", " ")).name


def read_plan(text: str, plans: dict[str, Plan]) -> Plan:
    """Return a ready plan by name, or the one in a .json file (fields of `Plan`; "like" names a plan to start from).

    Raises:
        ValueError: no such plan or field, or a value that a plan cannot have.
    """
    if text in plans:
        return plans[text]
    if not text.endswith(".json"):
        raise ValueError(
            f"plan {text!r}: there are {', '.join(plans)}, or the path of a .json file{nearest(text, plans)}"
        )
    given = read_fields(Path(text))
    like = given.pop("like", None)
    if like is not None and (not isinstance(like, str) or like not in plans):
        raise ValueError(f"{text}: like={like!r}; there are {', '.join(plans)}{nearest(str(like), plans)}")
    known = [f.name for f in fields(Plan) if f.init]
    for name in sorted(set(given) - set(known)):
        raise ValueError(f"{text}: a plan has no {name}{nearest(name, known) or '; it has ' + ', '.join(known)}")
    base = Plan(name=Path(text).stem) if like is None else plans[like]
    return replace(base, **{"name": Path(text).stem, **given})


def read_fields(path: Path) -> dict[str, Any]:
    """Return what the file of a plan holds.

    Raises:
        ValueError: it is no JSON object, or a name stands there twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = [name for place, name in enumerate(names) if name in names[:place]]
        if twice:
            raise ValueError(f"{twice[0]!r} stands there twice")
        return dict(pairs)

    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise ValueError(f"plan {str(path)!r} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"plan {str(path)!r} is no plan: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"plan {str(path)!r} is no plan: an object with fields of a plan is needed, not {found!r:.80}")
    return found
