"""Feedback over HTTP: who may rate, what may be said, the last word counts, who reads it, and that it is erased."""

import asyncio
import json
import threading
import time
from datetime import timedelta

import httpx
import openai
import pytest
import uvicorn
from sqlalchemy import select
from typer.testing import CliRunner

from app.cli import app
from app.core.clock import utc_now
from app.core.database import snapshot
from app.core.schema import feedback
from app.datasets.formats import parse
from app.governance import erasing
from app.governance.erasure import NothingToErase, erase
from app.ledger.batches import parts_with, write_part
from app.ledger.journal import NAME_TIME
from app.ledger.log import ERASURE
from app.ledger.verify import verify
from app.serving import feedback as rating
from app.serving.access import add_grant, remove_grant
from app.serving.audit import audit, read_requests, rewards_of
from app.serving.comparison import _figures
from app.serving.corrections import corrections
from app.serving.counters import ANONYMOUS
from app.serving.feedback import Scores, asked_by, asker_of, last_answered
from app.serving.http import create_app
from app.serving.log import read_log
from app.serving.outcomes import questions_of_log
from app.serving.rules import change_rule, subject_of
from tests.serving.asked import CHAT, QUESTION, ask, events_of, post
from tests.serving.conftest import make_release

FEEDBACK = "/v1/feedback"


@pytest.fixture
def gateway(make_gateway, releases):
    releases["assistant@production"] = make_release()
    return make_gateway()


@pytest.fixture
def keys(registry):
    return {name: {"authorization": f"Bearer {add_grant(registry, name, [])}"} for name in ("jane", "joe")}


def answered(gateway, request_id, headers=None, **body):
    given = ask(gateway, {"x-request-id": request_id, **(headers or {})}, model="signalbox", **body)
    assert given.status_code == 200, given.text
    return given.json()


def rate(gateway, headers=None, **said):
    return post(gateway, FEEDBACK, said, headers)


def kept(registry):
    with registry.database.read() as connection:
        return {row.request_id: row for row in connection.execute(select(feedback))}


def test_the_one_who_asked_rates_and_the_last_word_counts(gateway, registry):
    body = answered(gateway, "r1")
    given = rate(gateway, request_id="r1", rating="down", comment="too long", answer="2000")
    release = body["signalbox"]["release"]
    assert given.json() == {"object": "feedback", "request_id": "r1", "score": 0.0, "release": release}
    assert rate(gateway, request_id=body["id"], score=1).status_code == 200
    row = kept(registry)["r1"]
    assert (row.score, row.comment, row.answer, row.release) == (1.0, "", "", body["signalbox"]["release"])
    assert Scores.read(registry).of("r1", asker_of(body), release) == 1.0
    assert Scores.read(registry, {"r1": 0.25}).of("r1", asker_of(body), release) == 0.25
    assert faults(registry) == []
    assert not any("too long" in leaf.statement.to_bytes().decode() for leaf in registry.ledger.leaves())


def test_nobody_rates_for_another(gateway, registry, keys):
    answered(gateway, "janes", keys["jane"])
    answered(gateway, "nobodys")
    refused = [({}, "janes"), (keys["joe"], "janes"), (keys["jane"], "nobodys"), ({}, "no-such"), ({}, "%"), ({}, '"')]
    for headers, request_id in refused:
        given = rate(gateway, headers, request_id=request_id, score=0)
        assert (given.status_code, given.json()["error"]["code"]) == (404, "request_not_found")
        assert given.json()["error"]["param"] == "request_id"
    assert kept(registry) == {}
    assert rate(gateway, keys["jane"], request_id="janes", score=0.5).status_code == 200
    assert rate(gateway, request_id="nobodys", score=0.5).status_code == 200


def test_an_id_used_again_on_purpose_rates_only_one_s_own(gateway, registry, keys):
    mine = answered(gateway, "same", keys["jane"])
    his = answered(gateway, "same", keys["joe"])
    assert rate(gateway, keys["joe"], request_id="same", score=0).status_code == 200
    scores = Scores.read(registry)
    assert tuple(scores.of("same", asker_of(each), each["signalbox"]["release"]) for each in (mine, his)) == (None, 0.0)
    assert rate(gateway, keys["jane"], request_id="same", score=1).status_code == 200
    scores = Scores.read(registry)
    assert tuple(scores.of("same", asker_of(each), each["signalbox"]["release"]) for each in (mine, his)) == (1.0, 0.0)


