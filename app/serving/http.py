"""The HTTP interface: FastAPI routes around the gateway's logic, errors in OpenAI's form.

Guarantees: whatever goes wrong, the body is OpenAI's error object. The header ``x-request-id`` is set by Serve; without
Serve the request's id stands in the response's body only.
"""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.core.errors import SignalboxError
from app.registry.versions import Registry
from app.serving.approvals import add_approvals
from app.serving.embeddings import EmbeddingRequest
from app.serving.errors import ApiError, as_api_error, invalid
from app.serving.gateway import Gateway, stream_chunks
from app.serving.proofs import add_proofs
from app.serving.schema import ChatRequest, SearchRequest

ANYTHING = TypeAdapter[Any](Any)


def create_app(gateway: Gateway, registry: Registry | None = None, *, authorities: Sequence[str] = ()) -> FastAPI:
    """The ASGI application of one gateway; with a registry, its approvals and its ledger's proofs too.

    Args:
        authorities: hosts that signed requests may be for, see ``app.serving.signatures``.
    """
    app = FastAPI(title="Signalbox", docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_chat(app, gateway)
    _add_the_rest(app, gateway)
    if registry is not None:
        add_approvals(app, registry, authorities=authorities)
        add_proofs(app, registry.ledger)
    return app


def _add_chat(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
        key = request.headers.get("authorization")
        done = await gateway.chat(body, request_id=request_id, body=await request.json(), authorization=key)
        if not body.stream:
            return JSONResponse(done.body, headers=dict(done.headers))
        usage = bool(body.stream_options and body.stream_options.include_usage)
        chunks = stream_chunks(done.response, include_usage=usage)
        return StreamingResponse(chunks, media_type="text/event-stream", headers=dict(done.headers))


def _add_the_rest(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return await gateway.models()

    @app.post("/v1/search", response_model=None)
    async def search(body: SearchRequest, request: Request) -> Response:
        found = await gateway.search(body, authorization=request.headers.get("authorization"))
        return Response(ANYTHING.dump_json(found), media_type="application/json")

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest) -> JSONResponse:
        return await asyncio.to_thread(JSONResponse, await gateway.embed(body))

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


def _add_errors(app: FastAPI) -> None:
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
        return _error(ApiError(str(error.detail), status=error.status_code, kind="invalid_request_error"))

    @app.exception_handler(500)
    async def server_error(_: Request, error: Exception) -> JSONResponse:
        return _error(as_api_error(error))


def _error(error: ApiError) -> JSONResponse:
    retry = {"retry-after": "1"} if error.status == 503 or error.code == "receipt_not_found" else {}
    return JSONResponse(error.body(), status_code=error.status, headers={**error.headers, **retry})
