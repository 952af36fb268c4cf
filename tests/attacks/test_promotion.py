"""Attacks on production: through the Python API, the job, the command line, the tables and MLflow's own API."""

from contextlib import nullcontext

import pytest
from sqlalchemy import delete, select, update
from typer.testing import CliRunner

from app.cli import app
from app.core.schema import aliases, versions
from app.governance import promotion
from app.governance.keys import revoke_key
from app.governance.moves import is_stopped, previous_of
from app.governance.promotion import (
    ApprovalsMissing,
    MovedMeanwhile,
    MoverRefused,
    NeverPromoted,
    NothingToResume,
    NothingToStop,
    ProductionStopped,
    ReasonMissing,
)
from app.ledger.keys import Signer
from app.ledger.log import Statement
from app.registry.tracking import DIGEST_TAG, Tracker, tracking_uri
from app.serving.production import tell_mlflow
from app.serving.release import resolve_release
from tests.attacks.world import stage


@pytest.fixture
def play(registry, tmp_path):
    return stage(registry, tmp_path)


@pytest.fixture
def served(play):
    """A stage with one release in production: ``(stage, release, verdict)``."""
    release, verdict = play.candidate()
    play.approve(release, verdict, play.key())
    play.promote(release, verdict)
    return play, release, verdict


def second(play):
    """Another release, approved and promoted."""
    release, verdict = play.candidate()
    from app.ledger.key_sources import open_signer

    play.approve(release, verdict, open_signer(play.registry.workspace.keys_dir, "jane"))
    play.promote(release, verdict)
    return release


def rollback(play, release, **options):
    promotion.rollback(release, registry=play.registry, **{"reason": "a test", **options})


def stop(play, release, **options):
    promotion.stop(release, registry=play.registry, **{"reason": "a test", **options})


def resume(play, release, **options):
    promotion.resume(release, registry=play.registry, **{"reason": "a test", **options})


def test_every_move_has_a_reason_and_an_actor_that_signed_it(served):
    play, release, _ = served
    operator = play.key("ops", "service", "Olga Ops")
    stop(play, release, signer=operator, reason="it insults people")
    leaf = list(play.registry.ledger.leaves("stop"))[-1]
    assert leaf.statement.actor == "service/ops"
    facts = play.registry.store.manifest("stop", leaf.statement.payload)["facts"]
    assert (facts["reason"], facts["signed"]["key"]) == ("it insults people", operator.public.vkey)
    assert play.faults() == []


@pytest.mark.parametrize("act", [rollback, stop, resume])
def test_no_move_without_a_reason(served, act):
    play, release, verdict = served
    with pytest.raises(ReasonMissing):
        act(play, release, reason=" ")
    with pytest.raises(ReasonMissing):
        play.promote(release, verdict, reason="")


def test_the_python_api_refuses_without_approval(play):
    release, verdict = play.candidate()
    with pytest.raises(ApprovalsMissing):
        play.promote(release, verdict)
    assert play.production() is None


@pytest.mark.parametrize("words", [["promote", "assistant"], ["rollback", "assistant@1"]])
def test_the_command_line_refuses_without_approval(play, words):
    play.candidate()
    place = str(play.registry.workspace.root)
    ended = CliRunner().invoke(app, [*words, "--reason", "mine", "--no-serve", "--workspace", place])
    assert isinstance(ended.exception, ApprovalsMissing | NeverPromoted)
    assert play.production() is None


def test_the_command_line_moves_and_every_move_is_a_leaf(served):
    play, first, _ = served
    release = second(play)

    def run(*words):
        ended = CliRunner().invoke(app, [*words, "--no-serve", "--workspace", str(play.registry.workspace.root)])
        assert ended.exit_code == 0, (ended.output, ended.exception)

    run("stop", "--reason", "rude")
    assert is_stopped(play.registry, release)
    run("resume", "--reason", "it was a joke")
    assert not is_stopped(play.registry, release)
    run("rollback", "--reason", "it was none")
    assert play.production() == first.digest
    run("promote", release.ref, "--reason", "better now")
    assert play.production() == release.digest
    run("rollback", first.ref, "--reason", "no")
    assert play.faults() == []


@pytest.mark.parametrize(
    ("more", "said"),
    [([], "0 of 1 approvals"), (["--approver", "nobody", "--printed-name", "N"], "signalbox keys new nobody")],
)
def test_the_job_refuses_without_approval_and_makes_no_key(play, monkeypatch, more, said):
    from jobs import promote

    monkeypatch.setattr("jobs.common.connect", lambda *_, **__: nullcontext())
    release, _ = play.candidate()
    words = ["--release", release.digest, "--no-serve", "--workspace", str(play.registry.workspace.root), *more]
    ended = CliRunner().invoke(promote.app, words)
    assert ended.exit_code in (1, 2)
    assert said in ended.stderr
    assert play.production() is None
    assert not (play.registry.workspace.keys_dir / "nobody.pem").exists()


