import asyncio
import shutil
import threading

import faiss
import numpy as np
import pytest

from app.core.errors import SignalboxError
from app.inference.models import find_model
from app.inference.sampling import Delta, Generation, Sampling
from app.registry.tables import INDEX_FILE
from app.registry.whole import ArtifactChanged
from app.retrieval.filters import PUBLIC, Scope
from app.serving import replicas
from app.serving.errors import EngineStalled
from app.serving.schema import Passage, PassageScores
from app.serving.settings import ServingSettings
from tests.retrieval.tuned import TEXTS, build_index, publish_dataset, publish_retriever
from tests.serving.tiny import publish_adapter, publish_model

NUMBERS = {"mean_logprob": -0.1, "min_logprob": -0.2, "num_prompt_tokens": 3, "num_completion_tokens": 2}


class Engine:
    """Answers with its name; lets the loop go round until it is told to go on."""

    def __init__(self, digest):
        self.digest, self.stalled_s, self.load, self.go, self.closed = digest, 0.0, (1, 2, 3, 4), asyncio.Event(), 0
        self.steps, self.num_failed = self, 0

    def lacks(self, sampling):
        return sampling.asked[:1]

    async def answer(self, prompt, sampling):
        await self.go.wait()
        return Generation(text=f"{self.digest}:{prompt}:{sampling.max_new_tokens}", **NUMBERS)

    async def stream(self, prompt, sampling, *, pace):
        try:
            yield Delta(text="a")
            yield Delta(text="b", whole=await self.answer(prompt, sampling))
        finally:
            self.closed += 1


@pytest.fixture
def engines(monkeypatch):
    made = {}
    monkeypatch.setattr(replicas, "load_engine", lambda _, digest, **__: made.setdefault(digest, Engine(digest)))
    return made


@pytest.fixture
def settings(workspace):
    return ServingSettings(workspace=str(workspace.root), max_loaded=2)


def test_requests_of_two_releases_are_under_way_side_by_side(settings, engines):
    async def run():
        worker = replicas.Generator("small", settings)
        asked = [("old", "a", 8), ("new", "b", 8), ("old", "c", 8), ("old", "d", 4)]
        calls = [worker.generate(model, prompt, Sampling(max_new_tokens=limit)) for model, prompt, limit in asked]
        waiting = asyncio.gather(*calls)
        while len(engines) < 2:
            await asyncio.sleep(0.001)
        engines["new"].go.set()
        engines["old"].go.set()
        return await waiting, worker.load(), await worker.lacks("new", Sampling(temperature=1.0, seed=1))

    given, load, lacking = asyncio.run(run())
    assert [each.text for each in given] == ["old:a:8", "new:b:8", "old:c:8", "old:d:4"]
    assert (load, lacking) == ((2, 4, 6, 8), ("temperature",))


def test_all_who_ask_for_a_model_wait_for_one_load_which_none_of_them_takes_along(settings, monkeypatch):
    loads, go = [], threading.Event()

    def load(_, digest, **__):
        loads.append(digest)
        go.wait(60)
        raise OSError("damaged")

    monkeypatch.setattr(replicas, "load_engine", load)

    async def run():
        worker = replicas.Generator("small", settings)
        calls = [asyncio.ensure_future(worker.generate("old", "a", Sampling())) for _ in range(5)]
        await asyncio.sleep(0)
        calls[0].cancel()
        await asyncio.wait(calls[:1])
        go.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    given = asyncio.run(run())
    assert [str(each) for each in given] == ["", *["damaged"] * 4]
    assert loads == ["old"]


def test_a_stream_that_is_closed_is_closed_in_the_engine(settings, engines):
    async def run():
        worker = replicas.Generator("small", settings)
        half = worker.stream("old", "a", Sampling())
        assert (await anext(half)).text == "a"
        await half.aclose()
        assert engines["old"].closed == 1
        engines["old"].go.set()
        return [piece async for piece in worker.stream("old", "b", Sampling())]

    assert [(each.text, bool(each.whole)) for each in asyncio.run(run())] == [("a", False), ("b", True)]


