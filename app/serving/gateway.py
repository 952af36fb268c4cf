"""What the gateway does with a request: resolve the release once, answer, account for it, log it.

Guarantees: a request sees one release from beginning to end; a new release is taken over only when its versions are
loaded, and until then the old one serves. Every question that could be read is logged, failed ones with their error.
Not guaranteed: a row for a question whose client hung up; token-wise streaming, since the router judges whole answers:
a stream carries the finished answer word by word.
"""

import asyncio
import json
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.clock import utc_now
from app.core.errors import SignalboxError
from app.inference.sampling import Sampling
from app.ledger.batches import Sealed
from app.ledger.receipts import HEADER, ReceiptUnreadable
from app.retrieval.filters import Scope
from app.serving.access import AccessList
from app.serving.cascade import Answer, Backends, answer, cost_large_only_usd, cost_usd
from app.serving.embeddings import AT_ONCE, EmbeddingRequest, respond
from app.serving.errors import ApiError, as_api_error, no_receipt, unavailable, unknown_model
from app.serving.log import RequestLog
from app.serving.release import ENCODER, Release
from app.serving.schema import (
    Account,
    AssistantMessage,
    ChatRequest,
    ChatResponse,
    Choice,
    SearchRequest,
    Usage,
)
from app.serving.settings import ServingSettings
from app.serving.steering import Steering, Watch

logger = logging.getLogger(__name__)
WORDS = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True)
class Completed:
    """A response, the same as JSON, and the HTTP headers that tell how it came about."""

    response: ChatResponse
    body: Mapping[str, Any]
    headers: Mapping[str, str]


