"""Policies: YAML lists of typed checks, published as versions so that a verdict can name what it went by.

Guarantees: an unknown check or field is refused by name, with the nearest known one. Policies shipped with Signalbox
lie in ``policies/`` beside this module and are found by name. Not guaranteed: that a policy asks for enough.
"""

import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, field_validator

from app.core.errors import UsageError
from app.core.files import FileUnusable, read_yaml
from app.core.settings import Settings, first_fault
from app.governance.checks import Approvals, Check, known_checks
from app.registry.versions import Registry, Version

CODE_VERSION = "policy-1"


class BadPolicy(UsageError):
    """A policy cannot be read or asks for something unknown: correct the file where the message says."""


class Policy(Settings):
    """A named list of checks for one of the six gates."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    """Its name as a version."""

    gate: Literal["data", "candidate", "release", "training", "retraining", "escalation"]
    """Where it stands."""

    purpose: str = ""
    """One sentence for people."""

    checks: tuple[SerializeAsAny[Check], ...] = Field(min_length=1)
    """What is asked, in the order of the report."""

    @field_validator("checks", mode="before")
    @classmethod
    def _build_checks(cls, values: Any) -> Any:
        return tuple(_build(value) for value in values) if isinstance(values, list | tuple) else values

    @field_validator("checks")
    @classmethod
    def _ask_approvals_once(cls, checks: tuple[Check, ...]) -> tuple[Check, ...]:
        if sum(isinstance(check, Approvals) for check in checks) > 1:
            raise ValueError("it asks for approvals twice, and only the first would count: write one check 'approvals'")
        return checks

    @property
    def approvals(self) -> Approvals:
        """The approvals asked for; one approver's when the policy names none."""
        return next((check for check in self.checks if isinstance(check, Approvals)), Approvals())

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Every field written out, defaults included."""
        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True, width=120)


def load_policy(source: str | Path) -> Policy:
    """Read a policy from a file, or one shipped with Signalbox by its name.

    Raises:
        BadPolicy: there is no such policy, it is no YAML mapping, or a check or field in it is unknown or out of range.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        return parse_policy(_read_shipped(str(source)), source=str(source))
    try:
        return parse_policy(read_yaml(path), source=str(source))
    except FileUnusable as error:
        raise BadPolicy(f"policy: {error}; it begins with name, gate and checks") from error


def parse_policy(values: Mapping[str, Any], *, source: str = "policy") -> Policy:
    """Build a policy from plain values; BadPolicy names the first field at fault."""
    try:
        return Policy.model_validate(dict(values))
    except ValidationError as error:
        raise BadPolicy(f"policy {source}, {first_fault(error)}") from error


def shipped_policies() -> list[str]:
    """Names of the policies that come with Signalbox."""
    folder = resources.files("app.governance") / "policies"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def publish_policy(policy: Policy, registry: Registry) -> Version:
    """The policy as a version: ``policy.yaml``; the same policy gives the same version."""
    inputs = {"policy": policy.to_json(), "code": CODE_VERSION}
    if found := registry.find("policy", policy.name, inputs):
        return found
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "policy.yaml").write_text(policy.to_yaml(), encoding="utf-8")
        facts = {"gate": policy.gate, "num_checks": len(policy.checks)}
        return registry.publish("policy", policy.name, folder=Path(folder), inputs=inputs, facts=facts)


def policy_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a policy file, with every check and field and what they say of themselves."""
    checks = {kind: check.model_json_schema() for kind, check in known_checks().items()}
    for schema in checks.values():
        schema["required"] = sorted({"kind", *schema.get("required", [])})
    fields = Policy.model_json_schema()["properties"]
    fields["checks"] |= {"items": {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in checks]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Signalbox policy",
        "type": "object",
        "properties": fields,
        "required": ["name", "gate", "checks"],
        "additionalProperties": False,
        "$defs": checks,
    }


def policy_of(version: Version) -> Policy:
    """The policy that a version holds."""
    values = version.stated("inputs", "policy")
    return parse_policy(values if isinstance(values, Mapping) else {}, source=version.ref)


def _read_shipped(name: str) -> dict[str, Any]:
    known = shipped_policies()
    if name not in known:
        near = get_close_matches(name, known, n=1) or known
        raise BadPolicy(f"there is no policy {name!r}: did you mean {near[0]!r}? Or name a .yaml file")
    text = (resources.files("app.governance") / "policies" / f"{name}.yaml").read_text("utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def _build(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    known, kind = known_checks(), str(value.get("kind"))
    if kind not in known:
        near = get_close_matches(kind, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"unknown check {kind!r}: {hint}")
    return known[kind].model_validate(dict(value))
