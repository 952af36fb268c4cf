"""Files and batches on disk: what an owner sees, what a killed job leaves, how a batch ends."""

import json

import pytest

from app.serving.batches import Batches, NoBatch, answered, read_lines
from app.serving.errors import ApiError

CHAT = "/v1/chat/completions"


def line(number, **changes):
    body = {"messages": [{"role": "user", "content": f"question {number}"}]}
    return {"custom_id": f"q{number}", "method": "POST", "url": CHAT, "body": body} | changes


def jsonl(rows):
    return "\n".join(map(json.dumps, rows)).encode()


@pytest.fixture
def batches(workspace):
    return Batches(workspace, "sha256:jane")


def begin(batches, rows, **changes):
    kept = batches.add_file("asked.jsonl", jsonl(rows))
    given = {"file_id": kept["id"], "endpoint": CHAT, "window": "24h", "metadata": {"team": "law"}}
    return batches.begin(**given | changes)["id"]


def answer(lines, status=200):
    return [answered(each, status=status, request_id=f"r{each.number}", body={"n": each.number}) for each in lines]


def test_a_batch_goes_from_validating_to_its_answers(batches):
    batch = begin(batches, [line(1), line(2), line(3)])
    assert (batches.batch(batch)["status"], batches.waiting()) == ("validating", [batch])
    first, second, third = batches.unanswered(batch)
    batches.write_part(batch, answer([first, second]))
    found = batches.batch(batch)
    assert (found["status"], found["request_counts"]) == ("in_progress", {"total": 3, "completed": 2, "failed": 0})
    assert batches.unanswered(batch) == [third]
    batches.write_part(batch, answer([third], status=400))
    ended = batches.finish(batch)
    assert (ended["status"], ended["request_counts"]["failed"], ended["metadata"]) == ("completed", 1, {"team": "law"})
    good = [json.loads(row) for row in batches.content(ended["output_file_id"]).splitlines()]
    assert [(row["custom_id"], row["response"]["body"]["n"], row["error"]) for row in good] == [
        ("q1", 1, None),
        ("q2", 2, None),
    ]
    (bad,) = [json.loads(row) for row in batches.content(ended["error_file_id"]).splitlines()]
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("q3", 400)
    assert batches.waiting() == []


def test_a_batch_that_is_given_up_keeps_its_answers_and_says_what_was_not_met(batches):
    batch = begin(batches, [line(1), line(2)])
    batches.write_part(batch, answer(batches.unanswered(batch)[:1]))
    assert batches.cancel(batch)["status"] == "cancelling"
    ended = batches.finish(batch)
    assert ended["status"] == "cancelled"
    (unmet,) = [json.loads(row) for row in batches.content(ended["error_file_id"]).splitlines()]
    assert (unmet["custom_id"], unmet["error"]["code"]) == ("q2", "batch_cancelled")
    assert batches.cancel(batch)["status"] == "cancelled"


def test_a_window_that_is_over_ends_a_batch(batches, monkeypatch):
    batch = begin(batches, [line(1)])
    assert batches.given_up(batch) == ""
    monkeypatch.setattr("app.serving.batches._now_s", lambda: batches.batch(batch)["expires_at"] + 1)
    assert batches.given_up(batch) == "expired"
    assert batches.finish(batch)["status"] == "expired"


def test_nobody_sees_anothers(batches, workspace):
    batch = begin(batches, [line(1)])
    file_id = batches.batch(batch)["input_file_id"]
    for other in (Batches(workspace), Batches(workspace, "sha256:joe")):
        assert (other.files(), other.batches()) == ([], [])
        for ask, name in ((other.file, file_id), (other.content, file_id), (other.batch, batch), (other.cancel, batch)):
            with pytest.raises(ApiError, match="of yours"):
                ask(name)
    assert Batches(workspace).owner_of(batch).batch(batch)["id"] == batch


@pytest.mark.parametrize("name", ["../x", "file-..", "", "file-0", "batch_1/../.."])
def test_a_name_is_no_path(batches, name):
    with pytest.raises(ApiError):
        batches.file(name)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (b"no json", "not JSON"),
        (b"[1]", "custom_id"),
        (jsonl([line(1, body="x")]), "custom_id"),
        (jsonl([line(1, url="/v1/embeddings")]), "must be POST"),
        (jsonl([line(1, method="GET")]), "must be POST"),
        (jsonl([line(1), line(1)]), "was there before"),
        (b"\n \n", "no requests"),
        (b"\xff\xfe", "not JSON"),
        (jsonl([line(1, custom_id="half \ud800")]), "half a character"),
    ],
)
def test_a_faulty_file_fails_the_batch_and_says_where(batches, rows, says):
    kept = batches.add_file("asked.jsonl", rows)
    batch = batches.begin(file_id=kept["id"], endpoint=CHAT, window="24h", metadata={})
    assert batch["status"] == "failed"
    assert says in batch["errors"]["data"][0]["message"]
    assert batches.waiting() == []


def test_too_many_lines_are_refused(monkeypatch):
    monkeypatch.setattr("app.serving.batches.MAX_LINES", 2)
    _, errors = read_lines(jsonl([line(1), line(2), line(3)]), CHAT)
    assert errors[0]["code"] == "too_many_requests"


@pytest.mark.parametrize("changes", [{"endpoint": "/v1/embeddings"}, {"window": "1h"}, {"file_id": "file-none"}])
def test_what_no_batch_can_be_is_refused(batches, changes):
    with pytest.raises(ApiError):
        begin(batches, [line(1)], **changes)


def test_a_removed_file_leaves_the_batch(batches):
    batch = begin(batches, [line(1)])
    file_id = batches.batch(batch)["input_file_id"]
    assert batches.remove_file(file_id)["deleted"]
    with pytest.raises(ApiError, match="of yours"):
        batches.file(file_id)
    batches.write_part(batch, answer(batches.unanswered(batch)))
    assert batches.content(batches.finish(batch)["output_file_id"])


def test_what_unicode_takes_for_ends_of_lines_is_text(batches):
    odd = "one\u2028two\u2029three\u0085four"
    batch = begin(batches, [line(1, body={"messages": [], "user": odd}), line(2)])
    kept = batches.add_file("raw.jsonl", json.dumps(line(1, custom_id=odd), ensure_ascii=False).encode())
    assert batches.begin(file_id=kept["id"], endpoint=CHAT, window="24h", metadata={})["status"] == "validating"
    first, second = batches.unanswered(batch)
    batches.write_part(batch, [answered(first, status=200, request_id="r", body={"text": odd})])
    assert batches.unanswered(batch) == [second]
    ended = batches.finish(batch)
    assert json.loads(batches.content(ended["output_file_id"]).split(b"\n")[0])["response"]["body"] == {"text": odd}


def test_a_job_for_no_batch_is_a_sentence(batches):
    with pytest.raises(NoBatch, match="leave --batch out"):
        batches.owner_of("batch_none")
