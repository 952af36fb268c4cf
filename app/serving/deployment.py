"""The Serve application: thin deployments around the plain classes; ``build`` puts them together.

Every deployment takes a new release by ``reconfigure``, which loads the release's versions before it returns; requests
name versions by digest, so old and new ones can be under way at the same time. A call that dies with its replica
is made again; calls are free of side effects. Replicas keep no access log: Serve's proxy does, and the request log.
"""

import asyncio
import functools
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from app.core.cluster import submit
from app.core.errors import SignalboxError
from app.inference.chat_format import Prompt
from app.inference.sampling import Delta, Generation, Sampling
from app.retrieval.filters import Scope
from app.retrieval.shards import Call
from app.serving import replicas
from app.serving.assembly import Assembly
from app.serving.cascade import Extract, Retrieval
from app.serving.embeddings import Embedded
from app.serving.errors import ApiError, ReleaseNotLoaded, unavailable
from app.serving.http import create_app
from app.serving.release import Release
from app.serving.retry import Retry
from app.serving.scaling import TOKENS
from app.serving.schema import Passage
from app.serving.settings import ReleaseConfig, ServingSettings

REPLICA_GONE = (RayActorError, WorkerCrashedError, ReplicaUnavailableError)
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "ray_actor_options": {"num_cpus": 0.1},
    "logging_config": {"enable_access_log": False},
    "max_ongoing_requests": 128,
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 30.0,
    "graceful_shutdown_timeout_s": 10.0,
}

BODIES_PER_COMPLETION = 16
"""Times as many requests may be in a gateway as completions: slow senders of bodies keep nobody else out."""

DRAIN_S = 30.0
"""A generator that goes answers what it has begun, for so long at most."""


def retry_of(settings: ServingSettings) -> Retry:
    """How calls to a replica that died are made again."""
    return Retry(REPLICA_GONE, settings.retry_deadline_s, settings.first_retry_s)


USER_CONFIG = ReleaseConfig().model_dump()


class ShardDeployment:
    """Holds those shards of divided indexes that are dealt out to it."""

    def __init__(self, settings: ServingSettings) -> None:
        self._worker = replicas.ShardHolder(settings)

    async def call(self, index: str, number: int, method: str, args: Sequence[Any]) -> Any:
        return await asyncio.to_thread(self._worker.call, index, number, method, args)


class Search:
    """Searches in a thread of this process; what came while a batch was searched is the next one."""

    def __init__(self, worker: replicas.Retriever) -> None:
        self.worker = worker

    async def retrieve(self, asked: replicas.Asked) -> Retrieval:
        result: Retrieval = await self._batch(asked)
        return result

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
    async def _batch(self, asked: list[replicas.Asked]) -> list[Retrieval]:
        return await asyncio.to_thread(self.worker.retrieve, asked)


class RetrieverDeployment:
    """Finds passages; asks the shards of a divided index at once and gathers what they say."""

    def __init__(self, settings: ServingSettings, shards: Sequence[DeploymentHandle] = ()) -> None:
        self._shards, self._retry, self._embedding = shards, retry_of(settings), asyncio.Lock()
        self._worker = replicas.Retriever(settings, scatter=self._scatter if shards else None)
        self._search = Search(self._worker)

    def _scatter(self, index: str, calls: Sequence[Call]) -> list[Any]:
        """Results of calls to shards; called in a worker's thread, made in the replica's loop."""
        return asyncio.run_coroutine_threadsafe(self._gather(index, calls), self._loop).result()

    async def _gather(self, index: str, calls: Sequence[Call]) -> list[Any]:
        def made(number: int, method: str, args: Sequence[Any]) -> Any:
            handle = self._shards[number % len(self._shards)]
            return self._retry.call(lambda: handle.call.remote(index, number, method, args))

        return list(await asyncio.gather(*(made(*call) for call in calls)))

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(replicas.preload_if_possible, self._worker, ReleaseConfig(**user_config).releases)

    async def preload(self, release: str) -> None:
        await asyncio.to_thread(self._worker.preload, release)

    async def encode(self, texts: Sequence[str]) -> Any:
        return await asyncio.to_thread(self._worker.encode, texts)

    async def embed(self, index: str, texts: Sequence[str]) -> Embedded:
        async with self._embedding:  # one at a time, so that whoever embeds much leaves the threads to searches
            return await asyncio.to_thread(self._worker.embed, index, texts)

    async def retrieve(self, asked: replicas.Asked) -> Retrieval:
        return await self._search.retrieve(asked)


