"""The `openai` engine, with answers in the servers' place: no network."""

import asyncio
import json

import httpx
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from app.cli import app
from app.core.settings import first_fault
from app.inference.models import add_remote, find_model
from app.inference.passages import Excerpt, Grounded
from app.inference.remote import (
    UNSURE,
    OpenAIEngine,
    Remote,
    RemoteKeyMissing,
    RemoteRefused,
    RemoteUnavailable,
    _Pieces,
)
from app.inference.sampling import PromptTooLong, Sampling, TokenLogprob

SERVERS = [
    {"base_url": "http://one/v1", "model": "big", "api_key_env": "ONE_KEY"},
    {"base_url": "http://two/v1", "model": "other"},
]
TOKENS = [
    {"token": "4", "bytes": [52], "logprob": -0.1, "top_logprobs": [{"token": "5", "bytes": None, "logprob": -2.0}]},
    {"token": "2", "bytes": None, "logprob": -9999.0, "top_logprobs": []},
]
USAGE = {
    "prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 4},
}  # fmt: skip
AGAIN = {"retry-after-ms": "1"}
"""The shortest pause before the client's next try; a test that waited as long as it does by itself would be slow."""


def completion(text="42", *, logprobs=True, finish="stop"):
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    choice["logprobs"] = {"content": TOKENS} if logprobs else None
    head = {"id": "1", "object": "chat.completion", "created": 0, "model": "big"}
    return httpx.Response(200, json={**head, "choices": [choice], "usage": USAGE})


