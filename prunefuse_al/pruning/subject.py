"""A network that is to be thinned, and what one pass of it tells before it is watched: whether it was used, what it
takes besides its example, and what of its code the example does not reach.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import PruningError
from ..network import Arguments, afresh, answers, copied, named_tensors, output_shapes, with_rows
from .computed import Computed, computed_state, kept_tensors
from .mentioned import Mentioned
from .quietly import answer_of
from .refusals import does_not_run, no_tensors, shapes
from .trace import Trace, watched

MORE_ROWS = {0.5: 5, 2.0: 2}
"""Factor on the size of the example -> rows of the further inputs that target and proxy are compared on."""


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    """Return the layers that keep statistics of batches."""
    kind = nn.modules.batchnorm._NormBase
    return [m for m in module.modules() if isinstance(m, kind) and m.running_mean is not None]


def rows_compared(model: nn.Module) -> int:
    """Return of how many rows of the example's size target and proxy are compared, if no less set statistics."""
    return 3 if batch_norms(model) else 2  # of two, BatchNorm without positions would make +1 and -1


@dataclass(frozen=True)
class Elsewhere:
    """Inputs of another size or of more rows than the example, which the network takes.

    Attributes:
        arguments: the inputs.
        answers: shapes of what the network answers with.
        resized: their size is another.
    """

    arguments: Arguments
    answers: list[tuple[int, ...]]
    resized: bool

    def __str__(self) -> str:
        return ", ".join(map(str, shapes(self.arguments)))


@dataclass(frozen=True)
class Subject:
    """A network as `prune` works on it.

    Attributes:
        model: the network; a copy that has computed nothing yet where it had computed and kept something.
        given: the example inputs.
        arguments: two rows of them.
        trace: what was seen when it ran on these.
        computed: what it computes and keeps.
        elsewhere: inputs besides; None where nothing is to be compared.
        branches: the places in its code that the example does not reach.
        mentioned: names in its code; None where that was not seen.
    """

    model: nn.Module
    given: Arguments
    arguments: Arguments
    trace: Trace
    computed: Computed
    elsewhere: Elsewhere | None
    branches: tuple[str, ...]
    mentioned: frozenset[str] | None = None

    @property
    def sizes(self) -> tuple[str, ...]:
        """Shapes of the example inputs, and of those besides."""
        own = ", ".join(map(str, shapes(self.arguments)))
        return (own,) if self.elsewhere is None else (own, str(self.elsewhere))

    @property
    def rows(self) -> int:
        """Of how many rows of the example's size target and proxy are compared."""
        return 2 if self.smaller else rows_compared(self.model)

    @property
    def by_channel(self) -> bool:
        """Nothing in it is taken over channels: what a proxy of it computes is the same to rounding, or is wrong."""
        return not any(found.noted.planes for found in self.trace.statistics if found.noted.operand is None)

    @property
    def smaller(self) -> bool:
        """The inputs besides take less than two rows of the example, and are several rows: they set statistics."""
        if self.elsewhere is None or not self.elsewhere.resized or not self.by_channel:
            return False
        own, other = (_tensors(given)[0] for given in (self.arguments, self.elsewhere.arguments))
        return len(other) > 2 and other.numel() < own.numel()

    @property
    def runs_one_way(self) -> bool:
        """Where it is compared it runs as its users run it: the same operations, in single precision, on two rows."""
        leaves = (*named_tensors(self.model).values(), *_tensors(self.arguments))
        return (
            self.rows == 2
            and not self.trace.fused
            and all(t.dtype == torch.float32 for t in leaves if t.is_floating_point())
        )

    @cached_property
    def confirmed(self) -> Subject:
        """The same with inputs besides that the network was run on, itself where these are as expected.

        To run it takes as long as to compare it, so that is not done before a comparison fails.
        """
        expected = self.elsewhere
        if expected is None:
            return self
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            used = copied(self.model).eval()
            if self.computed:  # what it keeps of the example may be what it fails by
                answer_of(used, self.arguments)
            found = _elsewhere(used, self.arguments, self._shapes, run=True)
        if found is not None and (found.answers, str(found)) == (expected.answers, str(expected)):
            return self
        return replace(self, elsewhere=found)

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [answer.shape for answer in self.trace.answers]


