"""Into production by verdict and approval only: an attacker's list, each refused or found."""

import pytest
from sqlalchemy import select, update

from app.core.schema import aliases, versions
from app.governance.approvals import ApproverRefused, NothingToApprove, approve, valid_approvals
from app.governance.evidence import earlier_evaluations
from app.governance.gate import judge
from app.governance.policy import parse_policy
from app.governance.promotion import (
    ApprovalsMissing,
    NeverPromoted,
    VerdictRefused,
    promote,
    rollback,
)
from app.governance.release import ReleaseIncomplete, build_release, parts_of
from app.ledger.keys import Signer, sign_facts
from app.ledger.verify import verify
from tests.governance.conftest import POLICY, PRICES, ask_for_traffic, person_of

MEANING = "approved for production"


@pytest.fixture
def make(world, policy):
    """Make a judged model and its release: ``make(correct) -> (release, verdict, model)``."""

    def _make(correct=96, *, policy=policy, model=None):
        model = model or world.model()
        evaluation = world.evaluation([1] * correct + [0] * (100 - correct), model=model)
        verdict = judge(policy, world.evidence(model, candidate={"target": evaluation}), registry=world.registry)
        dataset = world.dataset()
        index = world.registry.publish("index", "handbook", inputs={"d": dataset.digest}, parents=[dataset.digest])
        router = world.registry.publish("router", "handbook", inputs={"m": model.digest}, parents=[model.digest])
        release = build_release(
            "handbook",
            small=model,
            index=index,
            dataset=dataset,
            router=router,
            verdict=verdict,
            registry=world.registry,
            prices=PRICES,
        )
        return ask_for_traffic(release, verdict, world.registry), verdict, model

    return _make


@pytest.fixture
def sign(world):
    def _sign(release, verdict, *, signer=None, name=None, meaning=MEANING):
        signer = signer or world.signer()
        name = person_of(signer.name) if name is None else name
        return approve(verdict, release, signer=signer, printed_name=name, meaning=meaning, registry=world.registry)

    return _sign


@pytest.fixture
def put(world, policy):
    def _put(release, verdict, policy=policy):
        promote(release, verdict=verdict, registry=world.registry, policy=policy, reason="test")

    return _put


def production(world):
    return world.registry.alias("release", "handbook", "production")


def test_with_verdict_and_approval_it_goes_through_and_verifies(world, make, sign, put):
    release, verdict, _ = make()
    approval = sign(release, verdict)
    put(release, verdict)
    assert production(world) == release.digest
    leaf = list(world.registry.ledger.leaves("promotion"))[-1]
    assert leaf.statement.subject == release.digest
    assert {verdict.digest, approval.digest} <= set(leaf.statement.parents)
    report = verify(world.registry.workspace)
    assert report.ok, report.lines()


def test_promoting_again_adds_no_leaf(world, make, sign, put):
    release, verdict, _ = make()
    assert sign(release, verdict) == sign(release, verdict)
    put(release, verdict)
    size = world.registry.ledger.size
    put(release, verdict)
    assert world.registry.ledger.size == size


def refused(world, error, match, act):
    before, size = production(world), len(list(world.registry.ledger.leaves("promotion")))
    with pytest.raises(error, match=match):
        act()
    assert production(world) == before
    assert len(list(world.registry.ledger.leaves("promotion"))) == size


def test_without_approval_it_is_refused(world, make, put):
    release, verdict, _ = make()
    refused(world, ApprovalsMissing, "0 of 1 approvals", lambda: put(release, verdict))


def test_an_amber_verdict_needs_the_approval_and_is_enough_with_it(world, make, sign, put):
    release, verdict, _ = make(84)
    assert verdict.facts["light"] == "amber"
    refused(world, ApprovalsMissing, "0 of 1", lambda: put(release, verdict))
    sign(release, verdict)
    put(release, verdict)
    assert production(world) == release.digest


def test_a_red_verdict_can_neither_be_approved_nor_promoted(world, make, sign, put):
    release, verdict, _ = make(20)
    refused(world, NothingToApprove, "red", lambda: sign(release, verdict))
    refused(world, VerdictRefused, "red", lambda: put(release, verdict))


def test_a_verdict_about_something_else_is_refused(world, make, sign, put):
    (release, _, _), (_, other, _) = make(), make()
    refused(world, NothingToApprove, "about", lambda: sign(release, other))
    refused(world, VerdictRefused, "about", lambda: put(release, other))


