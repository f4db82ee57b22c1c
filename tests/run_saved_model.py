"""Runs a saved model over saved rows in the three ways that must agree; argument: their folder.

Started by tests in an environment with another onnxruntime.
"""

import json
import sys
from pathlib import Path

import numpy as np

from features.runtime import Session, run_in_chunks, version


def main(folder: Path) -> None:
    session = Session(folder / "model.onnx")
    rows = np.load(folder / "rows.npy")
    for way, chunk_rows in (("alone", 1), ("batch", len(rows)), ("chunks", 7)):
        outputs = run_in_chunks(session, rows, chunk_rows)
        np.save(folder / f"{way}.npy", np.concatenate([output[0] for output in outputs]))
    print(json.dumps({"onnxruntime": version}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