class GeneratorDeployment:
    """Generates with the models of one rung."""

    def __init__(self, rung: str, settings: ServingSettings) -> None:
        self._worker = replicas.Generator(rung, settings)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        await asyncio.to_thread(replicas.preload_if_possible, self._worker, ReleaseConfig(**user_config).releases)

    async def preload(self, release: str) -> None:
        await asyncio.to_thread(self._worker.preload, release)

    def check_health(self) -> None:
        self._worker.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {TOKENS: float(self._worker.load()[-1])}

    async def load(self) -> tuple[int, ...]:
        return self._worker.load()

    async def lacks(self, model: str, sampling: Sampling) -> tuple[str, ...]:
        return await self._worker.lacks(model, sampling)

    async def generate(self, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        return await self._worker.generate(model, prompt, sampling)

    async def stream(self, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        async with aclosing(self._worker.stream(model, prompt, sampling)) as pieces:
            async for piece in pieces:
                yield piece


class ReaderDeployment:
    """Quotes sentences; the retriever embeds them."""

    def __init__(self, retriever: DeploymentHandle) -> None:
        self._worker = replicas.Reader(lambda texts: retriever.encode.remote(texts).result())

    async def read(self, question: str, passages: Sequence[Passage]) -> Extract:
        return await asyncio.to_thread(self._worker.read, question, passages)


def _fault(error: RayTaskError) -> Exception:
    """What was raised in a replica: our own as it was, anything else as Ray says it."""
    return error.cause if isinstance(error.cause, SignalboxError) else error


async def _awaited(response: Any, result: Awaitable[Any] | None = None) -> Any:
    """The result of a call, which ends in its replica when nobody waits for it any more."""
    try:
        return await (result or response)
    except asyncio.CancelledError:
        response.cancel()
        raise


class Handles:
    """The cascade's backends as Serve handles; a call that died with its replica is made again.

    With a ``search`` of its own a gateway spares the hop to the retriever, which goes on embedding for others.
    """

    def __init__(
        self,
        retriever: DeploymentHandle,
        generators: dict[str, DeploymentHandle],
        reader: DeploymentHandle,
        retry: Retry,
        search: Search | None = None,
    ) -> None:
        self._retriever, self._generators, self._reader, self._retry = retriever, generators, reader, retry
        self._search = search

    async def _call(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """The result of a call that is made again while its replica is gone; our own faults as they were raised."""
        try:
            return await self._retry.call(make)
        except RayTaskError as error:
            raise _fault(error) from error

    def _generator(self, rung: str) -> DeploymentHandle:
        """The deployment of a model; ReleaseNotLoaded where this application has none for it."""
        if rung not in self._generators:
            raise ReleaseNotLoaded(
                f"this application has no deployment for the model {rung!r}: add it to further_rungs"
            )
        return self._generators[rung]

    async def retrieve(self, index: str, question: str, top_k: int, scope: Scope) -> Retrieval:
        asked = replicas.Asked(index, question, top_k, scope)
        if self._search:
            return await self._search.retrieve(asked)
        found: Retrieval = await self._call(lambda: self._retriever.retrieve.remote(asked))
        return found

    async def embed(self, index: str, texts: Sequence[str]) -> Embedded:
        embedded: Embedded = await self._call(lambda: self._retriever.embed.remote(index, texts))
        return embedded

    async def lacks(self, rung: str, model: str, sampling: Sampling) -> tuple[str, ...]:
        if not sampling.asked:
            return ()
        handle = self._generator(rung)
        lacking: tuple[str, ...] = await self._call(lambda: handle.lacks.remote(model, sampling))
        return lacking

    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        handle = self._generator(rung)
        given: Generation = await self._call(lambda: _awaited(handle.generate.remote(model, prompt, sampling)))
        return given

    async def stream(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        handle = self._generator(rung).options(stream=True)

        async def begin() -> tuple[Any, Delta]:
            pieces = handle.stream.remote(model, prompt, sampling)
            return pieces, await _awaited(pieces, anext(pieces))

        pieces, piece = await self._call(begin)
        try:
            yield piece
            async for piece in pieces:
                yield piece
        except RayTaskError as error:
            raise _fault(error) from error
        except REPLICA_GONE as error:  # what was said is out: it cannot be begun again
            said = f"the model's replica ended in the middle of the answer ({type(error).__name__}): ask again"
            raise unavailable(said, code="replica_unavailable") from error
        finally:
            pieces.cancel()

    async def preload(self, release: Release) -> None:
        if self._search:
            await asyncio.to_thread(self._search.worker.preload, release.digest)
        handles = [self._retriever, *map(self._generator, release.models)]
        calls = [functools.partial(handle.preload.remote, release.digest) for handle in handles]
        try:
            await asyncio.gather(*map(self._call, calls))
        except ApiError:
            raise
        except (RayTaskError, SignalboxError) as error:
            cause = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
            raise ReleaseNotLoaded(f"{release.ref} cannot be loaded ({cause}): run `signalbox verify`") from error

    async def read(self, question: str, passages: Sequence[Passage]) -> Extract:
        extract: Extract = await self._call(lambda: self._reader.read.remote(question, passages))
        return extract


class GatewayDeployment:
    """The HTTP ingress; imports no text engine, and an encoder only where it searches itself."""

    def __init__(
        self,
        settings: ServingSettings,
        retriever: DeploymentHandle,
        generators: dict[str, DeploymentHandle],
        reader: DeploymentHandle,
    ) -> None:
        self._registry, self._authorities = replicas.registry_of(settings), settings.authorities
        self._search = Search(replicas.Retriever(settings)) if settings.searches_in_gateway else None
        backends = Handles(retriever, generators, reader, retry_of(settings), self._search)
        self._assembly = Assembly(settings, self._registry, backends)
        self._gateway = self._assembly.gateway

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = ReleaseConfig(**user_config)
        if self._search:
            await asyncio.to_thread(replicas.preload_if_possible, self._search.worker, config.releases)
        await self._gateway.take(config.release, attempt=config.attempt)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._gateway, self._registry, authorities=self._authorities, start_batch=self._start_batch)

    def _start_batch(self, batch_id: str) -> None:
        """Have a batch answered by what is in production; one that was submitted is not submitted again."""
        job = ["python", "-m", "jobs.answer_batches", "--batch", batch_id, "--release", self._gateway.production]
        submit(self._registry.workspace, shlex.join(job), submission_id=batch_id, env={"PYTHONPATH": str(ROOT)})

    def __del__(self) -> None:
        self._assembly.close()


def build(args: ServingSettings) -> serve.Application:
    """The application of some settings; ``args`` in a Serve config."""
    retriever = build_retriever(args)
    options = {"user_config": USER_CONFIG, "graceful_shutdown_timeout_s": DRAIN_S}
    generators = {rung: _deployment(GeneratorDeployment, rung, **options).bind(rung, args) for rung in args.rungs}
    reader = _deployment(ReaderDeployment, "reader").bind(retriever)
    gateway = _deployment(
        serve.ingress()(GatewayDeployment),
        "gateway",
        user_config=USER_CONFIG,
        max_ongoing_requests=BODIES_PER_COMPLETION * args.max_queued_requests,  # it refuses by itself, in OpenAI's form
        max_queued_requests=args.max_queued_requests,
    )
    return gateway.bind(args, retriever, generators, reader)


def build_retriever(args: ServingSettings) -> serve.Application:
    """The retriever, with the holders of shards that the settings ask for."""
    shards = [_deployment(ShardDeployment, f"shards-{number}").bind(args) for number in range(args.shard_replicas)]
    return _deployment(RetrieverDeployment, "retriever", user_config=USER_CONFIG).bind(args, shards)


def _deployment(target: type, name: str, **options: Any) -> serve.Deployment:
    return serve.deployment(target, name=name, **{**OPTIONS, **options})
