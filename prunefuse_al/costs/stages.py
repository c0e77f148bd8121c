"""Measuring one stage: the clock, the memory, and what passes through networks while it lasts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .counting import Cache, Call, PassCounter


class Stage:
    """What is being measured: networks are named with `watch` once they exist."""

    def __init__(self, dense: nn.Module | None, cache: Cache) -> None:
        self.network: nn.Module | None = None
        self.watched: list[tuple[nn.Module, PassCounter]] = []
        self.samples = self.forward_macs = self.backward_macs = self.dense_macs = 0
        self.excluded, self.uncounted = 0.0, ""
        self._dense, self._cache = dense, cache
        self._dense_call: Call | None = None
        self._hooks: list[Any] = []

    def watch(self, *modules: nn.Module) -> None:
        """Count what passes through `modules` from now on; the first one's rows are the stage's samples."""
        for module in modules:
            counter = PassCounter()
            self._hooks.append(module.register_forward_pre_hook(counter.hook(), with_kwargs=True))
            self.watched.append((module, counter))
        self.describe(self.watched[0][0])

    def let_go(self, copy: nn.Module) -> None:
        """Take the counting out of a copy of a watched network, which is kept."""
        for handle in self._hooks:
            copy._forward_pre_hooks.pop(handle.id, None)
            copy._forward_pre_hooks_with_kwargs.pop(handle.id, None)

    def compare(self, call: Call) -> None:
        """Compare with the dense network called as in `call`, where the one that is watched reads something else."""
        self._dense_call = call

    def describe(self, module: nn.Module) -> None:
        """State whose parameters the row reports, without counting rows."""
        self.network = module

    def settle(self) -> None:
        """Count what has passed with the networks as they are now; to be called before their widths change."""
        for position, (module, counter) in enumerate([(module, counter.taken()) for module, counter in self.watched]):
            own = counter.total_macs(module, self._cache)
            self.forward_macs, self.backward_macs = self.forward_macs + own.forward, self.backward_macs + own.backward
            self.uncounted = self.uncounted or own.uncounted
            if position == 0:  # helpers, such as a teacher, have no counterpart in the dense loop
                self.samples += counter.samples
                same = counter if self._dense_call is None else counter.as_calls_of(self._dense_call)
                dense = same.total_macs(self._dense or module, self._cache)
                self.dense_macs += dense.forward + dense.backward
                self.uncounted = self.uncounted or dense.uncounted
        for _, counter in self.watched:  # the copies that were run to count went through the hooks as well
            counter.taken()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the seconds of a block out of this stage: it is not part of it, or has a row of its own."""
        start = now()
        try:
            yield
        finally:
            self.excluded += now() - start

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()


def now() -> float:
    """Return the clock after everything queued on CUDA has run."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak() -> None:
    """Start anew what `peak_memory` tells of CUDA."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Return the most memory in use, in bytes: allocated on CUDA, else of the process so far; 0 where none is told."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
