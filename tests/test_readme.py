"""README's modAL script runs, its commands are those that CI runs, the code of every page runs, and links hold."""

from __future__ import annotations

import json
import re
import runpy

import pytest
from pages import DOCS, HOSTED, README, ROOT, blocks, run, run_page

PAGES = sorted(DOCS.rglob("*.md"))
WITH_CODE = [page for page in PAGES if blocks("python", page.read_text())]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
RELATIVE = "[one](docs/hosts.md) ![a picture](docs/quickstart.png) [two](https://arxiv.org/abs/2501.01118)"


@pytest.mark.parametrize(
    "page", [page for page in WITH_CODE if str(page.relative_to(DOCS)) not in HOSTED], ids=lambda page: page.stem
)
def test_pages_with_code_run(tmp_path, page):
    """A block fenced as ```python no-run is for reading only."""
    run_page(tmp_path, page)


def test_no_page_was_left_out():
    assert {"loop", "own", "table", "text", "days", "pretrained"} <= {page.stem for page in WITH_CODE}
    assert all((DOCS / page) in WITH_CODE for page in HOSTED)


def test_the_modal_script_runs_once_it_is_switched(tmp_path):
    pytest.importorskip("modAL.models")
    (diff,) = blocks("diff", README)
    switched = "".join(line[1:] + "\n" for line in diff.splitlines() if not line.startswith("-"))
    ready = "X_pool, y_pool, network = X[50:], y[50:], model\n"
    checked = "assert type(target) is type(network) and len(learner.y_training) == 110\n"
    digits = blocks("python", (DOCS / "guides" / "own.md").read_text())[0]
    run(tmp_path, "\n".join([digits, ready, switched, checked]))


def test_ci_runs_the_command_that_the_readme_states():
    (command,) = re.findall(r"^test_command='(.*)'$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert command in README.splitlines()


def test_the_readme_is_read_in_minutes():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page):
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


def test_a_package_index_gets_no_link_that_leads_nowhere():
    for_an_index = runpy.run_path(str(ROOT / "setup.py"))["for_an_index"]
    assert for_an_index(RELATIVE, "") == "one  [two](https://arxiv.org/abs/2501.01118)"
    assert for_an_index(RELATIVE, "https://host/us").startswith(
        "[one](https://host/us/blob/main/docs/hosts.md) ![a picture](https://host/us/raw/main/docs/quickstart.png)"
    )
    assert LINK.findall(for_an_index(README, "")) == []


def test_every_module_with_public_names_is_in_the_reference():
    """The build of the site compares single names; here, without its tools, the modules."""
    shown = set(re.findall(r"^::: public (\S+)$", "".join(p.read_text() for p in DOCS.glob("api/*.md")), re.MULTILINE))
    keys = json.loads((ROOT / "tests" / "data" / "public_api.json").read_text())
    assert {f"prunefuse_al.{module}" for module in (key.partition(":")[0] for key in keys) if module} <= shown


def test_every_toolkit_has_its_import_line_and_its_place_in_the_reference():
    """Adapters of one file each; skorch's further files are parts of its own."""
    names = {path.stem for path in (ROOT / "adapters").glob("*.py")} - {"__init__", "skorch_reading", "skorch_training"}
    hosts, reference = (DOCS / "hosts.md").read_text(), (DOCS / "api" / "adapters.md").read_text()
    assert {name for name in names if f"`from prunefuse_al.adapters.{name} import " not in hosts} == set()
    assert {name for name in names if f"::: public prunefuse_al.adapters.{name}\n" not in reference} == set()
