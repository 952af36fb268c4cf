"""Attacks on canaries: what no promotion would let through, nonsense, two at once, and leaves that nobody signed."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.core.clock import timestamp, utc_now
from app.core.store import ArtifactMissing
from app.governance import canary, promotion
from app.governance.canary import BadAudience, CanaryRefused, NoCanary
from app.governance.erasure import ErasureBlocked, _deletions
from app.governance.history import check, production_at
from app.governance.moves import canary_of
from app.governance.promotion import (
    ApprovalsMissing,
    MoverRefused,
    NeverPromoted,
    ProductionStopped,
    ReasonMissing,
    Rejected,
)
from app.ledger.batches import batch_statement, seal, write_part
from app.ledger.key_sources import open_signer
from app.registry.whole import ArtifactChanged
from app.serving.access import add_grant
from app.serving.assembly import Assembly
from app.serving.canary import resolve_canary
from app.serving.comparison import compare
from app.serving.errors import NotPromoted
from app.serving.release import resolve_production, resolve_release
from app.serving.settings import ServingSettings
from tests.attacks.world import stage
from tests.serving.conftest import FakeBackends


@pytest.fixture
def play(registry, tmp_path, monkeypatch):
    monkeypatch.setattr("app.serving.release._load_router", lambda *_: None)
    return stage(registry, tmp_path)


@pytest.fixture
def served(play):
    """A stage, the release in production, and another that is judged: ``(stage, release, other, its verdict)``."""
    release, verdict = play.candidate()
    play.approve(release, verdict, play.key())
    play.promote(release, verdict)
    return play, release, *play.candidate()


@pytest.fixture
def ready(served):
    """As ``served``, the other approved."""
    play, _, other, verdict = served
    play.approve(other, verdict, jane(play))
    return served


def jane(play):
    return open_signer(play.registry.workspace.keys_dir, "jane")


def begin(play, release, verdict, **said):
    said = {"share": 0.05, "reason": "a test", "policy": play.policy, **said}
    canary.begin(release, verdict=verdict, registry=play.registry, **said)


def end(play, **said):
    return canary.end("assistant", registry=play.registry, **{"reason": "a test", **said})


def running(play):
    found = canary_of(play.registry, "assistant")
    return found and found.digest


def test_a_canary_is_a_signed_leaf_beside_production(ready):
    play, release, other, verdict = ready
    before = utc_now()
    begin(play, other, verdict, share=0.25, callers=["sha256:key"], reason="a first look")
    found = canary_of(play.registry, "assistant")
    assert (found.digest, found.audience.share, found.audience.callers) == (other.digest, 0.25, ("sha256:key",))
    assert found.reason == "a first look"
    assert play.production() == release.digest
    assert resolve_release(play.registry, other.digest, canary=True).digest == other.digest
    with pytest.raises(NotPromoted):
        resolve_production(play.registry, other.digest)
    proof = json.loads(json.dumps(production_at(play.registry, utc_now(), name="assistant")))
    assert (proof["digest"], proof["canary"], proof["canary_ref"]) == (release.digest, other.digest, other.ref)
    public = play.registry.ledger.signer.public
    assert check(proof, public) == []
    assert check({**proof, "canary": None}, public) != []
    assert production_at(play.registry, before - timedelta(seconds=1), name="assistant")["canary"] is None
    assert end(play) == other
    assert running(play) is None
    assert production_at(play.registry, utc_now(), name="assistant")["canary"] is None
    with pytest.raises(NotPromoted):
        resolve_release(play.registry, other.digest, canary=True)
    assert play.faults() == []


def test_a_canary_demands_what_a_promotion_demands(served):
    play, _, other, verdict = served
    with pytest.raises(ApprovalsMissing):
        begin(play, other, verdict)
    play.approve(other, verdict, jane(play))
    rejection = play.reject(other, verdict, jane(play))
    with pytest.raises(Rejected):
        begin(play, other, verdict)
    play.withdraw(rejection, jane(play))
    with pytest.raises(ReasonMissing):
        begin(play, other, verdict, reason=" ")
    with pytest.raises(MoverRefused, match="its role is trainer"):
        begin(play, other, verdict, signer=play.key("bob", "trainer", "Bob"))
    assert running(play) is None
    begin(play, other, verdict)
    assert play.faults() == []


@pytest.mark.parametrize("share", [2.0, -0.1, float("nan"), float("inf"), True, "0.5", 0.0])
def test_a_share_that_is_none_is_refused(ready, share):
    play, _, other, verdict = ready
    with pytest.raises(BadAudience, match="--share"):
        begin(play, other, verdict, share=share)
    assert running(play) is None


def test_where_no_canary_can_run(ready):
    play, release, other, verdict = ready
    stranger, judged = play.candidate()
    play.approve(stranger, judged, jane(play))
    with pytest.raises(CanaryRefused, match="is in production itself"):
        begin(play, release, verdict)
    begin(play, other, verdict)
    with pytest.raises(CanaryRefused, match="end it first"):
        begin(play, stranger, judged)
    end(play)
    with pytest.raises(NoCanary):
        end(play)
    promotion.stop(release, registry=play.registry, reason="rude")
    with pytest.raises(ProductionStopped):
        begin(play, other, verdict)
    assert play.faults() == []


def test_before_the_first_promotion_there_is_nothing_to_run_beside(play):
    release, verdict = play.candidate()
    play.approve(release, verdict, play.key())
    with pytest.raises(CanaryRefused, match="nothing is in production"):
        begin(play, release, verdict)


def test_another_share_is_another_leaf_and_the_same_none(ready):
    play, _, other, verdict = ready
    for share in (0.05, 0.05, 0.2):
        begin(play, other, verdict, share=share)
    assert len(list(play.registry.ledger.leaves("canary"))) == 2
    assert canary_of(play.registry, "assistant").audience.share == 0.2
    assert play.faults() == []


@pytest.mark.parametrize("how", ["stop", "promotion", "rollback"])
def test_every_move_of_production_ends_it(ready, how):
    play, release, other, verdict = ready
    second, judged = play.candidate()
    play.approve(second, judged, jane(play))
    play.promote(second, judged)
    begin(play, other, verdict)
    with pytest.raises(NeverPromoted):
        promotion.rollback(other, registry=play.registry, reason="it never was")
    if how == "stop":
        promotion.stop(second, registry=play.registry, reason="rude")
    elif how == "promotion":
        play.promote(other, verdict)
    else:
        promotion.rollback(release, registry=play.registry, reason="slow")
    assert running(play) is None
    if how == "stop":
        promotion.resume(second, registry=play.registry, reason="mended")
        assert running(play) is None
    assert play.faults() == []


def test_everybody_on_record_may_end_it(ready):
    play, _, other, verdict = ready
    begin(play, other, verdict)
    end(play, signer=play.key("ann", "auditor", "Ann Auditor"))
    assert play.faults() == []


def record_of(play):
    (leaf,) = play.registry.ledger.leaves("canary")
    folder = play.registry.workspace.root / "store" / "canary" / leaf.statement.payload.removeprefix("sha256:")
    (folder / "manifest.json").chmod(0o600)
    return folder / "manifest.json"


def test_a_share_that_somebody_raised_in_the_store_is_refused(ready):
    play, release, other, verdict = ready
    begin(play, other, verdict, share=0.25)
    record, production = record_of(play), resolve_release(play.registry, release.digest)
    assert resolve_canary(play.registry, production).audience.share == 0.25
    record.write_text(record.read_text().replace('"share":0.25', '"share":1'))
    for read in (lambda: resolve_canary(play.registry, production), lambda: compare(play.registry, "assistant")):
        with pytest.raises(ArtifactChanged, match="signalbox verify"):
            read()
    assert any(fault.startswith("changed") for fault in play.faults())


def test_a_canary_whose_record_is_lost_can_be_ended(ready):
    play, _, other, verdict = ready
    begin(play, other, verdict)
    record_of(play).unlink()
    with pytest.raises(ArtifactMissing):
        running(play)
    assert end(play) == other
    assert running(play) is None


def test_an_erasure_deletes_no_model_of_a_canary_that_runs(ready):
    play, _, other, verdict = ready
    model = play.registry.get("model", other.facts["small"])
    begin(play, other, verdict)
    with pytest.raises(ErasureBlocked, match="end the canary"):
        _deletions(play.registry, [model])
    end(play)
    assert _deletions(play.registry, [model]) == []


def forge(play, release, parents, *, kind="canary", **changes):
    """Append a canary's leaf past every check."""
    from app.ledger.log import Statement

    signer = play.registry.ledger.signer
    signed = play.signed_move(release, parents, signer, kind=kind, **{"share": 0.5, "callers": [], **changes})
    verdict, policy, traffic, *approvals = [*parents, None, None, None][: max(len(parents), 3)]
    facts = {"actor": signer.public.key_name, "reason": "because", "signed": signed, "verdict": verdict}
    facts |= {"policy": policy, "traffic": traffic, "approvals": approvals}
    record = {"kind": kind, "name": "release/assistant", "parents": list(parents), "facts": facts}
    record["inputs"] = {"subject": release.digest, "previous": None}
    payload = play.registry.store.publish(kind, None, record)
    leaf = Statement(kind, release.digest, "release/assistant", tuple(parents), payload, signer.public.key_name)
    play.registry.ledger.append([leaf])


