"""`advise`: which pruning ratio to take for a network and a plan, before the plan is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .. import checks
from ..costs import CostLedger, macs, parameter_count
from ..network import as_arguments, as_inputs, check_model, with_rows
from ..pruning import prune
from ..scorers import get_scorer
from ..selector import check_trainer
from ..training import TorchTrainer
from ..types import Scorer, Trainer
from .advice import Advice
from .agreement import Agreement, try_out
from .arguments import check_pruning, check_ratios, device_of, resolved, sample, stand_in, without_transforms
from .loop_costs import EPOCHS, LoopPlan, Rates, dense_cost, proxy_cost, svp_cost
from .rows import AdviceRow, Prediction, Target
from .timing import Timing, time_networks

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
DENSE, SVP = "dense", "svp"


def advise(
    model: nn.Module,
    example_inputs: Any,
    target: Target | Mapping[str, float | None] | float | None = None,
    *,
    ratios: Sequence[float] = RATIOS,
    plan: LoopPlan | Mapping[str, Any] | None = None,
    proxy: nn.Module | None = None,
    labelled: Any = None,
    trainer: Trainer | None = None,
    scorer: str | Scorer = "least_confidence",
    trial_epochs: int = 5,
    repeats: int = 5,
    random_state: int = 0,
    **pruning: Any,
) -> Advice:
    """Say what a plan of active learning will cost with proxies of several pruning ratios, and which ratio to take.

    Every ratio is pruned, counted and timed on this machine, in turns with the dense network and through `trainer`,
    so with its batches, optimiser, device and precision. Costs are predicted from that by arithmetic, for PruneFuse
    (arXiv 2603.26138) and for active learning with the dense network. With a labelled sample every network is also
    trained for a short while, and its ranking of the half held out compared with the dense network's.

    Args:
        model: the dense network; not changed.
        example_inputs: a batch as `model` takes it, see `prune`. Without `labelled` networks are timed on such rows
            with noise on them, and the trainer's transforms are left out.
        target: what a ratio must meet: a `Target`, a mapping of its fields, or a number, the largest share of the dense
            loop's MACs that choosing may cost. None: choosing and the target together cost less than the dense loop.
        ratios: pruning ratios to look at, 0 < p < 1.
        plan: a `LoopPlan`, or a mapping of its fields; None is the paper's CIFAR protocol. Its epochs are the
            trainer's where it leaves them open.
        proxy: a smaller network, to compare with Selection via Proxy (Coleman et al. 2020).
        labelled: a tuple (X, y) or a dataset with labels, as the trainer takes them.
        trainer: any `Trainer`; None is a `TorchTrainer` of 181 epochs and batches of 128, as in the paper.
        scorer: whose scores are ranked, a name in `SCORERS` or a scorer that scores single samples.
        trial_epochs: epochs of the short trainings; a trainer without `epochs` trains as it always does.
        repeats: how often each network is timed.
        random_state: seed of the trainings and of what `labelled` is split into.
        **pruning: passed on to `prune` (`importance`, `parts`, `scope`, `keep`, `round_to`).

    Returns:
        An `Advice`: `rows`, `best`, `to_dicts()`, `plot()`; prints as a table. `best` is None if no ratio meets the
        target.

    Raises:
        InputError: an argument is out of range, the plan is impossible, or the target needs a labelled sample.
        PruningError: nothing in the network can be thinned.
        UnsupportedModelError: the network cannot be worked on.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        >>> plan = LoopPlan(pool=1000, rounds=3, k=50, initial=50)
        >>> advice = advise(net, torch.zeros(2, 8), 0.5, ratios=(0.25, 0.5), plan=plan, repeats=1)
        >>> advice.best.name, round(advice.best.macs.selection_share, 2)
        ('p=0.5', 0.28)
    """
    check_model(model)
    checks.maybe(lambda name, network: check_model(network, name), "proxy", proxy)
    wanted, grid = Target.of(target), check_ratios(ratios)
    trial_epochs = checks.whole("advise: trial_epochs", trial_epochs, least=1)
    repeats = checks.whole("advise: repeats", repeats, least=1)
    random_state = checks.whole("advise: random_state", random_state, least=0)
    check_pruning(pruning)
    chosen: Any = TorchTrainer(EPOCHS, 128, progress=False) if trainer is None else trainer
    check_trainer("advise: trainer", chosen)
    get_scorer(scorer)
    loop = resolved(plan, chosen)
    ranked_by, data = sample(labelled, scorer, wanted)
    ledger, arguments = CostLedger(), as_arguments(example_inputs, model)

    candidates = [_Candidate(DENSE, 0.0, model), *_cut(model, example_inputs, grid, pruning, ledger)]
    if proxy is not None:
        candidates.append(_Candidate(SVP, None, proxy))
    networks = {candidate.name: candidate.network for candidate in candidates}
    called_with = as_inputs(*with_rows(arguments, 2))
    timed_by = without_transforms(chosen) if data is None else chosen
    timed_on = stand_in(timed_by, model, arguments, random_state) if data is None else data
    timings = time_networks(networks, timed_by, timed_on, example=called_with, repeats=repeats, ledger=ledger)
    trial = None
    if ranked_by is not None:
        share = (loop.labels[1] - loop.labels[0]) / (loop.pool - loop.labels[0])
        trial = try_out(
            networks, chosen, data, scorer=ranked_by, share=share, epochs=trial_epochs, seed=random_state, ledger=ledger
        )
    rows = _rows(candidates, called_with, loop, timings, {} if trial is None else trial.agreement)
    return Advice(
        rows=tuple(row for row in rows if row.name not in (DENSE, SVP)),
        dense=rows[0],
        svp=rows[-1] if proxy is not None else None,
        plan=loop,
        target=wanted,
        trial=trial,
        costs=ledger,
        repeats=repeats,
        device=device_of(chosen, model),
    )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A network to look at; see `AdviceRow`."""

    name: str
    pruning_ratio: float | None
    network: nn.Module
    prune_seconds: float = 0.0


