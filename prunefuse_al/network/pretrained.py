"""Whether a network has been trained before: told by its normalisations, which initialisation leaves even."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

FEW = 8
"""Batches that may have passed a batch norm without its network having been trained."""


def looks_trained(model: nn.Module) -> bool:
    """Tell whether a network looks as if it had been trained.

    It does if the scale or shift of any normalisation differs from channel to channel (initialisation gives all
    channels of one the same), or if the statistics of a batch norm have moved, but for a few batches: a network that
    was called to see its shapes has not been trained. Of a network without normalisations nothing can be told, and
    the answer is False.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> looks_trained(net)
        False
    """
    return statistics_moved(model, but=FEW) or any(_uneven(tensor) for m in model.modules() for tensor in _scales(m))


def statistics_moved(model: nn.Module, *, but: int = 0) -> bool:
    """Tell whether statistics of batch norms come from data, from more than `but` batches where these were counted.

    Files written by other programs may hold statistics but no count of batches, so the values are looked at as well.
    """
    return any(_moved(norm, but) for norm in model.modules() if isinstance(norm, _NormBase))


def _moved(norm: _NormBase, but: int) -> bool:
    mean, var, count = norm.running_mean, norm.running_var, int(norm.num_batches_tracked or 0)
    if mean is None or var is None or 0 < count <= but:
        return False
    return count > 0 or bool(mean.any()) or bool((var != 1).any())


def _scales(module: nn.Module) -> list[Tensor]:
    """Return scale and shift of a normalisation, of whatever library: what is a vector, in a class named so."""
    if "norm" not in type(module).__name__.lower() or isinstance(module, nn.Linear):
        return []
    return [p.detach() for p in module.parameters(recurse=False) if p.ndim == 1 and p.is_floating_point()]


def _uneven(tensor: Tensor) -> bool:
    return bool(tensor.numel()) and bool((tensor != tensor[0]).any())
