"""An index and the retriever that it was made with: built, opened, searched, refused where they are not."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from app.core.parquet import write_rows
from app.inference.encoder import ENCODER_DIGEST, DigestMismatch, EncoderUnusable
from app.inference.retrievers import PINNED, RetrieverMismatch, made_with, source_of
from app.registry.tables import INDEX_FILE, LEARNT_FILE, ROWS_FILE
from app.registry.whole import ArtifactChanged
from app.retrieval import pipeline
from app.retrieval.calibrate import Calibrated
from app.retrieval.learnt import Asked, Learnt, Terms, codes_of
from app.retrieval.lexical import Analyser
from app.retrieval.pipeline import QuestionsLearnt
from app.retrieval.search import SearchIndex
from app.retrieval.searcher import Searcher
from tests.inference.tiny_bert import write_encoder
from tests.retrieval.tuned import TEXTS, build_index, chunks_of_texts, publish_dataset, publish_retriever


@pytest.fixture
def dataset(registry, tmp_path):
    return publish_dataset(registry, tmp_path / "dataset")


def test_an_index_is_built_searched_and_named_with_its_retriever(registry, dataset, tmp_path: Path):
    plain = build_index(registry, dataset)
    retriever = publish_retriever(registry, tmp_path / "tuned", dim=48)
    index = build_index(registry, dataset, retriever=retriever)
    assert index.digest != plain.digest
    assert index.parents == [dataset.digest, retriever.digest]
    stated = [index.facts[name] for name in ("encoder", "dim", "retriever")]
    assert stated == [retriever.facts["encoder"], 48, retriever.digest]
    assert "retriever" not in plain.facts
    assert [made_with(each, registry=registry) for each in (plain, index)] == [PINNED, retriever.digest]
    assert build_index(registry, dataset, retriever=retriever).digest == index.digest

    searcher = Searcher.open(index, registry=registry)
    hit = searcher.search([TEXTS[3]], 1)[0][0]
    assert (hit.text, round(hit.similarity, 1)) == (TEXTS[3], 1.0)
    vectors = searcher.encoder.encode([TEXTS[3]])
    assert searcher.search(["anything"], 1, vectors=vectors)[0][0].similarity == pytest.approx(hit.similarity)
    assert Searcher.open(plain, registry=registry).encoder.digest == ENCODER_DIGEST


def test_questions_have_an_encoder_of_their_own_and_chunks_keep_their_vectors(registry, dataset, tmp_path: Path):
    base = build_index(registry, dataset, retriever=publish_retriever(registry, tmp_path / "base", name="base"))
    retriever = publish_retriever(registry, tmp_path / "asks", asks=True)
    index = build_index(registry, dataset, retriever=retriever, name="asks")
    assert index.facts["question_encoder"] == retriever.facts["question_encoder"] != index.facts["encoder"]
    vectors = [registry.folder(each) / INDEX_FILE for each in (base, index)]
    assert vectors[0].read_bytes() == vectors[1].read_bytes()
    searcher = Searcher.open(index, registry=registry)
    by_questions, by_chunks = (each.encode([TEXTS[0]]) for each in (searcher.questions, searcher.encoder))
    hits = [searcher.search([TEXTS[0]], 1, vectors=given)[0][0] for given in (None, by_questions, by_chunks)]
    assert hits[0].similarity == pytest.approx(hits[1].similarity)
    assert hits[0].similarity < 0.9 < hits[2].similarity
    lie = publish_retriever(registry, tmp_path / "lie", name="lie", asks=True, facts={"question_encoder": "sha256:0"})
    with pytest.raises(DigestMismatch, match="not sha256:0"):
        Searcher.open(build_index(registry, dataset, retriever=lie, name="lie"), registry=registry)


def test_bm25_is_built_with_what_the_retriever_learnt(registry, dataset, tmp_path: Path):
    ids, analyse = [row["chunk_id"] for row in chunks_of_texts()], Analyser("english")
    learnt = Learnt(Terms(codes_of(["card"]), np.array([3], np.float32)), Asked.of(["euros?"], [{1}], ids, analyse))
    before = publish_retriever(registry, tmp_path / "old", name="old")
    old = build_index(registry, dataset, retriever=before, name="old")
    retriever = publish_retriever(registry, tmp_path / "words", learnt=learnt)
    index = build_index(registry, dataset, retriever=retriever)
    assert ("words" in old.facts, index.facts["words"]) == (False, retriever.facts["words"])
    files = [registry.folder(each) / LEARNT_FILE for each in (index, retriever)]
    assert files[0].read_bytes() == files[1].read_bytes()

    def scores(version, question: str) -> dict[str, float]:
        hits = Searcher.open(version, registry=registry).search([question], 5)[0]
        return {hit.text: hit.scores.lexical for hit in hits}

    before, after = (scores(each, "euros") for each in (old, index))
    assert after[TEXTS[1]] > 0 == before[TEXTS[1]]
    before, after = (scores(each, "card") for each in (old, index))
    assert [after[text] / before[text] for text in TEXTS if before[text]] == pytest.approx([3] * 3, rel=0.1)
    lie = publish_retriever(registry, tmp_path / "lie", name="lie", learnt=learnt, facts={"words": "sha256:0"})
    with pytest.raises(RetrieverMismatch, match="tune it again"):
        build_index(registry, dataset, retriever=lie, name="lie")


def test_the_next_version_learns_as_one_from_nothing(registry, dataset, tmp_path: Path):
    ids = [row["chunk_id"] for row in chunks_of_texts()]
    asked = Asked.of(["school year?", "summer"], [{0, 2}, {1}], ids, Analyser("english"))
    retriever = publish_retriever(registry, tmp_path / "words", learnt=Learnt(Terms.none(), asked))
    build_index(registry, dataset, retriever=retriever)
    changed = publish_dataset(registry, tmp_path / "changed", name="changed", texts=[*TEXTS[1:], "A school is free."])
    made = [build_index(registry, changed, retriever=retriever, name=name) for name in (dataset.name, "anew")]
    assert made[0].manifest["files"] == made[1].manifest["files"]
    found = Searcher.open(made[0], registry=registry).search(["year", "summer"], 5)
    assert {hit.text for hit in found[0] if hit.scores.lexical} == {TEXTS[2], TEXTS[4]}
    assert {hit.text for hit in found[1] if hit.scores.lexical} == {TEXTS[1]}


def test_a_swapped_encoder_is_refused(registry, dataset, tmp_path: Path):
    retriever = publish_retriever(registry, tmp_path / "tuned")
    index = build_index(registry, dataset, retriever=retriever)
    other = write_encoder(tmp_path / "other", seed=1)
    shutil.copy(other / "model.safetensors", registry.folder(retriever) / "encoder")
    with pytest.raises(ArtifactChanged, match=r"retriever tuned@1: encoder/model.safetensors is not the file"):
        Searcher.open(index, registry=registry)
    with pytest.raises(ArtifactChanged):
        build_index(registry, dataset, retriever=retriever, name="again")


def test_an_index_is_searched_with_its_retrievers_re_ranker_as_that_was_tuned(registry, dataset, tmp_path: Path):
    retriever = publish_retriever(registry, tmp_path / "tuned", reranks=True)
    index = build_index(registry, dataset, retriever=retriever)
    assert index.facts["reranker"] == retriever.facts["reranker"]
    searcher = Searcher.open(index, registry=registry)
    assert (searcher.index.settings.rerank_weight, searcher.index.settings.rerank_depth) == (1.0, 3)
    hits = searcher.search([TEXTS[0]], 5)[0]
    again = [hit.scores.reranked for hit in hits]
    assert again[:3] == sorted(again[:3], reverse=True)
    assert again[3:] == [None, None]
    write_encoder(tmp_path / "other", num_labels=1, seed=8)
    shutil.copy(tmp_path / "other" / "model.safetensors", registry.folder(retriever) / "reranker")
    with pytest.raises(ArtifactChanged, match=r"retriever tuned@1: reranker/model.safetensors is not the file"):
        Searcher.open(index, registry=registry)


LIES = [
    ({"dim": 64}, RetrieverMismatch, "states 64 numbers a vector, its encoder makes 32: tune it again"),
    ({"encoder": "sha256:0"}, DigestMismatch, "not sha256:0: restore it"),
    ({"reranker": "sha256:0"}, EncoderUnusable, "reranker has no config.json|reranker has no model.safetensors"),
    ({"encoder": None, "dim": "wide"}, RetrieverMismatch, "states no encoder and dim"),
]


@pytest.mark.parametrize(("facts", "error", "said"), LIES)
def test_a_retriever_that_is_not_what_it_states_makes_no_index(
    registry, dataset, tmp_path: Path, facts: dict, error: type, said: str
):
    retriever = publish_retriever(registry, tmp_path / "tuned", facts=facts)
    with pytest.raises(error, match=said):
        Searcher.open(build_index(registry, dataset, retriever=retriever), registry=registry)


ODD = [
    ({"retriever": "sha256:" + "0" * 64}, r"index odd@1 was made with a retriever that is not in the registry \(sha"),
    ({"dim": 64}, "states dim 64, and its retriever tuned@1 32: build the index again"),
    ({"encoder": ENCODER_DIGEST}, "states encoder sha256:.*, and its retriever tuned@1 sha256:"),
    ({"reranker": "sha256:0"}, "states reranker sha256:0, and its retriever tuned@1 None: build the index again"),
    ({"retriever": None}, "names encoder sha256:.* and no retriever: build it again"),
]


@pytest.mark.parametrize(("changes", "said"), ODD)
def test_an_index_that_names_another_retriever_than_its_own_is_refused(
    registry, dataset, tmp_path: Path, changes: dict, said: str
):
    retriever = publish_retriever(registry, tmp_path / "tuned")
    index = build_index(registry, dataset, retriever=retriever)
    odd = registry.publish(
        "index", "odd", folder=registry.folder(index), inputs={"changes": changes}, facts=index.facts | changes
    )
    with pytest.raises(RetrieverMismatch, match=said):
        source_of(odd, registry=registry)


def test_an_index_over_vectors_of_another_size_is_refused(registry, dataset, tmp_path: Path):
    wide = publish_retriever(registry, tmp_path / "wide", dim=64)
    index = build_index(registry, dataset, retriever=wide)
    posing = registry.publish("index", "posing", folder=registry.folder(index), inputs={})  # says nothing: the pinned
    with pytest.raises(RetrieverMismatch, match="vectors of 64 numbers, its encoder makes 384: build the index again"):
        Searcher.open(posing, registry=registry)


def test_the_weight_of_the_fusion_is_calibrated_with_the_indexs_own_encoder(
    registry, dataset, tmp_path: Path, monkeypatch
):
    seen = []
    found = Calibrated(0.5, 0.15, num_questions=1, ndcg_at_10=1.0, ndcg_at_10_lexical=1.0, ndcg_at_10_dense=1.0)
    monkeypatch.setattr(pipeline, "gold_of", lambda rows, index: {"the fee": {0}})
    monkeypatch.setattr(pipeline, "calibrate_weights", lambda index, asked, vectors: seen.append(vectors) or found)
    retriever = publish_retriever(registry, tmp_path / "tuned", dim=48)
    (tmp_path / "asked").mkdir()
    write_rows(tmp_path / "asked" / ROWS_FILE, [{"question": "the fee"}], schema=pa.schema({"question": pa.string()}))
    asked = registry.publish("synthetic", "asked", folder=tmp_path / "asked", inputs={})
    index = build_index(registry, dataset, retriever=retriever, questions=asked)
    assert [np.shape(each) for each in seen] == [(1, 48)]
    search = SearchIndex.open(registry.folder(index)).settings
    assert (search.dense_weight, search.title_weight) == (0.5, 0.15)
    learnt = publish_retriever(registry, tmp_path / "learnt", parents=[asked.digest], name="learnt")
    with pytest.raises(QuestionsLearnt, match="learnt@1 was tuned on asked@1"):
        build_index(registry, dataset, retriever=learnt, questions=asked)
    assert index.parents == [dataset.digest, asked.digest, retriever.digest]
