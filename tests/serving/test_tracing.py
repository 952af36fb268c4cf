"""Traces and metrics: what a span says, what it keeps to itself, and that nobody waits for it."""

import asyncio
import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from starlette.testclient import TestClient

from app.registry.tracking import tracking_uri
from app.serving.counters import ANONYMOUS
from app.serving.http import create_app
from app.serving.rules import change_rule
from app.serving.tracing import MAX_WAITING, OpenTelemetry, Step, Trace, Tracer, tracer_of
from tests.serving.asked import QUESTION, TEXT, ask
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
    assert json.loads(root.attributes["gen_ai.output.messages"])[0]["parts"][0]["content"] == "2000 euros"


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

        def flush(self):
            pass

    tracer = Tracer([Slow()])
    for _ in range(MAX_WAITING + 2):
        tracer.record(Trace(Step("chat", "chat", 0)))
    lost = tracer.num_lost
    assert lost >= 1
    go_on.set()
    tracer.close()
    assert (len(written), tracer.num_lost) == (MAX_WAITING + 2 - lost, MAX_WAITING + 2)


def test_tracing_is_off_unless_asked_for(workspace):
    assert not tracer_of((), workspace).on


@pytest.fixture
def collector():
    """A collector of OTLP over HTTP on this machine: its address, and what was exported to it."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            plain = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            received.append((self.path, ExportTraceServiceRequest.FromString(plain)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def test_spans_reach_a_collector_as_the_standard_variables_say(gateway, workspace, collector, monkeypatch):
    address, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    tracer = tracer_of(("otel",), workspace)
    gateway.trace_with(tracer)
    ask(gateway, messages=[{"role": "system", "content": "Be brief."}, *QUESTION], temperature=0.5, seed=3, stop=["x"])
    ask(gateway, path=TEXT, n=2)
    tracer.close()
    assert {path for path, _ in received} == {"/v1/traces"}
    groups = [group for _, request in received for group in request.resource_spans]
    named = {each.key: each.value.string_value for group in groups for each in group.resource.attributes}
    assert (named["service.name"], named["deployment.environment.name"]) == ("signalbox", "test")
    spans = [span for group in groups for scope in group.scope_spans for span in scope.spans]
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    told = {each.key for span in spans for each in span.attributes}
    assert {name for name in told if name.startswith("gen_ai.")} <= known - {gen_ai_attributes.GEN_AI_SYSTEM}
    assert sorted({span.name for span in spans}) == [
        "chat small", "retrieval sha256:index", "text_completion small"
    ]  # fmt: skip
    roots = [span for span in spans if not span.parent_span_id]
    assert [_value(span, "gen_ai.operation.name").string_value for span in roots] == ["chat", "text_completion"]
    assert all(_value(span, "gen_ai.provider.name").string_value == "signalbox" for span in spans)
    assert _value(roots[1], "gen_ai.request.choice.count").int_value == 2
    asked, said = (json.loads(_value(roots[0], f"gen_ai.{way}.messages").string_value) for way in ("input", "output"))
    assert asked[0] == {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]}
    assert said == [
        {"role": "assistant", "parts": [{"type": "text", "content": "2000 euros"}], "finish_reason": "stop"}
    ]
    call = next(span for span in spans if span.name == "chat small" and span.parent_span_id)
    assert (_value(call, "gen_ai.request.seed").int_value, call.parent_span_id) == (3, roots[0].span_id)
    assert [each.string_value for each in _value(call, "gen_ai.request.stop_sequences").array_value.values] == ["x"]


def _value(span, name):
    return next(each.value for each in span.attributes if each.key == name)


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
