"""Fitted: a feature set with everything it learned; what people train with, pack and serve."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from features import library, spec
from features.digests import digest_of
from features.encode_record import RecordEncoder
from features.encoding import Encoded, codings
from features.errors import FeaturesCorrupt, FeaturesNotFound
from features.feature_set import FeatureSet
from features.fields import FLAG_NAMES, Field
from features.nodes import Expression
from features.ops import OPS
from features.ops.base import Context, Plan, State
from features.progress import Progress, progress_bar
from features.troubles import count_flags, report
from features.zones import Zone, tzdata_version

if TYPE_CHECKING:
    import onnx
    import pyarrow as pa

    from features.encode_table import TableEncoder
    from features.mapper import ArrowMapper
    from features.runtime import Session

Learned = TypeVar("Learned")


class Fitted:
    """A feature set with everything it learned: encodes, transforms, and compiles to ONNX.

    Immutable; safe to call from several threads; pickles as the data that `to_json` gives. Reading
    one (`load`, `from_json`) and encoding records needs numpy alone, `transform` onnxruntime and
    onnx, tables pyarrow.
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
        return digest_of(self._state())

    @cached_property
    def features_digest(self) -> str:
        """Identity of definition and learned state: what a model is bound to."""
        return spec.features_digest(self.spec_digest, self.state_digest)

    @property
    def identity(self) -> str:
        """`flights@1+` and the first 12 digits of `features_digest`."""
        return f"{self.label}+{self.features_digest[:12]}"

    # parts

    def select(
        self, *features: str, name: str | None = None, version: int | None = None
    ) -> "Fitted":
        """Some of the features with what they learned; see `FeatureSet.select` for the label.

        Their columns have the bits that they have here, and only their fields are read.
        """
        chosen = self.feature_set.select(*features, name=name, version=version)
        return Fitted(
            chosen,
            _those(self.vocabularies, chosen.category_names),
            _those(self.zones, chosen.zone_names),
            _those(self.states, chosen.learning_keys),
            rows=self.rows,
            tzdata=self.tzdata,
        )

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
        return [""] if op is None else op.column_suffixes(expression, self.plan.context)

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
        chunk_rows: int = 1024,
        progress: Progress | None = None,
        quiet: bool = False,
    ) -> NDArray[np.float32]:
        """Features float32 (n, K) of a table, or of what was encoded: the bits that serving sees.

        Args:
            data: a table (see `FeatureSet.fit`) or `Encoded`.
            chunk_rows: rows given to onnxruntime at a time; changes no bit.
            progress: called with rows done and in all after each piece; replaces the bar.
            quiet: neither print how many values were invalid or out of bounds, nor draw progress.
        """
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows={chunk_rows}; use 1 or more, which changes no bit")
        if isinstance(data, Encoded):
            features = self._room_for(len(data.rows))
            self._transform_rows(data.rows, chunk_rows, out=features)
            return features
        table = self._table_encoder.to_arrow(data)
        with progress_bar("transform", quiet=quiet, progress=progress) as bar:
            features, counts = self._transform_table(table, chunk_rows, bar)
        if not quiet:
            report(self.fields, counts, "transform")
        return features

    def _transform_table(
        self, table: "pa.Table", chunk_rows: int, progress: Progress
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features, and rows per field and flag."""
        features = self._room_for(table.num_rows)
        counts = np.zeros((len(self.fields), len(FLAG_NAMES)), np.int64)
        done = 0
        for piece in self._table_encoder.batches(table):
            end = done + len(piece.rows)
            self._transform_rows(piece.rows, chunk_rows, out=features[done:end])
            counts += count_flags(piece)
            done = end
            progress(done, table.num_rows)
        return features, counts

    def _room_for(self, rows: int) -> NDArray[np.float32]:
        return np.empty((rows, len(self.feature_names)), np.float32)

    def _transform_rows(
        self, rows: NDArray[np.float64], chunk_rows: int, *, out: NDArray[np.float32]
    ) -> None:
        """Fills `out` float32 (n, K), a chunk at a time while it is in the cache."""
        run = self._session.run
        for start in range(0, len(rows), chunk_rows):
            chunk = slice(start, start + chunk_rows)
            (out[chunk],) = run(rows[chunk])

    @cached_property
    def _session(self) -> "Session":
        from features.runtime import Session

        return Session(self.model().SerializeToString())

    def arrow_mapper(self, *, keep: Sequence[str] = ()) -> "ArrowMapper":
        """`transform` for other engines: Arrow batches to Arrow batches; pickles to workers.

        A column float32 for each of `feature_names`, after the columns to keep. It takes an
        iterator of record batches, as Spark's `mapInArrow` gives, or a table, as Ray Data's
        `map_batches` does with `batch_format="pyarrow"`.

        Args:
            keep: columns of the input that come back as they are.

        Raises:
            DeclarationError: a column to keep has the name of a feature.
        """
        from features.mapper import ArrowMapper

        model = self.model().SerializeToString()
        return ArrowMapper(self._table_encoder, model, self.feature_names, keep)

    # compiling

    @cached_property
    def plan(self) -> Plan:
        """What the compiler takes."""
        return Plan(self.fields, self.states, Context(self.vocabularies, self.zones))

    def model(self) -> "onnx.ModelProto":
        """The features alone as ONNX: `row` float64 [n, F] to `features` float32 [n, K]."""
        from features.compiler import compile_features

        return compile_features(self.plan, list(self.feature_set.features.values()))

    def fuse(
        self, model: "onnx.ModelProto", *, checks: Sequence[Expression] = ()
    ) -> "onnx.ModelProto":
        """Features and model as one graph; see `features.fusing.fuse`."""
        from features.fusing import fuse

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
            "kind": spec.KIND,
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
            FeaturesCorrupt: another format, an entry that is missing or that this format has not,
                or digests that do not match.
        """
        spec.check_format(value)
        try:
            found = cls._read(value)
            entries = found.to_json()
            recorded = {name: value[name] for name in _DERIVED}
            unknown = list(spec.unknown_entries(value, entries))
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise FeaturesCorrupt(
                f"features.json cannot be read: {error!r}; use the original file"
            ) from error
        if unknown:
            raise FeaturesCorrupt(
                f"features.json has entries that format {spec.FORMAT} has not: "
                f"{', '.join(unknown)}. What they mean would be left out: use the original file, "
                "or read it with the version that wrote it, which gives it another format number"
            )
        for name, said in recorded.items():
            if entries[name] != said:
                raise FeaturesCorrupt(
                    f"features.json says {name} {str(said)[:12]}, its content has "
                    f"{str(entries[name])[:12]}: it was altered; use the original file"
                )
        return found

    @classmethod
    def _read(cls, value: Mapping[str, Any]) -> "Fitted":
        definition = FeatureSet.from_spec(value["name"], value["version"], value["spec"])
        state = value["state"]
        zones = _those(state["zones"], definition.zone_names)
        return cls(
            definition,
            _those(state["vocabularies"], definition.category_names),
            {name: Zone.from_json(zone) for name, zone in zones.items()},
            _those(state["operators"], definition.learning_keys),
            rows=value["fitted"]["rows"],
            tzdata=value["fitted"]["tzdata"],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes features.json; `load` gives an equal object on any machine."""
        text = json.dumps(self.to_json(), allow_nan=False)
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], named: str | None = None) -> "Fitted":
        """What `save` wrote, or the features of a bundle.

        Args:
            path: features.json, or a bundle's folder; with `named`, a store's folder or a `Store`.
            named: which of the store: an identity, `flights@1+9c2f81d04b7a`, a bundle,
                `flights/7`, or a label, `flights@1`, if its bundles all learned the same.

        Raises:
            FeaturesNotFound: nothing has that name, or several; the message names the choices.
            FeaturesCorrupt: as `from_json`.
        """
        if named is not None:
            return fitted_of(library.the_fitted(library.read_library(path), named))
        path = Path(path)
        if path.is_dir():
            path /= library.FILE
            if not path.exists():
                raise FeaturesNotFound(
                    f"there is no {path}; of a store, name what to load, as in "
                    f"Fitted.load({str(path.parent)!r}, 'flights@1')"
                )
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise FeaturesCorrupt(
                f"features.json is no JSON: {error}; use the original file"
            ) from error
        return cls.from_json(value)

    def __reduce__(self) -> tuple[Any, ...]:
        return Fitted.from_json, (self.to_json(),)

    def __repr__(self) -> str:
        return (
            f"Fitted({self.identity}, {len(self.fields)} fields, {len(self.feature_names)} columns)"
        )


def fitted_of(stored: library.Stored) -> Fitted:
    """Checked against its own digests; the message says whose file was wrong."""
    try:
        return Fitted.from_json(stored.content)
    except FeaturesCorrupt as error:
        raise FeaturesCorrupt(f"{stored.bundle}: {error}") from error


def _those(learned: Mapping[str, Learned], names: Iterable[str]) -> dict[str, Learned]:
    """What was learned for these names; LookupError if one has nothing."""
    return {name: learned[name] for name in names}


_DERIVED: Final = ("spec_digest", "state_digest", "features_digest", "feature_names")
"""Entries of features.json that follow from the others."""
