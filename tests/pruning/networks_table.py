"""Write docs/networks.md: what `prune` makes of every family at half the channels, and why anything is kept whole.

``python -m tests.pruning.networks_table [--full]`` runs all families and writes the file; the tests run the small ones
and compare. With ``--full`` the full-size networks are run as well, which takes minutes.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from examples.zoo import FAMILIES, Family
from prunefuse_al import prune
from prunefuse_al.pruning import PruningReport

TARGET = Path(__file__).parents[2] / "docs" / "networks.md"
NATURAL = ("reads an input", "is not both written")  # what no pruning removes: inputs, kernel positions, tables
HEADER = """# Networks

What `prune(network, example, 0.5)` makes of the networks people bring, in the small configurations of
`examples/zoo.py`. Every row is run by the tests, at ratios of 0.3, 0.5 and 0.7, under every law of pruning and fusing:
bit for bit there and back, the network untouched, the same outputs, trainable.

* **MACs**, **parameters**: share of the dense network's that is left; 0.25 is what half the channels leaves of a layer
  between two thinned ones. First and last layers keep their inputs and outputs, which weighs more the smaller a network
  is; attention between tokens and depthwise convolutions shrink with the width, not its square.
* **fused exactly**: `fuse(cross="preserve")` computes what the proxy computes, to rounding; else the relative distance,
  measured with random weights.
* **kept whole**: what was not thinned though it is a width, and why.

This file is written by `python -m tests.pruning.networks_table`.
"""
COLUMNS = """
| family | MACs | parameters | fused exactly | kept whole |
|---|---|---|---|---|
"""


def row(family: Family, report: PruningReport) -> str:
    """Return a family's line of the table."""
    exact = "yes" if report.preserve_exact else f"no, {report.preserve_distance:.1g}"
    reasons = Counter(reason for reason in report.kept_whole.values() if not reason.startswith(NATURAL))
    kept = "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
    return f"| {family.name} | {report.mac_share:.2f} | {report.parameter_share:.2f} | {exact} | {kept} |"


def full_row(family: Family) -> str:
    """Return a family's line of the full-size table."""
    network, start = family.build(full=True), time.perf_counter()
    report = prune(network, family.example(full=True), 0.5).report()
    return f"{row(family, report)[:-1]}| {report.dense_parameters / 1e6:.1f} M | {time.perf_counter() - start:.0f} |"


def main(full: bool) -> None:
    lines = [HEADER]
    for group in dict.fromkeys(group for group, _ in FAMILIES):
        lines.append(f"\n## {group}\n{COLUMNS}")
        for family in (f for f in FAMILIES.values() if f.group == group):
            lines.append(row(family, prune(family.build(), family.example(), 0.5).report()) + "\n")
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
