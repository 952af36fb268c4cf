"""What waits for a signature: releases with their verdict, what their policy asks for, and who has signed so far.

Guarantees: reads only; the same facts for the command line, the HTTP endpoints and the console, and all that a signer
needs to draft a statement elsewhere. Not guaranteed: that nothing changes before the signature comes back; ``record``
checks everything again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.clock import timestamp
from app.core.store import ArtifactMissing
from app.governance.approvals import (
    RecordsLost,
    check_records,
    decisions,
    record,
    rejections,
)
from app.governance.checks import Approvals
from app.governance.moves import is_stopped
from app.governance.policy import BadPolicy, policy_of
from app.governance.promotion import judge_signed
from app.governance.release import index_verdict_of
from app.ledger.decisions import APPROVAL, REJECTION
from app.registry.versions import PRODUCTION, Registry, Version, VersionNotFound

RELEASE = "release"
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Desk:
    """Approvals of one registry; ``app.serving.approvals`` has the same over HTTP."""

    registry: Registry

    def list(self) -> list[dict[str, Any]]:
        """Every release, newest first, without its checks and signatures."""
        found = (describe(release, registry=self.registry) for release in reversed(self.registry.versions(RELEASE)))
        return [{key: value for key, value in each.items() if key not in ("checks", "decisions")} for each in found]

    def show(self, ref: str) -> dict[str, Any]:
        """One release whole; VersionNotFound when there is none."""
        return describe(self.registry.get(RELEASE, ref), registry=self.registry)

    def record(self, signed: Mapping[str, Any]) -> dict[str, Any]:
        """Publish a signed decision; raises as ``app.governance.approvals.record`` does."""
        made = record(signed, registry=self.registry)
        return {"kind": made.kind, "ref": made.ref, "digest": made.digest}


def describe(release: Version, *, registry: Registry) -> dict[str, Any]:
    """Log and digests to sign, the verdict's checks, what the policy asks for, and the decisions that stand.

    A release that was made up shows what there is of it; ``finding`` then says what is missing, and it is not approved.
    """
    verdict, rule, lacking = _asked(release, registry)
    finding = judge_signed(release, verdict, rule=rule, registry=registry) if verdict and rule else None
    rejected = bool(rejections(release, registry=registry))
    beside = index_verdict_of(release, registry=registry)
    judged = list({each.digest: each for each in (verdict, beside) if each}.values())
    return {
        "release": release.ref,
        "log": registry.ledger.log_key,
        "artifact": {"kind": release.kind, "digest": release.digest},
        "verdict": {
            "ref": verdict.ref if verdict else NOT_STATED,
            "digest": verdict.digest if verdict else "",
            "light": str((verdict and verdict.stated("facts", "light")) or NOT_STATED),
        },
        "in_production": registry.alias(release.kind, release.name, PRODUCTION) == release.digest,
        "stopped": is_stopped(registry, release),
        "rejected": rejected,
        "approved": not lacking and finding is not None and finding.light == "green" and not rejected,
        "finding": lacking or (finding.reason if finding else NOT_STATED),
        "meaning": rule.meaning if rule else "",
        "checks": [_check_line(check) for each in judged for check in _checks(each)],
        "decisions": list(_decisions(release, verdict.digest if verdict else "", registry)),
        "at": timestamp(),
    }


def _asked(release: Version, registry: Registry) -> tuple[Version | None, Approvals | None, str]:
    """A release's verdict, what its policy asks for, and why nothing can be approved; the last empty where it can."""
    verdict: Version | None = None
    try:
        check_records(registry)
        verdict = registry.get("verdict", str(release.stated("inputs", "verdict")))
        rule = policy_of(registry.get("policy", str(verdict.stated("inputs", "policy")))).approvals
    except (VersionNotFound, ArtifactMissing, BadPolicy, RecordsLost) as error:
        return verdict, None, str(error)
    return verdict, rule, ""


def _checks(verdict: Version) -> list[Any]:
    checks = verdict.stated("facts", "checks")
    return checks if isinstance(checks, list) else []


def _check_line(check: Any) -> str:
    said = check if isinstance(check, Mapping) else {}
    return f"{said.get('light', NOT_STATED)}: {said.get('reason', NOT_STATED)}"


def _decisions(release: Version, verdict: str, registry: Registry) -> list[dict[str, Any]]:
    book = decisions(registry)
    found = [each for kind in (APPROVAL, REJECTION) for each in book.standing(kind, release.digest, verdict)]
    return [
        {
            "kind": each.kind,
            "digest": each.digest,
            "leaf": each.index,
            "expired": each.expired(timestamp()),
            **each.body,
        }
        for each in sorted(found, key=lambda each: each.index)
    ]
