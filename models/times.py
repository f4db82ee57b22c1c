"""Times as files and answers have them: ISO 8601 in UTC, to the second."""

from datetime import UTC, datetime


def time_of(seconds: float) -> str:
    """A time that is given in epoch seconds.

    >>> time_of(0.0)
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def time_now() -> str:
    """The time of this moment."""
    return datetime.now(UTC).isoformat(timespec="seconds")
