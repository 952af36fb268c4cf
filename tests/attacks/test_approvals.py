"""Attacks on approvals: the trainer's key and person, expiry, back-dating, borrowed and altered signatures."""

from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import app
from app.core.clock import rfc3339, utc_now
from app.governance.approvals import (
    ApproverRefused,
    BadStatement,
    NothingToApprove,
    decisions,
    draft_from,
    rejections,
    valid_approvals,
)
from app.governance.desk import Desk
from app.governance.keys import revoke_key
from app.governance.promotion import ApprovalsMissing, Rejected
from app.ledger.keys import Signer, sign_facts
from app.serving import signatures
from app.serving.approvals import RemoteDesk, ServerRefused
from app.serving.http import create_app
from app.serving.settings import ServingSettings
from app.serving.signatures import Gatekeeper, Message, Unsigned, sign_request
from tests.attacks.world import MEANING, stage

DAY_S = 86_400.0


@pytest.fixture
def play(registry, tmp_path):
    return stage(registry, tmp_path)


@pytest.fixture
def open_case(play):
    """A stage with one candidate: ``(stage, release, verdict)``."""
    return play, *play.candidate()


def test_the_honest_way_goes_through_and_verifies(open_case):
    play, release, verdict = open_case
    approval = play.approve(release, verdict, play.key())
    signed = approval.facts["signed"]["body"]
    assert signed["artifact"] == release.digest
    assert signed["verdict"] == verdict.digest
    assert (signed["printed_name"], signed["meaning"]) == ("Jane Doe", MEANING)
    assert signed["time"].endswith("Z")
    play.promote(release, verdict)
    assert play.faults() == []


def trainer_s_key(play):
    return play.key("bob", "trainer", "Bob")


def trainer_s_key_renamed(play):
    return Signer("jane", "approver", trainer_s_key(play).private)


def trainer_s_person(play):
    play.key("bob", "trainer", " JANE doe ")
    return play.key()


def unknown_key(play):
    return Signer.generate("eve", "approver")


def revoked_key(play):
    signer = play.key()
    revoke_key(play.registry, "jane", reason="lost", actor="service")
    return signer


def service_key(play):
    return play.registry.ledger.signer


def key_without_person(play):
    signer = Signer.generate("eve", "approver")
    play.registry.ledger.register_key(signer.public)
    return signer


def key_of_somebody_else(play):
    return play.key(person="Eve")


@pytest.mark.parametrize(
    ("make_key", "said"),
    [
        (trainer_s_key, "trainer"),
        (trainer_s_key_renamed, "on record as a trainer's too"),
        (trainer_s_person, "holds a trainer's key too"),
        (unknown_key, "not on record"),
        (revoked_key, "was revoked by leaf"),
        (service_key, "service"),
        (key_without_person, "no person on record"),
    ],
)
def test_keys_that_may_not_approve_are_refused_and_named(open_case, make_key, said):
    play, release, verdict = open_case
    signer = make_key(play)
    with pytest.raises(ApproverRefused, match=said):
        play.approve(release, verdict, signer)
    play.smuggle(play.body(release, verdict, signer), signer)
    with pytest.raises(ApprovalsMissing, match="0 of 1"):
        play.promote(release, verdict)
    (fault,) = (each for each in play.faults() if each.startswith("bad-approval"))
    assert said in fault


def test_the_printed_name_is_the_key_s_person(open_case):
    play, release, verdict = open_case
    with pytest.raises(ApproverRefused, match="printed name"):
        play.approve(release, verdict, key_of_somebody_else(play))


@pytest.mark.parametrize(("age_s", "said"), [(DAY_S, "back-dated"), (-DAY_S, "back-dated or post-dated")])
def test_a_back_dated_approval_is_refused_and_named(open_case, age_s, said):
    play, release, verdict = open_case
    signer = play.key()
    body = play.body(release, verdict, signer, age_s=age_s)
    with pytest.raises(BadStatement, match=said):
        play.send(body, signer)
    play.smuggle(body, signer)
    (fault,) = play.faults()
    assert fault.startswith("bad-approval")
    assert said in fault


