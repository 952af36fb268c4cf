"""One turn of the loop, the stages in a row: from documents to a release candidate with its verdict.

Guarantees: every step is found again by its inputs, so that a run which was killed goes on where it ended and a second
run does nothing; no step but `put_into_production` moves production. Not guaranteed: a
release; a candidate whose verdict is red has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import UsageError
from app.datasets.pipeline import assess_on_cluster
from app.documents.pipeline import ingest
from app.escalation.ladder import machine_cost_usd
from app.evaluation.answerers import Grounding
from app.evaluation.pipeline import evaluate
from app.governance import canary
from app.governance.evidence import TARGET, Evidence, find_ancestors
from app.governance.gate import judge
from app.governance.policy import Policy, load_policy, policy_of, publish_policy
from app.governance.promotion import promote
from app.governance.release import build_release, index_verdict_of, parts_of, passages_of, price_name
from app.governance.stoplights import DATA, StopLight, ask, ask_about_release, plan_retraining, red_reasons
from app.inference.retrievers import retriever_of
from app.ledger.keys import Signer
from app.monitoring.plan import RetrainPlan
from app.registry.versions import PRODUCTION, Registry, Version
from app.retrieval.pipeline import build_index
from app.serving.engines import calibrate_router, grounding_of
from app.serving.production import tell_mlflow
from app.settings import SignalboxSettings
from app.synthesis.pipeline import synthesize
from app.training.settings import TrainSettings
from app.training.trainer import train

SYNTHETIC = "synthetic"
RETRIEVAL_POLICY = "retrieval"
RETRAINING = "retraining"


class NothingNew(UsageError):
    """The documents say nothing that production was not trained on: publish revised documents, then retrain."""


class NothingToLearnOn(UsageError):
    """Production has no small model to learn on from: train one and promote it first."""


class NotPrepared(UsageError):
    """A dataset has no index or no synthetic rows yet: run the job that the message names."""


@dataclass(frozen=True)
class Knowledge:
    """The documents as they are now, searchable, and as questions and answers."""

    dataset: Version
    index: Version
    rows: Version


@dataclass(frozen=True)
class Candidate:
    """A judged model with all that would serve; router and release are None when the verdict is red.

    ``traffic`` is the verdict of the release's own gate; where that is red, there is no release, and ``stopped`` says
    why.
    """

    model: Version
    router: Version | None
    evaluations: Mapping[str, Version]
    before: Mapping[str, Version]
    verdict: Version
    release: Version | None
    traffic: Version | None = None
    stopped: str = ""


def build_knowledge(
    source: str,
    *,
    dataset: str,
    synthetic: str,
    registry: Registry,
    settings: SignalboxSettings,
    retriever: Version | None = None,
) -> Knowledge:
    """Ingest a folder, index it (with a tuned retriever, where one is given), and make synthetic rows of it.

    A quality report lies beside the documents and the rows.
    """
    documents = ingest(source, dataset, registry=registry, settings=settings.documents)
    how: dict[str, Any] = {"registry": registry, "settings": settings.retrieval, "retriever": retriever}
    index = build_index(documents, name=dataset, **how)
    rows = synthesize(documents, name=synthetic, registry=registry, settings=settings.synthesis)
    for version in (documents, rows):
        assess_on_cluster(version, registry=registry, settings=settings.datasets)
    return Knowledge(documents, index, rows)


def learn_on(
    base: Version,
    knowledge: Knowledge,
    *,
    name: str,
    recipe: TrainSettings,
    registry: Registry,
    trainer: Signer | None = None,
) -> Version:
    """Fine-tune a model on new rows, replaying those that it was trained on.

    Args:
        trainer: the key that signs the training; nobody does by default.

    Raises:
        NothingNew: it was trained on these very rows.
    """
    known = known_rows(base, registry=registry)
    if knowledge.rows.digest in [version.digest for version in known]:
        raise NothingNew(f"{base.ref} was trained on {knowledge.rows.ref} already: publish revised documents first")
    data = [knowledge.rows, *known]
    return train(
        name=name, data=data, base=base, registry=registry, workspace=registry.workspace, settings=recipe,
        signer=trainer,
    )  # fmt: skip


def known_rows(model: Version, *, registry: Registry) -> list[Version]:
    """Synthetic rows among a model's ancestors, newest first."""
    leaves, _ = find_ancestors(registry, [model.digest])
    found = sorted((leaf for leaf in leaves.values() if leaf.statement.kind == SYNTHETIC), key=lambda leaf: -leaf.index)
    return [registry.get(SYNTHETIC, leaf.statement.subject) for leaf in found]


