"""Ingest on a cluster: everything counted, a second run does nothing, hostile and real documents."""

import shutil
from pathlib import Path

import pytest

from app.core.parquet import read_rows
from app.documents.errors import EmptyCorpus
from app.documents.models import libreoffice
from app.documents.pipeline import count_found, files_of_rows, ingest
from app.documents.schema import reject
from app.documents.settings import ChunkSettings, DocumentSettings, LimitSettings
from app.governance.erasure import erase
from app.ledger.verify import verify
from app.registry.versions import Registry

SETTINGS = DocumentSettings(limits=LimitSettings(timeout_s=60))


@pytest.fixture
def mixed_folder(tmp_path: Path, shared_data: Path) -> Path:
    """Hostile files, office files, PDFs and rows: a few of each."""
    folder = tmp_path / "mixed"
    shutil.copytree(shared_data / "hostile_samples", folder / "hostile")
    for pattern in ("office_docs/docx/*", "office_docs/pptx/*", "office_docs/xlsx/*", "pdf_corpus/pdf/*"):
        for path in sorted(shared_data.glob(pattern))[:12]:
            (folder / path.suffix[1:]).mkdir(exist_ok=True)
            shutil.copy(path, folder / path.suffix[1:])
    (folder / "copy.md").write_bytes((folder / "hostile" / "SOURCE.md").read_bytes())
    (folder / "rows.jsonl").write_text("".join(f'{{"id": {n}, "text": "Row {n} says so."}}\n' for n in range(20)))
    return folder


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_every_document_is_published_or_rejected_and_a_second_run_does_nothing(mixed_folder: Path, registry: Registry):
    version = ingest(mixed_folder, "mixed", registry=registry, settings=SETTINGS)
    folder = registry.folder(version)
    documents, chunks, rejects = (read_rows(folder / f"{name}.parquet") for name in ("documents", "chunks", "rejects"))
    parts = [row for row in rejects if row["stage"] == "part"]
    assert len(parts) == version.facts["num_parts_rejected"]
    num_files = sum(path.is_file() for path in mixed_folder.rglob("*"))
    assert len(documents) + len(rejects) - len(parts) == num_files - 1 + 20 == version.facts["num_found"]
    assert {row["document_id"] for row in chunks} == {row["document_id"] for row in documents}
    assert sum(row["num_chunks"] for row in documents) == len(chunks) == len({row["chunk_id"] for row in chunks})
    assert "duplicate of copy.md" in {row["reason"] for row in rejects}
    assert "macros" in next(row["reason"] for row in rejects if row["source"].endswith(".xls"))
    formats = {"docx", "jsonl", "md", "pdf", "pptx", "xlsx"} | ({"ppt"} if libreoffice() else set())
    assert set(version.facts["by_format"]) == formats

    again = ingest(mixed_folder, "mixed", registry=registry, settings=SETTINGS)
    assert (again.number, again.digest) == (version.number, version.digest)
    other = ingest(mixed_folder, "other", registry=registry, settings=SETTINGS)
    assert read_rows(registry.folder(other) / "rejects.parquet") == rejects
    assert read_rows(registry.folder(other) / "documents.parquet") == documents
    assert other.manifest["files"] == version.manifest["files"]


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_settings_and_limit_make_a_new_version(shared_data: Path, registry: Registry):
    source = shared_data / "medquad" / "documents.jsonl.gz"
    small = DocumentSettings(chunk=ChunkSettings(max_tokens=64), num_workers=1)
    version = ingest(source, "medquad", registry=registry, settings=small, limit=30)
    assert version.facts["num_documents"] == 30
    assert registry.find("dataset", "medquad", version.manifest["inputs"] | {"limit": 31}) is None


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_folder_without_a_readable_document_publishes_nothing(tmp_path: Path, registry: Registry):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.docx").write_text("not a document")
    with pytest.raises(EmptyCorpus, match="none of the 1 documents"):
        ingest(tmp_path / "docs", "none", registry=registry, settings=SETTINGS)
    assert registry.versions() == []


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_an_erased_document_does_not_come_back(tmp_path: Path, registry: Registry):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("staff", "rules"):
        (folder / f"{name}.md").write_text(f"# {name}\n\nThe {name} page says a thing or two about itself.\n")
    first = ingest(folder, "handbook", registry=registry, settings=SETTINGS)
    assert sorted(row["source"] for row in read_rows(registry.folder(first) / "documents.parquet")) == [
        "rules.md",
        "staff.md",
    ]
    leaf = erase(registry, documents=["staff.md"], reason="withdrawn", actor="jane").leaf
    (folder / "fees.md").write_text("# fees\n\nThe yearly fee is 12 crowns.\n")
    (folder / "renamed.md").write_bytes((folder / "staff.md").read_bytes())
    again = ingest(folder, "handbook", registry=registry, settings=SETTINGS)
    documents, rejects = (read_rows(registry.folder(again) / f"{name}.parquet") for name in ("documents", "rejects"))
    assert sorted(row["source"] for row in documents) == ["fees.md", "rules.md"]
    assert sorted(row["source"] for row in rejects) == ["renamed.md", "staff.md"]
    assert all(row["reason"].startswith(f"erased: leaf {leaf} ") for row in rejects)
    assert again.facts["num_found"] == 4
    assert verify(registry.workspace).faults == []


def test_a_file_of_rows_that_breaks_off_is_no_document_beside_its_rows():
    sources = ("rows.jsonl.gz", "rows.jsonl.gz#4", "bare.jsonl", "locked.pdf")
    rejects = [reject(source, "it is bad", stage="read", num_bytes=1) for source in sources]
    rejects.append(reject("whole.pdf#page-3", "it is blank", stage="part", num_bytes=0))
    assert count_found(3, rejects, files_of_rows("rows.jsonl.gz#1")) == 6
    assert count_found(3, rejects, set()) == 6
    assert count_found(0, rejects[:1], set()) == 1
