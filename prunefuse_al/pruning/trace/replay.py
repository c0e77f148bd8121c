"""Run a dense network so that every statistic over channels looks at the proxy's channels only.

LayerNorm, a mean over channels and their like are taken over more channels in the dense network than in the proxy, so
the two differ even where each channel sits in its right place. Run this way they must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import PruningError
from .atoms import narrowed
from .operations import Op, name_of, op_of
from .over_kept import MaskedCall
from .tracing import Statistic, Trace

OUT_OF_STEP = "is out of step with what was watched"


class KeptStatistics(TorchDispatchMode):
    """Replays the statistics of a trace, in the order they were seen, over kept channels.

    Every time it is entered it starts again from the first one.

    Args:
        trace: of the same forward pass.
        alive: tells which marks, an int64 array, belong to kept channels.

    Raises:
        PruningError: where a statistic is met that is not the next one of the trace: another operation, another shape,
            or one more than there were.
    """

    def __init__(self, trace: Trace, alive: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self._table = trace.table
        self._statistics = trace.statistics
        self._masks = [_mask(statistic.noted.planes, alive) for statistic in trace.statistics]
        self._position = 0

    def __enter__(self) -> KeptStatistics:
        self._position = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        op = op_of(self._table, func)
        if op is None or op.over_kept is None:
            return func(*args, **(kwargs or {}))
        statistic, mask = self._next(op, func)
        if bool(mask.all()):
            return func(*args, **(kwargs or {}))
        operand = statistic.noted.operand or 0
        x = args[operand]
        if mask.ndim != x.ndim or any(m not in (1, n) for m, n in zip(mask.shape, x.shape, strict=True)):
            raise self._out_of_step(f"{name_of(func)} of {list(x.shape)}", f"{statistic} of {list(mask.shape)}")
        return op.over_kept(MaskedCall(func, args, kwargs or {}, mask.to(x.device), operand))

    def _next(self, op: Op, func: OpOverload) -> tuple[Statistic, Tensor]:
        """Return the next statistic of the trace and what counts of it, if it is one of this operation."""
        if self._position == len(self._statistics):
            raise self._out_of_step(name_of(func), "the end")
        statistic, mask = self._statistics[self._position], self._masks[self._position]
        if statistic.op is not op:
            raise self._out_of_step(name_of(func), str(statistic))
        self._position += 1
        return statistic, mask

    def _out_of_step(self, found: str, expected: str) -> PruningError:
        return PruningError(
            f"a replay of the network {OUT_OF_STEP}: {found} was met where {expected} was watched, number "
            f"{self._position + 1} of {len(self._statistics)}"
        )


def _mask(planes: Sequence[Tensor], alive: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Return which positions of the input count: those that are kept along every marked dimension."""
    together = torch.tensor(True)
    for plane in planes:
        together = together & torch.from_numpy(alive(plane.numpy()))
    return narrowed(together)
