"""Attacks on who trained: approvals by the trainer under another key, and signatures that say something else."""

import pytest

from app.core.digests import digest_json
from app.governance.approvals import ApproverRefused
from app.governance.evidence import Evidence
from app.governance.gate import judge, replay
from app.governance.keys import enrol, key_book, revoke_key
from app.governance.pack.reader import open_pack
from app.governance.pack.verify import verify_pack
from app.governance.pack.write import write_pack
from app.governance.policy import parse_policy
from app.governance.promotion import ApprovalsMissing
from app.ledger.keys import Signer
from app.ledger.trainings import find_training_fault, sign_training
from app.training.errors import TrainerRefused
from app.training.settings import ModelSettings, TrainSettings
from app.training.trainer import train
from tests.attacks.world import stage

LOSSES = {"loss_first": 4.0, "loss_last": 0.5}
CHECK = parse_policy({"name": "signed", "gate": "candidate", "checks": [{"kind": "trained_by_key"}]})


@pytest.fixture
def play(registry, tmp_path):
    return stage(registry, tmp_path)


@pytest.fixture
def bob(play):
    return play.key("bob", "trainer", "Bob")


def inputs_of(play, **changes):
    return {"data": [play.world.dataset().digest], "base": None, "settings": {"rate": 0.001}, **changes}


def signed_model(play, signer, *, actor=None, log_key=None, signed=None, **said):
    """A model with a training signed by a key, as ``train`` publishes it; ``said`` is signed instead of what is so."""
    inputs = inputs_of(play)
    told = {"name": "small", "inputs": inputs, "files": {}, **said}
    log_key = log_key or play.registry.ledger.log_key
    signed = signed or sign_training(told.pop("name"), **told, signer=signer, log_key=log_key)
    actor, facts = actor or signer.public.key_name, {"train": LOSSES, "signed": signed}
    return play.registry.publish("model", "small", inputs=inputs, parents=inputs["data"], facts=facts, actor=actor)


def candidate(play, monkeypatch, model):
    monkeypatch.setattr(play.world, "model", lambda: model)
    return play.candidate()


def test_a_signed_training_goes_through_and_verifies(play, bob, monkeypatch):
    model = signed_model(play, bob)
    (leaf,) = play.registry.ledger.leaves("model")
    assert leaf.statement.actor == "trainer/bob"
    assert model.facts["signed"]["body"]["weights"] == digest_json(model.manifest["files"])
    release, verdict = candidate(play, monkeypatch, model)
    play.approve(release, verdict, play.key())
    play.promote(release, verdict)
    assert play.faults() == []


def the_key_renamed(play, bob):
    return Signer("jane", "approver", bob.private), "its key"


def the_key_on_record_twice(play, bob):
    """Its trainer's leaf names Bob; the same raw key is put on record as Jane's, past `keys new`."""
    signer = Signer("jane", "approver", bob.private)
    play.registry.ledger.register_key(signer.public)
    return signer, "on record as a trainer's too"


def the_person_s_other_key(play, bob):
    return play.key("jane", "approver", "bob"), "holds a trainer's key too"


@pytest.mark.parametrize("make", [the_key_renamed, the_key_on_record_twice, the_person_s_other_key])
def test_who_signed_the_training_may_not_approve_what_came_of_it(play, bob, monkeypatch, make):
    release, verdict = candidate(play, monkeypatch, signed_model(play, bob))
    signer, said = make(play, bob)
    with pytest.raises(ApproverRefused, match=said):
        play.approve(release, verdict, signer, name="Bob")
    play.smuggle(play.body(release, verdict, signer), signer)
    with pytest.raises(ApprovalsMissing, match="0 of 1"):
        play.promote(release, verdict)
    assert any(each.startswith("bad-approval") for each in play.faults())


def test_a_training_signed_with_an_approver_s_key_bars_its_person_under_every_key(play, monkeypatch):
    """No trainer's key is on record for Jane; her signature says that she trained all the same."""
    jane, other = play.key(), play.key("jane2")
    release, verdict = candidate(play, monkeypatch, signed_model(play, jane, actor="service"))
    for signer in (jane, other):
        with pytest.raises(ApproverRefused, match="trained a model behind this"):
            play.approve(release, verdict, signer)
    approval = play.smuggle(play.body(release, verdict, other), other)
    with pytest.raises(ApprovalsMissing, match="0 of 1"):
        play.promote(release, verdict)
    parents = play.parents(release, verdict, approval)
    service = play.registry.ledger.signer
    play.registry.ledger.register_key(service.public)
    play.force(release, parents, signed=play.signed_move(release, parents, service))
    training, move = play.faults()
    assert training.startswith("bad-training")
    assert "0 of 1 approvals" in move
    ann = play.key("ann", person="Ann")
    assert play.approve(release, verdict, ann, name="Ann").kind == "approval"


def unknown_key(play, bob):
    return signed_model(play, Signer.generate("eve", "trainer"))


def revoked_key(play, bob):
    revoke_key(play.registry, "bob", reason="laptop stolen", actor="service")
    return signed_model(play, bob)


def key_without_person(play, bob):
    signer = Signer.generate("eve", "trainer")
    play.registry.ledger.register_key(signer.public)
    return signed_model(play, signer)


def service_key(play, bob):
    play.registry.ledger.register_key(play.registry.ledger.signer.public)
    return signed_model(play, play.registry.ledger.signer)


def other_actor(play, bob):
    return signed_model(play, bob, actor="service")


def nobody(play, bob):
    inputs = inputs_of(play)
    facts = {"train": LOSSES}
    return play.registry.publish("model", "small", inputs=inputs, facts=facts, actor="trainer/bob")


