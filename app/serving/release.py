"""A release as the gateway needs it: which versions answer, at which prices, under which router.

Guarantees: a release that no promotion leaf put into production is refused here, so that neither a Serve config nor the
Python API brings it traffic, but for the canary that runs where a canary is asked for; and one that was stopped has no
models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.governance.moves import canary_leaf, is_stopped, moves, placed_now
from app.governance.release import ladder_of, passages_of, price_name
from app.inference.chat_format import Prompt
from app.inference.conversation import Conversation
from app.inference.encoder import ENCODER_DIGEST, NAME
from app.inference.passages import Passage, grounded, identity_of
from app.inference.retrievers import retriever_of
from app.ledger.log import PROMOTION
from app.registry.versions import Registry, Version, VersionNotFound
from app.registry.whole import check_manifest, whole_folder
from app.routing.router import Router
from app.serving.errors import NoRelease, NotPromoted

EXTRACTIVE = "extractive"
ENCODER = "encoder"
ROUTED = "signalbox"
RELEASE = "release"


@dataclass(frozen=True)
class Model:
    """A model of a release: its digest and its human reference."""

    digest: str
    ref: str


PINNED = Model(ENCODER_DIGEST, NAME)


@dataclass(frozen=True)
class Release:
    """One release, resolved. ``models`` holds the rungs that it has, cheapest first."""

    digest: str
    ref: str
    index: str
    models: Mapping[str, Model]
    router: Router | None
    prices: Mapping[str, float] = field(default_factory=dict)
    prompt: str = ""
    stopped: bool = False
    """Whether the ledger says that its models are out of service: ``models`` is empty then."""
    encoder: Model = PINNED
    """What the index was made with: the pinned encoder, or a retriever's; the reference is the retriever's."""
    router_digest: str = ""
    context_passages: int = 0
    """How many of the passages found the models are given."""
    mismatch: str = ""
    """Why the router's forecasts and guarantee do not hold for these models or this index; empty when they do."""

    def price(self, rung: str) -> float:
        """US dollars for 1,000 tokens of a model, prompt and completion alike."""
        return float(self.prices.get(price_name(rung), 0.0))

    def prompt_for(self, conversation: Conversation, found: Sequence[Passage] = ()) -> Prompt:
        """What a model is given: the conversation, behind the release's system prompt when it has one, and as many of
        the passages found as the release gives."""
        return grounded(conversation.prompt(self.prompt), found, self.context_passages)

    def top_k(self, wanted: int) -> int:
        """How many passages to look for: those that are wanted anyway, and no fewer than the models are given."""
        return max(wanted, self.context_passages)

    @property
    def passages(self) -> dict[str, Any] | None:
        """What the models must have been judged with; None where they are given no passages."""
        return identity_of(self.index, self.context_passages) if self.context_passages else None

    @property
    def model_names(self) -> list[str]:
        """Names that a request may ask for."""
        return [ROUTED, *self.models, EXTRACTIVE, *(model.ref for model in self.models.values())]

    @property
    def encoder_names(self) -> list[str]:
        """Names that a request for embeddings may ask for."""
        return [ENCODER, ROUTED, self.encoder.ref, self.encoder.digest]

    def rungs_for(self, name: str) -> list[str] | None:
        """Models to ask for a requested name: all of them when routed, none for extractive; None: no such name."""
        if name in (ROUTED, EXTRACTIVE):
            return list(self.models) if name == ROUTED else []
        known = [rung for rung, model in self.models.items() if name in (rung, model.ref, model.digest)]
        return known[:1] or None


def resolve_release(registry: Registry, ref: str, *, canary: bool = False) -> Release:
    """Read a release by its reference or digest; one that was stopped has no models.

    Args:
        canary: the one that runs will do, too; not where the release is to answer everybody.

    Raises:
        NoRelease: there is no such release, which before the first promotion is the normal state.
        NotPromoted: it never was in production, and is no canary that will do.
        ArtifactChanged: its manifest or its router is not what was published.
        RetrieverMismatch: its index and the index's retriever do not belong together.
    """
    try:
        version = registry.get(RELEASE, ref)
    except VersionNotFound as error:
        raise NoRelease(f"no release {ref!r} serves yet: promote one, then deploy again ({error})") from error
    _check_promoted(version, registry, canary=canary)
    return read_release(registry, version)


def read_release(registry: Registry, version: Version) -> Release:
    """What is in a release, promoted or not, for whoever brings it no traffic.

    Raises:
        ArtifactChanged, RetrieverMismatch: as for ``resolve_release``.
    """
    check_manifest(version, registry)
    facts, stopped = version.facts, is_stopped(registry, version)
    digests = {} if stopped else ladder_of(version)
    router = None if stopped else _load_router(registry, facts)
    return Release(
        digest=version.digest,
        ref=version.ref,
        index=facts["index"],
        models={rung: Model(digest, registry.get("model", digest).ref) for rung, digest in digests.items()},
        router=router,
        prices=facts.get("prices") or {},
        prompt=facts.get("prompt") or "",
        stopped=stopped,
        encoder=_encoder_of(registry, facts["index"]),
        router_digest=facts.get("router") or "",
        context_passages=passages_of(version),
        mismatch=router.mismatch({**digests, "index": facts["index"]}) if router else "",
    )


def resolve_production(registry: Registry, ref: str) -> Release:
    """As ``resolve_release``, and it is what is in production now under its name.

    Raises:
        NotPromoted: it never was, or another release has been put in its place since.
    """
    found = resolve_release(registry, ref)
    now = placed_now(registry, registry.get(RELEASE, found.digest))
    if now != found.digest:
        said = f"{found.ref} was in production once, {registry.get(RELEASE, str(now)).ref} is now"
        raise NotPromoted(f"{said}: `signalbox rollback {found.ref} --reason ...` puts it back and serves it")
    return found


def _check_promoted(version: Version, registry: Registry, *, canary: bool) -> None:
    promoted = (leaf.statement for leaf in moves(registry, version) if leaf.statement.kind == PROMOTION)
    if any(each.subject == version.digest for each in promoted):
        return
    running = canary_leaf(registry, version.name) if canary else None
    if running is None or running.statement.subject != version.digest:
        said = f"{version.ref} was never promoted, and nothing else may serve"
        raise NotPromoted(f"{said}: have it approved, then run `signalbox promote {version.ref} --reason ...`")


def _encoder_of(registry: Registry, index: str) -> Model:
    """The encoder of an index; the pinned one of an index that is not there, which cannot be loaded anyway."""
    try:
        retriever = retriever_of(registry.get("index", index), registry=registry)
    except VersionNotFound:
        return PINNED
    return Model(str(retriever.facts["encoder"]), retriever.ref) if retriever else PINNED


def _load_router(registry: Registry, facts: Mapping[str, Any]) -> Router | None:
    if not facts.get("router"):
        return None
    version: Version = registry.get("router", facts["router"])
    return Router.load(whole_folder(version, registry))
