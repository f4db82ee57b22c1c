"""`onnx_op`: what the catalogue lacks, as an ONNX graph, if it behaves as an operator must.

It is read once, here: what may be in it, and what it does with rows that are plain, odd and
extreme. A feature set that is loaded trusts what was declared; its digest covers the bytes.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import numpy as np
from numpy.typing import NDArray

from features.errors import DeclarationError
from features.nodes import Expression
from features.numbers import Columns, Number, operand

if TYPE_CHECKING:
    import onnx

    from features.runtime import Session

LARGEST_BYTES: Final = 1 << 20
"""Of a graph; it is part of features.json, where it takes a third more."""

REFUSED: Final = frozenset(
    {
        *("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"),
        *("RandomUniform", "RandomUniformLike"),
    }
)
"""Operators whose answer is another each time."""

EXTREMES: Final = (
    *(np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 1e9, -1e9, 2.0**53, -(2.0**53)),
    *(1e300, -1e300, 1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 2.2e-308),
)
BATCHES: Final = (64, 33, 16, 8, 7, 4, 3, 2)
"""Full lanes and remainders of every kind."""

Floats = NDArray[np.float64]


@overload
def onnx_op(
    model: "bytes | onnx.ModelProto", inputs: Sequence[Expression], *, width: Literal[1] = 1
) -> Number: ...
@overload
def onnx_op(
    model: "bytes | onnx.ModelProto", inputs: Sequence[Expression], *, width: int
) -> Columns: ...
def onnx_op(
    model: "bytes | onnx.ModelProto", inputs: Sequence[Expression], *, width: int = 1
) -> Number | Columns:
    """The output of an ONNX graph over expressions: the hatch for what no operator does.

    The graph computes each row by itself, from any float64 (null is NaN) to a number or NaN, with
    the same bits alone and in a batch. That is tried here, with rows of all kinds.

    Args:
        model: opset 21, operators of the standard domain and ai.onnx.ml, no graphs in graphs, no
            functions, no external data, nothing random; 1 MiB at most. It reads one float64 or
            float32 [n, number of inputs], or one [n, 1] for each input; its one output is float64
            or float32 [n, width].
        inputs: numbers, truth values (1, 0 or null) or timestamps (seconds since 1970).
        width: columns of the output.

    Raises:
        DeclarationError: the graph is none of that kind, raises on a row, or gives other bits for a
            row alone than in a batch (rounded to float32).
    """
    import onnx

    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    expressions = [operand(value) for value in inputs]
    read = _read(given)
    _check_plain(read)
    types = _check_inputs(read, expressions)
    _check_output(read)
    _try(_Tried(_opened(read), types, len(expressions), width))
    params = {"model": base64.b64encode(given).decode("ascii")}
    if width == 1:
        return Number("onnx/1", expressions, params)
    return Columns("onnx_columns/1", expressions, {**params, "width": width})


# what it is


def _read(given: Any) -> "onnx.ModelProto":
    import onnx
    from google.protobuf.message import DecodeError

    if not isinstance(given, bytes):
        raise DeclarationError(
            f"onnx_op(): the graph is a {type(given).__name__}; give an onnx.ModelProto or the "
            "bytes of a file"
        )
    if len(given) > LARGEST_BYTES:
        raise DeclarationError(
            f"onnx_op(): the graph has {len(given):,} bytes, at most {LARGEST_BYTES:,} fit into "
            "features.json; a model of that size belongs behind the features"
        )
    try:
        model = onnx.load_from_string(given)
        onnx.checker.check_model(model, full_check=True)
    except (
        DecodeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise DeclarationError(f"onnx_op(): this is no valid ONNX graph: {error}") from error
    return model


def _check_plain(model: "onnx.ModelProto") -> None:
    from features.graph import OPSET
    from features.subgraphs import ML_DOMAIN, inner_graphs, ml_version, opsets_of

    opsets = opsets_of(model)
    if opsets.get("") != OPSET or opsets.keys() - {"", ML_DOMAIN}:
        raise DeclarationError(
            f"onnx_op(): the graph uses opsets {opsets}; expected {OPSET} of the standard domain, "
            f"and {ML_DOMAIN} if need be. onnx.version_converter brings it there"
        )
    ml_version([model])
    if model.functions:
        raise DeclarationError("onnx_op(): the graph has functions; onnx.inliner removes them")
    for node in model.graph.node:
        if any(inner_graphs(node)):
            raise DeclarationError(
                f"onnx_op(): the graph has {node.op_type}, with a graph inside it; rows are "
                "computed all at once: choose with Where"
            )
        if node.op_type in REFUSED:
            raise DeclarationError(
                f"onnx_op(): the graph has {node.op_type}, which gives another answer each time"
            )
    if model.graph.sparse_initializer or any(map(_is_external, _tensors(model))):
        raise DeclarationError(
            "onnx_op(): the graph has constants that are sparse or in another file; onnx.load(path)"
            " reads them, and the file saved from that has all"
        )


def _tensors(model: "onnx.ModelProto") -> "Iterator[onnx.TensorProto]":
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors


def _is_external(tensor: "onnx.TensorProto") -> bool:
    return tensor.data_location == tensor.EXTERNAL


def _check_inputs(
    model: "onnx.ModelProto", expressions: Sequence[Expression]
) -> "dict[str, tuple[int, type[np.floating]]]":
    """Width and type of each input, by name."""
    from features.subgraphs import inputs_of

    if not expressions or any(value.op == "constant" for value in expressions):
        raise DeclarationError(
            "onnx_op(): give one expression at least as input; constants belong into the graph"
        )
    values = inputs_of(model)
    together, apart = [(0, len(expressions))], [(0, 1)] * len(expressions)
    if list(map(_shape, values)) not in (together, apart):
        raise DeclarationError(
            f"onnx_op(): the graph's inputs are {', '.join(map(_described, values)) or 'none'}; "
            f"for {len(expressions)} expressions expected [n, {len(expressions)}], or "
            "[n, 1] for each, with any number of rows n"
        )
    return {value.name: (_shape(value)[1], _float_type(value)) for value in values}


def _check_output(model: "onnx.ModelProto") -> None:
    outputs = model.graph.output
    if len(outputs) != 1:
        raise DeclarationError(f"onnx_op(): the graph has {len(outputs)} outputs; expected one")
    _float_type(outputs[0])
    if not any(outputs[0].name in node.output for node in model.graph.node):
        raise DeclarationError(
            f"onnx_op(): no node computes the output {outputs[0].name!r}; end with Identity"
        )


def _shape(value: "onnx.ValueInfoProto") -> tuple[int, ...]:
    """Sizes, 0 for what is open."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _float_type(value: "onnx.ValueInfoProto") -> "type[np.floating]":
    from onnx import TensorProto

    types: dict[int, type[np.floating]] = {
        TensorProto.DOUBLE: np.float64,
        TensorProto.FLOAT: np.float32,
    }
    found = types.get(value.type.tensor_type.elem_type)
    if found is None:
        raise DeclarationError(
            f"onnx_op(): {_described(value)} is neither float64 nor float32; end or begin with Cast"
        )
    return found


