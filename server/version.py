"""The version of this package, as it was installed."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """`0` when it runs from its source folder without having been installed."""
    try:
        return version("keelmark")
    except PackageNotFoundError:
        return "0"
