"""FeatureSet: what people declare. Fitting it gives what they train with, pack and serve."""

import numbers
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features import library, spec
from features.encoding import Encoded
from features.errors import DeclarationError, FitError
from features.expressions import LEAVES
from features.fields import check_name
from features.nodes import Expression, declared_fields, walk
from features.ops import OPS
from features.progress import progress_bar
from features.troubles import count_flags, report, warn_of_nothing_valid
from features.zones import freeze

if TYPE_CHECKING:
    from features.fitted import Fitted


class FeatureSet:
    """A named, versioned definition of features: what each column is made of.

    The label `flights@1` names the definition for ever; another definition needs another version.
    Fitting learns vocabularies and statistics and keeps the label.

    Args:
        features: column name to expression, in the order of the model's columns.

    Raises:
        DeclarationError: an expression that is no feature, or a field declared in two ways.
    """

    def __init__(self, name: str, *, version: int, features: Mapping[str, Expression]) -> None:
        check_name(name, "feature set")
        given: Any = features
        if type(version) is not int or version < 1:
            raise DeclarationError(
                f"feature set {name!r}: version={version!r}; versions are whole numbers from 1"
            )
        if not isinstance(given, Mapping):
            raise DeclarationError(
                f"feature set {name!r}: features is a {type(features).__name__}; it maps each "
                "column's name to its expression, as in {'size': number('size')}"
            )
        if not features:
            raise DeclarationError(
                f"feature set {name!r} has no features; give one at least, as in "
                "features={'size': number('size')}"
            )
        for feature, expression in features.items():
            check_name(feature, "feature")
            spec.check_feature(feature, expression)
        spec.check_columns(features)
        self.name: Final = name
        self.version: Final = version
        self.features: Final = dict(features)
        self.fields: Final = declared_fields(*features.values())

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @classmethod
    def load(cls, store: library.StorePath, named: str) -> "FeatureSet":
        """A definition that a bundle of a store has, to fit again or to take parts of.

        Args:
            store: a folder that `pack` wrote to, or a `Store`.
            named: a label, `flights@1`, or a bundle, `flights/7`.

        Raises:
            FeaturesNotFound: nothing has that name, or several definitions; it names the choices.
            FeaturesCorrupt: the file is not what it says.
        """
        stored = library.the_definition(library.read_library(store), named)
        from features.fitted import fitted_of

        return fitted_of(stored).feature_set

    def field(self, name: str) -> Any:
        """A field as it is declared here, to make features of: for this set or another.

        It is what `number`, `category`, `boolean` or `timestamp` gave.

        Raises:
            DeclarationError: there is none of that name.
        """
        for field in self.fields:
            if field.name == name:
                return LEAVES[field.kind]("field", field=field)
        raise DeclarationError(
            f"feature set {self.label} has no field {name!r}; its fields are "
            f"{', '.join(field.name for field in self.fields)}"
        )

    def select(
        self, *features: str, name: str | None = None, version: int | None = None
    ) -> "FeatureSet":
        """The definition of some of the features, in the order given.

        It is another definition, so it has another label: the `name` and `version` given, else a
        name that follows from what was selected, `flights-3fa9c1d2`, and this set's version. All
        features in their order are this set again.

        Raises:
            DeclarationError: no feature of that name, or a label that names this set.
        """
        if wrong := [feature for feature in features if feature not in list(self.features)]:
            raise DeclarationError(
                f"feature set {self.label} has no feature {', '.join(map(repr, wrong))}; "
                f"its features are {', '.join(self.features)}"
            )
        if not features or len(set(features)) < len(features):
            raise DeclarationError(
                f"select{features!r}: name one feature of {self.label} at least, each once"
            )
        chosen = {feature: self.features[feature] for feature in features}
        if name is None and version is None:
            if list(chosen) == list(self.features):
                return self
            digest = spec.spec_digest(spec.spec_json(declared_fields(*chosen.values()), chosen))
            name, version = f"{self.name[:119]}-{digest[:8]}", self.version
        selected = FeatureSet(
            self.name if name is None else name,
            version=1 if version is None else version,
            features=chosen,
        )
        if selected.label == self.label and selected.spec_digest != self.spec_digest:
            raise DeclarationError(
                f"{self.label} names the whole set; give its selection another name or version"
            )
        return selected

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

        What it learns does not depend on the order of the rows.

        Args:
            table: pandas or polars DataFrame, pyarrow Table, or dict of arrays, one row per record.
            target: column name or values (n,), needed by `target_mean`; booleans count as 0 and 1.
            quiet: neither print how many values were invalid or out of bounds, nor draw progress.

        Raises:
            TableError: a column is missing or of a type the field cannot be read from.
            FitError: nothing to learn from.
        """
        fitted, _, _ = self._fit(table, target, quiet=quiet)
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

        They are those of `transform`, but for the columns of `target_mean`: each of `folds` parts
        gets what the other parts' targets say, so that no row sees its own target.
        """
        from features.fitting import cross_fitted, has_target_mean

        for name, value in (("folds", folds), ("seed", seed)):
            if not isinstance(value, numbers.Integral) or value < 0:
                raise FitError(f"{name}={value!r}; use a whole number, not negative")
        fitted, encoded, targets = self._fit(table, target, quiet=quiet)
        if targets is None or not has_target_mean(self.features):
            return fitted, fitted.transform(encoded, quiet=quiet)
        with progress_bar("fit_transform", quiet=quiet) as bar:
            features = cross_fitted(
                fitted.plan,
                self.features,
                encoded.rows,
                targets,
                folds=folds,
                seed=seed,
                progress=bar,
            )
        return fitted, features

    def _fit(
        self, table: Any, target: str | ArrayLike | None, *, quiet: bool
    ) -> "tuple[Fitted, Encoded, NDArray[np.float64] | None]":
        from features.fitted import Fitted
        from features.fitting import fit_states, learn_vocabularies
        from features.tables import target_of

        zones = {name: freeze(name) for name in self.zone_names}
        vocabularies = learn_vocabularies(self.fields, table)
        unfitted = Fitted(self, vocabularies, zones, {}, rows=0)
        encoded = unfitted.encode_table(table)
        rows = len(encoded.rows)
        if not rows:
            raise FitError(
                f"feature set {self.label}: the training table has no rows; check how it was "
                "read and filtered"
            )
        targets = None if target is None else target_of(table, target)
        if targets is not None and len(targets) != rows:
            raise FitError(
                f"the target has {len(targets)} values, the table {rows} rows; give "
                "one for each row"
            )
        with progress_bar("fit", quiet=quiet) as bar:
            states = fit_states(unfitted.plan, self.features, encoded.rows, targets, bar)
        counts = count_flags(encoded)
        warn_of_nothing_valid(self.fields, counts)
        if not quiet:
            report(self.fields, counts, "fit")
        fitted = Fitted(self, vocabularies, zones, states, rows=rows)
        return fitted, encoded, targets

    def with_state(
        self,
        state: Mapping[str, Any],
        *,
        vocabularies: Mapping[str, Sequence[str | int]] | None = None,
        rows: int = 0,
    ) -> "Fitted":
        """Takes constants that somebody has already, in place of fitting.

        Args:
            state: by feature, then by operator: `{"size": {"impute": {"value": 3.0}, "standardize":
                {"shift": 3.1, "scale": 0.8}}}`. A list where a feature has an operator twice, that
                of the operand first.
            vocabularies: of each category that declares none, in code order.
            rows: of the training table, for the record.

        Raises:
            DeclarationError: something is missing, too much, or cannot have been learned.
        """
        from features.fitted import Fitted
        from features.given import given_states, given_vocabularies

        zones = {name: freeze(name) for name in self.zone_names}
        texts = given_vocabularies(self.fields, vocabularies or {})
        plan = Fitted(self, texts, zones, {}, rows=rows).plan
        return Fitted(self, texts, zones, given_states(plan, self.features, state), rows=rows)

    # what fitting learns for

    @property
    def category_names(self) -> list[str]:
        """Fields with a vocabulary."""
        return [field.name for field in self.fields if field.kind == "category"]

    @property
    def zone_names(self) -> list[str]:
        """Time zones that are frozen."""
        named = {field.tz for field in self.fields if field.tz is not None}
        return sorted(named | {"UTC"})

    @property
    def learning_keys(self) -> list[str]:
        """Keys of the expressions that have a state."""
        nodes = walk(*self.features.values())
        return [n.key for n in nodes if n.op in OPS and OPS[n.op].is_learning(n.params)]

    @classmethod
    def from_spec(cls, name: str, version: int, definition: Mapping[str, Any]) -> "FeatureSet":
        """The set whose `spec` it is."""
        return cls(name, version=version, features=spec.read_features(definition))

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureSet.from_spec, (self.name, self.version, self.spec)

    def __repr__(self) -> str:
        return f"FeatureSet({self.label}, {len(self.fields)} fields, {len(self.features)} features)"
