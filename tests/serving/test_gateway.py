import asyncio
import time
from dataclasses import replace

import pytest

from app.ledger.log import REQUEST_BATCH
from app.ledger.receipts import HEADER, read_header
from app.serving.errors import ApiError
from app.serving.log import read_log
from app.serving.requests import ChatRequest
from tests.serving.conftest import make_release

OLD, NEW = (make_release("sha256:" + letter * 64) for letter in "ab")


def wait_for(condition):
    end_s = time.monotonic() + 20
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.02)
    assert condition()


def chat(gateway, text="What is the fee?", request_id="r1", **more):
    request = ChatRequest(messages=[{"role": "user", "content": text}], **more)
    return asyncio.run(gateway.chat(request, request_id=request_id))


def test_an_answer_with_its_account(gateway, releases):
    releases["assistant@production"] = OLD
    asyncio.run(gateway.take("assistant@production"))
    done = chat(gateway)
    response = done.response
    assert response.choices[0].message.content == "2000 euros"
    assert response.model == "small@3"
    assert response.usage.total_tokens == 14
    assert response.citations[0].source == "loans.md"
    account = response.signalbox
    assert (account.route, account.release, account.attempts[0].accepted) == ("small", OLD.digest, True)
    assert account.cost_usd < account.cost_large_only_usd
    assert done.headers["x-signalbox-route"] == "small"
    assert done.headers["x-signalbox-release"] == OLD.digest
    assert float(done.headers["x-signalbox-cost-usd"]) == pytest.approx(0.0014)


def test_the_log_holds_the_request_with_everything_the_monitor_needs(gateway, releases, request_log, workspace):
    releases["assistant@production"] = OLD
    asyncio.run(gateway.take("assistant@production"))
    chat(gateway)
    with pytest.raises(ApiError):
        chat(gateway, model="gpt-4", request_id="r2")
    request_log.close()
    rows = {row["request_id"]: row for row in read_log(workspace.requests_dir).to_pylist()}
    good, bad = rows["r1"], rows["r2"]
    assert (good["status"], good["route"], good["release"], good["num_question_words"]) == (200, "small", OLD.digest, 4)
    assert good["small_confidence"] == good["confidence"] > 0.9
    assert good["large_confidence"] is None
    assert len(good["embedding"]) == 384
    assert good["citations"][0]["heading"] == "Loans > Fees"
    assert '"What is the fee?"' in good["request_json"]
    assert '"2000 euros"' in good["response_json"]
    assert (bad["status"], bad["route"], bad["answer"]) == (404, None, None)
    assert "gpt-4" in bad["error"]


def test_without_a_release_it_says_what_to_do_and_looks_again(gateway, releases):
    asyncio.run(gateway.take("assistant@production"))
    with pytest.raises(ApiError, match="promote") as caught:
        chat(gateway)
    assert (caught.value.status, caught.value.code) == (503, "no_release")
    assert asyncio.run(gateway.health())[0] == 503
    releases["assistant@production"] = OLD
    assert chat(gateway).response.signalbox.release == OLD.digest


def test_a_release_that_cannot_be_read_leaves_the_old_one_serving(gateway, releases):
    releases["old"] = OLD
    asyncio.run(gateway.take("old"))
    asyncio.run(gateway.take("nowhere"))
    status, body = asyncio.run(gateway.health())
    assert (status, body["release"]) == (200, OLD.digest)
    assert "nowhere" in body["reason"]
    releases["nowhere"] = NEW
    asyncio.run(gateway.take("nowhere"))
    assert asyncio.run(gateway.health())[1]["reason"] == ""


def test_a_release_that_cannot_be_loaded_leaves_the_old_one_serving(gateway, releases, backends):
    releases.update(old=OLD, broken=replace(NEW, index="sha256:broken"), new=NEW)
    for ref in ("old", "broken"):
        asyncio.run(gateway.take(ref))
    body = asyncio.run(gateway.health())[1]
    assert (body["release"], body["refused"]) == (OLD.digest, "broken")
    assert "cannot be loaded" in body["reason"]
    assert chat(gateway).response.signalbox.release == OLD.digest
    asyncio.run(gateway.take("new"))
    assert asyncio.run(gateway.health())[1]["refused"] == ""
    assert ("preload", NEW.digest) in backends.asked


