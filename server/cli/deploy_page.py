"""How a deploy is shown while it goes on: a page on a terminal, else a line for what is new."""

from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from server.cli.show import out, table

WORDS: Final = {
    "promoted": "promoted: it has all traffic",
    "rolled_back": "rolled back",
    "held": "held: the verdict is yours",
}
BAR: Final = 20
"""Characters of a bar."""


class Page:
    """A context in which `show` shows.

    Args:
        is_shown: nothing is shown otherwise.
    """

    def __init__(self, *, is_shown: bool) -> None:
        self._console = out()
        self._is_shown = is_shown
        self._live: Live | None = None
        self._said: tuple[Any, ...] = ()

    def __enter__(self) -> Self:
        if self._is_shown and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self, deploy: dict[str, Any]) -> None:
        """A deploy, as the server tells it."""
        if not self._is_shown:
            return
        if self._live is not None:
            self._live.update(page_of(deploy), refresh=True)
            return
        kinds = tuple(reason["kind"] for reason in deploy["reasons"])
        said = (deploy["stage"], deploy["result"], kinds)
        if said != self._said:
            self._said = said
            _say(self._console, deploy)


def page_of(deploy: dict[str, Any]) -> Group:
    """Stages, what both have answered, and what it waits for or why it has ended."""
    head = f"{deploy['model']}: {deploy['version']} beside {deploy['live']}"
    stages = [_stage(deploy, place) for place in range(len(deploy["stages"]))]
    parts: list[Any] = [table(head, ("", "stage", "watched", "requests"), stages)]
    arms = [
        _arm(deploy["version"], deploy["candidate"]),
        _arm(deploy["live"], deploy["beside"]),
    ]
    columns = ("version", "requests", "rows", "failing", "degraded", "p50", "p99")
    parts.append(table("In this stage", columns, arms))
    if deploy["compared"]:
        changed = f"{deploy['changed']:,} of {deploy['compared']:,} rows were decided otherwise"
        parts.append(Text(changed))
    parts += [Text(line) for line in sentences(deploy)]
    return Group(*parts)


def sentences(deploy: dict[str, Any]) -> list[str]:
    """How it ended, if it did, and each reason."""
    result = deploy["result"]
    said = [] if result is None else [WORDS[result]]
    return said + [f"- {reason['sentence']}" for reason in deploy["reasons"]]


def _say(console: Console, deploy: dict[str, Any]) -> None:
    result = deploy["result"]
    head = deploy["stage"] if result is None else f"{deploy['stage']}: {WORDS[result]}"
    console.print(head, markup=False)
    for reason in deploy["reasons"]:
        console.print(f"- {reason['sentence']}", markup=False, soft_wrap=True)


def _stage(deploy: dict[str, Any], place: int) -> tuple[str, ...]:
    stage, now = deploy["stages"][place], deploy["place"]
    if now is None or place > now:
        return "", stage["name"], f"{stage['seconds']:g} s", f"{stage['requests']:,}"
    is_over = place < now or deploy["result"] == "promoted"
    if is_over:
        return "✓", stage["name"], f"{stage['seconds']:g} s", f"{stage['requests']:,}"
    mark = "→" if deploy["result"] is None else "✗"
    watched, seconds = deploy["watched_seconds"], stage["seconds"]
    full = BAR if not seconds else min(BAR, int(BAR * watched / seconds))
    bar = "█" * full + "░" * (BAR - full)
    needed = f"{deploy['requests']:,} of {stage['requests']:,}"
    return mark, stage["name"], f"{bar} {watched:.0f} of {seconds:g} s", needed


def _arm(version: str, arm: dict[str, Any]) -> tuple[str, ...]:
    times = (_ms(arm["p50"]), _ms(arm["p99"]))
    return version, *(f"{arm[n]:,}" for n in ("requests", "rows", "failing", "degraded")), *times


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds else ""
