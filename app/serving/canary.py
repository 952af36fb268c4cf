"""A canary as a gateway sees it: the release beside production, and whose requests it answers.

Whether a request by no named key is the canary's is decided by a hash of the canary's digest and of what the request
belongs to: its conversation (``metadata.conversation``), its end user (``user``, ``safety_identifier``), else the
opening of the conversation (system text and first question), each together with the caller's key. So all turns of a
conversation and all retries see the same release, whichever replica answers, and a larger share keeps whom the smaller
one had.

Guarantees: a canary answers nobody before its models and index are loaded; one that cannot be loaded changes nothing
but ``refused``; one that ended, or of which the ledger cannot be asked, answers no request from the moment at which
the gateway hears of it, nor beside another release or a stopped one; requests that it had begun are finished by it. Not
guaranteed: that a conversation under way when a canary begins or ends stays with its release.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from app.governance.moves import canary_of
from app.ledger.moves import Audience
from app.registry.versions import Registry
from app.serving.counters import key_subject
from app.serving.errors import said_of
from app.serving.release import RELEASE, Release, resolve_release
from app.serving.requests import Completion

logger = logging.getLogger(__name__)
ENOUGH_LOADED = 2


@dataclass(frozen=True)
class Beside:
    """A canary whose release was resolved; ``leaf`` is where the ledger says so, ``production`` what it runs beside."""

    release: Release
    audience: Audience
    leaf: int
    production: str

    def answers(self, subject: str, belongs_to: str) -> bool:
        """Whether it answers a request.

        Args:
            subject: of the caller, as limits name it.
            belongs_to: what the request has in common with those that must see the same release.
        """
        if subject in map(key_subject, self.audience.callers):
            return True
        mixed = "\0".join((self.release.digest, subject, belongs_to)).encode("utf-8", "replace")
        return int.from_bytes(sha256(mixed).digest()[:8], "big") < self.audience.share * 2**64


def resolve_canary(registry: Registry, production: Release) -> Beside | None:
    """The canary that runs beside a release, by the ledger; none beside one that was stopped.

    Raises:
        SignalboxError: as ``resolve_release``.
    """
    running = canary_of(registry, registry.get(RELEASE, production.digest).name)
    if running is None or production.stopped or running.digest == production.digest:
        return None
    release = resolve_release(registry, running.digest, canary=True)
    return Beside(release, running.audience, running.leaf, production.digest)


def belongs_to(request: Completion) -> str:
    """What tells the conversation of a request, or its user, from others."""
    extra = request.model_extra or {}
    metadata = extra.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("conversation"), str):
        return f"conversation\0{metadata['conversation']}"
    for name in ("user", "safety_identifier"):
        if isinstance(extra.get(name), str) and extra[name]:
            return f"user\0{extra[name]}"
    turns = request.conversation().messages
    first = {role: next((each["content"].strip() for each in turns if each["role"] == role), "") for role in OPENING}
    return "\0".join(("opening", *first.values()))


OPENING = ("system", "user")


class Canaries:
    """The canary of one gateway: loaded beside what serves, in the background."""

    def __init__(self, preload: Callable[[Release], Awaitable[None]], *, max_loaded: int) -> None:
        """``preload`` loads a release's versions wherever they are needed; replicas hold ``max_loaded`` of each."""
        self._preload, self._max_loaded = preload, max_loaded
        self._beside: Beside | None = None
        self._loading: asyncio.Task[None] | None = None
        self.refused = ""
        """Why the canary that the ledger names does not answer; empty when it does, is being loaded, or none runs."""

    @property
    def now(self) -> Beside | None:
        """The canary that answers."""
        return self._beside

    def take(self, beside: Beside | None) -> None:
        """Have this canary, once it is loaded; any other answers no request from now on."""
        if self._loading is not None:
            self._loading.cancel()
        self._loading, self.refused = None, ""
        if self._beside is not None and beside is not None and self._beside.release == beside.release:
            self._beside = beside
            return
        self._beside = None
        if beside is not None:
            self._loading = asyncio.ensure_future(self._load(beside))

    def refuse(self, reason: str) -> None:
        """Have none, as the one that the ledger names cannot be."""
        self.take(None)
        self.refused = reason
        logger.warning("the canary does not answer: %s", reason)

    def choose(self, production: Release, *, subject: str, belongs: Callable[[], str], model: str) -> Release:
        """The release that answers a request: the canary's where it is the canary's, and knows the model asked for."""
        beside = self._beside
        if beside is None or production.stopped or beside.production != production.digest:
            return production
        if beside.release.rungs_for(model) is None:
            return production
        return beside.release if beside.answers(subject, belongs()) else production

    def health(self) -> dict[str, Any]:
        """What ``/healthz`` says of it."""
        found = self._beside
        said = {"release": found.release.digest, "share": found.audience.share, "leaf": found.leaf} if found else None
        if said and found:
            said |= {"release_name": found.release.ref, "num_callers": len(found.audience.callers)}
        return {"canary": said, "canary_refused": self.refused}

    async def _load(self, beside: Beside) -> None:
        if self._max_loaded < ENOUGH_LOADED:
            self.refused = "replicas hold one version at a time: set max_loaded to 2 or more in the Serve config"
            return
        try:
            await self._preload(beside.release)
        except Exception as error:  # nobody awaits this task: whatever it is, it is said here or nowhere
            self.refused = said_of(error)
            logger.warning("the canary %s does not answer: %s", beside.release.ref, self.refused)
        else:
            self._beside = beside
