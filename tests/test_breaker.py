"""The breaker's states: against a second, slower account of the same rules, and one by one."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.vocabulary import BREAKER_STATES
from server.breaker import CLOSED, HALF_OPEN, OPEN, Breaker


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock, tell: Callable[[str], None] | None = None) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(tell, clock)
    for _ in range(5):
        breaker.ran(is_bad=True)
    return breaker


def test_the_states_are_those_of_the_metric():
    assert (CLOSED, HALF_OPEN, OPEN) == BREAKER_STATES == ("closed", "half_open", "open")


def test_four_bad_runs_in_twenty_do_not_open_it_and_five_do():
    breaker = Breaker(None, Clock())
    for number in range(200):
        breaker.ran(is_bad=number % 5 == 0)
    assert breaker.state == CLOSED
    breaker.ran(is_bad=True)
    breaker.ran(is_bad=True)
    assert breaker.state == OPEN


def test_bad_runs_further_back_than_twenty_are_forgotten():
    breaker = Breaker(None, Clock())
    for is_bad in [True] * 4 + [False] * 16 + [True]:
        breaker.ran(is_bad=is_bad)
    assert breaker.state == CLOSED
    for is_bad in [False] * 20:
        breaker.ran(is_bad=is_bad)
    assert breaker.is_calm


def test_open_it_admits_nothing_for_five_seconds_and_then_one():
    clock = Clock()
    breaker = broken(clock)
    assert not breaker.admits()
    clock.now += 4.99
    assert not breaker.admits()
    clock.now += 0.01
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    assert breaker.state == HALF_OPEN


def test_a_good_probe_closes_it_with_nothing_remembered():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 5
    assert breaker.admits()
    breaker.probed(is_bad=False)
    assert (breaker.state, breaker.is_calm) == (CLOSED, True)
    for _ in range(4):
        breaker.ran(is_bad=True)
    assert breaker.state == CLOSED


def test_bad_probes_double_the_time_up_to_a_minute():
    clock = Clock()
    breaker = broken(clock)
    for seconds in (5, 10, 20, 40, 60, 60):
        clock.now += seconds - 0.01
        assert not breaker.admits()
        clock.now += 0.01
        assert breaker.admits()
        breaker.probed(is_bad=True)
        assert breaker.state == OPEN
    clock.now += 60
    assert breaker.admits()
    breaker.probed(is_bad=False)
    for _ in range(5):
        breaker.ran(is_bad=True)
    clock.now += 5
    assert breaker.admits(), "closed in between, it begins with five seconds again"


def test_a_probe_that_was_not_run_leaves_its_place_to_the_next():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 5
    assert breaker.admits()
    breaker.not_probed()
    assert breaker.state == HALF_OPEN
    assert breaker.admits()


def test_runs_that_end_after_it_opened_say_nothing():
    clock = Clock()
    breaker = broken(clock)
    breaker.ran(is_bad=False)
    breaker.ran(is_bad=True)
    clock.now += 5
    assert breaker.admits()


def test_every_change_is_told_once():
    clock = Clock()
    told: list[str] = []
    breaker = broken(clock, told.append)
    clock.now += 5
    breaker.admits()
    breaker.not_probed()
    breaker.admits()
    breaker.probed(is_bad=True)
    clock.now += 10
    breaker.admits()
    breaker.probed(is_bad=False)
    assert told == [OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]


class Account:
    """The same rules, from the whole history."""

    def __init__(self) -> None:
        self.runs: list[bool] = []
        self.waits = 5.0
        self.opened_at: float | None = None
        self.is_probing = False

    def admits(self, now: float) -> bool:
        if self.opened_at is None:
            return True
        if self.is_probing or now < self.opened_at + self.waits:
            return False
        self.is_probing = True
        return True

    def ran(self, now: float, *, is_bad: bool) -> None:
        if self.opened_at is None:
            self.runs.append(is_bad)
            if self.runs[-20:].count(True) >= 5:
                self.opened_at, self.waits = now, 5.0

    def probed(self, now: float, *, is_bad: bool) -> None:
        self.is_probing = False
        self.runs = []
        if is_bad:
            self.opened_at, self.waits = now, min(60.0, self.waits * 2)
        else:
            self.opened_at = None


EVENTS = st.one_of(
    st.tuples(st.just("ask"), st.booleans()),
    st.tuples(st.just("late"), st.booleans()),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 5.0, 17.0, 60.0])),
    st.tuples(st.just("bad"), st.integers(1, 6)),
)


@given(st.lists(EVENTS, max_size=80), st.booleans())
def test_it_does_what_a_slower_account_says(events: list[tuple[str, Any]], gives_up: bool):
    clock, account = Clock(), Account()
    breaker = Breaker(None, clock)
    for kind, value in events:
        if kind == "pass":
            clock.now += value
        elif kind == "bad":
            for _ in range(value):
                breaker.ran(is_bad=True)
                account.ran(clock.now, is_bad=True)
        elif kind == "late":
            breaker.ran(is_bad=value)
            account.ran(clock.now, is_bad=value)
        else:
            admitted = breaker.admits()
            assert admitted == account.admits(clock.now)
            if not admitted:
                continue
            if breaker.state == CLOSED:
                breaker.ran(is_bad=value)
                account.ran(clock.now, is_bad=value)
            elif gives_up and value:
                breaker.not_probed()
                account.is_probing = False
            else:
                breaker.probed(is_bad=value)
                account.probed(clock.now, is_bad=value)
        assert (breaker.state == CLOSED) == (account.opened_at is None)
        assert breaker.is_calm == (breaker.state == CLOSED and True not in account.runs[-20:])


def test_a_breaker_that_opens_and_closes_trusts_nobody_the_more():
    breaker = Breaker()
    breaker.trust("rules")
    assert (breaker.state, breaker.lets_through) == ("closed", False)
    for _ in range(5):
        breaker.ran(is_bad=True)
    breaker.trust(None)
    assert (breaker.state, breaker.lets_through) == ("open", False)
    breaker.probed(is_bad=False)
    assert breaker.lets_through
