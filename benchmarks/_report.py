"""Results as tables, on the terminal and in the docs: between marks that a run writes anew."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from _chart import AT, TITLE, write_chart
from _options import Found
from _prepared import ROOT

README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs" / "benchmarks.md"
CHART: Final = ROOT / "docs" / "benchmarks.svg"
IMAGE: Final = f"![{TITLE}]({{}})"
MARK: Final = "<!-- {}: written by benchmarks/all.py --write -->"
END: Final = "<!-- end -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(value: float) -> str:
    """Three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def closed(found: Found) -> str:
    return _comparison(found["rows"], found["titles"], found["memory"], ("bare", "echo"))


def peers(found: Found) -> str:
    rows = [row for own in found["rows"].values() for row in own]
    text = _comparison(rows, found["titles"], found["memory"], ("bare",), ours=True)
    skipped = [f"- {found['titles'][name]}: {why}" for name, why in found["skipped"].items()]
    return "\n\n".join([text, *(["Not measured:", "\n".join(skipped)] if skipped else [])])


def _comparison(
    rows: Sequence[Found],
    titles: dict[str, str],
    memory: Found,
    references: Sequence[str],
    *,
    ours: bool = False,
) -> str:
    head = ["", "connections", "requests/s", *(f"of {name}" for name in references)]
    head += ["Keelmark is"] * ours
    head += ["CPU, of bare", "CPU µs", "p50 ms", "p99 ms", "MiB"]
    lines: list[list[str]] = []
    for row in rows:
        name = row["name"]
        lines.append([titles[name], str(row["connections"]), f"{row['rate']:,.0f}"])
        lines[-1] += [figure(row["rate_ratio"][other]) for other in references]
        if ours:
            lines[-1].append(f"{figure(1 / row['rate_ratio']['keelmark'])} ×")
        lines[-1] += [figure(row["cpu_ratio"]["bare"]), figure(row["cpu_us"])]
        lines[-1] += [figure(row["p50_ms"]), figure(row["p99_ms"]), f"{memory[name]['mib']:.0f}"]
    return table(head, lines)


def duties(found: Found) -> str:
    head = ["", "connections", "requests/s", "of everything on", "CPU, of everything on", "p99 ms"]
    rows = [
        [
            found["titles"][row["name"]],
            str(row["connections"]),
            f"{row['rate']:,.0f}",
            figure(row["rate_ratio"]["on"]),
            figure(row["cpu_ratio"]["on"]),
            figure(row["p99_ms"]),
        ]
        for row in found["rows"]
    ]
    return table(head, rows)


def stages(found: Found) -> str:
    clocks = found["clocks"]
    inside = sum(clocks["stages_us"].values())
    rows = [
        [f"the server's clock: {stage}", figure(us)] for stage, us in clocks["stages_us"].items()
    ]
    rows += [
        ["all else: HTTP, event loop, the kernel", figure(clocks["cpu_us"] - inside)],
        ["CPU of a request", figure(clocks["cpu_us"])],
        ["of it in the kernel", figure(clocks["system_us"])],
        ["CPU of a request to the bare server", figure(clocks["bare_cpu_us"])],
        ["of it in the kernel", figure(clocks["bare_system_us"])],
    ]
    texts = [table(["one connection", "µs"], rows)]
    samples = found["samples"]
    places = sorted(
        {place for one in samples.values() for place in one["shares"]},
        key=lambda place: -max(one["shares"].get(place, 0) for one in samples.values()),
    )
    head = ["where the loop is, µs; connections:", *samples]
    lines = [
        [place, *(figure(one["shares"].get(place, 0) * one["cpu_us"]) for one in samples.values())]
        for place in places
    ]
    lines.append(["CPU of a request", *(figure(one["cpu_us"]) for one in samples.values())])
    return "\n\n".join([*texts, *([table(head, lines)] if samples else [])])


def opened(found: Found) -> str:
    head = ["", "requests/s", "of bare's most", "p50 ms", "p99 ms", "p99.9 ms", "sent late"]
    rows: list[list[str]] = []
    for row in found["rows"]:
        asked = [found["titles"][row["name"]], f"{row['rate']:,.0f}", f"{row['share']:.0%}"]
        if row.get("beyond"):
            rows.append([*asked, "beyond its capacity", "", "", ""])
        else:
            shown = [figure(row[name]) for name in ("p50_ms", "p99_ms", "p999_ms")]
            rows.append([*asked, *shown, f"{row['late_sends']:.1%}"])
    generator = (
        f"The generator's own most, with the echo: {found['generator_most']:,.0f} requests/s."
    )
    return f"{table(head, rows)}\n\n{generator}"


def scrape(found: Found) -> str:
    per_thousand = found["cpu_ms_without_http"] / found["series"] * 1000
    rows = [
        ["series", f"{found['series']:,}"],
        ["CPU of a scrape, ms", figure(found["cpu_ms"])],
        ["without HTTP, of 1,000 series, ms", figure(per_thousand)],
        ["wall time of a scrape, ms", figure(found["wall_ms"])],
    ]
    rows += [
        [f"p99 of requests under half load, ms: {kind}", ", ".join(map(figure, values))]
        for kind, values in found["p99_ms"].items()
    ]
    return table(["a scrape", ""], rows)


def growth(first: str, shown: Sequence[tuple[str, str]]) -> Callable[[Found], str]:
    """A table of one section of growth, by its columns."""

    def text(found: Found) -> str:
        rows = [
            [f"{row[first]:,}", *(figure(row[name]) for name, _ in shown)] for row in found["rows"]
        ]
        return table([first, *(title for _, title in shown)], rows)

    return text


