"""The README's Python blocks run, one after the other, and its commands are those that CI runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path, monkeypatch):
    """A block fenced as ```python no-run is for reading only."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL), 1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), namespace)


def test_ci_runs_the_command_that_the_readme_states():
    (command,) = re.findall(r"^test_command='(.*)'$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert command in README.splitlines()


def test_nothing_links_outside_the_repository():
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
