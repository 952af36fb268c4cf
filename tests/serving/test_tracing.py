"""Traces and metrics: what a span says, what it keeps to itself, and that nobody waits for it."""

import asyncio
import sys
import threading
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from app.registry.tracking import tracking_uri
from app.serving.counters import ANONYMOUS
from app.serving.http import create_app
from app.serving.rules import change_rule
from app.serving.tracing import MAX_WAITING, OpenTelemetry, Step, Trace, Tracer, TracingUnavailable, tracer_of
from tests.serving.asked import ask
from tests.serving.conftest import make_release


@pytest.fixture(autouse=True)
def _serving(releases):
    releases["assistant@production"] = make_release()


@pytest.fixture
def spans(gateway):
    """Spans by name, of what was asked until they are read."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer([OpenTelemetry(provider)])
    gateway.trace_with(tracer)

    def read():
        tracer.close()
        return {span.name: span for span in exporter.get_finished_spans()}

    return read


def test_a_trace_has_a_span_for_the_completion_and_for_each_step(gateway, spans):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ask(gateway, {"traceparent": parent}, model="signalbox", temperature=0.5)
    found = spans()
    root, search, call = (found[name] for name in ("chat signalbox", "retrieval sha256:index", "chat small"))
    assert f"{root.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert {each.parent.span_id for each in (search, call)} == {root.context.span_id}
    assert root.attributes["gen_ai.response.model"] == "small@3"
    assert (root.attributes["gen_ai.usage.input_tokens"], root.attributes["gen_ai.usage.output_tokens"]) == (10, 4)
    assert (root.attributes["signalbox.route"], call.attributes["gen_ai.request.temperature"]) == ("small", 0.5)
    assert all(each.start_time <= each.end_time for each in (root, search, call))
    assert not any("euros" in str(value) for each in found.values() for value in each.attributes.values())


def test_text_is_recorded_only_when_the_environment_says_so(gateway, spans, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    ask(gateway, stream=True)
    root = spans()["chat small"]
    assert root.attributes["gen_ai.output.messages"] == "2000 euros"


def test_an_error_is_one_in_the_trace_too(gateway, spans):
    ask(gateway, model="gpt-4")
    root = spans()["chat gpt-4"]
    assert (root.status.is_ok, root.attributes["error.type"]) == (False, "model_not_found")


def test_a_tracer_that_is_slow_or_broken_loses_traces_and_holds_up_nobody():
    go_on, written = threading.Event(), []

    class Slow:
        def write(self, trace):
            go_on.wait()
            written.append(trace)
            raise RuntimeError("the collector is gone")

    tracer = Tracer([Slow()])
    for _ in range(MAX_WAITING + 2):
        tracer.record(Trace(Step("chat", "chat", 0)))
    lost = tracer.num_lost
    assert lost >= 1
    go_on.set()
    tracer.close()
    assert (len(written), tracer.num_lost) == (MAX_WAITING + 2 - lost, MAX_WAITING + 2)


def test_tracing_is_off_unless_asked_for_and_says_what_is_missing(workspace):
    assert not tracer_of((), workspace).on
    with pytest.raises(TracingUnavailable, match="pip install opentelemetry-exporter-otlp-proto-http"):
        tracer_of(("otel",), workspace)


def test_mlflow_gets_question_answer_and_steps(gateway, workspace, monkeypatch):
    """MLflow itself takes 8 s to make its tables: what is called of it is noted instead."""
    noted = []

    class Span:
        def end(self, **ended):
            noted.append(ended)

    def start(name, span_type="", parent_span=None, **more):
        noted.append((name, span_type, parent_span is not None, more.get("inputs")))
        return Span()

    fake = SimpleNamespace(
        set_tracking_uri=noted.append,
        get_experiment_by_name=lambda name: None,
        create_experiment=lambda name, files: noted.append((name, files)) or "7",
        start_span_no_context=start,
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tracer = tracer_of(["mlflow", "mlflow"], workspace)
    gateway.trace_with(tracer)
    ask(gateway, model="extractive")
    tracer.close()
    assert noted[:2] == [tracking_uri(workspace), ("signalbox-serving", (workspace.root / "mlflow").as_uri())]
    assert noted[2] == ("chat extractive", "CHAIN", False, {"question": "What is the fee?"})
    assert [each[:3] for each in noted[3:7:2]] == [
        ("retrieval sha256:index", "RETRIEVER", True),
        ("read extractive", "PARSER", True),
    ]
    assert (noted[-1]["outputs"], noted[-1]["status"]) == ({"answer": "The fee is 2,000 euros a year."}, "OK")


def test_prometheus_sees_latency_tokens_cost_cache_and_refusals(gateway, registry):
    for _ in range(2):
        ask(gateway, cache="exact")
    ask(gateway, stream=True)
    change_rule(registry, ANONYMOUS, {"requests_per_minute": 0})
    ask(gateway)
    with TestClient(create_app(gateway)) as http:
        text = http.get("/metrics").text
        models = http.get("/v1/models/small").json(), http.get("/v1/models/gpt-4").json()["error"]["code"]
    assert (models[0]["id"], models[1]) == ("small", "model_not_found")
    for line in (
        'signalbox_gateway_total{event="route_small"} 3.0',
        'signalbox_request_seconds_count{route="small"} 3.0',
        'signalbox_first_token_seconds_count{route="small"} 1.0',
        'signalbox_tokens_sum{kind="prompt",route="small"} 20.0',
        'signalbox_cost_usd_total{route="small"} 0.0028',
        'signalbox_cache_total{state="hit"} 1.0',
        'signalbox_refused_total{code="request_exceeds_limit"} 1.0',
        'signalbox_request_log_total{event="log_dropped"} 0',
    ):
        assert line in text
    assert asyncio.run(gateway.health())[0] == 200