def evaluate_on(
    model: Version,
    suites: Mapping[str, Version],
    *,
    registry: Registry,
    settings: SignalboxSettings,
    grounding: Grounding | None = None,
) -> dict[str, Version]:
    """Evaluations of a model, under the labels of the suites.

    Args:
        grounding: passages that it is given with each question, as it would be in serving.
    """
    how: dict[str, Any] = {"registry": registry, "settings": settings.evaluation, "grounding": grounding}
    return {label: evaluate(model, suite, **how) for label, suite in suites.items()}


def build_candidate(
    name: str,
    *,
    small: Version,
    large: Version | None,
    knowledge: Knowledge,
    suites: Mapping[str, Version],
    policy: Policy,
    registry: Registry,
    settings: SignalboxSettings,
    production: Version | None = None,
    prices: Mapping[str, float] | None = None,
    gates: Mapping[str, Version] | None = None,
    context_passages: int = 0,
    actor: str = "service",
) -> Candidate:
    """Evaluate and judge; unless the verdict is red, calibrate a router, publish a release and judge that too.

    Args:
        context_passages: how many passages its models are given, here and in serving.
        suites: by label; ``target`` is the one to do well on, all others are regression suites.
        production: the release to compare with.
        prices: US dollars, such as ``small_usd_per_1k_tokens``.
        gates: verdicts of the gates that were passed on the way, by gate.
    """
    grounding = grounding_of(knowledge.index, context_passages, registry=registry)
    evaluations = evaluate_on(small, suites, registry=registry, settings=settings, grounding=grounding)
    before = _evaluate_production(production, suites, new=None, registry=registry, settings=settings)
    evidence = Evidence.collect(small, registry=registry, candidate=evaluations, production=before, others=gates)
    verdict = judge(policy, evidence, registry=registry)
    if verdict.facts["light"] == "red":
        return Candidate(small, None, evaluations, before, verdict, None)
    how: dict[str, Any] = {"production": production, "registry": registry, "settings": settings, "grounding": grounding}
    beside = judge_large(large, suites, policy=policy, **how) if large else None
    if beside and beside.facts["light"] == "red":
        return Candidate(small, None, evaluations, before, verdict, None, stopped=_said_of(beside))
    parts: dict[str, Any] = {"small": small, "large": large, "index": knowledge.index, "registry": registry}
    parts["context_passages"] = context_passages
    router = calibrate_router(**parts, synthetic=knowledge.rows, settings=settings.routing)
    release = build_release(
        name,
        **parts,
        router=router,
        dataset=knowledge.dataset,
        verdict=verdict,
        large_verdict=beside,
        index_verdict=_index_verdict(knowledge.index, production, registry=registry),
        policy=publish_policy(policy, registry),
        prices=prices,
        actor=actor,
    )
    try:
        traffic = ask_about_release(release, verdict=verdict, registry=registry)
    except StopLight as red:
        return Candidate(small, router, evaluations, before, verdict, None, stopped=str(red))
    return Candidate(small, router, evaluations, before, verdict, release, traffic)


def judge_large(
    large: Version,
    suites: Mapping[str, Version],
    *,
    policy: Policy,
    production: Version | None,
    registry: Registry,
    settings: SignalboxSettings,
    grounding: Grounding | None = None,
) -> Version:
    """The verdict on the large model, by the policy that judges the small one and on the rows that it learnt from.

    One that production serves already is not trained anew: it is judged by the evaluations by which it got there,
    since no suite of later news can be asked of it; with passages it is asked the same suites again, with these.
    """
    stood = _verdict_on(large, production, registry=registry)
    asked: dict[str, Any] = {"registry": registry, "settings": settings, "grounding": grounding}
    if stood:
        then = Evidence.from_json(stood.manifest["inputs"]["evidence"], registry)
        evaluations = evaluate_on(large, _suites_of(then), **asked) if grounding else then.candidate
        before = then.production
    else:
        evaluations = evaluate_on(large, suites, **asked)
        before = _evaluate_production(production, suites, new=large, registry=registry, settings=settings)
    rows = known_rows(large, registry=registry)
    others = {DATA: ask(DATA, rows[0], registry=registry)} if rows else {}
    evidence = Evidence.collect(large, registry=registry, candidate=evaluations, production=before, others=others)
    return judge(policy, evidence, registry=registry)


