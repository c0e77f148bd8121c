"""Tests the main claims on the records of several plans, each claim a difference of two arms, paired by seed.

python examples/paper/claims.py paper-digits-20 paper-mails-20 --out claims.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from across import results_in
from compare import Results
from lines import put_or_print
from significance import Difference, holm, paired
from wording import markdown, points

V1, V2, SCRATCH, GOES_ON = "prunefuse-v1", "prunefuse-v2:2", "prunefuse-v1 start=scratch", "prunefuse-v1 warm=continue"
REINIT, CONTINUE = "dense-reinit", "dense-continue"
CLAIMS = (  # what is claimed, ours, theirs
    ("the fused start is better than none, on the proxy's labels", V1, SCRATCH),
    ("the same, both tuned", V1, "random subset=prunefuse-v1"),
    ("the fused start is better than none, on the dense network's labels", "prunefuse-v1 subset=dense-reinit", REINIT),
    ("labels of the proxy are worth those of the dense network", SCRATCH, REINIT),
    ("labels of the dense network are worth more than random ones", REINIT, "random"),
    ("labels of the proxy are worth more than random ones", SCRATCH, "random"),
    ("V1 is ahead of the dense loop that starts anew", V1, REINIT),
    ("V1 is ahead of the dense loop that goes on", V1, CONTINUE),
    ("V2 is better than V1", V2, V1),
    ("V2 is ahead of the dense loop that starts anew", V2, REINIT),
    ("V2 is ahead of the dense loop that goes on", V2, CONTINUE),
    ("proxies that go on are better than V1", GOES_ON, V1),
    ("proxies that go on: ahead of the dense loop that starts anew", GOES_ON, REINIT),
    ("proxies that go on: ahead of the dense loop that goes on", GOES_ON, CONTINUE),
    *(
        (f"V1 is ahead of that which starts anew, by {scorer}", *(f"{arm} scorer={scorer}" for arm in (V1, REINIT)))
        for scorer in ("least_confidence", "badge", "k_center")
    ),
)
CAPTION = (
    "Differences in points of the area under accuracy over labels (over the range of labels), paired by seed, ± the "
    "95 % interval (Student's t); in bold where the paired t-test has p < 0.05 after Holm's correction for all {m} "
    "differences of this table."
)


def main(argv: list[str] | None = None) -> None:
    """Write the table, or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", type=Path, help="folders of plans, with their records")
    parser.add_argument("--out", type=Path, help="file to write (default: print)")
    args = parser.parse_args(argv)
    text = claimed([results_in(folder) for folder in args.folder])
    put_or_print(args.out, text)


def claimed(found: Sequence[Results]) -> str:
    """Return a line for each claim of which there are two seeds, a column for each plan."""
    tested = [[difference(results, ours, theirs) for results in found] for _, ours, theirs in CLAIMS]
    p = np.array(holm([d.p for row in tested for d in row])).reshape(len(CLAIMS), len(found))
    rows = [
        [claim, f"`{ours}` - `{theirs}`", *(cell(d, q) for d, q in zip(row, corrected, strict=True))]
        for (claim, ours, theirs), row, corrected in zip(CLAIMS, tested, p, strict=True)
        if any(d.n > 1 for d in row)
    ]
    head = ["claim", "minus", *(f"{results.plan.name} ({most(results)} seeds)" for results in found)]
    return f"# Claims\n\n{CAPTION.format(m=int((~np.isnan(p)).sum()))}\n\n{markdown(head, rows)}\n"


def difference(results: Results, ours: str, theirs: str) -> Difference:
    """Return how the areas of two arms differ, over the seeds that both have."""
    one, other = results.areas(ours), results.areas(theirs)
    seeds = [seed for seed in one if seed in other]
    return paired([one[seed] for seed in seeds], [other[seed] for seed in seeds])


def most(results: Results) -> int:
    """Return how many seeds are done of the arm that has most."""
    return max(len(results.seeds(arm.name)) for arm in results.plan.parsed)


def cell(d: Difference, p: float) -> str:
    """Return a difference in points, bold if it is significant after correction."""
    return f"**{points(d)}**" if p < 0.05 else points(d)


if __name__ == "__main__":
    main()
