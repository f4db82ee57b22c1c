"""What a bundle promises its callers, and how two bundles differ in it.

*Compatible*: what a caller of the old bundle sends is answered by the new one, with the same shape
and from the model wherever the old model would have answered. *Breaking*: everything else. Also
breaking is a field that is no longer sensitive, whose values callers were promised not to see in
errors and logs. What the model answers is no part of a contract: a better model answers otherwise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from features.fields import Field
from features.fitted import Fitted
from models.bundle import read_features
from models.contract_change import Change, ContractVerdict
from models.contract_fields import Side, field_changes, input_changes
from models.contract_ladder import (
    check_changes,
    objective_changes,
    repair_changes,
    rung_changes,
)
from models.contract_outputs import decision_changes, label_changes, output_changes
from models.integrity import verified
from models.manifest import (
    FALLBACK,
    Fallback,
    FeaturesIdentity,
    Manifest,
    Strict,
    TensorInputs,
    read,
)


@dataclass(frozen=True, slots=True)
class Contract:
    """The parts of a bundle that its callers may rely on.

    Attributes:
        fields: in row order; none of a bundle that takes tensors, whose `inputs` say what it takes.
        vocabularies: texts of each category, in code order.
    """

    manifest: Manifest
    fallback: Fallback
    fields: tuple[Field, ...]
    vocabularies: Mapping[str, Sequence[str]]
    inputs: TensorInputs | None

    @property
    def name(self) -> str:
        """`flights/7`."""
        return f"{self.manifest.name}/{self.manifest.version}"


class Opened(Protocol):
    """What a contract is taken from: an opened bundle."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def fallback(self) -> Fallback: ...
    @property
    def fitted(self) -> Fitted | None: ...
    @property
    def inputs(self) -> TensorInputs | None: ...


class ContractDiff(Strict, frozen=True, kw_only=True):
    """How two contracts differ; `breaking` if one of the changes is."""

    old: str
    new: str
    verdict: ContractVerdict
    changes: tuple[Change, ...]

    @property
    def breaking(self) -> tuple[Change, ...]:
        """Those for which somebody has to say that they are meant."""
        return tuple(change for change in self.changes if change.breaking)


def contract_of(bundle: Opened) -> Contract:
    """The contract of a bundle that is open."""
    return _contract(bundle.manifest, bundle.fallback, bundle.fitted, bundle.inputs)


def read_contract(folder: Path) -> Contract:
    """The contract of a bundle's folder: every file is verified, and no model is opened.

    Raises:
        BundleNotFound: no such folder.
        BundleCorrupt: a file is not what the manifest says.
        FeaturesMismatch: the model is bound to other features.
    """
    contents = verified(folder)
    where = f"bundle {folder}"
    fallback = read(Fallback, contents.files[FALLBACK], what=f"{where}: {FALLBACK}")
    return _contract(contents.manifest, fallback, *read_features(contents, where))


def _contract(
    manifest: Manifest, fallback: Fallback, fitted: Fitted | None, inputs: TensorInputs | None
) -> Contract:
    return Contract(
        manifest,
        fallback,
        () if fitted is None else fitted.fields,
        {} if fitted is None else fitted.vocabularies,
        inputs,
    )


def diff(old: Contract, new: Contract) -> ContractDiff:
    """Every change from one contract to another, and what they come to."""
    changes = tuple(_changes(old, new))
    return ContractDiff(
        old=old.name,
        new=new.name,
        verdict="breaking" if any(change.breaking for change in changes) else "compatible",
        changes=changes,
    )


def _changes(old: Contract, new: Contract) -> Iterator[Change]:
    yield from _model_changes(old, new)
    if (old.inputs is None) == (new.inputs is None):
        yield from _input_changes(old, new)
    before, after = old.manifest, new.manifest
    yield from output_changes(before.outputs, after.outputs)
    yield from decision_changes(
        (before.outputs[0], before.decision), (after.outputs[0], after.decision)
    )
    yield from label_changes(before.label, after.label)
    yield from check_changes(old.fallback, new.fallback)
    yield from repair_changes(old.fallback, new.fallback, added=_always_repaired(old, new))
    yield from rung_changes(old.fallback, new.fallback, (before.baseline, after.baseline))
    yield from objective_changes(before.objectives, after.objectives)
    yield from _route_key(before, after)


def _input_changes(old: Contract, new: Contract) -> Iterator[Change]:
    if old.inputs is not None and new.inputs is not None:
        yield from input_changes(old.inputs.inputs, new.inputs.inputs)
    else:
        yield from field_changes(_side(old), _side(new))
        yield from _features(old.manifest.features, new.manifest.features)


def _side(contract: Contract) -> Side:
    fields = {field.name: field for field in contract.fields}
    return Side(fields, contract.vocabularies, contract.fallback)


def _always_repaired(old: Contract, new: Contract) -> int:
    """New fields that are repaired in every row of a caller who does not know them."""
    known = {field.name for field in old.fields}
    policies = [
        new.fallback.policies[f.name].get("missing") for f in new.fields if f.name not in known
    ]
    return sum(policy is not None and policy.policy == "repair" for policy in policies)


def _model_changes(old: Contract, new: Contract) -> Iterator[Change]:
    if old.manifest.name != new.manifest.name:
        yield Change(
            kind="model_name",
            part="model",
            of=new.manifest.name,
            breaking=True,
            before=old.manifest.name,
            after=new.manifest.name,
            sentence=f"these are two models: callers ask for {old.manifest.name!r}, not for "
            f"{new.manifest.name!r}",
        )
    if (old.inputs is None) != (new.inputs is None):
        was, now = (_takes(contract) for contract in (old, new))
        yield Change(
            kind="model_takes",
            part="model",
            of=new.manifest.name,
            breaking=True,
            before=was,
            after=now,
            sentence=f"the model took {was} and takes {now}: callers use another path",
        )


def _takes(contract: Contract) -> str:
    return "records" if contract.inputs is None else "tensors"


def _features(old: FeaturesIdentity, new: FeaturesIdentity) -> Iterator[Change]:
    if old.features_digest == new.features_digest:
        return
    is_refitted = old.spec_digest == new.spec_digest
    yield Change(
        kind="features_refitted" if is_refitted else "features_definition",
        part="model",
        of="features",
        breaking=False,
        before=old.identity,
        after=new.identity,
        sentence=f"the features were {old.identity} and are {new.identity}: "
        + ("defined alike and fitted anew" if is_refitted else "defined otherwise"),
    )


def _route_key(old: Manifest, new: Manifest) -> Iterator[Change]:
    if old.route_key == new.route_key:
        return
    yield Change(
        kind="route_key",
        part="owner",
        of="route_key",
        breaking=False,
        before=old.route_key,
        after=new.route_key,
        sentence=f"a canary chose by {_key(old)} and chooses by {_key(new)}: callers may change "
        "sides",
    )


def _key(manifest: Manifest) -> str:
    return "request id" if manifest.route_key is None else f"field {manifest.route_key!r}"
