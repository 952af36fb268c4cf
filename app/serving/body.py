"""Reading a request and writing its answer over ASGI, where clients are slow, gone, or send too much.

Guarantees: a body over the limit is refused before it is read whole; one that is no JSON in UTF-8 is refused with a
sentence; work for a client that went away is cancelled; a stream that nobody reads is ended, so that it holds neither
memory nor an engine. Source: the ASGI specification's HTTP messages (``http.disconnect``, backpressure in ``send``).
"""

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serving.access import AccessList
from app.serving.errors import ApiError, gone, invalid, no_key, too_large
from app.serving.opened import Opened

Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")
HINTS = {
    "Not Found": "there is nothing at this path: ask for one under /v1, such as /v1/chat/completions",
    "Method Not Allowed": "this path has another method: POST what is asked, GET what is there",
}


class BodyLimit:
    """ASGI middleware: refuses a body of more than ``max_bytes``, by its declared length or while it comes.

    Args:
        larger: limits of paths that have others.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, larger: Mapping[str, int] | None = None) -> None:
        self._app, self._max_bytes, self._larger = app, max_bytes, larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        declared = headers.get(b"content-length", b"")
        num_bytes = int(declared) if declared.isdigit() and len(declared) < 19 else 0
        max_bytes, received = self._larger.get(scope.get("path", ""), self._max_bytes), 0

        async def counted() -> Message:
            nonlocal received
            message = await receive() if num_bytes <= max_bytes else {}
            received += len(message.get("body", b""))
            if max(received, num_bytes) > max_bytes:
                raise TooLarge(max_bytes)
            return message

        await self._app(scope, counted, send)


class KeyRequired:
    """ASGI middleware: refuses requests to some paths and what lies below them from whoever shows no granted key."""

    def __init__(self, app: ASGIApp, access: AccessList, paths: Sequence[str]) -> None:
        self._app, self._access, self._paths = app, access, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        below = any(f"{scope.get('path', '')}/".startswith(f"{path}/") for path in self._paths)
        if below and self._access.find(Headers(scope=scope).get("authorization")) is None:
            error = no_key()
            await JSONResponse(error.body(), status_code=error.status)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class TooLarge(HTTPException):
    """The body is larger than what is read; an HTTPException, which frameworks pass on while they read a body."""

    def __init__(self, max_bytes: int) -> None:
        self.error = too_large(max_bytes)
        super().__init__(self.error.status, str(self.error))


async def read_json(request: Request) -> Any:
    """The body as JSON.

    Raises:
        ApiError: it is none.
        TooLarge: it is larger than the limit.
    """
    data = await request.body()
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8 (byte {error.start}): send JSON in UTF-8") from error
    except (ValueError, RecursionError) as error:
        said = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise invalid(f"the body is not JSON ({said}): send a JSON object") from error


def parse(model: type[Model], value: Any) -> Model:
    """A request's model of a JSON value.

    Raises:
        ApiError: it is not of the form; the sentence names the field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"])[:200]
        raise invalid(f"{param or 'the body'}: {first['msg'][:500]}", param=param or None) from error


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of some work, which is cancelled when the client goes away.

    Raises:
        ApiError: 499, the client went away; nobody reads it.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise gone()
        return await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


class EventStream(Response):
    """Server-sent events of a stream that was opened; ends it when the client leaves, or takes nothing for a while."""

    media_type = "text/event-stream"

    def __init__(self, opened: Opened, *, stall_s: float) -> None:
        super().__init__(headers={**opened.headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._opened, self._stall_s = opened, stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, leaving = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._opened.close()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        with suppress(TimeoutError):  # nobody reads: there is nobody to tell
            await self._put(send, start)
            async for event in self._opened.events:
                await self._put(send, _body(event.encode("utf-8", "replace"), more=True))
            await self._put(send, _body(b"", more=False))

    async def _put(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._stall_s):
            await send(message)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def api_error_of(error: HTTPException) -> ApiError:
    """A framework's error in OpenAI's form."""
    if isinstance(error, TooLarge):
        return error.error
    hints = {
        404: "there is nothing at this path: see /v1/models for what there is",
        405: "this path has another method",
    }
    message = hints.get(error.status_code, str(error.detail))
    return ApiError(message, status=error.status_code, kind="invalid_request_error")
