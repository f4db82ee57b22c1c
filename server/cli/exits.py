"""What the exit codes of every command mean."""

from typing import Final

from features.errors import FeaturesNotFound
from models.errors import BundleNotFound, LiveChanged, StoreError
from server.cli.ops_client import NotRunning
from server.settings import SettingsError

DONE: Final = 0
REFUSED: Final = 1
"""It was looked at and did not pass: a bundle that cannot serve, records that nobody answers."""
USAGE: Final = 2
"""The command or a setting is wrong; nothing was done."""
HELD: Final = 3
"""A deploy ended without a verdict: there was too little to judge by, or somebody interfered."""
UNAVAILABLE: Final = 4
"""What was named is not there, or does not answer."""


def code_of(error: Exception) -> int:
    """The exit code of an error that ended a command."""
    if isinstance(error, SettingsError):
        return USAGE
    if isinstance(error, LiveChanged):
        return REFUSED
    unavailable = BundleNotFound, FeaturesNotFound, StoreError, ModuleNotFoundError, NotRunning
    return UNAVAILABLE if isinstance(error, unavailable) else REFUSED