def _described(value: "onnx.ValueInfoProto") -> str:
    from onnx import TensorProto

    kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    shape = ", ".join(str(size or "n") for size in _shape(value))
    return f"{value.name!r} {kind} [{shape}]"


# what it does


@dataclass(frozen=True, slots=True)
class _Tried:
    """A graph that is tried out."""

    session: "Session"
    types: "dict[str, tuple[int, type[np.floating]]]"
    inputs: int
    width: int

    def run(self, rows: Floats) -> NDArray[Any]:
        """The output of rows float64 (n, inputs)."""
        columns = np.split(rows, rows.shape[1], axis=1) if len(self.types) > 1 else [rows]
        with np.errstate(over="ignore"):
            given = {
                name: np.ascontiguousarray(column.astype(dtype))
                for (name, (_, dtype)), column in zip(self.types.items(), columns, strict=True)
            }
        try:
            (found,) = self.session.run_named(given)
        except Exception as error:
            raise DeclarationError(
                f"onnx_op(): the graph raises on {_some(rows)}: {error}. It must give a number or "
                "NaN for any row: guard with IsNaN, Where, Max and Min"
            ) from error
        if found.shape != (len(rows), self.width):
            raise DeclarationError(
                f"onnx_op(): of {len(rows)} rows the graph makes {list(found.shape)}, expected "
                f"[{len(rows)}, {self.width}]; it must compute each row by itself, and width= "
                "says how many columns it gives"
            )
        return found


def _opened(model: "onnx.ModelProto") -> "Session":
    from features.graph import IR_VERSION
    from features.runtime import Session

    model.ir_version = IR_VERSION  # ours is what the nodes will be part of
    try:
        return Session(model.SerializeToString())
    except Exception as error:
        raise DeclarationError(f"onnx_op(): onnxruntime cannot run the graph: {error}") from error


def _try(tried: _Tried) -> None:
    """Each row has to give what it gives in any company."""
    rows = _rows(tried.inputs)
    alone = np.concatenate([tried.run(rows[index : index + 1]) for index in range(len(rows))])
    for size in (len(rows), *BATCHES):
        pieces = [tried.run(rows[start : start + size]) for start in range(0, len(rows), size)]
        differs = (_bits(np.concatenate(pieces)) != _bits(alone)).any(axis=1)
        if differs.any():
            raise DeclarationError(
                f"onnx_op(): {_some(rows[np.argmax(differs)][None])} gives another result in a "
                f"batch of {size} than alone, so training would see what serving does not; compute "
                "each row by itself and in float64, float32 sums differ in their last bits"
            )


def _rows(count: int) -> Floats:
    """Rows of one extreme value, of many, and of plausible numbers, the same each time."""
    rng = np.random.default_rng(0)
    same = np.repeat(np.array(EXTREMES)[:, None], count, axis=1)
    mixed = rng.choice(EXTREMES, (40, count))
    usual = rng.normal(0, 1, (120, count)) * 10.0 ** rng.integers(-3, 10, (120, count))
    whole = rng.integers(-3, 12, (60, count)).astype(np.float64)
    usual[rng.random(usual.shape) < 0.05] = np.nan
    return np.concatenate([usual, same, mixed, whole])


def _bits(values: NDArray[Any]) -> NDArray[np.int32]:
    """Of what a feature is: float32, one zero, and one null for what is not finite."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32) + np.float32(0)
    return np.where(np.isfinite(single), single, np.float32(np.nan)).view(np.int32)


def _some(rows: Floats) -> str:
    return f"row {rows[0].tolist()}" if len(rows) == 1 else f"a batch of {len(rows)} rows"