def test_an_unknown_id_is_looked_for_in_old_parts_once(gateway, monkeypatch):
    looks = []

    def noted(folder, request_id, *, since):
        looks.append(since)
        return parts_with(folder, request_id, since=since)

    monkeypatch.setattr(rating, "parts_with", noted)
    assert rate(gateway, request_id="no-such", score=0).status_code == 404
    minute_ago = f"{utc_now() - timedelta(minutes=1):{NAME_TIME}}"
    assert (looks[0] < minute_ago, len(looks) > 1) == (True, True)
    assert all(since > minute_ago for since in looks[1:])


def test_many_unknown_ids_hold_up_no_answer_and_too_many_are_refused(gateway, monkeypatch):
    go_on = threading.Event()

    def slow(folder, request_id, *, since):
        go_on.wait(30)
        return iter(())

    monkeypatch.setattr(rating, "parts_with", slow)

    async def story():
        transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
            said = [{"request_id": f"bogus{number}", "score": 1} for number in range(64)]
            sent = [asyncio.ensure_future(client.post(FEEDBACK, json=each)) for each in said]
            done, _ = await asyncio.wait(sent, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            chat = await asyncio.wait_for(client.post(CHAT, json={"model": "small", "messages": QUESTION}), 20)
            go_on.set()
            return await done.pop(), chat, [(await each).status_code for each in sent]

    refused, chat, statuses = asyncio.run(story())
    assert (refused.status_code, refused.headers["retry-after"], chat.status_code) == (503, "1", 200)
    assert statuses.count(404) >= rating.MAX_LOOKS // 2


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"score": 1}, "request_id"),
        ({"request_id": "r1"}, None),
        ({"request_id": "r1", "score": 1, "rating": "up"}, None),
        ({"request_id": "r1", "score": 1.01}, "score"),
        ({"request_id": "r1", "score": -1}, "score"),
        ({"request_id": "r1", "score": "1"}, "score"),
        ({"request_id": "r1", "score": True}, "score"),
        ({"request_id": "r1", "rating": "sideways"}, "rating"),
        ({"request_id": "r1", "score": 1, "comment": "x" * 5000}, "comment"),
        ({"request_id": "r1", "score": 1, "answer": 7}, "answer"),
        ({"request_id": "r1", "score": 1, "user": "jane"}, "user"),
        ({"request_id": "", "score": 1}, "request_id"),
        ([], None),
    ],
)
def test_what_is_no_feedback_is_refused_in_openai_s_form(gateway, registry, said, param):
    given = post(gateway, FEEDBACK, said)
    error = given.json()["error"]
    assert (given.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert kept(registry) == {}


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"request_id": "r1", "score": NaN}'])
def test_what_is_no_json_is_refused(gateway, body):
    assert post(gateway, FEEDBACK, body).status_code == 400


def test_errors_and_half_surrogates_have_no_answer_to_rate(gateway):
    assert ask(gateway, {"x-request-id": "bad"}, model="gpt-4").status_code == 404
    assert rate(gateway, request_id="bad", score=0).status_code == 404
    assert post(gateway, FEEDBACK, b'{"request_id": "\\ud800", "score": 1}').status_code == 400


def test_limits_and_rights_hold(gateway, registry, keys, make_gateway):
    answered(gateway, "r1", keys["jane"])
    change_rule(registry, subject_of(registry, name="joe"), {"role": "search"})
    assert rate(gateway, keys["joe"], request_id="r1", score=0).status_code == 403
    change_rule(registry, ANONYMOUS, {"requests_per_minute": 0})
    assert rate(gateway, request_id="r1", score=0).status_code == 429
    assert rate(make_gateway(require_key=True), request_id="r1", score=0).status_code == 401
    remove_grant(registry, "jane")
    change_rule(registry, ANONYMOUS, {"requests_per_minute": None})
    assert rate(gateway, keys["jane"], request_id="r1", score=0).status_code == 404
    assert kept(registry) == {}


