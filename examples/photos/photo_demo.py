"""Small pictures of digits as files, and somebody who knows what they show: to see how it goes."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

DIGITS = 4  # kinds: 0, 1, 2, 3
QUICK = ("--network", "test_resnet", "--size", "32", "--epochs", "30", "--check", "0.3", "--no-flip", "--quiet")
"""A tiny network, enough for these pictures."""


def write_pictures(folder: Path, count: int, size: int = 48) -> dict[str, str]:
    """Write pictures of digits into a folder; return the label of each by its name."""
    x, y = load_digits(n_class=DIGITS, return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(y))[:count]
    labels = {}
    for place, row in enumerate(chosen):
        name = f"picture-{place:03d}.png"
        grey = Image.fromarray((x[row].reshape(8, 8) * (255 / 16)).astype(np.uint8))
        grey.resize((size, size), Image.Resampling.BICUBIC).save(folder / name)
        labels[name] = f"digit {y[row]}"
    return labels


def answer(offers: Path, labels: dict[str, str]) -> int:
    """Write the labels that are asked for into `next.csv`, as a person does in a spreadsheet; return how many."""
    with offers.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    asked = [row for row in rows if not row["label"]]
    for row in asked:
        row["label"] = labels[row["file"]]
    with offers.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return len(asked)


def play(main: Callable[[Sequence[str]], int]) -> int:
    """Play three days of labelling and look how good it got; return 0 if all went well."""
    with tempfile.TemporaryDirectory() as place:
        folder, table = Path(place, "pictures"), Path(place, "labels.csv")
        folder.mkdir()
        labels = write_pictures(folder, 240)
        options = [os.fspath(folder), "--labels", os.fspath(table), *QUICK]
        for day in (1, 2, 3):
            print(f"\n---- day {day}: photos.py next {folder} --number 24")
            if code := main(["next", *options, "--number", "24"]):
                return code
            print(f"({answer(table.with_name('next.csv'), labels)} labels were written into next.csv)")
        print(f"\n---- photos.py status {folder}")
        return main(["status", *options])
