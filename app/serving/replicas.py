"""What the replicas do, without Serve: find passages, generate, quote. Versions are loaded by digest, on demand.

Requests under way together may belong to different releases, so that a swap of releases needs no pause: a search takes
a batch and returns one result per item, in order; answers of one model are drawn together by its engine.
"""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from app.core.errors import SignalboxError
from app.core.workspace import Workspace
from app.inference.chat_format import Prompt
from app.inference.pacing import Pacer
from app.inference.retrievers import PINNED, Models, made_with, source_named
from app.inference.sampling import Delta, Generation, Sampling
from app.registry.versions import Registry, open_registry
from app.retrieval.filters import PUBLIC, Scope
from app.serving.cascade import Extract, Quote, Retrieval
from app.serving.embeddings import Embedded
from app.serving.engines import Scatter, load_engine, load_index, load_shard, to_passage
from app.serving.errors import EngineStalled
from app.serving.loaded import Loaded
from app.serving.release import resolve_release
from app.serving.schema import Passage
from app.serving.settings import ServingSettings

logger = logging.getLogger(__name__)
MOST_FAILED = 5
"""Passes of an engine in a row that may fail before its replica is replaced."""
LOOK_AGAIN_S = 2.0
"""Longest time that a replica goes on with an index from which something was erased."""


def registry_of(settings: ServingSettings) -> Registry:
    """The registry that the settings name."""
    return open_registry(Workspace.find(settings.workspace))


class Worker(Protocol):
    """A replica that holds versions in memory."""

    def preload(self, ref: str) -> None: ...


def preload_if_possible(worker: Worker, refs: Sequence[str]) -> None:
    """Load releases' versions ahead of their requests; what cannot be loaded is said in the log and by the requests.

    A replica must come up without: it may still have to serve the release before, or production without its canary.
    """
    for ref in refs:
        try:
            worker.preload(ref)
        except (SignalboxError, OSError, RuntimeError, ValueError, KeyError) as error:
            logger.warning("release %s is not loaded ahead: %s", ref, error)


@dataclass(frozen=True)
class Asked:
    """A question to an index, by its digest, and what the caller may see of it."""

    index: str
    question: str
    top_k: int
    scope: Scope = PUBLIC


class Fresh:
    """Indexes, or shards of one number, by their index's digest; opened again when an erasure took something away."""

    def __init__(self, registry: Registry, load: Callable[[str], Any], *, limit: int) -> None:
        self._registry = registry
        self._loaded = Loaded[Any](lambda key: load(key.partition(" ")[0]), limit=limit)
        """By digest and mark: what was being opened while something was erased never answers for what is left."""
        self._marks: dict[str, tuple[str, float]] = {}

    def get(self, digest: str) -> Any:
        """What was opened; whether something was erased is looked up once in a while."""
        mark, looked_s = self._marks.get(digest, ("", 0.0))
        if not looked_s or time.monotonic() - looked_s >= LOOK_AGAIN_S:
            now = self._registry.store.erased_mark("index", digest)
            if now != mark:
                self._loaded.forget(f"{digest} {mark}")
            self._marks[digest] = mark, _ = now, time.monotonic()
        return self._loaded.get(f"{digest} {mark}")


class ShardHolder:
    """Holds shards of indexes and makes the calls that a retriever scatters."""

    def __init__(self, settings: ServingSettings) -> None:
        self._registry, self._limit = registry_of(settings), settings.max_loaded
        self._shards: dict[int, Fresh] = {}

    def call(self, digest: str, number: int, method: str, args: Sequence[Any]) -> Any:
        """The result of a method of a shard (``app.retrieval.shards.Shard``)."""
        load = functools.partial(_load_shard, self._registry, number)
        held = self._shards.setdefault(number, Fresh(self._registry, load, limit=self._limit))
        return getattr(held.get(digest), method)(*args)


def _load_shard(registry: Registry, number: int, digest: str) -> Any:
    return load_shard(registry, digest, number)


class Retriever:
    """Embeds questions and searches indexes, each with the encoders and the re-ranker that it was made with.

    Indexes of different retrievers are served side by side. ``encode`` is the pinned encoder, whatever a release
    searches with: the reader's thresholds were measured with it.
    """

    def __init__(self, settings: ServingSettings, *, scatter: Scatter | None = None) -> None:
        """``scatter`` makes calls to the shards of divided indexes; None: they are opened here."""
        self._registry = registry_of(settings)
        self._models: Loaded[Models] = Loaded(
            lambda name: source_named(name, registry=self._registry).load(num_threads=settings.num_threads),
            limit=settings.max_loaded + 1,
        )
        load = functools.partial(load_index, self._registry, scatter=scatter)
        self._indexes = Fresh(self._registry, load, limit=settings.max_loaded)
        self._made_with: dict[str, str] = {}
        self._models.get(PINNED)

    def preload(self, ref: str) -> None:
        """Load the index of a release, all its shards, and its retriever, so that its first request need not wait."""
        len(self._searcher(resolve_release(self._registry, ref, canary=True).index).index)

    def _searcher(self, digest: str) -> Any:
        """An index with what it was made with."""
        from app.retrieval.searcher import Searcher

        index = self._indexes.get(digest)
        if digest not in self._made_with:
            self._made_with[digest] = made_with(self._registry.get("index", digest), registry=self._registry)
        return Searcher(index, self._models.get(self._made_with[digest]))

    def encode(self, texts: Sequence[str]) -> Any:
        """Embeddings by the pinned encoder, float32 (n, 384)."""
        return self._models.get(PINNED).encoder.encode(list(texts))

    def embed(self, index: str, texts: Sequence[str]) -> Embedded:
        """Embeddings by an index's own encoder, bit for bit those that the index would hold of these texts."""
        import numpy as np

        encoder = self._searcher(index).encoder
        counts = encoder.count_tokens(texts)
        fits = max(counts, default=0) <= encoder.max_tokens
        vectors = encoder.encode_apart(texts) if fits else np.zeros((0, encoder.dim), dtype=np.float32)
        return Embedded(counts, encoder.max_tokens, vectors)

    def retrieve(self, asked: Sequence[Asked]) -> list[Retrieval]:
        """Passages and embedding for each question; one who may see less gets less, in the same batch too."""
        results: list[Retrieval | None] = [None] * len(asked)
        for index, rows in _grouped([each.index for each in asked]).items():
            for row, found in zip(rows, self._search(index, [asked[row] for row in rows]), strict=True):
                results[row] = found
        return [result for result in results if result is not None]

    def _search(self, index: str, asked: Sequence[Asked]) -> list[Retrieval]:
        """What one index has for its questions, which are encoded together."""
        searcher, results = self._searcher(index), dict[int, Retrieval]()
        vectors = searcher.questions.encode([each.question for each in asked])
        for (top_k, scope), rows in _grouped([(each.top_k, each.scope) for each in asked]).items():
            questions = [asked[row].question for row in rows]
            found = searcher.search(questions, top_k, scope=scope, vectors=vectors[rows])
            for row, hits in zip(rows, found, strict=True):
                results[row] = Retrieval([to_passage(hit) for hit in hits], vectors[row].tolist())
        return [results[row] for row in range(len(asked))]


