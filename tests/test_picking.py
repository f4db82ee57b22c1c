"""Who a canary's callers are: always the same ones, and more of them when its share grows."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.asked import Request
from server.picking import key_in, key_of, place_of

SHARES = (0.01, 0.1, 0.5, 1.0)


@given(key=st.binary(max_size=200), model=st.text(min_size=1, max_size=64))
def test_a_growing_share_only_adds_callers(key: bytes, model: str):
    place = place_of(model, key)
    assert 0 <= place < 1
    sides = [place < share for share in SHARES]
    assert sides == sorted(sides)
    assert sides[-1]


def test_places_are_the_same_for_ever():
    """Also in another process, on another machine and in the next release: callers stay."""
    places = [place_of("flights", b"42"), place_of("bikes", b"42"), place_of("flights", b"")]
    assert places == pytest.approx(PLACES, abs=1e-15)


PLACES = [0.45408976289404834, 0.9295181149621112, 0.1942203469048569]


def test_callers_are_spread_evenly_and_each_model_has_others_first():
    keys = [str(n).encode() for n in range(20_000)]
    first = {key for key in keys if place_of("flights", key) < 0.1}
    others = {key for key in keys if place_of("bikes", key) < 0.1}
    assert 1_850 < len(first) < 2_150  # 2,000, and four standard deviations
    assert 130 < len(first & others) < 270  # as many as chance has


SAME = [
    ({"driver": 7}, b"7"),
    ({"driver": 7.0}, b"7"),
    ({"driver": "7"}, b"7"),
    ({"driver": True}, b"true"),
    ({"driver": 0.5}, b"0.5"),
    ({"driver": "Zoë"}, "Zoë".encode()),
    ({"driver": None}, None),
    ({"driver": ""}, None),
    ({"rider": 7}, None),
    ([{"driver": 7}], None),
    (7, None),
]


@pytest.mark.parametrize(("body", "key"), SAME, ids=lambda value: json.dumps(str(value)))
def test_the_key_is_the_value_of_a_field_of_a_single_record(body: Any, key: bytes | None):
    assert key_in(json.dumps(body).encode(), "driver") == key


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b' \n{"driver": 1, "driver": 2}', b"2"),
        (b'{"driver": 1', None),
        (b'{"driver": 1} more', None),
        (b'{"driver": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", None),
        (b"", None),
        (b"\xff", None),
        (b'{"driver": "\xff"}', None),
    ],
)
def test_a_body_that_cannot_be_read_has_no_key_and_of_duplicates_the_last_counts(
    body: bytes, key: bytes | None
):
    assert key_in(body, "driver") == key


def test_what_the_caller_says_comes_first():
    request = Request("flights", b'{"driver": 7}', 0, key=b"me")
    assert key_of(request, "driver") == b"me"
    request = Request("flights", b'{"driver": 7}', 0)
    assert key_of(request, "driver") == b"7"
    assert key_of(request, None) is None