@pytest.mark.parametrize(
    ("role", "said"), [("trainer", "its role is trainer"), ("auditor", "role"), ("reviewer", "role")]
)
def test_keys_of_these_roles_move_nothing_but_may_stop(served, role, said):
    play, release, verdict = served
    signer = play.key("eve", role, "Eve")
    with pytest.raises(MoverRefused, match=said):
        play.promote(release, verdict, signer=signer)
    with pytest.raises(MoverRefused, match=said):
        rollback(play, release, signer=signer)
    stop(play, release, signer=signer)
    with pytest.raises(MoverRefused, match=said):
        resume(play, release, signer=signer)
    assert play.faults() == []


def test_revoked_and_unknown_keys_move_nothing(served):
    play, release, _ = served
    operator = play.key("ops", "service", "Olga Ops")
    revoke_key(play.registry, "ops", reason="left", actor="service")
    for signer, said in ((operator, "was revoked"), (Signer.generate("eve", "service"), "not on record")):
        with pytest.raises(MoverRefused, match=said):
            stop(play, release, signer=signer)


def forged(play, release, parents, case):
    """Keyword arguments of a forged move leaf, by what is wrong with it."""
    service = play.registry.ledger.signer
    play.registry.ledger.register_key(service.public)
    operator = play.key("ops", "service", "Olga Ops")
    revoke_key(play.registry, "ops", reason="left", actor="service")
    sign = play.signed_move
    return {
        "unsigned": lambda: {},
        "stranger": lambda: {"signed": sign(release, parents, Signer.generate("eve", "service"))},
        "revoked": lambda: {"signed": sign(release, parents, operator)},
        "trainer": lambda: {"signed": sign(release, parents, play.key("bob", "trainer", "Bob"))},
        "another": lambda: {"signed": sign(release, parents, service, subject="sha256:" + "0" * 64)},
        "silent": lambda: {"signed": sign(release, parents, service, reason="")},
        "back-dated": lambda: {"signed": sign(release, parents, service, age_s=1e6)},
        "timeless": lambda: {"signed": sign(release, parents, service, time="once")},
    }[case]()


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("unsigned", "nobody's signature"),
        ("stranger", "not on record"),
        ("revoked", "was revoked by leaf"),
        ("trainer", "its role is trainer"),
        ("another", "signed another move"),
        ("silent", "states no reason"),
        ("back-dated", "back-dated"),
        ("timeless", "no time"),
    ],
)
def test_a_forged_move_is_named(served, case, said):
    """Verdict and approval are real; the move itself is not what somebody signed who may."""
    play, release, _ = served
    parents = next(play.registry.ledger.leaves("promotion")).statement.parents
    play.force(release, parents, **forged(play, release, parents, case))
    found = [fault for fault in play.faults() if fault.startswith("bad-promotion")]
    assert len(found) == 1
    assert said in found[0]


def test_a_forged_move_back_dated_with_its_leaf_is_named(served):
    play, release, _ = served
    service = play.registry.ledger.signer
    parents = next(play.registry.ledger.leaves("promotion")).statement.parents
    play.force(release, parents, signed=play.signed_move(release, parents, service, age_s=1e6), age_s=1e6)
    assert any("its leaf says" in fault for fault in play.faults())


def test_a_signed_promotion_without_verdict_and_approval_is_named(play):
    release, _ = play.candidate()
    service = play.registry.ledger.signer
    play.registry.ledger.register_key(service.public)
    play.force(release, (), signed=play.signed_move(release, (), service))
    found = " ".join(play.faults())
    assert "it names no verdict that stands before it" in found
    assert "0 of 1 approvals" in found


def test_a_promotion_on_another_s_verdict_and_approval_is_named(served):
    play, _, _ = served
    other, _ = play.candidate()
    service = play.registry.ledger.signer
    parents = next(play.registry.ledger.leaves("promotion")).statement.parents
    play.force(other, parents, signed=play.signed_move(other, parents, service))
    found = " ".join(play.faults())
    assert "its verdict is about something else" in found
    assert "0 of 1 approvals" in found


@pytest.mark.parametrize("kind", ["rollback", "stop", "resume"])
def test_a_signed_move_of_what_was_never_there_is_named(served, kind):
    play, _, _ = served
    other, _ = play.candidate()
    service = play.registry.ledger.signer
    play.force(other, (), kind=kind, signed=play.signed_move(other, (), service, kind=kind))
    assert any(fault.startswith(f"bad-{kind}") for fault in play.faults())


def move_alias(play, release):
    with play.registry.database.write() as connection:
        row = select(versions.c.id).where(versions.c.digest == release.digest).scalar_subquery()
        connection.execute(update(aliases).values(version_id=row))


def test_an_alias_moved_or_deleted_in_our_tables_is_named(served):
    play, release, _ = served
    other, _ = play.candidate()
    move_alias(play, other)
    (fault,) = play.faults()
    assert fault.startswith("unbacked-alias: alias release/assistant@production")
    move_alias(play, release)
    assert play.faults() == []
    with play.registry.database.write() as connection:
        connection.execute(delete(aliases))
    (fault,) = play.faults()
    assert fault.startswith("missing-alias")


