"""Whether a network has been trained before: told by its normalisations, which initialisation leaves even."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def looks_trained(model: nn.Module) -> bool:
    """Tell whether a network looks as if it had been trained.

    It does if the statistics of a batch norm have moved, or if the scale or shift of any normalisation differs from
    channel to channel: initialisation gives all channels of one the same. Of a network without normalisations nothing
    can be told, and the answer is False.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> looks_trained(net)
        False
    """
    return statistics_moved(model) or any(_uneven(tensor) for m in model.modules() for tensor in _scales(m))


def statistics_moved(model: nn.Module) -> bool:
    """Tell whether statistics of batch norms come from data.

    Files written by other programs may hold statistics but no count of batches, so the values are looked at as well.
    """
    return any(
        bool(norm.num_batches_tracked) or bool(norm.running_mean.any()) or bool((norm.running_var != 1).any())
        for norm in model.modules()
        if isinstance(norm, _NormBase) and norm.running_mean is not None and norm.running_var is not None
    )


def _scales(module: nn.Module) -> list[Tensor]:
    """Return scale and shift of a normalisation, of whatever library: what is a vector, in a class named so."""
    if "norm" not in type(module).__name__.lower() or isinstance(module, nn.Linear):
        return []
    return [p.detach() for p in module.parameters(recurse=False) if p.ndim == 1 and p.is_floating_point()]


def _uneven(tensor: Tensor) -> bool:
    return bool(tensor.numel()) and bool((tensor != tensor[0]).any())
