"""What the gateway knows besides a request when it chooses a model: guarantee, conversation, chance and limits.

Whether the guarantee of a release's router stands is read from the ledger: in the background every ``period_s``, and
while a request waits for it where nothing recent is known (at first, and after a pause). A conversation is known by its
opening (system text, first question, first answer, key), or by ``metadata.conversation``; who answered it is kept in
the replica's memory.

Guarantees: a void is seen by a replica's requests at most ``period_s`` and the time of one read after its leaf; where
the ledger cannot be read for ``PATIENCE`` periods, the guarantee counts as void. Not guaranteed: that another replica
knows a conversation; it may answer with a smaller model.
"""

import asyncio
import logging
import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import SignalboxError
from app.governance.guarantees import standing_of
from app.registry.versions import Registry
from app.routing.course import Circumstances
from app.serving.cascade import Answer
from app.serving.release import Release
from app.serving.requests import Completion
from app.serving.settings import ServingSettings

logger = logging.getLogger(__name__)
PATIENCE = 5
MAX_CONVERSATIONS = 10_000


@dataclass(frozen=True)
class Known:
    """What was read about a router last, when, and when that was last tried."""

    void: str = ""
    read_s: float = -math.inf
    tried_s: float = -math.inf


class Watch:
    """Keeps an eye on whether routers' guarantees stand."""

    def __init__(
        self, look: Callable[[str], str], *, period_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``look`` reads why the guarantee of a router (by its digest) is void; empty while it stands."""
        self._look, self._period_s, self._clock = look, period_s, clock
        self._known: dict[str, Known] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def void(self, router: str) -> str:
        """Why the guarantee of a router is void, as it was read last; empty while it stands."""
        known = self._known.get(router, Known())
        if self._clock() - known.tried_s >= self._period_s:
            reading = self._begin(router)
            if self._is_old(known):
                await asyncio.shield(reading)
                known = self._known[router]
        return "the ledger could not be read for too long" if self._is_old(known) and not known.void else known.void

    def _is_old(self, known: Known) -> bool:
        return self._clock() - known.read_s > PATIENCE * self._period_s + 1

    def _begin(self, router: str) -> "asyncio.Task[None]":
        """One read of a router at a time, whoever waits for it."""
        if router not in self._reading or self._reading[router].done():
            self._reading[router] = asyncio.ensure_future(self._read(router))
        return self._reading[router]

    async def _read(self, router: str) -> None:
        try:
            void = await asyncio.to_thread(self._look, router)
            self._known[router] = Known(void, self._clock(), self._clock())
        except (SignalboxError, SQLAlchemyError, OSError) as error:
            logger.warning("whether the guarantee of %s stands cannot be read: %s", router, error)
            self._known[router] = replace(self._known.get(router, Known()), tried_s=self._clock())


class Conversations:
    """Which model answered a conversation last; the longest unused go first."""

    def __init__(self, limit: int = MAX_CONVERSATIONS) -> None:
        self._rungs: OrderedDict[str, str] = OrderedDict()
        self._limit = limit

    def rung(self, key: str) -> str:
        """The model that answered; empty when it is not known."""
        if key in self._rungs:
            self._rungs.move_to_end(key)
        return self._rungs.get(key, "")

    def keep(self, key: str, rung: str) -> None:
        """Remember who answered."""
        self._rungs[key] = rung
        self._rungs.move_to_end(key)
        while len(self._rungs) > self._limit:
            self._rungs.popitem(last=False)


class Steering:
    """One gateway's."""

    def __init__(
        self,
        watch: Watch,
        *,
        explore: float | None = None,
        deadline_s: float | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``explore`` as in ``ServingSettings``; ``chance`` draws evenly from 0 to 1."""
        self._watch, self._explore, self._deadline_s, self._chance = watch, explore, deadline_s, chance
        self._conversations = Conversations()

    @classmethod
    def of(cls, settings: ServingSettings, registry: Registry) -> Self:
        """The steering of a gateway replica."""
        watch = Watch(lambda router: standing_of(registry, router).objection, period_s=settings.guarantee_period_s)
        return cls(watch, explore=settings.explore, deadline_s=settings.answer_deadline_s)

    @classmethod
    def unbound(cls) -> Self:
        """The steering of what nobody waits for and nothing is promised of: no guarantee is looked up, no chance."""

        def nothing(router: str) -> str:
            return ""

        return cls(Watch(nothing, period_s=60.0), explore=0.0)

    async def begin(
        self, request: Completion, release: Release, *, max_new_tokens: int, authorization: str | None
    ) -> Circumstances:
        """The circumstances of a request."""
        key = _conversation(request, authorization)
        return Circumstances(
            num_chars=len(release.prompt) + request.conversation().num_chars,
            max_new_tokens=max_new_tokens,
            deadline_s=self._deadline_s,
            floor=self._conversations.rung(key) if key else "",
            void=await self.void(release),
            explore=self._share(release),
            chance=self._chance(),
        )

    def end(self, request: Completion, given: Answer, *, authorization: str | None) -> None:
        """Remember the router's own choice, not that of chance; one that was asked for by name is none."""
        rung = given.routing.choice if given.routing else ""
        if rung and (key := _conversation(request, authorization, answer=given.text)):
            self._conversations.keep(key, rung)

    async def void(self, release: Release) -> str:
        """Why what a release's router promised does not hold; empty while it does."""
        if release.router is None or release.router.guarantee is None:
            return release.mismatch
        return release.mismatch or await self._watch.void(release.router_digest)

    def _share(self, release: Release) -> float:
        """No more than the guarantee counted is dealt out by chance."""
        promised = release.router.guarantee if release.router else None
        if promised is None:
            return self._explore or 0.0
        return promised.explored if self._explore is None else min(self._explore, promised.explored)


def _conversation(request: Completion, authorization: str | None, *, answer: str = "") -> str:
    """What a conversation is known by; empty for one without an answer yet."""
    named = (request.model_extra or {}).get("metadata")
    if isinstance(named, dict) and isinstance(named.get("conversation"), str):
        return _digest([authorization or "", named["conversation"]])
    turns = request.conversation().messages
    first = {role: next((each["content"].strip() for each in turns if each["role"] == role), "") for role in ROLES}
    first["assistant"] = first["assistant"] or answer.strip()
    return _digest([authorization or "", *first.values()]) if first["assistant"] else ""


ROLES = ("system", "user", "assistant")


def _digest(parts: Sequence[str]) -> str:
    return sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()
