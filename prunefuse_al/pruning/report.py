"""What pruning did, in numbers and words."""

from __future__ import annotations

from dataclasses import dataclass, field

_MOST_SHOWN = 10


@dataclass(frozen=True)
class LayerWidth:
    """Output channels of one layer.

    Attributes:
        name: of its weight.
        dense: in the dense network.
        proxy: in the proxy: the width taken.
        asked: what the pruning ratio asked for, before widths were rounded and heads and what is not understood were
            kept whole; of the network's outputs and of layers kept on request, `dense`.
    """

    name: str
    dense: int
    proxy: int
    asked: int


@dataclass(frozen=True)
class PruningReport:
    """What `prune` took away and what it kept; prints as a table.

    Attributes:
        pruning_ratio: the fraction of channels that was asked to leave.
        dense_parameters: number of parameters of the dense network.
        proxy_parameters: number of parameters of the proxy.
        dense_macs: multiply-accumulates of the dense network for one sample.
        proxy_macs: multiply-accumulates of the proxy for one sample.
        widths: output width of every weight with more than one dimension.
        kept_whole: "tensor, dimension" -> why nothing (or, "in part", less than asked) was removed along it.
        preserve_exact: `fuse(cross="preserve")` gives the proxy's function to rounding.
        preserve_distance: largest difference |target(x) - proxy(x)| over the largest |proxy(x)|, measured in `prune`
            with random weights in place of all that is not frozen.
        frozen: names of parameters of the dense network that take no gradient, and of statistics of frozen batch norms:
            no fusion changes them, so that it is seldom exact where whole layers are frozen.
        outputs: what the network answers with beside its logits and was thinned, as an embedding: its place ("1",
            "features") -> shape in the dense network, shape in the proxy. Targets have the dense one.
        compared_at: shapes of the inputs on which proxy and fused network were compared: those of the example, and half
            or twice that size where the network takes it, else more rows.
        remarks: why fusion is not exact, where that hangs on the size of inputs or on a choice of one value of several.
        not_executed: what the example inputs did not reach: modules and parameters that were never used, and the first
            line of each branch of the network's own code that was not taken.
    """

    pruning_ratio: float
    dense_parameters: int
    proxy_parameters: int
    dense_macs: int
    proxy_macs: int
    widths: tuple[LayerWidth, ...]
    kept_whole: dict[str, str]
    preserve_exact: bool
    preserve_distance: float
    frozen: tuple[str, ...] = ()
    outputs: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    compared_at: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    not_executed: tuple[str, ...] = ()

    @property
    def parameter_share(self) -> float:
        """Parameters of the proxy over those of the dense network."""
        return self.proxy_parameters / max(1, self.dense_parameters)

    @property
    def mac_share(self) -> float:
        """MACs of the proxy over those of the dense network."""
        return self.proxy_macs / max(1, self.dense_macs)

    def __str__(self) -> str:
        column = max([len(w.name) for w in self.widths] + [12])
        lines = [
            f"pruning ratio {self.pruning_ratio:g}",
            f"{'':{column}} {'dense':>14} {'asked':>14} {'proxy':>14} {'share':>7}",
            _row(f"{'parameters':{column}}", self.dense_parameters, "", self.proxy_parameters),
            _row(f"{'MACs/sample':{column}}", self.dense_macs, "", self.proxy_macs),
            "output widths:",
            *(_row(f"{w.name:{column}}", w.dense, f"{w.asked:,}", w.proxy) for w in self.widths),
        ]
        if self.outputs:
            lines += ['outputs beside the logits (keep="outputs" keeps their shapes):']
            lines += [f"  {name}: {list(dense)} -> {list(proxy)}" for name, (dense, proxy) in self.outputs.items()]
        if self.kept_whole:
            lines += ["kept whole:", *(f"  {name}: {reason}" for name, reason in self.kept_whole.items())]
        if self.preserve_exact:
            lines.append('fuse(cross="preserve"): exact')
        else:
            frozen = f"; {len(self.frozen)} tensors are frozen and stay as they are" if self.frozen else ""
            lines.append(f'fuse(cross="preserve"): not exact, relative distance {self.preserve_distance:.2g}{frozen}')
        lines += [f"  {remark}" for remark in self.remarks]
        if self.compared_at:
            lines.append(f"compared at inputs {' and '.join(self.compared_at)}")
        if self.not_executed:
            left = len(self.not_executed) - _MOST_SHOWN
            lines += ["not reached by the example:", *(f"  {name}" for name in self.not_executed[:_MOST_SHOWN])]
            lines += [f"  and {left} more, see not_executed"] if left > 0 else []
        return "\n".join(lines)


def _row(name: str, dense: int, asked: str, proxy: int) -> str:
    return f"{name} {dense:>14,} {asked:>14} {proxy:>14,} {proxy / max(1, dense):>7.3f}"
