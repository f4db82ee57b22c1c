"""The files of bundle format 1 as data: `manifest.json`, `fallback.json` and `golden.json`.

Strict on purpose: a key that nobody knows is refused, because a bundle whose author meant something
by it would otherwise be served without it. `features.json` belongs to `features/`, `reference.json`
to `models/reference.py`. JSON Schemas of all of them are in `models/schemas/`.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from models.errors import BundleCorrupt, FormatUnknown

FORMAT: Final = 1
"""The bundle format that this version writes and reads."""

MANIFEST, SIGNATURE, CARD = "manifest.json", "manifest.sig", "card.md"
MODEL, BASELINE = "model.onnx", "baseline.onnx"
FEATURES, FALLBACK, GOLDEN, REFERENCE = (
    "features.json",
    "fallback.json",
    "golden.json",
    "reference.json",
)
REQUIRED: Final = (MODEL, FEATURES, FALLBACK, REFERENCE, GOLDEN, CARD)
"""Files that every bundle lists in its manifest."""
OPTIONAL: Final = (BASELINE,)

MODEL_NAME: Final = r"[a-z0-9][a-z0-9_-]{0,63}"
VERSION: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
CONDITION_NAME: Final = r"[a-z0-9_]{1,64}"
"""Of a check or a rule."""

ClassName = str | int | bool
Dtype = Literal["float32", "float64", "int64", "string", "bool"]
OutputKind = Literal["probability", "class_probabilities", "label", "value", "vector"]
PolicyName = Literal["accept", "repair", "baseline", "rules", "reject"]
CheckPolicy = Literal["baseline", "rules", "reject"]
Trouble = Literal["missing", "invalid", "out_of_bounds", "unknown"]
RungName = Literal["model", "baseline", "rules", "rejected"]
LONGEST_TEXT: Final = 300
"""Characters of a check's text, which answers have that refuse a record."""
END: Final = r"$(?!\n)"
"""Of a pattern: Python's `$` alone lets a line break through at the end."""

Hex256 = Annotated[str, Meta(pattern=f"^[0-9a-f]{{64}}{END}")]
Share = Annotated[float, Meta(ge=0, le=1)]
Float = float | Literal["nan", "inf", "-inf"]
"""A number of an answer; JSON has no words of its own for the last three."""


