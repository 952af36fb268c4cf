"""One completion from its request to its answer: who asks, what may be done, the answer, its account and its log row.

Guarantees: one release from beginning to end; whatever happens, the reservation is settled and the request is logged,
with its receipt. ``prepare`` does everything that may be refused, so that a refusal has a status of its own; ``run``
answers. Not guaranteed: that a model stops at once when its client is gone; its engine is told.
"""

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from app.core.clock import utc_now
from app.core.errors import SignalboxError
from app.inference.sampling import Delta
from app.retrieval.filters import Scope
from app.routing.course import Circumstances
from app.serving.cached import Lookup
from app.serving.cascade import PLAIN, Answer, Backends, answer
from app.serving.errors import ApiError, as_api_error, context_exceeded, gone, timed_out, unknown_model
from app.serving.gate import Gate
from app.serving.limits import Amounts, Caller, Limits
from app.serving.live import Live
from app.serving.log import RequestLog
from app.serving.release import EXTRACTIVE, ROUTED, Release
from app.serving.requests import NAMES, Asked, Completion, lacking, tags_of
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
from app.serving.steering import Steering
from app.serving.structured import ResponseFormat, Structured
from app.serving.telemetry import Telemetry
from app.serving.tracing import Step, Trace, Traced, Tracer
from app.serving.wrapped import Passing

