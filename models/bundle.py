"""A bundle in memory: opened, verified, and ready to answer.

Opening checks what can be checked without running the model: every file against the manifest, the
files against each other, the features against their digests. Whether it *answers* as it was packed
is the gate's business (`models/gate.py`), in another process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features import runtime
from features.encode_record import RecordEncoder
from features.errors import FeatureError
from features.feature_set import Fitted
from features.fields import Field
from features.runtime import Session
from models.errors import BundleCorrupt, FeaturesMismatch, FormatUnknown
from models.integrity import Contents, check_unchanged, verified
from models.ladder import Ladder
from models.manifest import (
    AGAIN,
    FALLBACK,
    FEATURES,
    GOLDEN,
    MANIFEST,
    MODEL,
    REFERENCE,
    Fallback,
    Golden,
    Manifest,
    OutputSpec,
    TensorInputs,
    check_format,
    read,
)
from models.measures import Measures
from models.outputs import MOST_DECISIONS, Decisions, ModelOutputs
from models.reference import Reference

FEATURES_OUTPUT: Final = "features"
CHECKS_OUTPUT: Final = "checks"
DTYPES: Final = {
    "float32": np.float32,
    "float64": np.float64,
    "int64": np.int64,
    "string": np.object_,
    "bool": np.bool_,
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, weakref_slot=True)
class Bundle:
    """An opened bundle: immutable, without reference cycles; any thread may call `run`.

    Attributes:
        folder: where it was opened.
        digest: sha256 of the bytes of `manifest.json`: the bundle's identity.
        fitted: None for a tensor bundle, whose `inputs` then say what it takes.
        batch_exact: single and batch answers have equal bits, as `pack` found and the gate on this
            machine too.
    """

    folder: Path
    digest: str
    manifest: Manifest
    fallback: Fallback
    golden: Golden
    reference: Reference
    fitted: Fitted | None
    inputs: TensorInputs | None
    fields: tuple[Field, ...]
    encoder: RecordEncoder
    measures: Measures
    ladder: Ladder
    batch_exact: bool
    session: Session

    @classmethod
    def open(
        cls, folder: Path, *, batch_exact: bool = False, digest: str | None = None
    ) -> "Bundle":
        """Opens a folder after verifying every file.

        Args:
            folder: the bundle.
            batch_exact: what the gate measured on this machine (`GateReport.batch_exact`).
            digest: of the bundle that the gate examined (`GateReport.digest`); None takes any.

        Raises:
            BundleNotFound: no such folder.
            FormatUnknown: another format, or rules or checks that this version does not evaluate.
            BundleCorrupt: a file is not what the manifest says, does not fit the others, or is
                changed while it is read; or it is not the bundle that was examined.
            FeaturesMismatch: the model is bound to other features than the bundle carries.
        """
        contents = verified(folder)
        where = f"bundle {folder}"
        if digest not in (None, contents.digest):
            raise BundleCorrupt(
                f"{where}: its digest is {contents.digest[:12]}…, its gate examined "
                f"{digest[:12]}…; somebody put another bundle there meanwhile. Load it again, so "
                "that this one is examined."
            )
        fallback = read(Fallback, contents.files[FALLBACK], what=f"{where}: {FALLBACK}")
        golden = read(Golden, contents.files[GOLDEN], what=f"{where}: {GOLDEN}")
        reference = read(Reference, contents.files[REFERENCE], what=f"{where}: {REFERENCE}")
        fitted, inputs = _features(contents, where)
        encoder = RecordEncoder(()) if fitted is None else fitted.record_encoder
        fields = () if fitted is None else fitted.fields
        manifest = contents.manifest
        _check_fit(where, manifest, fallback, golden, fields)
        return cls(
            folder=folder,
            digest=contents.digest,
            manifest=manifest,
            fallback=fallback,
            golden=golden,
            reference=reference,
            fitted=fitted,
            inputs=inputs,
            fields=fields,
            encoder=encoder,
            measures=_measures(where, fitted, manifest.outputs, reference),
            ladder=_ladder(where, manifest, fallback, fields, encoder),
            batch_exact=manifest.batch_exact and batch_exact,
            session=_session(where, folder, contents, has_features=fitted is not None),
        )

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return self.manifest.version

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """What is answered; the first is primary."""
        return self.manifest.outputs

    @property
    def example(self) -> dict[str, Any]:
        """A real record that the model answers; generated values for sensitive fields."""
        return self.golden.rows[0].record if self.golden.rows else {}

    def run(self, rows: NDArray[np.float64]) -> ModelOutputs:
        """The model's outputs for encoded rows float64 (n, F); see `ModelOutputs`."""
        if not len(rows):
            return self._no_rows()
        return self._split(self.session.run(rows))

    def run_tensors(self, tensors: dict[str, NDArray[Any]]) -> ModelOutputs:
        """The outputs of a tensor bundle for its named inputs."""
        return self._split(self.session.run_named(tensors))

    def _split(self, arrays: list[NDArray[Any]]) -> ModelOutputs:
        count = len(self.manifest.outputs)
        features = arrays[count] if len(arrays) > count else None
        checks = arrays[count + 1] if len(arrays) > count + 1 else None
        return ModelOutputs(arrays[:count], features, checks)

    def _no_rows(self) -> ModelOutputs:
        # Old onnxruntimes could crash on an empty batch, so none is sent.
        width = 0 if self.fitted is None else len(self.fitted.feature_names)
        return ModelOutputs(
            [np.empty((0, *spec.shape[1:]), DTYPES[spec.dtype]) for spec in self.outputs],
            np.empty((0, width), np.float32),
        )