class Gateway:
    """The gateway's state and logic, without HTTP and without Serve."""

    def __init__(
        self,
        *,
        settings: ServingSettings,
        backends: Backends,
        resolve: Callable[[str], Release],
        log: RequestLog,
        access: AccessList,
        steering: Steering | None = None,
    ) -> None:
        self._access, self._steering = access, steering or Steering(Watch(lambda _: "", period_s=60.0))
        self._settings, self._backends, self._resolve, self._log = settings, backends, resolve, log
        self._ref, self._attempt, self._release, self._looked_s = "", "", None, 0.0
        self._reason, self._refused = "no release has been named yet: deploy with a release", ""
        self.counts: Counter[str] = Counter()

    _release: Release | None

    async def take(self, ref: str, *, attempt: str = "") -> None:
        """Serve another release once its versions are loaded; until then, and when it cannot be loaded, the old one.

        ``attempt`` names who asked, for ``health``.
        """
        self._ref, self._attempt, self._looked_s = ref, attempt, time.monotonic()
        try:
            release = await asyncio.to_thread(self._resolve, ref)
            if self._release is not None:
                await self._backends.preload(release)
        except SignalboxError as error:
            self._reason, self._refused = str(error), ref
            logger.warning("%s", error)
        else:
            self._release, self._reason, self._refused = release, "", ""

    async def release(self) -> Release:
        """The release that serves now.

        Raises:
            ApiError: 503, none does.
        """
        waited_s = time.monotonic() - self._looked_s
        if self._release is None and self._ref and waited_s >= self._settings.resolve_period_s:
            await self.take(self._ref, attempt=self._attempt)
        if self._release is None:
            raise unavailable(self._reason, code="no_release")
        return self._release

    async def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body of ``/healthz``: 200 when a release serves.

        ``refused`` names one that could not be, in the deployment that ``attempt`` names.
        """
        counted = {"logged": self._log.num_logged, "dropped": self._log.num_dropped}
        about = {"refused": self._refused, "attempt": self._attempt, "log": counted}
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

    async def search(self, request: SearchRequest, *, authorization: str | None = None) -> dict[str, Any]:
        """``/v1/search``: passages of the index that serves, best first; only those that the caller's key may see."""
        release = await self.release()
        scope = request.filter.scope(self._access.labels_of(authorization))
        found = await self._backends.retrieve(release.index, request.query, request.top_k, scope)
        return {"object": "list", "release": release.digest, "data": found.passages}

    async def embed(self, request: EmbeddingRequest) -> dict[str, Any]:
        """``/v1/embeddings``: vectors by the encoder of the index that serves. They show nothing of the documents.

        Raises:
            ApiError: there is no such encoder in the release, or the request cannot be met.
        """
        release, texts = await self.release(), request.texts()
        if request.model not in release.encoder_names:
            raise unknown_model(request.model, release.encoder_names)
        parts = []
        for start in range(0, len(texts), AT_ONCE):
            parts.append(await self._backends.embed(release.index, texts[start : start + AT_ONCE]))
            request.check(parts[-1], start=start)
        return await asyncio.to_thread(respond, request, parts, release)

    async def chat(
        self,
        request: ChatRequest,
        *,
        request_id: str,
        body: Mapping[str, Any] | None = None,
        authorization: str | None = None,
    ) -> Completed:
        """Answer a chat completion; the receipt stands in the headers, of an error too.

        Args:
            body: the request as it was sent, which the receipt commits to; by default what ``request`` holds of it.
            authorization: the header of that name; the key in it decides which passages are looked at.

        Raises:
            ApiError: the request cannot be met, whatever the reason; it is logged all the same.
        """
        started_s = time.monotonic()
        asked = body if body is not None else request.model_dump(mode="json", exclude_unset=True)
        record = {"request_id": request_id, "time": utc_now(), "request_json": asked}
        try:
            release = await self.release()
            record["release"] = release.digest
            given = await self._answer(request, release, authorization)
        except Exception as error:  # whatever it is, it is logged and passed on
            raise self._refuse(error, record, latency_s=time.monotonic() - started_s) from error
        response = _respond(given, release, request_id=request_id, latency_s=time.monotonic() - started_s)
        said = response.model_dump(mode="json")
        self.counts.update({"status_200": 1, f"route_{given.route}": 1})
        sealed = self._log.submit(record | _columns(request.question(), given, response) | {"response_json": said})
        return Completed(response, said, _headers(response.signalbox) | _receipt(sealed))

    def _refuse(self, error: Exception, record: Mapping[str, Any], *, latency_s: float) -> ApiError:
        """Log a request that was not answered; the error that the client sees comes back with its receipt."""
        refused = as_api_error(error)
        if not isinstance(error, SignalboxError):
            logger.exception("request %s failed", record["request_id"], exc_info=error)
        self.counts[f"status_{refused.status}"] += 1
        ended = {"status": refused.status, "error": _said(error), "latency_s": latency_s}
        sealed = self._log.submit({**record, **ended, "response_json": refused.body()})
        refused.headers = _receipt(sealed)
        return refused

    async def receipt(self, request_id: str) -> dict[str, Any]:
        """``/v1/receipts/{id}``: the proof that a request's receipt stands in the ledger.

        Raises:
            ApiError: 404, it does not, or not yet.
        """
        proof = await asyncio.to_thread(self._log.proof, request_id)
        if proof is None:
            wait_s = self._settings.log_flush_s + self._settings.ledger_period_s
            raise no_receipt(request_id, wait_s=wait_s)
        return proof

    async def _answer(self, request: ChatRequest, release: Release, authorization: str | None) -> Answer:
        rungs = release.rungs_for(request.model)
        if rungs is None:
            raise unknown_model(request.model, release.model_names)
        sampling = Sampling(max_new_tokens=request.limit(self._settings.max_new_tokens))
        circumstances = await self._steering.begin(
            request, release, max_new_tokens=sampling.max_new_tokens, authorization=authorization
        )
        given = await answer(
            request.question(),
            release=release,
            requested=request.model,
            rungs=rungs,
            backends=self._backends,
            top_k=self._settings.top_k,
            sampling=sampling,
            scope=Scope(self._access.labels_of(authorization)),
            circumstances=circumstances,
        )
        self._steering.end(request, given, authorization=authorization)
        return given

    def metrics(self) -> str:
        """``/metrics`` of this replica in Prometheus' text format."""
        counts = {**self.counts, "logged": self._log.num_logged, "log_dropped": self._log.num_dropped}
        lines = [f'signalbox_gateway_total{{event="{event}"}} {count}' for event, count in sorted(counts.items())]
        return "\n".join(["# TYPE signalbox_gateway_total counter", *lines, ""])


