"""Write docs/networks.md: what `prune` makes of every family at half the channels, and why anything is kept whole.

``python -m tests.pruning.networks_table [--full]`` runs all families and writes the file; the tests run the small ones
and compare. With ``--full`` the full-size networks are run as well, which takes minutes.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from examples.zoo import FAMILIES, Family
from prunefuse_al import prune
from prunefuse_al.pruning import PruningReport
from prunefuse_al.pruning.refusals import NATURAL

TARGET = Path(__file__).parents[2] / "docs" / "networks.md"
HEADER = """# Networks

What `prune` makes of the networks people bring, in the small configurations of
`examples/zoo.py`. Every row is run by the tests, at ratios of 0.3, 0.5 and 0.7, under every law of pruning and fusing:
bit for bit there and back, the network untouched, the same outputs, trainable.

* **MACs**: share of the dense network's that is left at ratios of 0.3, 0.5 and 0.7; 0.49, 0.25 and 0.09 is what these
  leave of a layer between two thinned ones. **Parameters**: the same at 0.5. First and last layers keep their inputs
  and outputs, which weighs more the smaller a network is; attention between tokens and depthwise convolutions shrink
  with the width, not its square.
* **fused exactly**: `fuse(cross="preserve")` computes what the proxy computes, to rounding, at all three ratios; else
  at which ones, and the largest relative distance at the others, measured with random weights. Statistics over channels
  have an exact form where the width is a multiple of the proxy's, as it often is at 0.5, and only some have one
  elsewhere.
* **kept whole**: what was not thinned at 0.5 though it is a width, and why.

`examples/benchmarks/zoo_sweep.py` prunes one network of every family of the installed timm, torchvision and
transformers in tiny configurations, and checks by itself what is claimed. At 0.5, of 256 (all classifiers of
transformers that can be made, half of torchvision's, 51 of timm's): 251 fused exactly (98 %), 5 not and the report says
so; none barely thinned, refused or over 60 seconds of CPU in `prune`, no claim wrong. Not exact are Whisper, where a
statistic is taken over positions that are frozen; PVT, whose positions are resized; PVT v2, whose last width is written
in its configuration, which no proxy changes; CSATv2, which meets frequencies of fixed size; and SEW-D, parts of which
compute in single precision while its rows hardly differ.

At 0.3 and 0.7, of a third of them (84 and 86, 60 seconds each): 51 and 53 fused exactly, 31 and 31 not and the report
says so (widths are then no multiples of the proxy's), 2 and 1 not done in time, no claim wrong; at 0.7 the backward
pass of Nystromformer's convolution ends the process in torch itself.

This file is written by `python -m tests.pruning.networks_table`.
"""
COLUMNS = """
| family | MACs | parameters | fused exactly | kept whole |
|---|---|---|---|---|
"""


RATIOS = (0.3, 0.5, 0.7)


def row(family: Family, reports: Sequence[PruningReport]) -> str:
    """Return a family's line of the table, from reports at one ratio or more; the middle one tells the rest."""
    middle = reports[len(reports) // 2]
    said = (reason for reason in middle.kept_whole.values() if not reason.startswith(NATURAL))
    reasons = Counter(reason.partition(", at ")[0] for reason in said)  # not the lines of the network's code
    kept = "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
    shares = " ".join(f"{report.mac_share:.2f}" for report in reports)
    return f"| {family.name} | {shares} | {middle.parameter_share:.2f} | {exactness(reports)} | {kept} |"


def exactness(reports: Sequence[PruningReport]) -> str:
    """Return at which ratios preserving fusion is exact, and how far from it it is at the others."""
    exact = [f"{report.pruning_ratio:g}" for report in reports if report.preserve_exact]
    if len(exact) == len(reports):
        return "yes"
    largest = max(report.preserve_distance for report in reports if not report.preserve_exact)
    distance = f"{largest:.1g}" if largest < 10 else "over 10"  # a quotient by nearly nothing, of which no digit stays
    return f"at {', '.join(exact)}; else {distance}" if exact else f"no, {distance}"


def full_row(family: Family) -> str:
    """Return a family's line of the full-size table."""
    network, start = family.build(full=True), time.perf_counter()
    report = prune(network, family.example(full=True), 0.5).report()
    return f"{row(family, [report])[:-1]}| {report.dense_parameters / 1e6:.1f} M | {time.perf_counter() - start:.0f} |"


def main(full: bool) -> None:
    lines = [HEADER]
    for group in dict.fromkeys(group for group, _ in FAMILIES):
        lines.append(f"\n## {group}\n{COLUMNS}")
        for family in (f for f in FAMILIES.values() if f.group == group):
            reports = [prune(family.build(), family.example(), ratio).report() for ratio in RATIOS]
            lines.append(row(family, reports) + "\n")
            print(lines[-1], end="", flush=True)
    if full:
        lines.append("\n## Full size\n\nRun by hand, seconds of `prune` on one shared core.\n")
        lines.append(
            COLUMNS.replace("kept whole |", "kept whole | parameters | seconds |").replace("|\n|---", "|\n|---")
        )
        for family in (f for f in FAMILIES.values() if f.full is not None):
            lines.append(full_row(family) + "\n")
            print(lines[-1], end="", flush=True)
    TARGET.write_text("".join(lines))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("--full" in sys.argv[1:])
