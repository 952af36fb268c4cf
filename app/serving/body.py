"""Reading a request and writing its answer over ASGI, where clients are slow, gone, or send too much.

Guarantees: a body over the limit is refused before it is read whole, one that comes too slowly when its time is over,
and one that is too much beside all others under way; one that is no JSON in UTF-8 is refused with a sentence; work for
a client that went away is cancelled; a stream that nobody reads is ended, so that it holds neither memory nor an
engine. Not guaranteed: anything about headers, which the proxy reads. Source: the ASGI specification's HTTP messages
(``http.disconnect``, backpressure in ``send``).
"""

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serving.access import AccessList
from app.serving.errors import ApiError, gone, invalid, no_key, too_large, too_many_bodies, too_slow
from app.serving.opened import Opened

Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")
HINTS = {
    "Not Found": "there is nothing at this path: ask for one under /v1, such as /v1/chat/completions",
    "Method Not Allowed": "this path has another method: POST what is asked, GET what is there",
}


@dataclass(frozen=True)
class BodyLimits:
    """What a gateway takes of bodies.

    Args:
        max_bytes: of one; ``larger``: by path, where it is more.
        max_bytes_together: of all requests under way.
        timeout_s: until one of ``max_bytes`` is there whole, a larger one in proportion.
    """

    max_bytes: int
    max_bytes_together: int
    timeout_s: float
    larger: Mapping[str, int] = field(default_factory=dict)


class BodyLimit:
    """ASGI middleware: refuses a body that is too large, by its declared length or while it comes, or too slow."""

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app, self._limits, self._num_bytes = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self._limits, scope)

        async def counted() -> Message:
            before = body.num_bytes
            try:
                return await body.next(receive, others=self._num_bytes - before)
            finally:
                self._num_bytes += body.num_bytes - before

        try:
            await self._app(scope, counted, send)
        finally:
            self._num_bytes -= body.num_bytes


class _Body:
    """A body while it comes."""

    def __init__(self, limits: BodyLimits, scope: Scope) -> None:
        self._limits = limits
        self._max_bytes = limits.larger.get(scope.get("path", ""), limits.max_bytes)
        self._timeout_s = limits.timeout_s * max(self._max_bytes / limits.max_bytes, 1.0)
        declared = dict(scope["headers"]).get(b"content-length", b"")
        self._declared = int(declared) if declared.isdigit() and len(declared) < 19 else 0
        self._end_s: float | None = None
        self._is_whole, self.num_bytes = False, 0

    async def next(self, receive: Receive, *, others: int) -> Message:
        """The next message; Refused when the body, with those of ``others`` in bytes, is more than is taken."""
        if self._declared > self._max_bytes:
            raise Refused(too_large(self._max_bytes))
        if self._is_whole:  # what comes now is that the client leaves, whenever it does
            return await receive()
        message = await self._in_time(receive)
        self.num_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self.num_bytes > self._max_bytes:
            raise Refused(too_large(self._max_bytes))
        if others + self.num_bytes > self._limits.max_bytes_together:
            raise Refused(too_many_bodies(self._limits.max_bytes_together))
        return message

    async def _in_time(self, receive: Receive) -> Message:
        self._end_s = self._end_s or asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._end_s):
                return await receive()
        except TimeoutError as error:
            raise Refused(too_slow(self._timeout_s)) from error


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


class Refused(HTTPException):
    """A body that is not taken; an HTTPException, which frameworks pass on while they read a body."""

    def __init__(self, error: ApiError) -> None:
        self.error = error
        super().__init__(error.status, str(error))


async def read_json(request: Request) -> Any:
    """The body as JSON.

    Raises:
        ApiError: it is none.
        Refused: it is larger than the limit, or takes too long.
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
    if isinstance(error, Refused):
        return error.error
    hints = {
        404: "there is nothing at this path: see /v1/models for what there is",
        405: "this path has another method",
    }
    message = hints.get(error.status_code, str(error.detail))
    return ApiError(message, status=error.status_code, kind="invalid_request_error")
