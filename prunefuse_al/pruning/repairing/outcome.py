"""What repairing a proxy did, in numbers and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Mended:
    """What was done to one layer.

    Attributes:
        name: of its weight.
        inputs: channels it summed over in the dense network.
        kept: channels it sums over in the proxy.
        ridge: how much its new weights were shrunk; None: they stayed as they were cut, but for a bias.
        before: share of the variance of what the dense layer summed that was missed, on held-out rows.
        after: share that is missed.
    """

    name: str
    inputs: int
    kept: int
    ridge: float | None
    before: float
    after: float


@dataclass(frozen=True)
class RepairReport:
    """What `repair` did, prints as a table.

    Attributes:
        rows: rows that layers were fitted to.
        positions: positions per input channel that they were fitted to, at most.
        layers: what became of each layer that sums over a thinned dimension, in the order in which they run.
        norms: normalisations, and biases of convolutions by groups, that were matched.
        left: name of a tensor that stays as it was cut -> why.
        imitated: mean loss of each epoch of imitating the dense network.
    """

    rows: int
    positions: float
    layers: tuple[Mended, ...]
    norms: tuple[str, ...]
    left: Mapping[str, str]
    imitated: tuple[float, ...] = ()

    def __str__(self) -> str:
        column = max([len(layer.name) for layer in self.layers] + [12])
        lines = [
            f"fitted to {self.rows:,} rows, at most {self.positions:.3g} positions an input channel",
            f"{'share of variance that is missed':{column}} {'inputs':>14} {'ridge':>8} {'as cut':>8} {'now':>8}",
            *(_line(layer, column) for layer in self.layers),
            f"normalisations that were matched: {len(self.norms)}",
        ]
        if self.imitated:
            lines.append(f"loss by epochs of imitating: {', '.join(f'{loss:.3g}' for loss in self.imitated)}")
        if self.left:
            lines += ["left as it was cut:", *(f"  {name}: {reason}" for name, reason in self.left.items())]
        return "\n".join(lines)


def _line(layer: Mended, column: int) -> str:
    ridge = "as cut" if layer.ridge is None else f"{layer.ridge:g}"
    width = f"{layer.kept:,} of {layer.inputs:,}"
    return f"{layer.name:{column}} {width:>14} {ridge:>8} {layer.before:>8.3f} {layer.after:>8.3f}"