def _cut(
    model: nn.Module, example_inputs: Any, ratios: Sequence[float], pruning: Mapping[str, Any], ledger: CostLedger
) -> Iterator[_Candidate]:
    for ratio in ratios:
        with ledger.stage("prune", round=0, network="proxy") as stage:
            module = prune(model, example_inputs, ratio, **pruning).module
            stage.describe(module)
        yield _Candidate(f"p={ratio:.12g}", ratio, module, ledger.rows()[-1].seconds)


def _rows(
    candidates: Sequence[_Candidate],
    called_with: Any,
    plan: LoopPlan,
    timings: Mapping[str, Timing],
    agreements: Mapping[str, Agreement],
) -> list[AdviceRow]:
    """Return the rows of the candidates, the dense one first."""
    counted = [macs(candidate.network, called_with) for candidate in candidates]
    work = [Rates(forward + backward, forward) for forward, backward in counted]
    base = timings[DENSE]
    # Shares, being measured in turns, are steadier than the seconds of one network.
    times = [
        Rates(base.train.median * t.train_share.median, base.score.median * t.score_share.median, c.prune_seconds)
        for c, t in ((c, timings[c.name]) for c in candidates)
    ]
    rows = []
    for number, candidate in enumerate(candidates):
        rows.append(
            AdviceRow(
                name=candidate.name,
                pruning_ratio=candidate.pruning_ratio,
                parameters=parameter_count(candidate.network),
                forward_macs=counted[number][0],
                backward_macs=counted[number][1],
                prune_seconds=candidate.prune_seconds,
                timing=timings[candidate.name],
                macs=_prediction(plan, candidates, work, number),
                seconds=_prediction(plan, candidates, times, number),
                agreement=agreements.get(candidate.name),
            )
        )
    return rows


def _prediction(plan: LoopPlan, candidates: Sequence[_Candidate], rates: Sequence[Rates], number: int) -> Prediction:
    """Return what the plan costs with one candidate, in the unit of `rates`."""
    loop, other = dense_cost(plan, rates[0]), None
    if candidates[-1].name == SVP:
        other = svp_cost(plan, rates[-1], rates[0])
    name = candidates[number].name
    own = proxy_cost(plan, rates[number], rates[0])
    if name == DENSE:
        own = loop
    elif name == SVP and other is not None:
        own = other
    return Prediction(
        own.selection,
        own.total,
        own.selection / loop.total,
        own.total / loop.total,
        None if other is None else own.total / other.total,
    )