def test_an_approval_back_dated_together_with_its_leaf_is_named(open_case, monkeypatch):
    """Who holds the server sets the leaf's time as well; the neighbours give it away."""
    play, release, verdict = open_case
    signer = play.key()
    then = rfc3339(utc_now().replace(year=2030))
    monkeypatch.setattr("app.registry.versions.timestamp", lambda: then)
    play.smuggle(play.body(release, verdict, signer, time=then), signer)
    monkeypatch.undo()
    play.world.dataset()
    assert any("post-dated: its leaf says 2030" in fault for fault in play.faults())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time": "yesterday"}, "is none"),
        ({"time": "2026-11-23T10:00:00"}, "is none"),
        ({"expires": "never"}, "is none"),
        ({"decision": "rejection", "reason": ""}, "reason"),
        ({"decision": "consent"}, "no approval"),
        ({"key": "approver/eve+00+AA"}, "by the key that signed it"),
    ],
)
def test_statements_that_say_too_little_are_refused(open_case, changes, said):
    play, release, verdict = open_case
    signer = play.key()
    with pytest.raises(BadStatement, match=said):
        play.send(play.body(release, verdict, signer, **changes), signer)


@pytest.mark.parametrize("field", ["artifact", "verdict", "printed_name", "meaning", "time"])
def test_every_field_is_under_the_signature(open_case, field):
    play, release, verdict = open_case
    signed = sign_facts(play.body(release, verdict, signer := play.key()), signer)
    signed["body"][field] = "sha256:" + "0" * 64
    with pytest.raises(BadStatement, match="does not hold"):
        Desk(play.registry).record(signed)


def test_a_wrong_meaning_does_not_count(open_case):
    play, release, verdict = open_case
    privacy = play.approve(release, verdict, play.key(), meaning="reviewed for privacy")
    with pytest.raises(ApprovalsMissing, match="approved for production"):
        play.promote(release, verdict)
    parents = play.parents(release, verdict, privacy)
    play.registry.ledger.register_key(service_key(play).public)
    play.force(release, parents, signed=play.signed_move(release, parents, service_key(play)))
    (fault,) = play.faults()
    assert "0 of 1 approvals with the meaning 'approved for production'" in fault


def test_an_expired_approval_does_not_count(open_case, monkeypatch):
    play, release, verdict = open_case
    play.approve(release, verdict, play.key(), valid_for_days=1)
    later = rfc3339(utc_now().replace(year=2030))
    assert len(valid_approvals(release, verdict, registry=play.registry)) == 1
    assert valid_approvals(release, verdict, registry=play.registry, at=later) == []
    monkeypatch.setattr("app.governance.approvals.timestamp", lambda: later)
    with pytest.raises(ApprovalsMissing, match="0 of 1"):
        play.promote(release, verdict)


def test_a_policy_limits_how_long_an_approval_counts(registry, tmp_path, monkeypatch):
    play = stage(registry, tmp_path, valid_for_days=7)
    release, verdict = play.candidate()
    play.approve(release, verdict, play.key())
    monkeypatch.setattr("app.governance.approvals.timestamp", lambda: rfc3339(utc_now().replace(year=2030)))
    with pytest.raises(ApprovalsMissing, match="0 of 1"):
        play.promote(release, verdict)
    monkeypatch.undo()
    play.promote(release, verdict)
    assert play.faults() == []


def test_a_promotion_on_an_expired_approval_is_named(open_case):
    play, release, verdict = open_case
    signer = play.key()
    expires = {"expires": rfc3339(utc_now().replace(year=2025))}
    approval = play.smuggle(play.body(release, verdict, signer, **expires), signer)
    parents = play.parents(release, verdict, approval)
    play.registry.ledger.register_key(service_key(play).public)
    play.force(release, parents, signed=play.signed_move(release, parents, service_key(play)))
    (fault,) = play.faults()
    assert "0 of 1 approvals" in fault
    assert "at that moment" in fault


def test_a_withdrawn_approval_does_not_count_and_the_person_may_sign_again(open_case):
    play, release, verdict = open_case
    signer = play.key()
    approval = play.approve(release, verdict, signer)
    play.withdraw(approval, signer)
    with pytest.raises(ApprovalsMissing, match="0 of 1"):
        play.promote(release, verdict)
    assert play.send(approval.facts["signed"]["body"], signer) == approval, "sent again, it is still the withdrawn one"
    with pytest.raises(ApprovalsMissing):
        play.promote(release, verdict)
    play.approve(release, verdict, signer)
    play.promote(release, verdict)
    assert play.faults() == []


