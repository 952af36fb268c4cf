"""One completion from its request to its answer: who asks, what may be done, the answer, its account and its log row.

Guarantees: one release from beginning to end; whatever happens, the reservation is settled to what the models took, and
the request is logged, with its receipt. ``prepare`` does everything that may be refused, so that a refusal has a status
of its own; ``run`` answers. Not guaranteed: that a model stops at once when its client is gone; its engine is told.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from app.core.clock import utc_now
from app.core.errors import SignalboxError
from app.inference.sampling import Delta
from app.retrieval.filters import Scope
from app.serving.cached import Looked, Lookup
from app.serving.canary import Canaries, belongs_to
from app.serving.cascade import Answer, Backends
from app.serving.choices import Choices
from app.serving.errors import ApiError, as_api_error, context_exceeded, gone, said_of, timed_out, unknown_model
from app.serving.feedback import asked_by
from app.serving.gate import Gate
from app.serving.limits import Amounts, Caller, Limits, Reservation
from app.serving.live import Live
from app.serving.log import RequestLog
from app.serving.plan import GRANT_TOKENS, Plan, plan_of
from app.serving.release import ROUTED, Release
from app.serving.requests import Completion, tags_of
from app.serving.responses import (
    AnyResponse,
    Completed,
    Head,
    attributes_of,
    columns,
    headers_of,
    receipt_header,
    respond,
)
from app.serving.settings import ServingSettings
from app.serving.spending import Counted, Spending
from app.serving.steering import Steering
from app.serving.structured import Structured
from app.serving.telemetry import Telemetry
from app.serving.tracing import Trace, Traced, Tracer, root_of
from app.serving.wrapped import Passing

logger = logging.getLogger(__name__)
Piece = tuple[int, Delta]
Emit = Callable[[Piece], Awaitable[None]]


@dataclass(frozen=True)
class Incoming:
    """A completion as it came in; ``body`` is what the receipt commits to."""

    request: Completion
    request_id: str
    body: Mapping[str, Any]
    authorization: str | None = None
    tags: str | None = None
    cache: str | None = None
    traceparent: str = ""


@dataclass(frozen=True)
class Parts:
    """What every exchange of a gateway uses."""

    settings: ServingSettings
    backends: Backends
    log: RequestLog
    limits: Limits
    gate: Gate
    lookup: Lookup
    telemetry: Telemetry
    release: Callable[[], Awaitable[Release]]
    canaries: Canaries
    steering: Steering
    tracer: Tracer


class Exchange:
    """The life of one request."""

    def __init__(self, parts: Parts, incoming: Incoming) -> None:
        self._parts, self._incoming = parts, incoming
        self._started_s, self._ended = time.monotonic(), False
        self._record: dict[str, Any] = {
            "request_id": incoming.request_id,
            "time": utc_now(),
            "request_json": incoming.body,
        }
        self._lives: list[Live] = []
        self._spending = Spending()
        self._trace = Trace(root_of(incoming.request), parent=incoming.traceparent)
        self.head = Head.now(incoming.request_id, incoming.request.kind())

    plan: Plan
    _caller: Caller
    _held: Reservation | None = None
    _lookup: Looked = Looked()

    @property
    def is_live(self) -> bool:
        """Whether the answer goes out while it comes."""
        return self.plan.streams and self._lookup.hit is None

    @property
    def model(self) -> str:
        """The version that a live answer comes from."""
        return self.plan.release.models[self.plan.rungs[0]].ref

    @property
    def live_headers(self) -> dict[str, str]:
        """What is known before a live answer is."""
        release = self.plan.release
        named = {"x-signalbox-route": self.plan.rungs[0], "x-signalbox-release": release.digest}
        return {**named, "x-signalbox-index": release.index, **self._limit_headers, **self._lookup.headers}

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Hold one of the gateway's places for the length of the block; ApiError, 503, when there is none."""
        with ExitStack() as stack:
            with self._watched():
                stack.enter_context(self._parts.gate.enter())
            yield

    async def prepare(self) -> None:
        """Do all that may be refused before there is an answer.

        Raises:
            ApiError: the request cannot be met; it is logged.
        """
        with self._watched():
            async with asyncio.timeout(self._parts.settings.request_timeout_s):
                await self._prepare()

    async def run(self, emit: Emit | None = None) -> Completed:
        """The answer.

        Args:
            emit: takes the pieces of a live answer, with the numbers of their choices.

        Raises:
            ApiError: there is none; it is logged.
        """
        settings, asked = self._parts.settings, self.plan.asked
        with self._watched():
            if (hit := self._lookup.hit) is not None:
                again = hit.again(self.head, latency_s=self._latency_s, asker=self._asker)
                return self._end(again, hit.given, Amounts())
            left_s = max(settings.request_timeout_s - self._latency_s, 0)
            async with asyncio.timeout(None if emit else left_s):
                given = await self._choices(emit).answers(
                    self._incoming.request, self._parts.steering, authorization=self._incoming.authorization
                )
                for each in given if asked.format.schema is not None else ():
                    if not each.tool_calls:
                        await asyncio.to_thread(asked.format.refuse, each.text, each.finish_reason)
            cut = next((live.cut.body()["error"] for live in self._lives if live.cut), None)
            about: dict[str, Any] = {"latency_s": self._latency_s, "asker": self._asker, "error": cut}
            response = respond(given, asked, self.plan.release, self.head, **about)
            if cut is None:
                await self._lookup.keep(response, given)
            account = response.signalbox
            spent = Amounts(account.num_prompt_tokens + account.num_completion_tokens, account.cost_usd)
            return self._end(response, given, spent)

    def began(self) -> None:
        """The first piece of a live answer goes out."""
        self._trace.root.attributes["gen_ai.response.time_to_first_chunk"] = self._latency_s
        self._parts.telemetry.began(self.plan.rungs[0], self._latency_s)

    @property
    def _asker(self) -> str:
        return asked_by(self._incoming.request_id, self._caller.subject)

    @property
    def _latency_s(self) -> float:
        return time.monotonic() - self._started_s

    async def _prepare(self) -> None:
        parts, incoming = self._parts, self._incoming
        production = await parts.release()
        asked = incoming.request.asked(parts.settings.max_new_tokens)
        if (num_chars := asked.num_chars) > (most := parts.settings.max_prompt_characters):
            raise context_exceeded(f"the messages have {num_chars:,} characters, at most {most:,} are read")
        self._caller = await parts.limits.caller(incoming.authorization, [*asked.tags, *tags_of(incoming.tags)])
        release = self._assigned(production, asked.model)
        rungs = release.rungs_for(asked.model)
        if rungs is None:
            raise unknown_model(asked.model, release.model_names)
        named = [release.models[rung] for rung in rungs] if asked.model != ROUTED else []
        self._caller.check("answer", asked.model, [*rungs[: len(named)], *(each.ref for each in named)])
        self._held = parts.limits.reservation(self._caller)
        await self._held.enter()
        self.plan = await plan_of(asked, release, rungs, parts.backends)
        mode = incoming.cache or asked.cache or self._caller.cache
        self._lookup = await parts.lookup.of(mode, incoming.body, asked, release, self._caller.labels)
        if self._lookup.hit is None:
            await self._held.extend(self.plan.estimate(live=self.is_live))

    def _assigned(self, production: Release, model: str) -> Release:
        """The release that answers: production, or the canary beside it; from here on there is no other.

        A request that is refused before is neither's, in the log too.
        """
        belongs, subject = functools.partial(belongs_to, self._incoming.request), self._caller.subject
        release = self._parts.canaries.choose(production, subject=subject, belongs=belongs, model=model)
        self._record["release"] = release.digest
        return release

    def _choices(self, emit: Emit | None) -> Choices:
        """What asks for the answers."""
        backends, scope = functools.partial(self._backends, emit), Scope(self._caller.labels)
        return Choices(self.plan, backends, top_k=self.plan.release.top_k(self._parts.settings.top_k), scope=scope)

    def _backends(self, emit: Emit | None, place: int) -> Backends:
        """The backends as the choice of that number sees them."""
        backends: Backends = Counted(self._parts.backends, self._spending, self.plan)
        if self.plan.routed:
            backends = Passing(backends)
        if emit is not None:
            backends = self._live(backends, emit, place)
        elif self.plan.repairs:
            backends = Structured(backends, self.plan.asked.format)
        return Traced(backends, self._trace) if self._parts.tracer.on else backends

    def _live(self, inner: Backends, emit: Emit, place: int) -> Live:
        limit_s, granted = self._parts.settings.request_timeout_s, GRANT_TOKENS

        async def send(delta: Delta) -> None:
            await emit((place, delta))

        async def allow(num_tokens: int) -> None:
            nonlocal granted
            if num_tokens > granted and self._held is not None:
                await self._held.extend(self.plan.priced(GRANT_TOKENS))
                granted += GRANT_TOKENS

        end_s, prompt = asyncio.get_running_loop().time() + limit_s - self._latency_s, self.plan.num_prompt_tokens
        live = Live(
            inner, send, end_s=end_s, limit_s=limit_s, num_prompt_tokens=prompt, allow=allow, choices=self._lives
        )
        self._lives.append(live)
        return live

    @property
    def _limit_headers(self) -> dict[str, str]:
        return self._held.headers if self._held is not None else {}

    def _settle(self, spent: Amounts) -> None:
        if self._held is not None:
            self._held.settle(spent)

    def _end(self, response: AnyResponse, given: Sequence[Answer], spent: Amounts) -> Completed:
        """Settle, count and log an answer."""
        self._ended = True
        self._settle(spent)
        said, asked = response.body(), self.plan.asked
        self._parts.telemetry.answered(response, asked, cache=self._lookup.state)
        row = self._record | columns(asked.question, given, response) | {"response_json": said}
        if response.error is not None:
            row["error"] = response.error["message"]
        sealed = self._parts.log.submit(row)
        self._traced(answer=response.choices[0].text, error=row.get("error") or "", **attributes_of(response))
        headers = headers_of(response.signalbox) | self._limit_headers | self._lookup.headers
        return Completed(response, said, headers | receipt_header(sealed))

    def _traced(self, *, answer: str = "", error: str = "", **attributes: Any) -> None:
        if self._parts.tracer.on:
            trace, plan = self._trace, getattr(self, "plan", None)
            trace.turns = plan.asked.conversation.messages if plan else ()
            trace.question, trace.answer, trace.error = plan.asked.question if plan else "", answer, error
            trace.root.attributes.update(attributes)
            self._parts.tracer.record(trace)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Whatever ends the block is logged, and what was reserved is settled."""
        try:
            yield
        except asyncio.CancelledError:
            self._refuse(gone())
            raise
        except TimeoutError as error:
            raise self._refuse(timed_out(self._parts.settings.request_timeout_s)) from error
        except Exception as error:  # whatever it is, it is logged and passed on
            raise self._refuse(error) from error

    def _refuse(self, error: Exception) -> ApiError:
        """Log a request that was not answered; the error that the client sees comes back with its receipt."""
        refused = as_api_error(error)
        if self._ended:
            return refused
        self._ended = True
        if not isinstance(error, SignalboxError):
            logger.exception("request %s failed", self._incoming.request_id, exc_info=error)
        self._parts.telemetry.refused(refused)
        self._settle(self._spending.amounts)
        self._traced(error=str(refused), **{"error.type": refused.code or refused.kind})
        ended = {"status": refused.status, "error": said_of(error), "latency_s": self._latency_s}
        sealed = self._parts.log.submit({**self._record, **ended, "response_json": refused.body()})
        refused.headers = {**self._limit_headers, **refused.headers, **receipt_header(sealed)}
        return refused
