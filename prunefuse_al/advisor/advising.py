"""`advise`: which proxy to take for a network and a plan, at which pruning ratio, before the plan is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..costs import CostLedger
from ..errors import InputError, UnsupportedModelError
from ..proxies import ProxyKind, Task
from ..types import Scorer, Trainer
from .advice import Advice
from .agreement import Trial, try_out
from .arguments import device_of
from .considered import FEWER, PRUNED, SVP, Candidates, FewerEpochs
from .law import laws
from .loop_costs import LoopPlan, Rates, dense_cost
from .making import Made, made
from .request import Request
from .rows import AdviceRow, Prediction, Target
from .timing import Timing, time_work

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


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
    scorer: str | Scorer = "margin",
    trial_epochs: int = 5,
    repeats: int = 5,
    random_state: int = 0,
    kinds: Sequence[str | FewerEpochs | ProxyKind] | None = None,
    pretrained: bool | str = "auto",
    unlabelled: Any = None,
    repair: bool | Mapping[str, Any] = True,
    **pruning: Any,
) -> Advice:
    """Say what a plan of active learning will cost with proxies of several kinds, and which to take.

    Every proxy is made as a selector makes it (cut at each ratio, and repaired if the network was trained before; or a
    probe, whose features are computed), counted and timed on this machine, in turns with the dense network and through
    `trainer`, so with its batches, optimiser, device and precision. Costs are predicted from that by arithmetic, for
    PruneFuse (arXiv 2603.26138) and for active learning with the dense network. With a labelled sample every proxy is
    also trained for a short while, and how it answers and ranks the half held out compared with the dense network.

    What is paid once is in the costs: a repair on rows of the pool after each cut (its seconds, measured here, grow
    with the rows where there are fewer here), and a pass of the pool through a probe's trunk, after each sync another.
    What a probe's `refresh` saves is not: nobody knows beforehand which syncs it leaves out.

    Args:
        model: the dense network; not changed.
        example_inputs: a batch as `model` takes it, see `prune`. Without data networks are timed on such rows with
            noise on them, and the trainer's transforms are left out.
        target: what a proxy must meet: a `Target`, a mapping of its fields, or a number, the largest share of the dense
            loop's MACs that choosing may cost. None: choosing and the target together cost less than the dense loop;
            and of a network that was trained before, given a labelled sample, it is right about at least 0.9 as many
            rows as the dense network.
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
        kinds: what is looked at beside the dense network. ``"pruned"``: it is pruned at each ratio, and repaired if it
            was trained before; ``"unrepaired"``: the same without repair; ``"probe"``: ``Probe()``, if it was trained
            before; ``"fewer epochs"``: it is trained for half of the epochs, as ``FewerEpochs(0.5)``. Or kinds of
            proxies, such as ``Probe(dropout=0.2)``. What a name asks for and makes no sense here is left out, see
            `Advice.left_out`. None: "pruned" and, if it was trained before, "probe" and "fewer epochs".
        pretrained: whether the network was trained before; "auto" looks at it, see `PrunedProxySelector`.
        unlabelled: data to repair on, such as the pool, and to time networks on without `labelled`; None: `labelled`.
        repair: False leaves proxies as they were cut; or arguments of `repair`, such as ``{"distil": 4}``.
        **pruning: passed on to `prune` (`importance`, `parts`, `scope`, `keep`, `round_to`).

    Returns:
        An `Advice`: `rows`, `others`, `best`, `verdict`, `to_dicts()`, `plot()`; prints as a table. `best` is None if
        none meets the target.

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
    given = {name: value for name, value in locals().items() if name not in ("model", "pruning")}
    request = Request.of(model, example_inputs, target, pruning, given)
    ledger, asked = CostLedger(), request.candidates()
    found, left_out = _made(request, asked, ledger)
    candidates = list(found.values())
    timed = {name: each.work for name, each in found.items() if each.candidate.kind != FEWER}
    timings = time_work(timed, repeats=request.repeats, ledger=ledger)
    timings |= {name: timings[asked.dense.name] for name in found if name not in timings}  # of the same network
    trial = _trial(request, candidates, ledger)
    rows = _rows(candidates, request, timings, trial)
    return Advice(
        rows=tuple(rows[each.name] for each in asked.ratios),
        dense=rows[asked.dense.name],
        svp=None if asked.svp is None else rows[asked.svp.name],
        plan=request.plan,
        target=request.target,
        trial=trial,
        costs=ledger,
        repeats=request.repeats,
        device=device_of(request.trainer, model),
        others=tuple(rows[each.name] for each in asked.others if each.name in rows),
        left_out=left_out,
        trained=request.trained,
    )


