"""The gate: a policy's checks over evidence, published as a verdict that anyone can replay.

Guarantees: a verdict names its policy, all that it looked at, and each check's figure, threshold and reason; judging
the same evidence again gives the same verdict under the same digest.
Not guaranteed: that evidence was collected honestly; the ledger says who made each piece, and when.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.digests import digest_json
from app.core.errors import SignalboxError
from app.core.store import ArtifactMissing
from app.governance.checks import Check
from app.governance.evidence import (
    INDEX,
    MODEL,
    Evidence,
    EvidenceChanged,
    EvidenceMissing,
    changed_manifest,
    earlier_evaluations,
    leaf_of,
)
from app.governance.findings import Finding, worst
from app.governance.policy import BadPolicy, Policy, policy_of, publish_policy
from app.ledger.erasures import erasures_in
from app.registry.versions import Registry, Version, VersionNotFound

CODE_VERSION = "gate-4"
"""Goes up whenever a check says something else of the same evidence; a file of golden reasons watches over it."""

UNREADABLE = (
    VersionNotFound,
    ArtifactMissing,
    BadPolicy,
    EvidenceChanged,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)
"""What loading the evidence of a verdict ends with that was made up, or whose evidence is gone."""


class NotAVerdict(SignalboxError):
    """Only verdicts are replayed: name one, `signalbox gate list` shows them."""


@dataclass(frozen=True)
class Replay:
    """Whether a verdict came out the same again, and what differs; ``digest`` is empty when it could not be judged.

    ``erased`` names content that the verdict was reached on and that an erasure took since: such a verdict cannot be
    judged again, which is no sign of tampering. ``unexplained`` are differences in checks that looked at nothing which
    an erasure touched: these are one.
    """

    same: bool
    digest: str
    differences: tuple[str, ...]
    erased: tuple[str, ...] = ()
    unexplained: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        named = ("differences", "erased", "unexplained")
        return {"same": self.same, "digest": self.digest, **{name: list(getattr(self, name)) for name in named}}


def judge(policy: Policy, evidence: Evidence, *, registry: Registry, actor: str = "gate") -> Version:
    """Judge evidence by a policy and publish the verdict; the same evidence again gives the same version.

    The verdict's facts: ``light`` (green passes, amber needs a person, red fails), ``gate``, ``artifact``, ``checks``,
    and ``read``: kinds and digests of what the checks looked into behind the evidence.

    Raises:
        EvidenceChanged: a version in the evidence is not what its digest names.
    """
    if evidence.changed:
        raise EvidenceChanged(evidence.changed[0])
    version = publish_policy(policy, registry)
    manifest = _manifest(version, policy_of(version), evidence)  # as published, since that is what a replay reads
    parts = {key: manifest[key] for key in ("inputs", "parents", "facts")}
    return registry.publish("verdict", manifest["name"], actor=actor, **parts)


def replay(verdict: Version, *, registry: Registry) -> Replay:
    """Judge again from what the verdict recorded, publishing nothing.

    A verdict by another version of this code is not judged: its reasons may read otherwise without being wrong.
    Reads by ``registry.get``, ``folder``, ``ledger.leaves`` and ``store.manifest`` only, so that an evidence pack with
    these serves as well as the registry that the verdict lies in.

    Raises:
        NotAVerdict: the version is none.
    """
    if verdict.kind != "verdict":
        raise NotAVerdict(f"{verdict.kind} {verdict.ref} is no verdict: name one, `signalbox gate list` shows them")
    try:
        inputs = verdict.manifest["inputs"]
        if other := _other_code(inputs):
            return Replay(False, "", (other,))
        policy = registry.get("policy", inputs["policy"])
        evidence = Evidence.from_json(inputs["evidence"], registry)
        again = _manifest(policy, policy_of(policy), evidence)
        found = [*_changed([verdict, policy], evidence), *_place(verdict, evidence, registry)]
        found += _differences(verdict.manifest, again)
    except UNREADABLE as error:
        return Replay(False, "", (f"it records no evidence that can be judged: {error}",))
    digest = digest_json({**again, "files": {}})
    if not found and digest != verdict.digest:
        found.append(f"digest: recorded {verdict.digest}, now {digest}")
    erased = _erased(verdict, evidence, registry) if found else []
    unexplained = _unexplained(verdict, again, evidence, registry) if erased else []
    return Replay(not found, digest, (*erased, *found), tuple(erased), tuple(unexplained))


def summary(verdict: Version) -> list[str]:
    """A line for each check, the verdict first."""
    about = (("light",), ("gate",), ("artifact", "kind"), ("artifact", "ref"))
    light, gate, kind, ref = (verdict.stated("facts", *path) or "not stated" for path in about)
    checks = verdict.stated("facts", "checks")
    odd = [check for check in checks if isinstance(check, Mapping)] if isinstance(checks, list) else []
    said = [{name: str(check.get(name, "not stated")) for name in ("light", "kind", "reason")} for check in odd]
    return [f"{light}: {gate} gate for {kind} {ref}", *("  {light:7} {kind}: {reason}".format(**each) for each in said)]


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
            "read": evidence.read,
        },
    }


def _judge(check: Check, evidence: Evidence) -> Finding:
    """A check that misses something fails, and says what it misses."""
    try:
        return check.judge(evidence)
    except EvidenceMissing as error:
        return Finding("red", str(error))


def _changed(versions: list[Version], evidence: Evidence) -> list[str]:
    return [*filter(None, map(changed_manifest, versions)), *evidence.changed]


def _erased(verdict: Version, evidence: Evidence, registry: Registry) -> list[str]:
    """What erasures took from the evidence since the verdict."""
    leaf = leaf_of(verdict, registry=registry)
    read = [*evidence.parents, *(entry["digest"] for entry in evidence.read)]
    return erasures_in(registry.ledger, registry.store).since(read, leaf.index) if leaf else []


def _unexplained(verdict: Version, again: Mapping[str, Any], evidence: Evidence, registry: Registry) -> list[str]:
    """Differences in checks whose inputs lost nothing; a verdict among the inputs is replayed by itself."""
    leaf = leaf_of(verdict, registry=registry)
    erased = erasures_in(registry.ledger, registry.store).digests_since(leaf.index if leaf else -1)
    excused = erased | {version.digest for version in evidence.others.values() if version.kind == "verdict"}
    excused |= {each["digest"] for each in again["facts"]["read"] if each["kind"] == "verdict"}
    pairs = zip(verdict.facts.get("checks", []), again["facts"]["checks"], strict=False)
    touched = [(old, new, {*old.get("inputs", ()), *new["inputs"]} & excused) for old, new in pairs]
    return [line for old, new, lost in touched if not lost for line in _check_differences(old, new)]


def _other_code(inputs: Mapping[str, Any]) -> str:
    if inputs["code"] == CODE_VERSION:
        return ""
    return f"code: judged by {inputs['code']!r}, this is {CODE_VERSION!r}: replay it with that version"


def _place(verdict: Version, evidence: Evidence, registry: Registry) -> list[str]:
    """What does not fit a verdict's place in the ledger: its moment of judging, and promotions that it passes over."""
    leaf = leaf_of(verdict, registry=registry)
    if leaf is None:
        return [f"verdict {verdict.ref} is not in the ledger"]
    found = []
    if not evidence.published_at <= evidence.at <= leaf.statement.time:
        window = f"{evidence.published_at} (its evidence) and {leaf.statement.time} (its leaf)"
        found.append(f"at: judged at {evidence.at}, not between {window}")
    if evidence.artifact.kind in (MODEL, INDEX):
        known = {version.digest for version in evidence.earlier}
        earlier = earlier_evaluations(registry, evidence.artifact, before=leaf.index)
        left_out = [version.ref for version in earlier if version.digest not in known]
        found += [f"earlier: {ref}, by which a promotion before was judged, is left out" for ref in left_out]
    return found


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that came out differently."""
    before, after = recorded["facts"], now["facts"]
    found = [] if recorded["name"] == now["name"] else [f"name: recorded {recorded['name']!r}, now {now['name']!r}"]
    found += [] if recorded["parents"] == now["parents"] else ["parents: they are not policy and evidence"]
    named = [key for key in ("light", "gate", "policy", "artifact", "read") if before.get(key) != after[key]]
    found += [f"{key}: recorded {before.get(key)!r}, now {after[key]!r}" for key in named]
    checks = before.get("checks", [])
    if len(checks) != len(after["checks"]):
        return [*found, f"checks: recorded {len(checks)}, now {len(after['checks'])}"]
    pairs = zip(checks, after["checks"], strict=True)
    return found + [line for old, new in pairs for line in _check_differences(old, new)]


def _check_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    fields = [field for field in new if old.get(field) != new[field]]
    return [f"{new['kind']}.{field}: recorded {old.get(field)!r}, now {new[field]!r}" for field in fields]
