"""The HTTP interface: FastAPI routes around the gateway's logic, errors in OpenAI's form.

Guarantees: whatever goes wrong, the body is OpenAI's error object. The header ``x-request-id`` is set by Serve; without
Serve the request's id stands in the response's body only.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.core.errors import SignalboxError
from app.registry.versions import Registry
from app.serving.access import AccessList
from app.serving.approvals import add_approvals
from app.serving.body import (
    BodyLimit,
    BodyLimits,
    EventStream,
    KeyRequired,
    api_error_of,
    parse,
    read_json,
    while_connected,
)
from app.serving.embeddings import EmbeddingRequest
from app.serving.errors import ApiError, as_api_error, invalid
from app.serving.exchange import Incoming
from app.serving.feedback import FeedbackRequest
from app.serving.filing import BATCHES, FILES, add_batches
from app.serving.gateway import Gateway
from app.serving.proofs import add_proofs
from app.serving.requests import ChatRequest, Completion, CompletionRequest
from app.serving.schema import SearchRequest

ANYTHING = TypeAdapter[Any](Any)


def create_app(
    gateway: Gateway,
    registry: Registry | None = None,
    *,
    authorities: Sequence[str] = (),
    start_batch: Callable[[str], None] | None = None,
) -> FastAPI:
    """The ASGI application of one gateway; with a registry, its approvals and its ledger's proofs too.

    Args:
        authorities: hosts that signed requests may be for, see ``app.serving.signatures``.
        start_batch: has a batch answered, given its id; None: there are no batches.
    """
    app, settings = FastAPI(title="Signalbox", docs_url=None, redoc_url=None), gateway.settings
    app.add_middleware(
        BodyLimit,
        limits=BodyLimits(
            settings.max_body_bytes,
            settings.max_bodies_bytes,
            settings.body_timeout_s,
            larger={FILES: settings.max_file_bytes},
        ),
    )
    if settings.require_key and registry is not None:
        app.add_middleware(KeyRequired, access=AccessList.of(registry), paths=(FILES, BATCHES))
    add_errors(app)
    _add_completions(app, gateway)
    _add_the_rest(app, gateway)
    if registry is not None:
        add_approvals(app, registry, authorities=authorities)
        add_proofs(app, registry.ledger)
        if start_batch:
            add_batches(app, registry.workspace, AccessList.of(registry), start_batch)
    return app


def _add_completions(app: FastAPI, gateway: Gateway) -> None:
    async def answer(model: type[Completion], request: Request) -> Response:
        sent = await read_json(request)
        asked, headers = parse(model, sent), request.headers
        incoming = Incoming(
            asked,
            headers.get("x-request-id") or uuid.uuid4().hex,
            sent,
            authorization=headers.get("authorization"),
            tags=headers.get("x-signalbox-tags"),
            cache=headers.get("x-signalbox-cache"),
            traceparent=headers.get("traceparent", ""),
        )
        if asked.stream:
            opened = await while_connected(request, gateway.stream(incoming))
            return EventStream(opened, stall_s=gateway.settings.stream_stall_s)
        done = await while_connected(request, gateway.complete(incoming))
        return JSONResponse(done.body, headers=dict(done.headers))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> Response:
        return await answer(ChatRequest, request)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        return await answer(CompletionRequest, request)


def _add_the_rest(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return await gateway.models()

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return await gateway.model(name)

    @app.post("/v1/search", response_model=None)
    async def search(request: Request) -> Response:
        asked = parse(SearchRequest, await read_json(request))
        found = await gateway.search(asked, authorization=request.headers.get("authorization"))
        return Response(ANYTHING.dump_json(found), media_type="application/json")

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> JSONResponse:
        asked = parse(EmbeddingRequest, await read_json(request))
        given = await gateway.embed(asked, authorization=request.headers.get("authorization"))
        return await asyncio.to_thread(JSONResponse, given)

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> dict[str, Any]:
        said = parse(FeedbackRequest, await read_json(request))
        return await gateway.rate(said, authorization=request.headers.get("authorization"))

    @app.get("/v1/receipts/{request_id}")
    async def receipt(request_id: str) -> dict[str, Any]:
        return await gateway.receipt(request_id)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        status, body = await gateway.health()
        return JSONResponse(body, status_code=status)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(gateway.metrics())


def add_errors(app: FastAPI) -> None:
    """Say whatever goes wrong in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return _error(error)

    @app.exception_handler(SignalboxError)
    async def fault(_: Request, error: SignalboxError) -> JSONResponse:
        return _error(as_api_error(error))

    @app.exception_handler(RequestValidationError)
    async def bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        return _error(invalid(f"{param or 'the body'}: {first['msg']}", param=param or None))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return _error(api_error_of(error))

    @app.exception_handler(500)
    async def server_error(_: Request, error: Exception) -> JSONResponse:
        return _error(as_api_error(error))


def _error(error: ApiError) -> JSONResponse:
    retry = {"retry-after": "1"} if error.status == 503 or error.code == "receipt_not_found" else {}
    return JSONResponse(error.body(), status_code=error.status, headers={**retry, **error.headers})
