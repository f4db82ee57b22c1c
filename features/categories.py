"""Categories: texts as codes, and what numbers are made of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from features.constants import finite
from features.errors import DeclarationError
from features.fields import check_texts
from features.numbers import Boolean, Columns, Nullable, Number
from features.pairs import LARGEST_CROSS, Pair, check_pairs, in_order


class Category(Nullable):
    """A text from a vocabulary. In the row it is a code: 0..V-1, V unknown, V + 1 missing."""

    kind = "category"

    def __eq__(self, other: object) -> "Boolean":  # type: ignore[override]
        raise DeclarationError(
            f"{self!r} == {other!r}: categories are compared by lookup({{{other!r}: 1}}, default=0)"
        )

    def __hash__(self) -> int:
        return id(self)

    def one_hot(self, *, unknown: bool = False, missing: bool = False) -> "Columns":
        """One column per text of the vocabulary; `unknown` and `missing` add a column each.

        An unknown or missing value is 0 in every column that is not its own.
        """
        extra = {"unknown": unknown or None, "missing": missing or None}
        return Columns("one_hot/1", [self], extra)

    def ordinal(self) -> Number:
        """Position in the vocabulary, 0..V-1, most frequent first when learned.

        Unknown is -1, missing is null.
        """
        return Number("ordinal/1", [self])

    def frequency(self) -> Number:
        """Share of the training rows that had this value; unknown 0, missing its own share."""
        return Number("frequency/1", [self])

    def target_mean(self, smoothing: float = 20.0) -> Number:
        """Mean of the target for this value, shrunk towards the mean of all rows.

        (sum + smoothing * prior) / (count + smoothing); unknown is the prior, missing has its own
        mean. `fit_transform` cross-fits it: a training row never sees its own target. Source:
        Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes", SIGKDD
        Explorations (2001).
        """
        chosen = finite(smoothing, "target_mean()")
        if chosen < 0:
            raise DeclarationError(f"target_mean(smoothing={chosen}): it must not be negative")
        return Number("target_mean/1", [self], {"smoothing": chosen})

    def lookup(
        self, table: Mapping[str, float] | Mapping[Pair, float], *, default: float | None = None
    ) -> Number:
        """A constant number for each text; others, unknown and missing give `default`, else null.

        A text outside the vocabulary is unknown even if the table has it. Of a cross the table has
        pairs of texts.
        """
        if not table:
            raise DeclarationError("lookup(): the table is empty")
        other = None if default is None else finite(default, "lookup()")
        values = [finite(value, "lookup()") for value in table.values()]
        numbers: Any
        if self.field is None:
            pairs = check_pairs(self, list(table), "lookup()")
            numbers = in_order([*pair, value] for pair, value in zip(pairs, values, strict=True))
        else:
            numbers = dict(zip(map(str, table), values, strict=True))
            check_texts(self.field, list(numbers), "lookup()")
        return Number("lookup/1", [self], {"table": numbers, "default": other})


def cross(
    a: Category,
    b: Category,
    *,
    max_pairs: int | None = None,
    pairs: Sequence[Pair] | None = None,
    null: Literal["missing", "value"] = "missing",
) -> Category:
    """A category of the pairs of two categories, for what one of them alone does not tell.

    Args:
        a: a field.
        b: another.
        max_pairs: how many pairs are learned at most, the most frequent first, 1,000 unless given;
            the others are unknown, as is a pair with an unknown side.
        pairs: declares them instead, in the order of their codes.
        null: a pair with a null side is missing ("missing"), or null is a value like others
            ("value"): it pairs as `None`, and only the pair of two nulls is missing.
    """
    for side in (a, b):
        if not isinstance(side, Category) or side.field is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DeclarationError(
                f"cross(): {side!r} is no field with texts; declare it with category()"
            )
    if a.key == b.key:
        raise DeclarationError(f"cross(): {a!r} is on both sides; cross two fields")
    if null not in ("missing", "value"):
        raise DeclarationError(f"cross(null={null!r}): use 'missing' or 'value'")
    params: dict[str, Any] = {"null": None if null == "missing" else null}
    if pairs is None:
        params["max_pairs"] = 1000 if max_pairs is None else max_pairs
        if not 1 <= params["max_pairs"] <= LARGEST_CROSS:
            raise DeclarationError(f"cross(max_pairs={max_pairs}): use 1 to {LARGEST_CROSS:,}")
        return Category("cross/1", [a, b], params)
    if max_pairs is not None:
        raise DeclarationError("cross(): give pairs or max_pairs, not both")
    params["pairs"] = check_pairs(Category("cross/1", [a, b], params), pairs, "cross(pairs=)")
    return Category("cross/1", [a, b], params)
