"""A bundle with a field for every cell of the ladder's table: kind of field × policy.

Its model says what it was given, column by column, so that an answer tells which row the model got;
`x` makes it go wrong in every way a model can, `b` the baseline. The t-fields fail a check each.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from features import FeatureSet, Fitted, boolean, category, number, timestamp
from models import OnnxModel, pack
from models.manifest import OutputSpec
from models.policies import repair

POLICIES: Final = ("accept", "repair", "value", "baseline", "rules", "reject", "usual", "needed")
"""As declared, for all troubles of a field; `value` repairs with one of its own. `usual` declares
none, `needed` none either and is not nullable."""

Cells = Sequence[tuple[str, str]]
KINDS: Final = ("num", "clip", "keep", "flag", "word", "code", "at", "ms")
GOOD_OF: Final[Mapping[str, Any]] = {
    "num": 5.0,
    "clip": 5.0,
    "keep": 5.0,
    "flag": True,
    "word": "red",
    "code": 7,
    "at": "2024-03-05T04:00:00Z",
    "ms": 1_709_611_200_000,
}
BAD_OF: Final[Mapping[tuple[str, str], Sequence[Any]]] = {
    ("num", "missing"): (None,),
    ("num", "invalid"): ("5", True, [5], {"v": 5}, 2**53 + 1, 10**400),
    ("num", "out_of_bounds"): (10.5, -1, 1e308, 2**53),
    ("clip", "missing"): (None,),
    ("clip", "invalid"): ("", [], 2**64),
    ("clip", "out_of_bounds"): (11, -0.5),
    ("keep", "missing"): (None,),
    ("keep", "invalid"): ("NaN", False),
    ("keep", "out_of_bounds"): (12.0, -3),
    ("flag", "missing"): (None,),
    ("flag", "invalid"): (1, 0, "true", "", [True]),
    ("word", "missing"): (None,),
    ("word", "invalid"): (7, True, 1.5, ["red"]),
    ("word", "unknown"): (" green ", "", "Red", "re\0d", "x" * 5_000),
    ("code", "missing"): (None,),
    ("code", "invalid"): ("7", 7.0, True, {}),
    ("code", "unknown"): (9, -7, 2**70, 10**300),
    ("at", "missing"): (None,),
    ("at", "invalid"): ("noon", "2024-03-05", 1_709_611_200, "2024-02-30T04:00Z", True),
    ("ms", "missing"): (None,),
    ("ms", "invalid"): ("2024-03-05T04:00:00Z", False, 1e300, 10**30),
}
"""By kind and trouble, values that are in it; the first is what combinations are made of."""

OWN_VALUE: Final[Mapping[str, Any]] = {
    "num": 3.0,
    "clip": 3.0,
    "keep": 3.0,
    "flag": False,
    "word": "blue",
    "code": 8,
    "at": "2024-03-05T09:00:00Z",
    "ms": 1_709_611_200_000 + 11 * 60_000,
}
"""What the policy `value` puts in."""

X_NAN, X_INFINITE, X_TOO_LARGE, X_RAISES = 1001.0, 1002.0, 2000.0, 3000.0
B_NAN, B_INFINITE, B_RAISES = 101.0, 400.0, 300.0
RULE_RAISES = 777.0
LARGEST: Final = 1500.0
TABLE_ROWS: Final = 1_000
CELLS: Final[Cells] = tuple(
    (kind, policy)
    for policy in POLICIES
    for kind in KINDS
    # Who answers does not depend on what becomes of the value, nor the usual policy on the kind.
    if kind not in ("clip", "keep") or policy in ("accept", "repair", "rules")
    if policy not in ("usual", "needed") or kind in ("num", "word")
)
FEW_CELLS: Final[Cells] = tuple(
    (kind, policy)
    for policy in POLICIES
    for kind in KINDS
    if policy in ("rules", "usual", "needed") or kind == "num"
    if policy != "baseline"
)
"""For a bundle without a baseline."""

BASELINE_READS: Final = ("accept", "value", "baseline")
"""The policies whose fields the baseline reads; it accepts that they are missing, and no more."""

X, B = number("x", low=-5000, high=5000), number("b", low=-500, high=500)
TESTED: Final = {policy: number(f"t_{policy}") for policy in ("baseline", "rules", "reject")}
EXTRA: Final = ("repaired_1", "repaired_2")
"""Fields that are repaired when invalid, to make too many of them."""

BAD_WORD, CLIPPED, KEPT = {"word_rules": " green "}, {"clip_rules": 11}, {"keep_rules": 12.0}
RULES: Final[Sequence[tuple[str, str, float, Mapping[str, Any]]]] = (
    ("raises", "1 / (int(r.x) - 777) == 1", 11.0, {"x": 778}),
    ("late", "reason == 'deadline' && r.x > -10.0", 12.0, {}),
    ("green", "r.word_rules == 'green' && flag.word_rules == 'unknown'", 13.0, BAD_WORD),
    ("big", "r.num_reject < 0.0 || !(r.num_rules < 11.0) || r.clip_rules > 9.5", 14.0, CLIPPED),
    ("lost", "r.at_rules == null && reason == 'at_rules:missing'", 15.0, {"at_rules": None}),
    ("kept", "r.keep_rules == 12.0 && flag.keep_rules == 'out_of_bounds'", 16.0, KEPT),
)
"""Name, condition, score, and what makes a good record one that it answers."""

DEFAULT_SCORE: Final = 10.0
STEPS: Final = ((0.0, "low"), (12.5, "middle"), (None, "high"))


def field_of(kind: str, policy: str) -> Any:
    name, nullable = f"{kind}_{policy}", policy != "needed"
    if kind in ("num", "clip", "keep"):
        bounds: Any = "null" if kind == "num" else kind
        return number(name, low=0, high=10, out_of_bounds=bounds, nullable=nullable)
    if kind == "flag":
        return boolean(name, nullable=nullable)
    if kind == "word":
        words = ["red", "blue"]
        return category(name, vocabulary=words, normalize=["strip"], nullable=nullable)
    if kind == "code":
        return category(name, of="integer", vocabulary=[7, 8], nullable=nullable)
    return timestamp(name, unit="ms" if kind == "ms" else None, nullable=nullable)


def echo_of(kind: str, policy: str) -> Any:
    """The column of a field: a small whole number, -1 for null."""
    field = field_of(kind, policy)
    if kind in ("word", "code"):
        return field.ordinal().impute(-2)
    if kind in ("at", "ms"):
        return (field.hour() if kind == "at" else field.minute()).impute(-1)
    return field.impute(-1)


def columns(cells: Cells) -> dict[str, Any]:
    made = {f"{kind}_{policy}": echo_of(kind, policy) for kind, policy in cells}
    extra = {name: number(name).impute(-1) for name in EXTRA}
    tested = {f"t_{policy}": field.impute(0) for policy, field in TESTED.items()}
    return {"x": X.impute(0), "b": B.impute(0), **extra, **tested, **made}


def table(cells: Cells) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    found: dict[str, Any] = {
        "x": rng.integers(-9, 30, TABLE_ROWS).astype(float),
        "b": rng.integers(-9, 30, TABLE_ROWS).astype(float),
        **{f"t_{policy}": np.zeros(TABLE_ROWS) for policy in TESTED},
        **{name: np.ones(TABLE_ROWS) for name in EXTRA},
    }
    return found | {f"{kind}_{policy}": [GOOD_OF[kind]] * TABLE_ROWS for kind, policy in cells}


def good(cells: Cells = CELLS) -> dict[str, Any]:
    """A record with nothing wrong; the model scores it 20."""
    own = {f"{kind}_{policy}": GOOD_OF[kind] for kind, policy in cells}
    tested = {f"t_{policy}": 0 for policy in TESTED}
    return {"x": 20, "b": 3, **dict.fromkeys(EXTRA, 1), **tested, **own}


def model_over(
    width: int, place: int, seen: Sequence[int], *, nan: float, inf: float, raising: float
) -> bytes:
    """`score` is the column at `place`, `seen` those there; two values break it, one raises."""

    def constant(name: str, value: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [
        helper.make_node("Gather", ["features", "place"], ["x"], axis=1),
        helper.make_node("Equal", ["x", "is_nan"], ["nan_now"]),
        helper.make_node("Where", ["nan_now", "nan", "x"], ["first"]),
        helper.make_node("Equal", ["x", "is_inf"], ["inf_now"]),
        helper.make_node("Where", ["inf_now", "inf", "first"], ["second"]),
        helper.make_node("Equal", ["x", "is_raising"], ["raises_now"]),
        helper.make_node("Cast", ["raises_now"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zero", "index"], ["nothing"]),  # of one: 1 is out of range
        helper.make_node("Add", ["second", "nothing"], ["score"]),
        helper.make_node("Gather", ["features", "columns"], ["seen"], axis=1),
    ]
    constants = {
        "place": np.int64(place),
        "columns": np.asarray(seen, np.int64),
        "is_nan": np.float32(nan),
        "is_inf": np.float32(inf),
        "is_raising": np.float32(raising),
        "nan": np.float32("nan"),
        "inf": np.float32("inf"),
        "zero": np.zeros(1, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["n", len(seen)]),
        ],
        [constant(name, value) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 21)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return made.SerializeToString()


def onnx_model(model: bytes, width: int) -> OnnxModel:
    seen = OutputSpec(name="seen", kind="vector", dtype="float32", shape=(-1, width))
    return OnnxModel(model, outputs={"score": "value", "seen": seen})


def pack_cells(
    store: Path,
    name: str,
    *,
    cells: Cells = CELLS,
    max_repaired: int | None,
    has_baseline: bool,
) -> Path:
    """Publishes version 1; without a baseline no policy may name one."""
    rows, made = table(cells), columns(cells)
    fitted = FeatureSet(name, version=1, features=made).fit(rows, quiet=True)
    width = len(made)
    model = model_over(width, 0, range(width), nan=X_NAN, inf=X_INFINITE, raising=X_RAISES)
    zeros = [0.0] * width
    accepted = {field: ["missing"] for field in read_by_baseline()}
    good_record = good(cells)
    return pack(
        store,
        name,
        "1",
        features=fitted,
        model=onnx_model(model, width),
        training=rows,
        baseline=baseline_of(name, made, rows) if has_baseline else None,
        baseline_accepts=accepted if has_baseline else None,
        policies=declared(cells),
        checks={
            f"check_{policy}": {
                "holds": field < 1,
                "policy": policy,
                "example": {**good_record, f"t_{policy}": 1},
            }
            for policy, field in TESTED.items()
            if has_baseline or policy != "baseline"
        },
        max_repaired=max_repaired,
        rules=[
            {
                "name": rule,
                "when": when,
                "outputs": {"score": score, "seen": zeros},
                "example": {**good_record, **example},
            }
            for rule, when, score, example in RULES
        ],
        default={"score": DEFAULT_SCORE, "seen": zeros},
        decision=[{"is": name} | ({} if b is None else {"below": b}) for b, name in STEPS],
        valid_range=(-LARGEST, LARGEST),
        progress=False,
    )


def declared(cells: Cells) -> dict[str, Any]:
    def of(kind: str, policy: str) -> Any:
        return repair(OWN_VALUE[kind]) if policy == "value" else policy

    named = [cell for cell in cells if cell[1] not in ("usual", "needed")]
    own = {f"{kind}_{policy}": of(kind, policy) for kind, policy in named}
    return {**own, **dict.fromkeys(EXTRA, "repair")}


def read_by_baseline() -> list[str]:
    read = ((kind, policy) for kind, policy in CELLS if policy in BASELINE_READS)
    return ["b", *(f"{kind}_{policy}" for kind, policy in read)]


def baseline_of(name: str, made: Mapping[str, Any], rows: Any) -> tuple[Fitted, OnnxModel]:
    own = {field: made[field] for field in read_by_baseline()}
    fitted = FeatureSet(f"{name}-baseline", version=1, features=own).fit(rows, quiet=True)
    # Whatever it does not read, it shows b for.
    seen = [list(own).index(field) if field in own else 0 for field in made]
    model = model_over(len(own), 0, seen, nan=B_NAN, inf=B_INFINITE, raising=B_RAISES)
    return fitted, onnx_model(model, len(made))
