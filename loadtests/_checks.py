"""Whether an answer is the expected one, and whether the server counted what was answered."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from _calls import Call, errors

SHARED: Final = ("model", "version", "request_id", "prediction_id")
PREDICT: Final = "/predict/{model}"

Counts = Counter[tuple[str, ...]]
"""Requests by ("status", status), rows by (model, version, outcome)."""


def problem_with(call: Call, status: int, body: bytes, request_id: str) -> str | None:
    """What is wrong with an answer; None if it is the expected one."""
    if status != call.status:
        return f"status {status} instead of {call.status}: {body[:300]!r}"
    answer = json.loads(body)
    error = answer.get("error", answer)
    if error["request_id"] != request_id:
        return f"the answer to another request: {error['request_id']} instead of {request_id}"
    if call.code is not None and error["code"] != call.code:
        return f"code {error['code']} instead of {call.code}"
    return None if call.model is None else _problem_with_rows(call, answer)


def _problem_with_rows(call: Call, answer: dict[str, Any]) -> str | None:
    items = answer["predictions"] if call.is_list else [_alone(answer)]
    if len(items) != len(call.rows):
        return f"{len(items)} rows instead of {len(call.rows)}"
    for row, (got, expected) in enumerate(zip(items, call.rows, strict=True)):
        said = got | ({"error": errors(got["error"])} if "error" in got else {})
        if not is_same(said, expected):
            return f"row {row}: {said} instead of {expected}"
    return None


def _alone(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in SHARED}


def is_same(got: Any, expected: Any) -> bool:
    """Equal, numbers to nine digits."""
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(is_same(got[k], expected[k]) for k in got)
    if isinstance(got, float) and isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12)
    return got == expected


def counted_by(call: Call) -> Counts:
    """What a server counts when it has answered a call."""
    counts = Counts({("status", str(call.status)): 1})
    for row in call.rows:
        outcome = "rejected" if "error" in row else row["served_by"]
        counts[str(call.model), str(call.version), outcome] += 1
    return counts


def counted_in(samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]) -> Counts:
    """The same as a page of metrics has it."""
    counts = Counts()
    for (name, labels), value in samples.items():
        of = dict(labels)
        if name == "keelmark_requests_total" and of["path"] == PREDICT and value:
            counts["status", of["status"]] += int(value)
        elif name == "keelmark_predictions_total" and value:
            counts[of["model"], of["version"], of["outcome"]] += int(value)
    return counts
