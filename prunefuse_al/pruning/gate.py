"""The gate every proxy passes before anyone sees it: it runs, it trains, and it is a sub-network of the dense one.

That tensors can be cut out and put back bit for bit is true of almost every wrong pruning. What shows a right one is
the function: with generic weights, and everything that flows from removed channels into kept ones switched off, the
dense network must compute what the proxy computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from ..costs import batch_rows
from ..errors import PruningError
from ..fusing import ChannelMap, copy_channels, put_back, silence
from ..network import (
    Arguments,
    afresh,
    answers,
    copied,
    first_output,
    frozen_tensors,
    named_tensors,
    perturbed,
    with_rows,
)
from .choices import Chosen, differing
from .computed import Computed
from .generic import converted, converted_network, generic_copy, make_generic, of_sizes, set_values
from .groups import Structure, thinned_shapes
from .nonfinite import first_not_finite
from .quietly import answer_of, first_line
from .refusals import DRAWS, UNCHECKED, shapes
from .subject import Subject, batch_norms
from .trace import KeptStatistics, visible_operations

# (precision, relative distance that is rounding): single precision settles nearly all; what it cannot, double does.
PRECISIONS = ((torch.float32, 1e-4), (torch.float64, 1e-6))
NEAR = 0.05  # a relative distance in single precision that double precision is likely to find to be rounding


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        reason: why the proxy is refused, or "" if it passed.
        channel_map: the map, with the streams or copies that make preserving fusion exact.
        preserve_distance: of the preserving fusion, relative to the largest answer, with generic weights where nothing
            is frozen.
        exact: that distance is rounding.
        macs: multiply-accumulates of the proxy, per row.
        remarks: what else there is to say of its exactness.
        sizes: shapes of the inputs at which it was compared.
    """

    reason: str
    channel_map: ChannelMap
    preserve_distance: float = 0.0
    exact: bool = False
    macs: int = 0
    remarks: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Distance:
    """How far two networks are apart.

    Attributes:
        spread: largest difference over the largest difference between rows, which a large constant part cannot hide;
            NaN where one of them answers with NaN or infinity.
        largest: largest difference over the largest answer.
        chosen: the operation that chooses from other values in one of them, or "".
        size: the inputs of another size at which they are apart, or "".
    """

    spread: float
    largest: float = math.inf
    chosen: str = ""
    size: str = ""

    def within(self, tolerance: float) -> bool:
        """True where it is rounding."""
        return self.spread < tolerance and not self.chosen

    def remarks(self) -> tuple[str, ...]:
        """Return what to say of it."""
        found = []
        if self.chosen:
            found.append(f"{self.chosen} chooses from values that differ, so that few rows may agree by luck")
        if self.size:
            found.append(f"not at inputs {self.size}")
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A thinning that is to be judged.

    Attributes:
        proxy: the thin network that `channel_map` cuts out of the dense one.
        channel_map: with all that may make preserving fusion exact; the verdict has what does.
        structure: the reading of the dense network.
        kept: bool [components], which channels stay.
    """

    proxy: nn.Module
    channel_map: ChannelMap
    structure: Structure
    kept: np.ndarray


def inspect(candidate: Candidate, examined: Subject) -> Verdict:
    """Run every check; the first that fails gives the reason. Neither network is changed.

    Args:
        candidate: what is judged.
        examined: the dense network, the example inputs, and what it takes besides.
    """
    verdict = _inspected(candidate, examined)
    if not verdict.exact and examined.confirmed is not examined:  # the network itself does not take the other inputs
        return _inspected(candidate, examined.confirmed)
    return verdict


def _inspected(candidate: Candidate, examined: Subject) -> Verdict:
    model, proxy, channel_map = examined.model, candidate.proxy, candidate.channel_map
    thin = copied(proxy)  # for every check in turn, each of which overwrites what the one before left
    asked = list(_asked(candidate.structure, candidate.kept, examined))
    one_way = examined.runs_one_way  # then it is seen to run where it is compared
    reason = "" if one_way else _runs(thin, asked)
    error = None if reason else _backward(thin, examined.arguments)
    if error is not None:
        reason = (_runs(copied(proxy), asked) if one_way else "") or _trains_not(model, examined.arguments, error)
    if reason:
        return Verdict(reason, channel_map, sizes=examined.sizes)
    compared = _Compared.of(examined, [question.answers for question in asked] if one_way else [])
    verdict = _compared(model, thin, compared, candidate)
    frozen = frozen_tensors(model)
    if not verdict.reason and frozen:
        verdict = _with_frozen(verdict, model, thin, compared, frozen)
    if verdict.reason and one_way:
        verdict = replace(verdict, reason=_runs(copied(proxy), asked) or verdict.reason)
    return replace(verdict, sizes=examined.sizes)


@dataclass(frozen=True)
class _Asked:
    """Inputs of a proxy, the shapes it has to answer with, and what to say before a complaint."""

    arguments: Arguments
    answers: list[tuple[int, ...]]
    at: str = ""


@dataclass(frozen=True)
class _Compared:
    """What target and proxy are compared on.

    Attributes:
        inputs: the example and what the network takes besides, perturbed.
        calibrating: the number of those that set the statistics of BatchNorm.
        answers: shapes that the proxy has to answer them with; none where that was seen already.
    """

    inputs: list[Arguments]
    calibrating: int
    answers: list[list[tuple[int, ...]]]

    @classmethod
    def of(cls, examined: Subject, answers: list[list[tuple[int, ...]]]) -> _Compared:
        generator, elsewhere = torch.Generator().manual_seed(0), examined.elsewhere
        inputs = [perturbed(with_rows(examined.arguments, examined.rows), generator)]
        if elsewhere is not None:
            inputs.append(perturbed(elsewhere.arguments, generator))
        if examined.by_channel and not batch_norms(examined.model):  # nothing keeps rows apart as layers average
            inputs = [of_sizes(given) for given in inputs]
        return cls(inputs, int(examined.smaller), answers)


def _compared(model: nn.Module, thin: nn.Module, compared: _Compared, candidate: Candidate) -> Verdict:
    """Return what comparisons say, in ever higher precision until one says that the proxy is exact.

    Where answers are NaN, buffers that nothing is removed of keep their values: a mask, or a table of logarithms.
    """
    channel_map = candidate.channel_map
    still = _constants(model, channel_map)
    single, double = PRECISIONS
    passed: Verdict | None = None
    for as_they_are in ({}, still):

        def asked(
            dtype: torch.dtype, tolerance: float, near: float = 0.0, own: Mapping[str, Tensor] = as_they_are
        ) -> Verdict | None:
            try:
                comparison = _Comparison(model, thin, compared, dtype, tolerance, own, channel_map.computed)
                return comparison.verdict(candidate, near)
            except Exception as error:
                what = f"cannot be checked in {str(dtype).removeprefix('torch.')}: {first_line(error)}"
                return Verdict(f"the proxy {what}", channel_map)

        verdicts = [asked(*single, near=NEAR)]
        if verdicts[0] is None or not verdicts[0].exact or channel_map.silences:  # flat attention hides temperatures
            verdicts.append(asked(*double))
        if verdicts[0] is None and verdicts[1] is not None and verdicts[1].reason:  # single precision only came near
            verdicts.append(asked(*single))
        given = [verdict for verdict in verdicts if verdict is not None]
        if given[-1].exact:
            return given[-1]
        # Single precision may have been what made it differ.
        passed = next((verdict for verdict in given if not verdict.reason), None)
        if passed is not None or not still or UNCHECKED not in given[-1].reason:
            break
    return passed or given[-1]


def _constants(model: nn.Module, channel_map: ChannelMap) -> dict[str, Tensor]:
    """Return the buffers that are neither thinned nor statistics of batches."""
    running = {id(t) for norm in batch_norms(model) for t in norm.buffers(recurse=False)}
    return {
        name: buffer
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if channel_map.tensors[name].whole and id(buffer) not in running
    }


def _with_frozen(
    verdict: Verdict, model: nn.Module, thin: nn.Module, compared: _Compared, frozen: frozenset[str]
) -> Verdict:
    """Return the verdict with the distance of a preserving fusion that leaves what is frozen as it is."""
    own = {name: tensor.detach() for name, tensor in named_tensors(model).items() if name in frozen}
    for dtype, tolerance in PRECISIONS:
        values, computed = verdict.channel_map.extract(own), verdict.channel_map.computed
        comparison = _Comparison(model, thin, compared, dtype, tolerance, values, computed)
        distance = comparison.distance(verdict.channel_map)
        exact = distance.within(tolerance)
        if exact:
            break
    return replace(verdict, preserve_distance=distance.largest, exact=verdict.exact and exact)


class _Comparison:
    """One comparison of target and proxy on the same generic values, in one precision.

    What is frozen, whose values in the proxy are handed in by name, keeps its own values in both.
    """

    def __init__(
        self,
        model: nn.Module,
        thin: nn.Module,
        compared: _Compared,
        dtype: torch.dtype,
        tolerance: float,
        frozen: Mapping[str, Tensor] = MappingProxyType({}),
        computed: Computed = MappingProxyType({}),
    ) -> None:
        self.model, self.dtype, self.tolerance, self.frozen = model, dtype, tolerance, frozen
        self.inputs = [converted(given, dtype) for given in compared.inputs]
        self.thin = converted_network(thin, dtype)
        make_generic(self.thin, frozen.keys())
        set_values(self.thin, frozen)
        afresh(self.thin, computed)
        _calibrate(self.thin, self.inputs[compared.calibrating])
        set_values(self.thin, frozen)
        afresh(self.thin, computed)
        self.expected = [_run(self.thin, given, chosen=True) for given in self.inputs]
        for answered, wanted in zip(self.expected, compared.answers, strict=False):
            if reason := _misfit(answered.values, wanted):
                raise PruningError(reason)
        self.macs = round(self.expected[0].seen.flops / 2 / batch_rows(*self.inputs[0]))

    def verdict(self, candidate: Candidate, near: float = 0.0) -> Verdict | None:
        """Show that the proxy is a sub-network, and find what makes the preserving fusion exact.

        None where it is not exact by less than `near`, before more is worked out: a higher precision may find it exact.

        Copies cannot show the first, because a copy of the right channel would hide that the wrong one is read.
        """
        channel_map, structure, kept = candidate.channel_map, candidate.structure, candidate.kept
        plain = replace(channel_map, streams=(), copies={}, gains={})
        copied, streamed = replace(channel_map, streams=()), replace(plain, streams=channel_map.streams)

        def fits(found: ChannelMap, distance: Distance, exact: bool) -> Verdict:
            return Verdict("", found, distance.largest, exact, self.macs, distance.remarks())

        replay = KeptStatistics(structure.trace, lambda marks: kept[structure.components[marks]])
        refused: str | None = None  # None: not asked yet
        if channel_map.copies:
            target = self._target(plain, preserve=False)
            refused = self._refused(target, replay)
            copy_channels(target, channel_map)
            if not refused and (distance := self._distance(target)).within(self.tolerance):
                return fits(copied, distance, True)
            del target
        for way in (streamed, plain) if channel_map.streams else (plain,):
            distance = self.distance(way)
            if distance.within(self.tolerance):
                return fits(way, distance, True)
        if self.tolerance <= distance.spread < near and not distance.chosen:
            return None
        if refused is None:
            refused = self._refused(self._target(plain, preserve=False), replay)
        if not refused:
            return fits(plain, distance, False)
        if math.isnan(distance.spread):
            place = first_not_finite(self.thin, self.inputs[0])
            first = f", first in {place}" if place else ""
            return Verdict(f"the proxy {UNCHECKED}: with generic weights answers are NaN or infinite{first}", plain)
        return Verdict(f"{refused}: relative distance {distance.spread:.2g} with generic weights", plain)

    def _refused(self, target: nn.Module, replay: KeptStatistics) -> str:
        """Return why a target that looks at the proxy's channels only does not give what the proxy does, or ""."""
        try:
            distance = self._apart(target, 0, replay)
        except PruningError as error:
            return f"the proxy {UNCHECKED}, {error}"
        if distance.within(self.tolerance):
            return ""
        drawn = f"{DRAWS} (at {replay.trace.draws[0]}), so " if replay.trace.draws else ""
        return f"{f'the network {drawn}' if drawn else ''}the proxy is not a sub-network"

    def distance(self, channel_map: ChannelMap) -> Distance:
        """Return the distance between the preserving fusion and the proxy."""
        return self._distance(self._target(channel_map))

    def _target(self, channel_map: ChannelMap, *, preserve: bool = True) -> nn.Module:
        """Return the preserving fusion, or what is to be replayed; its dense copy is the only one that is alive."""
        dense = generic_copy(self.model, self.dtype, self.frozen.keys())
        if channel_map.computed:  # as one that was used before
            _run(afresh(dense, channel_map.computed), self.inputs[0])
        put_back(dense, self.thin, channel_map, cross=0.0, preserve=preserve, frozen=self.frozen.keys())
        if not preserve:
            silence(dense, channel_map)
        return afresh(dense, channel_map.computed)

    def _distance(self, target: nn.Module) -> Distance:
        """Return the distance at the example's size, or if it is rounding there, that at the other."""
        distance = self._apart(target, 0)
        for number in range(1, len(self.inputs)):
            if distance.within(self.tolerance):
                other = self._apart(target, number)
                if not other.within(self.tolerance):
                    size = ", ".join(map(str, shapes(self.inputs[number])))
                    distance = replace(other, size="" if other.chosen else size)
        return distance

    def _apart(self, target: nn.Module, number: int, mode: KeptStatistics | None = None) -> Distance:
        """Return the distance at one of the inputs."""
        expected, chosen = self.expected[number].values, self.expected[number].seen
        with mode or nullcontext():
            answered = _run(target, self.inputs[number], chosen=bool(chosen.values))
        # What was thinned, as an embedding beside the logits, has another shape in the target.
        pairs = [(a, b) for a, b in zip(answered.values, expected, strict=True) if a.shape == b.shape]
        if not pairs:
            return Distance(math.inf)
        found, wanted = (first_output(list(side)) for side in zip(*pairs, strict=True))
        difference, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
        # Measured on what differs between rows: a large constant part would hide any difference.
        scale = max(float((wanted - wanted.mean(0)).abs().max()), 1e-6 * largest) or 1.0
        if not math.isfinite(difference / scale):
            return Distance(math.nan)
        differs = differing(answered.seen, chosen, self.tolerance) if chosen.values else ""
        return Distance(difference / scale, difference / (largest or 1.0), differs)


