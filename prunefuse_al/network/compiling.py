"""A network compiled for batches of one shape, and left as it is where that cannot be done.

On a GPU the compiled steps are replayed from CUDA graphs: one call instead of hundreds, which is what thin networks
wait for. On a CPU what only reads and writes memory between products is done in one go. Dropout draws what it draws
otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..data import isolated_rng
from ..errors import FallbackWarning, warn
from .forward import Forward, logits_of

STEPS_TO_TRAIN, BATCHES_TO_READ = 300, 100
"""How many batches of one shape must come so that compiling pays: up to a minute the first time that a machine meets
these widths, a second or two when it does so again. No clock decides: the same work is done in the same way always."""
_ON: dict[str, dict[str, Any]] = {"cpu": {}, "cuda": {"triton.cudagraphs": True}}
"""Options of inductor by device; CUDA graphs are what mode="reduce-overhead" stands for, beside which torch takes no
others."""
_LOOKS = 3  # passes until a CUDA graph is recorded and has been replayed
_FURTHEST = 0.05  # share by which answers may differ: rounding of half precision in a deep network, and nothing worse


class Compiled:
    """Takes batches of one shape through a network as compiled, and all others as it is; returns logits.

    The network stays the object that it is, its hooks see every call, and nothing compiled is among its attributes
    but while a batch passes.

    Args:
        network: a network whose widths do not change.
        inputs: a batch as it is called with.
        device: where it is.
    """

    def __init__(self, network: nn.Module, inputs: Any, device: torch.device) -> None:
        self.network, self.graphs = network, device.type == "cuda"
        self._shapes = _shapes(inputs)
        options = {"fallback_random": True, **_ON[device.type]}
        self._forward = torch.compile(_with_own_code(network.forward), dynamic=False, options=options)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits of a batch."""
        if _shapes((args, kwargs)) != self._shapes:
            return logits_of(self.network(*args, **kwargs))
        return self._compiled(self.network, *args, **kwargs)

    def unheard(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits of a batch of the one shape, without the network's hooks."""
        return self._compiled(self._forward, *args, **kwargs)

    def _compiled(self, called: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with self._in_place():
            logits = logits_of(called(*args, **kwargs))
        return logits.clone() if self.graphs else logits  # the next batch is written to the same memory

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        own = vars(self.network)
        before = {name: own[name] for name in ("forward",) if name in own}
        own["forward"] = self._forward
        try:
            yield
        finally:
            del own["forward"]
            own.update(before)


def compiled(network: nn.Module, inputs: Any, forward: Forward, *, trained: bool) -> Compiled | None:
    """Return a network compiled for batches like one, after a rehearsal; None, with a warning, where that failed.

    The rehearsal leaves the network, its gradients and all random states as they were, and the network's own hooks,
    such as count its rows, do not hear of it. It counts as failed where answers, or gradients, are others than those of
    the network as it is, by more than rounding.

    Args:
        network: on its device, in the mode in which it will be used.
        inputs: a batch as `forward.inputs` gives it.
        forward: how the network is called.
        trained: whether gradients will be asked for.
    """
    try:
        if forward.device.type not in _ON:
            raise RuntimeError(f"nothing is compiled for {forward.device.type}")
        fast = Compiled(network, inputs, forward.device)
        with warnings.catch_warnings():  # of the compiler, about its own settings
            warnings.simplefilter("ignore")
            for _ in range(_LOOKS if fast.graphs else 1):
                found = _answers(network, fast.unheard, inputs, forward, trained)
            expected = _answers(network, network.forward, inputs, forward, trained)
        gap = float((found - expected).norm() / expected.norm().clamp_min(torch.finfo(expected.dtype).tiny))
        if not gap <= _FURTHEST:
            raise RuntimeError(f"what it computes is off by {gap:.2g} of its size")
    except Exception as error:  # whatever a compiler raises, or a network in its hands
        said = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
        warn(
            f"compile='auto': {type(network).__name__} was not compiled ({said[:200]}); it goes through its batches as "
            "it is, with the same results. compile=False asks for no more than that",
            FallbackWarning,
        )
        return None
    return fast


def _answers(network: nn.Module, called: Callable[..., Any], inputs: Any, forward: Forward, trained: bool) -> Tensor:
    """Return the logits of a batch, and the gradients where it is to be trained, as one row of numbers."""
    with isolated_rng(0, forward.device), _buffers_kept(network):
        logits = logits_of(forward(called, inputs)).float()
        if not trained:
            return logits.flatten()
        learning = [p for p in network.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(logits.square().mean(), learning, allow_unused=True)
        found = [logits.detach(), *(each.float() for each in gradients if each is not None)]
        return torch.cat([values.flatten() for values in found])


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    """Put the buffers of a network, such as running statistics, back after the block."""
    before = [(module, dict(module._buffers)) for module in network.modules()]
    values = {id(buffer): buffer.clone() for _, held in before for buffer in held.values() if buffer is not None}
    try:
        yield
    finally:
        with torch.no_grad():
            for module, held in before:
                for buffer in held.values():
                    if buffer is not None:
                        buffer.copy_(values[id(buffer)])
                module._buffers.update(held)


def _shapes(inputs: Any) -> tuple[Any, ...]:
    return tuple((leaf.shape, leaf.dtype) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))


def _with_own_code(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `forward`, with code of its own.

    What is compiled is kept with the code of a function, up to a limit after which nothing is compiled any more; so it
    is not kept with the code of the user's class, and goes when this function does.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)
