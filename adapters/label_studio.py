"""Label Studio (``pip install label-studio-sdk``): picks become tasks in their order, annotations become labels.

    from label_studio_sdk import LabelStudio
    from prunefuse_al.adapters.label_studio import pull_labels, push_tasks

    client = LabelStudio(base_url="http://localhost:8080", api_key=token)
    picked = selector.query(pool, 50, candidates=unlabelled)
    push_tasks(client, project, picked, lambda row: {"image": urls[row]},
               classes=["cat", "dog"], probabilities=selector.predict_proba(subset(pool, picked)))
    # ... days later, people have worked:
    found = pull_labels(client, project, classes=["cat", "dog"])
    selector.fit(subset(pool, found.rows), found.labels)

Every task carries the number of its row in its data, so nothing has to be kept beside the project and the selector's
file. The project has one ``<Choices>`` of which one is chosen. What the server refuses is the SDK's own error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from prunefuse_al import checks
from prunefuse_al.adapters import require_host
from prunefuse_al.errors import InputError
from prunefuse_al.types import Selection

require_host("label_studio_sdk", extra="label-studio", adapter="label_studio")

ROW, RANK = "row", "rank"
"""What a task's data says of itself: the number of its row, and its place in the query, from 1."""
RULES = ("majority", "newest", "leave_out")
Int64s = np.ndarray[Any, np.dtype[np.int64]]
Classes = Sequence[str] | Mapping[str, int]


@dataclass(frozen=True, eq=False)
class PulledLabels:
    """What people said so far.

    Attributes:
        rows: int64 [m], rows that have a label, ascending.
        labels: int64 [m], their classes.
        skipped: rows of tasks that everybody skipped who saw them.
        disputed: rows on whose label the annotators do not agree, by the rule that was asked for.
        open: rows of tasks that nobody has dealt with yet.
        others: how many tasks of the project have no row number: somebody else's.
    """

    rows: Int64s
    labels: Int64s
    skipped: Int64s
    disputed: Int64s
    open: Int64s
    others: int


def push_tasks(
    client: Any,
    project: int,
    picked: Any,
    data: Callable[[int], Mapping[str, Any]],
    *,
    classes: Classes | None = None,
    probabilities: Any = None,
    model_version: str = "prunefuse_al",
    control: str | None = None,
) -> list[int]:
    """Make a task of each pick, best first, which is the order in which the project hands them out.

    A row that is in the project already is not pushed again, so a call that was cut off may be repeated. A project with
    "uncertainty sampling" goes by the scores of predictions instead of the order of its tasks.

    Args:
        client: a `label_studio_sdk.LabelStudio`.
        project: number of the project.
        picked: rows, best first, int64 [k], or a `Selection`.
        data: of a row, what the project's labelling interface shows, such as ``{"image": url}``.
        classes: what the classes are called in the project, in their order; or a dict from names to classes, of which
            the first name of each class is used. Needed for predictions.
        probabilities: of each pick, [k c]: the likeliest class becomes the task's prediction, with its probability for
            a score. None: there are no predictions.
        model_version: what the project calls the predictions' model.
        control: name of the ``<Choices>``, where the project has several.

    Returns:
        The numbers of the new tasks, in the order of the picks.

    Raises:
        InputError: rows that repeat, data that is no dict or has an entry "row" or "rank" itself, probabilities of
            another shape, or a class the project has no choice for.
    """
    rows = _rows_of(picked)
    choices = _Choices.of(client, project, control)
    predictions = _predictions(choices, rows, classes, probabilities, model_version)
    there = {_row_of(task) for task in _tasks(client, project)}
    requests = [
        {"data": _data_of(data, row, rank), "predictions": predictions.get(row, [])}
        for rank, row in enumerate(rows, 1)
        if row not in there
    ]
    if not requests:
        return []
    found = client.projects.import_tasks(checks.whole("project", project), request=requests, return_task_ids=True)
    return [int(number) for number in found.task_ids]


