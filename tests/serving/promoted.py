"""Releases put into production the one honest way, for tests of what comes after: judged, approved, promoted."""

from app.governance.approvals import approve
from app.governance.evidence import Evidence
from app.governance.gate import judge
from app.governance.keys import new_key
from app.governance.policy import parse_policy
from app.governance.promotion import promote
from app.ledger.key_sources import open_signer

CHECKS = [{"kind": "complete_lineage", "sources": []}, {"kind": "approvals"}]
POLICY = parse_policy({"name": "served", "gate": "candidate", "checks": CHECKS})
APPROVER = "served-jane"


def put_into_production(registry, release):
    """Promote a release; its verdict is about itself and asks for nothing but its ancestors and one approval."""
    verdict = judge(POLICY, Evidence.collect(release, registry=registry), registry=registry)
    said = {"printed_name": "Jane Doe", "meaning": "approved for production"}
    approve(verdict, release, signer=approver_of(registry), registry=registry, **said)
    promote(release, verdict=verdict, registry=registry, policy=POLICY, reason="a test")
    return release


def approver_of(registry):
    """Jane's key, made with the first call."""
    keys_dir = registry.workspace.keys_dir
    if (keys_dir / f"{APPROVER}.pub").exists():
        return open_signer(keys_dir, APPROVER)
    return new_key(registry, APPROVER, role="approver", person="Jane Doe")
