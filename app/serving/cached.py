"""The answer cache as one request meets it: off, missed, or hit; and an answer given again."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from app.serving.caches import AnswerCache, Entry, Place
from app.serving.cascade import Answer, Backends
from app.serving.errors import invalid
from app.serving.release import ROUTED, Release
from app.serving.requests import Asked
from app.serving.responses import AnyResponse, Head
from app.serving.schema import Usage

HEADER = "x-signalbox-cache"
MODES = ("off", "exact", "semantic")
State = Literal["off", "miss", "hit"]
BYTES_PER_FLOAT = 32
FIXED_BYTES = 4096


@dataclass(frozen=True)
class Hit:
    """An answer that is given again."""

    entry: Entry

    @property
    def given(self) -> Sequence[Answer]:
        """What the request log says of it."""
        return self.entry.given

    def again(self, head: Head, *, latency_s: float, asker: str = "") -> AnyResponse:
        """The response under another id: it costs nothing, and names the request that it was made for."""
        before = self.entry.response
        zero = dict.fromkeys(("num_prompt_tokens", "num_completion_tokens", "num_cached_tokens", "cost_usd"), 0)
        made_for = before.signalbox.request_id
        changed = {
            **zero,
            "request_id": head.request_id,
            "asked_by": asker,
            "latency_s": latency_s,
            "cached_from": made_for,
            "routing": None,
        }
        account = before.signalbox.model_copy(update=changed)
        update = {"id": head.id, "created": head.created, "signalbox": account, "usage": Usage.of(account)}
        return before.model_copy(update=update)


@dataclass(frozen=True)
class Looked:
    """What a request found."""

    state: State = "off"
    hit: Hit | None = None
    put: Callable[[AnyResponse, Sequence[Answer]], Awaitable[None]] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """``hit`` or ``miss``, for whoever opted in."""
        return {} if self.state == "off" else {HEADER: self.state}

    async def keep(self, response: AnyResponse, given: Sequence[Answer]) -> None:
        """Keep a new answer, when the request opted in."""
        if self.put is not None:
            await self.put(response, given)


class Lookup:
    """A gateway's cache with what it needs to look into it."""

    def __init__(
        self,
        cache: AnswerCache,
        backends: Backends,
        erased: Callable[[str], Awaitable[str]],
        void: Callable[[Release], Awaitable[str]],
    ) -> None:
        """Take the cache; ``erased`` gives the mark of an index's last erasure, ``void`` why a guarantee is void."""
        self._cache, self._backends, self._erased, self._void = cache, backends, erased, void

    async def of(
        self, mode: str, body: Mapping[str, Any], asked: Asked, release: Release, labels: frozenset[str]
    ) -> Looked:
        """Look for the answer to a request.

        Raises:
            ApiError: there is no such mode.
        """
        if mode not in MODES:
            raise invalid(f"{HEADER} is off, exact or semantic", param="cache")
        if mode == "off":
            return Looked()
        where = {"release": release.digest, "standing": await self._standing(asked, release)}
        erased = await self._erased(release.index)
        place = Place.of(body, asked.question, kind=asked.kind, labels=labels, erased=erased, **where)
        found, vector = self._cache.exact(place), None
        if mode == "semantic" and found is None:
            embedded = await self._backends.embed(release.index, [asked.question])
            vector = embedded.vectors[0] if len(embedded.vectors) else None
            found = None if vector is None else self._cache.nearest(place, vector)

        async def put(response: AnyResponse, given: Sequence[Answer]) -> None:
            self._cache.put(place, _entry(response, given, vector))

        return Looked("hit", Hit(found)) if found else Looked("miss", put=put)

    async def _standing(self, asked: Asked, release: Release) -> str:
        if release.stopped:
            return "stopped"
        return await self._void(release) if asked.model == ROUTED else ""


def _entry(response: AnyResponse, given: Sequence[Answer], vector: Any) -> Entry:
    """An entry without the passages, which nobody asks for again."""
    slim = [replace(each, retrieval=replace(each.retrieval, passages=[])) for each in given]
    num_floats = sum(len(each.retrieval.embedding) for each in slim)
    num_bytes = len(json.dumps(response.body())) + BYTES_PER_FLOAT * num_floats + FIXED_BYTES
    return Entry(response, slim, num_bytes, vector)
