"""A router from outcomes to a release: trained, stated, judged, proposed, promoted; recalibrated; refused."""

from dataclasses import replace

import pytest

from app.governance.approvals import approve
from app.governance.evidence import Evidence
from app.governance.guarantees import NoGuarantee, standing_of, void_guarantee, void_if_swapped
from app.governance.policy import parse_policy
from app.governance.promotion import RouterRefused, promote
from app.governance.release import ReleaseIncomplete, build_release, ladder_of
from app.governance.stoplights import StopLight, ask_about_release
from app.ledger.verify import verify
from app.loop import verdict_of
from app.loop_router import OutcomesDiffer, judge_router, propose_router, train_router
from app.routing.limits import ModelCard
from app.routing.router import Cascade, Router
from app.routing.settings import RoutingSettings
from app.serving.outcomes import facts_of
from app.serving.release import resolve_release
from tests.routing.simulated import simulate
from tests.serving import promoted

SETTINGS = RoutingSettings(min_forecast_rows=100, tolerance=0.05, explore=0.01)
POLICY_RED = {"name": "lax", "gate": "candidate", "checks": [{"kind": "min_rows", "fact": "num_rows", "minimum": 1}]}
CARDS = {rung: ModelCard(usd_per_1k_tokens=price) for rung, price in (("small", 0.1), ("middle", 0.3), ("large", 1.0))}


@pytest.fixture
def parts(registry, tmp_path):
    def publish(kind, name, **more):
        folder = tmp_path / f"{kind}-{name}"
        folder.mkdir()
        (folder / "file").write_text(name)
        return registry.publish(kind, name, folder=folder, inputs={"name": name}, **more)

    found = {part: publish("model", part) for part in ("small", "large")}
    found["dataset"] = publish("dataset", "handbook")
    found["index"] = publish("index", "handbook", parents=[found["dataset"].digest])
    return found


@pytest.fixture
def outcomes(registry, parts, tmp_path):
    def make(sample, name="outcomes"):
        folder = tmp_path / f"rows-{name}"
        folder.mkdir()
        sample.save(folder)
        models = {rung: parts[rung].digest for rung in sample.rungs}
        facts = facts_of(sample, CARDS, models=models, index=parts["index"].digest, settings=SETTINGS)
        parents = [*models.values(), parts["index"].digest]
        return registry.publish("outcomes", name, folder=folder, inputs={"n": name}, facts=facts, parents=parents)

    return make


@pytest.fixture
def production(registry, parts, outcomes, tmp_path):
    """A release in production whose router only judges answers."""
    few = train_router([outcomes(simulate(100), "few")], name="first", registry=registry, settings=SETTINGS)
    assert few.facts["lacks"][0].startswith("forecasts: 50 rows")
    verdicts = [promoted._judge(registry, parts[rung], _answers(registry, parts[rung])) for rung in ("small", "large")]
    (tmp_path / "judge").mkdir()
    Router({}, Cascade({}, 1.0, None, None)).save(tmp_path / "judge")
    judge_only = registry.publish("router", "judge", folder=tmp_path / "judge", inputs={"j": 1})
    return _release(registry, parts, judge_only, verdicts)


def _answers(registry, model):
    return {"target": promoted.answers_of(registry, model)}


def _release(registry, parts, router, verdicts, **more):
    named = {part: parts[part] for part in ("small", "large", "index", "dataset")}
    release = build_release(
        "assistant", **named, router=router, verdict=verdicts[0], large_verdict=verdicts[1], registry=registry,
        prices={"small_usd_per_1k_tokens": 0.1, "large_usd_per_1k_tokens": 1.0}, **more,
    )  # fmt: skip
    ask_about_release(release, verdict=verdicts[0], registry=registry)
    return promoted.put_into_production(registry, release, verdicts[0])