def test_a_canary_past_every_check_is_named(served):
    play, release, other, verdict = served
    forge(play, other, play.parents(other, verdict))
    assert any("0 of 1 approvals" in fault for fault in play.faults() if fault.startswith("bad-canary"))
    forge(play, release, play.parents(other, verdict))
    found = " ".join(play.faults())
    assert "nothing else in production" in found
    assert "another canary ran" in found


@pytest.mark.parametrize("changes", [{"share": 2}, {"share": "all"}, {"callers": "jane"}, {"share": 0}])
def test_a_signed_audience_that_is_none_is_named(ready, changes):
    play, _, other, verdict = ready
    begin(play, other, verdict)
    parents = next(play.registry.ledger.leaves("canary")).statement.parents
    forge(play, other, parents, **changes)
    assert [fault for fault in play.faults() if "a canary" in fault]


def test_the_end_of_what_was_no_canary_is_named(served):
    play, _, other, _ = served
    forge(play, other, (), kind="canary-end")
    assert any("was no canary" in fault for fault in play.faults())


def test_answers_of_a_canary_are_no_fault_and_those_of_others_are(ready):
    from app.ledger.log import REQUEST_BATCH, Statement

    play, _, other, verdict = ready
    begin(play, other, verdict)
    batch = Statement(REQUEST_BATCH, "sha256:" + "1" * 64, "a.parquet", (other.digest,), actor="gateway")
    play.registry.ledger.append([batch])
    assert not any(fault.startswith("unpromoted-release") for fault in play.faults())
    stranger, _ = play.candidate()
    play.registry.ledger.append([Statement(REQUEST_BATCH, "sha256:" + "2" * 64, "b.parquet", (stranger.digest,))])
    assert any(fault.startswith("unpromoted-release") for fault in play.faults())


