"""Active learning with a pruned proxy network that is fused back into the dense one."""

from ._version import __version__ as __version__