def pull_labels(
    client: Any, project: int, *, classes: Classes, disagree: str = "majority", control: str | None = None
) -> PulledLabels:
    """Return what people have said about the rows that were pushed.

    Of each annotator the newest annotation of a task counts, and what was skipped is no label: a task that one skipped
    and another labelled has that label.

    Args:
        client: a `label_studio_sdk.LabelStudio`.
        project: number of the project.
        classes: what the classes are called in the project, in their order; or a dict from names to classes, for
            several names of one class, such as those from before a renaming.
        disagree: which label counts where annotators disagree: "majority", that of most of them, none (`disputed`) in a
            tie; "newest", that of the last annotation; "leave_out", none.
        control: name of the ``<Choices>``, where the project has several.

    Raises:
        InputError: an unknown rule, an annotation with several choices or with one that is in no class, or two tasks
            of one row.
    """
    checks.one_of("disagree", disagree, RULES)
    known, choices = _numbers(classes), _Choices.of(client, project, control)
    said: dict[int, list[_Said]] = {}
    others = 0
    for task in _tasks(client, project):
        row = _row_of(task)
        if row is None:
            others += 1
            continue
        if row in said:
            raise InputError(f"row {row} has two tasks in project {project}, the second is task {task.id}: delete one")
        said[row] = _newest(task, choices)
    _refuse_unknown(said, known, project)
    labels = {row: [known[each.choice] for each in last if each.choice is not None] for row, last in said.items()}
    agreed = {row: label for row in sorted(said) if (label := _agreed(labels[row], disagree)) is not None}
    return PulledLabels(
        rows=np.array(list(agreed), np.int64),
        labels=np.array(list(agreed.values()), np.int64),
        skipped=_rows(row for row, last in said.items() if last and not labels[row]),
        disputed=_rows(row for row in said if labels[row] and row not in agreed),
        open=_rows(row for row, last in said.items() if not last),
        others=others,
    )


@dataclass(frozen=True)
class _Choices:
    """The ``<Choices>`` of a project: what it is called, what it is about, and what can be chosen."""

    name: str
    about: str
    values: tuple[str, ...]

    @classmethod
    def of(cls, client: Any, project: int, control: str | None) -> _Choices:
        """Return the one of that name, or the only one there is."""
        checks.methods("client.projects", getattr(client, "projects", None), ("get",), "a label_studio_sdk.LabelStudio")
        number = checks.whole("project", project, what="the number of a project")
        root = ElementTree.fromstring(client.projects.get(number).label_config)
        found = {tag.get("name", ""): tag for tag in root.iter("Choices")}
        names = ", ".join(map(repr, found)) or "none"
        if control is None and len(found) != 1:
            raise InputError(f"project {number} has {len(found)} <Choices> ({names}): name one of them, control=...")
        if control is not None and control not in found:
            raise InputError(f"control={control!r}: project {number} has the <Choices> {names}")
        tag = found[control] if control is not None else next(iter(found.values()))
        values = (choice.get("alias") or choice.get("value") or "" for choice in tag.iter("Choice"))
        return cls(tag.get("name", ""), tag.get("toName", ""), tuple(values))

    def result(self, choice: str) -> dict[str, Any]:
        """Return a choice as annotations and predictions hold it."""
        return {"from_name": self.name, "to_name": self.about, "type": "choices", "value": {"choices": [choice]}}


@dataclass(frozen=True)
class _Said:
    """What one annotator said last of a task: a choice, or None if it was skipped."""

    who: Any
    when: str
    choice: str | None


def _newest(task: Any, choices: _Choices) -> list[_Said]:
    """Return the last word of each annotator of a task, oldest first."""
    last: dict[Any, _Said] = {}
    for annotation in sorted(task.annotations or [], key=lambda each: str(each["updated_at"])):
        chosen = [] if annotation["was_cancelled"] else _chosen(annotation["result"], choices)
        if len(chosen) > 1:
            raise InputError(f"task {task.id}: {len(chosen)} choices in one annotation, {chosen}; one label is needed")
        if not chosen and not annotation["was_cancelled"]:
            continue  # submitted without a choice
        who = annotation["completed_by"]
        last.pop(who, None)
        last[who] = _Said(who, str(annotation["updated_at"]), chosen[0] if chosen else None)
    return list(last.values())


def _chosen(result: Any, choices: _Choices) -> list[str]:
    parts = [part for part in result or [] if part.get("from_name") == choices.name]
    return [choice for part in parts for choice in part.get("value", {}).get("choices", [])]