def _features(contents: Contents, where: str) -> tuple[Fitted | None, TensorInputs | None]:
    what = f"{where}: {FEATURES}"
    content = contents.files[FEATURES]
    if not contents.manifest.features.label:
        return None, _tensor_inputs(content, what)
    check_format(content, what=what)
    try:
        fitted = Fitted.from_json(msgspec.json.decode(content))
    except FeatureError as error:
        raise BundleCorrupt(f"{what}: {error}; {AGAIN}") from error
    bound = contents.manifest.features
    if fitted.features_digest != bound.features_digest:
        raise FeaturesMismatch(
            f"{where}: the model is bound to features {bound.identity} "
            f"({bound.features_digest[:12]}…), {FEATURES} has {fitted.identity}. Training and "
            "serving would differ: pack the model again with the features it was trained on."
        )
    return fitted, None


def _tensor_inputs(content: bytes, what: str) -> TensorInputs:
    try:
        return msgspec.json.decode(content, type=TensorInputs)
    except msgspec.MsgspecError as error:
        raise BundleCorrupt(f"{what} does not follow its schema: {error}; {AGAIN}") from error


def _check_fit(
    where: str,
    manifest: Manifest,
    fallback: Fallback,
    golden: Golden,
    fields: Sequence[Field],
) -> None:
    if fallback.checks or fallback.rules or manifest.checks:
        raise FormatUnknown(
            f"{where}: it has checks or rules, which this version of keelmark does not evaluate. "
            "Serve it with the version that packed it."
        )
    if set(fallback.policies) != {field.name for field in fields}:
        raise BundleCorrupt(f"{where}: the policies of {FALLBACK} do not name the fields; {AGAIN}")
    names = [spec.name for spec in manifest.outputs]
    if sorted(fallback.default) != sorted(names):
        raise BundleCorrupt(
            f"{where}: the default of {FALLBACK} is for {sorted(fallback.default)}, the outputs "
            f"are {names}; {AGAIN}"
        )
    decisions = Decisions(manifest.outputs[0], manifest.decision).names
    if len(decisions) > MOST_DECISIONS:
        raise BundleCorrupt(
            f"{where}: {MANIFEST} has {len(decisions)} decisions, expected at most "
            f"{MOST_DECISIONS}; {AGAIN}, without decisions"
        )
    if golden.features_digest != manifest.features.features_digest:
        raise FeaturesMismatch(
            f"{where}: {GOLDEN} was made with features {golden.features_digest[:12]}…, the model "
            f"is bound to {manifest.features.features_digest[:12]}…; {AGAIN}"
        )


def _measures(
    where: str, fitted: Fitted | None, outputs: tuple[OutputSpec, ...], reference: Reference
) -> Measures:
    fields = () if fitted is None else fitted.fields
    vocabularies = {} if fitted is None else fitted.vocabularies
    zones = {} if fitted is None else fitted.zones
    try:
        return Measures.from_reference(fields, vocabularies, zones, outputs, reference)
    except (KeyError, ValueError) as error:
        raise BundleCorrupt(
            f"{where}: {REFERENCE} does not fit the fields: {error!r}; {AGAIN}"
        ) from error


def _ladder(
    where: str,
    manifest: Manifest,
    fallback: Fallback,
    fields: Sequence[Field],
    encoder: RecordEncoder,
) -> Ladder:
    try:
        return Ladder(manifest.outputs, manifest.decision, fallback, fields, encoder.encode)
    except (ValueError, TypeError) as error:
        raise BundleCorrupt(f"{where}: {FALLBACK} cannot be used: {error}; {AGAIN}") from error


def _session(where: str, folder: Path, contents: Contents, *, has_features: bool) -> Session:
    manifest = contents.manifest
    try:
        session = Session(folder / MODEL)
    except Exception as error:
        # onnxruntime's exceptions have no base of their own.
        raise BundleCorrupt(
            f"{where}: onnxruntime {runtime.version} cannot open {MODEL}: {error}. The bundle "
            f"needs onnxruntime {manifest.runtime.get('onnxruntime_oldest', '1.20')} or later; "
            f"with that, {AGAIN}."
        ) from error
    check_unchanged(folder, contents, MODEL)
    expected = [spec.name for spec in manifest.outputs]
    expected += [FEATURES_OUTPUT] * has_features + [CHECKS_OUTPUT] * bool(manifest.checks)
    if list(session.outputs) != expected:
        raise BundleCorrupt(
            f"{where}: {MODEL} gives {list(session.outputs)}, {MANIFEST} says {expected}; {AGAIN}"
        )
    return session
