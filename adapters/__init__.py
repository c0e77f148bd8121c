"""Short bridges to other toolkits, one file each; installed as `prunefuse_al.adapters`."""

if __name__ != "prunefuse_al.adapters":
    raise ImportError(
        f"this folder was imported as {__name__!r}; import it as prunefuse_al.adapters "
        "(another library on PyPI is called 'adapters')"
    )