def test_a_replica_whose_engine_stands_still_is_not_healthy(settings, engines):
    worker = replicas.Generator("small", settings)
    assert worker.load() == (0, 0, 0, 0)
    worker.check()
    asyncio.run(worker.lacks("old", Sampling()))
    worker.check()
    engines["old"].stalled_s = 61.0
    with pytest.raises(EngineStalled, match="an engine of small has not moved for 61 s"):
        worker.check()
    engines["old"].stalled_s, engines["old"].num_failed = 0.0, 4
    worker.check()
    engines["old"].num_failed = 5
    with pytest.raises(EngineStalled, match="an engine of small failed 5 times in a row"):
        worker.check()


@pytest.mark.parametrize("shares", [True, False])
def test_adapters_share_their_base_where_the_settings_say_so(registry, settings, tmp_path, shares):
    base = publish_model(registry, tmp_path / "base", name="base", seed=1)
    adapted = [publish_adapter(registry, tmp_path / f"a{seed}", base=base, seed=seed) for seed in range(2)]
    worker = replicas.Generator("small", settings.model_copy(update={"share_base": shares, "max_loaded": 3}))

    async def run():
        asked = [worker.generate(each.digest, "fee?", Sampling(max_new_tokens=6)) for each in (base, *adapted)]
        return [each.text for each in await asyncio.gather(*asked)]

    answers = asyncio.run(run())
    assert len(set(answers)) == 3
    assert len({id(each.steps) for each in worker._engines.items()}) == (1 if shares else 3)
    plain = [find_model(each, registry=registry).load(num_threads=1) for each in (base, *adapted)]
    assert answers == [each.generate(["fee?"], max_new_tokens=6)[0].text for each in plain]


def test_what_cannot_be_loaded_ahead_leaves_the_replica_up(settings, caplog):
    worker = replicas.Generator("small", settings)
    with pytest.raises(SignalboxError):
        worker.preload("assistant@production")
    replicas.preload_if_possible(worker, ["assistant@production", "sha256:canary"])
    assert "assistant@production" in caplog.text
    assert "sha256:canary" in caplog.text


def test_what_is_opened_while_something_is_erased_does_not_stay(registry, monkeypatch):
    marks, content, held = iter(["", "-erased"]), ["secret", "public"], []
    monkeypatch.setattr(replicas, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(registry.store, "erased_mark", lambda *_: next(marks, "-erased"))

    def load(digest):
        assert digest == "sha256:1"
        found = tuple(content)
        if len(held) == 0:  # an erasure, and another request that sees its mark first
            content.remove("secret")
            held.append(found)
            fresh._marks[digest] = ("-erased", 1.0)
        return found

    fresh = replicas.Fresh(registry, load, limit=2)
    assert fresh.get("sha256:1") == ("secret", "public")
    assert fresh.get("sha256:1") == ("public",)


def test_the_reader_quotes_through_an_encoder_elsewhere():
    asked = []

    def encode(texts):
        asked.append(list(texts))
        return np.ones((len(texts), 4), dtype=np.float32) / 2

    passage = Passage(
        chunk_id="c",
        document_id="d",
        source="fees.md",
        title="Fees",
        heading_path=("Fees",),
        text="The yearly fee is 2,000 euros. Cats are welcome.",
        score=0.8,
        similarity=0.8,
        scores=PassageScores(dense=0.8, lexical=3.0, fused=0.8),
    )
    extract = replicas.Reader(encode).read("What is the yearly fee?", [passage])
    assert "2,000 euros" in extract.text
    assert extract.quotes[0].passage == passage
    assert extract.quotes[0].text == "The yearly fee is 2,000 euros."
    assert asked[0][0] == "What is the yearly fee?"
    assert replicas.Reader(encode).read("What is the yearly fee?", []).quotes == []


def test_a_divided_index_answers_from_the_shards_that_others_hold(registry, settings, tmp_path):
    dataset, how = publish_dataset(registry, tmp_path / "dataset"), {"max_shard_vectors": 2}
    index = build_index(registry, dataset, how=how)
    holders, calls = [replicas.ShardHolder(settings) for _ in range(2)], []

    def scatter(digest, made):
        calls.append([number for number, _, _ in made])
        return [holders[number % 2].call(digest, number, method, args) for number, method, args in made]

    asked = [replicas.Asked(index.digest, text, 3) for text in TEXTS]
    found = replicas.Retriever(settings, scatter=scatter).retrieve(asked)
    assert index.facts["num_shards"] == 3
    assert found == replicas.Retriever(settings).retrieve(asked)
    assert calls[0] == [0, 1, 2]
    changed = registry.folder(index) / "shard-0001" / "chunks.parquet"
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactChanged, match="shard-0001/chunks"):
        replicas.ShardHolder(settings).call(index.digest, 1, "take", ([2],))
    assert len(replicas.ShardHolder(settings).call(index.digest, 0, "take", ([0],))) == 1


