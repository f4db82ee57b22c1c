"""Bundles that are in no route table any more and that workers may still have open.

Workers let go of a bundle when they are told to and nobody holds it; each says so by the *turn* in
which it was told. Where letting go would stop a worker for too long it *keeps* the bundle instead,
and ends with it (`server.succession`): it says nothing of that turn, and is replaced.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from server.shared_routes import SharedRoute


@dataclass(slots=True)
class _Left:
    """A route, the turn in which workers were told of it, and whether they keep it."""

    route: SharedRoute
    turn: int
    is_kept: bool


class Leaving:
    """What workers have not all let go of; on the supervisor's loop."""

    def __init__(self) -> None:
        self._left: dict[int, _Left] = {}

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._left)

    def __iter__(self) -> Iterator[SharedRoute]:
        """The routes."""
        return (left.route for left in self._left.values())

    def add(self, route: SharedRoute, turn: int, *, is_kept: bool) -> None:
        """Workers are about to be told in this turn that a route is in no table any more."""
        self._left[route.hold.number] = _Left(route, turn, is_kept)

    @property
    def kept(self) -> list[int]:
        """The numbers of those that workers keep until they are replaced."""
        return [number for number, left in self._left.items() if left.is_kept]

    def keep_nothing(self) -> None:
        """Workers are to let go of all of it, however long that stops them."""
        for left in self._left.values():
            left.is_kept = False

    def gone(self, turn: int) -> list[SharedRoute]:
        """Those that nobody has open any more; they are forgotten here.

        Args:
            turn: the latest for which every worker has said that it has let go.
        """
        done = [number for number, left in self._left.items() if left.turn <= turn]
        return [self._left.pop(number).route for number in done]
