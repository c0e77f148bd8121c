"""The table of operations: what is known of each, read where a network is watched and where that is replayed.

To teach the tracer an operation of torch, enter an `Op` in `OPERATIONS`: its names, its rule (in `rules.py`,
`contractions.py`, `lookups.py` or `windows.py`), and, where it takes a statistic or a sum over channels, how that is
computed over those that the proxy has (in `over_kept.py`); its rule then says by `call.note(...)` what it is taken
over. Nothing else decides by an operation's name. An operation that is not in the table has the rule that torch's own
tag gives it (pointwise); what is made from sizes alone, as `zeros`, adapts to any; all others are not understood: what
goes in is kept whole, and the report says so. Users' own operations are entered by `register_rule` (`registered.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch._ops import OpOverload

from . import contractions, lookups, over_kept, rules, windows
from .calls import Rule
from .over_kept import OverKept


@dataclass(frozen=True)
class Op:
    """What is known of an operation.

    Attributes:
        names: every name that torch may pick for it, "namespace::name"; of torch's own, "aten", the bare name.
        rule: what it does to marks.
        over_kept: of what takes a statistic or a sum over channels, how it is computed over those that the proxy has.
            Each call of such an operation is recorded in the trace and met again in the replay.
        centres: it does not change where the same number is added to all, as a variance.
    """

    names: tuple[str, ...]
    rule: Rule
    over_kept: OverKept | None = None
    centres: bool = False


def _each(names: Iterable[str], rule: Rule) -> Iterable[Op]:
    """Yield an entry for each of several operations that have one rule."""
    return (Op((name,), rule) for name in names)


def _spatial(dims: int, *names: str) -> Iterable[Op]:
    return _each(names, partial(rules.spatial, trailing=dims))


def _statistics(*names: str, places: bool = False, centres: bool = False) -> Iterable[Op]:
    return (Op((name,), partial(rules.statistic, places=places), over_kept.left_out, centres) for name in names)


OPERATIONS: tuple[Op, ...] = (
    *_each(("permute", "transpose", "t", "unsqueeze", "squeeze", "slice", "select", "narrow"), rules.structural),
    *_each(("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes"), rules.structural),
    *_each(("chunk", "unsafe_chunk", "unbind", "roll", "flip", "movedim", "diagonal", "unfold"), rules.structural),
    *_each(("tril", "triu", "alias", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"), rules.structural),
    *_each(("view", "_unsafe_view", "reshape", "_reshape_alias"), rules.reshaped),
    *_each(("expand", "repeat"), rules.expanded),
    *_each(("clone", "detach", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy", "view_as"), rules.same),
    *_each(("native_dropout", "to", "type_as", "_conj", "alias_copy"), rules.same),
    *_each(("bernoulli_", "uniform_", "normal_", "random_", "zero_", "fill_", "exponential_"), rules.same),
    Op(("as_strided",), windows.restrided),
    Op(("im2col",), windows.unfolded),
    Op(("col2im",), windows.folded),
    *_each(("_fft_r2c", "_fft_c2r", "_fft_c2c"), windows.transformed),
    Op(("view_as_complex",), windows.as_complex),
    Op(("view_as_real",), windows.as_real),
    Op(("cat",), rules.joined),
    Op(("stack",), rules.stacked),
    Op(("mul",), rules.scaled),
    Op(("relu",), rules.rectified),
    Op(("add",), rules.summed),
    *_each(
        ("hardswish", "hardsigmoid", "hardtanh", "_prelu_kernel", "complex", "polar", "masked_fill"), rules.pointwise
    ),  # not tagged so by torch
    Op(("glu",), rules.gated),
    Op(("constant_pad_nd",), rules.pad),
    *_spatial(1, "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d"),
    *_spatial(1, "upsample_nearest1d", "upsample_linear1d", "reflection_pad1d", "replication_pad1d"),
    *_spatial(2, "max_pool2d", "max_pool2d_with_indices", "mkldnn_max_pool2d", "avg_pool2d"),
    *_spatial(2, "_adaptive_avg_pool2d", "adaptive_max_pool2d", "reflection_pad2d", "replication_pad2d"),
    *_spatial(2, "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    *_spatial(2, "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    *_spatial(3, "max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d", "adaptive_max_pool3d"),
    *_spatial(3, "upsample_nearest3d", "upsample_trilinear3d"),
    *_statistics("mean", "sum", "amax", "amin", "std", "std_mean", "prod", "logsumexp", "norm", "linalg_vector_norm"),
    *_statistics("max", "min", places=True),
    *_statistics("var", "var_mean", centres=True),
    *_each(("argmax", "argmin", "any", "all", "_softmax", "_log_softmax", "_safe_softmax", "cumsum"), rules.reduction),
    Op(("copy_",), lookups.written),
    Op(("_pack_padded_sequence",), lookups.packed),
    *_each(("index", "index_select"), lookups.indexed),
    Op(("gather",), lookups.gathered),
    *_each(("scatter", "scatter_add", "scatter_reduce"), lookups.scattered),
    *_each(("index_add", "index_copy", "index_fill"), lookups.scattered),
    Op(("index_put",), lookups.put),
    Op(("repeat_interleave",), lookups.repeated),
    *_each(("embedding", "_embedding_bag"), lookups.embedding),
    Op(("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "baddbmm"), contractions.matmul, over_kept.switched_off),
    Op(("_grouped_mm", "transformers::grouped_mm_fallback"), contractions.grouped, over_kept.switched_off),
    Op(("convolution", "_convolution"), contractions.convolution, over_kept.switched_off),
    Op(("linalg_solve_triangular",), contractions.solved),
    Op(("_trilinear",), contractions.trilinear),
    Op(("_weight_norm_interface",), contractions.weight_norm, over_kept.weight_norm),
    Op(
        ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
        contractions.batch_norm,
        over_kept.batch_norm,
    ),
    Op(("native_layer_norm",), contractions.layer_norm, over_kept.layer_norm, centres=True),
    Op(("native_group_norm",), contractions.group_norm, over_kept.group_norm),
)

POINTWISE = Op((), rules.pointwise)
FACTORY = Op((), rules.factory)
UNKNOWN = Op((), rules.unknown)

Table = Mapping[str, Op]
"""Name -> what is known of that operation."""


@cache
def name_of(func: OpOverload) -> str:
    """Return what an operation is called in the table: "namespace::name", or the bare name of one of torch's own."""
    return str(func._schema.name).removeprefix("aten::")


def op_of(table: Table, func: OpOverload) -> Op | None:
    """Return the entry of an operation, for one that works in place that of the plain form; None if there is none."""
    name = name_of(func)
    return table.get(name) or table.get(name.rstrip("_"))


@cache
def is_pointwise(func: OpOverload) -> bool:
    """True where torch says so; of an in-place form and its plain one it may say it of one alone."""
    name = func._schema.name.rpartition("::")[2].rstrip("_")
    plain = getattr(getattr(torch.ops, func.namespace), name, None)
    forms = {func, getattr(plain, func._overloadname, func)}
    return any(torch.Tag.pointwise in form.tags for form in forms)


def understood(table: Table, func: OpOverload, *, reads_tensors: bool) -> Op:
    """Return what is known of an operation: by the table, else by torch's tag, else by what it reads."""
    known = op_of(table, func)
    if known is not None:
        return known
    if is_pointwise(func):
        return POINTWISE
    name = name_of(func)
    made_like = "::" not in name and (name.startswith("new_") or name.endswith("_like"))
    return FACTORY if made_like or not reads_tensors else UNKNOWN
