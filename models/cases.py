"""The records of golden rows: a sample of the training rows, and edge cases made from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.fitted import Fitted
from models.edges import edge_cases
from models.errors import PackingError
from models.examples import records_of
from models.golden import SEED, most_edges, sample_size
from models.training_rows import Rows


@dataclass(frozen=True, slots=True)
class Cases:
    """Named records for the golden rows."""

    samples: list[tuple[str, dict[str, Any]]]
    edges: list[tuple[str, dict[str, Any]]]


def cases_of(features: Fitted, rows: Rows, *, others: int = 0) -> Cases:
    """Sample records, the cleanest first, and edge cases made from it; room for `others`."""
    rng = np.random.default_rng(SEED)
    count = min(len(rows), sample_size(0))
    places = rng.choice(len(rows), count, replace=False)
    troubled = np.count_nonzero(rows.encoded.flags[places], axis=1)
    first = int(np.argmin(troubled))
    places = np.concatenate([places[first : first + 1], np.delete(places, first)])
    records = records_of(rows.table, places, features.fields)
    _check_encoders_agree(features, rows, places, records)
    edges = edge_cases(
        features.fields,
        features.vocabularies,
        features.zones,
        records[0],
        most=most_edges(others),
    )
    kept = records[: sample_size(len(edges) + others)]
    samples = [(f"sample {number}", record) for number, record in enumerate(kept)]
    return Cases(samples, edges)


def _check_encoders_agree(
    features: Fitted, rows: Rows, places: NDArray[np.int64], records: Sequence[dict[str, Any]]
) -> None:
    """Sample records must give the bits of the table's rows, or training saw something else."""
    encoded = features.record_encoder.encode(records)
    for place, field in enumerate(features.fields):
        if field.sensitive:
            continue
        table = rows.encoded.rows[places, place]
        wrong = np.flatnonzero(table.view(np.int64) != encoded.rows[:, place].view(np.int64))
        if len(wrong):
            row = int(wrong[0])
            raise PackingError(
                f"field {field.name!r} of training row {int(places[row])} is {table[row]!r} from "
                f"the table and {encoded.rows[row, place]!r} from the record "
                f"{records[row][field.name]!r}: training and serving would differ. Report this "
                "with the column's type."
            )
