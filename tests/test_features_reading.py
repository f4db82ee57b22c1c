"""Expressions as people read them."""

import pytest

from features import Boolean, boolean, category, elapsed, number, timestamp
from features.reading import text_of

a, b, c = number("a"), number("b"), number("c")
yes, city = boolean("yes"), category("city")
left, seen = timestamp("left"), timestamp("seen")

TEXTS: list[tuple[object, str]] = [
    (a < 6000, "a < 6000"),
    (a >= 0.1, "0.1 <= a"),
    (left < seen, "left < seen"),
    (a == b, "a = b"),
    (a != b, "not (a = b)"),
    (city.is_null(), "city is null"),
    (~(a + b).is_null(), "not ((a + b) is null)"),
    ((a < 1) & yes | (b < 2), "a < 1 and yes or b < 2"),
    ((a < 1) & (yes | (b < 2)), "a < 1 and (yes or b < 2)"),
    (~((a < 1) & yes), "not (a < 1 and yes)"),
    (a - (b - c) < 0, "a - (b - c) < 0"),
    ((a - b) - c < 0, "a - b - c < 0"),
    ((a + b) * c < 2.5, "(a + b) * c < 2.5"),
    (a / (b * c) < 1, "a / (b * c) < 1"),
    (a.log1p() < 3, "log1p(a) < 3"),
    (elapsed(left, seen, unit="min") < 90, "elapsed(left, seen, unit='min') < 90"),
]


@pytest.mark.parametrize(("expression", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_an_expression_reads_as_it_was_meant(expression: Boolean, text: str):
    assert text_of(expression) == text