def judge_again(stood: Version, *, grounding: Grounding, registry: Registry, settings: SignalboxSettings) -> Version:
    """The verdict on a model by the policy and on the suites of an earlier one, asked again with other passages."""
    then = Evidence.from_json(stood.manifest["inputs"]["evidence"], registry)
    asked: dict[str, Any] = {"registry": registry, "settings": settings, "grounding": grounding}
    evaluations = evaluate_on(then.artifact, _suites_of(then), **asked)
    seen: dict[str, Any] = {"candidate": evaluations, "production": then.production, "others": then.others}
    policy = policy_of(registry.get("policy", str(stood.stated("inputs", "policy"))))
    return judge(policy, Evidence.collect(then.artifact, registry=registry, **seen), registry=registry)


def _suites_of(then: Evidence) -> dict[str, Version]:
    """The suites that a candidate was asked, by label."""
    return {label: then.suite_of(each) for label, each in then.candidate.items()}


def _index_verdict(index: Version, production: Version | None, *, registry: Registry) -> Version | None:
    """The verdict that let the retriever of an index into production; None without a retriever, or another's."""
    retriever = index.facts.get("retriever")
    stood = index_verdict_of(production, registry=registry) if production and retriever else None
    judged = registry.get("index", stood.facts["artifact"]["digest"]) if stood else None
    return stood if judged and judged.facts.get("retriever") == retriever else None


def _said_of(red: Version) -> str:
    about = red.facts["artifact"]
    return f"the {red.facts['gate']} gate is red for {about['kind']} {about['ref']}: {'; '.join(red_reasons(red))}"


def _verdict_on(large: Version, production: Version | None, *, registry: Registry) -> Version | None:
    """The verdict by which a large model got into production; None when it is not there."""
    digest = production.manifest["inputs"].get("large_verdict") if production else None
    found = registry.get("verdict", digest) if digest else None
    return found if found and found.facts["artifact"]["digest"] == large.digest else None


def propose_first(
    name: str,
    *,
    small: Version,
    large: Version | None,
    knowledge: Knowledge,
    suite: Version,
    policy: Policy,
    registry: Registry,
    settings: SignalboxSettings,
    context_passages: int = 0,
) -> Candidate:
    """The candidate for a first release, with prices from the speeds that its models show on the suite.

    Args:
        context_passages: how many passages its models are given.

    Raises:
        StopLight: the data gate is red for the rows that it was trained on.
    """
    gates = {DATA: ask(DATA, knowledge.rows, registry=registry)}
    models = {"small": small} | ({"large": large} if large else {})
    grounding = grounding_of(knowledge.index, context_passages, registry=registry)
    how: dict[str, Any] = {"registry": registry, "settings": settings.evaluation, "grounding": grounding}
    speeds = {rung: evaluate(model, suite, **how) for rung, model in models.items()}
    return build_candidate(
        name,
        small=small,
        large=large,
        knowledge=knowledge,
        suites={TARGET: suite},
        policy=policy,
        prices=measured_prices(speeds, settings=settings),
        gates=gates,
        context_passages=context_passages,
        registry=registry,
        settings=settings,
    )


def find_knowledge(dataset: Version, *, registry: Registry) -> Knowledge:
    """The newest index and synthetic rows that were made from a dataset version.

    An index that a tuned retriever made is passed over: ``propose_index`` brings it into a release, with a verdict.

    Raises:
        NotPrepared: one of them is missing; the message names the job that makes it.
    """
    made = [each for each in registry.versions() if dataset.digest in each.parents and "retriever" not in each.facts]
    found = {version.kind: version for version in made}
    for kind, job in (("index", "jobs.index"), (SYNTHETIC, "jobs.synthesize")):
        if kind not in found:
            raise NotPrepared(
                f"nothing of kind {kind} was made from dataset {dataset.ref}: run {job} --dataset {dataset.ref}"
            )
    return Knowledge(dataset, found["index"], found[SYNTHETIC])


def build_retrieval_release(
    name: str, *, knowledge: Knowledge, registry: Registry, actor: str = "service"
) -> tuple[Version, Version]:
    """A release that only quotes, for documents that no model has learnt well enough; with its verdict."""
    policy = load_policy(RETRIEVAL_POLICY)
    verdict = judge(policy, Evidence.collect(knowledge.dataset, registry=registry), registry=registry)
    release = build_release(
        name,
        index=knowledge.index,
        dataset=knowledge.dataset,
        policy=publish_policy(policy, registry),
        verdict=verdict,
        registry=registry,
        actor=actor,
    )
    return release, verdict


def measured_prices(evaluations: Mapping[str, Version], *, settings: SignalboxSettings) -> dict[str, float]:
    """US dollars for 1,000 tokens of each model, from the speed in its evaluation and the machine's price.

    Args:
        evaluations: by rung, ``small`` or ``large``.
    """
    return {
        price_name(rung): machine_cost_usd(1000 / each.facts["tokens_per_s"], settings=settings.ladder)
        for rung, each in evaluations.items()
    }


