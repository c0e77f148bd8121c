"""The code of README and of the pages under docs/, run as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
HOSTED = {"tutorials/pictures.md": "skorch"}  # pages that need a host, which tests/adapters runs beside it


def blocks(kind: str, text: str) -> list[str]:
    """Return what stands in blocks fenced as ```kind; a block with another word behind it is of another kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def scripts(text: str) -> list[str]:
    """Return a page's code, a script for each process: ```python goes on, ```python new-process begins another."""
    parts = re.split(r"^(?=```python new-process\n)", text, flags=re.MULTILINE)
    return ["\n".join(blocks("python(?: new-process)?", part)) for part in parts]


def run(folder: Path, code: str) -> None:
    """Run code as a script of its own; any warning is an error."""
    (folder / "page.py").write_text(code)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def run_page(folder: Path, page: Path) -> None:
    """Run all code of a page in one folder."""
    for script in scripts(page.read_text()):
        run(folder, script)
