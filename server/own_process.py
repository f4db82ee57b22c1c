"""What the metrics say of this process: CPU, memory, files and garbage, as prometheus_client reads.

Its samples are written here: for fifteen lines its writer takes half of what the whole page does.
"""

from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.metrics_core import Metric as Family

_END: Final = "# EOF\n"


class OwnProcess:
    """Reads `process_*` and `python_gc_*` of this process."""

    def __init__(self) -> None:
        alone = CollectorRegistry()  # not the one of whoever else uses the library here
        self._collectors = ProcessCollector(registry=alone), GCCollector(registry=alone)

    def lines(self, *, is_openmetrics: bool) -> str:
        """The end of a page.

        Args:
            is_openmetrics: in that format, with its end mark; else in the text format.
        """
        families = chain.from_iterable(each.collect() for each in self._collectors)
        lines = "".join(
            chain.from_iterable(_lines(each, is_openmetrics=is_openmetrics) for each in families)
        )
        return lines + _END if is_openmetrics else lines


def _lines(family: Family, *, is_openmetrics: bool) -> Iterator[str]:
    """Of a counter or a gauge; of another kind it would have to say more."""
    name = family.name if is_openmetrics else _text_name(family)
    yield _head(name, family.type, family.documentation)
    for sample in family.samples:
        labels = ",".join(f'{label}="{value}"' for label, value in sample.labels.items())
        braced = f"{{{labels}}}" if labels else ""
        yield f"{sample.name}{braced} {sample.value!r}\n"


def _text_name(family: Family) -> str:
    """The text format writes the suffix of a counter on its family too."""
    return f"{family.name}_total" if family.type == "counter" else family.name


@cache
def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