def test_from_outcomes_to_production_and_back_from_a_drift(registry, production, parts, outcomes):
    made = train_router([outcomes(simulate(1200))], name="router", registry=registry, settings=SETTINGS)
    assert made.facts["guarantee"]["threshold"] is not None
    assert standing_of(registry, made.digest).objection == ""
    assert (
        train_router([registry.get("outcomes", "outcomes")], name="router", registry=registry, settings=SETTINGS)
        == made
    )
    proposal = propose_router("assistant", made, registry=registry)
    assert proposal.verdict.facts["light"] == "green", proposal.verdict.facts["checks"]
    said = {"printed_name": "Jane Doe", "meaning": "approved for production"}
    verdict = verdict_of(production, registry=registry)
    approve(verdict, proposal.release, signer=promoted._approver(registry), registry=registry, **said)
    promote(proposal.release, verdict=verdict, registry=registry, policy=promoted.POLICY, reason="a better router")
    serving = resolve_release(registry, "assistant@production")
    assert (serving.router_digest, serving.mismatch) == (made.digest, "")
    assert serving.router.guarantee.explored == 0.01
    void_guarantee(made, "the questions drifted", registry=registry)
    with pytest.raises(NoGuarantee, match="the questions drifted"):
        propose_router("assistant", made, registry=registry)
    fresh = [replace(row, row_id=f"later-{row.row_id}") for row in simulate(1000, seed=5).rows]
    shadow = outcomes(replace(simulate(1), rows=tuple(fresh)), "shadow")
    again = train_router([shadow], name="router", registry=registry, settings=SETTINGS, again=made)
    assert again.facts["guarantee"]["num_rows"] == 800
    assert standing_of(registry, again.digest).objection == ""
    assert standing_of(registry, made.digest).objection == "the questions drifted"
    old, new = (Router.load(registry.folder(each)) for each in (made, again))
    assert old.foresight.skip == new.foresight.skip
    assert [str(fault) for fault in verify(registry.workspace).faults] == []
    with pytest.raises(OutcomesDiffer, match="has seen all of these rows"):
        train_router([shadow], name="other", registry=registry, settings=SETTINGS, again=again)


def test_a_trained_router_serves_nobody_without_a_verdict(registry, production, parts, outcomes):
    made = train_router([outcomes(simulate(400))], name="router", registry=registry, settings=SETTINGS)
    verdict = verdict_of(production, registry=registry)
    large = registry.get("verdict", production.stated("inputs", "large_verdict"))
    with pytest.raises(RouterRefused, match="no verdict on it is named"):
        _release(registry, parts, made, (verdict, large))
    assert judge_router(made, registry=registry).facts["light"] in ("green", "amber", "red")
    promote_red = judge_router(registry.get("router", "first"), registry=registry)
    assert promote_red.facts["light"] == "red"
    with pytest.raises(RouterRefused, match="no verdict on it is named"):
        _release(registry, parts, made, (verdict, large), router_verdict=promote_red)


def test_three_models_serve_when_each_passed_its_gate(registry, production, parts, outcomes, tmp_path):
    (tmp_path / "middle").mkdir()
    (tmp_path / "middle" / "file").write_text("middle")
    middle = registry.publish("model", "middle", folder=tmp_path / "middle", inputs={"name": "middle"})
    judged = promoted._judge(registry, middle, _answers(registry, middle))
    large = registry.get("verdict", production.stated("inputs", "large_verdict"))
    pair = (verdict_of(production, registry=registry), large)
    router = registry.get("router", "judge")
    wrong = (("Big", judged, "cannot be called 'Big'"), ("middle", pair[0], "is not about model middle@1"))
    for names, verdict, said in wrong:
        with pytest.raises(ReleaseIncomplete, match=said):
            _release(registry, parts, router, pair, between={names: (middle, verdict)})
    release = _release(registry, parts, router, pair, between={"middle": (middle, judged)})
    assert list(resolve_release(registry, release.ref).models) == ["small", "middle", "large"]
    parts["middle"] = middle
    sample = outcomes(simulate(1200, seed=2, rungs=("small", "middle", "large")), "three")
    made = train_router([sample], name="router", registry=registry, settings=SETTINGS)
    assert made.facts["bound_to"]["middle"] == middle.digest
    proposal = propose_router("assistant", made, registry=registry)
    proposed = proposal.release
    assert proposed, (proposal.stopped, proposal.verdict.facts["checks"])
    assert resolve_mismatch(registry, proposed) == ""
    assert not void_if_swapped(proposed, registry=registry)
    red = promoted.judge(parse_policy(POLICY_RED), Evidence.collect(middle, registry=registry), registry=registry)
    with pytest.raises(StopLight, match="different policies"):
        _release(registry, parts, router, pair, between={"middle": (middle, red)})
    assert [str(fault) for fault in verify(registry.workspace).faults] == []


def resolve_mismatch(registry, release):
    """What the gateway would find if the release were promoted."""
    router = Router.load(registry.folder(registry.get("router", release.facts["router"])))
    return router.mismatch({**ladder_of(release), "index": release.facts["index"]})


def test_outcomes_of_other_models_are_refused(registry, outcomes, parts):
    first = outcomes(simulate(20), "a")
    moved = parts | {"small": parts["large"]}
    parts.update(moved)
    second = outcomes(simulate(20), "b")
    with pytest.raises(OutcomesDiffer, match="a@1, b@1"):
        train_router([first, second], name="router", registry=registry, settings=SETTINGS)