def workers(found: Found) -> str:
    if "skipped" in found:
        return f"Not measured: {found['skipped']}."
    rows = [
        [
            name,
            f"{found['rate'][name]:,.0f}",
            figure(found["cpu_us"][name]),
            f"{found['mib'][name]:.0f}",
        ]
        for name in found["rate"]
    ]
    return (
        table([f"workers, {found['share']} CPU each", "requests/s", "CPU µs", "MiB"], rows)
        + f"\n\nTwo answer {figure(found['rate_ratio'])} times as much as one, at "
        f"{figure(found['cpu_ratio'])} times its CPU a request. The generator used "
        f"{found['load_cpu']:.0%} of a core; with the echo it reaches "
        f"{found['generator_most']:,.0f} requests/s."
    )


def programs(found: Found) -> str:
    rows = [[name, figure(value)] for part in found.values() for name, value in part.items()]
    return table(["single steps", ""], rows)


COMMON: Final = (
    ("rate", "requests/s"),
    ("rate_ratio", "of bare"),
    ("cpu_us", "CPU µs"),
    ("cpu_ratio", "CPU, of bare"),
    ("p99_ms", "p99 ms"),
)
TEXTS: Final[dict[str, Callable[[Found], str]]] = {
    "closed": closed,
    "peers": peers,
    "duties": duties,
    "stages": stages,
    "open": opened,
    "scrape": scrape,
    "rows": growth("rows", COMMON),
    "features": growth("features", COMMON),
    "models": growth(
        "models",
        (
            ("rate", "requests/s"),
            ("rate_ratio", "of one model"),
            ("cpu_ratio", "CPU, of one model"),
            ("p99_ms", "p99 ms"),
            ("mib", "MiB"),
            ("ready_seconds", "seconds to ready"),
        ),
    ),
    "workers": workers,
    "programs": programs,
}


def conditions(section: Found) -> str:
    """When a section was measured, of what."""
    said = section["conditions"]
    changed = " with changes" if said["is_changed"] else ""
    return (
        f"{said['at']}, commit {said['commit']}{changed}; {section['rounds']} rounds of "
        f"{section['seconds']} s; the machine's load before was {said['load_before']:.1f}."
    )


def machine(results: dict[str, Found]) -> str:
    """Where the newest section was measured, and with what."""
    said = max((one["conditions"] for one in results.values()), key=lambda said: said["at"])
    versions = "\n".join(f"{name} {version}," for name, version in said["versions"].items())
    return (
        f"{said['cores']} cores of {said['cpu']}, {said['system']}, Python {said['python']};\n"
        f"{versions[:-1]}."
    )


def render(results: dict[str, Found]) -> str:
    """All sections, for the terminal."""
    return "\n\n".join(f"## {name}\n\n{TEXTS[name](one['found'])}" for name, one in results.items())


def readme_text(results: dict[str, Found]) -> str:
    """What the README quotes."""
    found = results["closed"]["found"]
    ours = [row for row in found["rows"] if row["name"] == "keelmark"]
    head = ["connections", "requests/s, against bare", "CPU a request, against bare"]
    head += ["requests/s, against a constant answer"]
    rows = [
        [
            str(row["connections"]),
            figure(row["rate_ratio"]["bare"]),
            figure(row["cpu_ratio"]["bare"]),
            figure(row["rate_ratio"]["echo"]),
        ]
        for row in ours
    ]
    image = IMAGE.format(f"docs/{CHART.name}")
    return "\n\n".join([table(head, rows), *_others(results), image, *_steps(results)])


def _others(results: dict[str, Found]) -> list[str]:
    if "peers" not in results:
        return []
    found = results["peers"]["found"]
    times = [
        (1 / row["rate_ratio"]["keelmark"], found["titles"][name])
        for name, own in found["rows"].items()
        for row in own
        if row["connections"] == AT
    ]
    listed = [[title, figure(ratio)] for ratio, title in sorted(times)]
    return [
        f"With the same model and the same records, at {AT} connections, Keelmark is",
        table(["than", "times as fast"], listed),
    ]


def _steps(results: dict[str, Found]) -> list[str]:
    if "programs" not in results:
        return []
    row = results["programs"]["found"]["row"]
    run, encode = row["features + model / identity graph"], row["encode 24 fields / json.loads"]
    text = (
        "One row of 14 fields to 35 features and 100 trees costs "
        f"{figure(run)} times the run of an empty\ngraph, and encoding a record of 24 fields "
        f"{figure(encode)} times what `json.loads` takes to parse it."
    )
    return [text]


def write_docs(results: dict[str, Found]) -> None:
    """Puts results between their marks in README.md and docs/benchmarks.md, and the chart there."""
    README.write_text(written(README.read_text(), {"speed": readme_text(results)}))
    DOCS.write_text(written(DOCS.read_text(), docs_texts(results)))
    write_chart(results, CHART)


def docs_texts(results: dict[str, Found]) -> dict[str, str]:
    texts = {name: TEXTS[name](one["found"]) for name, one in results.items()}
    texts = {name: f"{text}\n\n{conditions(results[name])}" for name, text in texts.items()}
    return {"machine": machine(results), "chart": IMAGE.format(CHART.name), **texts}


def written(page: str, texts: dict[str, str]) -> str:
    """The page with each text between its mark and the next end.

    Raises:
        ValueError: the page has no such mark.
    """
    for name, text in texts.items():
        mark = MARK.format(name)
        pattern = re.compile(re.escape(mark) + ".*?" + re.escape(END), re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"there is no mark {mark!r} with an {END!r} behind it")
        page = pattern.sub(lambda _, new=f"{mark}\n{text}\n{END}": new, page, count=1)
    return page
