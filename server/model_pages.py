"""What `GET /models` and `GET /models/{model}` say of a model: enough to write a client by."""

from typing import Any

from pydantic import BaseModel

from features.fields import Field
from models.bundle import Bundle
from models.errors import RequestError
from models.manifest import BaselineInfo, OutputSpec
from models.times import time_of
from models.vocabulary import DEFAULT_RULE
from server.routes import RouteTable


class ModelSummary(BaseModel):
    """A model in the list. `why` says why nothing of it is live."""

    model: str
    live: str | None
    loaded: list[str]
    ready: bool
    why: str | None = None
    description: str = ""
    owner: str = ""


class ModelsPage(BaseModel):
    """All models of the store."""

    models: list[ModelSummary]


class FieldPage(BaseModel):
    """A key of the record.

    `policies` says who answers when its value is in trouble; `repairs` are the values that policies
    put in its place, where they name one.
    """

    name: str
    type: str
    description: str
    unit: str | None
    low: float | None
    high: float | None
    nullable: bool
    sensitive: bool
    policies: dict[str, str]
    repairs: dict[str, int | float | str | bool]


class TensorPage(BaseModel):
    """An input of a model that takes tensors; -1 in `shape` is any size."""

    name: str
    dtype: str
    shape: list[int]


class OutputPage(BaseModel):
    """A value that is answered; the first is `prediction`."""

    name: str
    kind: str
    unit: str | None
    low: float | None
    high: float | None
    classes: list[str | int | bool] | None
    positive: str | int | bool | None


class CheckPage(BaseModel):
    """A condition across fields; `policy` says who answers a record for which it does not hold."""

    name: str
    holds: str
    policy: str


class RulePage(BaseModel):
    """A rule: `when` is its condition in CEL, null for the last one, which always answers."""

    name: str
    when: str | None
    outputs: dict[str, Any]


class BaselinePage(BaseModel):
    """The simpler model below the model: the fields that it reads, and what it is."""

    fields: list[str]
    accepts: dict[str, list[str]]
    features: str
    framework: str
    estimator: str


class ModelPage(ModelSummary):
    """A model, with what it wants (`fields` of a record, or `tensors`) and what it answers.

    `checks`, `max_repaired`, `baseline` and `rules` say who answers when the model does not;
    `breaker` is the state of its breaker, `forced` the rung that an operator has put it on. Until
    `overridden_until`, policies, rules or the rung are what an operator says and not what was
    packed.
    """

    contact: str = ""
    features: str = ""
    fields: list[FieldPage] = []
    tensors: list[TensorPage] = []
    outputs: list[OutputPage] = []
    decisions: list[str] = []
    checks: list[CheckPage] = []
    max_repaired: int | None = None
    baseline: BaselinePage | None = None
    rules: list[RulePage] = []
    breaker: str | None = None
    forced: str | None = None
    overridden_until: str | None = None
    example: dict[str, Any] = {}


def summary(model: str, routes: RouteTable) -> ModelSummary:
    """The line of a model that the table has, live or not."""
    second = routes.second.get(model)
    others = [] if second is None else [second.version]
    if route := routes.live.get(model):
        manifest = route.bundle.manifest
        return ModelSummary(
            model=model,
            live=manifest.version,
            loaded=[manifest.version, *others],
            ready=True,
            description=manifest.description,
            owner=manifest.owner,
        )
    missing = routes.unavailable.get(model)
    why = "no version of it is live yet" if missing is None else missing.why
    return ModelSummary(model=model, live=None, loaded=others, ready=False, why=why)


def describe(model: str, routes: RouteTable) -> ModelPage:
    """The page of a model.

    Raises:
        RequestError: `unknown_model`.
    """
    if model not in routes.names():
        raise RequestError("unknown_model", routes.no_such(model))
    if model not in routes.live:
        return ModelPage(**summary(model, routes).model_dump())
    route = routes.live[model]
    override = route.override
    bundle, manifest = route.answering, route.bundle.manifest
    return ModelPage(
        **summary(model, routes).model_dump(),
        contact=manifest.contact,
        features=manifest.features.identity,
        fields=[_field_page(field, bundle) for field in bundle.fields],
        tensors=_tensor_pages(bundle),
        outputs=[_output_page(output) for output in bundle.outputs],
        decisions=list(bundle.ladder.decisions.names),
        checks=[
            CheckPage(name=check.name, holds=check.text, policy=check.policy)
            for check in bundle.fallback.checks
        ],
        max_repaired=bundle.fallback.max_repaired,
        baseline=_baseline_page(manifest.baseline) if manifest.baseline else None,
        rules=_rule_pages(bundle),
        breaker=route.breaker.state,
        forced=route.forced,
        overridden_until=override and time_of(override.expires),
        example=bundle.example,
    )


def _field_page(field: Field, bundle: Bundle) -> FieldPage:
    policies = bundle.fallback.policies[field.name]
    return FieldPage(
        name=field.name,
        type=field.kind,
        description=field.description,
        unit=field.unit,
        low=field.low,
        high=field.high,
        nullable=field.nullable,
        sensitive=field.sensitive is not None,
        policies={trouble: policy.policy for trouble, policy in policies.items()},
        repairs={
            trouble: policy.value
            for trouble, policy in policies.items()
            if policy.value is not None
        },
    )


def _baseline_page(baseline: BaselineInfo) -> BaselinePage:
    return BaselinePage(
        fields=list(baseline.fields),
        accepts={field: list(troubles) for field, troubles in baseline.accepts.items()},
        features=baseline.features.identity,
        framework=baseline.model.framework,
        estimator=baseline.model.estimator,
    )


def _rule_pages(bundle: Bundle) -> list[RulePage]:
    fallback = bundle.fallback
    rules = [RulePage(name=r.name, when=r.when, outputs=r.outputs) for r in fallback.rules]
    return [*rules, RulePage(name=DEFAULT_RULE, when=None, outputs=fallback.default)]


def _tensor_pages(bundle: Bundle) -> list[TensorPage]:
    inputs = bundle.inputs.inputs if bundle.inputs else ()
    return [TensorPage(name=i.name, dtype=i.dtype, shape=list(i.shape)) for i in inputs]


def _output_page(output: OutputSpec) -> OutputPage:
    return OutputPage(
        name=output.name,
        kind=output.kind,
        unit=output.unit,
        low=output.low,
        high=output.high,
        classes=list(output.classes) if output.classes is not None else None,
        positive=output.positive,
    )
