"""The OpenAPI pages of the prediction paths, from the bundles that answer them.

A field's schema says what the model was trained on, and beside it whatever else gets an answer: a
bad value is refused only where its policy is `reject`, elsewhere the record is answered and the
answer marked. Clients made from the page, and testers driven by it, then expect what happens.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from features.fields import Field
from models.bundle import Bundle
from models.manifest import OutputSpec, Policy
from models.policies import troubles_of
from models.vocabulary import ERROR_CODES, REASONS, SERVED_BY, TROUBLES
from server.protocols.predict import STATUS
from server.routes import RouteTable
from server.settings import MOST_DEADLINE_MS, Settings

Schema = dict[str, Any]

JSON_TYPES: Final = ("boolean", "number", "string", "array", "object")
TIMESTAMP: Final = (
    "^[1-9][0-9]{3}-"
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    "[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\\.[0-9]{1,9})?)?"
)
OFFSET: Final = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

WHAT_HAPPENS: Final = {
    "accept": "answered by the model and counted",
    "repair": "answered by the model, marked in `repaired`",
    "baseline": "answered by the baseline model, marked in `reasons`",
    "rules": "answered by the rules, marked in `reasons`",
    "reject": "refused with status 422",
}

SAID_OF: Final = {
    400: "The body is not JSON, or no record and no list of records.",
    404: "No such model, or no such version of it; the message names what there is.",
    405: "Not answered with this method; see `Allow`.",
    409: "The model takes tensors, not records; this version does not serve them.",
    413: "A larger body, or a longer list, than this server takes.",
    415: "Not JSON.",
    422: "Nobody answers the record: `fields` names each bad field, what was expected and what "
    "came, and each check across fields that rejects it. Of a list: if no row was answered.",
    500: "A defect of the server. Its log has the reason under `request_id`.",
    503: "Overloaded, draining or not loaded; or strict, and the model itself did not answer. See "
    "`Retry-After`.",
    504: "Not answered within the deadline, and no lower rung could stand in for the model.",
}
"""What each error status means, as the page says it."""


def document(page: Schema, routes: RouteTable, settings: Settings) -> Schema:
    """The page of the app with the prediction paths of every live model put in."""
    paths, schemas = (
        dict(page.get("paths", {})),
        dict(page.get("components", {}).get("schemas", {})),
    )
    for name in sorted(routes.live):
        bundle = routes.live[name].answering
        if bundle.fitted is None:
            continue  # it takes tensors, and there is no record to describe
        paths[f"/predict/{name}"] = {"post": _operation(bundle, settings)}
        schemas[f"{name}.record"] = record_schema(bundle)
        schemas[f"{name}.answer"] = answer_schema(bundle)
        schemas[f"{name}.answers"] = _answers_schema(bundle)
    schemas["Error"] = error_schema(ERROR_CODES)
    return {
        **page,
        "paths": paths,
        "components": {**page.get("components", {}), "schemas": schemas},
    }


HEADERS: Final = """
Request headers: `Keelmark-Strict: 1` asks for the model's own answer to an unrepaired record or
nothing: any other row gets an error, 422 because of the record, 503 or 504 because of the server.
`traceparent` comes back as it was sent.
"""
LADDER: Final = """
Who answers a record: the model{baseline}, else the rules ({rules}). `served_by` says who it was,
`reasons` why it was not the model.
"""
CHECKS: Final = """
Checks across fields, which no schema of a record can say:

