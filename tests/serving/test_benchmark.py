"""The users of the serving benchmark, against an application in this process; its table; its refusals."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from benchmarks._serving_load import CHAT, Reply, Users, summary
from benchmarks._serving_soak import Disturbance
from benchmarks.serving import app, table

BODY = {"model": "small", "messages": [{"role": "user", "content": "?"}], "max_tokens": 3}
EVENTS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    *({"choices": [{"delta": {"content": word}}]} for word in ("a", "b", "c")),
    {"choices": [], "usage": {"completion_tokens": 3}},
]


class Endpoint:
    """Answers as the gateway does; every ``fails``-th request ends in a status that clients retry."""

    def __init__(self, fails: int = 0, status: int = 503) -> None:
        self.fails, self.status, self.num_asked = fails, status, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == CHAT
        self.num_asked += 1
        if self.fails and self.num_asked % self.fails == 0:
            return httpx.Response(self.status)
        if json.loads(request.content).get("stream"):
            return httpx.Response(
                200, text="".join(f"data: {json.dumps(each)}\n\n" for each in EVENTS) + "data: [DONE]"
            )
        said = {"id": "chatcmpl-7", "usage": {"completion_tokens": 3}, "signalbox": {"cost_usd": 0.002}}
        return httpx.Response(200, json=said)


def users(endpoint, body=BODY, **more):
    return Users("http://box", [body], transport=httpx.MockTransport(endpoint), **more)


def test_a_closed_loop_counts_answers_tokens_and_dollars():
    replies = users(Endpoint()).closed(in_flight=4, seconds=0.05)
    figures = summary(replies)
    assert figures["num_answers"] == len(replies) >= 4
    assert figures["tokens_per_s"] == pytest.approx(3 * figures["requests_per_s"])
    assert figures["usd_per_1k_answers"] == pytest.approx(2.0)
    assert figures["errors"] == {}
    assert {reply.request_id for reply in replies} == {"7"}


def test_a_stream_has_a_first_token_and_gaps():
    streamed = BODY | {"stream": True}
    (reply, *_) = users(Endpoint(), streamed).closed(in_flight=1, seconds=0.01)
    assert (len(reply.pieces_s), reply.num_tokens, reply.ok) == (3, 3, True)


@pytest.mark.parametrize(
    ("status", "retries", "num_failed"), [(503, False, 1), (400, False, 1), (400, True, 1), (503, True, 0)]
)
def test_an_open_loop_retries_what_can_be_retried_and_counts_the_rest(monkeypatch, status, retries, num_failed):
    monkeypatch.setattr("benchmarks._serving_load.PAUSE_S", 0.0)
    endpoint = Endpoint(fails=2, status=status)
    replies = users(endpoint, retries=retries).open(rate_per_s=100, seconds=0.001, seed=0)
    replies += users(endpoint, retries=retries).open(rate_per_s=100, seconds=0.001, seed=0)
    assert [reply.ok for reply in replies].count(False) == num_failed
    assert len(replies) == 2


def test_latency_counts_from_the_time_at_which_a_request_was_due():
    figures = summary([Reply(due_s=10.0, ended_s=10.5, status=200), Reply(due_s=10.0, ended_s=11.5, status=200)])
    assert (figures["latency_p50_ms"], figures["requests_per_s"]) == (1000.0, pytest.approx(2 / 1.5))
    assert summary([Reply(due_s=0.0, status=503)]) == {"num_answers": 0, "errors": {"503": 1}}


def test_growth_compares_the_last_third_with_the_second():
    seen = Disturbance()
    seen.resident_bytes = [1, 2, 3, 100, 100, 100, 120, 130, 110]
    assert seen.growth() == pytest.approx(1.2)


@pytest.mark.parametrize("given", [["--passages", "p.jsonl"], ["--in-flight", "1,x"], ["--in-flight", "0"]])
def test_half_a_set_and_no_users_are_refused(given):
    assert CliRunner().invoke(app, given).exit_code == 2


def test_the_table_has_a_line_for_each_load():
    found = {"requests_per_s": 2.0, "tokens_per_s": 6.0, **{f"latency_p{each}_ms": 5.0 for each in (50, 95, 99)}}
    results = {"closed": {"8": found}, "streamed": {}, "routed": {}, "open": {"80%": found}}
    shown = table({"results": results, "ratios": {"gateway_p50_vs_noop": 1.25}})
    assert "| 8 at once | 2.0 | 6.0 | 5.0 | 5.0 | 5.0 |  |  |" in shown
    assert "open, 80% of the peak" in shown
    assert "gateway_p50_vs_noop: 1.25" in shown
