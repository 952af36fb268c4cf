"""Traces of completions: OpenTelemetry spans with the ``gen_ai.*`` attributes, and MLflow traces; both off by default.

A trace is a span for the completion and one for each search, each model's call and each reading of passages within it;
it is made when the answer is done, in a thread of its own, from the times that were noted. Spans hold no text unless
$OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is true; MLflow's hold question and answer. Guarantees: nothing is
recorded where no tracing is set up; a tracer that cannot keep up loses traces, which are counted, and holds up nobody.
Source: OpenTelemetry's semantic conventions for generative AI (in development); W3C Trace Context (``traceparent``).
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.core.workspace import Workspace
from app.inference.chat import Message as Turn
from app.inference.chat_format import Prompt
from app.inference.passages import Grounded
from app.inference.sampling import Generation, Sampling
from app.retrieval.filters import Scope
from app.serving.cascade import Backends, Extract, Retrieval
from app.serving.requests import Completion
from app.serving.schema import Passage
from app.serving.wrapped import Wrapped

logger = logging.getLogger(__name__)
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
MAX_WAITING = 1000
EXPERIMENT = "signalbox-serving"
PROVIDER = "signalbox"


@dataclass
class Step:
    """One span: its name, kind (``chat``, ``retrieval``, ``read``), times in nanoseconds and attributes."""

    name: str
    kind: str
    start_ns: int
    end_ns: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Trace:
    """A completion as it is traced; ``parent`` is the request's ``traceparent``."""

    root: Step
    steps: list[Step] = field(default_factory=list)
    parent: str = ""
    turns: Sequence[Turn] = ()
    """The conversation, whose last user turn is ``question``."""

    question: str = ""
    answer: str = ""
    error: str = ""


class Sink(Protocol):
    """Where traces go; ``flush`` is called when no more come."""

    def write(self, trace: Trace) -> None: ...
    def flush(self) -> None: ...


class Tracer:
    """Hands traces to their sinks in a thread of its own."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._waiting: queue.Queue[Trace | None] = queue.Queue(MAX_WAITING)
        self.num_lost = 0
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        if sinks:
            self._thread.start()

    @property
    def on(self) -> bool:
        """Whether anybody wants traces."""
        return bool(self._sinks)

    def record(self, trace: Trace) -> None:
        """Take a trace; one that finds the queue full is lost and counted."""
        trace.root.end_ns = time.time_ns()
        try:
            self._waiting.put_nowait(trace)
        except queue.Full:
            self.num_lost += 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is left and end the thread."""
        if self._thread.is_alive():
            self._waiting.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)
            for sink in self._sinks:
                sink.flush()

    def _run(self) -> None:
        while (trace := self._waiting.get()) is not None:
            for sink in self._sinks:
                try:
                    sink.write(trace)
                except Exception as error:  # a sink's fault is no request's
                    self.num_lost += 1
                    logger.warning("a trace was lost: %s", error)


class Traced(Wrapped):
    """Backends that note when each call began and ended."""

    def __init__(self, inner: Backends, trace: Trace) -> None:
        super().__init__(inner)
        self._trace = trace

    async def retrieve(self, index: str, question: str, top_k: int, scope: Scope) -> Retrieval:
        step = self._begin("retrieval", index, {"gen_ai.data_source.id": index})
        found = await super().retrieve(index, question, top_k, scope)
        self._end(step, {"signalbox.num_passages": len(found.passages)})
        return found

    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        step = self._begin("chat", rung, {"gen_ai.request.model": model, **_asked(sampling)})
        given = await super().generate(rung, model, prompt, sampling)
        about = {"signalbox.num_passages": given.num_passages} if isinstance(prompt, Grounded) else {}
        self._end(step, {"gen_ai.response.finish_reasons": [given.finish_reason], **_usage(given), **about})
        return given

    async def read(self, question: str, passages: Sequence[Passage]) -> Extract:
        step = self._begin("read", "extractive", {})
        extract = await super().read(question, passages)
        self._end(step, {"signalbox.confidence": extract.confidence})
        return extract

    def _begin(self, kind: str, name: str, attributes: Mapping[str, Any]) -> Step:
        about = {"gen_ai.operation.name": kind, "gen_ai.provider.name": PROVIDER}
        step = Step(f"{kind} {name}", kind, time.time_ns(), 0, {**about, **attributes})
        self._trace.steps.append(step)
        return step

    def _end(self, step: Step, attributes: Mapping[str, Any]) -> None:
        step.end_ns = time.time_ns()
        step.attributes.update(attributes)


