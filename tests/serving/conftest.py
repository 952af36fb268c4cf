"""Backends that answer at once, for tests without Serve; and the application on the session's cluster."""

import asyncio
import os
import re
import subprocess
from dataclasses import dataclass, field

import numpy as np
import pytest

from app.inference.passages import Grounded
from app.inference.sampling import Delta, Generation
from app.routing.features import FEATURE_NAMES
from app.routing.router import Cascade, Router, Rung
from app.serving.access import AccessList
from app.serving.cascade import Extract, Quote, Retrieval
from app.serving.counters import Counters
from app.serving.embeddings import Embedded
from app.serving.errors import NoRelease, ReleaseNotLoaded
from app.serving.gateway import Gateway
from app.serving.limits import Limits
from app.serving.log import RequestLog
from app.serving.release import Model, Release
from app.serving.schema import Passage, PassageScores
from app.serving.settings import ServingSettings

PASSAGE = Passage(
    chunk_id="c1",
    document_id="d1",
    source="loans.md",
    title="Loans",
    heading_path=("Loans", "Fees"),
    text="The fee is 2,000 euros a year.",
    score=0.9,
    similarity=0.8,
    scores=PassageScores(dense=0.8, lexical=3.0, fused=0.9),
)


def rung(threshold):
    """A router's rung that looks at ``supported`` alone: P is 0.98 with it, 0.02 without."""
    weights = tuple(8.0 if name == "supported" else 0.0 for name in FEATURE_NAMES)
    return Rung(-4.0, weights, threshold, 100, 50, 0.5, 1.0, 0.95)


def make_release(digest="sha256:" + "a" * 64, *, rungs=("small", "large"), router=True):
    models = {name: Model(f"sha256:{name}", f"{name}@3") for name in rungs}
    known = Router({name: rung(0.5) for name in rungs}, Cascade({}, 1.0, 1.0, 0.95)) if router else None
    prices = {"small_usd_per_1k_tokens": 0.1, "large_usd_per_1k_tokens": 1.0}
    return Release(digest, "assistant@1", "sha256:index", models, known, prices)


@dataclass
class FakeBackends:
    """Says what ``texts`` holds for a rung, and notes what it was asked."""

    texts: dict = field(default_factory=lambda: {"small": "2000 euros", "large": "2,000 euros"})
    asked: list = field(default_factory=list)
    prompts: list = field(default_factory=list)
    scopes: list = field(default_factory=list)
    samplings: list = field(default_factory=list)
    lacking: tuple = ()
    most_passages: int = 20
    """What the context of the models has room for."""
    open: int = 0
    """Streams that nobody has closed yet."""

    async def retrieve(self, index, question, top_k, scope):
        self.asked.append(("retrieve", index))
        self.scopes.append(scope)
        return Retrieval([PASSAGE][:top_k], [0.1] * 384)

    async def embed(self, index, texts):
        self.asked.append(("embed", index, len(texts)))
        counts, lengths = [len(text.split()) + 2 for text in texts], [[len(text), 1.0] for text in texts]
        return Embedded(counts, 256, np.array(lengths, dtype=np.float32))

    async def lacks(self, rung, model, sampling):
        return tuple(name for name in self.lacking if name in sampling.asked)

    async def stream(self, rung, model, prompt, sampling):
        self.open += 1
        try:
            whole = await self.generate(rung, model, prompt, sampling)
            *words, last = re.findall(r"\S+\s*", whole.text) or [whole.text]
            for word in words:
                await asyncio.sleep(0)
                yield Delta(text=word, num_passages=whole.num_passages)
            yield Delta(text=last, num_passages=whole.num_passages, whole=whole)
        finally:
            self.open -= 1

    async def generate(self, rung, model, prompt, sampling):
        await asyncio.sleep(0)
        self.asked.append((rung, model, sampling.max_new_tokens))
        self.samplings.append(sampling)
        self.prompts.append(prompt)
        text = self.texts[rung]
        fits = min(len(prompt.passages), self.most_passages) if isinstance(prompt, Grounded) else 0
        counted = {"num_prompt_tokens": 10 + 100 * fits, "num_completion_tokens": 4, "num_passages": fits}
        return Generation(text=text, mean_logprob=-0.1, min_logprob=-0.3, **counted)

    async def preload(self, release):
        if release.index == "sha256:broken":
            raise ReleaseNotLoaded("the index cannot be loaded: run `signalbox verify`")
        self.asked.append(("preload", release.digest))

    async def read(self, question, passages):
        self.asked.append(("read", len(passages)))
        return Extract("The fee is 2,000 euros a year.", 0.7, [Quote(each, each.text) for each in passages])


@pytest.fixture
def backends():
    return FakeBackends()


@pytest.fixture
def request_log(registry):
    log = RequestLog(
        registry.workspace.requests_dir, ledger=registry.ledger, flush_s=0.05, max_queue=1000, ledger_period_s=0.0
    )
    yield log
    log.close()


@pytest.fixture
def releases():
    """What the gateway under test can resolve, by reference."""
    return {}


@pytest.fixture
def make_gateway(backends, request_log, releases, registry):
    """A gateway under some settings that serves the first of ``releases``, if there is one."""

    def resolve(ref):
        if ref not in releases:
            raise NoRelease(f"no release {ref!r} serves yet: promote one")
        return releases[ref]

    def make(steering=None, **more):
        settings = ServingSettings(resolve_period_s=0.0, **more)
        limits = Limits(
            Counters(registry.database), AccessList.of(registry), refresh_s=0.0, require_key=settings.require_key
        )
        about = {"settings": settings, "log": request_log, "limits": limits, "steering": steering}
        gateway = Gateway(backends=backends, resolve=resolve, **about)
        for ref in releases:
            asyncio.run(gateway.take(ref))
        return gateway

    return make


@pytest.fixture
def gateway(make_gateway):
    return make_gateway()


@pytest.fixture(scope="session")
def bare(cluster_workspace):
    """The application's URL, deployed once from the plain file by Ray's own command, while nothing is in production."""
    from app.core.cluster import dashboard, environment
    from app.serving.deploy import LOCAL_CONFIG, find_serve_url

    variables = {**os.environ, **environment(cluster_workspace)}
    subprocess.run(["serve", "deploy", str(LOCAL_CONFIG)], env=variables, check=True, capture_output=True, timeout=60)
    yield find_serve_url(cluster_workspace)
    dashboard(cluster_workspace).put_serve({"applications": []})
