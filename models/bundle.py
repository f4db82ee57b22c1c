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

from features.encode_record import RecordEncoder
from features.errors import FeatureError
from features.fields import Field
from features.fitted import Fitted
from features.runtime import Session
from models.agreement import check_agreement
from models.baseline import Baseline
from models.errors import BundleCorrupt, FeaturesMismatch
from models.integrity import Contents, verified
from models.ladder import Ladder
from models.machine_copy import Copies
from models.manifest import (
    AGAIN,
    BASELINE,
    FALLBACK,
    FEATURES,
    GOLDEN,
    MANIFEST,
    NO_JSON,
    REFERENCE,
    BaselineInfo,
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
from models.policies import troubles_of
from models.reference import Reference
from models.rules import Rules
from models.sessions import Unopened, model_session, open_baseline

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
        baseline: None without one.
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
    baseline: Baseline | None
    batch_exact: bool
    session: Session

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        batch_exact: bool = False,
        digest: str | None = None,
        copies: Copies | None = None,
        with_models: bool = True,
    ) -> "Bundle":
        """Opens a folder after verifying every file.

        Args:
            folder: the bundle.
            batch_exact: what the gate measured on this machine (`GateReport.batch_exact`).
            digest: of the bundle that the gate examined (`GateReport.digest`); None takes any.
            copies: this machine's own of its models, which are opened instead where they are there.
            with_models: where they are not opened nothing can be run, and everything else is there.

        Raises:
            BundleNotFound: no such folder.
            FormatUnknown: another format.
            BundleCorrupt: a file is not what the manifest says, does not fit the others, or is
                changed while it is read; or it is not the bundle that was examined. Also a rule
                that cannot be used.
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
        fitted, inputs = read_features(contents, where)
        encoder = RecordEncoder(()) if fitted is None else fitted.record_encoder
        fields = () if fitted is None else fitted.fields
        manifest = contents.manifest
        _check_fit(where, manifest, fallback, golden, fields)
        check_agreement(where, manifest, fallback, fitted)
        _check_lower_rungs(where, contents, fallback, fields)
        baseline = open_baseline(
            where,
            folder,
            contents,
            fields,
            batch_exact=batch_exact,
            copies=copies,
            with_models=with_models,
        )
        session = Unopened()
        if with_models:
            session = model_session(
                where, folder, contents, has_features=fitted is not None, copies=copies
            )
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
            ladder=_ladder(where, manifest, fallback, fitted, encoder, baseline),
            baseline=baseline,
            batch_exact=manifest.batch_exact and batch_exact,
            session=session,
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
            np.empty((0, len(self.manifest.checks)), np.bool_) if self.manifest.checks else None,
        )


def read_features(contents: Contents, where: str) -> tuple[Fitted | None, TensorInputs | None]:
    """The features of a verified bundle, or, where it takes tensors, its inputs; one is None.

    Raises:
        BundleCorrupt: they cannot be read.
        FeaturesMismatch: the model is bound to others.
    """
    what = f"{where}: {FEATURES}"
    content = contents.files[FEATURES]
    if not contents.manifest.features.label:
        return None, _tensor_inputs(content, what)
    check_format(content, what=what)
    try:
        fitted = Fitted.from_json(msgspec.json.decode(content))
    except (FeatureError, *NO_JSON) as error:
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
    except NO_JSON as error:
        raise BundleCorrupt(f"{what} does not follow its schema: {error}; {AGAIN}") from error


def _check_fit(
    where: str,
    manifest: Manifest,
    fallback: Fallback,
    golden: Golden,
    fields: Sequence[Field],
) -> None:
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


def _check_lower_rungs(
    where: str, contents: Contents, fallback: Fallback, fields: Sequence[Field]
) -> None:
    """Whether manifest, `fallback.json` and folder speak of the same baseline and checks."""
    manifest = contents.manifest
    checks = [check.name for check in fallback.checks]
    if list(manifest.checks) != checks or len(set(checks)) != len(checks):
        raise BundleCorrupt(
            f"{where}: the checks of {MANIFEST} are {list(manifest.checks)}, those of {FALLBACK} "
            f"{checks}; expected the same, each once; {AGAIN}"
        )
    has_file = any(entry.name == BASELINE for entry in manifest.files)
    if has_file != (manifest.baseline is not None):
        there, missing = (BASELINE, "baseline") if has_file else ("baseline", BASELINE)
        raise BundleCorrupt(
            f"{where}: {MANIFEST} has {there!r} and no {missing!r}; a bundle has both or neither; "
            f"{AGAIN}"
        )
    if not manifest.features.label and (checks or has_file or fallback.rules):
        raise BundleCorrupt(
            f"{where}: a model of plain tensors has checks, rules or a baseline, which need "
            f"features of ours; {AGAIN}"
        )
    if manifest.baseline is not None:
        _check_accepts(where, manifest.baseline, fields)


def _check_accepts(where: str, baseline: BaselineInfo, fields: Sequence[Field]) -> None:
    """Whether what the baseline reads and accepts is among the bundle's fields."""
    known = {field.name: field for field in fields}
    strangers = [name for name in baseline.fields if name not in known]
    strangers += [name for name in baseline.accepts if name not in baseline.fields]
    if strangers:
        raise BundleCorrupt(
            f"{where}: the baseline of {MANIFEST} reads or accepts {sorted(strangers)}; the fields "
            f"are {list(known)}, and it accepts troubles of those that it reads; {AGAIN}"
        )
    for name, accepted in baseline.accepts.items():
        if impossible := sorted(set(accepted) - set(troubles_of(known[name]))):
            raise BundleCorrupt(
                f"{where}: the baseline of {MANIFEST} accepts {impossible} of field {name!r}, "
                f"which cannot have it; {AGAIN}"
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
    fitted: Fitted | None,
    encoder: RecordEncoder,
    baseline: Baseline | None,
) -> Ladder:
    fields = () if fitted is None else fitted.fields
    vocabularies = {} if fitted is None else fitted.vocabularies
    outputs = manifest.outputs
    try:
        rules = Rules(fallback.rules, fallback.default, fields, vocabularies, outputs)
        return Ladder(
            outputs,
            manifest.decision,
            fallback,
            fields,
            encoder.encode,
            baseline=baseline,
            rules=rules,
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleCorrupt(f"{where}: {FALLBACK} cannot be used: {error}; {AGAIN}") from error