"""


def _operation(bundle: Bundle, settings: Settings) -> Schema:
    name = bundle.name
    return {
        "operationId": f"predict_{name}",
        "tags": ["predictions"],
        "summary": f"Answers of model {name}, version {bundle.version}",
        "description": _description(bundle),
        "parameters": _parameters(bundle),
        "requestBody": {
            "required": True,
            "content": {"application/json": _body(bundle, settings)},
        },
        "responses": {"200": _answered(bundle)} | _errors(bundle),
    }


def _description(bundle: Bundle) -> str:
    """What the model is for, who answers when it does not, and what no schema can say."""
    ladder = LADDER.format(
        baseline=", else a simpler baseline model" if _has_baseline(bundle) else "",
        rules=", ".join(f"`{name}`" for name in rule_names(bundle)),
    )
    checks = "".join(
        f"- `{check.name}`: {check.text}. Where it does not hold, the record is "
        f"{WHAT_HAPPENS[check.policy]}.\n"
        for check in bundle.fallback.checks
    )
    told = f"{CHECKS}{checks}" if checks else ""
    return f"{bundle.manifest.description}\n{ladder}{told}{HEADERS}"


def _parameters(bundle: Bundle) -> list[Schema]:
    # Keelmark-Strict is described in words: with it, a record that the schema allows may be
    # refused, and no schema of a parameter can say so.
    return [
        {
            "name": "version",
            "in": "query",
            "description": "A loaded version other than the live one; 404 if it is not loaded.",
            "schema": {"type": "string", "enum": [bundle.version]},
        },
        {
            "name": "X-Request-Id",
            "in": "header",
            "description": "Comes back as `request_id` if it is 1 to 128 of `A-Z a-z 0-9 . _ : -`; "
            "else it is ignored.",
            "schema": {"type": "string"},
        },
        {
            "name": "Keelmark-Key",
            "in": "header",
            "description": "Who is asked for: requests with one key are answered by one version "
            "while another is tried with some of the callers.",
            "schema": {"type": "string"},
        },
        {
            "name": "Keelmark-Deadline-Ms",
            "in": "header",
            "description": "Milliseconds from the request's headers to its answer. Where the model "
            "would not be in time, a lower rung answers; if none can, the status is 504.",
            "schema": {"type": "integer", "minimum": 1, "maximum": MOST_DEADLINE_MS},
        },
    ]


def _body(bundle: Bundle, settings: Settings) -> Schema:
    record = {"$ref": f"#/components/schemas/{bundle.name}.record"}
    example = example_record(bundle)
    rows = {
        "type": "array",
        "description": "Each row is answered by itself: one that nobody answers gets an error of "
        "its own. The list as a whole is refused only if no row is answered, or with status 413 "
        f"above {settings.max_rows} rows.",
        # No maxItems: tools that try it out build lists of ten thousand records.
        "anyOf": [{"maxItems": 0}, {"contains": record}],
    }
    return {
        "schema": {"anyOf": [record, rows]},
        "examples": {
            "one": {"summary": "one record", "value": example},
            "list": {"summary": "a list", "value": [example, example]},
        },
    }


def _answered(bundle: Bundle) -> Schema:
    name = bundle.name
    return {
        "description": "The answer; for a list, if at least one row was answered.",
        "headers": {
            "Keelmark-Model": {"schema": {"type": "string"}, "required": True},
            "Keelmark-Version": {"schema": {"type": "string"}, "required": True},
            "Keelmark-Served-By": {
                "description": "Who answered; of a list the lowest rung.",
                "schema": {"type": "string", "enum": _rungs(bundle)},
                "required": True,
            },
        },
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": f"#/components/schemas/{name}.answer"},
                        {"$ref": f"#/components/schemas/{name}.answers"},
                    ]
                }
            }
        },
    }


def _errors(bundle: Bundle) -> Schema:
    """A response for every status, with the codes it can carry."""
    answers = {"$ref": f"#/components/schemas/{bundle.name}.answers"}
    responses: Schema = {}
    for status in sorted(SAID_OF):
        schema = error_schema(codes_of(status), checks=check_names(bundle))
        if status in (422, 500, 503, 504):
            schema = {"anyOf": [schema, answers]}
        responses[str(status)] = error_response(status, schema)
    return responses


def error_response(status: int, schema: Schema) -> Schema:
    response: Schema = {
        "description": SAID_OF[status],
        "content": {"application/json": {"schema": schema}},
    }
    if status == 405:
        response["headers"] = {"Allow": {"schema": {"type": "string"}}}
    if status == 503:
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return response


def codes_of(status: int) -> list[str]:
    """The error codes that a status can carry."""
    own = [code for code in ERROR_CODES if STATUS[code] == status]
    return [*own, "strict"] if status in (503, 504) else own


def error_schema(codes: Iterable[str], *, checks: Sequence[str] = ()) -> Schema:
    """The one shape of every error body; `checks` are those that a record may fail."""
    return {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "request_id"],
                "properties": {
                    "code": {"type": "string", "enum": list(codes)},
                    "message": {"type": "string"},
                    "request_id": {"type": "string"},
                    "fields": {"type": "array", "items": _bad_field(checks)},
                },
            }
        },
    }


def _bad_field(checks: Sequence[str]) -> Schema:
    return {
        "type": "object",
        "required": ["row"],
        "properties": {
            "row": {"type": "integer", "minimum": 0},
            "field": {"type": "string"},
            "check": {"type": "string"} | ({"enum": list(checks)} if checks else {}),
            "trouble": {"type": "string", "enum": list(TROUBLES)},
            "expected": {"type": "string"},
            "got": {"type": "string", "maxLength": 64},
        },
    }


# what is sent


def record_schema(bundle: Bundle) -> Schema:
    """The record of a model; keys that are no fields are ignored, so they are allowed."""
    policies = bundle.fallback.policies
    vocabularies = bundle.fitted.vocabularies if bundle.fitted else {}
    required = [f.name for f in bundle.fields if _is_rejected(policies[f.name], "missing")]
    schema: Schema = {
        "type": "object",
        "properties": {
            f.name: field_schema(f, policies[f.name], vocabularies.get(f.name, ()))
            for f in bundle.fields
        },
        "examples": [example_record(bundle)],
    }
    return schema | ({"required": required} if required else {})


def field_schema(field: Field, policies: Mapping[Any, Policy], vocabulary: Iterable[str]) -> Schema:
    """What a field may be, and what else is answered.

    Args:
        field: its declaration.
        policies: by trouble.
        vocabulary: texts known of a category.
    """
    good = _good(field, list(vocabulary) if _is_rejected(policies, "unknown") else None)
    choices = [good, *_answered_too(field, policies)]
    schema: Schema = dict(good) if len(choices) == 1 else {"anyOf": choices}
    if field.description:
        schema["description"] = field.description
    if field.unit:
        schema["x-unit"] = field.unit
    if field.example is not None and not field.sensitive:
        schema["examples"] = [field.example]
    return schema


def _good(field: Field, only: list[str] | None) -> Schema:
    """What the model was trained on."""
    if field.kind == "number":
        schema = _number(field)
    elif field.kind == "boolean":
        schema: Schema = {"type": "boolean"}
    elif field.kind == "category":
        schema = {"type": field.of}
        if only is not None:
            schema["enum"] = [int(text) for text in only] if field.of == "integer" else only
    elif field.epoch:
        schema = {"type": "number", "description": f"{field.epoch} since 1970-01-01 UTC"}
    else:
        schema = {"type": "string", "pattern": TIMESTAMP + OFFSET + ("?$" if field.tz else "$")}
    return schema


def _number(field: Field) -> Schema:
    bounds = {"minimum": field.low, "maximum": field.high}
    said = f" in {field.unit}" if field.unit else ""
    return {
        "type": "number",
        "description": f"a number{said}",
        **{word: bound for word, bound in bounds.items() if bound is not None},
    }


def _answered_too(field: Field, policies: Mapping[Any, Policy]) -> list[Schema]:
    """Bad values that are answered all the same, with what happens then."""
    own = field.of if field.kind == "category" else {"boolean": "boolean"}.get(field.kind, "number")
    is_text = field.kind == "timestamp" and not field.epoch
    cases: dict[str, list[str]] = {"missing": ["null"]}
    if field.kind == "number" and (field.low, field.high) != (None, None):
        cases["out_of_bounds"] = ["number"]
    if field.kind == "category":
        cases["unknown"] = [field.of]
    cases["invalid"] = [word for word in JSON_TYPES if is_text or word != own]
    return [
        {"type": words[0] if len(words) == 1 else words, "description": _happens(trouble, policies)}
        for trouble, words in cases.items()
        if not _is_rejected(policies, trouble)
    ]


def _happens(trouble: str, policies: Mapping[Any, Policy]) -> str:
    policy = policies[trouble].policy if trouble in policies else "accept"
    return f"{trouble.replace('_', ' ')}: {WHAT_HAPPENS[policy]}"


def _is_rejected(policies: Mapping[Any, Policy], trouble: str) -> bool:
    return trouble in policies and policies[trouble].policy == "reject"


def example_record(bundle: Bundle) -> dict[str, Any]:
    """A real record, from the golden rows; values of sensitive fields are made up."""
    rows = bundle.golden.rows
    return rows[0].record if rows else {}


# what comes back


def answer_schema(bundle: Bundle) -> Schema:
    """The answer to one record."""
    row = _row_schema(bundle)
    return {
        "type": "object",
        "required": [*row["required"], "model", "version", "request_id", "prediction_id"],
        "properties": {**row["properties"], **_shared(bundle)},
    }


def _answers_schema(bundle: Bundle) -> Schema:
    error = error_schema(["rejected_record", "strict", "internal"], checks=check_names(bundle))
    error["properties"]["error"]["required"] = ["code", "message"]
    return {
        "type": "object",
        "required": ["model", "version", "request_id", "prediction_id", "predictions"],
        "properties": {
            **_shared(bundle),
            "predictions": {
                "type": "array",
                "description": "One item a record, in order.",
                "items": {"anyOf": [_row_schema(bundle), error]},
            },
        },
    }


def _shared(bundle: Bundle) -> Schema:
    return {
        "model": {"const": bundle.name},
        "version": {"type": "string"},
        "request_id": {"type": "string"},
        "prediction_id": {"type": "string"},
    }


def _row_schema(bundle: Bundle) -> Schema:
    names = bundle.ladder.decisions.names
    outputs = {output.name: output_schema(output) for output in bundle.outputs}
    properties: Schema = {"prediction": output_schema(bundle.outputs[0])}
    if names:
        properties["decision"] = {"type": "string", "enum": list(names)}
    if len(outputs) > 1:
        properties["outputs"] = {"type": "object", "required": [*outputs], "properties": outputs}
    required = [*properties, "served_by"]
    properties |= {
        "served_by": {"type": "string", "enum": _rungs(bundle)},
        "rule": {
            "type": "string",
            "description": "Of the rules the one that matched; there where they answered.",
            "enum": rule_names(bundle),
        },
        "repaired": {
            "type": "object",
            "description": "Fields that were repaired, and what was wrong with them.",
            "additionalProperties": {"type": "string", "enum": list(TROUBLES)},
        },
        "reasons": {
            "type": "array",
            "description": "Why it was not the model that answered.",
            "items": {"type": "string", "enum": reasons_of(bundle)},
        },
    }
    return {"type": "object", "required": required, "properties": properties}


def reasons_of(bundle: Bundle) -> list[str]:
    """Everything that an answer of this bundle may say in `reasons`."""
    return [
        *(f"{field.name}:{trouble}" for field in bundle.fields for trouble in troubles_of(field)),
        *(f"check:{name}" for name in check_names(bundle)),
        *REASONS[len(TROUBLES) + 1 :],
    ]


def rule_names(bundle: Bundle) -> list[str]:
    """The rules in their order; the last one always answers."""
    return list(bundle.ladder.rules.names)


def check_names(bundle: Bundle) -> list[str]:
    return [check.name for check in bundle.fallback.checks]


def _has_baseline(bundle: Bundle) -> bool:
    return bundle.manifest.baseline is not None


def _rungs(bundle: Bundle) -> list[str]:
    return [rung for rung in SERVED_BY if rung != "baseline" or _has_baseline(bundle)]


def output_schema(output: OutputSpec) -> Schema:
    """One output, by its kind."""
    if output.kind == "label":
        schema: Schema = {"enum": list(output.classes)} if output.classes else {}
    elif output.kind in ("class_probabilities", "vector"):
        schema = {"type": ["array", "null"], "items": {"type": "number"}}
    else:
        bounds = {"minimum": output.low, "maximum": output.high}
        schema = {"type": "number"} | {k: v for k, v in bounds.items() if v is not None}
    return schema | ({"x-unit": output.unit} if output.unit else {})