def retrain(
    plan: RetrainPlan,
    *,
    registry: Registry,
    settings: SignalboxSettings,
    actor: str,
    trigger: str | None = None,
    trainer: Signer | None = None,
) -> Candidate:
    """Build the next candidate from the documents as they are now and the small model in production.

    Args:
        trainer: the key that signs the training; nobody does by default.
        trigger: id of the trigger that asks for it; None when a person does.

    Raises:
        StopLight: the gate before spending or the one before training is red.
    """
    production = registry.get("release", f"{plan.release}@{PRODUCTION}")
    parts = parts_of(production, registry=registry)
    retriever = retriever_of(parts["index"], registry=registry) if "index" in parts else None
    if "small" not in parts:
        raise NothingToLearnOn(f"{production.ref} has no small model to learn on from: promote one that has")
    suites = find_suites(plan.suite, plan.regression_suites, registry=registry)
    policy = load_policy(plan.policy)
    asked = plan.model_dump(mode="json")
    spending = plan_retraining(production, parts["small"], trigger=trigger, registry=registry, asked=asked)
    gates = {RETRAINING: ask(RETRAINING, spending, registry=registry)}
    knowledge = build_knowledge(
        plan.source,
        dataset=plan.dataset,
        synthetic=plan.synthetic,
        registry=registry,
        settings=settings,
        retriever=retriever,
    )
    gates[DATA] = ask(DATA, knowledge.rows, registry=registry)
    recipe = settings.training.small_continual
    small = learn_on(parts["small"], knowledge, name=plan.model, recipe=recipe, registry=registry, trainer=trainer)
    return build_candidate(
        plan.release,
        small=small,
        large=parts.get("large"),
        knowledge=knowledge,
        suites=suites,
        policy=policy,
        production=production,
        prices=production.facts["prices"],
        gates=gates,
        context_passages=passages_of(production),
        registry=registry,
        settings=settings,
        actor=actor,
    )


def put_into_production(release: Version, *, registry: Registry, reason: str, signer: Signer | None = None) -> None:
    """Promote a release by its own verdict and policy, and tell MLflow which model that is.

    Args:
        signer: who makes the move; the log's own key by default.

    Raises:
        PromotionRefused: the verdict or the approvals do not carry it.
        StopLight: the gate before traffic is red.
    """
    promote(release, **_grounds(release, registry), registry=registry, signer=signer, reason=reason)
    tell_mlflow(release, registry=registry)


def run_beside_production(
    release: Version,
    *,
    registry: Registry,
    reason: str,
    share: float = 0.0,
    callers: Sequence[str] = (),
    signer: Signer | None = None,
) -> None:
    """Run a release as a canary by its own verdict and policy; see ``app.governance.canary.begin``.

    Raises:
        PromotionRefused: the verdict or the approvals do not carry it, or no canary can run now.
        StopLight: the gate before traffic is red.
    """
    whose: dict[str, Any] = {"share": share, "callers": callers}
    canary.begin(release, **_grounds(release, registry), registry=registry, signer=signer, reason=reason, **whose)


def _grounds(release: Version, registry: Registry) -> dict[str, Any]:
    """The verdict that a release was built on and its policy, once the gate before traffic was asked."""
    verdict = verdict_of(release, registry=registry)
    ask_about_release(release, verdict=verdict, registry=registry)
    policy = policy_of(registry.get("policy", str(verdict.stated("inputs", "policy"))))
    return {"verdict": verdict, "policy": policy}


def verdict_of(release: Version, *, registry: Registry) -> Version:
    """The verdict that a release was built on; VersionNotFound where it names none."""
    return registry.get("verdict", str(release.stated("inputs", "verdict")))


def find_suites(target: str, regression: Sequence[str], *, registry: Registry) -> dict[str, Version]:
    """Suites by label: the target's own label, every other one its reference's name."""
    found = {TARGET: registry.get("suite", target)}
    return found | {ref.partition("@")[0]: registry.get("suite", ref) for ref in regression}


def _evaluate_production(
    production: Version | None,
    suites: Mapping[str, Version],
    *,
    new: Version | None,
    registry: Registry,
    settings: SignalboxSettings,
) -> dict[str, Version]:
    """Evaluations of the small model in production; for a new large one of the large model there, if another is."""
    parts = parts_of(production, registry=registry) if production else {}
    large = parts.get("large") if new else None
    model = large if large and new and large.digest != new.digest else parts.get("small")
    if production is None or model is None:
        return {}
    grounding = grounding_of(parts.get("index"), passages_of(production), registry=registry)
    return evaluate_on(model, suites, registry=registry, settings=settings, grounding=grounding)
