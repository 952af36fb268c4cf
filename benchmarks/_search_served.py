"""The search through Ray Serve: a workspace with a cluster of its own, the whole application, a no-op beside it."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx

from app.core.cluster import connect, down, up
from app.core.workspace import Workspace
from app.governance.approvals import approve
from app.governance.keys import new_key
from app.loop import Knowledge, build_retrieval_release, put_into_production
from app.registry.versions import Registry, Version, open_registry
from app.serving.deploy import deploy, find_serve_url

NUM_CLIENTS = 4


@contextmanager
def serving(folder: Path, index: Path) -> Iterator[str]:
    """The URL of an application that searches the index in a folder; ``/noop`` answers nothing at once."""
    from ray import serve

    workspace = Workspace.find(folder)
    up(workspace)
    try:
        release = promoted(open_registry(workspace), index)
        deploy(workspace=workspace, release_ref=release.digest, timeout_s=300)
        with connect(workspace, log_to_driver=False):
            serve.run(_noop(), name="noop", route_prefix="/noop")
            yield find_serve_url(workspace)
    finally:
        down(workspace)


def promoted(registry: Registry, index: Path) -> Version:
    """A release that only quotes, over the index in a folder: judged, approved and promoted as any other."""
    facts = {"num_documents": 1, "num_rejected": 0, "num_chunks": 1}
    dataset = registry.publish("dataset", "bench", inputs={"of": "the benchmark"}, facts=facts)
    version = registry.publish("index", "bench", folder=index, inputs={}, parents=[dataset.digest])
    release, verdict = build_retrieval_release(
        "assistant", knowledge=Knowledge(dataset, version, dataset), registry=registry
    )
    signer = new_key(registry, "bench", role="approver", person="the benchmark")
    said = {"printed_name": "the benchmark", "meaning": "approved for production"}
    approve(verdict, release, signer=signer, registry=registry, **said)
    put_into_production(release, registry=registry, reason="to be measured")
    return release


def _noop() -> Any:
    from ray import serve
    from starlette.responses import JSONResponse

    class Noop:
        async def __call__(self, request: Any) -> Any:
            await request.body()
            return JSONResponse({})

    return serve.deployment(Noop, name="noop", ray_actor_options={"num_cpus": 0.1}).bind()


def measure(url: str, questions: Sequence[str], raw: Callable[[str], Any], *, num: int) -> dict[str, float]:
    """Latencies in ms of a no-op call, of ``/v1/search`` and of ``raw``, taken in turns; then queries a second."""
    times: dict[str, list[float]] = {"noop": [], "search": [], "raw": []}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for number, question in enumerate(islice(cycle(questions), num + 5)):
            body = {"query": question, "top_k": 10}
            for name, act in (
                ("noop", lambda body=body: http.post("/noop", json=body).raise_for_status()),
                ("search", lambda body=body: http.post("/v1/search", json=body).raise_for_status()),
                ("raw", lambda question=question: raw(question)),
            ):
                started_s = time.perf_counter()
                act()
                if number >= 5:
                    times[name].append(1000 * (time.perf_counter() - started_s))
    figures = {f"{name}_p50_ms": statistics.median(taken) for name, taken in times.items()}
    figures |= {f"{name}_p95_ms": statistics.quantiles(taken, n=20)[-1] for name, taken in times.items()}
    return figures | {"search_qps": _rate(url, questions, num=num)}


def _rate(url: str, questions: Sequence[str], *, num: int) -> float:
    def ask(part: int) -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            for question in islice(cycle(questions), part, num, NUM_CLIENTS):
                http.post("/v1/search", json={"query": question, "top_k": 10}).raise_for_status()

    started_s = time.perf_counter()
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        list(pool.map(ask, range(NUM_CLIENTS)))
    return num / (time.perf_counter() - started_s)
