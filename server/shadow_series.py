"""The series of shadows and canaries, of each loaded bundle: at 0 until it takes part."""

from functools import lru_cache
from itertools import product
from typing import Final

from models.vocabulary import OUTCOMES, SHADOW_RESULTS
from server import catalogue
from server.layout import DIFFERENCE_BOUNDS, Layout
from server.lines import Page, Template, histogram_template, lines_template, observed
from server.shadow_counters import Shadow, nothing
from server.shares import Shares

_NS: Final = 1_000_000_000


def shadow_page(shadow: Shadow, shares: Shares) -> Page:
    """What is said of one bundle.

    Args:
        shadow: what it has counted in shadows.
        shares: what it gets of its model's requests.
    """
    layout = shadow.layout
    numbers = {
        catalogue.SHADOW_ROWS.name: shadow.outcomes,
        catalogue.SHADOW_COMPARED.name: (shadow.compared - shadow.changed, shadow.changed),
        catalogue.SHADOW_DIFFERENCE.name: observed(shadow.differences, shadow.difference),
        catalogue.SHADOW_RUNS.name: observed(shadow.runs, *divmod(shadow.run_ns, _NS)),
        catalogue.CANARY_SHARE.name: (shares.canary,),
        catalogue.SHADOW_SHARE.name: (shares.shadow,),
    }
    templates = _templates(layout.model, layout.version, layout.total_bounds)
    return {name: templates[name].filled(each) for name, each in numbers.items()}


def series_of(layout: Layout) -> int:
    """How many series a bundle has here."""
    return sum(lines.count("\n") for lines in shadow_page(nothing(layout), Shares()).values())


@lru_cache(maxsize=64)
def _templates(model: str, version: str, bounds: tuple[float, ...]) -> dict[str, Template]:
    own = model, version
    series = [own]
    return {
        catalogue.SHADOW_ROWS.name: lines_template(
            catalogue.SHADOW_ROWS, product([model], [version], OUTCOMES)
        ),
        catalogue.SHADOW_COMPARED.name: lines_template(
            catalogue.SHADOW_COMPARED, product([model], [version], SHADOW_RESULTS)
        ),
        catalogue.SHADOW_DIFFERENCE.name: histogram_template(
            catalogue.SHADOW_DIFFERENCE, series, DIFFERENCE_BOUNDS, total="%r"
        ),
        catalogue.SHADOW_RUNS.name: histogram_template(catalogue.SHADOW_RUNS, series, bounds),
        catalogue.CANARY_SHARE.name: lines_template(catalogue.CANARY_SHARE, series, number="%r"),
        catalogue.SHADOW_SHARE.name: lines_template(catalogue.SHADOW_SHARE, series, number="%r"),
    }