def test_mlflow_s_own_api_behind_our_back_is_named(served, tmp_path):
    from mlflow.tracking import MlflowClient

    play, release, _ = served
    assert play.faults() == [], "before MLflow was ever used"
    registry, tracker = play.registry, Tracker(play.registry.workspace)
    run_id = tracker.start_run("small", params={}, tags={})
    mine, other = registry.get("model", release.facts["small"]), play.world.model()
    for model in (mine, other):
        tracker.add_version(model, run_id=run_id, source=registry.folder(model))
    tell_mlflow(release, registry=registry)
    assert play.faults() == []
    client = MlflowClient(tracking_uri(registry.workspace), tracking_uri(registry.workspace))
    client.set_registered_model_alias("small", "production", "2")
    (fault,) = play.faults()
    assert fault.startswith("unbacked-mlflow-alias: MLflow model small version 2: MLflow's alias 'production'")
    assert play.production() == release.digest, "nothing that MLflow is told changes what serves"
    tell_mlflow(release, registry=registry)
    client.create_model_version("small", source=str(tmp_path), run_id=run_id)
    (fault,) = play.faults()
    assert fault.startswith("unlogged-mlflow-version: MLflow model small version 3")
    client.delete_model_version("small", "3")
    client.transition_model_version_stage("small", "2", "Production")
    (fault,) = play.faults()
    assert fault.startswith("unbacked-mlflow-stage: MLflow model small version 2")
    client.transition_model_version_stage("small", "2", "None")
    tags = {DIGEST_TAG: mine.digest}
    client.create_model_version("small", source=f"{tmp_path}/{mine.digest[7:]}", run_id=run_id, tags=tags)
    client.set_registered_model_alias("small", "production", "4")
    copied, misplaced = play.faults()
    assert copied.startswith("copied-mlflow-version: MLflow model small version 4: it bears the digest of version 1")
    assert misplaced.startswith(
        "misplaced-mlflow-version: MLflow model small version 4: MLflow looks for its weights at"
    )


def test_an_approval_withdrawn_while_a_promotion_is_judged_stops_it(play, monkeypatch):
    release, verdict = play.candidate()
    approval = play.approve(release, verdict, signer := play.key())
    judged = promotion.judge_approvals

    def judge_then_withdraw(*args, **kwargs):
        found = judged(*args, **kwargs)
        play.withdraw(approval, signer)
        return found

    monkeypatch.setattr(promotion, "judge_approvals", judge_then_withdraw)
    with pytest.raises(MovedMeanwhile, match="run it again"):
        play.promote(release, verdict)
    assert play.production() is None
    monkeypatch.undo()
    with pytest.raises(ApprovalsMissing):
        play.promote(release, verdict)


# Stop, resume, rollback.


def test_a_stop_takes_the_models_out_and_a_resume_brings_them_back(served, monkeypatch):
    play, release, verdict = served
    monkeypatch.setattr("app.serving.release._load_router", lambda *_: None)
    registry = play.registry
    assert list(resolve_release(registry, "assistant@production").models) == ["small"]
    stop(play, release)
    stopped = resolve_release(registry, "assistant@production")
    assert (stopped.digest, stopped.stopped, dict(stopped.models)) == (release.digest, True, {})
    assert stopped.rungs_for("signalbox") == []
    assert stopped.rungs_for("small") is None
    with pytest.raises(NothingToStop):
        stop(play, release)
    with pytest.raises(ProductionStopped, match="signalbox resume"):
        play.promote(release, verdict)
    with pytest.raises(ProductionStopped):
        rollback(play, release)
    resume(play, release)
    assert list(resolve_release(registry, "assistant@production").models) == ["small"]
    with pytest.raises(NothingToResume):
        resume(play, release)
    assert play.faults() == []


def test_a_rollback_or_another_release_ends_a_stop(served):
    play, first, _ = served
    release = second(play)
    stop(play, release)
    rollback(play, previous_of(release, registry=play.registry))
    assert play.production() == first.digest
    assert not is_stopped(play.registry, first)
    stop(play, first)
    third = second(play)
    assert not is_stopped(play.registry, third)
    assert play.faults() == []


def test_what_is_not_in_production_is_not_stopped(served):
    play, release, _ = served
    other, _ = play.candidate()
    with pytest.raises(NothingToStop):
        stop(play, other)
    with pytest.raises(NeverPromoted, match="nothing was in production before"):
        previous_of(release, registry=play.registry)


def test_a_leaf_alone_does_not_move_production(served):
    play, release, _ = served
    other, _ = play.candidate()
    play.registry.ledger.append([Statement("rollback", other.digest, "release/assistant")])
    assert play.production() == release.digest
    found = " ".join(play.faults())
    assert "was never promoted to what it names" in found
    assert "nobody's signature" in found
    assert "unbacked-alias" in found
