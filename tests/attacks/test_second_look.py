"""Attacks that were found by a second look: dodged rejections, borrowed policies, doubled persons, lost files."""

import shutil
import sqlite3

import pytest
from typer.testing import CliRunner

from app.commands import approvals, gate
from app.core.errors import SignalboxError
from app.governance.approvals import BadStatement, RecordsLost
from app.governance.desk import Desk
from app.governance.gate import judge
from app.governance.keys import KeyNotRevocable, SaltLost, revoke_key
from app.governance.policy import BadPolicy, parse_policy, publish_policy
from app.governance.promotion import PromotionRefused, Rejected, VerdictRefused, resume, rollback, stop
from app.ledger.decisions import BadRule, Rule
from app.ledger.log import Statement
from app.loop import put_into_production
from tests.attacks.world import stage
from tests.governance.conftest import POLICY


@pytest.fixture
def play(registry, tmp_path):
    return stage(registry, tmp_path)


@pytest.fixture
def two(registry, tmp_path):
    return stage(registry, tmp_path, required=2)


def service(play):
    signer = play.registry.ledger.signer
    play.registry.ledger.register_key(signer.public)
    return signer


def force(play, release, parents, signer):
    play.force(release, parents, signed=play.signed_move(release, parents, signer))


def test_approvals_are_asked_for_once():
    with pytest.raises(BadPolicy, match="asks for approvals twice"):
        parse_policy({**POLICY, "checks": [*POLICY["checks"], {"kind": "approvals", "required": 2}]})


def test_another_verdict_does_not_outvote_a_rejection(play):
    release, verdict = play.candidate()
    play.reject(release, verdict, play.key("bob", person="Bob"), "Bob")
    recorded = verdict.manifest["inputs"]["evidence"]
    model = play.registry.get("model", recorded["artifact"]["digest"])
    candidate = {"target": play.registry.get("evaluation", recorded["candidate"]["target"])}
    evidence = play.world.evidence(model, candidate=candidate, others={"again": verdict})
    again = judge(play.policy, evidence, registry=play.registry)
    play.approve(release, again, play.key())
    with pytest.raises(Rejected):
        play.promote(release, again)


def test_a_promotion_by_a_borrowed_policy_is_named(two):
    release, verdict = two.candidate()
    approval = two.approve(release, verdict, two.key())
    lax = publish_policy(parse_policy(POLICY), two.registry)
    force(two, release, [verdict.digest, lax.digest, approval.digest], service(two))
    assert any("not the one that its verdict was judged by" in each for each in two.faults())
    assert any("1 of 2 approvals" in each for each in two.faults())


def test_a_verdict_without_a_light_is_named(play):
    release, _ = play.candidate()
    made_up = play.registry.publish("verdict", "made-up", inputs={"x": 1}, facts={})
    signer = play.key()
    approval = play.smuggle(play.body(release, made_up, signer), signer)
    force(play, release, [made_up.digest, play.policy_version().digest, approval.digest], service(play))
    assert any("neither green nor amber" in each for each in play.faults())


def test_a_move_signed_once_is_not_made_twice(play):
    release, verdict = play.candidate()
    signer = play.key()
    play.approve(release, verdict, signer)
    play.promote(release, verdict)
    stop(release, registry=play.registry, reason="bad")
    resume(release, registry=play.registry, reason="mended", signer=signer)
    stop(release, registry=play.registry, reason="worse")
    old = next(play.registry.ledger.leaves("resume")).statement
    play.registry.ledger.append([Statement(old.kind, old.subject, old.name, old.parents, old.payload, old.actor)])
    assert any("made this very move already" in each for each in play.faults())


def test_an_approval_under_a_leaf_about_something_else_is_named(play):
    (release, verdict), (other, other_verdict) = play.candidate(), play.candidate(correct=97)
    signer = play.key()
    body = play.body(release, verdict, signer)
    from app.ledger.keys import sign_facts

    signed = sign_facts(body, signer)
    play.registry.publish(
        "approval", "x", inputs={"s": signed}, parents=[other_verdict.digest, other.digest], facts={"signed": signed}
    )
    assert any("names another verdict, artifact or signer" in each for each in play.faults())


def test_a_lost_salt_makes_no_second_person(two):
    release, verdict = two.candidate()
    two.approve(release, verdict, two.key())
    (two.registry.workspace.keys_dir / "person.salt").unlink()
    with pytest.raises(SaltLost):
        two.key("jane2")


@pytest.mark.parametrize("name", ["Jane\u200b Doe", "Jane Do\u00ade", "Jane Doe\ufeff"])
def test_an_invisible_character_makes_no_second_person(two, name):
    release, verdict = two.candidate()
    two.approve(release, verdict, two.key())
    two.approve(release, verdict, two.key("jane2", person=name), name)
    with pytest.raises(PromotionRefused, match="1 of 2"):
        two.promote(release, verdict)


