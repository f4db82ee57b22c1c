"""FeatureSet, what people declare, and Fitted, what they train with, pack and serve."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features import spec
from features.encode_record import RecordEncoder
from features.encoding import Encoded, codings
from features.errors import DeclarationError, FeatureError, FeaturesCorrupt, FitError
from features.expressions import Expression
from features.fields import FLAG_NAMES, INVALID, OUT_OF_BOUNDS, Field, check_name
from features.ops import OPS
from features.ops.base import Context, State
from features.runtime import Session, run_in_chunks
from features.zones import Zone, freeze, tzdata_version

if TYPE_CHECKING:
    import onnx

    from features.encode_table import TableEncoder

CHUNK_ROWS: Final = 4096
"""Rows a `run`: enough to make the call's own cost vanish, few enough for the cache."""

Progress = Callable[[int, int], None]
"""Called with rows done and rows in all."""


class FeatureSet:
    """A named, versioned definition of features: what each column is made of.

    The label `flights@1` names the definition for ever; another definition needs another version. Fitting
    learns vocabularies and statistics and keeps the label.

    Args:
        features: column name to expression, in the order of the model's columns.

    Raises:
        DeclarationError: an expression that is no feature, or a field declared in two ways.
    """

    def __init__(self, name: str, *, version: int, features: Mapping[str, Expression]) -> None:
        check_name(name, "feature set")
        if version < 1:
            raise DeclarationError(
                f"feature set {name!r}: version={version}; versions count from 1"
            )
        if not features:
            raise DeclarationError(f"feature set {name!r} has no features")
        for feature, expression in features.items():
            check_name(feature, "feature")
            spec.check_feature(feature, expression)
        self.name: Final = name
        self.version: Final = version
        self.features: Final = dict(features)
        self.fields: Final = spec.fields_of(features)

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The definition as plain data."""
        return spec.spec_json(self.fields, self.features)

    @cached_property
    def spec_digest(self) -> str:
        return spec.spec_digest(self.spec)

    def fit(
        self, table: Any, target: str | ArrayLike | None = None, *, quiet: bool = False
    ) -> "Fitted":
        """Learns vocabularies and statistics from a training table.

        Args:
            table: pandas or polars DataFrame, pyarrow Table, or dict of arrays, one row per record.
            target: column name or values (n,), needed by `target_mean`; booleans count as 0 and 1.
            quiet: do not print how many values were invalid or out of bounds.

        Raises:
            TableError: a column is missing or of a type the field cannot be read from.
            FitError: nothing to learn from.
        """
        fitted, _, _ = self._fit(table, target, quiet)
        return fitted

    def fit_transform(
        self,
        table: Any,
        target: str | ArrayLike | None = None,
        *,
        folds: int = 5,
        seed: int = 0,
        quiet: bool = False,
    ) -> "tuple[Fitted, NDArray[np.float32]]":
        """`fit`, and the training rows' features float32 (n, K) to train a model on.

        They are those of `transform`, but for the columns of `target_mean`: each of `folds` parts gets
        what the other parts' targets say, so that no row sees its own target.
        """
        from features.fitting import has_target_mean

        fitted, encoded, targets = self._fit(table, target, quiet)
        if targets is None or not has_target_mean(self.features):
            return fitted, fitted.transform(encoded)
        if not 2 <= folds <= max(len(encoded.rows), 2):
            raise FitError(f"folds={folds}: use 2 to the number of rows, {len(encoded.rows)}")
        return fitted, _cross_fitted(fitted, encoded.rows, targets, folds, seed)

    def _fit(
        self, table: Any, target: str | ArrayLike | None, quiet: bool
    ) -> "tuple[Fitted, Encoded, NDArray[np.float64] | None]":
        from features.fitting import fit_states, learn_vocabularies

        zones = {name: freeze(name) for name in self._zone_names()}
        vocabularies = learn_vocabularies(self.fields, table)
        unfitted = Fitted(self, vocabularies, zones, {}, rows=0)
        encoded = unfitted.encode_table(table)
        if not len(encoded.rows):
            raise FitError(f"feature set {self.label}: the training table has no rows")
        if not quiet:
            _print_troubles(self.fields, encoded, "fit")
        targets = None if target is None else _target(table, target, len(encoded.rows))
        states = fit_states(unfitted.plan, self.features, encoded.rows, targets)
        fitted = Fitted(self, vocabularies, zones, states, rows=len(encoded.rows))
        return fitted, encoded, targets

    def _zone_names(self) -> list[str]:
        named = {field.tz for field in self.fields if field.tz is not None}
        return sorted(named | {"UTC"})

    def __repr__(self) -> str:
        return f"FeatureSet({self.label}, {len(self.fields)} fields, {len(self.features)} features)"


class Fitted:
    """A feature set with everything it learned: encodes, transforms, and compiles to ONNX.

    Immutable; safe to call from several threads. Reading one (`load`, `from_json`) and encoding records
    needs numpy alone, `transform` onnxruntime and onnx, tables pyarrow.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        vocabularies: Mapping[str, Sequence[str]],
        zones: Mapping[str, Zone],
        states: Mapping[str, State],
        *,
        rows: int,
        tzdata: str | None = None,
    ) -> None:
        self.feature_set: Final = feature_set
        self.vocabularies: Final = {name: tuple(texts) for name, texts in vocabularies.items()}
        self.zones: Final = dict(zones)
        self.states: Final = dict(states)
        self.rows: Final = rows
        self.tzdata: Final = tzdata or tzdata_version()

    # identity

    @property
    def label(self) -> str:
        return self.feature_set.label

    @property
    def spec_digest(self) -> str:
        return self.feature_set.spec_digest

    @cached_property
    def state_digest(self) -> str:
        """Identity of everything learned."""
        return spec.state_digest(self._state())

    @cached_property
    def features_digest(self) -> str:
        return spec.features_digest(self.spec_digest, self.state_digest)

    @property
    def identity(self) -> str:
        """`flights@1+` and the first 12 digits of `features_digest`."""
        return f"{self.label}+{self.features_digest[:12]}"

    # shape

    @property
    def fields(self) -> tuple[Field, ...]:
        """The raw record's fields, in the row's order."""
        return self.feature_set.fields

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the K columns."""
        return tuple(
            f"{name}{suffix}"
            for name, expression in self.feature_set.features.items()
            for suffix in self._suffixes(expression)
        )

    def _suffixes(self, expression: Expression) -> list[str]:
        op = OPS.get(expression.op)
        return [""] if op is None else op.column_suffixes(expression, self.context)

    # encoding

    @cached_property
    def record_encoder(self) -> RecordEncoder:
        return RecordEncoder(codings(self.fields, self.vocabularies, self.zones))

    @cached_property
    def _table_encoder(self) -> "TableEncoder":
        from features.encode_table import TableEncoder

        return TableEncoder(codings(self.fields, self.vocabularies, self.zones))

    def encode_records(self, records: Sequence[Mapping[str, Any]]) -> Encoded:
        return self.record_encoder.encode(records)

    def encode_table(self, table: Any) -> Encoded:
        """Rows float64 (n, F) and flags uint8 (n, F) of a table.

        Raises:
            TableError: a column is missing or of a type the field cannot be read from.
        """
        return self._table_encoder.encode(table)

    # transforming

    def transform(
        self,
        data: Any,
        *,
        chunk_rows: int = CHUNK_ROWS,
        progress: Progress | None = None,
        quiet: bool = False,
    ) -> NDArray[np.float32]:
        """Features float32 (n, K) of a table, or of what was encoded: the bits that serving sees.

        Args:
            data: a table (see `FeatureSet.fit`) or `Encoded`.
            progress: called after each piece of the table.
            quiet: do not print how many values were invalid or out of bounds.
        """
        pieces = [data] if isinstance(data, Encoded) else self._table_encoder.batches(data)
        total = _length(data)
        chunks: list[NDArray[np.float32]] = []
        done = 0
        counts = np.zeros((len(self.fields), len(FLAG_NAMES)), np.int64)
        for piece in _with_bar(pieces, total, progress):
            chunks.extend(
                outputs[0] for outputs in run_in_chunks(self._session, piece.rows, chunk_rows)
            )
            counts += _flag_counts(piece)
            done += len(piece.rows)
        if not quiet and not isinstance(data, Encoded):
            _print_counts(self.fields, counts, done, "transform")
        width = len(self.feature_names)
        return np.concatenate(chunks) if chunks else np.empty((0, width), np.float32)

    @cached_property
    def _session(self) -> Session:
        return Session(self.model().SerializeToString())

    # compiling

    @cached_property
    def context(self) -> Context:
        return Context(self.vocabularies, self.zones)

    @cached_property
    def plan(self) -> Any:
        """What the compiler takes."""
        from features.compiler import Plan

        return Plan(self.fields, self.states, self.context)

    def model(self) -> "onnx.ModelProto":
        """The features alone as ONNX: `row` float64 [n, F] to `features` float32 [n, K]."""
        from features.compiler import compile_features

        return compile_features(self.plan, list(self.feature_set.features.values()))

    def fuse(
        self, model: "onnx.ModelProto", *, checks: Sequence[Expression] = ()
    ) -> "onnx.ModelProto":
        """Features and model as one graph; see `features.compiler.fuse`."""
        from features.compiler import fuse

        return fuse(self.plan, list(self.feature_set.features.values()), model, checks=checks)

    # saving

    def _state(self) -> dict[str, Any]:
        return {
            "vocabularies": {name: list(texts) for name, texts in self.vocabularies.items()},
            "zones": {name: zone.to_json() for name, zone in self.zones.items()},
            "operators": self.states,
        }

    def to_json(self) -> dict[str, Any]:
        """features.json: definition, learned state, and the digests of both."""
        return {
            "format": spec.FORMAT,
            "kind": "features",
            "name": self.feature_set.name,
            "version": self.feature_set.version,
            "spec": self.feature_set.spec,
            "spec_digest": self.spec_digest,
            "state": self._state(),
            "state_digest": self.state_digest,
            "features_digest": self.features_digest,
            "feature_names": list(self.feature_names),
            "fitted": {"rows": self.rows, "tzdata": self.tzdata},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Fitted":
        """What `to_json` wrote, checked against its own digests.

        Raises:
            FeaturesCorrupt: another format, a missing entry, or digests that do not match.
        """
        if value.get("format") != spec.FORMAT or value.get("kind") != "features":
            raise FeaturesCorrupt(
                f"features.json has format {value.get('format')!r} and kind {value.get('kind')!r}; this "
                f"version reads format {spec.FORMAT}, kind 'features'"
            )
        try:
            fitted = cls._read(value)
            recorded = {name: value[name] for name in _DIGESTS}
        except (KeyError, TypeError, AttributeError, FeatureError) as error:
            raise FeaturesCorrupt(f"features.json cannot be read: {error!r}") from error
        for name, digest in recorded.items():
            if getattr(fitted, name) != digest:
                raise FeaturesCorrupt(
                    f"features.json says {name} {str(digest)[:12]}, its content has "
                    f"{getattr(fitted, name)[:12]}: it was altered; use the original file"
                )
        return fitted

    @classmethod
    def _read(cls, value: Mapping[str, Any]) -> "Fitted":
        features = spec.read_features(value["spec"])
        state = value["state"]
        return cls(
            FeatureSet(value["name"], version=value["version"], features=features),
            state["vocabularies"],
            {name: Zone.from_json(zone) for name, zone in state["zones"].items()},
            state["operators"],
            rows=value["fitted"]["rows"],
            tzdata=value["fitted"]["tzdata"],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes features.json; `load` gives an equal object on any machine."""
        text = json.dumps(self.to_json(), allow_nan=False)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Fitted":
        with open(path, encoding="utf-8") as file:
            return cls.from_json(json.load(file))

    def __repr__(self) -> str:
        return (
            f"Fitted({self.identity}, {len(self.fields)} fields, {len(self.feature_names)} columns)"
        )