def events(*deltas, finish="length"):
    head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "big"}
    chunks = [{**head, "choices": [{"index": 0, "delta": each, "finish_reason": None}]} for each in deltas]
    chunks += [{**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]
    chunks += [{**head, "choices": [], "usage": USAGE}]
    lines = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"
    return httpx.Response(200, text=lines, headers={"content-type": "text/event-stream"})


class Servers(httpx.AsyncBaseTransport):
    """Answers from a list, one after another and the last for ever; by host."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    async def handle_async_request(self, request):
        host = request.url.host
        self.asked.append((host, request.headers["authorization"], json.loads(request.content)))
        answers = self.answers[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "hangs":
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    @property
    def hosts(self):
        return [host for host, _, _ in self.asked]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("ONE_KEY", "secret-1")


def engine_of(servers, **more):
    return OpenAIEngine(Remote.model_validate({"servers": SERVERS, **more}), transport=servers)


def error(status, message="no", **headers):
    return lambda: httpx.Response(status, json={"error": {"message": message}}, headers={**AGAIN, **headers})


def test_an_answer_carries_its_log_probabilities_and_its_usage():
    servers = Servers(one=[completion])
    engine = engine_of(servers, max_retries=0)
    (given,) = engine.generate(["6 x 7?"], Sampling(max_new_tokens=5, num_logprobs=1))
    four = TokenLogprob("4", b"4", -0.1, (TokenLogprob("5", b"5", -2.0),))
    assert given.tokens == (four, TokenLogprob("2", b"2", UNSURE))
    assert (given.text, given.finish_reason, given.num_cached_tokens) == ("42", "stop", 4)
    assert (given.num_prompt_tokens, given.num_completion_tokens) == (9, 2)
    assert (given.mean_logprob, given.min_logprob) == (pytest.approx((-0.1 + UNSURE) / 2), UNSURE)
    asked = {"model": "big", "max_tokens": 5, "temperature": 0.0, "logprobs": True, "top_logprobs": 1}
    ((host, authorization, body),) = servers.asked
    assert (host, authorization) == ("one", "Bearer secret-1")
    assert body == {**asked, "messages": [{"role": "user", "content": "6 x 7?"}]}


def test_everything_that_is_asked_for_is_passed_on_and_what_the_servers_lack_is_not():
    schema = {"type": "object"}
    everything = Sampling(temperature=0.5, top_p=0.9, seed=3, stop=("\n",), num_logprobs=0, schema=schema)
    for lacks, wanted in (((), 5), (("seed", "schema", "num_logprobs"), 3)):
        servers = Servers(one=[completion])
        engine = engine_of(servers, lacks=lacks, limit_name="max_completion_tokens")
        asyncio.run(engine.answer([{"role": "user", "content": "?"}], everything))
        body = servers.asked[0][2]
        assert engine.lacks(everything) == tuple(name for name in everything.asked if name in lacks)
        assert len({"temperature", "top_p", "seed", "stop", "response_format"} & set(body)) == wanted
        assert (body["max_completion_tokens"], "logprobs" in body) == (32, not lacks)
    assert engine.lacks(Sampling()) == ()


def test_an_answer_without_log_probabilities_is_not_trusted():
    (given,) = engine_of(Servers(one=[lambda: completion(logprobs=False, finish="length")])).generate(["?"])
    assert (given.mean_logprob, given.min_logprob, given.tokens) == (UNSURE, UNSURE, ())
    assert given.finish_reason == "length"


@pytest.mark.parametrize("first", [error(429), error(503), httpx.ConnectError("refused")], ids=["429", "503", "down"])
def test_a_server_that_fails_is_asked_again_and_then_the_next_one(first):
    down = isinstance(first, Exception)
    once = Servers(one=[first, completion], two=[completion])
    assert engine_of(once, max_retries=0 if down else 1).generate(["?"])[0].text == "42"
    assert once.hosts == (["one", "two"] if down else ["one", "one"])
    always = Servers(one=[first], two=[completion])
    assert engine_of(always, max_retries=0).generate(["?"])[0].text == "42"
    assert always.hosts == ["one", "two"]
    assert always.asked[1][1:] == ("Bearer -", {**always.asked[0][2], "model": "other"})


NO_ANSWERS = {
    "a page": lambda: httpx.Response(200, html="<html>log in</html>"),
    "half": lambda: httpx.Response(200, content=b'{"id":', headers={"content-type": "application/json"}),
    "an error": lambda: httpx.Response(200, json={"error": {"message": "overloaded"}}),
    "no choice": lambda: httpx.Response(200, json={**completion().json(), "choices": []}),
}


@pytest.mark.parametrize("first", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_a_200_without_an_answer_is_a_servers_failure(first):
    servers = Servers(one=[first], two=[completion])
    engine = engine_of(servers, max_retries=0, break_after=1, cool_s=1000)
    assert [engine.generate(["?"])[0].text for _ in range(2)] == ["42", "42"]
    assert servers.hosts == ["one", "two", "two"]
    with pytest.raises(RemoteUnavailable, match="http://one/v1: "):
        engine_of(Servers(one=[first], two=[first]), max_retries=0).generate(["?"])


def test_clients_end_with_the_loop_that_they_were_made_for():
    closed = []

    class Closes(Servers):
        async def aclose(self):
            closed.append(self)

    servers = Closes(one=[completion], two=[completion])
    engine = engine_of(servers)
    for _ in range(2):
        engine.generate(["?", "??"])
    assert (closed, len(engine._clients)) == ([servers] * 4, 0)


def test_a_server_that_fails_for_long_is_left_alone():
    servers = Servers(one=[error(500)], two=[completion])
    engine = engine_of(servers, max_retries=0, break_after=2, cool_s=1000)
    engine.generate(["a"])
    engine.generate(["b"])
    engine.generate(["c"])
    assert servers.hosts == ["one", "two", "one", "two", "two"]


def test_when_no_server_answers_each_ones_reason_is_named():
    servers = Servers(one=[error(401, "bad key secret")], two=[httpx.ConnectError("refused")])
    with pytest.raises(RemoteUnavailable, match=r"http://one/v1: 401: bad key.*http://two/v1: .*Connection error"):
        engine_of(servers, max_retries=0).generate(["?"])


def test_a_request_that_is_wrong_is_not_sent_elsewhere():
    servers = Servers(one=[error(400, "context length exceeded")], two=[completion])
    with pytest.raises(RemoteRefused, match="http://one/v1 refuses the request: 400: context length exceeded"):
        engine_of(servers).generate(["?"])
    assert servers.hosts == ["one"]


def test_a_prompt_that_the_server_cannot_read_is_too_long_as_it_is_for_an_engine_here():
    body = {"error": {"message": "at most 4096 tokens", "code": "context_length_exceeded"}}
    engine = engine_of(Servers(one=[lambda: httpx.Response(400, json=body)]))
    with pytest.raises(PromptTooLong, match="at most 4096 tokens"):
        engine.generate(["?"])


def test_passages_that_a_server_cannot_read_are_halved_until_it_does():
    prompt = Grounded("fee?", tuple(Excerpt(f"c{number}", "fees.md", "12 euros " * 9) for number in range(8)))
    too_long = {"error": {"message": "too long", "code": "context_length_exceeded"}}

    def refuses():
        return httpx.Response(400, json=too_long, headers=AGAIN)

    async def streamed(engine):
        return [each async for each in engine.stream(prompt, Sampling())]

    for answer, ask in ((completion, None), (events({"content": "4"}, {"content": "2"}), streamed)):
        servers = Servers(one=[refuses, refuses, answer])
        engine = engine_of(servers, max_retries=0)
        given = asyncio.run(ask(engine))[-1].whole if ask else engine.generate([prompt])[0]
        assert (given.text, given.num_passages) == ("42", 2)
        sent = [body["messages"][0]["content"] for _, _, body in servers.asked]
        assert sent == [prompt.shown(number) for number in (8, 4, 2)]
    few = engine_of(Servers(one=[completion]), context_tokens=300).generate([prompt])[0].num_passages
    assert 0 < few < 8
    with pytest.raises(PromptTooLong):
        engine_of(Servers(one=[refuses]), max_retries=0).generate([prompt])


def test_a_slow_call_gets_a_second_one_beside_it():
    servers = Servers(one=["hangs", completion])
    assert engine_of(servers, hedge_after_s=0.001).generate(["?"])[0].text == "42"
    assert servers.hosts == ["one", "one"]


def test_a_stream_comes_piece_by_piece_and_ends_with_the_whole():
    engine = engine_of(
        Servers(one=[lambda: events({"role": "assistant", "content": ""}, {"content": "4"}, {"content": "2"})])
    )

    async def run():
        return [each async for each in engine.stream("?", Sampling())], engine.load

    pieces, load = asyncio.run(run())
    assert [each.text for each in pieces] == ["4", "2", ""]
    assert (pieces[-1].whole.text, pieces[-1].whole.finish_reason) == ("42", "length")
    assert (pieces[-1].whole.num_prompt_tokens, load) == (9, (0, 0, 0, 0))


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("more", [{"index": 1}, {"extra_content": {"x": 1}}])
def test_calls_have_one_form_whatever_a_server_adds(more):
    def said():
        made = completion(None, finish="tool_calls").json()
        made["choices"][0]["message"]["tool_calls"] = [{**CALL, **more}]
        return httpx.Response(200, json=made)

    assert engine_of(Servers(one=[said])).generate(["?"])[0].tool_calls == (CALL,)


def test_pieces_of_calls_without_a_place_go_to_the_call_that_an_id_began():
    parts = [
        {**CALL, "function": {"name": "f", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {**CALL, "id": "b"},
    ]
    engine = engine_of(Servers(one=[lambda: events(*({"tool_calls": [part]} for part in parts), finish="tool_calls")]))

    async def run():
        return [each async for each in engine.stream("?", Sampling())]

    pieces = asyncio.run(run())
    assert [each["index"] for piece in pieces for each in piece.tool_calls] == [0, 0, 1]
    assert pieces[-1].whole.tool_calls == (CALL, {**CALL, "id": "b"})


class Breaks(httpx.AsyncByteStream):
    """A stream that ends after some events, without the rest."""

    def __init__(self, num_events):
        whole = events({"content": "4"}, {"content": "2"}).text
        self.text = "".join(f"{each}\n\n" for each in whole.split("\n\n")[:num_events])

    async def __aiter__(self):
        yield self.text.encode()
        raise httpx.ReadError("connection reset")


def broken(num_events):
    return lambda: httpx.Response(200, stream=Breaks(num_events), headers={"content-type": "text/event-stream"})


async def said(engine):
    return "".join([each.text async for each in engine.stream("?", Sampling())])


def test_a_stream_that_breaks_off_before_its_first_piece_is_begun_at_the_next_server():
    servers = Servers(one=[broken(0)], two=[lambda: events({"content": "42"})])
    assert asyncio.run(said(engine_of(servers, max_retries=0))) == "42"
    assert servers.hosts == ["one", "two"]


def stream_of(text):
    return lambda: httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("first", ["", "<html>log in</html>", 'data: {"id"\n\n'], ids=["nothing", "a page", "half"])
def test_a_stream_without_a_piece_is_begun_at_the_next_server(first):
    servers = Servers(one=[stream_of(first)], two=[lambda: events({"content": "42"})])
    assert asyncio.run(said(engine_of(servers, max_retries=0))) == "42"
    assert servers.hosts == ["one", "two"]


def test_a_stream_without_an_end_is_no_whole_answer():
    unended = events({"content": "The fee is not "}, finish=None).text
    with pytest.raises(RemoteUnavailable, match=r"the stream broke off \(NoAnswer: the stream has no end"):
        asyncio.run(said(engine_of(Servers(one=[stream_of(unended)]), max_retries=0)))


def test_a_stream_whose_beginning_fails_is_closed():
    class Fails:
        closed = 0

        async def __aiter__(self):
            raise httpx.ReadError("connection reset")
            yield

        async def close(self):
            self.closed += 1

    stream = Fails()
    with pytest.raises(httpx.ReadError):
        asyncio.run(_Pieces(stream).begun())
    assert stream.closed == 1


def test_a_stream_that_breaks_off_later_says_so():
    servers = Servers(one=[broken(1)], two=[lambda: events({"content": "42"})])
    with pytest.raises(RemoteUnavailable, match=r"the stream broke off \(ReadError: connection reset"):
        asyncio.run(said(engine_of(servers, max_retries=0)))
    assert servers.hosts == ["one"]


def test_a_slow_stream_gets_a_second_one_beside_it():
    servers = Servers(one=["hangs", lambda: events({"content": "42"})])
    assert asyncio.run(said(engine_of(servers, hedge_after_s=0.001))) == "42"
    assert servers.hosts == ["one", "one"]


def test_a_stream_that_is_closed_or_a_call_that_is_cancelled_is_counted_as_given_up():
    async def run():
        engine = engine_of(Servers(one=[lambda: events({"content": "4"}, {"content": "2"}), "hangs"]))
        stream = engine.stream("?", Sampling())
        await anext(stream)
        assert engine.load == (1, 0, 0, 0)
        await stream.aclose()
        call = asyncio.ensure_future(engine.answer("?", Sampling()))
        while engine.load[0] == 0:
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        return engine.load

    assert asyncio.run(run()) == (0, 0, 2, 0)


def test_a_key_that_is_missing_is_named_and_none_is_kept(registry, monkeypatch):
    remote = Remote.model_validate({"servers": SERVERS, "usd_per_1k_tokens": 0.4})
    model, again = (add_remote("big", remote, registry=registry) for _ in range(2))
    assert (model.ref, again.digest) == ("big@1", model.digest)
    assert model.facts["servers"][0]["api_key_env"] == "ONE_KEY"
    kept = b"".join(path.read_bytes() for path in registry.folder(model).iterdir())
    assert b"ONE_KEY" in kept
    assert b"secret" not in kept
    source = find_model(model, registry=registry)
    assert source.remote == remote
    assert source.load(num_threads=1).max_context_tokens == 8192
    monkeypatch.delenv("ONE_KEY")
    with pytest.raises(RemoteKeyMissing, match=r"http://one/v1 needs a key: set \$ONE_KEY"):
        source.load(num_threads=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"servers": []}, "servers: "),
        ({"servers": [{"base_url": "one", "model": "m"}]}, "base_url"),
        ({"api_key": "secret"}, "unknown setting 'api_key' in Remote"),
        ({"servers": [{**SERVERS[0], "api_key": "x"}]}, "unknown setting 'api_key' in Server"),
    ],
)
def test_a_description_that_is_wrong_is_refused_by_name(changes, message):
    with pytest.raises(ValidationError) as raised:
        Remote.model_validate({"servers": SERVERS, **changes})
    assert message in first_fault(raised.value)


def test_the_command_registers_a_model_and_says_what_is_wrong_with_a_description(workspace, tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text(json.dumps({"servers": SERVERS}))
    command = ["models", "add-remote", "big", str(path), "-w", str(workspace.root)]
    said = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(said.output)["ref"] == "big@1"
    assert "big@1 behind http://one/v1, http://two/v1" in CliRunner().invoke(app, command).output
    path.write_text("servers: 3")
    failed = CliRunner().invoke(app, command)
    assert "servers: " in str(failed.exception)