def test_an_older_key_of_the_same_name_can_be_revoked(play):
    first = play.key()
    for suffix in ("pem", "pub"):
        (play.registry.workspace.keys_dir / f"jane.{suffix}").unlink()
    play.key()
    with pytest.raises(KeyNotRevocable, match="2 keys are called"):
        revoke_key(play.registry, "jane", reason="lost", actor="service")
    revoke_key(play.registry, first.public.vkey, reason="lost", actor="service")
    revoke_key(play.registry, "jane", reason="all of them", actor="service")


@pytest.mark.parametrize("kind", ["key", "rejection"])
def test_a_manifest_taken_away_stops_every_move_but_the_brake(play, kind):
    """A revocation without its manifest would read as a new key, a rejection as none: nothing goes on, all is named."""
    first, verdict = play.candidate()
    jane = play.key()
    play.approve(first, verdict, jane)
    play.promote(first, verdict)
    second, other = play.candidate(correct=97)
    play.approve(second, other, jane)
    play.promote(second, other)
    if kind == "key":
        revoke_key(play.registry, "jane", reason="lost", actor="service")
    else:
        play.reject(first, verdict, play.key("bob", person="Bob"), "Bob")
    leaf = list(play.registry.ledger.leaves(kind))[-1]
    shutil.rmtree(play.registry.store._path(kind, leaf.statement.payload))
    named = f"leaf {leaf.index}, {kind}: its manifest is gone or changed"
    about = Desk(play.registry).show(second.ref)
    assert (about["approved"], about["finding"].startswith(named)) == (False, True)
    stop(second, registry=play.registry, reason="odd")
    for act in (
        lambda: play.promote(second, other),
        lambda: rollback(first, registry=play.registry, reason="bad"),
        lambda: resume(second, registry=play.registry, reason="mended"),
        lambda: play.approve(second, other, play.key("amy", person="Amy"), "Amy"),
    ):
        with pytest.raises(RecordsLost, match=named):
            act()
    assert play.faults()


def test_a_rejection_by_name_is_refused_as_it_would_not_count(play):
    release, verdict = play.candidate()
    signer = play.key()
    changes = {"decision": "rejection", "reason": "rude", "meaning": "rejected", "artifact": release.ref}
    with pytest.raises(BadStatement, match="by their digests"):
        play.send(play.body(release, verdict, signer, **changes), signer)


def test_the_data_gate_lets_no_model_through(play):
    release, _ = play.candidate()
    data = parse_policy({"name": "data", "gate": "data", "checks": [{"kind": "min_rows", "minimum": 10}]})
    dataset = play.registry.get("dataset", release.facts["dataset"])
    verdict = judge(data, play.world.evidence(dataset), registry=play.registry)
    play.approve(release, verdict, play.key())
    with pytest.raises(VerdictRefused, match="data gate"):
        play.promote(release, verdict, policy=data)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE leaves SET leaf = replace(leaf, 'jane', 'john') WHERE kind = 'approval'",
        "UPDATE leaves SET leaf_hash = 'x' WHERE leaf_index = 2",
        "UPDATE tree_runs SET hashes = 'x' WHERE level = 1 AND start = 0",
        "UPDATE tree_runs SET start = 'x' WHERE level = 1 AND start = 0",
        "UPDATE tree_runs SET level = 'x' WHERE level = 1 AND start = 0",
        "UPDATE checkpoints SET note = x'ff' WHERE size = 3",
    ],
)
def test_a_row_of_another_type_is_named_and_no_traceback(play, sql):
    release, verdict = play.candidate()
    play.approve(release, verdict, play.key())
    with sqlite3.connect(play.registry.workspace.database_url.removeprefix("sqlite:///")) as connection:
        connection.execute(sql)
    assert play.faults()


@pytest.mark.parametrize("signed", ["text", [], {"body": "text"}])
def test_a_decision_of_another_form_is_named_and_no_traceback(play, signed):
    play.candidate()
    play.registry.publish("approval", "assistant", inputs={"x": 1}, facts={"signed": signed})
    assert any(each.startswith("bad-approval") for each in play.faults())


def test_a_leaf_without_a_time_beside_a_decision_is_named_and_no_traceback(play):
    release, verdict = play.candidate()
    signer = play.key()
    play.registry.ledger.append([Statement(kind="note", subject="x", time="yesterday")])
    play.approve(release, verdict, signer)
    assert any(each.startswith("bad-time") for each in play.faults())


def test_a_rollback_to_a_rejected_release_is_refused(play):
    first, verdict = play.candidate()
    jane = play.key()
    play.approve(first, verdict, jane)
    play.promote(first, verdict)
    second, other = play.candidate(correct=97)
    play.approve(second, other, jane)
    play.promote(second, other)
    rejection = play.reject(first, verdict, play.key("bob", person="Bob"), "Bob")
    with pytest.raises(Rejected, match="Bob: it is rude"):
        rollback(first, registry=play.registry, reason="the new one is worse")
    play.withdraw(rejection, play.key("bob2", person="Bob"), "Bob")
    rollback(first, registry=play.registry, reason="the new one is worse")
    assert play.faults() == []


