"""Callers notice nothing of swaps: short here; `make trials` measures it, on a quiet machine.

`python -m tests.swap_trials` prints what the trials measure.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.large import large_store
from tests.swap_callers import Had
from tests.swap_trials import (
    ARGUMENTS,
    FLIPS,
    MOST_GROWTH,
    MOST_RATIO,
    Flip,
    Plan,
    Result,
    old_answers,
    show,
    try_cycles,
    try_flips,
)
from tests.three import pack_versions
from tests.workers import Record

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux"),
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_versions(tmp_path_factory.mktemp("small"), 2)


def check(result: Result) -> None:
    """That every request was answered by the version that was live, on a connection that stayed."""
    wrong = [text for had in result.runs for text in had.wrong]
    found = {name: result.total(name) for name in ("failed", "mixed", "closed")} | {
        "old": result.old
    }
    assert found == {"failed": 0, "mixed": 0, "closed": 0, "old": 0}, wrong
    assert result.total("asked") > 0


def test_flips_fail_mix_and_close_nothing_and_leave_nothing_old(store: Path, tmp_path: Path):
    result = try_flips(store, tmp_path, Plan(pairs=1, seconds=1.5, cycles=8))
    check(result)
    assert len(result.took["promote"]) == len(result.took["rollback"]) == 8
    assert result.successors == 0


def test_workers_that_are_replaced_for_a_release_lose_no_request_and_no_connection(
    store: Path, tmp_path: Path
):
    """As with a model that is large, of which no process lets go while it answers."""
    arguments = (*ARGUMENTS, "--max-stall-ms", "0")
    result = try_cycles("replacing", store, tmp_path, Plan(1, 1.0, cycles=1, arguments=arguments))
    check(result)
    assert result.successors == 2 * len(result.took["unload"])
    assert result.stalls[0] == 0


def test_an_old_answer_is_told_from_one_that_was_on_its_way():
    flips = [Flip(1.0, 2.0, 2), Flip(3.0, 4.0, 1)]
    for sent, came, version, is_old in (
        (0.0, 0.5, 1, False),
        (0.0, 0.5, 2, True),
        (0.0, 1.5, 2, False),
        (1.5, 1.6, 1, False),
        (2.0, 2.5, 1, True),
        (2.5, 2.6, 2, False),
        (2.5, 3.5, 1, False),
        (4.0, 4.5, 2, True),
        (4.5, 4.6, 1, False),
    ):
        assert old_answers(had([sent], [came], [version]), flips, 1) == is_old, (sent, version)


def had(sent: Sequence[float], came: Sequence[float], versions: Sequence[int]) -> Had:
    one, other = np.array(sent), np.array(came)
    return Had(one, other, other - one, np.array(versions), len(sent), 0, 0.0, 0.0, 1.0, [])


# measured, on a quiet machine


def check_measured(result: Result, record_property: Record) -> None:
    record_property("result", show([result]))
    check(result)
    assert result.ratio <= MOST_RATIO, show([result])
    assert result.growth <= MOST_GROWTH, show([result])


@pytest.mark.trial
def test_two_hundred_cycles_at_sixty_percent_load(
    store: Path, tmp_path: Path, record_property: Record
):
    result = try_flips(store, tmp_path, Plan(cycles=FLIPS))
    assert len(result.took["promote"]) == 200
    check_measured(result, record_property)


@pytest.mark.trial
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["trees", "network"])
def test_ten_cycles_of_a_hundred_megabytes(kind, tmp_path: Path, record_property: Record):
    plan = Plan(seconds=16.0)
    result = try_cycles(f"100 MB of {kind}", large_store(kind), tmp_path, plan)
    assert len(result.took["unload"]) >= 10
    check_measured(result, record_property)
