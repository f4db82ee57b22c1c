"""A feature set as a step of scikit-learn: in pipelines, searches and cross-validation."""

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import DeclarationError
from features.feature_set import FeatureSet
from features.fitted import Fitted

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "FeatureTransformer needs scikit-learn; install it with: pip install 'keelmark[sklearn]'",
        name=error.name,
    ) from error


class FeatureTransformer(TransformerMixin, BaseEstimator):
    """Fits a feature set on the training rows, and gives the columns for a model.

    `fit_transform` is not `fit` and then `transform` where the set has a `target_mean`: training
    rows get cross-fitted columns, as `FeatureSet.fit_transform` makes them. A pipeline does the
    right thing by itself: it calls `fit_transform` on the rows it trains on, `transform` on others.

    Attributes:
        feature_set: what to fit.
        folds, seed: of cross-fitting, see `FeatureSet.fit_transform`.
        quiet: neither print how many values were invalid or out of bounds, nor draw progress; a
            search fits many times.
        fitted_: what was learned; give it to `pack` with the model of the pipeline's last step.
        feature_names_in_: fields that are read, object (F,); the table may have other columns.
        n_features_in_: F.
    """

    fitted_: Fitted

    def __init__(
        self, feature_set: FeatureSet, *, folds: int = 5, seed: int = 0, quiet: bool = True
    ) -> None:
        self.feature_set = feature_set
        self.folds = folds
        self.seed = seed
        self.quiet = quiet

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803  (scikit-learn's names)
        """Learns from a table and, where the set has a `target_mean`, the target (n,).

        Raises:
            TableError, FitError: as `FeatureSet.fit`.
        """
        self._keep(self._checked().fit(X, self._target(y), quiet=self.quiet))
        return self

    # Its base takes further arguments for `fit`, which here has none.
    def fit_transform(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        X: Any,  # noqa: N803
        y: Any = None,
    ) -> Any:
        """`fit`, and the columns float32 (n, K) to train a model on, or as `set_output` says."""
        fitted, columns = self._checked().fit_transform(
            X, self._target(y), folds=self.folds, seed=self.seed, quiet=self.quiet
        )
        self._keep(fitted)
        return columns

    def transform(self, X: Any) -> Any:  # noqa: N803
        """The columns float32 (n, K) of other rows, or as `set_output` says.

        Raises:
            NotFittedError: before `fit`.
            TableError: a column is missing or of a type that its field cannot be read from.
        """
        check_is_fitted(self)
        return self.fitted_.transform(X, quiet=self.quiet)

    def get_feature_names_out(
        self, input_features: Iterable[str] | None = None
    ) -> NDArray[np.object_]:
        """Names of the columns, object (K,).

        Raises:
            NotFittedError: before `fit`; vocabularies name columns.
            ValueError: `input_features` lacks a field.
        """
        check_is_fitted(self)
        fields = [field.name for field in self.fitted_.fields]
        if input_features is not None and (missing := set(fields) - set(input_features)):
            raise ValueError(
                f"input_features lacks {sorted(missing)}, which {self.fitted_.label} reads; "
                f"its fields are {fields}"
            )
        return np.array(self.fitted_.feature_names, object)

    def _keep(self, fitted: Fitted) -> None:
        self.fitted_ = fitted
        self.feature_names_in_ = np.array([field.name for field in fitted.fields], object)
        self.n_features_in_ = len(fitted.fields)

    def _checked(self) -> FeatureSet:
        given: Any = self.feature_set
        if not isinstance(given, FeatureSet):
            raise DeclarationError(
                f"FeatureTransformer(feature_set={given!r}): give a FeatureSet, which it fits"
            )
        return given

    def _target(self, y: Any) -> Any:
        """The target if it is wanted: names of classes are none that could be averaged."""
        return y if self._wants_target() else None

    def _wants_target(self) -> bool:
        from features.fitting import has_target_mean

        given: Any = self.feature_set
        return isinstance(given, FeatureSet) and has_target_mean(given.features)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fitted_")

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.target_tags.required = self._wants_target()
        tags.transformer_tags.preserves_dtype = []
        return tags
