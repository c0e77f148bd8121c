"""`prune`: from a dense network to a small dense proxy that runs the same code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import checks
from ..costs import batch_rows, parameter_count
from ..data import alone
from ..errors import InputError, NoEffectWarning, PruningError, warn
from ..fusing import ChannelMap, TensorMap
from ..network import as_arguments, check_model, frozen_tensors, named_tensors
from ..types import RngLike, as_rng
from .groups import STREAM, Keep, Structure, check_keep, check_parts, outside, thinned_shapes
from .importance import Importance, channel_scores, check_importance, measured
from .refusals import CURES, NOT_UNDERSTOOD, nothing_prunable
from .repairing import RepairReport
from .report import LayerWidth, PruningReport
from .search import Attempt, Choice, Found, Thinnable, widest
from .subject import Subject, subject
from .twins import measured_together
from .unreached import never_used
from .widths import (
    GlobalScope,
    asked_sizes,
    check_ratio,
    check_round_to,
    check_scope,
    choose_widths,
    kept_channels,
    rounded_blocks,
)


@dataclass(frozen=True, eq=False)
class Proxy:
    """A thinned network and where it came from.

    Attributes:
        module: the thin network: same class and code path as the dense one, on its device, in its mode, trainable.
        channel_map: per parameter and buffer, the kept indices of each dimension of the dense tensor.
        pruning_report: what pruning did; None for a proxy that was put together by hand.
        repaired: values that `repair` left where it changed any, by name: with them training began; None for a proxy
            that was not repaired.
        repair_report: what `repair` did.
    """

    module: nn.Module
    channel_map: ChannelMap
    pruning_report: PruningReport | None = None
    repaired: Mapping[str, Tensor] | None = None
    repair_report: RepairReport | None = None

    def report(self) -> PruningReport:
        """Return parameters, MACs and widths before and after, and what was kept whole and why; prints as a table.

        Raises:
            PruningError: the proxy was put together by hand and has no report.
        """
        if self.pruning_report is None:
            raise PruningError("report(): this proxy was not made by prune(), so nothing was measured")
        return self.pruning_report

    def with_module(self, module: nn.Module) -> Proxy:
        """Return the same of another network of the same shape, such as this one trained."""
        return replace(self, module=module)


def prune(
    model: nn.Module,
    example_inputs: Any,
    pruning_ratio: float = 0.5,
    *,
    importance: Importance = "l2",
    scope: str | GlobalScope = "local",
    keep: Keep | Sequence[Keep] = (),
    parts: str = "all",
    round_to: int | None = None,
    random_state: RngLike = None,
    within: ChannelMap | None = None,
    progress: bool = True,
) -> Proxy:
    """Thin a network: remove whole channels, heads and widths, leaving a smaller dense network.

    The channels that must leave together are found by watching one forward pass, so any architecture can be given.
    What is not understood is kept whole and reported; `register_rule` teaches an operation. Every proxy has passed a
    gate before it is returned: it runs and trains, and with generic weights it is exactly a sub-network of `model`, at
    the size of the example and at half or twice that size where the network takes one (found out in at most four passes
    on one row; the report says at which inputs they were compared, and what of the network these did not reach).
    This is step 2 of PruneFuse (arXiv 2603.26138): the same fraction leaves every layer, by the L2 norm of a channel's
    whole group.

    Args:
        model: the dense network, at initialisation or trained; not touched (values, mode, hooks, gradients).
        example_inputs: a batch as the network is called: a tensor, a tuple (positional) or a dict (by name).
        pruning_ratio: fraction of channels removed, 0 <= p < 1. A layer of n channels keeps int(n * (1 - p)), at
            least 1, but for `round_to`. p = 0.5 leaves about a quarter of parameters and multiply-accumulates. Heads
            leave whole; where another number of them fuses exactly and leaves about as many parameters (within a
            factor of 1.3), that is taken. Where they cannot leave, or leave widths that statistics over channels have
            no exact form for, all are thinned inside instead, if that fuses exactly.
        importance: which channels stay: "l2", "l1", "random", "bn_scale", "lamp" or "fpgm" (see `pruning.measures`); a
            `Taylor`, `Hessian` or `Gates` with labelled data; an `Activation` with unlabelled data; or a callable
            (name, tensor, dim) -> float [size of dim], higher stays. Added over everything a channel owns, but for
            activations and gates, which say what is lost with all of it. Of equally important channels the first stay.
        scope: "local" removes the fraction from every layer. "global" removes it from all channels together, the
            weakest first; a tenth of each layer stays (`GlobalScope` sets another floor), a head counts as the channels
            it holds, and channels tied over layers count once.
        keep: what not to thin: names of modules or tensors, or patterns ("layer1.*"), module types, or modules of
            `model`. Their outputs stay; what they read may leave. The logits are found by themselves and never
            thinned. What a network answers with beside them, such as an embedding, is thinned with the layer it comes
            from, as the report says; "outputs" keeps its shape.
        parts: "all", or "interiors" to thin only what lies inside blocks: residual streams, to which several layers add
            and which all that follows reads, are kept whole, and the ratio is that of the interiors. A trained network
            loses less so at equal cost.
        round_to: widths become the nearest multiple of this, never 0; layers narrower than it are not rounded, nor are
            heads. None rounds to multiples of 8 where that moves a width by at most a thirty-second of itself, so that
            wide layers fill vector units; 1 turns that off. The report states the width asked and the width taken.
        random_state: seed or generator for importance="random".
        within: a map of `model` with a smaller ratio: channels that it removes leave first, however important.
        progress: a count of thinnings tried, where that takes over five seconds and stderr is a terminal.

    Returns:
        A `Proxy` with `module`, `channel_map` and `report()`.

    Raises:
        InputError: an argument is out of range, or `example_inputs` cannot be used.
        UnsupportedModelError: TorchScript, quantised, lazy or meta modules.
        PruningError: nothing in the network can be thinned, or it does not run on `example_inputs`, on two rows of
            them, or answers with NaN or without a tensor; never where `pruning_ratio` is 0 and it runs. The message
            names the line or layer, and what helps.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
        >>> prune(net, torch.zeros(2, 8), 0.5).module
        Sequential(
          (0): Linear(in_features=8, out_features=32, bias=True)
          (1): ReLU()
          (2): Linear(in_features=32, out_features=3, bias=True)
        )
    """
    check_model(model)
    pruning_ratio, scope = check_ratio("pruning_ratio", pruning_ratio), check_scope("scope", scope)
    round_to = check_round_to("round_to", round_to)
    thinnable = Thinnable(check_keep(keep, model), check_parts("parts", parts))
    check_importance(importance)
    progress = checks.flag("progress", progress)
    seed = int(as_rng(random_state, "random_state").integers(2**63))
    if within is not None:
        _check_within(within, model)
    with alone(), torch.inference_mode(False):  # tensors made in it could not be trained
        measure = measured(importance, model) if pruning_ratio else "random"  # with nothing to choose, none is measured

    scores_of = _Scores(measure, model, seed, within)

    def choose(attempt: Attempt) -> Choice:
        reading = attempt.structure
        scores = scores_of(reading)
        # The careful readings take the plain widths: whatever stood in the way, rounding is not part of it.
        rounding = 1 if attempt.careful and round_to is None else round_to
        widths = choose_widths(
            reading.groups,
            scores,
            pruning_ratio,
            scope=scope,
            round_to=rounding,
            equal_widths=attempt.equal_widths,
            fewer_blocks=attempt.fewer_blocks,
            even=measured_together(reading) if attempt.even else (),
        )
        return Choice(kept_channels(reading, scores, widths.taken), widths.asked, (1 - pruning_ratio) ** 2)

    with alone(), torch.inference_mode(False):
        given = as_arguments(example_inputs, model)
        examined = subject(model, given, compared=pruning_ratio > 0)
        found = widest(examined, thinnable, choose, progress=progress)
        if pruning_ratio > 0 and not found.structure.groups:
            raise PruningError(nothing_prunable(found.structure, pruning_ratio))
        unused = never_used(model, found.structure.trace)
        report = _report(model, found, examined, tuple(unused), float(pruning_ratio))
    _warn(report)
    _warn_of_unused(unused, found.verdict.channel_map)
    return Proxy(found.module, found.verdict.channel_map, report)


class _Scores:
    """Scores each reading once: trials with some of its groups alone, or with other widths, go by the same scores."""

    def __init__(self, measure: Any, model: nn.Module, seed: int, within: ChannelMap | None) -> None:
        self.measure, self.model, self.seed, self.within = measure, model, seed, within
        self.told: dict[int, tuple[Structure, np.ndarray]] = {}  # the reading is kept, so that its number is its own

    def __call__(self, reading: Structure) -> np.ndarray:
        """Return the scores of a reading's components, [components]; what `within` removes comes last."""
        number = id(reading.components)
        if number not in self.told:
            scores = channel_scores(self.measure, self.model, reading, np.random.default_rng(self.seed))
            if self.within is not None:
                scores[outside(reading, self.within)] = np.nextafter(scores.min(), -np.inf)
            self.told[number] = reading, scores
        return self.told[number][1]