def subject(model: nn.Module, given: Arguments, *, compared: bool = True) -> Subject:
    """Watch a copy of a network on two rows of its example inputs, and find out what it takes besides.

    This costs one pass on two rows, one on one row of half the size, one more on one row if it does not take that, and
    for what looks like a cache one pass for each trial (`computed`).

    Args:
        model: the network; not touched.
        given: its example inputs.
        compared: proxies of it will be compared with it.

    Raises:
        PruningError: it does not run on two rows, or answers with no tensors; or a rule that was registered does not
            fit.
    """
    arguments, used, reached = with_rows(given, 2), copied(model).eval(), Mentioned(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these passes are ours: what torch says of the user's own it says there
        try:
            with reached:
                seen = watched(used, arguments)
            if kept_tensors(used):  # what is found there later has to be what such a pass leaves
                used = copied(model).eval()
                answer_of(used, arguments)
        except PruningError:  # a rule that was registered does not fit
            raise
        except Exception as error:  # whatever a user's code raises
            raise PruningError(does_not_run(model, arguments, given, error)) from error
        if compared and not seen.answers:
            raise PruningError(no_tensors(model, answer_of(used, arguments)))
        computed = computed_state(model, used, arguments)
        if computed.keys() & kept_tensors(model).keys():  # it was used before
            model = afresh(copied(model), computed)
            with reached:  # what fills its caches too
                seen = watched(copied(model).eval(), arguments)
        found = Subject(model, given, arguments, seen, computed, None, reached.not_taken(), reached.names())
        return replace(found, elsewhere=_elsewhere(used, arguments, found._shapes)) if compared else found


def _elsewhere(
    used: nn.Module, arguments: Arguments, example: list[tuple[int, ...]], *, run: bool = False
) -> Elsewhere | None:
    """Return inputs of another size that a network takes, else of more rows.

    Args:
        used: the network.
        arguments: two rows of its example inputs.
        example: shapes of what it answers them with.
        run: run it on as many rows as these inputs have; else it is expected to take them if it takes one row of that
            size, and more rows of the example's.
    """
    for factor, resized in _resized(arguments):
        answers_to_one = _answered(used, with_rows(resized, 1), example, rows=1)
        if answers_to_one is not None:
            rows = MORE_ROWS[factor]
            more = with_rows(resized, rows)
            found = _answered(used, more, example, rows) if run else _grown(answers_to_one, example, rows)
            if found is not None:
                return Elsewhere(more, found, resized=True)
    rows = rows_compared(used) + 1
    more = with_rows(arguments, rows)
    found = _answered(used, more, example, rows) if run else _grown(example, example, rows)
    return None if found is None else Elsewhere(more, found, resized=False)


def _answered(
    used: nn.Module, arguments: Arguments, example: list[tuple[int, ...]], rows: int
) -> list[tuple[int, ...]] | None:
    """Return shapes of what a network answers; None where it does not run or answers for another number of rows."""
    try:
        answer = answer_of(used, arguments)
    except Exception:  # whatever a user's code raises at a size that it was not written for
        return None
    found = output_shapes(answer)
    regrouped = any(old[:1] == (2,) and new[:1] != (rows,) for old, new in zip(example, found, strict=False))
    if len(found) != len(example) or regrouped or not all(bool(leaf.isfinite().all()) for leaf in answers(answer)):
        return None
    return found


def _grown(found: list[tuple[int, ...]], example: list[tuple[int, ...]], rows: int) -> list[tuple[int, ...]]:
    """Return shapes of answers to another number of rows, where the two of the example are the first dimension."""
    return [(rows, *new[1:]) if old[:1] == (2,) else new for old, new in zip(example, found, strict=True)]


def _resized(arguments: Arguments) -> Iterator[tuple[float, Arguments]]:
    """Yield (factor, inputs of half and of twice the size), for each way in which the first tensor has one.

    Of [n c h w] that is the height and width, of [n t d] or [n c t] the second dimension or the third, of [n t] the
    second; of clips [n c t h w] twice the width alone, as eight times the pixels take long. Dimensions of the other
    tensors that are as long go along.
    """
    leaves = [leaf for leaf in _tensors(arguments) if leaf.ndim > 1]
    if not leaves:
        return
    first = leaves[0]
    ways = [tuple(range(2, first.ndim))] if first.ndim > 3 else [(dim,) for dim in range(1, first.ndim)]
    for factor in (0.5, 2.0):
        for dims in (ways[0][-1:],) if factor > 1 and first.ndim > 4 else ways:
            sizes = {first.shape[dim] for dim in dims}
            if min(sizes) > 1:
                change = _Resizing(first, dims, sizes, factor)
                args, kwargs = tree_map(change, arguments)
                yield factor, (args, kwargs)


@dataclass(frozen=True)
class _Resizing:
    """Gives the tensors among inputs another size: the first half of it, or all of it twice."""

    first: Tensor
    dims: tuple[int, ...]
    sizes: set[int]
    factor: float

    def __call__(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        alike = leaf.ndim == self.first.ndim
        dims = self.dims if alike else range(2 if leaf.ndim > 3 else 1, leaf.ndim)
        for dim in dims:
            if leaf.shape[dim] in self.sizes:
                size = leaf.shape[dim]
                leaf = leaf.narrow(dim, 0, size // 2) if self.factor < 1 else torch.cat([leaf, leaf], dim)
        return leaf


def _tensors(arguments: Arguments) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
