"""The house: how many rooms it has, that rooms meet at their faces, and that what was public stays so."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import prunefuse_al
from prunefuse_al._moved import MOVED
from tests.public_api import described

PACKAGE = Path(prunefuse_al.__file__).parent
KNOWN = json.loads((Path(__file__).parent / "data" / "public_api.json").read_text())


def test_there_are_few_rooms() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if not p.name.startswith("_") and p.suffix in ("", ".py")}
    assert len(rooms) <= 18, sorted(rooms)


def test_no_two_files_have_one_name() -> None:
    names = [p.stem for p in PACKAGE.rglob("*.py") if "adapters" not in p.parts and p.stem != "__init__"]
    assert not {name for name in names if names.count(name) > 1}


def imports_past_a_face(source: str, room: str, depth: int) -> Iterator[str]:
    """Name the modules inside other rooms that a module, `depth` folders below the package, takes names from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            absolute = node.level == 0 and node.module.startswith("prunefuse_al.")
            path = node.module.split(".")[1:] if absolute else node.module.split(".")
            if (absolute or node.level == depth + 1) and path[0] != room and len(path) > 1:
                yield node.module


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_meet_at_their_faces(file: Path) -> None:
    path = file.relative_to(PACKAGE).parts
    room = path[0] if len(path) > 1 else ""
    assert not list(imports_past_a_face(file.read_text(), room, len(path) - 1))


def test_a_way_past_a_face_is_seen() -> None:
    assert list(imports_past_a_face("from ..data.loading import Batch", "training", 1))
    assert list(imports_past_a_face("from prunefuse_al.data.loading import Batch", "adapters", 1))
    assert not list(imports_past_a_face("from ..data import Batch\nfrom .plan import Plan", "training", 1))


@pytest.mark.parametrize("old", MOVED)
def test_old_paths_name_the_same_modules(old: str) -> None:
    assert importlib.import_module(f"prunefuse_al.{old}") is importlib.import_module(f"prunefuse_al.{MOVED[old]}")


@pytest.mark.parametrize("entry", KNOWN)
def test_what_was_public_stays(entry: str) -> None:
    """`tests/data/public_api.json` only grows: ``python -m tests.public_api`` prints what there is."""
    now = described()
    assert entry in now
    old, new = KNOWN[entry], now[entry]
    assert [part for part in new if part in old] == old, (
        "parameters that there were, with their defaults, in their order"
    )
    ordered = [part for part in old if "!" not in part and not part.startswith("*")]
    assert new[: len(ordered)] == ordered, "what can be given by position keeps its place"