def _asked(structure: Structure, kept: np.ndarray, examined: Subject) -> Iterator[_Asked]:
    """Yield inputs of the proxy, and shapes of answers that are those of the dense network but for what is thinned."""
    dense, expected = [answer.shape for answer in structure.trace.answers], thinned_shapes(structure, kept)
    yield _Asked(examined.arguments, expected)
    elsewhere = examined.elsewhere
    if elsewhere is not None:
        # A dimension that is thinned and depends on the size of the input is thinned by the same share.
        grown = [
            tuple(o * t // d if d else o for o, t, d in zip(*shapes_of, strict=True))
            for shapes_of in zip(elsewhere.answers, expected, dense, strict=True)
        ]
        yield _Asked(elsewhere.arguments, grown, f"at inputs {elsewhere} ")


def _runs(thin: nn.Module, asked: list[_Asked]) -> str:
    """Return why the proxy does not run, as a user runs it, like the dense network did, or ""."""
    thin.eval()
    for question in asked:
        try:
            reason = _misfit(answers(answer_of(thin, question.arguments)), question.answers)
        except Exception as error:  # whatever a user's code raises
            reason = f"the proxy does not run: {first_line(error)}"
        if reason:
            return question.at + reason
    return ""


def _misfit(given: list[Tensor], expected: list[tuple[int, ...]]) -> str:
    found = [tuple(leaf.shape) for leaf in given]
    return "" if found == expected else f"the proxy gives {found} where the network gives {expected}"


def _trains_not(model: nn.Module, arguments: Arguments, error: Exception) -> str:
    """Return that the proxy cannot be trained for an error, or "" where the dense network cannot be trained either."""
    if _backward(copied(model), arguments) is not None:  # not on these inputs, maybe too small for an auxiliary head
        return ""
    return f"the proxy does not run in train mode: {first_line(error)}"


def _backward(module: nn.Module, arguments: Arguments) -> Exception | None:
    """Run a network in train mode there and back, and return what it raised."""
    module.train()
    args, kwargs = with_rows(arguments, 2)
    try:
        with visible_operations(module):
            outputs = [t for t in answers(module(*args, **kwargs)) if t.requires_grad]
            if outputs:
                torch.stack([t.float().square().mean() for t in outputs]).sum().backward()
    except Exception as error:  # whatever a user's code raises
        return error
    module.zero_grad()
    return None


def _calibrate(module: nn.Module, inputs: Arguments) -> None:
    """Set BatchNorm statistics to those of the inputs, so that differences between rows reach the output."""
    norms = batch_norms(module)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    _run(module, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@dataclass(frozen=True)
class _Answered:
    """What a network answered, and what choices it made on the way."""

    values: list[Tensor]
    seen: Chosen


def _run(module: nn.Module, inputs: Arguments, *, chosen: bool = False) -> _Answered:
    args, kwargs = inputs
    seen = Chosen(_run.__code__)
    with visible_operations(module), torch.no_grad(), seen if chosen else nullcontext():
        return _Answered(answers(module(*args, **kwargs)), seen)
