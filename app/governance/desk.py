"""What waits for a signature: releases with their verdict, what their policy asks for, and who has signed so far.

Guarantees: reads only; the same facts for the command line, the HTTP endpoints and the console, and all that a signer
needs to draft a statement elsewhere. Not guaranteed: that nothing changes before the signature comes back; ``record``
checks everything again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.clock import timestamp
from app.governance.approvals import decisions, judge_approvals, record, rejections, valid_approvals
from app.governance.policy import policy_of
from app.governance.promotion import is_stopped
from app.ledger.decisions import APPROVAL, REJECTION
from app.registry.versions import PRODUCTION, Registry, Version

RELEASE = "release"


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
    """Log and digests to sign, the verdict's checks, what the policy asks for, and the decisions that stand."""
    verdict = registry.get("verdict", release.manifest["inputs"]["verdict"])
    rule = policy_of(registry.get("policy", verdict.manifest["inputs"]["policy"])).approvals
    finding = judge_approvals(rule, valid_approvals(release, verdict, registry=registry))
    rejected = bool(rejections(release, registry=registry))
    return {
        "release": release.ref,
        "log": registry.ledger.log_key,
        "artifact": {"kind": release.kind, "digest": release.digest},
        "verdict": {"ref": verdict.ref, "digest": verdict.digest, "light": verdict.facts["light"]},
        "in_production": registry.alias(release.kind, release.name, PRODUCTION) == release.digest,
        "stopped": is_stopped(registry, release),
        "rejected": rejected,
        "approved": finding.light == "green" and not rejected,
        "finding": finding.reason,
        "meaning": rule.meaning,
        "checks": [f"{check['light']}: {check['reason']}" for check in verdict.facts["checks"]],
        "decisions": list(_decisions(release, verdict, registry)),
        "at": timestamp(),
    }


def _decisions(release: Version, verdict: Version, registry: Registry) -> list[dict[str, Any]]:
    book = decisions(registry)
    found = [each for kind in (APPROVAL, REJECTION) for each in book.standing(kind, release.digest, verdict.digest)]
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