def log_answer(play, release, seconds, request_id):
    """A part of one request that came in so many seconds from now, in the ledger."""
    record = {"request_id": request_id, "time": utc_now() + timedelta(seconds=seconds), "release": release.digest}
    part = play.registry.workspace.requests_dir / f"{request_id}.parquet"
    part.parent.mkdir(exist_ok=True)
    write_part(part, [seal({**record, "request_json": {}, "response_json": {}, "status": 200})])
    play.registry.ledger.append([batch_statement(part)])


def test_an_answer_that_a_canary_gave_after_its_end_is_named(ready):
    play, _, other, verdict = ready
    begin(play, other, verdict)
    log_answer(play, other, 4000, "while-it-ran")
    assert play.faults() == []
    (play.registry.workspace.requests_dir / "while-it-ran.parquet").unlink()
    end(play)
    for seconds, name in ((2, "under-way"), (400, "late"), (-400, "early")):
        log_answer(play, other, seconds, name)
    late = [fault for fault in play.faults() if fault.startswith("late-answer")]
    assert [any(f"request {name}:" in fault for fault in late) for name in ("under-way", "late", "early")] == [
        False,
        True,
        True,
    ]
    play.promote(other, verdict)
    log_answer(play, other, 500, "promoted")
    assert not any("request promoted" in fault for fault in play.faults())


