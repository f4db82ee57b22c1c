"""The closed sets that answers, logs, metrics and documentation share.

Position is the code: a row in the counting ring carries the index of its word in the tuple here,
so a tuple only ever grows at its end.
"""

from typing import Final

SERVED_BY: Final = ("model", "baseline", "rules")
"""Who gave an answer, best first; each is a rung of the ladder."""

OUTCOMES: Final = (*SERVED_BY, "rejected", "failed")
"""What became of a row."""

RUNGS: Final = ("baseline", "rules")
"""The rungs below the model, as `keelmark_fallbacks_total` names them."""

TROUBLES: Final = ("missing", "invalid", "out_of_bounds", "unknown")
"""What can be wrong with a field's value; flag code 0 is ok, code i + 1 is trouble i."""

REASONS: Final = (
    *TROUBLES,
    "check",
    "too_many_repaired",
    "output_invalid",
    "model_error",
    "deadline",
    "overload",
    "breaker",
    "selftest",
    "operator",
)
"""Why a row was not answered by the model. Answers write `field:trouble` and `check:name`."""

STAGES: Final = ("decode", "encode", "queue", "run", "ladder", "answer")
"""Where a request's time goes, in order."""

POLICIES: Final = ("accept", "repair", "baseline", "rules", "reject")
"""What a trouble of a field does to its row, mildest first; the severest of a row wins."""

ERROR_CODES: Final = (
    "undecodable",
    "unknown_model",
    "unknown_version",
    "method_not_allowed",
    "too_large",
    "too_many_rows",
    "unsupported_media_type",
    "rejected_record",
    "strict",
    "overloaded",
    "draining",
    "not_loaded",
    "deadline",
    "internal",
    "takes_tensors",
)
"""`error.code` of every error answer."""

DEFAULT_RULE: Final = "default"
"""The last rule of every bundle: a constant, which cannot fail."""

OPERATORS_RULES: Final = "#operator"
"""Stands in metrics for the rules of an override: nobody knows their names when a bundle is packed,
and none of its own is called so."""

OVERRIDE_PARTS: Final = ("policies", "values", "rules", "rung")
"""What an operator may change about a model that serves."""

OUTPUT_TROUBLES: Final = ("not_finite", "out_of_range")
"""What can be wrong with an output."""

BREAKER_STATES: Final = ("closed", "half_open", "open")
"""A closed breaker lets requests through to the model; a half open one, one as a probe."""

OUTPUT_KINDS: Final = ("probability", "class_probabilities", "label", "value", "vector")
"""What an output of a bundle means."""

EVENT_KINDS: Final = (
    "started",
    "stopped",
    "model_loaded",
    "model_not_loaded",
    "forced",
    "access_refused",
    "log_mended",
    "worker_replaced",
    "dealer_replaced",
    "loaded",
    "unloaded",
    "released",
    "promoted",
    "rolled_back",
    "swap_refused",
    "overridden",
    "override_ended",
    "canary_changed",
    "shadow_changed",
    "selftest_failed",
    "selftest_passed",
    "selftest_set",
    "batching_off",
    "wish_not_followed",
    "deploy_started",
    "deploy_resumed",
    "deploy_advanced",
    "deploy_ended",
)
"""What the event log tells of. `forced`: an operator sent a model's rows to a lower rung, or no
longer. `log_mended`: the last line of the log had been cut off by a crash and was taken out.
`loaded`, `unloaded`: a bundle came into a model's second slot, or left it; `released`: a large one
has been let go of, or not yet. `overridden`: an operator changed policies, values or rules of a
model that serves, or took that back; `override_ended`: its time was over, or its version went.
`canary_changed`, `shadow_changed`: a candidate gets another share of its model's requests.
`selftest_failed`, `selftest_passed`: a golden row differed twice in a row in a process that has the
bundle; all were good again. `selftest_set`: an operator said what follows from that.
`batching_off`: batches have other bits than single rows on this machine, and are not made."""

GOLDEN_RESULTS: Final = ("same", "different")
"""What came of a golden row that was put to a bundle while it serves, beside what is expected."""

SELFTEST_ACTIONS: Final = ("fallback", "report")
"""What a self-test does that keeps failing: lower rungs answer; it is told, and nothing else."""

WISH_STATES: Final = ("followed", "moving", "waiting", "failed", "overruled")
"""How a server that follows its store stands to the wish for a model: it is live; it is being
loaded or promoted; something is in the way; it was refused; an operator has promoted another since.
"""

