"""Every metric of the server: name, type, labels, unit, and what it says.

The one place: `exposition` takes HELP and TYPE from here, and a test holds `docs/metrics.md` to it.
`docs/metrics.md` explains each at length, with queries.
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram", "info"]

PER_BUNDLE: Final = ("model", "version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric family.

    `name` is how the text format 0.0.4 and PromQL name it, with `_total` or `_info`. `unit` is the
    base unit it ends in, for OpenMetrics.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str | None = None

    @property
    def family(self) -> str:
        """The name without the suffix that OpenMetrics writes on samples only."""
        return self.name.removesuffix("_total").removesuffix("_info")


REQUESTS: Final = Metric(
    name="keelmark_requests_total",
    kind="counter",
    labels=("path", "status"),
    help="Requests answered on the data port, those that reached no model too.",
)
ERRORS: Final = Metric(
    name="keelmark_errors_total",
    kind="counter",
    labels=("path", "code"),
    help="Requests answered with an error body, by its code.",
)
PREDICTIONS: Final = Metric(
    name="keelmark_predictions_total",
    kind="counter",
    labels=(*PER_BUNDLE, "outcome"),
    help="Rows by what became of them: answered by model, baseline or rules, rejected, or failed.",
)
FALLBACKS: Final = Metric(
    name="keelmark_fallbacks_total",
    kind="counter",
    labels=(*PER_BUNDLE, "rung", "reason"),
    help="Rows that a lower rung answered, once each, under the reason that decided.",
)
FIELD_REPAIRED: Final = Metric(
    name="keelmark_field_repaired_total",
    kind="counter",
    labels=(*PER_BUNDLE, "field", "trouble"),
    help="Values that were repaired in rows which the model then answered.",
)
CHECKS_FAILED: Final = Metric(
    name="keelmark_checks_failed_total",
    kind="counter",
    labels=(*PER_BUNDLE, "check"),
    help="Rows for which a check across fields did not hold, whatever became of them.",
)
OUTPUT_INVALID: Final = Metric(
    name="keelmark_output_invalid_total",
    kind="counter",
    labels=(*PER_BUNDLE, "output", "trouble"),
    help="Rows whose output of the model was not finite or out of its valid range; not given.",
)
RULE_ANSWERS: Final = Metric(
    name="keelmark_rule_answers_total",
    kind="counter",
    labels=(*PER_BUNDLE, "rule"),
    help="Rows that the rules answered, by the rule that matched; default is the last one.",
)
RULE_ERRORS: Final = Metric(
    name="keelmark_rule_errors_total",
    kind="counter",
    labels=(*PER_BUNDLE, "rule"),
    help="Rows on which a rule raised, and so did not match.",
)
DECISIONS: Final = Metric(
    name="keelmark_decisions_total",
    kind="counter",
    labels=(*PER_BUNDLE, "decision"),
    help="Answered rows by the decision they led to.",
)
REQUEST_DURATION: Final = Metric(
    name="keelmark_request_duration_seconds",
    kind="histogram",
    labels=PER_BUNDLE,
    unit="seconds",
    help="Time from a request's arrival to its answer; one of the bounds is the model's objective.",
)
STAGE_DURATION: Final = Metric(
    name="keelmark_stage_duration_seconds",
    kind="histogram",
    labels=(*PER_BUNDLE, "stage"),
    unit="seconds",
    help="Time of a request in each stage; a shared run counts whole for each of its requests.",
)
DEADLINE_MISSED: Final = Metric(
    name="keelmark_deadline_missed_total",
    kind="counter",
    labels=PER_BUNDLE,
    help="Rows that the model did not answer because of their deadline, answered otherwise or not.",
)
LATE_REQUESTS: Final = Metric(
    name="keelmark_late_requests_total",
    kind="counter",
    labels=PER_BUNDLE,
    help="Requests whose answer was handed over after their deadline.",
)
QUEUE_DEPTH: Final = Metric(
    name="keelmark_queue_depth",
    kind="gauge",
    labels=PER_BUNDLE,
    help="Requests that wait for the thread in which long runs are made.",
)
QUEUE_ROWS: Final = Metric(
    name="keelmark_queue_rows",
    kind="gauge",
    labels=PER_BUNDLE,
    help="Rows of the requests that wait for the thread.",
)
BATCH_ROWS: Final = Metric(
    name="keelmark_batch_rows",
    kind="histogram",
    labels=PER_BUNDLE,
    help="Rows of each run of the model in the thread.",
)
BATCH_LIMIT: Final = Metric(
    name="keelmark_batch_rows_limit",
    kind="gauge",
    labels=PER_BUNDLE,
    help="Rows of several requests that make a row cheaper in one run; 1 where none share a run.",
)
ABANDONED_ACTIVE: Final = Metric(
    name="keelmark_abandoned_runs_active",
    kind="gauge",
    labels=PER_BUNDLE,
    help="Requests that were given up at their deadline and whose run has not ended yet.",
)
ABANDONED: Final = Metric(
    name="keelmark_abandoned_runs_total",
    kind="counter",
    labels=PER_BUNDLE,
    help="Requests that were given up at their deadline while they were run.",
)
BREAKER_STATE: Final = Metric(
    name="keelmark_breaker_state",
    kind="gauge",
    labels=(*PER_BUNDLE, "state"),
    help="Workers whose breaker is in this state; open and half open ones do not ask the model.",
)
BREAKER_OPENINGS: Final = Metric(
    name="keelmark_breaker_openings_total",
    kind="counter",
    labels=PER_BUNDLE,
    help="Times that a breaker opened because too many runs had failed.",
)
FORCED_RUNG: Final = Metric(
    name="keelmark_forced_rung",
    kind="gauge",
    labels=(*PER_BUNDLE, "rung"),
    help="1 for the rung that an operator has forced all rows of the model to, else 0.",
)
GOLDEN_ROWS: Final = Metric(
    name="keelmark_golden_rows_total",
    kind="counter",
    labels=("model", "version", "result"),
    help="Golden rows replayed while the bundle serves, by whether the answer was the same.",
)
GOLDEN_FAILING: Final = Metric(
    name="keelmark_golden_failing",
    kind="gauge",
    labels=("model", "version"),
    help="Processes in which a golden row differs, twice in a row, until all are good again.",
)
GOLDEN_PASSED: Final = Metric(
    name="keelmark_golden_passed_timestamp_seconds",
    kind="gauge",
    labels=("model", "version"),
    unit="seconds",
    help="When the last replay of all golden rows ended that was good; 0 before there was one.",
)
OVERRIDDEN: Final = Metric(
    name="keelmark_overridden",
    kind="gauge",
    labels=(*PER_BUNDLE, "part"),
    help="1 for what an operator has changed for a time: policies, values, rules or rung; else 0.",
)
EXTRA_KEYS: Final = Metric(
    name="keelmark_extra_keys_total",
    kind="counter",
    labels=PER_BUNDLE,
    help="Requests with a key that is no field of the model; the key was ignored.",
)
FIELD_VALUES: Final = Metric(
    name="keelmark_field_values_total",
    kind="counter",
    labels=(*PER_BUNDLE, "field", "bin"),
    help="Values of each field in the bins of its training data.",
)
FIELD_QUALITY: Final = Metric(
    name="keelmark_field_quality_total",
    kind="counter",
    labels=(*PER_BUNDLE, "field", "trouble"),
    help="Values of each field that were missing, invalid, out of bounds or unknown.",
)
FIELD_STANDARDIZED: Final = Metric(
    name="keelmark_field_standardized_total",
    kind="counter",
    labels=(*PER_BUNDLE, "field", "sign"),
    help="Sum of (value - training mean) / training sd, positive and negative parts apart.",
)
FIELD_SQUARES: Final = Metric(
    name="keelmark_field_standardized_squares_total",
    kind="counter",
    labels=(*PER_BUNDLE, "field", "sign"),
    help="Sum of the squares of the standardized value, of positive and negative values apart.",
)
FIELD_REFERENCE: Final = Metric(
    name="keelmark_field_reference_ratio",
    kind="gauge",
    labels=(*PER_BUNDLE, "field", "bin"),
    unit="ratio",
    help="Share of training rows in each bin, half a row added to every bin.",
)
FIELD_REFERENCE_ROWS: Final = Metric(
    name="keelmark_field_reference_rows",
    kind="gauge",
    labels=(*PER_BUNDLE, "field"),
    help="Training rows behind a field's reference shares.",
)
OUTPUT_VALUES: Final = Metric(
    name="keelmark_output_values_total",
    kind="counter",
    labels=(*PER_BUNDLE, "output", "bin"),
    help="Outputs of the model itself in the bins of its training rows.",
)
OUTPUT_STANDARDIZED: Final = Metric(
    name="keelmark_output_standardized_total",
    kind="counter",
    labels=(*PER_BUNDLE, "output", "sign"),
    help="Sum of (output - training mean) / training sd, positive and negative parts apart.",
)
OUTPUT_SQUARES: Final = Metric(
    name="keelmark_output_standardized_squares_total",
    kind="counter",
    labels=(*PER_BUNDLE, "output", "sign"),
    help="Sum of the squares of the standardized output, of positive and negative ones apart.",
)
OUTPUT_REFERENCE: Final = Metric(
    name="keelmark_output_reference_ratio",
    kind="gauge",
    labels=(*PER_BUNDLE, "output", "bin"),
    unit="ratio",
    help="Share of training rows in each bin of an output, half a row added to every bin.",
)
OUTPUT_REFERENCE_ROWS: Final = Metric(
    name="keelmark_output_reference_rows",
    kind="gauge",
    labels=(*PER_BUNDLE, "output"),
    help="Training rows behind an output's reference shares.",
)
MODEL_INFO: Final = Metric(
    name="keelmark_model_info",
    kind="info",
    labels=(*PER_BUNDLE, "digest", "features", "onnxruntime", "owner"),
    help="A loaded bundle; 1.",
)
MODEL_LOADED: Final = Metric(
    name="keelmark_model_loaded_timestamp_seconds",
    kind="gauge",
    labels=PER_BUNDLE,
    unit="seconds",
    help="When the bundle was loaded, seconds since 1970.",
)
MODEL_TRAINED: Final = Metric(
    name="keelmark_model_trained_timestamp_seconds",
    kind="gauge",
    labels=PER_BUNDLE,
    unit="seconds",
    help="When the bundle was trained, seconds since 1970.",
)
MODEL_SLOT: Final = Metric(
    name="keelmark_model_slot",
    kind="gauge",
    labels=(*PER_BUNDLE, "slot"),
    help="1 for what the bundle is to its model: live, candidate or previous; else 0.",
)
CANARY_SHARE: Final = Metric(
    name="keelmark_canary_share_ratio",
    kind="gauge",
    labels=PER_BUNDLE,
    unit="ratio",
    help="Share of the model's callers that the bundle answers as a canary.",
)
SHADOW_SHARE: Final = Metric(
    name="keelmark_shadow_share_ratio",
    kind="gauge",
    labels=PER_BUNDLE,
    unit="ratio",
    help="Share of the requests which live answers that the bundle gets copies of.",
)
SHADOW_ROWS: Final = Metric(
    name="keelmark_shadow_rows_total",
    kind="counter",
    labels=(*PER_BUNDLE, "outcome"),
    help="Rows of shadows that the bundle answered, as candidate or as live, by their outcome.",
)
SHADOW_COMPARED: Final = Metric(
    name="keelmark_shadow_compared_total",
    kind="counter",
    labels=(*PER_BUNDLE, "result"),
    help="Rows that candidate and live both answered, by whether they were decided alike.",
)
SHADOW_DIFFERENCE: Final = Metric(
    name="keelmark_shadow_difference",
    kind="histogram",
    labels=PER_BUNDLE,
    help="How far the candidate's answers are from live's; of values in standard deviations.",
)
SHADOW_RUNS: Final = Metric(
    name="keelmark_shadow_run_duration_seconds",
    kind="histogram",
    labels=PER_BUNDLE,
    unit="seconds",
    help="Time of the model's runs of one row in shadows, as candidate or as live.",
)
GENERATION: Final = Metric(
    name="keelmark_route_generation",
    kind="gauge",
    help="Number of the route table by which requests are routed; it grows with each change.",
)
SWAPS: Final = Metric(
    name="keelmark_swaps_total",
    kind="counter",
    labels=("swap", "result"),
    help="Calls to load, unload, promote or roll back, by what became of them.",
)
SWAP_REFUSALS: Final = Metric(
    name="keelmark_swap_refusals_total",
    kind="counter",
    labels=("cause",),
    help="Such calls that were refused, by why.",
)
SWAP_DURATION: Final = Metric(
    name="keelmark_swap_duration_seconds",
    kind="histogram",
    labels=("swap",),
    unit="seconds",
    help="Time from such a call to its answer, where something was changed.",
)
RELEASE_STALL: Final = Metric(
    name="keelmark_release_stall_seconds",
    kind="histogram",
    unit="seconds",
    help="How long a process that answers stood still each time to let go of a bundle.",
)
LOOP_LAG: Final = Metric(
    name="keelmark_event_loop_lag_seconds",
    kind="histogram",
    unit="seconds",
    help="How late the event loop was each time it was looked, twenty times a second.",
)
RUNNER_BUSY: Final = Metric(
    name="keelmark_runner_busy_seconds_total",
    kind="counter",
    help="Time that the thread has worked in which long runs are made.",
)
RUNNER_DEATHS: Final = Metric(
    name="keelmark_runner_deaths_total",
    kind="counter",
    help="Times that this thread came to an end and was replaced.",
)
SPARE_WORK: Final = Metric(
    name="keelmark_spare_work_total",
    kind="counter",
    labels=("kind", "result"),
    help="Units of work that nobody waits for, done while the event loop had time for it, or not.",
)
RENDER_SECONDS: Final = Metric(
    name="keelmark_metrics_render_seconds",
    kind="gauge",
    unit="seconds",
    help="Time that reading the counters and writing this page took.",
)
SERIES: Final = Metric(
    name="keelmark_metrics_series",
    kind="gauge",
    help="Series of this page whose name begins with keelmark_.",
)
SERIES_LIMIT: Final = Metric(
    name="keelmark_metrics_series_limit",
    kind="gauge",
    help="Series that all loaded bundles may have together: the setting max_series.",
)
SERIES_REFUSED: Final = Metric(
    name="keelmark_metrics_series_refused_total",
    kind="counter",
    help="Bundles that were not loaded because their series had no room within the limit.",
)

WORKERS: Final = Metric(
    name="keelmark_workers",
    kind="gauge",
    labels=("state",),
    help="Worker processes by what they do: starting, ready, or leaving.",
)
WORKERS_REPLACED: Final = Metric(
    name="keelmark_workers_replaced_total",
    kind="counter",
    labels=("why",),
    help="Workers that were replaced: they died, were stuck, or somebody asked for it.",
)
WORKER_CONNECTIONS: Final = Metric(
    name="keelmark_worker_connections",
    kind="gauge",
    labels=("slot",),
    help="Open connections of each worker.",
)
WORKER_MEMORY: Final = Metric(
    name="keelmark_worker_memory_bytes",
    kind="gauge",
    labels=("slot",),
    unit="bytes",
    help="Resident memory of each worker; what workers share is in each of them.",
)
WORKER_CPU: Final = Metric(
    name="keelmark_worker_cpu_seconds_total",
    kind="counter",
    labels=("slot",),
    help="Processor time of each worker slot, of all workers that it has had.",
)
OF_WORKERS: Final = (WORKERS, WORKERS_REPLACED, WORKER_CONNECTIONS, WORKER_MEMORY, WORKER_CPU)
"""Only where there are workers."""

OF_SWAPS: Final = (GENERATION, SWAPS, SWAP_REFUSALS, SWAP_DURATION, RELEASE_STALL)
"""Of the server as a whole."""

WISH_STATE: Final = Metric(
    name="keelmark_wish_state",
    kind="gauge",
    labels=("model", "state"),
    help="1 for how a server that follows its store stands to the wish for a model.",
)
WISHES: Final = Metric(
    name="keelmark_wishes_total",
    kind="counter",
    labels=("result",),
    help="Wishes of the store by how they ended: followed, failed, or overruled by an operator.",
)
OF_WISHES: Final = (WISH_STATE, WISHES)

DEPLOY_STAGE: Final = Metric(
    name="keelmark_deploy_stage",
    kind="gauge",
    labels=("model", "stage"),
    help="1 for the stage that a deploy of the model is in, 0 for the others.",
)
DEPLOYS: Final = Metric(
    name="keelmark_deploys_total",
    kind="counter",
    labels=("result",),
    help="Deploys by what became of them: promoted, rolled back, or held for somebody's verdict.",
)
OF_DEPLOYS: Final = (DEPLOY_STAGE, DEPLOYS)

METRICS: Final = (
    REQUESTS,
    ERRORS,
    PREDICTIONS,
    FALLBACKS,
    FIELD_REPAIRED,
    CHECKS_FAILED,
    OUTPUT_INVALID,
    RULE_ANSWERS,
    RULE_ERRORS,
    DECISIONS,
    REQUEST_DURATION,
    STAGE_DURATION,
    DEADLINE_MISSED,
    LATE_REQUESTS,
    QUEUE_DEPTH,
    QUEUE_ROWS,
    BATCH_ROWS,
    BATCH_LIMIT,
    ABANDONED_ACTIVE,
    ABANDONED,
    BREAKER_STATE,
    BREAKER_OPENINGS,
    FORCED_RUNG,
    OVERRIDDEN,
    GOLDEN_ROWS,
    GOLDEN_FAILING,
    GOLDEN_PASSED,
    EXTRA_KEYS,
    FIELD_VALUES,
    FIELD_QUALITY,
    FIELD_STANDARDIZED,
    FIELD_SQUARES,
    FIELD_REFERENCE,
    FIELD_REFERENCE_ROWS,
    OUTPUT_VALUES,
    OUTPUT_STANDARDIZED,
    OUTPUT_SQUARES,
    OUTPUT_REFERENCE,
    OUTPUT_REFERENCE_ROWS,
    MODEL_INFO,
    MODEL_LOADED,
    MODEL_TRAINED,
    MODEL_SLOT,
    CANARY_SHARE,
    SHADOW_SHARE,
    SHADOW_ROWS,
    SHADOW_COMPARED,
    SHADOW_DIFFERENCE,
    SHADOW_RUNS,
    *OF_SWAPS,
    *OF_DEPLOYS,
    *OF_WISHES,
    LOOP_LAG,
    RUNNER_BUSY,
    RUNNER_DEATHS,
    SPARE_WORK,
    *OF_WORKERS,
    RENDER_SECONDS,
    SERIES,
    SERIES_LIMIT,
    SERIES_REFUSED,
)
"""In the order of the page."""
