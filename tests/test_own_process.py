"""What the page says of the process itself, against what prometheus_client writes of it."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families

from server.own_process import OwnProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

FORMATS = {
    False: (generate_latest, text_families),
    True: (openmetrics.generate_latest, openmetrics_families),
}


@pytest.mark.parametrize("is_openmetrics", [False, True])
def test_it_is_what_the_library_would_write(is_openmetrics: bool):
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    written, families = FORMATS[is_openmetrics]
    theirs = list(families(written(registry).decode()))
    ours = list(families(OwnProcess().lines(is_openmetrics=is_openmetrics)))

    def shape(found: list[Any]) -> list[Any]:
        return [
            (f.name, f.type, f.documentation, [(s.name, s.labels) for s in f.samples])
            for f in found
        ]

    assert shape(ours) == shape(theirs)
    resident = next(f for f in ours if f.name == "process_resident_memory_bytes").samples[0].value
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    assert resident == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.2)
    limit = next(f for f in ours if f.name == "process_max_fds").samples[0].value
    assert limit == os.sysconf("SC_OPEN_MAX")