class OpenTelemetry:
    """Spans for an OpenTelemetry provider."""

    def __init__(self, provider: Any = None) -> None:
        """``provider``: by default one that exports by OTLP over HTTP, as the environment's standard variables say."""
        self._provider = provider or _otlp_provider()
        self._tracer = self._provider.get_tracer("signalbox")

    def write(self, trace: Trace) -> None:
        """End a span for the completion and for each of its steps."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": trace.parent}) if trace.parent else None
        captured = _messages(trace) if os.environ.get(CAPTURE, "").lower() == "true" else {}
        root = self._start(trace.root, parent, SpanKind.SERVER, captured)
        if trace.error:
            root.set_status(StatusCode.ERROR, trace.error)
        inside = set_span_in_context(root)
        for step in trace.steps:
            self._start(step, inside, SpanKind.CLIENT, {}).end(step.end_ns or trace.root.end_ns)
        root.end(trace.root.end_ns)

    def flush(self) -> None:
        """Export what is left."""
        self._provider.force_flush()

    def _start(self, step: Step, context: Any, kind: Any, more: Mapping[str, Any]) -> Any:
        attributes = {**step.attributes, **more}
        return self._tracer.start_span(
            step.name, context=context, kind=kind, start_time=step.start_ns, attributes=attributes
        )


class MLflow:
    """Traces in the workspace's MLflow, experiment ``signalbox-serving``."""

    def __init__(self, workspace: Workspace) -> None:
        from app.registry.tracking import tracking_uri

        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        mlflow.set_tracking_uri(tracking_uri(workspace))
        found, files = mlflow.get_experiment_by_name(EXPERIMENT), (workspace.root / "mlflow").as_uri()
        self._experiment = found.experiment_id if found else mlflow.create_experiment(EXPERIMENT, files)

    def write(self, trace: Trace) -> None:
        """Write a trace with its steps."""
        import mlflow

        kinds = {"chat": "CHAT_MODEL", "retrieval": "RETRIEVER", "read": "PARSER"}
        start = mlflow.start_span_no_context
        root = start(
            trace.root.name,
            span_type="CHAIN",
            inputs={"question": trace.question},
            attributes=trace.root.attributes,
            experiment_id=self._experiment,
            start_time_ns=trace.root.start_ns,
        )
        for step in trace.steps:
            kind, began = kinds.get(step.kind, "UNKNOWN"), step.start_ns
            span = start(step.name, kind, root, attributes=step.attributes, start_time_ns=began)
            span.end(end_time_ns=step.end_ns or trace.root.end_ns)
        outputs = {"error": trace.error} if trace.error else {"answer": trace.answer}
        root.end(outputs=outputs, status="ERROR" if trace.error else "OK", end_time_ns=trace.root.end_ns)

    def flush(self) -> None:
        """MLflow keeps nothing back."""


def root_of(request: Completion) -> Step:
    """The span of a completion, which begins now."""
    operation = "chat" if request.kind() == "chat" else "text_completion"
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": request.model,
        "gen_ai.request.stream": bool(request.stream),
    }
    attributes |= {"gen_ai.request.choice.count": request.n} if (request.n or 1) > 1 else {}
    return Step(f"{operation} {request.model}", operation, time.time_ns(), 0, attributes)


def tracer_of(names: Sequence[str], workspace: Workspace) -> Tracer:
    """The tracer that the settings ask for."""
    made: dict[str, Callable[[], Sink]] = {"otel": OpenTelemetry, "mlflow": lambda: MLflow(workspace)}
    return Tracer([made[name]() for name in dict.fromkeys(names)])


def _otlp_provider() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource.create({"service.name": PROVIDER}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _messages(trace: Trace) -> dict[str, str]:
    """Question and answer as the conventions spell messages."""
    (finish, *_) = trace.root.attributes.get("gen_ai.response.finish_reasons") or ["error"]
    answer = {"role": "assistant", "parts": [_text(trace.answer)], "finish_reason": finish}
    asked = [{"role": each["role"], "parts": [_text(each["content"])]} for each in trace.turns]
    spelled = {"gen_ai.input.messages": asked, "gen_ai.output.messages": [answer] if trace.answer else []}
    return {name: json.dumps(said, ensure_ascii=False) for name, said in spelled.items() if said}


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}


def _asked(sampling: Sampling) -> dict[str, Any]:
    given = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop_sequences": list(sampling.stop) or None,
    }
    return {f"gen_ai.request.{name}": value for name, value in given.items() if value is not None}


def _usage(given: Generation) -> dict[str, Any]:
    return {
        "gen_ai.usage.input_tokens": given.num_prompt_tokens,
        "gen_ai.usage.output_tokens": given.num_completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": given.num_cached_tokens,
    }
