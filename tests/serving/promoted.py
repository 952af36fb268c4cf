"""Releases put into production the one honest way, for tests of what comes after: judged, approved, promoted."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.governance import canary
from app.governance.approvals import approve
from app.governance.evidence import Evidence
from app.governance.gate import judge
from app.governance.keys import new_key
from app.governance.policy import parse_policy
from app.governance.promotion import promote
from app.governance.stoplights import ask_about_release
from app.inference.passages import PASSAGES, identity_of
from app.ledger.key_sources import open_signer
from app.ledger.log import PRODUCTION
from app.routing.router import RUNGS

CHECKS = [{"kind": "complete_lineage", "sources": []}, {"kind": "approvals"}]
POLICY = parse_policy({"name": "served", "gate": "candidate", "checks": CHECKS})
APPROVER = "served-jane"


def build(registry, name, facts):
    """A release of these facts and the verdict on it; its models passed both gates."""
    models = [registry.get("model", facts[rung]) for rung in RUNGS if facts.get(rung)]
    with_passages = {"context_passages": facts.get("context_passages", 0), "index": facts.get("index")}
    answers = [answers_of(registry, model, **with_passages) for model in models]
    verdicts = [_judge(registry, model, {"target": each}) for model, each in zip(models, answers, strict=True)]
    around = [registry.publish(kind, f"{name}-{kind}", inputs={}) for kind in ("dataset", "index")]
    parents = [each.digest for each in (*models, *around, *verdicts)]
    further = {"large_verdict": verdicts[1].digest} if len(verdicts) > 1 else {}
    release = registry.publish("release", name, inputs=facts | further, parents=parents, facts=facts)
    if not models:
        return release, _judge(registry, release, {})
    ask_about_release(release, verdict=verdicts[0], registry=registry)
    return release, verdicts[0]


def let_through(registry, index):
    """A verdict on an index, as a release that searches with a tuned retriever names one."""
    return _judge(registry, index, {})


def put_into_production(registry, release, verdict):
    """Approve and promote what was built."""
    approved(registry, release, verdict)
    promote(release, verdict=verdict, registry=registry, policy=POLICY, reason="a test")
    assert registry.alias(release.kind, release.name, PRODUCTION) == release.digest
    return release


def approved(registry, release, verdict):
    """Jane approves it."""
    said = {"printed_name": "Jane Doe", "meaning": "approved for production"}
    approve(verdict, release, signer=_approver(registry), registry=registry, **said)
    return release


def run_as_canary(registry, release, verdict, *, share):
    """Approve it and run it beside production."""
    approved(registry, release, verdict)
    canary.begin(release, verdict=verdict, registry=registry, policy=POLICY, share=share, reason="a test")


def answers_of(registry, model, *, context_passages=0, index=None):
    """An evaluation with what the gate before traffic looks at, with passages of an index or without."""
    with tempfile.TemporaryDirectory() as name:
        pq.write_table(pa.table({"prediction": ["12 euros"] * 50, "grounded": [1.0] * 50}), Path(name) / "rows.parquet")
        stated = {PASSAGES: identity_of(index, context_passages)} if context_passages else {}
        given = {
            "inputs": {"m": model.digest, **stated},
            "parents": [model.digest],
            "facts": {"seconds_per_question": 0.1},
        }
        return registry.publish("evaluation", "served", folder=Path(name), **given)


def _judge(registry, artifact, candidate):
    return judge(POLICY, Evidence.collect(artifact, registry=registry, candidate=candidate), registry=registry)


def _approver(registry):
    """Jane's key, made with the first call."""
    keys_dir = registry.workspace.keys_dir
    if (keys_dir / f"{APPROVER}.pub").exists():
        return open_signer(keys_dir, APPROVER)
    return new_key(registry, APPROVER, role="approver", person="Jane Doe")