def other_body(play, bob):
    signed = sign_training("small", inputs=inputs_of(play), files={}, signer=bob, log_key=play.registry.ledger.log_key)
    signed["body"]["data"] = ["sha256:" + "0" * 64]
    return signed_model(play, bob, signed=signed)


def no_statement(play, bob):
    return signed_model(play, bob, signed={"body": [], "key": bob.public.vkey})


def other_log(play, bob):
    return signed_model(play, bob, log_key=bob.public.vkey)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda play, bob: signed_model(play, bob, files={"model.safetensors": {"sha256": "x"}}), "another weights"),
        (lambda play, bob: signed_model(play, bob, inputs=inputs_of(play)), "another data, recipe"),
        (lambda play, bob: signed_model(play, bob, inputs={"data": None, "base": "sha256:b"}), "another base, data"),
        (lambda play, bob: signed_model(play, bob, name="large"), "another model"),
        (unknown_key, "not on record"),
        (revoked_key, "was revoked by leaf"),
        (key_without_person, "no person on record"),
        (service_key, "is service, a training is signed by a trainer"),
        (other_actor, "signed by trainer/bob, but names service"),
        (nobody, "names trainer/bob, who signed nothing"),
        (other_body, "does not hold"),
        (no_statement, "does not hold"),
        (other_log, "not for this log"),
    ],
)
def test_a_training_that_is_not_what_its_trainer_signed_is_named(play, bob, make, said):
    model = make(play, bob)
    (fault,) = play.faults()
    assert fault.startswith("bad-training")
    assert said in fault
    verdict = judge(CHECK, Evidence.collect(model, registry=play.registry), registry=play.registry)
    assert verdict.facts["light"] == "red"
    assert said in verdict.facts["checks"][0]["reason"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"facts": ["signed"]}, "who signed nothing"),
        ({"facts": None}, "who signed nothing"),
        ({"facts": {"signed": None}}, "does not hold"),
        ({"facts": {"signed": {"body": {}}}}, "does not hold"),
        ({"inputs": 7}, "another data, recipe"),
        ({"inputs": {"data": 2**70}}, "no training can have signed"),
        ({"files": [1], "inputs": None}, "another data, recipe"),
    ],
)
def test_a_manifest_of_another_form_ends_in_a_sentence(play, bob, change, said):
    model = signed_model(play, bob)
    (leaf,) = play.registry.ledger.leaves("model")
    given = {"log_key": play.registry.ledger.log_key}
    assert find_training_fault(leaf, model.manifest, key_book(play.registry), **given) is None
    assert said in find_training_fault(leaf, {**model.manifest, **change}, key_book(play.registry), **given)


def test_a_key_revoked_later_leaves_its_trainings_valid(play, bob):
    signed_model(play, bob)
    revoke_key(play.registry, "bob", reason="left", actor="service")
    assert play.faults() == []


# The check.


def test_a_policy_may_ask_for_a_trainer_s_signature(play, bob, monkeypatch):
    registry = play.registry

    def light(model, policy=CHECK):
        verdict = judge(policy, Evidence.collect(model, registry=registry), registry=registry)
        assert replay(verdict, registry=registry).same
        return verdict.facts["light"], verdict.facts["checks"][0]["reason"]

    unsigned = play.world.model()
    assert light(unsigned) == ("red", f"no trainer's key answers for {unsigned.ref} (nobody signed its training): "
                               "train with --key")  # fmt: skip
    signed = signed_model(play, bob)
    assert light(signed)[0] == "green"
    inputs = inputs_of(play, base=unsigned.digest)
    facts = {"signed": sign_training("on", inputs=inputs, files={}, signer=bob, log_key=registry.ledger.log_key)}
    learnt_on = registry.publish(
        "model", "on", inputs=inputs, parents=[unsigned.digest], facts=facts, actor="trainer/bob"
    )
    assert light(learnt_on)[0] == "red"
    checks = [{"kind": "trained_by_key", "bases": False}]
    assert light(learnt_on, parse_policy({"name": "own", "gate": "candidate", "checks": checks}))[0] == "green"


def test_a_pack_carries_the_training_s_signature(play, bob, monkeypatch, tmp_path):
    play.policy = parse_policy({**play.policy.model_dump(mode="json"), "checks": [
        *play.policy.model_dump(mode="json")["checks"], {"kind": "trained_by_key"}]})  # fmt: skip
    release, verdict = candidate(play, monkeypatch, signed_model(play, bob))
    play.approve(release, verdict, play.key())
    play.promote(release, verdict)
    write_pack(release, tmp_path / "pack.zip", registry=play.registry)
    with open_pack(tmp_path / "pack.zip") as registry:
        assert replay(registry.get("verdict", verdict.digest), registry=registry).same
    kinds = {fault.kind for fault in verify_pack(tmp_path / "pack.zip").faults}
    assert kinds <= {"bad-weights"}, "these models have no weights to sign"


# The function that trains.


@pytest.mark.parametrize("role", ["approver", "trainer", "service"])
def test_a_training_is_not_begun_under_a_key_that_may_not_sign_it(play, role):
    signer = Signer.generate("eve", role)
    if role != "trainer":
        enrol(play.registry, signer.public, person="Eve")
    given = {"registry": play.registry, "workspace": play.registry.workspace, "settings": TrainSettings()}
    with pytest.raises(TrainerRefused, match="signalbox keys new NAME --role trainer"):
        train(name="m", data=[play.world.dataset()], model=ModelSettings(), signer=signer, **given)
    assert not list(play.registry.workspace.runs_dir.glob("m-*"))