def test_a_rejection_blocks_until_its_own_person_withdraws_it(open_case):
    play, release, verdict = open_case
    jane, ann = play.key(), play.key("ann", "reviewer", "Ann")
    play.approve(release, verdict, jane)
    rejection = play.reject(release, verdict, ann, name="Ann")
    with pytest.raises(Rejected, match="Ann: it is rude"):
        play.promote(release, verdict)
    with pytest.raises(BadStatement, match="another person"):
        play.withdraw(rejection, jane)
    with pytest.raises(BadStatement, match="reason"):
        play.reject(release, verdict, ann, name="Ann", reason=" ")
    revoke_key(play.registry, "ann", reason="lost", actor="service")
    assert len(rejections(release, registry=play.registry)) == 1, "a lost key does not lift it"
    play.withdraw(rejection, play.key("ann2", "reviewer", "Ann"), name="Ann")
    play.promote(release, verdict)
    assert play.faults() == []


def test_a_promotion_against_a_rejection_is_named(open_case):
    play, release, verdict = open_case
    approval = play.approve(release, verdict, play.key())
    play.reject(release, verdict, play.key("ann", "reviewer", "Ann"), name="Ann")
    parents = play.parents(release, verdict, approval)
    play.registry.ledger.register_key(service_key(play).public)
    play.force(release, parents, signed=play.signed_move(release, parents, service_key(play)))
    (fault,) = play.faults()
    assert "rejected it, and nobody withdrew that" in fault


def test_a_withdrawal_smuggled_in_by_another_lifts_nothing(open_case):
    play, release, verdict = open_case
    rejection = play.reject(release, verdict, play.key("ann", "reviewer", "Ann"), name="Ann")
    jane = play.key()
    body = play.body(
        release, verdict, jane, decision="withdrawal", of=rejection.digest, reason="x", meaning="withdrawn"
    )
    play.smuggle(body, jane, kind="withdrawal")
    assert len(rejections(release, registry=play.registry)) == 1
    (fault,) = play.faults()
    assert "it withdraws what another person signed" in fault
    assert decisions(play.registry).objections


def test_a_red_verdict_can_be_rejected_but_not_approved(play):
    release, verdict = play.candidate(84)
    assert verdict.facts["light"] == "amber"
    model = play.registry.get("model", "small")
    red = play.registry.publish("verdict", "x", inputs={}, facts={**verdict.facts, "light": "red"})
    with pytest.raises(NothingToApprove, match="red"):
        play.approve(model, red, signer := play.key())
    assert play.reject(model, red, signer).kind == "rejection"
    assert release.kind == "release"


# Over HTTP.


@pytest.fixture
def remote(open_case):
    """The case, and a desk that asks a gateway with a given key."""
    play, release, verdict = open_case
    with TestClient(
        create_app(SimpleNamespace(settings=ServingSettings()), play.registry, authorities=("testserver",))
    ) as http:
        yield play, release, verdict, lambda signer: RemoteDesk("http://testserver", signer, http)


def test_a_signer_reads_and_signs_from_afar(remote):
    play, release, _, desk_of = remote
    signer = play.key()
    desk = desk_of(signer)
    assert [each["release"] for each in desk.list()] == [release.ref]
    about = desk.show(release.ref)
    body = draft_from(about, signer=signer, printed_name="Jane Doe", meaning=about["meaning"])
    made = desk.record(sign_facts(body, signer))
    assert desk.record(sign_facts(body, signer)) == made, "sent twice, it is recorded once"
    assert desk.show(release.digest)["approved"]
    assert play.registry.get("approval", made["digest"]).facts["signed"]["body"] == body
    assert play.faults() == []


@pytest.mark.parametrize("make_key", [unknown_key, revoked_key])
def test_a_key_that_is_not_on_record_reads_nothing(remote, make_key):
    play, _, _, desk_of = remote
    with pytest.raises(ServerRefused, match="on record"):
        desk_of(make_key(play)).list()


def test_refusals_come_through_with_their_sentence(remote):
    play, release, verdict, desk_of = remote
    trainer = trainer_s_key(play)
    desk = desk_of(trainer)
    with pytest.raises(ServerRefused, match="may not approve"):
        desk.record(sign_facts(play.body(release, verdict, trainer), trainer))
    with pytest.raises(ServerRefused, match="there is no release"):
        desk.show("nothing@1")
    with pytest.raises(ServerRefused, match="does not hold"):
        desk.record({"body": {}, "key": "x", "signature": "y"})


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/approvals"), ("GET", "/v1/approvals/x"), ("POST", "/v1/approvals")]
)
def test_nothing_is_open_without_a_signature(remote, method, path):
    play, _, _, desk_of = remote
    response = desk_of(play.key()).http.request(method, path)
    assert response.status_code == 401
    assert "not signed by a key on record" in response.json()["error"]["message"]


