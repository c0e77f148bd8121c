"""What importing the library brings in, what it must not bring in, and that these checks are able to fail."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import prunefuse_al

OPTIONAL = "modAL skorch skactiveml baal small_text torchvision matplotlib accelerate transformers timm lightning"
CHECK = f"""
import sys
import {{module}}
found = sorted(set({OPTIONAL.split()!r}) & set(sys.modules))
sys.exit(f"import brought in {{{{found}}}}" if found else 0)
"""
PUBLIC = {
    "ChannelMap",
    "CostLedger",
    "Distillation",
    "EarlyStopping",
    "FallingRatio",
    "FunctionTrainer",
    "ProgressivePruning",
    "Proxy",
    "PruneFuseEstimator",
    "PrunedProxySelector",
    "SCORERS",
    "Selection",
    "ShrinkPerturb",
    "selector_preset",
    "Signals",
    "TorchTrainer",
    "advise",
    "fuse",
    "get_scorer",
    "prune",
    "repair",
    "show_versions",
}


def fresh_python(code, cwd, **environment):
    """Run code in a new interpreter that knows this installation and nothing of the tests."""
    root = str(Path(prunefuse_al.__file__).parents[1])
    env = {"PYTHONPATH": root, "PATH": "", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_import_brings_in_no_host(tmp_path):
    done = fresh_python(CHECK.format(module="prunefuse_al, prunefuse_al.testing, prunefuse_al.adapters"), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_host_check_can_fail(tmp_path):
    (tmp_path / "skorch.py").touch()
    (tmp_path / "ours.py").write_text("import prunefuse_al, skorch\n")
    done = fresh_python(CHECK.format(module="ours"), tmp_path)
    assert done.returncode == 1
    assert "import brought in ['skorch']" in done.stderr


def test_public_names_are_these():
    assert {name for name, value in vars(prunefuse_al).items() if not _is_private(name, value)} == PUBLIC


def _is_private(name, value):
    return name.startswith("_") or isinstance(value, type(sys))


def test_adapters_refuse_to_be_imported_as_a_top_level_package(tmp_path):
    adapters = Path(prunefuse_al.__file__).parent / "adapters"
    (tmp_path / "adapters").symlink_to(adapters.resolve(), target_is_directory=True)
    done = fresh_python("import adapters", tmp_path)
    assert done.returncode == 1
    assert "imported as 'adapters'; import it as prunefuse_al.adapters" in done.stderr


@pytest.mark.parametrize(("adapter", "host"), [("modal", "modAL"), ("skorch", "skorch"), ("skactiveml", "skactiveml")])
def test_a_missing_host_is_a_sentence_with_a_command(tmp_path, adapter, host):
    """`-S` would lose our own dependencies, so the host is hidden by a finder that says it is absent."""
    hide = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "{host}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
import prunefuse_al.adapters.{adapter}
"""
    done = fresh_python(hide, tmp_path)
    assert done.returncode == 1
    assert f"MissingHostError: prunefuse_al.adapters.{adapter} needs {host}" in done.stderr
    assert f'Run: pip install "prunefuse_al[{adapter}]"' in done.stderr


def test_a_broken_host_shows_its_own_error(tmp_path):
    """Only absence is translated: a host that is there but cannot be imported must not be reported as missing."""
    package = tmp_path / "modAL"
    package.mkdir()
    (package / "__init__.py").write_text("import a_dependency_of_the_host\n")
    done = fresh_python("import prunefuse_al.adapters.modal", tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'a_dependency_of_the_host'" in done.stderr
    assert "MissingHostError" not in done.stderr


def test_show_versions_prints_what_a_report_needs(capsys):
    """All that the library can work with, by the file that says so: a new extra is not forgotten here."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(Path(prunefuse_al.__file__).parents[1] / "setup.cfg")
    extras = config["options.extras_require"]
    lines = [
        config["options"]["install_requires"],
        *(extras[name] for name in extras if name not in ("test", "lint", "docs")),
    ]
    prunefuse_al.show_versions()
    printed = capsys.readouterr().out
    used = {Requirement(line).name for line in "\n".join(lines).split("\n") if line}
    for name in ("python", "prunefuse_al", "cuda", *used):
        assert f"{name}: " in printed


@pytest.mark.parametrize("module", ["errors", "types", "_version"])
def test_leaves_import_nothing_of_ours_but_errors_and_checks(module):
    source = Path(prunefuse_al.__file__).with_name(f"{module}.py").read_text()
    ours = [line for line in source.splitlines() if line.startswith(("from .", "import prunefuse_al"))]
    assert ours == (["from . import checks", "from .errors import InputError"] if module == "types" else [])
