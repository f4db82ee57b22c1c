"""Everything that can go wrong below HTTP, as one tree.

ServingError
├── BundleError      BundleNotFound, BundleCorrupt, FormatUnknown, FeaturesMismatch,
│                    GoldenMismatch, GateFailed
├── PackingError     VersionTaken, DefinitionChanged, NativeMismatch, ConversionFailed
├── StoreError       NothingLive, LiveChanged
├── OverrideRefused
└── RequestError     Undecodable, UnknownModel, UnknownVersion, TooLarge, TooManyRows, ...

A message says what happened, what was expected and what to do. Which HTTP status a `RequestError`
becomes is the server's business; its `code` is from `vocabulary.ERROR_CODES`.
"""

from typing import Final, Literal


class ServingError(Exception):
    """Base of every error of this product."""


class BundleError(ServingError):
    """A bundle cannot be used."""


class BundleNotFound(BundleError):
    """No such model or version in the store."""


class BundleCorrupt(BundleError):
    """A file is missing, short, unlisted, altered, a link, or not what its name says."""


class FormatUnknown(BundleError):
    """A bundle was written in a format that this version does not read."""


class FeaturesMismatch(BundleError):
    """The model was bound to other features than the bundle carries."""


class GoldenMismatch(BundleError):
    """Golden rows do not replay on this machine.

    Attributes:
        row: name of the row; these are empty where another process found it.
        got, expected: what differs.
        spoils: `model` where only the model's answers can be wrong, else `baseline`: then those of
            the rungs from the baseline up.
    """

    def __init__(
        self,
        message: str,
        *,
        row: str = "",
        got: str = "",
        expected: str = "",
        spoils: Literal["model", "baseline"] = "model",
    ) -> None:
        super().__init__(message)
        self.row: Final = row
        self.got: Final = got
        self.expected: Final = expected
        self.spoils: Final = spoils


class GateFailed(BundleError):
    """The first load, in its own process, crashed, hung, or used more than it may."""


class PackingError(ServingError):
    """A bundle cannot be made."""


class VersionTaken(PackingError):
    """The store has this version already; versions are immutable."""


class DefinitionChanged(PackingError):
    """A feature label of the store names another definition."""


class NativeMismatch(PackingError):
    """The converted model does not answer as the training library does."""


class ConversionFailed(PackingError):
    """The model cannot be converted to ONNX as this project needs it."""


class StoreError(ServingError):
    """The store cannot answer what was asked of it."""


class NothingLive(StoreError):
    """Several versions, and nobody has said which one is live."""


class LiveChanged(StoreError):
    """Somebody else moved the live version meanwhile; look again, then decide again."""


class OverrideRefused(ServingError):
    """What an operator wants to change about a model cannot be applied to its bundle."""


class RequestError(ServingError):
    """A request cannot be answered; `code` is one of `vocabulary.ERROR_CODES`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