def test_a_made_up_verdict_is_refused(world, make, sign, put, policy):
    _, red, model = make(20)
    forged = world.registry.publish(
        "verdict", red.name, inputs=red.manifest["inputs"], parents=red.parents, facts={**red.facts, "light": "green"}
    )
    sign(model, forged)
    refused(world, VerdictRefused, "does not come out the same", lambda: put(model, forged))


def test_a_verdict_without_evidence_is_refused(world, make, sign, put, policy):
    _, red, model = make(20)
    inputs = {"policy": red.manifest["inputs"]["policy"]}
    forged = world.registry.publish("verdict", red.name, inputs=inputs, facts={**red.facts, "light": "green"})
    sign(model, forged)
    refused(world, VerdictRefused, "no evidence", lambda: put(model, forged))


def test_what_is_no_verdict_is_refused(world, make, sign, put):
    release, _, model = make()
    refused(world, NothingToApprove, "no verdict", lambda: sign(release, model))
    refused(world, VerdictRefused, "no verdict", lambda: put(release, model))


def test_an_approval_that_says_too_little_does_not_count(world, make, put):
    release, verdict, _ = make()
    signer = world.signer()
    world.registry.ledger.register_key(signer.public)
    facts = {"signed": sign_facts({"artifact": release.digest, "verdict": verdict.digest}, signer)}
    world.registry.publish("approval", "handbook", inputs={}, facts=facts)
    refused(world, ApprovalsMissing, "0 of 1", lambda: put(release, verdict))


def test_a_verdict_by_a_laxer_policy_is_refused(world, make, sign, put):
    lax = parse_policy({**POLICY, "checks": [{"kind": "complete_lineage"}]})
    release, verdict, _ = make(20, policy=lax)
    sign(release, verdict)
    refused(world, VerdictRefused, "not judged by", lambda: put(release, verdict))


@pytest.mark.parametrize("role", ["trainer", "service"])
def test_keys_of_these_roles_may_not_approve(world, make, sign, role):
    release, verdict, _ = make()
    with pytest.raises(ApproverRefused, match=role):
        sign(release, verdict, signer=Signer.generate("bob", role))


def test_the_trainer_s_key_under_another_name_and_role_is_refused(world, make, sign):
    release, verdict, _ = make()
    trainer = world.signer("bob", "trainer")
    twin = Signer(name="jane", role="approver", private=trainer.private)
    with pytest.raises(ApproverRefused, match="trainer's"):
        sign(release, verdict, signer=twin)


def test_who_trained_the_model_may_not_approve_it(world, make, sign):
    release, verdict, _ = make(model=world.model(actor="approver/jane"))
    with pytest.raises(ApproverRefused, match="trained a model"):
        sign(release, verdict)
    sign(release, verdict, signer=world.signer("ann"))


def test_a_key_found_out_as_the_trainer_s_counts_no_longer(world, make, sign, put):
    release, verdict, _ = make()
    signer = world.signer()
    sign(release, verdict, signer=signer)
    world.registry.ledger.register_key(Signer("bob", "trainer", signer.private).public)
    refused(world, ApprovalsMissing, "0 of 1", lambda: put(release, verdict))


def test_an_approval_of_another_release_does_not_count(world, make, sign, put):
    (release, verdict, model), (other, other_verdict, _) = make(), make()
    sign(other, other_verdict)
    sign(model, verdict)
    refused(world, ApprovalsMissing, "0 of 1", lambda: put(release, verdict))


def test_an_approval_with_another_meaning_does_not_count(world, make, sign, put):
    release, verdict, _ = make()
    sign(release, verdict, meaning="reviewed for privacy")
    refused(world, ApprovalsMissing, "approved for production", lambda: put(release, verdict))


def test_a_forged_approval_does_not_count(world, make, sign, put):
    release, verdict, _ = make()
    real = sign(release, verdict, name="Jane Doe", meaning="reviewed for privacy")
    facts = real.facts
    facts["signed"]["body"]["meaning"] = MEANING
    world.registry.publish(
        "approval", "handbook", inputs={"forged": 1}, parents=real.parents, facts=facts, actor="approver/jane"
    )
    refused(world, ApprovalsMissing, "0 of 1", lambda: put(release, verdict))
    assert {fault.kind for fault in verify(world.registry.workspace).faults} == {"bad-approval"}


