"""The Python blocks of README and docs and the modAL script run, and its commands are those that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(kind: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run(tmp_path: Path, code: str) -> None:
    """Run code as a script of its own, as a reader would; any warning is an error."""
    (tmp_path / "readme.py").write_text(code)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "readme.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_python_blocks_run(tmp_path):
    """A block fenced as ```python no-run is for reading only."""
    assert len(blocks("python")) > 5
    run(tmp_path, "\n".join(blocks("python")))


PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if blocks("python", page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_with_code_run(tmp_path, page):
    run(tmp_path, "\n".join(blocks("python", page.read_text())))


def test_the_modal_script_runs_once_it_is_switched(tmp_path):
    pytest.importorskip("modAL.models")
    diff = blocks("diff")[0]  # the first switches a modAL script; each other host has a loop of its own that is run
    switched = "".join(line[1:] + "\n" for line in diff.splitlines() if not line.startswith("-"))
    ready = "X_pool, y_pool, network = X[50:], y[50:], model\n"
    checked = "assert type(target) is type(network) and len(learner.y_training) == 110\n"
    run(tmp_path, "\n".join([blocks("python")[0], ready, switched, checked]))


def test_ci_runs_the_command_that_the_readme_states():
    (command,) = re.findall(r"^test_command='(.*)'$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert command in README.splitlines()


def test_nothing_links_outside_the_repository():
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
