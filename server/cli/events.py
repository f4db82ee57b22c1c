"""`keelmark events`: who changed what of a server, read from its state folder."""

from collections import deque
from typing import Annotated

import typer

from server.cli.exits import REFUSED
from server.cli.ops_client import NotRunning, state_folder_of
from server.cli.options import AsJson, StateDir
from server.cli.show import complain, out, say_json, table
from server.events import Event, EventsCorrupt, events_in
from server.settings import SettingsError


def events(
    *,
    last: Annotated[int, typer.Option(min=1, help="How many of the latest are shown.")] = 50,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Shows the latest events, oldest first; the server need not run.

    Every line is compared with the one before it. Ends with 1, after what could be read, if
    somebody has changed the log.
    """
    folder = state_folder_of(state_dir)
    if not folder.is_dir():
        raise NotRunning(
            f"there is no state folder {folder}; name that of the server with --state-dir"
        )
    found: deque[Event] = deque(maxlen=last)
    corrupt: EventsCorrupt | None = None
    try:
        for event in events_in(folder):
            found.append(event)
    except EventsCorrupt as error:
        corrupt = error
    except OSError as error:
        raise SettingsError(
            f"the event log in {folder} cannot be read ({error.strerror}); only the user that runs "
            "the server can: run the command as that user"
        ) from error
    if as_json:
        say_json(list(found))
    else:
        out().print(
            table("Events", ("n", "at", "who", "what", "model", "change"), map(_row, found))
        )
    if corrupt is not None:
        complain(corrupt)
        raise typer.Exit(REFUSED)


def _row(event: Event) -> tuple[object, ...]:
    change = "" if event.before == event.after else f"{event.before} -> {event.after}"
    facts = ", ".join(f"{name}={value}" for name, value in event.facts.items())
    return event.n, event.at, event.who, event.kind, event.model, f"{change} {facts}".strip()