def _check_within(within: ChannelMap, model: nn.Module) -> None:
    checks.instance("within", within, ChannelMap, "the channel_map of a proxy cut from this network, or None")
    own = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    if {name: tensor.shape for name, tensor in within.tensors.items()} != own:
        raise InputError("within= is a map of another network; pass the channel_map of a proxy cut from this one")


def _report(model: nn.Module, found: Found, examined: Subject, unused: tuple[str, ...], ratio: float) -> PruningReport:
    verdict, reading = found.verdict, found.structure
    atoms = reading.trace.atoms
    unmet = {n: 1 - ratio for n, reason in reading.reasons.items() if not reason.startswith(_EXPECTED)}
    asked = asked_sizes(reading, found.choice.asked, unmet)
    axes = atoms.axes
    maps = verdict.channel_map.tensors
    whole = {}
    for number, reason in sorted(reading.reasons.items()):
        thinned = maps[axes[number].name].kept[axes[number].dim] is not None
        whole[f"{axes[number].name}, dimension {axes[number].dim}"] = f"{reason} (in part)" if thinned else reason
    for axis, reason in rounded_blocks(reading, found.choice.asked, found.choice.kept):
        whole.setdefault(f"{axis.name}, dimension {axis.dim}", reason)
    return PruningReport(
        pruning_ratio=float(ratio),
        dense_parameters=parameter_count(model),
        proxy_parameters=parameter_count(found.module),
        dense_macs=round(reading.trace.flops / 2 / batch_rows(*examined.arguments)),
        proxy_macs=verdict.macs,
        widths=tuple(_widths(maps, asked, atoms.registered)),
        kept_whole=whole,
        preserve_exact=verdict.exact,
        preserve_distance=verdict.preserve_distance,
        frozen=tuple(sorted(frozen_tensors(model))),
        outputs={
            answer.name: (answer.shape, shape)
            for answer, shape in zip(reading.trace.answers, thinned_shapes(reading, found.choice.kept), strict=True)
            if shape != answer.shape
        },
        compared_at=verdict.sizes[: 2 if verdict.exact or verdict.remarks else 1],
        remarks=verdict.remarks,
        not_executed=(*unused, *examined.branches),
    )


