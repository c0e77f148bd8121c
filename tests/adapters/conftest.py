"""Tests whose host toolkit is absent are skipped; where PRUNEFUSE_HOSTS names modules, their absence is an error."""

import os
import warnings
from importlib import import_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what a host's own imports warn of is not ours to mend
    for module in os.environ.get("PRUNEFUSE_HOSTS", "").split():
        import_module(module)
