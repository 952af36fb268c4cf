"""What the gateway does with a request: resolve the release once, answer, account for it, log it.

Guarantees: a request sees one release from beginning to end; a new release is taken over only when its versions are
loaded, and until then the old one serves. Every completion that could be read is logged, failed and abandoned ones with
their error. Not guaranteed: token-wise streaming of what the router or a schema must judge whole: it goes out word by
word when it is known.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from app.core.errors import SignalboxError
from app.ledger.log import PRODUCTION
from app.serving.cached import Lookup
from app.serving.caches import AnswerCache
from app.serving.canary import Beside, Canaries
from app.serving.cascade import Backends
from app.serving.embeddings import AT_ONCE, SIGNS, Embedded, EmbeddingRequest, respond
from app.serving.errors import ApiError, no_receipt, said_of, unavailable, unknown_model
from app.serving.exchange import Exchange, Incoming, Parts
from app.serving.feedback import Desk, FeedbackRequest
from app.serving.gate import Gate
from app.serving.limits import Amounts, Caller, Limits, Reservation
from app.serving.log import RequestLog
from app.serving.opened import Opened, open_stream
from app.serving.plan import BYTES_PER_TOKEN
from app.serving.release import ENCODER, ROUTED, Release
from app.serving.requests import Completion
from app.serving.responses import Completed
from app.serving.schema import SearchRequest
from app.serving.settings import ServingSettings
from app.serving.steering import Steering, Watch
from app.serving.telemetry import Telemetry
from app.serving.tracing import Tracer

logger = logging.getLogger(__name__)


class Gateway:
    """The gateway's state and logic, without HTTP and without Serve."""

    def __init__(
        self,
        *,
        settings: ServingSettings,
        backends: Backends,
        resolve: Callable[[str], Release],
        log: RequestLog,
        limits: Limits,
        canary: Callable[[Release], Beside | None] = lambda production: None,
        erased: Callable[[str], str] = lambda index: "",
        steering: Steering | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """Take what the gateway works with.

        Args:
            canary: what runs beside a release, by the ledger.
            erased: the mark of an index's last erasure.
        """
        self._limits, self._erased, self._desk = limits, erased, Desk(log, limits)
        self.settings, self._backends, self._resolve, self._log = settings, backends, resolve, log
        self._ref, self._attempt, self._release, self._looked_s = "", "", None, 0.0
        self._resolve_canary, self._taking = canary, asyncio.Lock()
        self._canaries = Canaries(backends.preload, max_loaded=settings.max_loaded)
        self._reason, self._refused = "no release has been named yet: deploy with a release", ""
        cache = AnswerCache(
            max_bytes=settings.cache_bytes, ttl_s=settings.cache_ttl_s, similarity=settings.cache_similarity
        )
        steering = steering or Steering(Watch(lambda _: "", period_s=60.0))
        self._parts = Parts(
            settings=settings,
            backends=backends,
            log=log,
            limits=limits,
            gate=Gate(settings.max_queued_requests),
            lookup=Lookup(cache, backends, self._mark, steering.void),
            telemetry=Telemetry(),
            release=self.release,
            canaries=self._canaries,
            tracer=tracer or Tracer([]),
            steering=steering,
        )

    _release: Release | None

    def trace_with(self, tracer: Tracer) -> None:
        """Trace completions with this tracer from now on."""
        self._parts = replace(self._parts, tracer=tracer)

    @property
    def num_inside(self) -> int:
        """Completions under way."""
        return self._parts.gate.num_inside

    async def take(self, ref: str, *, attempt: str = "") -> None:
        """Serve another release once its versions are loaded; until then, and when it cannot be loaded, the old one.

        The canary that the ledger names is loaded after it, in the background. ``attempt`` names who asked, for
        ``health``.
        """
        self._ref, self._looked_s = ref, time.monotonic()
        async with self._taking:  # one after the other, so that the last one to look is the last one to say
            self._attempt = attempt
            await self._take(ref)
            if self._release is not None:
                await self._take_canary(self._release)

    async def _take(self, ref: str) -> None:
        try:
            release = await asyncio.to_thread(self._resolve, ref)
            if self._release is not None:
                await self._backends.preload(release)
        except SignalboxError as error:
            self._reason, self._refused = str(error), ref
            logger.warning("%s", error)
        else:
            self._release, self._reason, self._refused = release, "", ""

    async def _take_canary(self, release: Release) -> None:
        """Look what runs beside a release; whatever is wrong with that leaves the release alone."""
        try:
            self._canaries.take(await asyncio.to_thread(self._resolve_canary, release))
        except Exception as error:  # whatever kept the ledger from saying that it runs still, it answers nobody
            self._canaries.refuse(said_of(error))

    @property
    def production(self) -> str:
        """Reference of whatever is in production under the name of the release that serves."""
        return f"{(self._release.ref if self._release else self._ref).partition('@')[0]}@{PRODUCTION}"

    async def release(self) -> Release:
        """The release that serves now.

        Raises:
            ApiError: 503, none does.
        """
        waited_s = time.monotonic() - self._looked_s
        if self._release is None and self._ref and waited_s >= self.settings.resolve_period_s:
            await self.take(self._ref, attempt=self._attempt)
        if self._release is None:
            raise unavailable(self._reason, code="no_release")
        return self._release

    async def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body of ``/healthz``: 200 when a release serves.

        ``refused`` names one that could not be, in the deployment that ``attempt`` names.
        """
        counted = {"logged": self._log.num_logged, "dropped": self._log.num_dropped}
        about = {"refused": self._refused, "attempt": self._attempt, "log": counted, **self._canaries.health()}
        try:
            release = await self.release()
        except ApiError as error:
            return 503, {"status": "unavailable", "reason": str(error), **about}
        named = {"release": release.digest, "release_name": release.ref, "stopped": release.stopped}
        return 200, {"status": "ok", **named, "reason": self._reason, **about}

    async def models(self) -> dict[str, Any]:
        """``/v1/models``: names that can be asked for, and the version behind each."""
        release = await self.release()
        known = {rung: model.ref for rung, model in release.models.items()} | {ENCODER: release.encoder.ref}
        entries = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "signalbox",
                "version": known.get(name, release.ref),
            }
            for name in (*release.model_names, ENCODER)
        ]
        return {"object": "list", "data": entries}

    async def model(self, name: str) -> dict[str, Any]:
        """``/v1/models/{name}``: one of them.

        Raises:
            ApiError: 404, there is none of that name.
        """
        found: list[dict[str, Any]] = (await self.models())["data"]
        known = [entry for entry in found if entry["id"] == name]
        if not known:
            raise unknown_model(name, [entry["id"] for entry in found])
        return known[0]

    async def search(self, request: SearchRequest, *, authorization: str | None = None) -> dict[str, Any]:
        """``/v1/search``: passages of the index that serves, best first; only those that the caller's key may see."""
        release, (caller, _) = await self.release(), await self._enter(authorization)
        belongs = functools.partial(str, request.query)
        release = self._canaries.choose(release, subject=caller.subject, belongs=belongs, model=ROUTED)
        scope = request.filter.scope(caller.labels)
        found = await self._backends.retrieve(release.index, request.query, request.top_k, scope)
        return {"object": "list", "release": release.digest, "data": found.passages}

    async def embed(self, request: EmbeddingRequest, *, authorization: str | None = None) -> dict[str, Any]:
        """``/v1/embeddings``: vectors by the encoder of the index that serves. They show nothing of the documents.

        Production's always, never a canary's: a caller's vectors must be of one encoder to be compared.

        Raises:
            ApiError: there is no such encoder in the release, or the request cannot be met.
        """
        release, texts = await self.release(), request.texts()
        if request.model not in release.encoder_names:
            raise unknown_model(request.model, release.encoder_names)
        _, held = await self._enter(authorization)
        parts: list[Embedded] = []
        try:
            await held.extend(Amounts(tokens=sum(len(text.encode()) // BYTES_PER_TOKEN + SIGNS for text in texts)))
            for start in range(0, len(texts), AT_ONCE):
                parts.append(await self._backends.embed(release.index, texts[start : start + AT_ONCE]))
                request.check(parts[-1], start=start)
        finally:
            held.settle(Amounts(tokens=sum(num for part in parts for num in part.num_tokens)))
        return await asyncio.to_thread(respond, request, parts, release)

    async def _enter(self, authorization: str | None) -> tuple[Caller, Reservation]:
        """Who searches or embeds, counted as a request."""
        caller = await self._limits.caller(authorization)
        caller.check("search")
        held = self._limits.reservation(caller)
        await held.enter()
        return caller, held

    async def complete(self, incoming: Incoming) -> Completed:
        """Answer a completion; the receipt stands in the headers, of an error too.

        Raises:
            ApiError: the request cannot be met, whatever the reason; it is logged all the same.
        """
        exchange = Exchange(self._parts, incoming)
        with exchange.inside():
            await exchange.prepare()
            return await exchange.run()

    async def stream(self, incoming: Incoming) -> Opened:
        """Answer a completion as server-sent events; what can be refused is refused before the first one.

        Raises:
            ApiError: the request cannot be met; it is logged.
        """
        return await open_stream(Exchange(self._parts, incoming))

    async def chat(self, request: Completion, *, request_id: str) -> Completed:
        """Answer a completion as one who shows no key would have it."""
        body = request.model_dump(mode="json", exclude_unset=True)
        return await self.complete(Incoming(request, request_id, body))

    async def receipt(self, request_id: str) -> dict[str, Any]:
        """``/v1/receipts/{id}``: the proof that a request's receipt stands in the ledger.

        Raises:
            ApiError: 404, it does not, or not yet.
        """
        proof = await asyncio.to_thread(self._log.proof, request_id)
        if proof is None:
            wait_s = self.settings.log_flush_s + self.settings.ledger_period_s
            raise no_receipt(request_id, wait_s=wait_s)
        return proof

    async def rate(self, said: FeedbackRequest, *, authorization: str | None = None) -> dict[str, Any]:
        """``/v1/feedback``: what a caller says of an answer; ApiError as ``Desk.take``."""
        return await self._desk.take(said, authorization=authorization)

    async def _mark(self, index: str) -> str:
        return await asyncio.to_thread(self._erased, index)

    def metrics(self) -> str:
        """``/metrics`` of this replica in Prometheus' text format."""
        return self._parts.telemetry.text(num_logged=self._log.num_logged, num_dropped=self._log.num_dropped)
