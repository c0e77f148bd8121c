"""What is shipped, read from the files that say so; the wheel itself is built and unpacked."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import prunefuse_al

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup_cfg():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return config


def test_every_package_is_listed(setup_cfg):
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in ROOT.glob("prunefuse_al/**/__init__.py")}
    assert set(setup_cfg["options"]["packages"].split()) == found | {"prunefuse_al.adapters"}


def test_no_project_table_hides_setup_cfg():
    assert not re.search(r"^\[project\b", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)


def test_results_of_the_examples_stay_out_of_what_is_shipped():
    rules = (ROOT / "MANIFEST.in").read_text().splitlines()
    assert rules.index("prune examples/paper/results") > rules.index("graft examples")


def test_skorch_and_modal_are_never_in_one_lump(setup_cfg):
    """Beside skorch >= 1 pip silently falls back to an older modAL."""
    for extra in setup_cfg["options.extras_require"].values():
        assert not ("skorch" in extra and "modAL" in extra)


@pytest.mark.parametrize("extra", ["modal", "all"])
def test_modal_does_not_take_a_newer_skorch_away(setup_cfg, extra):
    """modAL-python 0.4.2.1 needs skorch 0.9.0 and no other, which pip would put in the place of a newer one."""
    needs = [Requirement(line) for line in setup_cfg["options.extras_require"][extra].split()]
    (modal,) = [need for need in needs if need.name == "modAL-python"]
    assert [version for version in ("0.4.0", "0.4.1", "0.4.2.1", "0.4.3") if version in modal.specifier] == [
        "0.4.1",
        "0.4.3",
    ]


def test_every_pip_finds_every_extra_and_every_adapter_has_one(setup_cfg):
    """pip before 23.3 compares names as they stand, and a build writes a hyphen for every underscore."""
    extras = set(setup_cfg["options.extras_require"])
    assert not [name for name in extras if "_" in name]
    adapters = [re.findall(r'require_host\(.*extra="(\w+)"\)', path.read_text()) for path in ROOT.glob("adapters/*.py")]
    asked = {name.replace("_", "-") for names in adapters for name in names}
    assert {"modal", "skorch", "small-text"} <= asked <= extras


def test_the_adapters_are_where_the_package_finds_them():
    """By a relative link in the repository; an unpacked sdist holds copies, for it can hold no links."""
    link = ROOT / "prunefuse_al" / "adapters"
    if (ROOT / ".git").exists():
        assert link.is_symlink()
        assert str(link.readlink()) == "../adapters"
    assert {path.name: path.read_bytes() for path in link.glob("*.py")} == {
        path.name: path.read_bytes() for path in (ROOT / "adapters").glob("*.py")
    }


def test_the_installed_metadata_is_ours():
    assert metadata.version("prunefuse_al") == prunefuse_al.__version__
    assert any(need.startswith("torch") for need in metadata.requires("prunefuse_al") or ())


@pytest.mark.slow
def test_the_wheel_holds_the_adapters_and_nothing_else(tmp_path):
    source = tmp_path / "source"  # a copy: what an earlier build left in build/ would be shipped again
    unwanted = shutil.ignore_patterns(".git", ".venv*", "build", "*.egg-info", ".*_cache", "example-output")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unwanted)
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheel"), str(source)]
    done = subprocess.run(wheel, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {"prunefuse_al/py.typed", "prunefuse_al/adapters/__init__.py"} <= set(names)
    assert {name.partition("/")[0] for name in names} == {
        "prunefuse_al",
        f"prunefuse_al-{prunefuse_al.__version__}.dist-info",
    }
    code = "import prunefuse_al.adapters as a; print(a.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path / "site"
    )
    assert done.stdout.strip() == str(tmp_path / "site" / "prunefuse_al" / "adapters" / "__init__.py"), done.stderr


def test_the_licence_is_an_spdx_expression_and_no_address_is_made_up(setup_cfg):
    assert setup_cfg["metadata"]["license_expression"] == "Apache-2.0"
    assert "license" not in setup_cfg["metadata"]
    assert metadata.metadata("prunefuse_al")["Home-page"] is None


def test_the_version_is_the_same_wherever_it_stands():
    """Else the release workflow would stop at the tag."""
    version = prunefuse_al.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}] - 20" in (ROOT / "CHANGELOG.md").read_text()


def test_the_list_of_what_is_shipped_names_files_that_exist():
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    named = [name for line in lines if line and line[0] in ("include", "graft", "prune") for name in line[1:]]
    assert [name for name in named if not (ROOT / name).exists()] == []