def _widths(
    maps: Mapping[str, TensorMap], asked: Mapping[tuple[str, int], int], registered: Mapping[str, str]
) -> Iterator[LayerWidth]:
    """Yield the output width of every weight: the thinned dimension that is not summed over, else the first such."""
    for name, tensor_map in maps.items():
        wide = [d for d, size in enumerate(tensor_map.shape) if size > 1]
        outputs = [d for d in wide if d not in tensor_map.inputs]
        if {0, 1} <= {*tensor_map.inputs}:  # a weight used both ways round
            outputs = wide
        if len(tensor_map.shape) > 1 and outputs:
            dim = next((d for d in outputs if tensor_map.kept[d] is not None), outputs[0])
            dense = tensor_map.shape[dim]
            yield LayerWidth(name, dense, tensor_map.proxy_shape[dim], asked.get((registered[name], dim), dense))


_EXPECTED = ("reads an input", "kept on request", STREAM)


def _warn(report: PruningReport) -> None:
    """Say so when far fewer channels left than was asked: layers that were kept whole count, outputs do not."""
    first: dict[str, str] = {}  # each reason once
    for name, reason in report.kept_whole.items():
        if not reason.startswith(_EXPECTED):
            first.setdefault(reason, name)
    counted = [w for w in report.widths if w.asked < w.dense]
    dense, asked, proxy = (sum(getattr(w, name) for w in counted) for name in ("dense", "asked", "proxy"))
    if dense - proxy < 0.7 * (dense - asked):
        reasons = "; ".join(f"{name}: {reason}" for reason, name in list(first.items())[:3])
        taught = f"; {CURES[NOT_UNDERSTOOD]}" if any(NOT_UNDERSTOOD in reason for reason in first) else ""
        reasons = reasons or "widths were rounded, or layers have few channels or heads"
        warn(
            f"pruning_ratio={report.pruning_ratio:g} was asked, but only {1 - proxy / dense:.2f} of the channels could "
            f"leave ({reasons}); see proxy.report(){taught}",
            NoEffectWarning,
        )


def _warn_of_unused(unused: Mapping[str, frozenset[int]], channel_map: ChannelMap) -> None:
    """Say so where what the example does not use is as wide as what was thinned, and so may read it."""
    thinned = {
        t.shape[dim] for t in channel_map.tensors.values() for dim, kept in enumerate(t.kept) if kept is not None
    }
    meant = {name: sorted(sizes & thinned) for name, sizes in unused.items() if sizes & thinned}
    if meant:
        name, (size, *_) = next(iter(meant.items()))
        others = f" (and {len(meant) - 1} more)" if len(meant) > 1 else ""
        warn(
            f"prune(): {name}{others} was not used on example_inputs and keeps its width {size}, while others of that "
            "width were thinned: where it reads or joins those, the proxy will fail; pass example_inputs that reach "
            "it, or name the layers that it reads in keep=; see proxy.report().not_executed",
            NoEffectWarning,
        )