WISH_RESULTS: Final = ("followed", "failed", "overruled")
"""How a wish ended: only a newer one, or another bundle in place of a failed one, begins again."""

SLOTS: Final = ("live", "candidate", "previous")
"""What a loaded bundle is to its model: it answers; it may be promoted; it was live before."""

SWAPS: Final = ("load", "unload", "promote", "rollback", "canary", "shadow", "override", "deploy")
"""What operators do with the two slots of a model, and with who answers for it; a deploy does
others in its turn."""

SWAP_RESULTS: Final = ("done", "refused")
"""What became of it; a refused one changed nothing."""

REFUSAL_CAUSES: Final = (
    "invalid",
    "unknown",
    "conflict",
    "contract",
    "memory",
    "series",
    "corrupt",
    "features",
    "golden",
    "gate",
    "workers",
    "disk",
    "other",
)
"""Why an operator's call was refused: what it asks for is not possible, not there, or not now;
callers of the live version would break; there is no room in memory, or on the metrics page; the
bundle is not what was packed, is bound to other features, does not replay its golden rows, or gave
no verdict (it crashed, hung, or used more than it may); workers, or the disk, did not take it."""

WORKER_STATES: Final = ("starting", "ready", "leaving")
"""Of a worker process: it opens its bundles; takes connections; gives them to others and ends."""

REPLACEMENT_REASONS: Final = ("died", "stuck", "asked", "release")
"""Why a worker was replaced: it ended by itself, gave no sign of life, somebody asked for it, or it
kept a bundle that is not loaded any more and would have stood still to let go of it."""

OPS_ERROR_CODES: Final = (
    "unauthorized",
    "forbidden",
    "unsupported_media_type",
    "invalid",
    "unknown_model",
    "unknown_version",
    "method_not_allowed",
    "conflict",
    "bundle_refused",
    "internal",
)
"""`error.code` of every error answer of the ops port."""

CONTRACT_VERDICTS: Final = ("compatible", "breaking")
"""Whether callers of a bundle may be answered by another one without being asked."""

CONTRACT_CHANGES: Final = (
    "model_name",
    "model_takes",
    "field_added",
    "field_removed",
    "field_type",
    "field_unit",
    "field_nullable",
    "field_encoding",
    "field_sensitive",
    "bounds_narrowed",
    "bounds_widened",
    "vocabulary_lost",
    "vocabulary_gained",
    "timestamp_unit",
    "timestamp_zone",
    "input",
    "features_definition",
    "features_refitted",
    "output_added",
    "output_removed",
    "primary_output",
    "output_kind",
    "output_type",
    "output_shape",
    "output_classes",
    "output_positive",
    "output_unit",
    "range_narrowed",
    "range_widened",
    "decision_names",
    "decision_thresholds",
    "label",
    "policy_severer",
    "policy_milder",
    "policy_value",
    "check_added",
    "check_removed",
    "check_condition",
    "max_repaired",
    "rules",
    "default",
    "baseline",
    "objective_weaker",
    "objective_stronger",
    "route_key",
)
"""What can change from one bundle's contract to another's."""

ROLLOUT_STAGES: Final = ("shadow", "replay", "canary", "bake")
"""What a candidate goes through: copies of requests, kept rows, a share of callers, all of them."""

ROLLOUT_ACTIONS: Final = ("wait", "advance", "promote", "rollback", "hold", "finish")
"""What a deploy does next."""

ROLLOUT_REASONS: Final = (
    "failing",
    "degraded",
    "late",
    "slower",
    "shifted",
    "changed_decisions",
    "selftest",
    "lost",
    "few_requests",
    "time",
    "cancelled",
    "overruled",
    "refused",
)
"""Why. `few_requests` and `time` are what a deploy waits for; it holds for them, and for what is
doubtful. `cancelled`, `overruled`: an operator ended it, by a word or by deed; `refused`: what it
had to do could not be done."""

DEPLOY_STAGES: Final = ("load", *ROLLOUT_STAGES)
"""What a deploy may be at: before the stages of its plan the candidate is loaded."""

DEPLOY_RESULTS: Final = ("promoted", "rolled_back", "held")
"""What became of deploys."""

SPARE_KINDS: Final = ("shadow", "selftest")
"""What is done while nobody waits: a candidate answers copies; golden rows are replayed."""

SPARE_RESULTS: Final = ("done", "dropped", "failed")
"""What became of a unit of it: there was no time for a dropped one, a failed one raised."""

SHADOW_RESULTS: Final = ("same", "changed")
"""What comparing a row's two answers came to: a changed one has another decision, or where no
decisions are declared another answer."""
