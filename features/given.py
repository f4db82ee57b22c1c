"""Constants that somebody has already, from Spark or an older pipeline, in place of fitting.

They are checked as far as they can be without rows: that all are there and nothing else is, and
that each is what the operator could have learned.
"""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from features.errors import DeclarationError
from features.fields import Field, check_texts
from features.nodes import Expression, walk
from features.ops import OPS
from features.ops.base import Plan, State, Text
from features.pairs import check_pairs


def _plain(value: Any) -> Any:
    """Arrays as lists, which can be compared."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


# vocabularies


def given_vocabularies(
    fields: Sequence[Field], given: Mapping[str, Sequence[str | int]]
) -> dict[str, tuple[str, ...]]:
    """Texts per category in code order, declared or given.

    Raises:
        DeclarationError: one is missing, given though it is declared, or has impossible texts.
    """
    categories = {field.name: field for field in fields if field.kind == "category"}
    for name in given:
        if name not in categories or categories[name].vocabulary is not None:
            raise DeclarationError(
                f"with_state(): the vocabulary of {name!r} is given, but it is no category whose "
                "vocabulary is learned; leave it out"
            )
    return {
        name: field.vocabulary or _vocabulary(field, _plain(given.get(name)))
        for name, field in categories.items()
    }


def _vocabulary(field: Field, given: Sequence[str | int] | None) -> tuple[str, ...]:
    what = f"with_state(): the vocabulary of {field.name!r}"
    if not given or isinstance(given, str):
        raise DeclarationError(f"{what} is missing: vocabularies={{{field.name!r}: [...]}}")
    texts = tuple(map(str, given))
    if len(set(texts)) < len(texts) or len(texts) > field.max_vocabulary:
        raise DeclarationError(
            f"{what} has {len(texts):,} texts, {len(set(texts)):,} of them different; at most "
            f"{field.max_vocabulary:,} different ones are allowed"
        )
    check_texts(field, texts, "with_state()")
    return texts


# operators


def given_states(
    plan: Plan, features: Mapping[str, Expression], given: Mapping[str, Any]
) -> dict[str, State]:
    """What each operator that learns is given, by the key of its expression.

    Args:
        plan: without states.
        features: by name.
        given: by feature and operator, as `FeatureSet.with_state` takes it.

    Raises:
        DeclarationError: something is missing, too much, or impossible.
    """
    if unknown := sorted(given.keys() - features.keys()):
        raise DeclarationError(f"with_state(): {unknown} are no features; they are {[*features]}")
    entries: dict[str, Any] = {}
    for name, root in features.items():
        for node, entry in _entries(name, root, _plain(given.get(name, {}))):
            if entries.setdefault(node.key, entry) != entry:
                raise DeclarationError(
                    f"with_state(): feature {name!r}, {node!r} has other constants in another "
                    "feature, and is computed once; give them once"
                )
    states: dict[str, State] = {}
    for name, root in features.items():
        for node in filter(_learns, walk(root)):
            if node.key not in states:
                where = f"with_state(): feature {name!r}, {node!r}"
                known = _Given(where, node, entries.get(node.key), replace(plan, states=states))
                states[node.key] = _READERS[node.op](known)
    return states


def _learns(node: Expression) -> bool:
    return node.op in OPS and OPS[node.op].is_learning(node.params)


def _short(node: Expression) -> str:
    return node.op.partition("/")[0]


def _entries(name: str, root: Expression, given: Any) -> list[tuple[Expression, Any]]:
    """Each operator of the feature that learns and is given something."""
    learning = list(filter(_learns, walk(root)))
    names = list(dict.fromkeys(map(_short, learning)))
    if not isinstance(given, Mapping) or given.keys() - set(names):
        raise DeclarationError(
            f"with_state(): feature {name!r} has {given!r}; expected constants by operator, of "
            f"which {names or 'none'} learn"
        )
    found: list[tuple[Expression, Any]] = []
    for operator in given:
        nodes = [node for node in learning if _short(node) == operator]
        listed = given[operator] if isinstance(given[operator], list) else [given[operator]]
        if len(listed) != len(nodes):
            raise DeclarationError(
                f"with_state(): feature {name!r} has {len(nodes)} of {operator!r}, "
                f"{', '.join(map(repr, nodes))}; give a list with the constants of each"
            )
        found += zip(nodes, listed, strict=True)
    return found


@dataclass(frozen=True, slots=True)
class _Given:
    """What one operator is given."""

    where: str
    node: Expression
    values: Any
    plan: Plan

    def take(self, *names: str, may: Sequence[str] = ()) -> None:
        """Refuses to go on without each of the names, or with another."""
        values: Any = self.values if isinstance(self.values, Mapping) else {}
        if set(names) - values.keys() or values.keys() - {*names, *may}:
            also = f", and {', '.join(map(repr, may))} if need be" if may else ""
            raise self.wrong(f"needs {', '.join(map(repr, names))}{also}; got {self.values!r}")

    def wrong(self, what: str) -> DeclarationError:
        return DeclarationError(f"{self.where} {what}")

    def number(self, value: Any, what: str) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, numbers.Real)
            or not math.isfinite(value)
        ):
            raise self.wrong(f"has {what}={value!r}; expected a finite number")
        return float(value)

    def listed(self, name: str) -> list[Any]:
        value: Any = self.values[name]
        if not isinstance(value, (list, tuple)):
            raise self.wrong(f"has {name}={value!r}; expected a list")
        return list(value)

    def of(self, name: str) -> float:
        return self.number(self.values[name], name)

    def table(self, other: float) -> list[float]:
        """A number for each text of the category, in code order; `other` where none is given."""
        texts = self.plan.context.texts(self.node.args[0])
        given: Any = self.values["table"]
        if not isinstance(given, Mapping):
            raise self.wrong(f"has a table that is a {type(given).__name__}; map texts to numbers")
        known = set(texts)
        numbers = {_text(text): self.number(value, f"{text!r}") for text, value in given.items()}
        if outside := [text for text in numbers if text not in known]:
            raise self.wrong(f"has {outside[0]!r} in its table, which the vocabulary has not")
        return [numbers.get(text, other) for text in texts]


def _text(text: Any) -> Text:
    if isinstance(text, tuple):
        one, other = (None if side is None else str(side) for side in text)
        return (one, other)
    return str(text)


def _impute(given: _Given) -> State:
    given.take("value")
    return {"value": given.of("value")}


def _clip(given: _Given) -> State:
    given.take("low", "high")
    low, high = given.of("low"), given.of("high")
    if low > high:
        raise given.wrong(f"has low={low} above high={high}")
    return {"low": low, "high": high}


def _scale(given: _Given) -> State:
    given.take("shift", "scale")
    scale = given.of("scale")
    if scale <= 0:
        raise given.wrong(f"has scale={scale}; it must be above 0, 1 for a constant column")
    return {"shift": given.of("shift"), "scale": scale}


def _bucketize(given: _Given) -> State:
    given.take("edges")
    edges = [given.number(edge, "an edge") for edge in given.listed("edges")]
    most = given.node.params["bins"] - 1
    if not 1 <= len(edges) <= most or sorted(set(edges)) != edges:
        raise given.wrong(f"has edges {edges}; expected 1 to {most}, ascending and distinct")
    return {"edges": edges}


def _frequency(given: _Given) -> State:
    given.take("table", may=["missing"])
    missing = given.number(given.values.get("missing", 0.0), "missing")
    table = [*given.table(0.0), 0.0, missing]
    if min(table) < 0 or math.fsum(table) > 1 + 1e-9:
        raise given.wrong(f"has shares that add up to {math.fsum(table)}; they are 0 to 1 in all")
    return {"table": table}


def _target_mean(given: _Given) -> State:
    given.take("table", "unknown", may=["missing"])
    prior = given.of("unknown")
    missing = given.number(given.values.get("missing", prior), "missing")
    return {"table": [*given.table(prior), prior, missing]}


def _cross(given: _Given) -> State:
    given.take("pairs")
    pairs = check_pairs(given.node, given.listed("pairs"), given.where)
    most = given.node.params["max_pairs"]
    if len(pairs) > most:
        raise given.wrong(f"has {len(pairs):,} pairs; max_pairs is {most:,}")
    for side, texts in zip(given.node.args, zip(*pairs, strict=True), strict=True):
        known = {*given.plan.context.texts(side), None}
        if outside := [text for text in texts if text not in known]:
            raise given.wrong(f"has {outside[0]!r} in a pair, which the vocabulary has not")
    return {"pairs": pairs}


_READERS: Final[Mapping[str, Callable[[_Given], State]]] = {
    "impute/1": _impute,
    "clip/1": _clip,
    "standardize/1": _scale,
    "min_max/1": _scale,
    "robust_scale/1": _scale,
    "bucketize/1": _bucketize,
    "frequency/1": _frequency,
    "target_mean/1": _target_mean,
    "cross/1": _cross,
}
