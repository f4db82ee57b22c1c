"""The chart: bars on a logarithmic scale, as SVG of our own few lines."""

import math
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from _options import Found

WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 860, 400, 90, 64, 20, 10
AT: Final = 32
TITLE: Final = f"Requests a second at {AT} connections, against the same graph on bare uvicorn"
SIZE: Final = f'height="{BAR}" rx="2"'
STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px } .faint { fill: #57606a } .bar { fill: #8c959f }
  .ours { fill: #0969da } .line { stroke: #57606a; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .faint { fill: #9198a1 } .bar { fill: #656c76 } .ours { fill: #4493f8 }
    .line { stroke: #9198a1 }
  }
"""


def ratios(results: dict[str, Found], connections: int = AT) -> list[tuple[str, str, float]]:
    """Name, title and requests a second against the bare graph, best first."""
    found: list[tuple[str, str, float]] = []
    for part in (results[name]["found"] for name in ("closed", "peers") if name in results):
        rows = part["rows"]
        listed = [row for own in rows.values() for row in own] if isinstance(rows, dict) else rows
        found += [
            (row["name"], part["titles"][row["name"]], row["rate_ratio"]["bare"])
            for row in listed
            if row["connections"] == connections
        ]
    return sorted(found, key=lambda one: -one[2])


def write_chart(results: dict[str, Found], path: Path) -> None:
    """Requests a second of every contender at 32 connections, against the bare graph."""
    path.write_text(chart(ratios(results)))


def chart(bars: list[tuple[str, str, float]]) -> str:
    low = min([0.01, *(ratio for _, _, ratio in bars)])
    high = max([2.0, *(ratio for _, _, ratio in bars)])
    height = TOP + len(bars) * (BAR + GAP) + 14

    def x(ratio: float) -> float:
        share = math.log(ratio / low * 1.5) / math.log(high / low * 1.5)
        return LEFT + max(2.0, share * (WIDTH - LEFT - RIGHT))

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="12" y="24">{TITLE}</text>',
        '<text class="faint" x="12" y="44">one worker on one core; logarithmic</text>',
        f'<line class="line" x1="{x(1):.0f}" x2="{x(1):.0f}" y1="{TOP - 8}" y2="{height - 8}"/>',
    ]
    for place, (name, title, ratio) in enumerate(bars):
        y = TOP + place * (BAR + GAP)
        kind = "ours" if name == "keelmark" else "bar"
        shown = f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"
        lines += [
            f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end">{escape(title)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{x(ratio) - LEFT:.0f}" {SIZE}/>',
            f'<text x="{x(ratio) + 8:.0f}" y="{y + 15}">{shown}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
