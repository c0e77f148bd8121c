"""How good a network the labels make by now, whether more of them still help, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from photo_project import Project, of_target, selector_for
from picture_files import Problem
from sklearn.metrics import cohen_kappa_score

from prunefuse_al import PrunedProxySelector

FEW = 20  # held-out labels below which accuracy says little
SETTLED = 0.97
"""Agreement of two trainings above which more labels change hardly any answer. The rule is that of Bloodgood and
Vijay-Shanker (2009), who took 0.99 for linear models; networks seldom agree so far, even trained on the same labels."""
LOOKED_AT = 2000  # photographs without a label, for agreement


@dataclass(frozen=True)
class Point:
    """What the first so many labels make of the network."""

    labels: int
    right: np.ndarray  # of the held-out photographs, bool [m]
    answers: np.ndarray  # classes of photographs without a label, int64 [n]

    @property
    def accuracy(self) -> float:
        """Share of the held-out photographs that were answered rightly."""
        return float(self.right.mean()) if len(self.right) else math.nan


def tell(project: Project) -> None:
    """Print accuracy by held-out labels, what the last labels brought, and whether to go on."""
    rows, y = project.labelled(check=False)
    held, truth = project.labelled(check=True)
    if len(set(y[: max(2, len(y) // 2)].tolist())) < 2:
        raise Problem(f"{len(y)} labels to train on are too few to tell; call 'next' and label what it asks for")
    selector = selector_for(project)
    others = np.array(sorted({*project.not_settled(check=False), *project.not_settled(check=True)}), np.int64)
    others = np.random.default_rng(0).permutation(others)[:LOOKED_AT]
    points = [point(project, selector, rows[:n], y[:n], (held, truth), others) for n in parts(len(y))]
    target = (of_target(project, selector, held).argmax(1) == truth) if len(held) else np.array([], bool)
    print("\n" + "\n".join([*headline(target), "", *curve(points), "", *verdict(points)]))


def parts(n: int) -> list[int]:
    """Return the numbers of labels that are compared: half of them, three quarters, all."""
    return sorted({n // 2, 3 * n // 4, n})


def point(
    project: Project,
    selector: PrunedProxySelector,
    rows: np.ndarray,
    y: np.ndarray,
    held: tuple[np.ndarray, np.ndarray],
    others: np.ndarray,
) -> Point:
    """Return what some labels make of the network."""
    project.fit(selector, rows, y)

    def answers(some: np.ndarray) -> np.ndarray:
        return project.guesses(selector, some).argmax(1) if len(some) else np.array([], np.int64)

    return Point(len(rows), answers(held[0]) == held[1], answers(others))


def headline(right: np.ndarray) -> list[str]:
    """Return what the whole network got right of the held-out photographs."""
    if not len(right):
        return ["accuracy: not known, for no photograph that is to measure ('to measure' in next.csv) has a label"]
    low, high = interval(int(right.sum()), len(right))
    found = f"{right.mean():.0%} of {len(right)} photographs held out to measure"
    lines = [f"accuracy: {found}; of all of them between {low:.0%} and {high:.0%}"]
    return lines + [f"(fewer than {FEW} say little; label those marked 'to measure' too)"] * (len(right) < FEW)


def curve(points: Sequence[Point]) -> list[str]:
    """Return a table of what fewer labels would have made."""
    lines = ["labels  accuracy of the proxy  same answers as with the row above (kappa)"]
    for before, now in zip([None, *points], points, strict=False):
        same = "" if before is None else f"{agreement(before, now):.2f}"
        accuracy = "-" if math.isnan(now.accuracy) else f"{now.accuracy:.0%}"
        lines.append(f"{now.labels:6d}  {accuracy:>21}  {same:>42}".rstrip())
    return lines


def verdict(points: Sequence[Point]) -> list[str]:
    """Return whether more labels still help, and an estimate of when to stop."""
    first, before, last = points[0], points[-2], points[-1]
    settled = agreement(before, last) >= SETTLED
    gain, noise = last.accuracy - first.accuracy, paired_error(first, last)
    if len(last.right) < FEW:
        said = "the answers have settled" if settled else "the answers still change"
        return [f"more labels: {said}; too few are held out to say more"]
    lines = [f"the second half of the labels brought {100 * gain:+.0f} points (give or take {100 * noise:.0f})"]
    if gain > noise or not settled:
        lines.append(
            "more labels still help" if gain > noise else "more labels may still help: the answers still change"
        )
        ahead = expected(points, 2 * last.labels)
        if ahead is not None:
            lines.append(f"a guess from the rows above: about {ahead:.0%} with {2 * last.labels} labels")
        return lines
    return [*lines, "you may stop: the last labels changed hardly any answer and brought nothing that can be measured"]


def agreement(one: Point, other: Point) -> float:
    """Return Cohen's kappa between two trainings: 1 where all answers are the same, 0 where no more than by chance."""
    if len(one.answers) == 0 or bool((one.answers == other.answers).all()):
        return 1.0
    return float(cohen_kappa_score(one.answers, other.answers))


def paired_error(one: Point, other: Point) -> float:
    """Return the standard error of the difference between two accuracies on the same photographs."""
    difference = other.right.astype(float) - one.right
    return float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else math.nan


def expected(points: Sequence[Point], labels: int) -> float | None:
    """Return the accuracy that a falling power of the number of labels leads to; None where errors do not fall."""
    errors = [max(1 - p.accuracy, 0.5 / len(p.right)) for p in points]
    slope, start = np.polyfit(np.log([p.labels for p in points]), np.log(errors), 1)
    return float(1 - math.exp(start + slope * math.log(labels))) if slope < 0 else None


def interval(right: int, of: int) -> tuple[float, float]:
    """Return Wilson's interval, which holds the true share 95 times in 100."""
    z, share = 1.96, right / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)