class Generator:
    """Generates with one rung's models; requests of one model are answered together, whenever they come."""

    def __init__(self, rung: str, settings: ServingSettings) -> None:
        self._rung, self._registry = rung, registry_of(settings)
        self._stall_after_s = settings.stall_after_s
        load, limit = functools.partial(load_engine, self._registry, settings=settings), settings.max_loaded
        self._bases: Loaded[Any] = Loaded(load, limit=limit)
        self._engines: Loaded[Any] = Loaded(functools.partial(load, bases=self._bases), limit=limit)
        self._loading: dict[str, asyncio.Future[Any]] = {}
        self._pacer = Pacer(
            least_s=settings.stream_interval_s,
            most_s=settings.stream_interval_most_s,
            pieces_per_s=settings.stream_pieces_per_s,
        )

    def preload(self, ref: str) -> None:
        """Load the rung's model of a release; a release without the rung loads nothing."""
        model = resolve_release(self._registry, ref, canary=True).models.get(self._rung)
        if model:
            self._engines.get(model.digest)

    def check(self) -> None:
        """Whether the engines still move.

        Raises:
            EngineStalled: one has work and has not taken a step for too long, or takes none that does not fail.
        """
        num_failed = max((engine.num_failed for engine in self._engines.items()), default=0)
        if num_failed >= MOST_FAILED:
            raise EngineStalled(f"an engine of {self._rung} failed {num_failed} times in a row: Serve replaces it")
        longest_s = max((engine.stalled_s for engine in self._engines.items()), default=0.0)
        if longest_s > self._stall_after_s:
            raise EngineStalled(f"an engine of {self._rung} has not moved for {longest_s:.0f} s: Serve replaces it")

    def load(self) -> tuple[int, ...]:
        """Requests under way, waiting, given up since the beginning, and tokens in flight, of all models in memory."""
        loads = {id(engine.steps): engine.load for engine in self._engines.items()}  # adapters share a model's steps
        return tuple(map(sum, zip(*loads.values(), strict=True))) if loads else (0, 0, 0, 0)

    async def lacks(self, model: str, sampling: Sampling) -> tuple[str, ...]:
        """What a model's engine has not, by the names of the fields."""
        lacking: tuple[str, ...] = (await self._engine(model)).lacks(sampling)
        return lacking

    async def generate(self, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        """One answer; cancelling the call ends it in the engine."""
        given: Generation = await (await self._engine(model)).answer(prompt, sampling)
        return given

    async def stream(self, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        """An answer piece by piece; closing the iterator ends it in the engine."""
        engine = await self._engine(model)
        with self._pacer.stream() as pace:
            async with aclosing(engine.stream(prompt, sampling, pace=pace)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _engine(self, model: str) -> Any:
        """A model's engine; all who ask while it is loaded wait for the same load, in one thread."""
        if (found := self._engines.find(model)) is not None:
            return found
        if (loading := self._loading.get(model)) is None:
            loading = self._loading[model] = asyncio.ensure_future(asyncio.to_thread(self._engines.get, model))
            loading.add_done_callback(lambda _: self._loading.pop(model))
        return await asyncio.shield(loading)


class Reader:
    """Quotes sentences; embeds through the function that it is given."""

    def __init__(self, encode: Callable[[Sequence[str]], Any]) -> None:
        self._encoder = _RemoteEncoder(encode)

    def read(self, question: str, passages: Sequence[Passage]) -> Extract:
        """The best sentences of the passages."""
        from app.inference.reader import read_extract

        extract = read_extract(question, passages, self._encoder)
        by_id = {passage.chunk_id: passage for passage in passages}
        quotes = [Quote(by_id[citation.chunk_id], citation.quote) for citation in extract.citations]
        return Extract(extract.text, extract.confidence, quotes)


class _RemoteEncoder:
    """An encoder that lives in another replica."""

    def __init__(self, encode: Callable[[Sequence[str]], Any]) -> None:
        self._encode = encode

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Any:
        return self._encode(list(texts))


def _grouped(keys: Sequence[Hashable]) -> dict[Any, list[int]]:
    """Positions of every key, in order."""
    groups: dict[Any, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return groups