class Strict(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything here: immutable, and no key without a meaning."""


# manifest.json


class FileEntry(Strict, frozen=True, kw_only=True):
    """One file of the bundle; `size` in bytes."""

    name: str
    size: Annotated[int, Meta(ge=0)]
    sha256: Hex256


class FeaturesIdentity(Strict, frozen=True, kw_only=True):
    """Which definition and fitted state the model is bound to; empty texts in a tensor bundle."""

    label: str
    """`flights@1`: names a definition."""
    identity: str
    """`flights@1+` and the first 12 digits of `features_digest`."""
    spec_digest: str
    state_digest: str
    features_digest: str


class Tolerance(Strict, frozen=True, kw_only=True):
    """How far an output may be from what is expected: the larger of both."""

    absolute: Annotated[float, Meta(ge=0)]
    ulps: Annotated[int, Meta(ge=0)] = 0
    """float32 units in the last place of the expected value."""


class OutputSpec(Strict, frozen=True, kw_only=True):
    """One output of the model. The first of a manifest is the primary one, what `prediction` shows.

    `shape` is -1 for the rows, then the shape of one row's answer. `low` and `high` are the valid
    range, inclusive; an answer outside, or not finite, is not given.
    """

    name: str
    kind: OutputKind
    dtype: Dtype
    shape: tuple[int, ...] = (-1,)
    classes: tuple[ClassName, ...] | None = None
    """In the order of the probabilities; of a `probability` both, of a `label` those it can be."""
    positive: ClassName | None = None
    """The class whose probability a `probability` is."""
    low: float | None = None
    high: float | None = None
    unit: str | None = None
    tolerance: Tolerance = Tolerance(absolute=0)
    """Labels and their like are compared exactly, but where two classes are within tolerance."""


class Threshold(Strict, frozen=True, kw_only=True, omit_defaults=True):
    """A named range of the primary output: values below `below` that no earlier threshold took."""

    name: str = field(name="is")
    below: float | None = None


Decision = tuple[Threshold, ...] | Literal["classes"] | None
"""Of the primary output: its named ranges, ascending and the last one open, or its classes."""


class Label(Strict, frozen=True, kw_only=True):
    """What feedback sends, and how it is compared with an answer.

    `positive`: with the probability of the positive class; `equal`: with the label; `difference`:
    with the number.
    """

    type: Literal["boolean", "integer", "number", "string"]
    compare: Literal["positive", "equal", "difference"]


class Objectives(Strict, frozen=True, kw_only=True):
    """What the owner promises. `latency_seconds` is for 99 of 100 requests; ratios are 0 to 1."""

    latency_seconds: Annotated[float, Meta(gt=0)] | None = None
    availability_ratio: Share | None = None
    degraded_ratio: Share | None = None
    """Largest share of answers that may come from a rung below the model."""


class NativeCheck(Strict, frozen=True, kw_only=True):
    """How the ONNX model compared with the training library on rows it was not trained on."""

    rows: int
    edge_rows: int
    """Golden edge cases compared besides."""
    largest_difference: dict[str, float]
    """Per numeric output, absolute."""
    near_threshold: int
    """Rows whose label or decision differs where two classes, or a threshold, are in tolerance."""


class ModelOrigin(Strict, frozen=True, kw_only=True):
    """Where the model came from."""

    framework: str
    """`lightgbm`, `sklearn` or `onnx`."""
    estimator: str
    native_check: NativeCheck | None = None
    """None when no native model was given to compare with."""


class Holdout(Strict, frozen=True, kw_only=True):
    """Rows that checks, metrics and importances were computed on. `rule` says which they are."""

    rule: str
    rows: int


class Training(Strict, frozen=True, kw_only=True):
    """What the model was made from."""

    packed_at: str
    rows: int
    fingerprint: str
    """sha256 over the encoded rows and flags, in order."""
    holdout: Holdout
    target: str | None = None
    time: str | None = None
    """The column that says when a row was."""
    first: str | None = None
    last: str | None = None
    metrics: dict[str, float] = {}
    """Quality on the held-out rows."""
    slices: dict[str, dict[str, dict[str, float]]] = {}
    """The same by field and value, with the number `n` of rows; empty where they are too few."""
    code_commit: str | None = None


class BaselineInfo(Strict, frozen=True, kw_only=True):
    """The simpler model that answers where the model does not, with features of its own."""

    features: FeaturesIdentity
    fields: tuple[str, ...]
    """Those that it reads, in the order of the row."""
    accepts: dict[str, tuple[Trouble, ...]] = {}
    """Per field that it reads, the troubles with which it answers all the same."""
    batch_exact: bool
    """Its answers have the same bits alone and in a batch, where the bundle was packed."""
    model: ModelOrigin
    metrics: dict[str, float] = {}
    """Quality on the held-out rows."""


class Manifest(Strict, frozen=True, kw_only=True):
    """`manifest.json`: what the bundle is, and the digest of every other file."""

    format: Literal[1]
    name: Annotated[str, Meta(pattern=f"^{MODEL_NAME}{END}")]
    version: Annotated[str, Meta(pattern=f"^{VERSION}{END}")]
    description: str = ""
    features: FeaturesIdentity
    outputs: Annotated[tuple[OutputSpec, ...], Meta(min_length=1)]
    decision: Decision = None
    label: Label | None = None
    owner: str = ""
    contact: str = ""
    objectives: Objectives = Objectives()
    slices: tuple[str, ...] = ()
    route_key: str | None = None
    """The field whose value keeps a caller on one side of a canary."""
    sensitive: dict[str, Literal["drop", "hash", "encrypt"]] = {}
    checks: tuple[str, ...] = ()
    """Names of the model's boolean output columns, in their order."""
    batch_exact: bool
    """A row's answer has the same bits alone and in a batch, where the bundle was packed."""
    model: ModelOrigin
    baseline: BaselineInfo | None = None
    training: Training
    runtime: dict[str, str]
    """Versions of what it was packed with; `onnxruntime_oldest` is what it needs."""
    files: tuple[FileEntry, ...]


# fallback.json


class Policy(Strict, frozen=True, kw_only=True, omit_defaults=True):
    """Who answers a row whose field has a trouble; `value` is what a `repair` puts in instead."""

    policy: PolicyName
    # An integer stays one: a category of integers takes no 8.0.
    value: int | float | str | bool | None = None


class Check(Strict, frozen=True, kw_only=True):
    """A condition across fields, computed in the graph; `policy` applies where it is false."""

    name: Annotated[str, Meta(pattern=f"^{CONDITION_NAME}{END}")]
    expression: dict[str, Any]
    """A boolean expression over the fields, in its JSON form."""
    text: Annotated[str, Meta(max_length=LONGEST_TEXT)]
    """The same as people read it: what a rejected record should have been."""
    policy: CheckPolicy


class Rule(Strict, frozen=True, kw_only=True):
    """A CEL rule: the first whose `when` is true answers with `outputs`.

    `outputs` has a value for every output; `class_probabilities` may be null.
    """

    name: Annotated[str, Meta(pattern=f"^{CONDITION_NAME}{END}")]
    when: str
    outputs: dict[str, Any]


class Fallback(Strict, frozen=True, kw_only=True):
    """`fallback.json`: who answers when something is wrong (not what a bad value becomes).

    `policies` names every field and each trouble it can have. `default` is the last rule, which
    cannot fail: one value per output; `class_probabilities` may be null.
    """

    format: Literal[1]
    policies: dict[str, dict[Trouble, Policy]]
    checks: tuple[Check, ...] = ()
    max_repaired: Annotated[int, Meta(ge=0)] | None = None
    """More repaired fields than this in one row go to the next rung; null is no limit."""
    rules: tuple[Rule, ...] = ()
    default: dict[str, Any]


# golden.json


class Expected(Strict, frozen=True, kw_only=True):
    """A golden row's answer on each rung: a value per output, or null where it has none."""

    rung: RungName
    """Who answers by the policies."""
    reasons: tuple[str, ...] = ()
    repaired: dict[str, str] = {}
    bad: dict[str, str] = {}
    """Of a rejected row: field and trouble."""
    failed_checks: tuple[str, ...] = ()
    """Names of the checks that do not hold."""
    reason: str = "operator"
    """With which the rules are shown the row where it does not come to them by itself."""
    rule: str | None = None
    """The rule that answers on the rules rung; the last one is `default`."""
    decision: str | None = None
    model: dict[str, Any] | None = None
    baseline: dict[str, Any] | None = None
    rules: dict[str, Any] | None = None


class GoldenRow(Strict, frozen=True, kw_only=True):
    """A record and everything that is expected of it.

    `row` (float64) and `features` (float32) are the bytes of the numbers, little-endian, in
    hexadecimal: a decimal text would not tell one NaN or zero from another. `flags` has one code
    per field.
    """

    name: str
    """`sample 3`, or what the edge case is: `distance: missing`."""
    record: dict[str, Any]
    row: str
    flags: tuple[Annotated[int, Meta(ge=0, le=4)], ...]
    features: str
    expected: Expected


class GoldenTensors(Strict, frozen=True, kw_only=True):
    """Inputs and outputs of a tensor bundle, as nested lists."""

    name: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class Golden(Strict, frozen=True, kw_only=True):
    """`golden.json`: sample rows first, then the generated edge cases."""

    format: Literal[1]
    features_digest: str
    seed: int
    rows: tuple[GoldenRow, ...] = ()
    tensors: tuple[GoldenTensors, ...] = ()


# features.json of a tensor bundle


class TensorInput(Strict, frozen=True, kw_only=True):
    """An input of a plain ONNX model; -1 in `shape` is any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class TensorInputs(Strict, frozen=True, kw_only=True):
    """`features.json` of a bundle without features of ours."""

    kind: Literal["tensors"]
    inputs: tuple[TensorInput, ...]


T = TypeVar("T", bound=Struct)

NO_JSON: Final = (msgspec.MsgspecError, RecursionError)
"""What decoding raises; the second for lists in lists without end."""


class _Format(Struct):
    format: Any = None


def read(kind: type[T], content: bytes, *, what: str) -> T:
    """Parses one file of a bundle.

    Raises:
        FormatUnknown: `format` is not 1.
        BundleCorrupt: not JSON, or not what the schema says; `what` names the file in the message.
    """
    check_format(content, what=what)
    try:
        return msgspec.json.decode(content, type=kind)
    except NO_JSON as error:
        raise BundleCorrupt(f"{what} does not follow its schema: {error}; {AGAIN}") from error


def check_format(content: bytes, *, what: str) -> None:
    """Refuses what is no JSON object, and any format but 1."""
    try:
        found = msgspec.json.decode(content, type=_Format).format
    except NO_JSON as error:
        raise BundleCorrupt(f"{what} is not a JSON object ({error}); {AGAIN}") from error
    if found is True or found != FORMAT:
        raise FormatUnknown(
            f"{what} has format {found!r}, this version of keelmark reads format {FORMAT}. "
            "Serve it with the keelmark that packed it, or pack it again with this one."
        )


def write(value: Struct) -> bytes:
    """The bytes of a file: indented, because people read bundles too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


AGAIN: Final = "copy the bundle again from where it was packed, or pack it anew"
"""What to do about a file that is not what it was."""
