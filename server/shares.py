"""What a candidate gets of its model's requests."""

from typing import NamedTuple


class Shares(NamedTuple):
    """Both from 0 to 1.

    Attributes:
        canary: of the model's callers, whom the candidate answers.
        shadow: of the requests that live answers, of which the candidate gets copies.
    """

    canary: float = 0.0
    shadow: float = 0.0