def appended_again(play):
    """Append the canary's leaf once more, with one more fact in its record."""
    (leaf,) = play.registry.ledger.leaves("canary")
    record = play.registry.store.manifest("canary", leaf.statement.payload)
    record["facts"]["note"] = "again"
    payload = play.registry.store.publish("canary", None, record)
    play.registry.ledger.append([replace(leaf.statement, payload=payload, time=timestamp())])
    return [fault for fault in play.faults() if fault.startswith("bad-canary")]


def test_a_canary_that_ended_is_not_begun_again_by_its_old_record(ready):
    play, _, other, verdict = ready
    begin(play, other, verdict)
    end(play)
    found = " ".join(appended_again(play))
    assert "used twice" in found
    assert "was the last that could matter" in found


def test_a_move_of_an_older_log_counts_once_too(served):
    play, _, other, verdict = served
    approval = play.approve(other, verdict, jane(play))
    forge(play, other, play.parents(other, verdict, approval))
    assert play.faults() == []
    end(play)
    assert "used twice" in " ".join(appended_again(play))


def test_a_move_that_was_signed_and_never_made_is_not_made_later(ready):
    """Its record lies in the store when somebody decided meanwhile: who has the database could append its leaf."""
    play, _, other, verdict = ready
    after = max(leaf.index for kind in ("key", "approval", "promotion") for leaf in play.registry.ledger.leaves(kind))
    play.reject(*play.candidate(), jane(play))
    parents = play.parents(other, verdict, *play.registry.versions("approval")[-1:])
    forge(play, other, parents, after=after)
    assert any("was the last that could matter" in fault for fault in play.faults())


def test_a_canary_is_served_to_everybody_by_nobody(ready):
    """A Serve config that names it, and the Python API, reach it by the gateway's own assembly."""
    play, release, other, verdict = ready
    begin(play, other, verdict)
    assembly = Assembly(ServingSettings(), play.registry, FakeBackends())

    async def took(ref):
        await assembly.gateway.take(ref)
        return (await assembly.gateway.health())[1]

    assert "was never promoted" in asyncio.run(took(other.digest))["reason"]
    assert asyncio.run(took("assistant@production"))["release"] == release.digest
    said = asyncio.run(took(other.digest))
    assert (said["release"], said["refused"]) == (release.digest, other.digest)
    assembly.close()


def test_the_command_line(ready):
    play, release, other, _ = ready
    place = ["--no-serve", "--workspace", str(play.registry.workspace.root)]

    def run(*words, code=0):
        ended = CliRunner().invoke(app, [*words, *place[-2:], *(place[:1] if words[0] == "canary" else [])])
        assert (ended.exit_code == 0) == (code == 0), (ended.output, ended.exception)
        return ended.exception if code else ended.output

    assert isinstance(run("canary", code=2), NoCanary)
    add_grant(play.registry, "joe", [])
    assert "named 'eve'" in str(run("canary", other.ref, "--caller", "eve", "--reason", "x", code=1))
    assert "give --end alone" in str(run("canary", other.ref, "--end", "--reason", "x", code=2))
    assert "give --end alone" in str(run("canary", "--share", "0.1", code=2))
    said = run("canary", other.ref, "--share", ".05", "--caller", "joe", "--reason", "a first look")
    assert said.strip() == f"{other.ref} runs as a canary for 0.05 of the requests and all of joe"
    assert f"beside it the canary {other.ref}" in run("production")
    held = canary_of(play.registry, "assistant").audience.callers
    assert [each.startswith("sha256:") for each in held] == [True]
    told = json.loads(run("canary", "--json"))
    assert (told["share"], told["until"], told["canary"]["num_requests"]) == (0.05, None, 0)
    assert "production answers alone" in run("canary", "--end", "--reason", "enough")
    assert json.loads(run("canary", "--json"))["until"] is not None
    assert isinstance(run("canary", "--end", "--reason", "again", code=2), NoCanary)
    assert play.production() == release.digest
    assert play.faults() == []
