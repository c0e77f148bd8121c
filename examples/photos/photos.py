"""Which photographs to label next: for a folder of photographs and a table of labels, over days.

    python photos.py next FOLDER      # writes next.csv and next.png: label these, then call it again
    python photos.py status FOLDER    # how good the labels make a network by now, and whether more still help
    python photos.py finish FOLDER    # predictions.csv: a label for every photograph
    python photos.py                  # plays it with small pictures of digits, in a folder that goes afterwards

Needs timm: pip install prunefuse_al timm. All that is kept from day to day are the tables and one file of the selector.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import contact_sheet
import label_files
import numpy as np
import photo_demo
import photo_status
from photo_project import Project, of_target, prepared, selector_for
from picture_files import Problem

from prunefuse_al import PrunedProxySelector
from prunefuse_al.errors import FallbackWarning, PruneFuseError

Line = Mapping[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command says; return 0, or 2 where the user has to set something right."""
    args = parse(argv)
    if args.command is None:
        return photo_demo.play(main)
    try:
        with warnings.catch_warnings():  # the head sees no mirrored pictures; the whole network does
            warnings.filterwarnings("ignore", r"proxy=Probe\(", FallbackWarning)
            COMMANDS[args.command](Project.opened(args))
    except (Problem, PruneFuseError) as problem:
        print(f"photos: {problem}", file=sys.stderr)
        return 2
    return 0


def ask(project: Project) -> None:
    """Write which photographs to label next: `next.csv`, and `next.png` with what is in them."""
    args, labels = project.args, project.labels
    free, checks = project.not_settled(check=False), project.not_settled(check=True)
    if not free and not checks:
        answer = f"{len(labels.open)} are asked for already, in {args.offers}" if labels.open else "all are answered"
        print(f"there is nothing left to ask for: {answer}")
        return
    for_checks = min(len(checks), max(round(args.number * args.check), args.number - len(free)))
    count = min(len(free), args.number - for_checks)
    selector = selector_for(project)
    picked, why = choose(project, selector, free, count)
    measuring = sorted(checks, key=lambda row: hashlib.sha256(project.photos.names[row].encode()).digest())[:for_checks]
    rows = offers(project, selector, [*picked, *measuring], [why] * len(picked) + ["to measure"] * len(measuring))
    open_before = [row.cells for row in labels.open.values()]
    again = {line["file"] for line in rows}  # of what was 'unsure'
    answered = [row.cells for row in labels.answered if row.cells["file"] not in again]
    save(project, selector, [*rows, *open_before], answered)
    print(f"\n{len(rows)} photographs to label: write the label of each into the column 'label' of {args.offers}")
    print(f"(or 'skip', or 'unsure'; they are shown in {args.sheet}), then call this again")
    if open_before:
        print(f"{len(open_before)} that were asked for before have no answer yet and stand below them")
    print(f"\n{selector.costs}")


def choose(project: Project, selector: PrunedProxySelector, free: list[int], count: int) -> tuple[list[int], str]:
    """Return rows to label next, best first, and what they were chosen by."""
    rows, y = project.labelled(check=False)
    pixels = project.photos.pixels
    if len(set(y.tolist())) < 2:
        if not prepared(selector):
            selector.prepare(pixels)
        return select(selector, pixels, count, free, "typiclust"), "typical"
    project.fit(selector, rows, y)
    return select(selector, pixels, count, free, None), "uncertain"


def select(selector: PrunedProxySelector, pixels: np.ndarray, k: int, free: list[int], scorer: str | None) -> list[int]:
    return selector.select(pixels, k, free, scorer=scorer).indices.tolist() if k else []


def offers(project: Project, selector: PrunedProxySelector, rows: list[int], why: list[str]) -> list[Line]:
    """Return the lines of `next.csv` for some photographs, with what the network takes them for."""
    guesses = project.guesses(selector, rows) if len(project.classes) > 1 and rows else None
    lines = []
    for place, (row, reason) in enumerate(zip(rows, why, strict=True)):
        line = {"file": project.photos.names[row], "why": reason}
        if guesses is not None and reason != "to measure":  # a guess would sway who answers
            best = int(guesses[place].argmax())
            line |= {"guess": project.classes[best], "sure": f"{guesses[place, best]:.2f}"}
        lines.append(line)
    return lines


def save(project: Project, selector: PrunedProxySelector, asked: Sequence[Line], answered: Sequence[Line]) -> None:
    """Write what is to be known tomorrow; the table last, so that what it says is true."""
    args = project.args
    asked = [{**line, "number": str(number)} for number, line in enumerate(asked, 1)]
    try:
        selector.save(args.selector)
    except OSError as error:
        raise Problem(f"{args.selector} cannot be written: {error}") from error
    shown = [(line["file"], line["number"], line["guess"] + "?" if line.get("guess") else "") for line in asked]
    label_files.written(args.sheet, contact_sheet.draw(args.folder, shown))
    label_files.write_table(args.offers, label_files.COLUMNS, [*asked, *answered], project.labels.delimiter)


def finish(project: Project) -> None:
    """Train the whole network on all labels and write what it takes every photograph for."""
    rows, y = project.labelled()
    if len(set(y.tolist())) < 2:
        raise Problem("labels of two kinds or more are needed to train a network; 'next' says which to give")
    selector = selector_for(project)
    project.fit(selector, rows, y)
    probabilities = of_target(project, selector, range(len(project.photos)))
    lines = []
    for name, row in zip(project.photos.names, probabilities, strict=True):
        own = project.labels.of.get(name)
        label = own or project.classes[int(row.argmax())]
        sure = {"sure": "", "by": "you"} if own else {"sure": f"{row.max():.2f}", "by": "network"}
        lines.append({"file": name, "label": label, **sure})
    path = project.args.offers.with_name("predictions.csv")
    label_files.write_table(path, ("file", "label", "sure", "by"), lines, project.labels.delimiter)
    print(f"\n{path} has a label for each of {len(lines)} photographs\n\n{selector.costs}")


COMMANDS = {"next": ask, "status": photo_status.tell, "finish": finish}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, with every path that follows from others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=COMMANDS)
    parser.add_argument("folder", nargs="?", type=Path, help="with the photographs, and folders of them")
    parser.add_argument("--labels", type=Path, default=Path("labels.csv"), help="your table (default: labels.csv)")
    parser.add_argument("--number", type=int, default=20, help="of photographs to ask for (default: 20)")
    parser.add_argument("--unsure", action="store_true", help="ask again for what was answered 'unsure'")
    parser.add_argument("--weights", help="a file of pretrained weights, or 'download' (default: none)")
    parser.add_argument("--network", default="resnet18", help="a name of timm's (default: resnet18)")
    parser.add_argument("--size", type=int, default=128, help="pixels that the network sees across (default: 128)")
    parser.add_argument("--no-flip", action="store_true", help="mirrored pictures are something else, as letters are")
    parser.add_argument(
        "--check", type=float, default=0.2, help="share of photographs that only measure (default: 0.2)"
    )
    parser.add_argument("--epochs", type=int, help="of every training (default: by how many labels there are)")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if args.command and args.folder is None:
        parser.error(f"{args.command}: which folder are the photographs in?")
    if args.number < 1 or args.size < 16 or not 0 <= args.check < 1 or args.batch_size < 2:
        parser.error("--number is 1 or more, --size 16 or more, --check from 0 to below 1, --batch-size 2 or more")
    beside = args.labels.parent
    args.offers, args.sheet, args.selector = (beside / name for name in ("next.csv", "next.png", "photos.safetensors"))
    return args


if __name__ == "__main__":
    sys.exit(main())