def _said(error: Exception) -> str:
    """An error for the log; one that is not ours with its type."""
    return str(error) if isinstance(error, SignalboxError) else f"{type(error).__name__}: {error}"


async def stream_chunks(response: ChatResponse, *, include_usage: bool) -> AsyncIterator[str]:
    """The response as server-sent events: the role, the words, the end with citations and account, the usage."""
    for delta in [{"role": "assistant", "content": ""}, *({"content": word} for word in _words(response))]:
        yield _event(_chunk(response, delta=delta))
    extras = response.model_dump(mode="json", include={"citations", "signalbox"})
    yield _event(_chunk(response, delta={}, finish=response.choices[0].finish_reason) | extras)
    if include_usage:
        yield _event({**_chunk(response, delta={}), "choices": [], "usage": response.usage.model_dump()})
    yield "data: [DONE]\n\n"


def response_of_stream(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The response that a stream's chunks spell, as its receipt commits to it.

    Raises:
        ReceiptUnreadable: the stream is not whole.
    """
    try:
        end = next(chunk for chunk in chunks if "signalbox" in chunk)
        deltas = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
        attempts = end["signalbox"]["attempts"]
        prompt, completion = (sum(each[f"num_{kind}_tokens"] for each in attempts) for kind in ("prompt", "completion"))
        response = ChatResponse(
            **{name: end[name] for name in ("id", "created", "model", "citations", "signalbox")},
            choices=[
                Choice(
                    message=AssistantMessage(content="".join(deltas)), finish_reason=end["choices"][0]["finish_reason"]
                )
            ],
            usage=Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion),
        )
    except (StopIteration, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ReceiptUnreadable("the stream is not whole: save it from the first event to [DONE]") from error
    return response.model_dump(mode="json")


def _words(response: ChatResponse) -> list[str]:
    return WORDS.findall(response.choices[0].message.content)


def _chunk(response: ChatResponse, *, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    head = {"id": response.id, "object": "chat.completion.chunk", "created": response.created, "model": response.model}
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]}


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _respond(given: Answer, release: Release, *, request_id: str, latency_s: float) -> ChatResponse:
    prompt, completion = given.tokens()
    account = Account(
        request_id=request_id,
        route=given.route,
        release=release.digest,
        release_name=release.ref,
        confidence=given.confidence,
        retrieval_score=given.retrieval_score,
        attempts=[each.to_attempt() for each in given.tried],
        cost_usd=cost_usd(release, given.tried),
        cost_large_only_usd=cost_large_only_usd(release, given.tried),
        latency_s=latency_s,
        routing=given.routing,
    )
    return ChatResponse(
        id=f"chatcmpl-{request_id}",
        created=int(utc_now().timestamp()),
        model=given.model,
        choices=[Choice(message=AssistantMessage(content=given.text), finish_reason=given.finish_reason)],
        usage=Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion),
        citations=given.citations,
        signalbox=account,
    )


def _headers(account: Account) -> dict[str, str]:
    return {
        "x-signalbox-route": account.route,
        "x-signalbox-release": account.release,
        "x-signalbox-cost-usd": f"{account.cost_usd:.9f}",
    }


def _receipt(sealed: Sealed | None) -> dict[str, str]:
    """The receipt's header; none when the log was too full to keep the request."""
    return {HEADER: sealed.header} if sealed else {}


def _columns(question: str, given: Answer, response: ChatResponse) -> dict[str, Any]:
    """The log's columns of an answered request."""
    account = response.signalbox
    cited = [
        citation.model_dump(exclude={"heading_path", "page"}) | {"heading": " > ".join(citation.heading_path)}
        for citation in given.citations
    ]
    return {
        **account.model_dump(include={"route", "confidence", "retrieval_score", "cost_usd", "cost_large_only_usd"}),
        "latency_s": account.latency_s,
        "model": given.model,
        "question": question,
        "answer": given.text,
        "citations": cited,
        "small_confidence": given.confidence_of("small"),
        "large_confidence": given.confidence_of("large"),
        "num_question_words": len(question.split()),
        "embedding": given.retrieval.embedding,
        "num_prompt_tokens": response.usage.prompt_tokens,
        "num_completion_tokens": response.usage.completion_tokens,
        "status": 200,
    }
