"""How breaker and runner stand, from several workers and after the death of one."""

import mmap
import re

from server.exposition import Exposed, Exposition
from server.http_counters import HttpCounters
from server.regions import Region
from server.series import Facts, ModelSeries
from server.standing import AT_REST, Notice, Queued, Standing, read_standing
from tests.counters import small_layout


def two_workers() -> list[Region]:
    layout = small_layout()
    memory = mmap.mmap(-1, 2 * layout.n_bytes)
    return [Region(layout, memory, offset=layout.part(slot)) for slot in (0, 1)]


def test_nothing_has_happened_at_first():
    region = Region.anonymous(small_layout())
    Notice(region)
    assert read_standing([region]) == AT_REST


def test_a_breaker_is_in_one_state_and_its_openings_are_counted():
    region = Region.anonymous(small_layout())
    notice = Notice(region)
    for state in ("open", "half_open", "open", "half_open"):
        notice.breaker(state)
    assert read_standing([region]) == Standing((0, 1, 0), openings=2)
    notice.breaker("closed")
    assert read_standing([region]) == Standing((1, 0, 0), openings=2)


def test_runs_that_were_given_up_count_until_they_end():
    region = Region.anonymous(small_layout())
    notice = Notice(region)
    notice.queued(Queued(3, 30))
    notice.abandoned()
    notice.abandoned()
    notice.ended()
    assert read_standing([region]) == Standing(
        (1, 0, 0), 0, 3, abandoned=2, abandoned_active=1, queued_rows=30
    )


def test_workers_are_summed():
    regions = two_workers()
    one, other = map(Notice, regions)
    one.breaker("open")
    one.queued(Queued(2, 20))
    other.queued(Queued(5, 5))
    other.abandoned()
    expected = Standing(
        (1, 0, 1), openings=1, queued=7, abandoned=1, abandoned_active=1, queued_rows=25
    )
    assert read_standing(regions) == expected


def test_a_successor_keeps_totals_and_begins_closed_and_idle():
    """A thread that was busy with an abandoned run has died with its process."""
    region = Region.anonymous(small_layout())
    notice = Notice(region)
    notice.breaker("open")
    notice.queued(Queued(4, 40))
    notice.abandoned()
    Notice(region)
    assert read_standing([region]) == Standing((1, 0, 0), openings=1, abandoned=1)


def test_rows_and_standing_do_not_touch_each_other():
    region = Region.anonymous(small_layout())
    notice = Notice(region)
    notice.breaker("open")
    notice.queued(Queued(4, 40))
    assert (region.head, region.tail) == (0, 0)


def test_the_page_says_how_it_stands():
    layout = small_layout()
    region = Region.anonymous(layout)
    notice = Notice(region)
    notice.breaker("open")
    notice.queued(Queued(3, 30))
    notice.abandoned()
    for rows in (1, 3, 4, 300):
        notice.ran(rows)
    notice.may_share(64)
    series = ModelSeries(layout, Facts("ab", "flights@1+ab", "1.31.1", "team", 1.0, 0.5))
    page = Exposition([HttpCounters()]).page([Exposed(series, [region], "rules")]).decode()
    own = 'model="flights",version="7"'
    said = dict(re.findall(r"^(keelmark_\w+\{.*\}) (\d+)$", page, re.MULTILINE))
    expected = {
        f"keelmark_queue_depth{{{own}}}": "3",
        f"keelmark_queue_rows{{{own}}}": "30",
        f"keelmark_batch_rows_limit{{{own}}}": "64",
        f'keelmark_batch_rows_bucket{{{own},le="1.0"}}': "1",
        f'keelmark_batch_rows_bucket{{{own},le="2.0"}}': "1",
        f'keelmark_batch_rows_bucket{{{own},le="4.0"}}': "3",
        f'keelmark_batch_rows_bucket{{{own},le="256.0"}}': "3",
        f'keelmark_batch_rows_bucket{{{own},le="+Inf"}}': "4",
        f"keelmark_batch_rows_sum{{{own}}}": "308",
        f"keelmark_batch_rows_count{{{own}}}": "4",
        f"keelmark_abandoned_runs_active{{{own}}}": "1",
        f"keelmark_abandoned_runs_total{{{own}}}": "1",
        f'keelmark_breaker_state{{{own},state="closed"}}': "0",
        f'keelmark_breaker_state{{{own},state="half_open"}}': "0",
        f'keelmark_breaker_state{{{own},state="open"}}': "1",
        f"keelmark_breaker_openings_total{{{own}}}": "1",
        f'keelmark_forced_rung{{{own},rung="baseline"}}': "0",
        f'keelmark_forced_rung{{{own},rung="rules"}}': "1",
    }
    assert {line: said[line] for line in expected} == expected
