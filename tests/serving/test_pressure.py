"""Size, time and place: large bodies, slow engines, clients that leave or never read, more requests than may wait."""

import asyncio

import pytest

from app.serving.exchange import Incoming
from app.serving.http import create_app
from app.serving.log import read_log
from app.serving.requests import ChatRequest
from tests.serving.asked import CHAT, QUESTION, Client, ask, events_of, post, text_of
from tests.serving.conftest import make_release


@pytest.fixture(autouse=True)
def _serving(releases):
    releases["assistant@production"] = make_release()


def rows_of(request_log, workspace):
    request_log.close()
    return read_log(workspace.requests_dir).to_pylist()


def test_a_declared_length_is_refused_before_anything_is_read(make_gateway):
    client = Client({"messages": QUESTION}, parts=3)
    asyncio.run(client.call(create_app(make_gateway(max_body_bytes=1000)), headers=[(b"content-length", b"1001")]))
    assert (client.status, client.num_sent) == (413, 0)


def test_a_body_that_grows_too_large_is_refused_when_it_does(make_gateway):
    client = Client({"messages": [{"role": "user", "content": "fee " * 1000}]}, parts=8)
    asyncio.run(client.call(create_app(make_gateway(max_body_bytes=1000))))
    assert (client.status, client.num_sent) == (413, 2)


def test_the_limit_itself_is_let_through(make_gateway):
    gateway, body = make_gateway(max_body_bytes=1000), b'{"query": "fee"}'
    assert post(gateway, "/v1/search", body + b" " * (1000 - len(body))).status_code == 200
    assert post(gateway, "/v1/search", body + b" " * (1001 - len(body))).json()["error"]["code"] == "request_too_large"


def test_a_body_that_comes_byte_by_byte_is_given_up_and_holds_nothing(make_gateway):
    """What it held of all bodies' sum is free again: the next one fits."""
    app = create_app(make_gateway(body_timeout_s=0.05, max_bodies_bytes=100))
    slow = Client({"messages": QUESTION}, parts=60, pause_s=0.01)
    asyncio.run(slow.call(app))
    assert (slow.status, slow.error["code"]) == (408, "body_timeout")
    assert 0 < slow.num_sent < 60
    whole = Client({"model": "small", "messages": QUESTION})
    asyncio.run(whole.call(app))
    assert whole.status == 200


def test_bodies_under_way_have_a_sum(make_gateway, backends):
    refused, generate = [], backends.generate
    app = create_app(make_gateway(max_bodies_bytes=150))

    async def inside(*asked):
        beside = Client({"model": "small", "messages": QUESTION})
        await beside.call(app)
        refused.append((beside.status, beside.error["code"]))
        return await generate(*asked)

    backends.generate = inside
    first = Client({"model": "small", "messages": QUESTION})
    asyncio.run(first.call(app))
    assert (first.status, refused) == (200, [(503, "overloaded")])


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_never_answers_is_given_up(make_gateway, backends, request_log, workspace, stream):
    async def never(*_):
        await asyncio.Event().wait()

    backends.generate = never
    gateway = make_gateway(request_timeout_s=0.05)
    refused = ask(gateway, stream=stream)
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "timeout")
    assert (backends.open, gateway.num_inside) == (0, 0)
    assert [row["status"] for row in rows_of(request_log, workspace)] == [504]


def test_a_stream_that_takes_too_long_keeps_what_was_said(make_gateway, backends):
    stream = backends.stream

    async def hanging(*asked):
        async for delta in stream(*asked):
            yield delta
            await asyncio.Event().wait()

    backends.stream = hanging
    events = events_of(ask(make_gateway(request_timeout_s=0.2), stream=True))
    assert (text_of(events), events[-1]["error"]["code"]) == ("2000 ", "timeout")


@pytest.mark.parametrize("model", ["small", "signalbox"])
def test_a_client_who_leaves_before_the_answer_frees_the_engine(gateway, backends, request_log, workspace, model):
    ended = []

    async def slow(*_):
        client.left.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    backends.generate = slow
    client = Client({"model": model, "messages": QUESTION})
    asyncio.run(client.call(create_app(gateway)))
    assert (ended, gateway.num_inside, client.status) == ([True], 0, 499)
    assert [row["status"] for row in rows_of(request_log, workspace)] == [499]


@pytest.mark.parametrize("ends", [{"leave_after": 3}, {"read": 3}])
def test_a_client_who_leaves_or_never_reads_ends_its_stream(make_gateway, backends, request_log, workspace, ends):
    backends.texts["small"] = "word " * 5000
    gateway = make_gateway(stream_stall_s=0.05)
    client = Client({"model": "small", "messages": QUESTION, "stream": True}, **ends)
    asyncio.run(client.call(create_app(gateway)))
    assert len(client.messages) < 100
    assert (backends.open, gateway.num_inside) == (0, 0)
    assert [row["status"] for row in rows_of(request_log, workspace)] == [499]


def test_a_stream_that_nobody_ever_reads_is_closed(gateway, backends):
    """Its client went away between the answer's beginning and the response's."""
    backends.texts["small"] = "word " * 5000

    async def run():
        body = {"model": "small", "messages": QUESTION, "stream": True}
        opened = await gateway.stream(Incoming(ChatRequest(**body), "r1", body))
        assert (gateway.num_inside, backends.open) == (1, 1)
        del opened
        for _ in range(10):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert (gateway.num_inside, backends.open) == (0, 0)


def test_one_request_too_many_is_refused_at_once(make_gateway, backends):
    gateway = make_gateway(max_queued_requests=1)

    async def inside(*asked):
        refused.append(await asyncio.to_thread(ask, gateway))
        return await generate(*asked)

    refused, generate = [], backends.generate
    backends.generate = inside
    assert ask(gateway).status_code == 200
    assert (refused[0].status_code, refused[0].json()["error"]["code"]) == (503, "overloaded")
    assert refused[0].headers["retry-after"] == "1"
    assert ask(gateway, path=CHAT, model="extractive").status_code == 200