def _agreed(labels: list[int], rule: str) -> int | None:
    """Return the label that counts, of those of a task, oldest first; None where there is none."""
    if len(set(labels)) < 2 or rule == "newest":
        return labels[-1] if labels else None
    (first, most), (_, next_) = Counter(labels).most_common(2)
    return first if rule == "majority" and most > next_ else None


def _refuse_unknown(said: Mapping[int, list[_Said]], known: Mapping[str, int], project: int) -> None:
    choices = [each.choice for last in said.values() for each in last if each.choice is not None]
    counts = Counter(choice for choice in choices if choice not in known)
    if counts:
        names = ", ".join(f"{name!r} ({count} times)" for name, count in counts.most_common())
        raise InputError(
            f"project {project} has choices that are in no class: {names}; known are {', '.join(map(repr, known))}. "
            "Pass a dict from every name, old ones too, to its class"
        )


def _predictions(
    choices: _Choices, rows: list[int], classes: Classes | None, probabilities: Any, model_version: str
) -> dict[int, list[dict[str, Any]]]:
    """Return the prediction of each row, none at all without probabilities."""
    if probabilities is None:
        return {}
    if classes is None:
        raise InputError("push_tasks: probabilities need classes=, what the classes are called in the project")
    names: dict[int, str] = {}
    for name, number in _numbers(classes).items():
        names.setdefault(number, name)
    if lacking := [name for name in names.values() if name not in choices.values]:
        raise InputError(
            f"classes={lacking[0]!r}: <Choices> {choices.name!r} has {', '.join(map(repr, choices.values))}"
        )
    p = checks.array("probabilities", probabilities, f"floats [{len(rows)}, {len(names)}], one row a pick", floats=True)
    if list(p.shape) != [len(rows), len(names)] or not bool(torch.isfinite(p).all()):
        raise checks.refused("probabilities", probabilities, f"finite floats [{len(rows)}, {len(names)}]")
    best, likeliest = p.max(1)
    return {
        row: [{"model_version": model_version, "score": score, "result": [choices.result(names[n])]}]
        for row, score, n in zip(rows, best.tolist(), likeliest.tolist(), strict=True)
    }


def _numbers(classes: Any) -> dict[str, int]:
    """Return the class of every name: numbers from 0, all of them."""
    what = "the names of the classes in their order, or a dict from names to the numbers of classes 0..C-1"
    if isinstance(classes, str) or not isinstance(classes, Sequence | Mapping) or not classes:
        raise checks.refused("classes", classes, what)
    items = list(classes.items()) if isinstance(classes, Mapping) else [(n, i) for i, n in enumerate(classes)]
    found = {name: checks.whole(f"classes[{name!r}]", number, least=0) for name, number in items}
    whole = set(found.values()) == set(range(len(set(found.values()))))
    if len(found) != len(items) or not whole or not all(isinstance(name, str) for name in found):
        raise checks.refused("classes", classes, what)
    return found


def _rows_of(picked: Any) -> list[int]:
    given = picked.indices if isinstance(picked, Selection) else picked
    rows: list[int] = (
        checks.whole_numbers("picked", given, "rows, whole numbers [k], or a Selection").reshape(-1).tolist()
    )
    if len(set(rows)) != len(rows) or any(row < 0 for row in rows):
        raise checks.refused("picked", given, "rows from 0, each once")
    return rows


def _data_of(data: Any, row: int, rank: int) -> dict[str, Any]:
    found = checks.function("data", data, "a function from a row to what its task shows, a dict")(row)
    if not isinstance(found, Mapping) or not found or {ROW, RANK} & found.keys():
        needed = f"a dict such as {{'image': url}}, without {ROW!r} and {RANK!r}, which are added"
        raise checks.refused(f"data({row})", found, needed)
    return {**found, ROW: row, RANK: rank}


def _tasks(client: Any, project: int) -> Iterator[Any]:
    """Yield all tasks of a project, with their annotations."""
    yield from client.tasks.list(project=project, fields="all")


def _row_of(task: Any) -> int | None:
    row = (task.data or {}).get(ROW)
    return row if isinstance(row, int) and not isinstance(row, bool) else None


def _rows(rows: Iterable[int]) -> Int64s:
    return np.array(sorted(rows), np.int64)
