"""Measures, calibration and the evaluation of an index, on rankings whose figures can be told by hand."""

from pathlib import Path

import numpy as np
import pytest

from app.core.parquet import write_rows
from app.inference.retrievers import Source
from app.registry.tables import ROWS_FILE
from app.retrieval.calibrate import TooFewQuestions, calibrate_weights, gold_of
from app.retrieval.evaluate import ROWS, NothingToAsk, evaluate_index
from app.retrieval.index import read_index, write_index
from app.retrieval.measure import measure, ndcg
from app.retrieval.search import SearchIndex
from app.retrieval.settings import SearchSettings

NUM, DIM = 60, 64


def test_the_measures_are_those_of_the_textbook():
    values = measure({"a": ["x", "y", "z"], "b": []}, {"a": {"y", "z", "missing"}, "b": {"x"}})
    assert {name: [round(value, 4) for value in each] for name, each in values.items()} == {
        "recall_at_1": [0, 0],
        "recall_at_5": [0.6667, 0],
        "recall_at_10": [0.6667, 0],
        "mrr_at_10": [0.5, 0],
        "map_at_10": [0.3889, 0],
        "ndcg_at_10": [0.5307, 0],
    }
    assert round(ndcg([False, True, True] + [False] * 7, num_relevant=3), 4) == 0.5307


@pytest.fixture
def made(tmp_path: Path):
    """An index whose words are right and whose vectors are not: the words of chunk ``n`` ask for it, vectors do not."""
    vectors = np.random.default_rng(0).normal(size=(NUM, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        {"chunk_id": f"c{n}", "document_id": f"d{n // 2}", "source": f"s{n // 2}.md", "title": "", "heading_path": [],
         "ordinal": n, "text": f"word{n} common"}
        for n in range(NUM)
    ]  # fmt: skip
    write_index(tmp_path, vectors, rows)
    return tmp_path, vectors


def asked(**changes):
    return [{"question": f"word{n}?", "chunk_id": f"c{n}", "source": f"s{n // 2}.md"} | changes for n in range(NUM)]


def test_the_weight_goes_where_the_questions_are_answered(made):
    folder, vectors = made
    index = SearchIndex.open(folder)
    gold = gold_of(asked(), index)
    assert gold["word7?"] == {7}
    wrong, right = np.roll(vectors, 1, axis=0), vectors
    by_words = calibrate_weights(index, gold, wrong)
    assert by_words.dense_weight < 0.5
    assert by_words.ndcg_at_10 > by_words.ndcg_at_10_dense
    common = {f"common {n}": {n} for n in range(NUM)}
    by_vectors = calibrate_weights(index, common, right)
    assert by_vectors.dense_weight > 0.3
    assert by_vectors.ndcg_at_10 > by_vectors.ndcg_at_10_lexical
    with pytest.raises(TooFewQuestions, match="29 questions are about"):
        gold_of(asked()[:29] + asked(chunk_id="", source=""), index)


def test_an_evaluation_has_intervals_outcomes_and_the_change_from_another_index(made, tmp_path, registry, monkeypatch):
    folder, vectors = made
    index = registry.publish("index", "words", folder=folder, inputs={"n": 1})
    other = tmp_path / "other"
    other.mkdir()
    rows = read_index(folder).chunks.to_pylist()
    write_index(other, vectors, rows, search=SearchSettings(fusion="dense"))
    before = registry.publish("index", "vectors", folder=other, inputs={"n": 2})
    questions = publish_questions(registry, tmp_path / "rows", asked())
    monkeypatch.setattr(Source, "load_encoder", lambda self, **_: Encoder(np.roll(vectors, 1, axis=0)))
    done = evaluate_index(index, questions, registry=registry, before=before)
    assert done.facts["recall_at_1"]["value"] > 0.9
    assert done.facts["against"]["changes"]["recall_at_1"]["low"] > 0.5
    assert evaluate_index(index, questions, registry=registry, before=before).digest == done.digest
    by_document = publish_questions(registry, tmp_path / "more", asked(chunk_id="c-of-another-version"))
    assert evaluate_index(index, by_document, registry=registry).facts["recall_at_5"]["value"] > 0.9
    nothing = publish_questions(registry, tmp_path / "none", asked(chunk_id="x", source="y"))
    with pytest.raises(NothingToAsk):
        evaluate_index(index, nothing, registry=registry)


class Encoder:
    """Answers with vectors of its own."""

    def __init__(self, vectors):
        self.vectors, self.dim = vectors, vectors.shape[1]

    def encode(self, texts):
        return self.vectors[: len(texts)]


def publish_questions(registry, folder: Path, rows):
    import pyarrow as pa

    folder.mkdir()
    write_rows(folder / ROWS_FILE, rows, schema=pa.schema(dict.fromkeys(rows[0], pa.string())))
    assert set(ROWS.names) > {"question"}
    return registry.publish("synthetic", folder.name, folder=folder, inputs={"folder": folder.name})