def test_embeddings_are_those_that_the_index_holds(registry, settings, tmp_path):
    dataset = publish_dataset(registry, tmp_path / "dataset")
    tuned = build_index(registry, dataset, retriever=publish_retriever(registry, tmp_path / "r", dim=48))
    plain, worker = build_index(registry, dataset, name="plain"), replicas.Retriever(settings)
    for index, dim, most in ((plain, 384, 256), (tuned, 48, 64)):
        held = faiss.read_index(str(registry.folder(index) / INDEX_FILE)).reconstruct_n(0, len(TEXTS))
        given = worker.embed(index.digest, TEXTS)
        assert given.vectors.shape == (len(TEXTS), dim)
        assert np.array_equal(given.vectors, held)
        assert np.array_equal(worker.embed(index.digest, TEXTS[3:4]).vectors[0], held[3])
        words = ["fee " * num for num in (most - 2, most - 1, 3 * most)]
        assert len(worker.embed(index.digest, words[:1]).vectors) == 1
        long = worker.embed(index.digest, words)
        assert (long.num_tokens, long.max_tokens, len(long.vectors)) == ([most, most + 1, 3 * most + 2], most, 0)


def test_indexes_of_two_encoders_answer_one_batch_side_by_side(registry, settings, tmp_path):
    dataset = publish_dataset(registry, tmp_path / "dataset")
    retrievers = [publish_retriever(registry, tmp_path / f"r{dim}", dim=dim, name=f"r{dim}") for dim in (32, 48)]
    plain, *tuned = [build_index(registry, dataset, retriever=each) for each in (None, *retrievers)]
    worker = replicas.Retriever(settings)
    order = [plain, tuned[0], plain, tuned[1], tuned[0]]
    everything = Scope(labels=None)
    asked = [
        replicas.Asked(index.digest, TEXTS[number], 2 - number % 2, everything if number == 4 else PUBLIC)
        for number, index in enumerate(order)
    ]
    found = worker.retrieve(asked)
    assert [len(each.embedding) for each in found] == [384, 32, 384, 48, 32]
    assert [each.passages[0].text for each in found] == TEXTS
    assert [len(each.passages) for each in found] == [2, 1, 2, 1, 2]
    assert worker.encode(["the fee"]).shape == (1, 384)

    shutil.copy(tmp_path / "r48" / "encoder" / "model.safetensors", registry.folder(retrievers[0]) / "encoder")
    assert [len(each.embedding) for each in worker.retrieve(asked)] == [384, 32, 384, 48, 32]
    with pytest.raises(ArtifactChanged, match="retriever r32@1: encoder/model"):
        replicas.Retriever(settings).retrieve(asked)