def _made(request: Request, asked: Candidates, ledger: CostLedger) -> tuple[dict[str, Made], dict[str, str]]:
    """Return what could be made by name, and why other kinds are left out."""
    trainer, data = request.shown()
    task = Task(request.model, trainer, data, len(data), 0, ledger, lambda stage: request.seed)
    found, left_out = {}, dict(asked.left_out)
    for candidate in asked:
        try:
            with ledger.transaction():
                found[candidate.name] = made(candidate, task, request.called_with)
        except (InputError, UnsupportedModelError) as error:
            if candidate.demanded:
                raise
            left_out[candidate.name] = str(error)
    return found, left_out


def _trial(request: Request, candidates: Sequence[Made], ledger: CostLedger) -> Trial | None:
    trying, plan = request.trying, request.plan
    if trying is None:
        return None
    return try_out(
        candidates,
        request.model,
        request.trainer,
        trying.sample,
        scorer=trying.scorer,
        share=(plan.labels[1] - plan.labels[0]) / (plan.pool - plan.labels[0]),
        epochs=trying.epochs,
        seed=request.seed,
        ledger=ledger,
    )


def _rows(
    candidates: Sequence[Made], request: Request, timings: Mapping[str, Timing], trial: Trial | None
) -> dict[str, AdviceRow]:
    """Return the rows of the candidates by name, the dense one first."""
    dense, plan = candidates[0], request.plan
    base = timings[dense.candidate.name]
    macs = _predictions(plan, candidates, [each.of_macs(plan, dense) for each in candidates])
    seconds = _predictions(
        plan, candidates, [each.of_seconds(plan, dense, timings[each.candidate.name], base) for each in candidates]
    )
    right = {} if trial is None else trial.accuracy
    of_dense = right.get(dense.candidate.name)
    rows = {}
    for each in candidates:
        name = each.candidate.name
        accuracy = right.get(name)
        rows[name] = AdviceRow(
            name=name,
            pruning_ratio=each.candidate.pruning_ratio,
            parameters=each.parameters,
            forward_macs=each.forward,
            backward_macs=each.backward,
            prune_seconds=each.prune_seconds,
            timing=timings[name],
            macs=macs[name],
            seconds=seconds[name],
            agreement=None if trial is None else trial.agreement[name],
            kind=each.candidate.kind,
            accuracy=accuracy,
            accuracy_share=accuracy / of_dense if accuracy is not None and of_dense else None,
            **_expected(each, dense, request),
        )
    return rows


def _expected(each: Made, dense: Made, request: Request) -> dict[str, float | None]:
    """Return what records of other loops say of a proxy; of a network that was trained before there are none."""
    if each.candidate.kind != PRUNED or request.trained:
        return {}
    share = each.forward / dense.forward
    difference, agreement = laws()["difference"], laws()["agreement"]
    return {
        "expected_difference": difference.predicted(share, request.plan.labels[-1]),
        "expected_agreement": agreement.predicted(share, request.plan.labels[0]),
    }


def _predictions(plan: LoopPlan, candidates: Sequence[Made], rates: Sequence[Rates]) -> dict[str, Prediction]:
    """Return by name what the plan costs with each candidate, in the unit of `rates`; the dense network is first."""
    costs = {
        each.candidate.name: each.candidate.cost(plan, own, rates[0])
        for each, own in zip(candidates, rates, strict=True)
    }
    loop, other = dense_cost(plan, rates[0]), costs.get(SVP)
    return {
        name: Prediction(
            cost.selection,
            cost.total,
            cost.selection / loop.total,
            cost.total / loop.total,
            None if other is None else cost.total / other.total,
            cost.once,
        )
        for name, cost in costs.items()
    }
