"""Short bridges to other toolkits, one file each; installed as `prunefuse_al.adapters`.

The folder stands at the top of the repository because the design of the project puts it there; the package sees it
through the symbolic link `prunefuse_al/adapters`, and `setup.cfg` ships it under that name.
"""

from __future__ import annotations

from importlib import import_module

from prunefuse_al.errors import MissingHostError

if __name__ != "prunefuse_al.adapters":
    raise ImportError(
        f"this folder was imported as {__name__!r}; import it as prunefuse_al.adapters "
        "(another library on PyPI is called 'adapters')"
    )


def require_host(host: str, *, extra: str, adapter: str | None = None) -> None:
    """Import `host`, or raise `MissingHostError` with the command that installs it.

    Only absence is translated: a host that is installed but broken shows its own error.

    Args:
        host: name of the module to import, for example ``"modAL"``.
        extra: name of the adapter's module, which is that of the extra too, but for hyphens; for example ``"modal"``.
        adapter: name of the module, where it is another.
    """
    try:
        import_module(host)
    except ModuleNotFoundError as error:
        if error.name != host:
            raise
        raise MissingHostError(
            f"prunefuse_al.adapters.{adapter or extra} needs {host}, which is not installed. "
            f'Run: pip install "prunefuse_al[{extra.replace("_", "-")}]"',  # with "_" older pips do not find it
            name=host,
        ) from error