def test_a_request_under_way_keeps_its_release(gateway, releases, backends):
    releases.update(old=OLD, new=NEW)

    async def swap_while_searching():
        await gateway.take("old")
        request = ChatRequest(messages=[{"role": "user", "content": "What is the fee?"}])
        running = asyncio.ensure_future(gateway.chat(request, request_id="r1"))
        await asyncio.sleep(0)
        await gateway.take("new")
        return (await running).response, (await gateway.chat(request, request_id="r2")).response

    before, after = asyncio.run(swap_while_searching())
    assert before.signalbox.release == OLD.digest
    assert after.signalbox.release == NEW.digest


@pytest.mark.parametrize(
    ("limits", "given"),
    [({}, 32), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 7, "max_tokens": 5}, 7), ({"max_tokens": 999}, 32)],
)
def test_the_limit_of_tokens(gateway, releases, backends, limits, given):
    releases["r"] = OLD
    asyncio.run(gateway.take("r"))
    chat(gateway, **limits)
    assert {asked[2] for asked in backends.asked if asked[0] in ("small", "large")} == {given}


def test_a_question_that_breaks_a_backend_is_logged_too(gateway, releases, backends, request_log, workspace):
    async def broken(*_):
        raise RuntimeError("the index is gone")

    releases["r"] = OLD
    asyncio.run(gateway.take("r"))
    backends.retrieve = broken
    with pytest.raises(ApiError) as caught:
        chat(gateway, request_id="r1")
    assert caught.value.status == 500
    assert isinstance(caught.value.__cause__, RuntimeError)
    request_log.close()
    row = read_log(workspace.requests_dir).to_pylist()[0]
    assert (row["request_id"], row["status"], row["error"]) == ("r1", 500, "RuntimeError: the index is gone")


def test_half_a_surrogate_pair_stops_neither_the_answer_nor_the_log(gateway, releases, request_log, workspace):
    releases["r"] = OLD
    asyncio.run(gateway.take("r"))
    chat(gateway, "What is\ud800 the fee?", request_id="r1", user="\udfff")
    chat(gateway, request_id="r2")
    request_log.close()
    rows = {row["request_id"]: row["question"] for row in read_log(workspace.requests_dir).to_pylist()}
    assert rows == {"r1": "What is? the fee?", "r2": "What is the fee?"}


def test_a_locked_database_delays_no_answer(gateway, releases, registry, request_log):
    """The answers come while this very thread holds the one write transaction that the ledger needs."""
    releases["r"] = OLD
    asyncio.run(gateway.take("r"))
    with registry.database.write():
        done = [chat(gateway, request_id=f"r{number}") for number in range(5)]
        wait_for(lambda: request_log.num_logged == 5)
        assert not list(registry.ledger.leaves(REQUEST_BATCH))
    assert [read_header(each.headers[HEADER])["id"] for each in done] == [f"r{number}" for number in range(5)]
    wait_for(lambda: all(request_log.proof(f"r{number}") for number in range(5)))


def test_an_error_has_a_receipt_too(gateway, releases, request_log):
    releases["r"] = OLD
    asyncio.run(gateway.take("r"))
    with pytest.raises(ApiError) as caught:
        chat(gateway, model="gpt-4", request_id="r2")
    assert read_header(caught.value.headers[HEADER])["id"] == "r2"
    wait_for(lambda: request_log.proof("r2"))


def test_a_request_that_the_full_log_drops_has_no_receipt(gateway, releases, request_log, monkeypatch):
    releases["r"] = OLD
    asyncio.run(gateway.take("r"))
    assert HEADER in chat(gateway).headers
    monkeypatch.setattr(request_log, "_max_queue", 0)
    done = chat(gateway)
    assert done.response.choices[0].message.content
    assert HEADER not in done.headers
    assert request_log.num_dropped == 1
