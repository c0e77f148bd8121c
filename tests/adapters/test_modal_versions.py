"""Both versions of modAL that pip may give a user pass the adapter's tests: the one that is installed, by these tests
themselves, and any other from an overlay of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import prunefuse_al

VERSIONS = ("0.4.1", "0.4.2.1")
INSTALLED = {found.version for found in metadata.distributions(name="modAL-python")}
OTHERS = [version for version in VERSIONS if version not in INSTALLED]


@pytest.mark.slow
@pytest.mark.skipif("PRUNEFUSE_HOSTS" in os.environ, reason="makes environments of its own, and did so in the main one")
@pytest.mark.parametrize("version", OTHERS)
def test_the_adapter_passes_its_tests_on(version, tmp_path):
    pytest.importorskip("pandas", reason="modAL needs it")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    # modAL.dropout imports skorch, and the release that modAL pins cannot be imported with today's setuptools.
    subprocess.run([*pip, f"modAL-python=={version}", "skorch>=1.4"], check=True, capture_output=True)
    here = Path(__file__)
    suites = [str(here.with_name(name)) for name in ("test_modal.py", "test_modal_loop.py", "test_modal_strategies.py")]
    code = (
        "import importlib.metadata as m, sys, pytest; print('modAL', m.version('modAL-python'));"
        f"sys.exit(pytest.main(['-q', '-rs', '-p', 'no:cacheprovider', *{suites!r}]))"
    )
    path = [str(tmp_path), str(Path(prunefuse_al.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=here.parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"modAL {version}\n" in done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 20, done.stdout
