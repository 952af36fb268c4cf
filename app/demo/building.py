"""First half of the story: documents become knowledge, models, a ladder, and a release that a person approved."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from app.core.errors import SignalboxError
from app.demo.facts import Revision
from app.demo.scene import Scene
from app.escalation.gate import ask_to_climb, expected_cost_usd
from app.escalation.ladder import Ladder, Measured, climb, machine_cost_usd, render
from app.escalation.rungs import Quotations, measured
from app.evaluation.pipeline import evaluate
from app.evaluation.suite import publish_suite
from app.governance.approvals import approve, valid_approvals
from app.governance.gate import summary
from app.governance.keys import enrol, new_key
from app.governance.policy import load_policy
from app.governance.promotion import ApprovalsMissing
from app.governance.stoplights import DATA, ask
from app.ledger.key_sources import NoSuchKey, open_signer
from app.ledger.keys import Signer
from app.loop import (
    Candidate,
    Knowledge,
    build_knowledge,
    build_retrieval_release,
    propose_first,
    put_into_production,
    verdict_of,
)
from app.registry.versions import Version
from app.training.settings import TrainSettings
from app.training.trainer import train

RELEASE = "assistant"
APPROVER = "demo"
MEANING = "approved for production"
PRINTED_NAME = "Dana Demo (a key that the demo made for the purpose)"


class GateOpen(SignalboxError):
    """A release went into production without an approval: the gate is broken, do not use this build."""


@dataclass(frozen=True)
class Models:
    """The models of the first release, and the rungs that were tried."""

    base: Version
    small: Version
    large: Version
    adapter: Version


def know(scene: Scene, source: str, name: str) -> Knowledge:
    """Ingest, index and synthesise what the organisation published; say what came of it."""
    started_s = time.monotonic()
    knowledge = build_knowledge(
        source, dataset=name, synthetic=f"{name}-qa", registry=scene.registry, settings=scene.settings
    )
    _remember_duration(scene, knowledge.index.digest, time.monotonic() - started_s)
    documents, rows = knowledge.dataset.facts, knowledge.rows.facts
    scene.say(
        f"{documents['num_documents']} documents, {documents['num_chunks']} chunks, "
        f"{documents['num_rejected']} rejected; {rows['num_rows']} synthetic rows from {rows['num_facts']} facts"
    )
    return knowledge


def train_models(scene: Scene, knowledge: Knowledge, suite: Version) -> Models:
    """Bootstrap both models from a random start, then fine-tune the small one, by adapters and in full.

    The data gate stands before all of it, the escalation gate before each deeper rung.

    Raises:
        StopLight: one of them is red.
    """
    recipes, rows = scene.settings.training, [knowledge.rows]
    for line in summary(ask(DATA, knowledge.rows, registry=scene.registry)):
        scene.say(line)
    run = partial(train, registry=scene.registry, workspace=scene.workspace)
    base = run(
        name="small-base",
        data=[knowledge.dataset],
        model=recipes.small,
        vocabulary=rows,
        settings=recipes.small_cpt,
    )
    tried = {"prompt": _evaluated(scene, base, suite), "retrieval": _quoted(scene, knowledge, suite)}
    _climb_to(scene, "lora", tried, like=base, recipe=recipes.small_lora)
    adapter = run(name="small-lora", data=rows, base=base, settings=recipes.small_lora)
    tried["lora"] = _evaluated(scene, adapter, suite)
    _climb_to(scene, "full", tried, like=adapter, recipe=recipes.small_sft)
    small = run(name="small", data=rows, base=base, settings=recipes.small_sft)
    large = run(
        name="large",
        data=rows,
        model=recipes.large,
        vocabulary=[knowledge.dataset],
        settings=recipes.large_sft,
    )
    for model in (base, adapter, small, large):
        figures = model.facts["train"]
        scene.say(
            f"{model.ref}: {model.facts['num_parameters'] / 1e6:.1f} M parameters, loss "
            f"{figures['loss_first']:.2f} -> {figures['loss_last']:.3f}, {figures['tokens_per_s']:.0f} tokens/s"
        )
    return Models(base, small, large, adapter)


def climb_ladder(scene: Scene, knowledge: Knowledge, models: Models, suite: Version) -> Ladder:
    """Run one suite through every rung, and print the table."""
    settings = scene.settings
    retrieved = _quoted(scene, knowledge, suite)
    rungs = [_rung(scene, "prompt", models.base, suite), _rung(scene, "lora", models.adapter, suite)]
    rungs.append(_rung(scene, "full", models.small, suite))
    built_usd = machine_cost_usd(_duration(scene, knowledge.index.digest), settings=settings.ladder)
    rungs.append(measured("retrieval", retrieved, cost_build_usd=built_usd, settings=settings.ladder))
    ladder = climb(rungs, settings=settings.ladder)
    scene.console.print(render(ladder))
    return ladder


def judge_first(scene: Scene, knowledge: Knowledge, models: Models, suite: Version) -> Candidate:
    """Evaluate, judge and calibrate; say what the gate found."""
    candidate = propose_first(
        RELEASE,
        small=models.small,
        large=models.large,
        knowledge=knowledge,
        suite=suite,
        policy=load_policy("candidate"),
        registry=scene.registry,
        settings=scene.settings,
    )
    for line in summary(candidate.verdict):
        scene.say(line)
    for line in summary(candidate.traffic) if candidate.traffic else filter(None, [candidate.stopped]):
        scene.say(line)
    return candidate


def serveable(scene: Scene, knowledge: Knowledge, release: Version | None) -> Version:
    """The release to serve: the candidate's, or one that only quotes when its gate was red."""
    if release:
        return release
    scene.say("a gate is red: production gets a release that retrieves and quotes, and no model")
    fallback, verdict = build_retrieval_release(RELEASE, knowledge=knowledge, registry=scene.registry)
    for line in summary(verdict):
        scene.say(line)
    return fallback


