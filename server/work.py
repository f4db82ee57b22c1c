"""What is done with encoded rows: plan, model, ladder. In any thread; it keeps nothing."""

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.outputs import ModelOutputs
from server.asked import Asked, Results, together
from server.counting import measured
from server.logs import where
from server.routes import Route


def work(route: Route, group: list[Asked], failed: str | None = None) -> Results | None:
    """Plans, asks the model, judges. None when a run that was shared raised.

    Args:
        route: that all of them have.
        group: requests that have been read.
        failed: the reason for which the model is not asked; None if it is.
    """
    began = perf_counter_ns()
    encoded, records = together(group)
    bundle, ladder = route.bundle, route.answering.ladder
    if failed == "selftest":
        plan = ladder.plan(encoded, records, forced=route.breaker.distrusted, why="selftest")
    else:
        plan = ladder.plan(encoded, records, forced=route.forced)
    has_run = failed is None and plan.asks_model and len(plan.rows) > 0
    outputs = error = None
    raised_at: Sequence[str] = ()
    planned = perf_counter_ns()
    if has_run:
        try:
            outputs = run_rows(bundle, plan.rows)
        except Exception as raised:  # noqa: BLE001  (onnxruntime raises many kinds)
            raised_at = where(raised)
            error = raised.with_traceback(None)
    ran = perf_counter_ns()
    if error is not None and len(group) > 1:
        return None
    answers = ladder.judge(plan, outputs, failed=failed or "model_error")
    columns = measured(route, outputs, len(plan.rows))
    done = perf_counter_ns()
    ladder_ns = done - ran + planned - began
    run_ns = ran - planned
    return Results(
        encoded, columns, answers, began, run_ns, ladder_ns, done, error, has_run, raised_at
    )


def run_rows(bundle: Bundle, rows: NDArray[np.float64]) -> ModelOutputs:
    """The model's outputs; row by row where a batch would give other bits."""
    if bundle.batch_exact or len(rows) == 1:
        return bundle.run(rows)
    single = [bundle.run(rows[row : row + 1]) for row in range(len(rows))]
    columns = zip(*(one.values for one in single), strict=True)
    checks = [one.checks for one in single if one.checks is not None]
    return ModelOutputs(
        [np.concatenate(column) for column in columns],
        checks=np.concatenate(checks) if checks else None,
    )
