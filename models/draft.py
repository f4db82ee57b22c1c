"""A bundle in the making: it answers already, but is in no store."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.encode_record import RecordEncoder
from features.fields import Field
from features.fitted import Fitted
from features.runtime import CHUNK_ROWS, Session
from models.ladder import Ladder
from models.manifest import Decision, Fallback, OutputSpec
from models.outputs import ModelOutputs


@dataclass(frozen=True, slots=True)
class Draft:
    """The fused model with its features."""

    fitted: Fitted
    session: Session
    outputs: tuple[OutputSpec, ...]

    @property
    def encoder(self) -> RecordEncoder:
        """Of records."""
        return self.fitted.record_encoder

    @property
    def fields(self) -> tuple[Field, ...]:
        """In the row's order."""
        return self.fitted.fields

    def run(self, rows: NDArray[np.float64]) -> ModelOutputs:
        """The model's outputs for encoded rows float64 (n, F)."""
        arrays = self.session.run(rows)
        values, (features, *checks) = arrays[: len(self.outputs)], arrays[len(self.outputs) :]
        return ModelOutputs(values, features, *checks)

    def run_all(
        self, rows: NDArray[np.float64], advance: Callable[[int], None] = lambda _: None
    ) -> ModelOutputs:
        """The same for many rows; their features are not kept."""
        return run_all(self.run, rows, advance)


def run_all(
    run: Callable[[NDArray[np.float64]], ModelOutputs],
    rows: NDArray[np.float64],
    advance: Callable[[int], None] = lambda _: None,
) -> ModelOutputs:
    """Outputs and checks of many rows, a chunk at a time; their features are not kept."""
    parts: list[ModelOutputs] = []
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        got = run(chunk)
        parts.append(ModelOutputs(got.values, checks=got.checks))
        advance(len(chunk))
    columns = zip(*(part.values for part in parts), strict=True)
    checks = [part.checks for part in parts if part.checks is not None]
    return ModelOutputs(
        [np.concatenate(column) for column in columns],
        checks=np.concatenate(checks) if checks else None,
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """A draft with who answers what; its ladder has the baseline and the rules."""

    draft: Draft
    fallback: Fallback
    decision: Decision
    ladder: Ladder

    @property
    def encoder(self) -> RecordEncoder:
        """Of records."""
        return self.draft.encoder

    @property
    def fields(self) -> tuple[Field, ...]:
        """In the row's order."""
        return self.draft.fields

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """What is answered."""
        return self.draft.outputs

    def run(self, rows: NDArray[np.float64]) -> ModelOutputs:
        """The model's outputs for encoded rows float64 (n, F)."""
        return self.draft.run(rows)
