"""The only place that imports onnxruntime, and how this project runs it.

onnxruntime 1.31 and later send telemetry and write into the user's cache unless told not to before
the import; the variable is set here so that no caller can forget it.
"""

import os
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

FATAL_ONLY: Final = 4
CHUNK_ROWS: Final = 1024
"""Rows a `run`: enough to make the call's own cost vanish, few enough for the cache."""

version: Final[str] = ort.__version__
opens_aside: Final = tuple(map(int, version.split(".")[:2])) >= (1, 31)
"""Whether other threads of Python go on while a model is opened by its path (seen from 1.31 on)."""


class Tensor(NamedTuple):
    """An input or output as a model declares it.

    `type` is onnxruntime's word, as `tensor(float)`; a dimension of any size is a text or None.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Session:
    """A model opened on the CPU with one thread. `run` may be called from several threads at once.

    One intra-op thread without spinning: with two, p99 rises to milliseconds when cores are shared,
    and requests are what runs in parallel here. The memory pattern stays on (off costs 18 % at one
    row).
    """

    __slots__ = ("_input", "_names", "_run", "gives", "takes")

    def __init__(self, model: bytes | str | os.PathLike[str]) -> None:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else os.fspath(model),
            session_options(),
            providers=["CPUExecutionProvider"],
        )
        self.takes = tuple(_tensor(tensor) for tensor in session.get_inputs())
        self.gives = tuple(_tensor(tensor) for tensor in session.get_outputs())
        self._run: Any = session.run
        self._input: str = self.takes[0].name
        self._names: list[str] = [output.name for output in self.gives]

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self._names)

    def run(self, rows: NDArray[Any]) -> list[NDArray[Any]]:
        """All outputs, in the model's order, for the rows of its first input."""
        return self._run(self._names, {self._input: rows})

    def run_named(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs of a model with several inputs."""
        return self._run(self._names, inputs)


def _tensor(declared: Any) -> Tensor:
    return Tensor(declared.name, declared.type, tuple(declared.shape))


def session_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def save_for_this_machine(model: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Writes what onnxruntime makes of a model here, in its own format; see its `ORT format`."""
    options = session_options()
    options.optimized_model_filepath = os.fspath(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(os.fspath(model), options, providers=["CPUExecutionProvider"])


def run_in_chunks(
    session: Session, rows: NDArray[np.float64], chunk_rows: int = CHUNK_ROWS
) -> list[list[NDArray[Any]]]:
    """Outputs per chunk; chunks of about a thousand rows stay in the cache and are the fastest."""
    starts = range(0, len(rows), chunk_rows)
    return [session.run(rows[start : start + chunk_rows]) for start in starts]
