"""The photographs of a folder: found, turned upright, made of one size, once per run."""

from __future__ import annotations

import tempfile
import unicodedata
import warnings
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic")


class Problem(Exception):
    """Something that the user has to set right; nothing was written."""


@dataclass(frozen=True)
class Photos:
    """The photographs that can be read.

    Attributes:
        folder: where they are.
        names: of each its path within the folder, with "/", sorted; [n].
        pixels: uint8 [n 3 size size], in a file that goes when the program ends.
        unreadable: of each other file its name, and why it cannot be read.
    """

    folder: Path
    names: list[str]
    pixels: np.ndarray
    unreadable: dict[str, str]

    def __len__(self) -> int:
        return len(self.names)


def read(folder: Path, size: int, *, without: Collection[Path] = (), progress: bool = True) -> Photos:
    """Return the photographs of a folder and of those in it.

    Args:
        folder: hidden files in it (".name") are left alone.
        size: to which the middle square of each is made.
        without: files that are no photographs, such as the contact sheet.
        progress: show a bar where stderr is a terminal.

    Raises:
        Problem: there is no such folder, or no photograph in it.
    """
    if not folder.is_dir():
        raise Problem(f"there is no folder {str(folder)!r}")
    names = find(folder, without)
    if not names:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise Problem(f"there are no photographs in {str(folder)!r} (files of the kinds {kinds})")
    with tempfile.TemporaryFile() as file:  # which is there for as long as it is mapped
        pixels = np.memmap(file, np.uint8, "w+", shape=(len(names), 3, size, size))
    with warnings.catch_warnings(), ThreadPoolExecutor() as threads:  # once for all threads, which share the filters
        warnings.simplefilter("ignore")  # of odd metadata, which do not matter here
        found = threads.map(partial(_read_into, folder, pixels), range(len(names)), names)
        said = list(tqdm(found, "reading", len(names), unit="photo", disable=None if progress else True))
    kept = [row for row, why in enumerate(said) if not why]
    for place, row in enumerate(kept):
        pixels[place] = pixels[row]  # what is read moves up into the place of what is not
    unreadable = {name: why for name, why in zip(names, said, strict=True) if why}
    if not kept:
        raise Problem(f"none of the {len(names)} photographs in {str(folder)!r} can be read; the first: {said[0]}")
    return Photos(folder, [names[row] for row in kept], pixels[: len(kept)], unreadable)


def find(folder: Path, without: Collection[Path] = ()) -> list[str]:
    """Return the names of the photographs in a folder, whether or not they can be read."""
    left_out = {path.resolve() for path in without}
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    inside = ((path, path.relative_to(folder)) for path in files if path.resolve() not in left_out)
    return sorted(name.as_posix() for _, name in inside if not any(part.startswith(".") for part in name.parts))


def upright(path: Path, size: int) -> Image.Image:
    """Return the middle square of a photograph, as its camera was held, in RGB and `size` pixels wide.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: it cannot be read.
    """
    with Image.open(path) as picture:
        picture.draft("RGB", (2 * size, 2 * size))  # a JPEG is not decoded finer than that
        turned = ImageOps.exif_transpose(picture)
        return ImageOps.fit(_rgb(turned), (size, size), Image.Resampling.BILINEAR)


def _rgb(picture: Image.Image) -> Image.Image:
    """Return a picture in three colours: what is transparent is white, and 16 bits are scaled and not cut."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.asarray(picture, np.float64)
        top = 65535.0 if picture.mode != "F" else max(float(values.max()), 1e-12)
        return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _read_into(folder: Path, pixels: np.ndarray, row: int, name: str) -> str:
    """Read one photograph into its row; return "", or why it cannot be read."""
    path = folder / name
    try:
        pixels[row] = np.asarray(upright(path, pixels.shape[-1])).transpose(2, 0, 1)
    except Image.DecompressionBombError as error:
        return f"too large: {error}"
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises at damaged files
        if path.suffix.lower() == ".heic":
            return "HEIC is not read here: export it as JPEG"
        return "the file is empty" if not path.stat().st_size else str(error) or type(error).__name__
    return ""


def plain(name: str) -> str:
    """Return a name as it is compared: with "/", composed accents (macOS writes them apart), and no "./" before it."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")