_DIGESTS: Final = ("spec_digest", "state_digest", "features_digest")


def _cross_fitted(
    fitted: Fitted, rows: NDArray[np.float64], target: NDArray[np.float64], folds: int, seed: int
) -> NDArray[np.float32]:
    from features.compiler import compile_features
    from features.fitting import cross_fitted

    fold = np.random.default_rng(seed).permutation(len(rows)) % folds
    features = fitted.feature_set.features
    out = np.empty((len(rows), len(fitted.feature_names)), np.float32)
    for number in range(folds):
        inside = fold == number
        states = cross_fitted(fitted.plan, features, rows, target, inside)
        model = compile_features(replace(fitted.plan, states=states), list(features.values()))
        session = Session(model.SerializeToString())
        chunks = run_in_chunks(session, rows[inside], CHUNK_ROWS)
        out[inside] = np.concatenate([outputs[0] for outputs in chunks])
    return out


def _target(table: Any, target: str | ArrayLike, rows: int) -> NDArray[np.float64]:
    from features.encode_table import numbers_of

    if isinstance(target, str):
        return numbers_of(table, target)
    values = numbers_of({"target": target}, "target")
    if len(values) != rows:
        raise FitError(f"the target has {len(values)} values, the table {rows} rows")
    return values


def _length(data: Any) -> int:
    if isinstance(data, Encoded):
        return len(data.rows)
    return data.num_rows if hasattr(data, "num_rows") else 0


def _with_bar(
    pieces: Sequence[Encoded] | Iterator[Encoded], total: int, progress: Progress | None
) -> Iterator[Encoded]:
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece.rows)
        if progress is not None:
            progress(done, max(total, done))


def _flag_counts(encoded: Encoded) -> NDArray[np.int64]:
    """Rows per field and flag, int64 (F, 5)."""
    return np.stack(
        [(encoded.flags == flag).sum(axis=0) for flag in range(len(FLAG_NAMES))], axis=1
    ).astype(np.int64)


def _print_troubles(fields: Sequence[Field], encoded: Encoded, what: str) -> None:
    _print_counts(fields, _flag_counts(encoded), len(encoded.rows), what)


def _print_counts(fields: Sequence[Field], counts: NDArray[np.int64], rows: int, what: str) -> None:
    for field, row in zip(fields, counts.tolist(), strict=True):
        said = [
            f"{row[flag]:,} {FLAG_NAMES[flag]}" for flag in (INVALID, OUT_OF_BOUNDS) if row[flag]
        ]
        if said:
            print(f"{what}: {field.name}: {' and '.join(said)} of {rows:,} rows", file=sys.stderr)
