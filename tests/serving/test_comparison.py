"""A canary beside production, from the log: the right rows on each side, and intervals that tell a real difference."""

import json
import shutil
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.core.clock import utc_now
from app.governance import canary, promotion
from app.ledger.batches import write_part
from app.ledger.key_sources import open_signer
from app.serving.comparison import compare, last_run, lines
from app.serving.feedback import _keep, asked_by
from app.serving.standing import standing
from tests.attacks.world import stage

NUM = 60


@pytest.fixture
def play(registry, tmp_path):
    """A canary that began a moment ago: ``(stage, release in production, canary)``."""
    play = stage(registry, tmp_path)
    release, verdict = play.candidate()
    play.approve(release, verdict, play.key())
    play.promote(release, verdict)
    other, judged = play.candidate()
    play.approve(other, judged, open_signer(registry.workspace.keys_dir, "jane"))
    for share in (0.1, 0.4):
        given = {"verdict": judged, "registry": registry, "policy": play.policy, "reason": "a test"}
        canary.begin(other, share=share, **given)
    return play, release, other


def response(request_id):
    routing = {"choice": "small", "used": "small", "explored": False, "propensities": {}, "guarantee": "none"}
    return {"signalbox": {"asked_by": asked_by(request_id, "anonymous"), "routing": routing}}


def row_of(number, release, *, time, status=200, route="small", cost_usd=0.001):
    request_id = f"{release.ref}-{number}"
    row = {"request_id": request_id, "time": time, "release": release.digest, "status": status, "latency_s": 0.1}
    return row | {"route": route, "cost_usd": cost_usd, "response_json": response(request_id)}


def log(registry, name, rows):
    registry.workspace.requests_dir.mkdir(exist_ok=True)
    write_part(registry.workspace.requests_dir / f"{name}.parquet", rows)


def test_either_side_has_its_own_requests_of_the_same_time(play):
    stage_, release, other = play
    registry = stage_.registry
    run = last_run(registry, "assistant")
    during, before = run.since + timedelta(microseconds=1), run.since - timedelta(hours=1)
    rows = [row_of(number, release, time=during) for number in range(NUM)]
    rows += [row_of(number, other, time=during, cost_usd=0.003) for number in range(NUM // 2)]
    rows += [row_of(number + NUM, other, time=during, status=500) for number in range(NUM // 2)]
    rows += [row_of(number + NUM, other, time=during, status=404) for number in range(NUM, 2 * NUM)]
    rows += [row_of(999, release, time=before, status=500), row_of(999, other, time=utc_now() + timedelta(hours=1))]
    log(registry, "part", rows)
    for number in range(10):
        for side, score in ((release, 1.0), (other, 0.0)):
            request_id = f"{side.ref}-{number}"
            said = {"asked_by": asked_by(request_id, "anonymous"), "request_id": request_id, "release": side.digest}
            _keep(registry.database, {**said, "score": score, "comment": "", "answer": "", "updated_at": "now"})
    found = json.loads(json.dumps(compare(registry, "assistant")))
    sides = (found["production"], found["canary"])
    assert [(side["name"], side["num_requests"]) for side in sides] == [(release.ref, NUM), (other.ref, 2 * NUM)]
    assert [side["figures"]["failed"]["value"] for side in sides] == [0.0, 0.5]
    assert [side["figures"]["score"]["value"] for side in sides] == [1.0, 0.0]
    assert found["production"]["figures"]["score"]["low"] < 0.8
    assert found["canary"]["figures"]["score"]["high"] > 0.2
    assert [side["figures"]["usd_per_1000"]["value"] for side in sides] == [pytest.approx(1.0), pytest.approx(3.0)]
    assert found["difference"]["failed"]["low"] > 0.3
    assert found["difference"]["abstained"]["low"] < 0 < found["difference"]["abstained"]["high"]
    assert (found["share"], found["until"]) == (0.4, None)
    told = "\n".join(lines(found))
    assert f"{other.ref}: {2 * NUM} requests" in told
    assert "+0.500" in told


def test_a_canary_that_ended_is_shown_until_its_end(play):
    stage_, _, other = play
    registry = stage_.registry
    canary.end("assistant", registry=registry, reason="enough")
    log(registry, "part", [row_of(1, other, time=utc_now() + timedelta(seconds=5))])
    found = compare(registry, "assistant")
    assert found["until"] is not None
    assert (found["canary"]["num_requests"], found["difference"]) == (0, {})
    assert "0 requests" in "\n".join(lines(found))


def test_status_tells_what_is_in_production_and_how_its_canary_compares(play):
    stage_, release, other = play
    during = last_run(stage_.registry, "assistant").since + timedelta(microseconds=1)
    log(stage_.registry, "part", [row_of(number, other, time=during, status=500) for number in range(NUM)])
    (found,) = standing(stage_.registry)
    assert (found["release"], found["digest"], found["stopped"]) == (release.ref, release.digest, False)
    assert found["canary"]["canary"]["figures"]["failed"]["value"] == 1.0
    told = run("status", stage_, code=1)
    assert f"{release.ref} in production since {found['since']}" in told
    assert f"beside it the canary {other.ref}, 0.4 of the requests since" in told
    assert f"canary      {other.ref}: {NUM} requests" in told
    assert json.loads(run("status", stage_, "--json", code=1))["releases"] == json.loads(json.dumps([found]))
    promotion.stop(release, registry=stage_.registry, reason="odd answers")
    assert f"{release.ref} stopped (the reader quotes, no model answers) since" in run("status", stage_, code=1)
    assert standing(stage_.registry)[0]["canary"] is None


def test_status_names_a_canary_whose_record_is_lost(play):
    stage_, release, _ = play
    for leaf in stage_.registry.ledger.leaves("canary"):
        shutil.rmtree(stage_.registry.workspace.root / "store" / "canary" / leaf.statement.payload[7:])
    told = run("status", stage_, code=1)
    assert f"{release.ref} in production" in told
    assert "a canary runs beside it, and " in told


def test_the_page_has_every_figure_and_marks_what_differs(play, tmp_path):
    stage_, release, other = play
    during = last_run(stage_.registry, "assistant").since + timedelta(microseconds=1)
    rows = [row_of(number, release, time=during) for number in range(NUM)]
    rows += [row_of(number, other, time=during, status=500 if number % 2 else 200) for number in range(NUM)]
    log(stage_.registry, "part", rows)
    page = tmp_path / "canary.html"
    assert run("canary", stage_, "--html", str(page)) == f"wrote {page}\n"
    text = page.read_text()
    assert f"Canary {other.ref} beside {release.ref}" in text
    assert "40% of the requests" in text
    failed = text[text.index("requests that failed") :].split("</tr>")[0]
    assert "0 [0, 0.06017]" in failed
    assert 'class="number differs"' in failed
    assert "differs" not in text[text.index("quotations where") :].split("</tr>")[0]
    assert text.count("<svg") == 4
    assert "script" not in text


def run(command, stage_, *words, code=0):
    ended = CliRunner().invoke(app, [command, *words, "--workspace", str(stage_.registry.workspace.root)])
    assert ended.exit_code == code, (ended.output, ended.exception)
    return ended.stdout
