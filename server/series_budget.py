"""How many series the metrics page may have: whoever scrapes it stores every one of them."""

from collections.abc import Iterable
from typing import Final

from models.errors import ServingError
from server import catalogue
from server.lines import Page, single
from server.series import ModelSeries


class TooManySeries(ServingError):
    """A bundle whose series have no room on the page; the message says how many they are."""


class SeriesBudget:
    """Keeps bundles out whose series the page has no room for.

    Their number is fixed when a bundle is packed, so that it is known before the bundle serves; no
    traffic can add one.

    Args:
        most: series that all loaded bundles may have together.

    Attributes:
        refused: how many bundles have been.
    """

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self.refused = 0

    def check(
        self, model: str, version: str, new: ModelSeries, others: Iterable[ModelSeries]
    ) -> None:
        """Counts and refuses a bundle that is too much beside those that are loaded.

        Raises:
            TooManySeries: the page has no room for `new` beside `others`.
        """
        taken = sum(each.n_series for each in others)
        if taken + new.n_series <= self._most:
            return
        self.refused += 1
        raise TooManySeries(
            f"bundle '{model}/{version}' has {new.n_series:,} series of metrics, and the others "
            f"that are loaded have {taken:,}; together they may have {self._most:,}. Start the "
            f"server with a larger --max-series (max_series), if what scrapes it can store that "
            "many, or pack the model with fewer fields: each has two series for every bin of its "
            "values and four for its troubles"
        )

    def page(self) -> Page:
        """What the metrics say of it."""
        limit = single(catalogue.SERIES_LIMIT, self._most)
        return limit | single(catalogue.SERIES_REFUSED, self.refused)
