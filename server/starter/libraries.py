"""Which training library a new project uses: one that is installed, so that it works at once."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final


@dataclass(frozen=True, slots=True)
class Library:
    """A training library as a project names it.

    Attributes:
        name: as people say it.
        requirement: the extras that train with it.
        packages: that must be there, to train and to convert.
        imported: the line that imports it.
        classifier, regressor: the expressions that make a model.
    """

    name: str
    requirement: str
    packages: tuple[str, ...]
    imported: str
    classifier: str
    regressor: str


_LIGHTGBM: Final = """\
lgb.{kind}(
        n_estimators=200,
        learning_rate=0.05,
        num_leaves=15,
        random_state=0,
        deterministic=True,
        force_row_wise=True,
        verbose=-1,
    )"""

LIBRARIES: Final = (
    Library(
        name="LightGBM",
        requirement="keelmark[lightgbm,sklearn]",
        packages=("lightgbm", "onnxmltools"),
        imported="import lightgbm as lgb",
        classifier=_LIGHTGBM.format(kind="LGBMClassifier"),
        regressor=_LIGHTGBM.format(kind="LGBMRegressor"),
    ),
    Library(
        name="scikit-learn",
        requirement="keelmark[sklearn]",
        packages=("sklearn", "skl2onnx"),
        imported="",
        classifier="GradientBoostingClassifier(random_state=0)",
        regressor="GradientBoostingRegressor(random_state=0)",
    ),
)
"""The better one first. The baseline is scikit-learn's in both: LightGBM's converter brings it."""


def installed_library() -> Library:
    """The first of the libraries that is there.

    Raises:
        ModuleNotFoundError: none is.
    """
    for library in LIBRARIES:
        if all(find_spec(package) for package in (*library.packages, "onnx", "pyarrow")):
            return library
    raise ModuleNotFoundError(
        "a project trains a model, and neither LightGBM nor scikit-learn is installed with what "
        "converts it; install one with: pip install 'keelmark[lightgbm]' or 'keelmark[sklearn]'"
    )
