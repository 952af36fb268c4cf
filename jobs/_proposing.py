"""Releases to be promoted: of models that were trained, or of an index for the models in production.

Guarantees: the verdict is printed, and where a gate is red the job ends with status 3. Not guaranteed: a release.
"""

import typer

from app.governance.approvals import approve
from app.governance.gate import summary
from app.governance.policy import load_policy, policy_of
from app.ledger.key_sources import open_signer
from app.loop import find_knowledge, propose_first, verdict_of
from app.loop_index import propose_index
from app.monitoring.actor import REFUSED_STATUS
from app.registry.versions import Version
from jobs.common import Job


def propose_models(
    here: Job,
    name: str,
    suite: str,
    *,
    small: str,
    large: str | None,
    dataset: str,
    policy: str | None,
    context_passages: int = 0,
) -> Version:
    """A first release of models, judged on a suite with the passages that it gives them."""
    get = here.registry.get
    candidate = propose_first(
        name,
        small=get("model", small),
        large=get("model", large) if large else None,
        suite=get("suite", suite),
        knowledge=find_knowledge(get("dataset", dataset), registry=here.registry),
        policy=load_policy(policy or "candidate"),
        registry=here.registry,
        settings=here.settings,
        context_passages=context_passages,
    )
    return _told(candidate.verdict, candidate.release, candidate.stopped)


def propose_retriever(here: Job, name: str, index: str, questions: str, *, policy: str | None) -> Version:
    """The release in production with another index, judged on a suite of questions."""
    proposal = propose_index(
        name,
        index=here.registry.get("index", index),
        suite=here.registry.get("suite", questions),
        policy=load_policy(policy or "retriever"),
        registry=here.registry,
        settings=here.settings,
    )
    return _told(proposal.verdict, proposal.release, proposal.stopped)


def sign(here: Job, release: Version, *, key: str, printed_name: str) -> None:
    """Approve a release by its verdict, with the meaning that the policy gives an approval."""
    signer, verdict = open_signer(here.workspace.keys_dir, key), verdict_of(release, registry=here.registry)
    meaning = policy_of(here.registry.get("policy", verdict.manifest["inputs"]["policy"])).approvals.meaning
    approve(verdict, release, signer=signer, printed_name=printed_name, meaning=meaning, registry=here.registry)


def _told(verdict: Version, release: Version | None, stopped: str) -> Version:
    print("\n".join([*summary(verdict), *filter(None, [stopped])]))
    if release is None:
        raise typer.Exit(REFUSED_STATUS)
    return release
