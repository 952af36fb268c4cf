"""The gate: a policy's checks over evidence, published as a verdict that anyone can replay.

Guarantees: a verdict names its policy, all that it looked at, and each check's figure, threshold and reason; judging
the same evidence again gives the same verdict under the same digest.
Not guaranteed: that evidence was collected honestly; the ledger says who made each piece, and when.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.digests import digest_json
from app.governance.checks import Check
from app.governance.evidence import Evidence, EvidenceMissing
from app.governance.findings import Finding, worst
from app.governance.policy import Policy, policy_of, publish_policy
from app.registry.versions import Registry, Version

CODE_VERSION = "gate-1"


@dataclass(frozen=True)
class Replay:
    """Whether a verdict came out the same again, and what differs."""

    same: bool
    digest: str
    differences: tuple[str, ...]


def judge(policy: Policy, evidence: Evidence, *, registry: Registry, actor: str = "gate") -> Version:
    """Judge evidence by a policy and publish the verdict; the same evidence again gives the same version.

    The verdict's facts: ``light`` (green passes, amber needs a person, red fails), ``gate``, ``artifact``, ``checks``.
    """
    manifest = _manifest(publish_policy(policy, registry), policy, evidence)
    parts = {key: manifest[key] for key in ("inputs", "parents", "facts")}
    return registry.publish("verdict", manifest["name"], actor=actor, **parts)


def replay(verdict: Version, *, registry: Registry) -> Replay:
    """Judge again from what the verdict recorded, publishing nothing."""
    inputs = verdict.manifest["inputs"]
    policy = registry.get("policy", inputs["policy"])
    again = _manifest(policy, policy_of(policy), Evidence.from_json(inputs["evidence"], registry))
    digest = digest_json({**again, "files": {}})
    return Replay(digest == verdict.digest, digest, tuple(_differences(verdict.facts, again["facts"])))


def summary(verdict: Version) -> list[str]:
    """A line for each check, the verdict first."""
    facts = verdict.facts
    lines = [f"{facts['light']}: {facts['gate']} gate for {facts['artifact']['kind']} {facts['artifact']['ref']}"]
    return lines + [f"  {check['light']:7} {check['kind']}: {check['reason']}" for check in facts["checks"]]


def _manifest(policy_version: Version, policy: Policy, evidence: Evidence) -> dict[str, Any]:
    """What the verdict's version says, but for its files, of which it has none."""
    findings = [(check, _judge(check, evidence)) for check in policy.checks]
    artifact = evidence.artifact
    return {
        "kind": "verdict",
        "name": f"{policy.name}-{artifact.name}",
        "inputs": {"policy": policy_version.digest, "evidence": evidence.to_json(), "code": CODE_VERSION},
        "parents": [policy_version.digest, *evidence.parents],
        "facts": {
            "light": worst(finding for _, finding in findings),
            "gate": policy.gate,
            "policy": policy_version.ref,
            "artifact": {"kind": artifact.kind, "digest": artifact.digest, "ref": artifact.ref},
            "checks": [{"kind": check.kind, **finding.to_json()} for check, finding in findings],
        },
    }


def _judge(check: Check, evidence: Evidence) -> Finding:
    """A check that misses something fails, and says what it misses."""
    try:
        return check.judge(evidence)
    except EvidenceMissing as error:
        return Finding("red", str(error))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    named = [key for key in ("light", "gate", "policy", "artifact") if before.get(key) != after[key]]
    found = [f"{key}: recorded {before.get(key)!r}, now {after[key]!r}" for key in named]
    recorded = before.get("checks", [])
    if len(recorded) != len(after["checks"]):
        return [*found, f"checks: recorded {len(recorded)}, now {len(after['checks'])}"]
    pairs = zip(recorded, after["checks"], strict=True)
    return found + [f"{new['kind']}: recorded {old!r}, now {new!r}" for old, new in pairs if old != new]
