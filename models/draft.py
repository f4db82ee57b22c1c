"""A bundle in the making: it answers already, but is in no store."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.encode_record import RecordEncoder
from features.feature_set import Fitted
from features.fields import Field
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
        return ModelOutputs(arrays[: len(self.outputs)], arrays[len(self.outputs)])

    def run_all(
        self, rows: NDArray[np.float64], advance: Callable[[int], None] = lambda _: None
    ) -> ModelOutputs:
        """The same for many rows; their features are not kept."""
        parts: list[ModelOutputs] = []
        for start in range(0, len(rows), CHUNK_ROWS):
            chunk = rows[start : start + CHUNK_ROWS]
            parts.append(ModelOutputs(self.run(chunk).values))
            advance(len(chunk))
        columns = zip(*(part.values for part in parts), strict=True)
        return ModelOutputs([np.concatenate(column) for column in columns])


@dataclass(frozen=True, slots=True)
class Settled:
    """A draft with who answers what."""

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
