"""The baseline: a simpler model with features of its own, for what the model does not answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.fields import FLAG_NAMES, Field
from features.runtime import Session
from models.manifest import BaselineInfo, OutputSpec
from models.outputs import ModelOutputs, Validity


class Baseline:
    """The baseline of one bundle, opened. Immutable; any thread may call it.

    Args:
        session: of `baseline.onnx`: encoded rows to the outputs of the model.
        info: which fields it reads, and with which of their troubles it answers all the same.
        fields: of the bundle, in the row's order.
        outputs: of the model, and so of the baseline.
        batch_exact: whether batches may be run as one; None is what the manifest says.
    """

    __slots__ = ("_refused", "_session", "_validity", "batch_exact", "info")

    def __init__(
        self,
        session: Session,
        info: BaselineInfo,
        fields: Sequence[Field],
        outputs: Sequence[OutputSpec],
        *,
        batch_exact: bool | None = None,
    ) -> None:
        self.info = info
        self.batch_exact = info.batch_exact if batch_exact is None else batch_exact
        self._session = session
        self._validity = Validity(outputs)
        self._refused = _refused(info, fields)

    def answers(self, flags: NDArray[np.uint8]) -> bool:
        """Whether it accepts every trouble of the fields that it reads; flags uint8 (F,)."""
        return not self.refuses(flags)

    def refuses(self, flags: NDArray[np.uint8]) -> list[tuple[int, int]]:
        """Field index and flag of each trouble that it does not accept; flags uint8 (F,)."""
        found = enumerate(flags.tolist())
        return [trouble for trouble in found if trouble[1] and trouble in self._refused]

    def run(self, rows: NDArray[np.float64]) -> ModelOutputs:
        """Its outputs for encoded rows float64 (n, F), n > 0, in one run."""
        return ModelOutputs(self._session.run(rows))

    def ask(self, rows: NDArray[np.float64]) -> list[list[Any] | str]:
        """Per row its answer, a value for each output, or the reason why there is none.

        A row's answer is what it would be alone: rows are run one by one where batches have other
        bits, or where their shared run raises.

        Args:
            rows: float64 (n, F), as the model would get them.
        """
        if len(rows) > 1 and not self.batch_exact:
            return self._one_by_one(rows)
        try:
            outputs = self.run(rows)
        except Exception:  # noqa: BLE001  (onnxruntime raises many kinds; the rules answer)
            return ["model_error"] if len(rows) == 1 else self._one_by_one(rows)
        columns = [column.tolist() for column in outputs.values]
        answers: list[list[Any] | str] = [list(row) for row in zip(*columns, strict=True)]
        for row in self._validity.invalid(outputs):
            answers[row] = "output_invalid"
        return answers

    def _one_by_one(self, rows: NDArray[np.float64]) -> list[list[Any] | str]:
        return [self.ask(rows[place : place + 1])[0] for place in range(len(rows))]


def _refused(info: BaselineInfo, fields: Sequence[Field]) -> frozenset[tuple[int, int]]:
    return frozenset(
        (place, flag)
        for place, field in enumerate(fields)
        if field.name in info.fields
        for flag, trouble in enumerate(FLAG_NAMES)
        if flag and trouble not in info.accepts.get(field.name, ())
    )