def test_streams_and_cached_answers_are_rated_by_who_got_them(gateway, keys):
    exact = {"x-signalbox-cache": "exact"}
    first = answered(gateway, "r1", exact | keys["jane"])
    again = answered(gateway, "r2", exact | keys["joe"])
    assert again["signalbox"]["cached_from"] == "r1"
    assert asker_of(first) != asker_of(again)
    assert rate(gateway, keys["jane"], request_id="r2", score=1).status_code == 404
    assert rate(gateway, keys["joe"], request_id="r2", score=1).status_code == 200
    streamed = events_of(ask(gateway, {"x-request-id": "r3"}, stream=True))
    assert asker_of(streamed[-1]) == asked_by("r3", ANONYMOUS)
    assert rate(gateway, request_id=streamed[0]["id"], score=1).status_code == 200


def test_it_teaches_the_router_and_tells_the_audit(gateway, registry):
    bodies = [answered(gateway, f"r{number}") for number in range(4)]
    used = bodies[0]["signalbox"]["routing"]["used"]
    assert bodies[0]["signalbox"]["route"] == used
    for number, score in enumerate((1.0, 0.0)):
        rate(gateway, request_id=f"r{number}", score=score)
    asked = questions_of_log(
        registry.workspace.requests_dir,
        release=bodies[0]["signalbox"]["release"],
        share=0.0,
        feedback=Scores.read(registry),
    )
    assert {each.row_id: dict(each.scores) for each in asked} == {"r0": {used: 1.0}, "r1": {used: 0.0}}
    assert rewards_of(read_requests(registry), Scores.read(registry), []) == {
        asker_of(body): score for body, score in zip(bodies, (1.0, 0.0), strict=False)
    }
    ended = CliRunner().invoke(app, ["router", "audit", "--json", "--workspace", str(registry.workspace.root)])
    assert json.loads(ended.stdout)["num_rewarded"] == 2


def test_one_rating_of_an_id_used_again_counts_for_the_last_answer_alone(gateway, registry, releases, request_log):
    turns = [{"role": "user", "content": "What is the fee?"}]
    for number in range(3):
        body = answered(gateway, "same", messages=turns, user=f"u{number}")
    rate(gateway, request_id="same", score=1, answer="12 crowns")
    releases["assistant@production"] = other = make_release("sha256:" + "b" * 64)
    asyncio.run(gateway.take("assistant@production"))
    asker = asker_of(answered(gateway, "same", messages=turns))
    assert asker == asker_of(body)
    request_log.close()
    rows, scores = read_log(registry.workspace.requests_dir).to_pylist(), Scores.read(registry)
    here, first = registry.workspace.requests_dir, body["signalbox"]["release"]
    for release, num in ((first, 1), (other.digest, 0)):
        mine = [row for row in rows if row["release"] == release]
        assert ("score" in _figures(mine, scores)) == bool(num)
        assert scores.of("same", asker, release) == (1.0 if num else None)
    rows = [row for row in rows if row["release"] == first]
    assert [row["request_json"] for row in last_answered(rows)] == [rows[-1]["request_json"]]
    assert len(questions_of_log(here, release=other.digest, share=1.0, feedback=scores)) == 1
    requests = read_requests(registry)
    assert (len(requests), sum(each.last for each in requests)) == (4, 1)
    given = rewards_of(requests, Scores(by_request={"same": 1.0}), [])
    assert audit(requests, given)["num_rewarded"] == 1
    assert corrections(registry) == ([], 0)


def faults(registry):
    """What verify names, but that these releases were made up."""
    return [each for each in verify(registry.workspace).faults if each.kind != "unpromoted-release"]


def test_erasure_takes_it_with_its_request_and_by_its_words(gateway, registry, request_log):
    answered(gateway, "r1", messages=[{"role": "user", "content": "Where does Zuzana Okafor live?"}])
    for number in (2, 3, 4):
        answered(gateway, f"r{number}")
    rate(gateway, request_id="r1", score=0, comment="wrong")
    rate(gateway, request_id="r2", score=0, comment="ask Zuzana  OKAFOR herself")
    rate(gateway, request_id="r3", score=0, answer="Zuzana Okafor")
    rate(gateway, request_id="r4", score=0, comment="fine")
    request_log.close()
    about = {"subjects": ["Zuzana Okafor"], "reason": "asked for", "actor": "operator"}
    planned = erase(registry, **about, dry_run=True)
    assert (len(planned.feedback), len(kept(registry))) == (3, 4)
    done = erase(registry, **about)
    assert set(kept(registry)) == {"r4"}
    assert not any("feedback" in each for each in done.left_over)
    leaf = next(registry.ledger.leaves(ERASURE)).statement
    assert registry.store.manifest(ERASURE, leaf.payload)["facts"]["num_feedback"] == 3
    assert rate(gateway, request_id="r1", score=1).status_code == 404
    assert faults(registry) == []
    with pytest.raises(NothingToErase):
        erase(registry, **about)


