"""What `advise` is asked, checked and completed before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .. import checks
from ..errors import InputError
from ..network import Arguments, as_arguments, as_inputs, check_model, with_rows
from ..proxies import Pruned
from ..pruning import WITH_DATA
from ..scorers import get_scorer
from ..selector import check_trainer
from ..training import TorchTrainer
from ..types import Scorer, Trainer, epochs_of
from .agreement import Sample
from .arguments import (
    check_pruning,
    check_ratios,
    resolved,
    sample,
    stand_in,
    with_likeliest,
    without_transforms,
)
from .considered import Candidates, Kinds, candidates_of, check_kinds
from .loop_costs import EPOCHS, LoopPlan
from .rows import Target

LEAST_ACCURACY = 0.9
"""What a proxy of a trained network must reach of the dense network's accuracy, where nothing else is asked."""


@dataclass(frozen=True, eq=False)
class Trying:
    """How networks are tried on a labelled sample.

    Attributes:
        sample: the sample.
        scorer: whose scores are ranked.
        epochs: of each training, at most.
    """

    sample: Sample
    scorer: Scorer
    epochs: int


@dataclass(frozen=True, eq=False)
class Request:
    """What `advise` is asked.

    Attributes:
        model: the dense network.
        arguments: what it is called with.
        pruning: how it is pruned and repaired.
        ratios: pruning ratios, ascending.
        kinds: of proxies.
        other: a network for Selection via Proxy.
        trainer: trains all of them.
        target: what a proxy must meet.
        plan: with its epochs.
        trying: on a labelled sample, or None.
        repeats: how often each network is timed.
        seed: of everything.
    """

    model: nn.Module
    arguments: Arguments
    pruning: Pruned
    ratios: list[float]
    kinds: Kinds
    other: nn.Module | None
    trainer: Trainer
    target: Target
    plan: LoopPlan
    trying: Trying | None
    repeats: int
    seed: int

    @classmethod
    def of(
        cls, model: nn.Module, example_inputs: Any, target: Any, pruning: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Request:
        """Return the arguments of `advise`, checked and completed.

        Args:
            model: see `advise`.
            example_inputs: see `advise`.
            target: see `advise`.
            pruning: options of `prune`.
            given: its other arguments by name.
        """
        check_model(model)
        checks.maybe(lambda name, network: check_model(network, name), "proxy", given["proxy"])
        wanted, ratios = Target.of(target), check_ratios(given["ratios"])
        counts = {name: checks.whole(f"advise: {name}", given[name], least=1) for name in ("trial_epochs", "repeats")}
        seed = checks.whole("advise: random_state", given["random_state"], least=0)
        check_pruning(pruning)
        trainer = TorchTrainer(EPOCHS, 128, progress=False) if given["trainer"] is None else given["trainer"]
        check_trainer("advise: trainer", trainer)
        get_scorer(given["scorer"])
        plan, arguments = resolved(given["plan"], trainer), as_arguments(example_inputs, model)
        told = {name: given[name] for name in ("pretrained", "unlabelled", "repair")}
        how = Pruned(ratios[0], example_inputs=example_inputs, **told, **pruning)
        trained = how.trained(model)
        kinds = check_kinds(given["kinds"], trained=trained)
        scorer, data = sample(given["labelled"], given["scorer"], wanted)
        trying = None
        if scorer is not None:
            trying = Trying(Sample.of(data, trainer, seed), scorer, counts["trial_epochs"])
            if target is None and trained and trying.sample.classes is not None:
                wanted = replace(wanted, accuracy=LEAST_ACCURACY)
        _refuse_together(how.importance, wanted, trying)
        rest: dict[str, Any] = {"other": given["proxy"], "repeats": counts["repeats"], "seed": seed, "plan": plan}
        return cls(model, arguments, how, ratios, kinds, trainer=trainer, target=wanted, trying=trying, **rest)

    @property
    def trained(self) -> bool:
        """Whether the dense network counts as trained before."""
        return self.pruning.trained(self.model)

    @property
    def called_with(self) -> Any:
        """What the dense network is called with, two rows."""
        return as_inputs(*with_rows(self.arguments, 2))

    def candidates(self) -> Candidates:
        """Return what is looked at."""
        return candidates_of(
            self.kinds,
            self.ratios,
            self.pruning,
            trained=self.trained,
            epochs=epochs_of(self.trainer),
            other=self.other,
        )

    def shown(self) -> tuple[Trainer, Any]:
        """Return who trains and asks networks to count and time them, and the dataset with labels for that."""
        if self.trying is not None:
            return self.trainer, self.trying.sample.data
        if self.pruning.unlabelled is not None:
            return self.trainer, with_likeliest(self.trainer, self.model, self.pruning.unlabelled)
        plain = without_transforms(self.trainer)
        return plain, stand_in(plain, self.model, self.arguments, self.seed)


def _refuse_together(importance: Any, target: Target, trying: Trying | None) -> None:
    """Raise `InputError` for what only labels can tell, or labels that are classes, where there are none."""
    if trying is None and isinstance(importance, str) and importance in WITH_DATA:
        raise InputError(
            f"advise: importance={importance!r} is measured on labelled rows, and there are none: pass labelled=(X, y)"
        )
    if trying is not None and target.accuracy is not None and trying.sample.classes is None:
        raise InputError(
            "advise: the target asks for accuracy, and the labels of the sample are no classes of which a network is "
            "right about one: ask for spearman= or overlap= instead"
        )
