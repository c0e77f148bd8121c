"""A picture of the photographs that are asked for, numbered as they are in `next.csv`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from picture_files import upright
from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, TEXT, ACROSS = 160, 12, 36, 5
MOST = 200  # on one sheet


def draw(folder: Path, shown: Sequence[tuple[str, str, str]]) -> bytes:
    """Return a PNG of photographs.

    Args:
        folder: where they are.
        shown: of each its name in the folder, its number, and what stands beneath both.
    """
    shown = shown[:MOST]
    across = min(ACROSS, len(shown))
    width, height = across * (SIDE + GAP) + GAP, -(-len(shown) // across) * (SIDE + TEXT + GAP) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, (name, number, beneath) in enumerate(shown):
        left, top = GAP + place % across * (SIDE + GAP), GAP + place // across * (SIDE + TEXT + GAP)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            sheet.paste(upright(folder / name, SIDE), (left, top))
        pen.text((left, top + SIDE + 2), _fitting(pen, font, f"{number}  ", name), "black", font)
        pen.text((left, top + SIDE + 18), _fitting(pen, font, "", beneath), "dimgray", font)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _fitting(pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, first: str, text: str) -> str:
    """Return `first` and as much of a text as there is room for; of a long one the end, where names differ."""
    shown = text
    for cut in range(1, len(text)):
        if pen.textlength(first + shown, font) <= SIDE:
            break
        shown = f"…{text[cut:]}"
    return first + shown
