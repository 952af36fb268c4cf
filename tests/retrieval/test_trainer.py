"""Tuning on the cluster: two workers, a version that an index is built with, and the same one when asked again."""

import pyarrow as pa
import pytest

from app.core.parquet import write_rows
from app.inference.retrievers import find_source
from app.registry.tables import CHUNKS, CHUNKS_FILE, ROWS_FILE
from app.retrieval.evaluate import evaluate_index
from app.retrieval.settings import RetrievalSettings
from app.retrieval.trainer import tune_retriever
from tests.retrieval.test_tuning import TUNE, rows_of, texts
from tests.retrieval.tuned import build_index, publish_retriever


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_retriever_is_tuned_by_two_workers_and_found_again(registry, tmp_path):
    given = texts()
    (tmp_path / "chunks").mkdir()
    write_rows(tmp_path / "chunks" / CHUNKS_FILE, rows_of(given), schema=CHUNKS)
    dataset = registry.publish("dataset", "words", folder=tmp_path / "chunks", inputs={"of": "words"}, facts={})
    table = [
        {"question": f"what {text.split()[0]} {text.split()[3]}", "chunk_id": f"c{n}"} for n, text in enumerate(given)
    ]
    (tmp_path / "rows").mkdir()
    schema = pa.schema([("question", pa.string()), ("chunk_id", pa.string())])
    write_rows(tmp_path / "rows" / ROWS_FILE, table, schema=schema)
    asked = registry.publish("synthetic", "words-qa", folder=tmp_path / "rows", inputs={"of": "rows"}, facts={})
    base = publish_retriever(registry, tmp_path / "base", name="base", num_layers=2, scale=4)
    index = build_index(registry, dataset, retriever=base)

    settings = RetrievalSettings(tune=TUNE.model_copy(update={"num_workers": 2, "worker_memory_bytes": 512 << 20}))
    tuned = tune_retriever(index, [asked], name="words", registry=registry, settings=settings)
    assert tuned.kind == "retriever"
    assert tuned.parents == [index.digest, asked.digest, base.digest]
    assert tuned.facts["num_starts"] == 1
    assert tuned.facts["train"]["steps"] == len(
        tuned.facts["train"]["encoder_loss"] + tuned.facts["train"]["reranker_loss"]
    )
    find_source(tuned, registry=registry).load()
    assert not list(registry.workspace.runs_dir.iterdir())
    assert tune_retriever(index, [asked], name="words", registry=registry, settings=settings) == tuned

    again = build_index(registry, dataset, retriever=tuned, name="again")
    assert again.facts["encoder"] == tuned.facts["encoder"]
    assert evaluate_index(again, asked, registry=registry).facts["num_questions"] == len(given)