def approve_release(scene: Scene, release: Version) -> None:
    """Show that nothing is promoted without an approval, then give it."""
    verdict = verdict_of(release, registry=scene.registry)
    if not valid_approvals(release, verdict, registry=scene.registry):
        _show_refusal(scene, release)
    signer = _approver(scene)
    approval = approve(
        verdict, release, signer=signer, printed_name=PRINTED_NAME, meaning=MEANING, registry=scene.registry
    )
    scene.say(f"approved by {PRINTED_NAME}: {approval.ref} ({approval.short})")
    facts = verdict.facts
    promotion = {"release": release.ref, "verdict": verdict.digest, "light": facts["light"]}
    promotion |= {"approvals": [PRINTED_NAME], "reasons": [check["reason"] for check in facts["checks"]]}
    scene.figures.setdefault("promotions", []).append(promotion)


def promote_release(scene: Scene, release: Version) -> None:
    """Put an approved release into production."""
    put_into_production(release, registry=scene.registry, reason="first release of the demo")
    scene.say(f"{release.ref} is in production")


def publish_next_suites(scene: Scene) -> dict[str, Version]:
    """The suites of the second revision, committed before any training that they will judge.

    A folder's suites come from its synthetic rows, which are therefore made now; the retraining finds them.
    """
    knowledge = know(scene, str(scene.documents), scene.material.dataset) if scene.material.suites_need_rows else None
    return publish_suites(scene, 2, knowledge)


def publish_suites(scene: Scene, revision: Revision, knowledge: Knowledge | None) -> dict[str, Version]:
    """The held-out questions of a revision as suites, by label; labels without a question are left out."""
    rows = knowledge.rows if knowledge else None
    found = scene.material.suites(revision, registry=scene.registry, synthetic=rows)
    return {
        label: publish_suite(
            f"{scene.material.dataset}-{label}", questions, origin=scene.material.title, registry=scene.registry
        )
        for label, questions in found.items()
        if questions
    }


def _climb_to(scene: Scene, rung: str, tried: Mapping[str, Version], *, like: Version, recipe: TrainSettings) -> None:
    """Ask the gate before a deeper rung; amber, where a cheaper one is good enough, is the demo's own wish to go on."""
    cost_usd = expected_cost_usd(like, num_rows=recipe.num_steps * recipe.batch_size)
    verdict = ask_to_climb(rung, measured=tried, cost_usd=cost_usd, registry=scene.registry)
    for line in summary(verdict):
        scene.say(line)


def _evaluated(scene: Scene, model: Version, suite: Version) -> Version:
    return evaluate(model, suite, registry=scene.registry, settings=scene.settings.evaluation)


def _quoted(scene: Scene, knowledge: Knowledge, suite: Version) -> Version:
    """The rung that needs no training: the best sentences of the passages found."""
    quotations = Quotations(scene.workspace, knowledge.index.digest)
    settings, parents = scene.settings.evaluation, [knowledge.index.digest]
    return evaluate(None, suite, answer=quotations, parents=parents, registry=scene.registry, settings=settings)


def _rung(scene: Scene, rung: str, model: Version, suite: Version) -> Measured:
    evaluation = _evaluated(scene, model, suite)
    return measured(rung, evaluation, cost_build_usd=model.facts["train"]["cost_usd"], settings=scene.settings.ladder)


def _approver(scene: Scene) -> Signer:
    """The key that stands for a person here; outside a demo, somebody makes their own with `signalbox keys new`."""
    try:
        signer = open_signer(scene.workspace.keys_dir, APPROVER)
    except NoSuchKey:
        scene.say(f"made for this demo: signalbox keys new {APPROVER} --role approver --person {PRINTED_NAME!r}")
        return new_key(scene.registry, APPROVER, role="approver", person=PRINTED_NAME)
    enrol(scene.registry, signer.public, person=PRINTED_NAME)
    return signer


def _show_refusal(scene: Scene, release: Version) -> None:
    try:
        put_into_production(release, registry=scene.registry, reason="without approval")
    except ApprovalsMissing as refused:
        scene.say(f"refused, as it should be: {refused}")
    else:
        raise GateOpen(f"{release.ref} went into production without an approval: do not use this build")


def _remember_duration(scene: Scene, digest: str, duration_s: float) -> None:
    """Keep how long the first making took: a second demo finds the version and would measure nothing."""
    path = scene.workspace.demo_dir / "durations.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(digest, duration_s)
    path.write_text(json.dumps(known))


def _duration(scene: Scene, digest: str) -> float:
    return float(json.loads((scene.workspace.demo_dir / "durations.json").read_text())[digest])
