"""The stage on a cluster: a published version, the same bytes however Ray cuts the work, and clear refusals."""

import pyarrow as pa
import pytest

from app.core.parquet import read_rows, write_rows
from app.synthesis.settings import SynthesisSettings

CHUNKS = pa.schema(
    {
        **{name: pa.string() for name in ("chunk_id", "document_id", "source", "title")},
        "heading_path": pa.list_(pa.string()),
        "ordinal": pa.int64(),
        "text": pa.string(),
    }
)


def dataset_of(texts, *, registry, folder):
    folder.mkdir()
    rows = [
        {"chunk_id": f"c{n}", "document_id": f"d{n}", "source": f"{n}.md", "title": "Handbook",
         "heading_path": ["Handbook", f"Account {n}"], "ordinal": 0, "text": text}
        for n, text in enumerate(texts)
    ]  # fmt: skip
    write_rows(folder / "chunks.parquet", rows, schema=CHUNKS)
    return registry.publish("dataset", "handbook", folder=folder, inputs={"texts": texts})


@pytest.mark.cluster
def test_rows_are_published_once_and_do_not_depend_on_the_batches(cluster, registry, tmp_path):
    from app.synthesis.pipeline import synthesize

    texts = [f"- Annual fee: {number} euros\n- Code: AB{number}" for number in range(20)] + ["Hm."]
    dataset = dataset_of(texts, registry=registry, folder=tmp_path / "dataset")
    whole = synthesize(dataset, name="handbook-qa", registry=registry, settings=SynthesisSettings())
    pieces = synthesize(dataset, name="handbook-qa", registry=registry, settings=SynthesisSettings(batch_size=3))
    again = synthesize(dataset, name="handbook-qa", registry=registry, settings=SynthesisSettings())

    assert again.digest == whole.digest != pieces.digest
    assert whole.manifest["files"] == pieces.manifest["files"]
    assert whole.manifest["parents"] == [dataset.digest]
    assert whole.manifest["facts"]["num_facts"] == 40
    rows = read_rows(registry.folder(whole) / "rows.parquet")
    assert len(rows) == len({row["row_id"] for row in rows}) == whole.manifest["facts"]["num_rows"]
    rejects = read_rows(registry.folder(whole) / "rejects.parquet")
    assert [reject["chunk_id"] for reject in rejects] == ["c20"]


@pytest.mark.cluster
@pytest.mark.parametrize("texts", [[], ["Hm."]])
def test_a_dataset_without_questions_is_refused(cluster, registry, tmp_path, texts):
    from app.synthesis.pipeline import NothingToAsk, synthesize

    dataset = dataset_of(texts, registry=registry, folder=tmp_path / "dataset")
    with pytest.raises(NothingToAsk, match="ingest documents that hold text"):
        synthesize(dataset, name="handbook-qa", registry=registry, settings=SynthesisSettings())
    assert registry.versions("synthetic") == []
