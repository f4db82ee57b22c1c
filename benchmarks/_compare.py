"""One worker against others: closed loops, open loops, and what each duty costs."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from typing import Final

from _contenders import HAND, PEERS, Contender, bare, check, echo, keelmark, running
from _load import Sample, Target, closed_loop, interleaved, median, open_loop, paired
from _options import Found, Options, say
from _peers import NotInstalled
from _servers import NotReady

OPEN_SHARES: Final = (0.1, 0.25, 0.5, 0.8)
"""Rates of the open loops, as shares of what the bare server answers at most."""
OPEN_CONNECTIONS: Final = 64
DUTY_CONNECTIONS: Final = (1, 32)
WHY: Final = 240
"""Of the reason for which another server is skipped: characters that the docs have room for."""
TAX: Final = ("counters", "distributions", "ladder", "events")
"""What monitoring and the ladder do beside answering: all of it off at once is `without all`."""
DUTIES: Final = (
    *((duty,) for duty in ("counters", "distributions", "ladder", "deadlines", "ids")),
    TAX,
)


@contextlib.contextmanager
def all_running(contenders: Sequence[Contender], options: Options) -> Generator[dict[str, Target]]:
    """All of them at once, each checked to serve the same model."""
    with contextlib.ExitStack() as stack:
        targets: dict[str, Target] = {}
        for one in contenders:
            target = stack.enter_context(running(one, options.prepared, peers=options.peers))
            if one.checked:
                check(one, target, options.prepared)
            targets[one.name] = target
        yield targets


def closed(options: Options) -> Found:
    """Keelmark over both of its lanes, the bare graph and the echo, in turn."""
    asgi = keelmark("asgi", "Keelmark over the ASGI lane", arguments=("--lane", "asgi"))
    contenders = (bare(), echo(), keelmark(), asgi)
    with all_running(contenders, options) as targets:
        rows = measured(targets, options.connections, options)
        return {"titles": titles(contenders), "rows": rows, "memory": memory(targets)}


def peers(options: Options, found: Found) -> Generator[Found]:
    """Every other server with the bare graph and Keelmark, in turn; gives what it has after each.

    Args:
        options: of the run.
        found: what an earlier run has; those that are measured now take their places there.
    """
    found = {"titles": {}, "rows": {}, "memory": {}, "skipped": {}, "difference": {}} | found
    for contender in (*HAND, *PEERS):
        if not options.wants(contender.name):
            continue
        say(contender.title)
        name = contender.name
        found["titles"][name] = contender.title
        for part in ("rows", "memory", "skipped", "difference"):
            found[part].pop(name, None)
        try:
            one = _peer(contender, options)
        except (NotInstalled, NotReady, RuntimeError) as error:
            found["skipped"][name] = why = " ".join(str(error).split())[:WHY]
            say(f"skipped: {why}")
        else:
            for part, value in one.items():
                found[part][name] = value
        yield found


def _peer(contender: Contender, options: Options) -> Found:
    prepared = options.prepared
    with running(contender, prepared, peers=options.peers) as target:
        difference = check(contender, target, prepared)
        with all_running((bare(), keelmark()), options) as targets:
            targets[contender.name] = target
            rows = measured(targets, options.connections, options, rounds=2)
            kept = [row for row in rows if row["name"] == contender.name]
            return {
                "rows": kept,
                "memory": memory({contender.name: target})[contender.name],
                "difference": difference,
            }


def duties(options: Options) -> Found:
    """Keelmark with everything on, and without each duty in turn."""
    variants = [keelmark("on", "everything on")]
    for left_out in DUTIES:
        name = "all" if left_out == TAX else left_out[0]
        title = "without " + ", ".join(left_out)
        variants.append(keelmark(name, title, without=left_out))
    with all_running(variants, options) as targets:
        rows = measured(targets, DUTY_CONNECTIONS, options, reference="on")
    return {"titles": titles(variants), "rows": rows}


def measured(
    targets: Mapping[str, Target],
    all_connections: Sequence[int],
    options: Options,
    *,
    rounds: int | None = None,
    reference: str = "bare",
) -> list[Found]:
    """A row for each contender and number of connections, with its ratios to the others."""
    rows: list[Found] = []
    for connections in all_connections:
        taken = interleaved(
            targets,
            connections=connections,
            seconds=options.seconds,
            rounds=min(options.rounds, rounds or options.rounds),
        )
        rows += [row(name, connections, taken, reference) for name in targets]
        shown = ", ".join(f"{name} {median(taken[name], 'rate'):,.0f}" for name in targets)
        say(f"connections {connections}: requests/s {shown}")
    return rows


def row(
    name: str, connections: int, taken: Mapping[str, Sequence[Sample]], reference: str
) -> Found:
    own = taken[name]
    figures = ("rate", "cpu_us", "system_us", "p50_ms", "p99_ms", "load_cpu")
    return {
        "name": name,
        "connections": connections,
        **{figure: median(own, figure) for figure in figures},
        "rate_ratio": {other: paired(own, taken[other], "rate") for other in taken},
        "cpu_ratio": {other: paired(own, taken[other], "cpu_us") for other in taken},
        "to_reference": [a.rate / b.rate for a, b in zip(own, taken[reference], strict=True)],
    }


def opened(options: Options) -> Found:
    """Latency from when a request was due, at rates that do not wait for answers."""
    contenders = (bare(), keelmark(), HAND[0], echo())
    seconds = max(2.0, options.seconds * 2.0)
    with all_running(contenders, options) as targets:
        most = {
            name: closed_loop(target, OPEN_CONNECTIONS, options.seconds).rate
            for name, target in targets.items()
        }
        generator = open_loop(targets["echo"], 200_000, OPEN_CONNECTIONS, 0.3).answered_rate
        say(f"the open loop's own most, of the echo's answers: {generator:,.0f} requests/s")
        rows: list[Found] = []
        for share in OPEN_SHARES:
            rate = share * most["bare"]
            for name, target in targets.items():
                if rate > 0.95 * most[name]:
                    rows.append({"name": name, "share": share, "rate": rate, "beyond": True})
                    continue
                sample = open_loop(target, rate, OPEN_CONNECTIONS, seconds)
                rows.append({"name": name, "share": share, **asdict(sample)})
                say(f"{rate:,.0f}/s: {name} p50 {sample.p50_ms:.2f}, p99 {sample.p99_ms:.2f} ms")
    return {
        "titles": titles(contenders),
        "rows": rows,
        "most": most,
        "generator_most": generator,
        "connections": OPEN_CONNECTIONS,
    }


def memory(targets: Mapping[str, Target]) -> Found:
    """After the load: MiB and processes."""
    used = {name: target.server.used() for name, target in targets.items()}
    return {name: {"mib": u.resident_mib, "processes": u.processes} for name, u in used.items()}


def titles(contenders: Sequence[Contender]) -> dict[str, str]:
    return {contender.name: contender.title for contender in contenders}