def test_the_time_of_a_version_is_that_of_its_leaf(play):
    play.candidate()
    assert play.faults() == []
    with play.registry.database.write() as connection:
        connection.exec_driver_sql("UPDATE versions SET created_at = '2001-01-01T00:00:00Z' WHERE kind = 'verdict'")
    assert [each.split(":")[0] for each in play.faults()] == ["changed-version", "changed-version"]


def test_a_made_up_verdict_is_listed_as_it_is(play):
    play.registry.publish("verdict", "made-up", inputs={"x": 1}, facts={"light": "green"})
    listed = CliRunner().invoke(gate.app, ["list", "--workspace", str(play.registry.workspace.root)])
    assert listed.exit_code == 0
    assert "made-up@1  green  not stated gate for not stated" in listed.output


ODD = [
    ({}, {}),
    ({"verdict": "sha256:none"}, {}),
    ({"verdict": ["x"]}, {"light": 1}),
    ({"verdict": "odd"}, {"checks": [1, {"light": "red"}], "artifact": "x"}),
    ({"verdict": "odd"}, {"checks": {"a": 1}, "light": ["green"]}),
]
"""Inputs of a made-up release, where `odd` stands for the digest of a verdict of these facts."""


@pytest.mark.parametrize(("inputs", "facts"), ODD)
@pytest.mark.parametrize("policy", ["none", "wild", "whole"])
def test_a_made_up_release_is_shown_as_it_is_and_stays_out(play, inputs, facts, policy):
    """Neither the desk, nor the commands, nor promotion end in a traceback; nothing of it can be approved or moved."""
    policies = {"none": "sha256:no", "whole": play.policy_version().digest}
    wild = {"policy": {"checks": [{"kind": "approvals", "required": -1}]}}
    policies["wild"] = play.registry.publish("policy", "wild", inputs=wild).digest
    odd = play.registry.publish("verdict", "odd", inputs={"policy": policies[policy]}, facts=facts)
    named = {name: odd.digest if value == "odd" else value for name, value in inputs.items()}
    release = play.registry.publish("release", "odd", inputs=named, facts={"small": None})
    about = Desk(play.registry).show("odd")
    assert (about["approved"], about["in_production"]) == (False, False)
    assert [each["release"] for each in Desk(play.registry).list()] == ["odd@1"]
    here = ["--workspace", str(play.registry.workspace.root)]
    for words in (["list"], ["show", "odd"], ["list", "--json"], ["show", "odd", "--json"]):
        assert CliRunner().invoke(approvals.app, [*words, *here]).exit_code == 0
    assert CliRunner().invoke(gate.app, ["show", "odd", *here]).exit_code == 0
    for act in (
        lambda: play.approve(release, odd, play.key()),
        lambda: play.promote(release, odd),
        lambda: put_into_production(release, registry=play.registry, reason="because"),
    ):
        with pytest.raises(SignalboxError):
            act()


WILD = [{"required": each} for each in (-1, 0, 10**30, "2", 1.5, float("nan"), None, [1], True)]
WILD += [{"valid_for_days": each} for each in (-1, 0, 10**400, float("nan"), float("inf"), "30", True)]
WILD += [{"roles": each} for each in ([], ["trainer"], [1], ["service"])] + [{"of": [1]}, {"meaning": 3}]


@pytest.mark.parametrize("values", WILD)
def test_a_raw_policy_with_wild_approvals_is_no_rule(values):
    """Left unchecked, a count of -1 would be met by nobody's signature."""
    if values == {"required": 10**30}:
        assert Rule.read(values).required == 10**30, "which nobody will meet"
        return
    with pytest.raises(BadRule, match=next(iter(values))):
        Rule.read(values)


def test_a_promotion_by_a_policy_of_wild_approvals_is_named(play):
    release, _ = play.candidate()
    wild = {"policy": {"checks": [{"kind": "approvals", "required": -1}]}}
    policy = play.registry.publish("policy", "wild", inputs=wild)
    facts = {"light": "green", "artifact": {"digest": release.facts["small"]}}
    judged = play.registry.publish("verdict", "wild", inputs={"policy": policy.digest}, facts=facts)
    force(play, release, [judged.digest, policy.digest], service(play))
    assert any("the policy of its verdict cannot be read" in each for each in play.faults())


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "CREATE TRIGGER t AFTER INSERT ON leaves BEGIN DELETE FROM aliases; END",
            "foreign-trigger: database, trigger t",
        ),
        (
            "INSERT INTO aliases SELECT kind, name, 'Production', id, '' FROM versions WHERE kind = 'release'",
            "unbacked-alias: alias release/assistant@Production",
        ),
    ],
)
def test_a_trap_in_the_database_is_named(play, sql, said):
    play.candidate()
    with sqlite3.connect(play.registry.workspace.database_url.removeprefix("sqlite:///")) as connection:
        connection.execute(sql)
    assert any(each.startswith(said) for each in play.faults())