def two_of(*names):
    checks = [each for each in POLICY["checks"] if each["kind"] != "approvals"]
    return parse_policy({**POLICY, "checks": [*checks, {"kind": "approvals", "required": 2, "of": list(names)}]})


def test_two_of_m_by_different_keys_and_persons(world, make, sign, put):
    policy = two_of("approver/jane", "approver/ann")
    release, verdict, _ = make(policy=policy)
    sign(release, verdict)
    sign(release, verdict, signer=world.signer("eve"))
    refused(world, ApprovalsMissing, "1 of 2", lambda: put(release, verdict, policy))
    sign(release, verdict, signer=world.signer("ann", person="jane  DOE"), name="Jane Doe")
    refused(world, ApprovalsMissing, "1 of 2", lambda: put(release, verdict, policy))


def test_two_different_people_are_enough(world, make, sign, put):
    policy = two_of("approver/jane", "approver/ann")
    release, verdict, _ = make(policy=policy)
    sign(release, verdict)
    sign(release, verdict, signer=world.signer("ann"))
    put(release, verdict, policy)
    assert production(world) == release.digest
    assert len(valid_approvals(release, verdict, registry=world.registry)) == 2


@pytest.mark.parametrize(("name", "meaning"), [("", MEANING), ("Jane", " ")])
def test_a_signature_says_who_and_what(make, sign, name, meaning):
    release, verdict, _ = make()
    with pytest.raises(NothingToApprove, match="printed name"):
        sign(release, verdict, name=name, meaning=meaning)


def test_alias_and_leaf_come_together_or_not_at_all(world, make, sign, put, monkeypatch):
    release, verdict, _ = make()
    sign(release, verdict)
    monkeypatch.setattr(world.registry.ledger, "append", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        put(release, verdict)
    assert production(world) is None


def test_rollback_goes_only_where_production_was(world, make, sign, put):
    (first, first_verdict, _) = make()
    sign(first, first_verdict)
    put(first, first_verdict)
    second, second_verdict, model = make()
    with pytest.raises(NeverPromoted, match="never in production"):
        rollback(second, registry=world.registry, reason="x")
    evaluations = list(earlier_evaluations(world.registry, model))
    assert len(evaluations) == 1
    sign(second, second_verdict)
    put(second, second_verdict)
    rollback(first, registry=world.registry, reason="second misbehaves")
    assert production(world) == first.digest
    report = verify(world.registry.workspace)
    assert report.ok, report.lines()
    put(second, second_verdict)
    assert production(world) == second.digest


def test_an_alias_moved_in_the_database_is_found(world, make, sign, put):
    first, verdict, _ = make()
    second, _, _ = make(20)
    sign(first, verdict)
    put(first, verdict)
    with world.registry.database.write() as connection:
        row = select(versions.c.id).where(versions.c.digest == second.digest).scalar_subquery()
        connection.execute(update(aliases).values(version_id=row))
    assert production(world) == second.digest
    faults = verify(world.registry.workspace).faults
    assert [(fault.kind, fault.where) for fault in faults] == [("unbacked-alias", "alias release/handbook@production")]


def test_earlier_suites_bind_later_candidates(world, make, sign, put, policy):
    first, verdict, model = make()
    sign(first, verdict)
    put(first, verdict)
    second = world.model()
    candidate = {"target": world.evaluation([1] * 100, prefix="new"), "old": world.evaluation([1] * 40 + [0] * 60)}
    red = judge(policy, world.evidence(second, candidate=candidate), registry=world.registry)
    assert red.facts["light"] == "red"
    candidate["old"] = world.evaluation([1] * 100)
    assert judge(policy, world.evidence(second, candidate=candidate), registry=world.registry).facts["light"] == "green"
    assert list(earlier_evaluations(world.registry, model)) == []


def test_a_release_is_whole(world, make):
    release, verdict, model = make()
    parts = parts_of(release, registry=world.registry)
    assert parts["small"] == model
    assert set(parts) == {"small", "index", "dataset", "router"}
    other = world.model()
    with pytest.raises(ReleaseIncomplete, match="no part"):
        build_release(
            "handbook",
            small=other,
            index=parts["index"],
            dataset=parts["dataset"],
            router=parts["router"],
            verdict=verdict,
            registry=world.registry,
        )
    with pytest.raises(ReleaseIncomplete, match="router"):
        build_release(
            "handbook",
            small=model,
            index=parts["index"],
            dataset=parts["dataset"],
            verdict=verdict,
            registry=world.registry,
        )