def test_erasure_of_words_that_stand_in_feedback_alone(gateway, registry, request_log):
    answered(gateway, "r1")
    rate(gateway, request_id="r1", score=0, comment="ask Zuzana Okafor")
    request_log.close()
    done = erase(registry, subjects=["Zuzana Okafor"], reason="asked for", actor="operator")
    assert (list(done.files), len(done.feedback), kept(registry)) == ([], 1, {})
    held = [path.name for path in registry.workspace.root.glob("signalbox.db*") if b"Zuzana" in path.read_bytes()]
    assert (held, done.left_over) == ([], [])
    assert faults(registry) == []


def test_a_journal_that_another_process_reads_is_named(gateway, registry, request_log, monkeypatch):
    monkeypatch.setattr(erasing, "MAX_JOURNAL_WAIT_MS", 10)
    answered(gateway, "r1")
    rate(gateway, request_id="r1", score=0, comment="ask Zuzana Okafor")
    request_log.close()
    with snapshot(registry.database) as reader:
        reader.execute(select(feedback)).all()
        done = erase(registry, subjects=["Zuzana Okafor"], reason="asked for", actor="operator")
    assert [each for each in done.left_over if "signalbox.db-wal" in each]


def test_corrections_are_preferences_that_curate_reads(gateway, registry, request_log, tmp_path):
    turns = [{"role": "user", "content": "What is the fee?"}, {"role": "assistant", "content": "Which?"}, *QUESTION]
    given = [answered(gateway, f"r{number}", messages=turns) for number in range(3)]
    said = given[0]["choices"][0]["message"]["content"]
    for number, right in enumerate(("12 crowns", said.upper(), "")):
        rate(gateway, request_id=f"r{number}", score=number / 2, answer=right)
    request_log.close()
    out = tmp_path / "rows.jsonl"
    ended = CliRunner().invoke(app, ["feedback", "--out", str(out), "--json", "-w", str(registry.workspace.root)])
    assert ended.exit_code == 0, ended.output
    assert list(json.loads(ended.stdout).values()) == [{"num": 3, "mean": 0.5}]
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row == {"prompt": turns, "chosen": "12 crowns", "rejected": said, "request_id": "r0"}
    (read,) = parse(row)
    assert (read["question"], read["answer"], read["rejected"]) == ("What is the fee?", "12 crowns", said)


def test_a_correction_of_a_request_that_is_no_longer_read_is_skipped(gateway, registry, request_log, tmp_path):
    answered(gateway, "r0")
    rate(gateway, request_id="r0", score=0, answer="12 crowns")
    request_log.close()
    folder = registry.workspace.requests_dir
    (row,) = read_log(folder).to_pylist()
    sent = json.loads(row["request_json"]) | {"messages": "?"}
    write_part(folder / "z.parquet", [row | {"request_json": json.dumps(sent)}])
    out = tmp_path / "rows.jsonl"
    ended = CliRunner().invoke(app, ["feedback", "--out", str(out), "-w", str(registry.workspace.root)])
    assert (ended.exit_code, "1 skipped" in ended.output) == (0, True), ended.output


def test_the_official_client_rates(gateway):
    server = uvicorn.Server(uvicorn.Config(create_app(gateway), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0) as client:
            answer = client.chat.completions.create(model="signalbox", messages=QUESTION)
            said = {"request_id": answer.id, "rating": "up", "answer": "2000 euros"}
            assert client.post("/feedback", body=said, cast_to=object)["score"] == 1.0
            with pytest.raises(openai.NotFoundError, match="of yours"):
                client.post("/feedback", body={**said, "request_id": "chatcmpl-guess"}, cast_to=object)
            with pytest.raises(openai.BadRequestError, match="score from 0 to 1"):
                client.post("/feedback", body={"request_id": answer.id}, cast_to=object)
    finally:
        server.should_exit = True
        thread.join()
