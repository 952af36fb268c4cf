"""``/v1/files`` and ``/v1/batches`` over HTTP, in OpenAI's form.

A batch is begun by submitting ``jobs.answer_batches`` to the cluster, under the batch's id, so that it is begun once.
Guarantees: whoever shows no key that was granted sees the files of those who show none. Not guaranteed: that the
gateway's machine shares its disk with the job's; on several machines the workspace must be a folder that all see.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Query, Request, UploadFile
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app.core.workspace import Workspace
from app.serving.access import AccessList
from app.serving.batches import Batches
from app.serving.body import parse, read_json
from app.serving.errors import invalid

FILES, BATCHES = "/v1/files", "/v1/batches"
MAX_PAGE = 10_000
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


class BatchRequest(BaseModel):
    """A batch as it is asked for."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = Field(default=None, max_length=16)


def add_batches(app: FastAPI, workspace: Workspace, access: AccessList, start: Callable[[str], None]) -> None:
    """Add the routes; ``start`` has a batch answered, given its id."""

    def of(request: Request) -> Batches:
        found = access.find(request.headers.get("authorization"))
        return Batches(workspace, found[0] if found else "")

    _add_files(app, of)

    @app.post("/v1/batches")
    async def begin(request: Request) -> dict[str, Any]:
        asked = parse(BatchRequest, await read_json(request))
        batch = await asyncio.to_thread(
            of(request).begin,
            file_id=asked.input_file_id,
            endpoint=asked.endpoint,
            window=asked.completion_window,
            metadata=asked.metadata or {},
        )
        if batch["status"] != "failed":
            await asyncio.to_thread(start, batch["id"])
        return batch

    @app.get("/v1/batches")
    async def batches(request: Request, after: str = "", limit: Limit = 20) -> dict[str, Any]:
        return _page(await asyncio.to_thread(of(request).batches), after, limit)

    @app.get("/v1/batches/{batch_id}")
    async def batch(batch_id: str, request: Request) -> dict[str, Any]:
        return await asyncio.to_thread(of(request).batch, batch_id)

    @app.post("/v1/batches/{batch_id}/cancel")
    async def cancel(batch_id: str, request: Request) -> dict[str, Any]:
        return await asyncio.to_thread(of(request).cancel, batch_id)


def _add_files(app: FastAPI, of: Callable[[Request], Batches]) -> None:
    @app.post(FILES)
    async def upload(request: Request, file: Annotated[UploadFile, File()], purpose: Annotated[str, Form()]) -> Any:
        if purpose != "batch":
            raise invalid(f"files are for batches here, not for {purpose!r}: send purpose=batch", param="purpose")
        return await asyncio.to_thread(of(request).add_file, file.filename or "batch.jsonl", await file.read())

    @app.get(FILES)
    async def files(
        request: Request, after: str = "", limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE
    ) -> Any:
        return _page(await asyncio.to_thread(of(request).files), after, limit)

    @app.get(FILES + "/{file_id}")
    async def about(file_id: str, request: Request) -> dict[str, Any]:
        return await asyncio.to_thread(of(request).file, file_id)

    @app.get(FILES + "/{file_id}/content")
    async def content(file_id: str, request: Request) -> Response:
        return Response(await asyncio.to_thread(of(request).content, file_id), media_type="application/octet-stream")

    @app.delete(FILES + "/{file_id}")
    async def remove(file_id: str, request: Request) -> dict[str, Any]:
        return await asyncio.to_thread(of(request).remove_file, file_id)


def _page(found: list[dict[str, Any]], after: str, limit: int) -> dict[str, Any]:
    """A part of a list, behind the one that is named."""
    ids = [each["id"] for each in found]
    begin = ids.index(after) + 1 if after in ids else 0
    data = found[begin : begin + limit]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": begin + limit < len(found)}
