"""What one row costs: encoding against parsing, the fused graph against an empty one; and a table.

    python benchmarks/row.py [--json FILE]

Ratios within one run; microseconds only tell the size.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pyarrow as pa
from _measure import interleaved, ratio
from onnx import TensorProto, helper

from features import FeatureSet, boolean, category, number, timestamp
from features.runtime import Session
from models.bundle import Bundle

SHIPPED = Path(__file__).parent.parent / "models" / "shipped" / "flights" / "1"
FIELDS = 24
TABLE_ROWS = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {**one_row(), **encoding(), **table()}
    for name, value in figures.items():
        print(f"{name:45} {value:12,.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def one_row() -> dict[str, float]:
    """The shipped bundle's fused graph, one row, against an Identity graph with the same input."""
    bundle = Bundle.open(SHIPPED)
    row = bundle.encoder.encode([example(bundle)]).rows
    fused = Session(str(SHIPPED / "model.onnx"))
    empty = Session(identity(row.shape[1]))
    taken = interleaved({"fused": lambda: fused.run(row), "empty": lambda: empty.run(row)})
    return {
        "features + model / identity graph": ratio(taken["fused"], taken["empty"]),
        "features + model, µs": min(taken["fused"]),
        "identity graph, µs": min(taken["empty"]),
    }


def example(bundle: Bundle) -> dict[str, Any]:
    return {field.name: field.example for field in bundle.fields}


def identity(width: int) -> bytes:
    shape = ["n", width]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["row"], ["same"], name="identity")],
        "identity",
        [helper.make_tensor_value_info("row", TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info("same", TensorProto.DOUBLE, shape)],
    )
    opset = [helper.make_opsetid("", 21)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return model.SerializeToString()


def encoding() -> dict[str, float]:
    """Records of 24 fields, every other with a null, against `json.loads` of the same."""
    fitted = wide_set().fit(wide_table(2_000), quiet=True)
    encoder = fitted.record_encoder
    records = [wide_record(0), wide_record(1)]
    bodies = [json.dumps(record) for record in records]

    def encode() -> None:
        for record in records:
            encoder.encode([record])

    def parse() -> None:
        for body in bodies:
            json.loads(body)

    taken = interleaved({"encode": encode, "parse": parse})
    return {
        "encode 24 fields / json.loads": ratio(taken["encode"], taken["parse"]),
        "encode 24 fields, µs": min(taken["encode"]) / 2,
    }


def wide_set() -> FeatureSet:
    numbers = [number(f"n{index}", low=0, high=1_000) for index in range(18)]
    features: dict[str, Any] = {
        f"n{index}": x.impute("median").log1p().standardize() for index, x in enumerate(numbers)
    }
    features |= {f"c{index}": category(f"c{index}").one_hot() for index in range(4)}
    features["b"] = boolean("b").impute(0)
    features["hour"] = timestamp("at", tz="Europe/Paris").hour()
    return FeatureSet("wide", version=1, features=features)


def wide_record(row: int) -> dict[str, Any]:
    values: dict[str, Any] = {f"n{index}": (index * 37.5 + row) % 1_000 for index in range(18)}
    values |= {f"c{index}": f"text-{(index + row) % 9}" for index in range(4)}
    values |= {"b": row % 2 == 0, "at": f"2024-05-{row % 28 + 1:02d}T12:{row % 60:02d}:00Z"}
    return {**values, "n3": None} if row % 2 else values


def wide_table(rows: int) -> pa.Table:
    return pa.Table.from_pylist([wide_record(row) for row in range(rows)])


def table() -> dict[str, float]:
    """`transform` from Arrow, rows a second on one core."""
    few = wide_table(2_000)
    fitted = wide_set().fit(few, quiet=True)
    many = pa.concat_tables([few] * (TABLE_ROWS // 2_000)).combine_chunks()
    fitted.transform(many, quiet=True)
    seconds = [seconds_of(lambda: fitted.transform(many, quiet=True)) for _ in range(5)]
    return {"transform from Arrow, rows/s": TABLE_ROWS / statistics.median(seconds)}


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