def test_a_request_sent_again_or_to_another_place_is_refused(remote):
    play, _, _, desk_of = remote
    signer = play.key()
    http = desk_of(signer).http
    headers = sign_request("GET", "http://testserver/v1/approvals", signer=signer)
    assert http.get("/v1/approvals/assistant", headers=headers).status_code == 401
    assert http.get("/v1/approvals?all=1", headers=headers).status_code == 401
    assert http.get("/v1/approvals", headers={**headers, "host": "elsewhere"}).status_code == 401
    assert http.get("/v1/approvals", headers=headers).status_code == 200
    again = http.get("/v1/approvals", headers=headers)
    assert again.status_code == 401
    assert "sent before" in again.json()["error"]["message"]


def message(signer, body=b"{}"):
    headers = sign_request("POST", "http://box/v1/approvals", signer=signer, body=body)
    return Message("POST", "box", "/v1/approvals", "", headers, body)


def test_an_old_or_altered_request_is_refused(monkeypatch):
    signer, keeper = Signer.generate("jane", "approver"), Gatekeeper(("box",))
    whole = message(signer)
    assert keeper.check(whole) == signer.public
    cases = {
        "body": Message("POST", "box", "/v1/approvals", "", whole.headers, b"{ }"),
        "from now": None,
        "does not hold": Message("POST", "box", "/v1/other", "", whole.headers, b"{}"),
        "cover content-digest": Message(
            "POST", "box", "/", "", sign_request("POST", "http://box/", signer=signer), b"{}"
        ),
        "signature-input": Message("POST", "box", "/", "", {}),
    }
    for said, case in cases.items():
        with pytest.raises(Unsigned, match=said):
            keeper.check(case or message(signer), now_s=signatures.time.time() + (200 if case is None else 0))


def test_the_published_ed25519_request_of_rfc_9421_verifies():
    """Appendix B.2.6, with the key of B.1.4."""
    from base64 import b64decode

    from app.ledger.keys import Verifier

    raw = b64decode("MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")[-32:]
    headers = {"date": "Tue, 20 Apr 2021 02:07:55 GMT", "content-type": "application/json", "content-length": "18"}
    names = ["date", "@method", "@path", "@authority", "content-type", "content-length"]
    params = "(" + " ".join(f'"{name}"' for name in names) + ');created=1618884473;keyid="test-key-ed25519"'
    base = Message("POST", "example.com", "/foo", "param=Value&Pet=dog", headers).base(names, params)
    signature = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    assert Verifier("auditor", "x", raw).verify(b64decode(signature), base)


# On the command line.


def test_the_commands_play_together(open_case):
    play, release, _ = open_case

    def run(*words):
        ended = CliRunner().invoke(app, [*words, "--workspace", str(play.registry.workspace.root)])
        assert ended.exit_code == 0, (ended.output, ended.exception)
        return ended

    assert run("keys", "new", "jane", "--role", "approver", "--person", "Jane Doe").stdout.startswith("approver/jane+")
    assert "waiting" in run("approvals", "list").stdout
    who = ["--key", "jane", "--printed-name", "Jane Doe"]
    assert "rejection" in run("approvals", "reject", release.ref, *who, "--reason", "rude").stdout
    assert "rejected" in run("approvals", "list").stdout
    assert "withdrawal" in run("approvals", "revoke", release.ref, *who, "--reason", "it is not").stdout
    assert "approval" in run("approvals", "sign", release.ref, *who, "--valid-days", "3").stdout
    shown = run("approvals", "show", release.ref).stdout
    assert "approved" in shown
    assert "'approved for production' by Jane Doe" in shown
    assert "revoked" in run("keys", "revoke", "jane", "--reason", "leaves us").stdout
    assert "leaves us" in run("keys", "list").stdout
    refused = CliRunner().invoke(app, ["approvals", "sign", release.ref, *who, "-w", str(play.registry.workspace.root)])
    assert isinstance(refused.exception, ApproverRefused)
    assert play.faults() == []
