"""What to paste into a bug report."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from ._version import __version__

_NEEDED = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "tqdm")
_EXTRAS = ("torchvision", "matplotlib", "accelerate", "pandas", "pyarrow", "label-studio-sdk", "mlxtend")
_HOSTS = ("modAL-python", "skorch", "scikit-activeml", "baal", "small-text", "lightning", "transformers")
_ENGINES = ("ray", "pyspark")


def show_versions() -> None:
    """Print versions of Python, this library, what it needs and can use, hosts, and the devices seen."""
    rows = {"python": platform.python_version(), "platform": platform.platform(), "prunefuse_al": __version__}
    rows.update((name, _version(name)) for name in (*_NEEDED, *_EXTRAS, *_HOSTS, *_ENGINES))
    rows["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "not available"
    rows["torch threads"] = str(torch.get_num_threads())
    width = max(map(len, rows))
    print("\n".join(f"{name:>{width}}: {value}" for name, value in rows.items()))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
