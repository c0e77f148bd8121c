"""An adapter whose host is absent says so with the command that installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import prunefuse_al

HOSTS = {
    **{"baal": "baal", "small_text": "small_text", "lightning": "lightning", "transformers": "transformers"},
    **{"ray_data": "ray", "spark": "pyspark", "label_studio": "label_studio_sdk"},
}
EXTRAS = {"small_text": "small-text", "ray_data": "ray", "label_studio": "label-studio"}
CODE = f"""
import importlib, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(HOSTS.values())!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
for adapter in {sorted(HOSTS)!r}:
    try:
        importlib.import_module("prunefuse_al.adapters." + adapter)
    except ModuleNotFoundError as error:
        print(type(error).__name__, error)
"""


def test_every_adapter_names_its_host_and_its_extra(tmp_path):
    """One interpreter for all of them, in which the hosts are hidden."""
    env = {**os.environ, "PYTHONPATH": str(Path(prunefuse_al.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        f"MissingHostError prunefuse_al.adapters.{adapter} needs {HOSTS[adapter]}, which is not installed. "
        f'Run: pip install "prunefuse_al[{EXTRAS.get(adapter, adapter)}]"'
        for adapter in sorted(HOSTS)
    ], done.stderr
