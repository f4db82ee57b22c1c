"""Quality by slice: how good a model is where a field has each of its values."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded, shortest
from features.fields import FLAG_NAMES, Field
from features.zones import Zone
from models.bins import Bins, CodeBins
from models.columns import Columns
from models.evaluation import Floats, metrics, rounded
from models.manifest import OutputSpec
from models.outputs import ModelOutputs
from models.shapes import Part, Shape

FEWEST_ROWS: Final = 20
"""Fewer say little about the model, and may say much about somebody."""
PARTS: Final[tuple[Part, ...]] = ("value", "hour", "weekday")

Slices = dict[str, dict[str, dict[str, float]]]
"""Field, value, metric; `n` rows are behind the metrics, and without metrics there were too few."""


def quality_by_slice(
    names: Sequence[str],
    fields: Sequence[Field],
    zones: Mapping[str, Zone],
    shapes: Sequence[Shape],
    encoded: Encoded,
    outputs: Sequence[OutputSpec],
    answers: ModelOutputs,
    target: Floats,
) -> Slices:
    """Metrics of the rows in each training bin of the named fields.

    A timestamp is cut by hour and by weekday. Numbers of sensitive fields are cut like others, but
    nothing says where; their texts are codes. A value that is not counted in any bin is under its
    trouble: `#missing`, `#invalid`, `#out_of_bounds`.

    Args:
        names: of the fields to cut by.
        fields, zones: of the encoded rows.
        shapes: of the reference, for its bins.
        encoded: held-out rows.
        outputs, answers: of the model for these rows.
        target: as numbers, NaN where unknown.
    """
    columns = Columns(fields, zones, ())
    count = len(encoded.rows)
    nothing, never = np.empty((count, 0)), np.zeros(count, np.bool_)
    values, enters = columns.read(
        encoded.rows, encoded.flags, nothing, never, np.full(count, np.nan)
    )
    places = {field.name: place for place, field in enumerate(fields)}
    slices: Slices = {}
    for shape in shapes:
        if shape.subject != "field" or shape.of not in names or shape.part not in PARTS:
            continue
        slot, field = columns.slots["field", shape.of, shape.part], fields[places[shape.of]]
        counted = enters[slot]
        where = np.where(counted, shape.bins.index(np.where(counted, values[slot], 0.0)), -1)
        troubles = encoded.flags[:, places[shape.of]]
        slices[shape.name] = {
            label: _measured(outputs, answers, target, chosen)
            for label, chosen in _parts(field, shape.bins, where, troubles)
            if chosen.any()
        }
    return slices


def _parts(
    field: Field, bins: Bins, where: NDArray[np.int64], troubles: NDArray[np.uint8]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each slice's name, and which rows are in it."""
    for place, label in enumerate(_labels(field, bins)):
        yield label, where == place
    for code, trouble in enumerate(FLAG_NAMES):
        if code:
            yield f"#{trouble}", (where < 0) & (troubles == code)


def _labels(field: Field, bins: Bins) -> Sequence[str]:
    if isinstance(bins, CodeBins):
        return bins.labels
    if field.sensitive:
        return [f"part {place}" for place in range(1, len(bins.labels) + 1)]
    if not bins.edges:
        return ["any"]
    between = [_between(low, high) for low, high in pairwise(bins.edges)]
    first, last = shortest(bins.edges[0]), shortest(bins.edges[-1])
    return [f"up to {first}", *between, f"above {last}"]


def _between(low: float, high: float) -> str:
    if np.nextafter(low, np.inf) == high:  # a value with a bin of its own
        return shortest(high)
    return f"above {shortest(low)} to {shortest(high)}"


def _measured(
    outputs: Sequence[OutputSpec],
    answers: ModelOutputs,
    target: Floats,
    chosen: NDArray[np.bool_],
) -> dict[str, float]:
    """Number of rows with a target, and their metrics; nothing of too few."""
    chosen = chosen & np.isfinite(target)
    rows = int(chosen.sum())
    if rows < FEWEST_ROWS:
        return {}
    part = ModelOutputs([column[chosen] for column in answers.values])
    return {"n": float(rows), **rounded(metrics(outputs, part, target[chosen]))}
