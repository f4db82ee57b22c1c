"""Bundles that are not loaded any more: what they counted stays on the metrics page for a while.

Whoever scrapes every half a minute must see a bundle's last rows. One that is loaded again in that
time counts on where it stopped: no counter goes back.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from server.exposition import Exposed, Past
from server.regions import Region
from server.series import ModelSeries

KEPT_SECONDS: Final = 900.0

Name = tuple[str, str]
"""Model and version."""


@dataclass(slots=True)
class _Gone:
    """What is kept of a bundle.

    `open` are its regions in which requests may still be counted, by what `Retired.close` is told.
    """

    digest: str
    series: ModelSeries
    until: float
    past: Past | None = None
    open: dict[object, Sequence[Region]] = field(default_factory=dict[object, Sequence[Region]])

    def sum(self) -> Past | None:
        """All that has been counted."""
        found = [] if self.past is None else [self.past]
        found += [Past.of(regions) for regions in self.open.values()]
        return None if not found else sum(found[1:], found[0])


class Retired:
    """Keeps what bundles have counted that were unloaded. On the loop.

    Args:
        now: seconds of a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._gone: dict[Name, _Gone] = {}

    def add(
        self, key: object, name: Name, digest: str, series: ModelSeries, regions: Sequence[Region]
    ) -> None:
        """A bundle is not loaded any more; requests may still be counted in its regions."""
        gone = self._gone.get(name)
        if gone is None or gone.digest != digest:
            gone = self._gone[name] = _Gone(digest, series, 0.0)
        gone.until = self._now() + KEPT_SECONDS
        gone.open[key] = regions

    def close(self, key: object) -> None:
        """Nothing is counted any more in the regions that were added under this key."""
        for gone in self._gone.values():
            regions = gone.open.pop(key, None)
            if regions is not None:
                past = Past.of(regions)
                gone.past = past if gone.past is None else gone.past + past

    def past(self, name: Name, digest: str) -> Past | None:
        """What a bundle had counted when it was loaded before."""
        gone = self._gone.get(name)
        return None if gone is None or gone.digest != digest else gone.sum()

    def exposed(self, loaded: Container[Name]) -> Iterator[Exposed]:
        """The bundles that are not loaded now, as far as they are still to be seen."""
        now = self._now()
        for name, gone in list(self._gone.items()):
            if name in loaded:
                gone.until = now + KEPT_SECONDS
            elif gone.until < now and not gone.open:
                del self._gone[name]
            else:
                yield Exposed(gone.series, [], slot=None, past=gone.sum())
