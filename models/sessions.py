"""Opens the models of a bundle; refuses one that takes or gives what its manifest does not say."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from features import runtime
from features.fields import Field
from features.runtime import Session, Tensor
from models.baseline import Baseline
from models.errors import BundleCorrupt
from models.external_data import has_external_data
from models.integrity import Contents, check_unchanged
from models.machine_copy import Copies
from models.manifest import AGAIN, BASELINE, MANIFEST, MODEL, OutputSpec
from models.standing_back import standing_back

INPUT: Final = "row"
FEATURES_OUTPUT: Final = "features"
CHECKS_OUTPUT: Final = "checks"
TENSOR_TYPES: Final = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "string": "tensor(string)",
    "bool": "tensor(bool)",
}


class Unopened(Session):
    """Stands where a model would that nobody runs."""

    __slots__ = ()

    def __init__(self) -> None:
        """Nothing is opened."""


def model_session(
    where: str,
    folder: Path,
    contents: Contents,
    *,
    has_features: bool,
    copies: Copies | None = None,
) -> Session:
    """The model, its outputs as the manifest lists them, then `features` and `checks` if any.

    Raises:
        BundleCorrupt: it cannot be opened, or gives something else.
    """
    manifest = contents.manifest
    session = _opened(where, folder, contents, MODEL, copies)
    expected = [spec.name for spec in manifest.outputs]
    expected += [FEATURES_OUTPUT] * has_features + [CHECKS_OUTPUT] * bool(manifest.checks)
    if list(session.outputs) != expected:
        raise BundleCorrupt(
            f"{where}: {MODEL} gives {list(session.outputs)}, {MANIFEST} says {expected}; {AGAIN}"
        )
    for tensor, spec in zip(session.gives, manifest.outputs, strict=False):
        if not _is_as_said(tensor, spec):
            raise BundleCorrupt(
                f"{where}: output {spec.name!r} of {MODEL} is {tensor.type} {list(tensor.shape)}, "
                f"{MANIFEST} says {spec.dtype} {list(spec.shape)}; {AGAIN}"
            )
    if manifest.checks:
        _check_width(where, session.gives[-1], len(manifest.checks))
    return session


def _check_width(where: str, checks: Tensor, width: int) -> None:
    if checks.type != TENSOR_TYPES["bool"] or checks.shape[1:] != (width,):
        raise BundleCorrupt(
            f"{where}: output {CHECKS_OUTPUT!r} of {MODEL} is {checks.type} {list(checks.shape)}, "
            f"{MANIFEST} has {width} checks, which are bool [n, {width}]; {AGAIN}"
        )


def open_baseline(
    where: str,
    folder: Path,
    contents: Contents,
    fields: Sequence[Field],
    *,
    batch_exact: bool,
    copies: Copies | None = None,
    with_models: bool = True,
) -> Baseline | None:
    """The baseline, which takes what the model takes and gives its outputs; None without one.

    Raises:
        BundleCorrupt: it cannot be opened, or takes or gives something else.
    """
    manifest = contents.manifest
    if manifest.baseline is None:
        return None
    exact = manifest.baseline.batch_exact and batch_exact
    if not with_models:
        return Baseline(Unopened(), manifest.baseline, fields, manifest.outputs, batch_exact=exact)
    session = _opened(where, folder, contents, BASELINE, copies)
    takes = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in session.takes]
    if takes != [(INPUT, TENSOR_TYPES["float64"], (len(fields),))]:
        raise BundleCorrupt(
            f"{where}: {BASELINE} takes {list(session.takes)}, expected {INPUT!r} float64 "
            f"[n, {len(fields)}], the encoded fields; {AGAIN}"
        )
    named = [spec.name for spec in manifest.outputs] == list(session.outputs)
    if not named or not all(map(_is_as_said, session.gives, manifest.outputs)):
        raise BundleCorrupt(
            f"{where}: {BASELINE} gives {list(session.gives)}, the model's outputs are "
            f"{[(spec.name, spec.dtype, spec.shape) for spec in manifest.outputs]}, and both must "
            f"answer alike; {AGAIN}"
        )
    return Baseline(session, manifest.baseline, fields, manifest.outputs, batch_exact=exact)


def _is_as_said(given: Tensor, spec: OutputSpec) -> bool:
    """Whether an output has the type of the manifest, and the shape, as far as both declare it."""
    if given.type != TENSOR_TYPES[spec.dtype] or len(given.shape) != len(spec.shape):
        return False
    pairs = zip(given.shape[1:], spec.shape[1:], strict=True)
    return all(have == wanted or not isinstance(have, int) or wanted < 0 for have, wanted in pairs)


def _opened(
    where: str, folder: Path, contents: Contents, name: str, copies: Copies | None
) -> Session:
    """The machine's own copy where there is one, else the bundle's file: both answer alike."""
    copy = None if copies is None else copies.found(contents.digest, name)
    if copy is not None:
        return _session(copy)
    _check_alone(where, folder, name)
    try:
        session = _session(folder / name)
    except Exception as error:
        # onnxruntime's exceptions have no base of their own.
        oldest = contents.manifest.runtime.get("onnxruntime_oldest", "1.20")
        raise BundleCorrupt(
            f"{where}: onnxruntime {runtime.version} cannot open {name}: {error}. The bundle "
            f"needs onnxruntime {oldest} or later; with that, {AGAIN}."
        ) from error
    check_unchanged(folder, contents, name)
    return session


def _session(path: Path) -> Session:
    if not runtime.opens_aside:  # one that stands back would keep everybody from the interpreter
        return Session(path)
    return standing_back(path.stat().st_size, partial(Session, path))


def _check_alone(where: str, folder: Path, name: str) -> None:
    """Refuses a model that has onnxruntime read other files: the manifest does not know them."""
    try:
        is_alone = not has_external_data(folder / name)
    except (ValueError, OSError) as error:
        raise BundleCorrupt(f"{where}: {name} is no ONNX model: {error}; {AGAIN}") from error
    if not is_alone:
        raise BundleCorrupt(
            f"{where}: {name} has constants in other files, and a bundle's model is one file; "
            f"{AGAIN}, which reads them in"
        )