logger = logging.getLogger(__name__)
BYTES_PER_TOKEN = 3
TEMPLATE_TOKENS = 16
"""What is reserved for a prompt: a token for every three bytes, and some for the chat's form."""
GRANT_TOKENS = 64
"""How much of an answer is reserved at a time while it is streamed."""
SHAPING = ("stop", "num_logprobs", "schema")
"""What an extract, which draws nothing, cannot do; the other parameters change nothing about it."""
Piece = tuple[int, Delta]


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
        asked = incoming.request.model
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": asked, "gen_ai.system": "signalbox"}
        self._trace = Trace(Step(f"chat {asked}", "chat", time.time_ns(), 0, attributes), parent=incoming.traceparent)
        self.head = Head.now(incoming.request_id, incoming.request.kind())

    asked: Asked
    _release: Release
    _caller: Caller
    _rungs: Sequence[str]
    _constrained: bool = True

    @property
    def is_live(self) -> bool:
        """Whether the answer goes out while it comes: one model was named, and its answer needs no second look."""
        named = len(self._rungs) == 1 and self.asked.model != ROUTED
        return self.asked.stream and named and self.asked.format.schema is None and self._hit is None

    @property
    def model(self) -> str:
        """The version that a live answer comes from."""
        return self._release.models[self._rungs[0]].ref

    @property
    def live_headers(self) -> dict[str, str]:
        """What is known before a live answer is."""
        named = {"x-signalbox-route": self._rungs[0], "x-signalbox-release": self._release.digest}
        return {**named, "x-signalbox-index": self._release.index, **self._held.headers, **self._lookup_headers}

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

    async def run(self, emit: Callable[[Piece], Awaitable[None]] | None = None) -> Completed:
        """The answer.

        Args:
            emit: takes the pieces of a live answer, with the numbers of their choices.

        Raises:
            ApiError: there is none; it is logged.
        """
        with self._watched():
            if self._hit is not None:
                return self._end(self._hit.again(self.head, latency_s=self._latency_s), self._hit.given, Amounts())
            left_s = self._parts.settings.request_timeout_s - self._latency_s
            async with asyncio.timeout(None if emit else max(left_s, 0)):
                given = await self._answers(functools.partial(self._backends, emit))
                for each in given if self.asked.format.schema is not None else ():
                    await asyncio.to_thread(self.asked.format.refuse, each.text, each.finish_reason)
            cut = next((live.cut.body()["error"] for live in self._lives if live.cut), None)
            response = respond(given, self.asked, self._release, self.head, latency_s=self._latency_s, error=cut)
            if cut is None:
                await self._lookup.keep(response, given)
            account = response.signalbox
            spent = Amounts(account.num_prompt_tokens + account.num_completion_tokens, account.cost_usd)
            return self._end(response, given, spent)

    def began(self) -> None:
        """The first piece of a live answer goes out."""
        self._trace.root.attributes["gen_ai.response.time_to_first_chunk"] = self._latency_s
        self._parts.telemetry.began(self._rungs[0], self._latency_s)

    @property
    def _latency_s(self) -> float:
        return time.monotonic() - self._started_s

    async def _prepare(self) -> None:
        parts, incoming = self._parts, self._incoming
        self._release = release = await parts.release()
        self._record["release"] = release.digest
        asked = incoming.request.asked(parts.settings.max_new_tokens)
        if len(asked.question) > (most := parts.settings.max_prompt_characters):
            raise context_exceeded(f"the question has {len(asked.question):,} characters, at most {most:,} are read")
        self._caller = await parts.limits.caller(incoming.authorization, [*asked.tags, *tags_of(incoming.tags)])
        rungs = release.rungs_for(asked.model)
        if rungs is None:
            raise unknown_model(asked.model, release.model_names)
        named = [release.models[rung] for rung in rungs] if asked.model != ROUTED else []
        self._caller.check("answer", asked.model, [*rungs[: len(named)], *(each.ref for each in named)])
        self._rungs = rungs
        self._held = parts.limits.reservation(self._caller)
        await self._held.enter()
        self.asked = await self._fit(asked)
        mode = incoming.cache or asked.cache or self._caller.cache
        self._lookup = await parts.lookup.of(mode, incoming.body, asked, release, self._caller.labels)
        self._hit = self._lookup.hit
        if self._hit is None:
            await self._held.extend(self._estimate())

    _hit: Any = None
    _held: Any = None
    _lookup: Any = None

    async def _fit(self, asked: Asked) -> Asked:
        """Refuse, or drop, what the models lack."""
        sampling, release = asked.sampling, self._release
        names = [name for name in SHAPING if name in sampling.asked] if not self._rungs else []
        for rung in self._rungs:
            names += await self._parts.backends.lacks(rung, release.models[rung].digest, sampling)
        if self._rungs:
            self._constrained = "schema" not in names
            names = [name for name in names if name != "schema"]
        shown = tuple(dict.fromkeys(NAMES.get(name, name) for name in names))
        if shown and not asked.drop:
            raise lacking(shown[0], f"by the model {asked.model!r}")
        form = ResponseFormat() if "schema" in names else asked.format
        return replace(asked, sampling=sampling.without(names), format=form, dropped=(*asked.dropped, *shown))

    def _estimate(self) -> Amounts:
        """What is reserved before the answer begins."""
        longest = self.asked.sampling.max_new_tokens
        answered = min(longest, GRANT_TOKENS) if self.is_live else longest
        num_asked = self.asked.num_choices * (1 if self._constrained else 2)
        return self._priced((self._num_prompt_tokens + answered) * num_asked)

    def _priced(self, tokens: int) -> Amounts:
        price = sum(self._release.price(rung) for rung in self._rungs)
        return Amounts(tokens * len(self._rungs), tokens * price / 1000)

    @property
    def _num_prompt_tokens(self) -> int:
        num_bytes = len(self.asked.question.encode()) + len(self._release.prompt.encode())
        return math.ceil(num_bytes / BYTES_PER_TOKEN) + TEMPLATE_TOKENS

    def _backends(self, emit: Callable[[Piece], Awaitable[None]] | None, place: int) -> Backends:
        """The backends as the choice of that number sees them."""
        backends = self._shaped(emit, place)
        return Traced(backends, self._trace) if self._parts.tracer.on else backends

    def _shaped(self, emit: Callable[[Piece], Awaitable[None]] | None, place: int) -> Backends:
        inner = self._parts.backends
        if self.asked.model == ROUTED:
            inner = Passing(inner)
        if emit is None:
            return (
                inner if self._constrained or self.asked.format.schema is None else Structured(inner, self.asked.format)
            )

        async def send(delta: Delta) -> None:
            await emit((place, delta))

        live = Live(
            inner,
            send,
            end_s=asyncio.get_running_loop().time() + self._parts.settings.request_timeout_s - self._latency_s,
            limit_s=self._parts.settings.request_timeout_s,
            num_prompt_tokens=self._num_prompt_tokens,
            allow=self._allowing(),
        )
        self._lives.append(live)
        return live

    def _allowing(self) -> Callable[[int], Awaitable[None]]:
        """Reserves what a live answer comes to, some tokens at a time."""
        granted = min(self.asked.sampling.max_new_tokens, GRANT_TOKENS)

        async def allow(num_tokens: int) -> None:
            nonlocal granted
            if num_tokens > granted:
                await self._held.extend(self._priced(GRANT_TOKENS))
                granted += GRANT_TOKENS

        return allow

    async def _answers(self, backends: Callable[[int], Backends]) -> list[Answer]:
        """As many answers as were asked for; the router chooses once, and the others come from the model it chose."""
        asked = self.asked
        if not self._rungs:
            return _copies(await self._answer(backends(0), 0, asked.model, []), asked.num_choices)
        model, rungs, first = asked.model, self._rungs, list[Answer]()
        if model == ROUTED:
            first = [await self._route(backends(0))]
            if first[0].route == EXTRACTIVE:
                return _copies(first[0], asked.num_choices)
            model, rungs = first[0].route, [first[0].route]
        places = range(len(first), asked.num_choices)
        return first + await _all([self._answer(backends(place), place, model, rungs) for place in places])

    async def _route(self, backends: Backends) -> Answer:
        """The first answer of a request that the router steers."""
        incoming, longest, key = self._incoming, self.asked.sampling.max_new_tokens, self._incoming.authorization
        steering = self._parts.steering
        about = await steering.begin(incoming.request, self._release, max_new_tokens=longest, authorization=key)
        given = await self._answer(backends, 0, ROUTED, self._rungs, about)
        steering.end(incoming.request, given, authorization=key)
        return given

    async def _answer(
        self, backends: Backends, place: int, model: str, rungs: Sequence[str], about: Circumstances = PLAIN
    ) -> Answer:
        sampling = self.asked.sampling
        if sampling.seed is not None and place:
            sampling = replace(sampling, seed=(sampling.seed + place + 2**63) % 2**64 - 2**63)
        return await answer(
            self.asked.question,
            release=self._release,
            requested=model,
            rungs=rungs,
            backends=backends,
            top_k=self._parts.settings.top_k,
            sampling=sampling,
            scope=Scope(self._caller.labels),
            circumstances=about,
        )

    @property
    def _lookup_headers(self) -> dict[str, str]:
        return self._lookup.headers if self._lookup else {}

    def _end(self, response: AnyResponse, given: Sequence[Answer], spent: Amounts) -> Completed:
        """Settle, count and log an answer."""
        self._ended = True
        self._held.settle(spent)
        said = response.body()
        self._parts.telemetry.answered(response, self.asked, cache=self._lookup.state)
        row = self._record | columns(self.asked.question, given, response) | {"response_json": said}
        if response.error is not None:
            row["error"] = response.error["message"]
        sealed = self._parts.log.submit(row)
        self._traced(answer=response.choices[0].text, error=row.get("error") or "", **attributes_of(response))
        headers = headers_of(response.signalbox) | self._held.headers | self._lookup_headers | receipt_header(sealed)
        return Completed(response, said, headers)

    def _traced(self, *, answer: str = "", error: str = "", **attributes: Any) -> None:
        if self._parts.tracer.on:
            trace, asked = self._trace, getattr(self, "asked", None)
            trace.question, trace.answer, trace.error = asked.question if asked else "", answer, error
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
        num_tokens = sum(live.said.num_tokens for live in self._lives)
        if self._held is not None:
            self._held.settle(self._priced(num_tokens + self._num_prompt_tokens) if num_tokens else Amounts())
        self._traced(error=str(refused), **{"error.type": refused.code or refused.kind})
        ended = {"status": refused.status, "error": _said(error), "latency_s": self._latency_s}
        sealed = self._parts.log.submit({**self._record, **ended, "response_json": refused.body()})
        headers = self._held.headers if self._held is not None else {}
        refused.headers = {**headers, **refused.headers, **receipt_header(sealed)}
        return refused


def _copies(given: Answer, number: int) -> list[Answer]:
    """The same extract as several choices; what it took is counted once."""
    return [given, *(replace(given, tried=[]) for _ in range(number - 1))]


async def _all(work: Sequence[Any]) -> list[Answer]:
    """The results of coroutines that run side by side; when one fails, the others are ended."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _said(error: Exception) -> str:
    """An error for the log; one that is not ours with its type."""
    return str(error) if isinstance(error, SignalboxError) else f"{type(error).__name__}: {error}"
