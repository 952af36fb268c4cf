"""Versions built on the one before, and runs that were killed: the same version as from nothing, and less work."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from app.core.parquet import read_rows
from app.core.workspace import Workspace
from app.documents import pipeline
from app.documents.errors import CannotConvert
from app.documents.previous import unchanged
from app.documents.read import SourceFile, scan
from app.documents.read import read_rows as read_rows_of
from app.documents.sections import Converted, Facts, Fault, Section
from app.documents.settings import ChunkSettings, DocumentSettings
from app.documents.spool import Spool
from app.documents.work import FileWorker, Part
from app.registry.versions import Registry, Version, open_registry

SETTINGS = DocumentSettings()


class Killed(BaseException):
    """What a kill looks like from within."""


class Converts:
    """A converter that remembers what it was asked; what is named bad is refused, slow times out."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.kill_after = 1000

    def convert(self, file: SourceFile) -> Converted:
        if len(self.asked) >= self.kill_after:
            raise Killed
        self.asked.append(file.source)
        if "bad" in file.source:
            raise CannotConvert("not converted within 1 s" if "slow" in file.source else "it is bad")
        text = file.path.read_text()
        return Converted("T", (Section(("T",), text, ((0, 1),)),), Facts(num_pages=2), (Fault("page-2", "blank"),))


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Converts]:
    """Conversion in this process, without a cluster."""
    converts = Converts()

    def convert_files(parts: list[Part], spool: Spool, *, settings: DocumentSettings) -> None:
        worker = FileWorker(settings=settings, count_tokens=lambda text: len(text.split()), sandbox=converts)
        for part in parts:
            for outcome in worker.outcomes(part):
                spool.add(outcome)

    monkeypatch.setattr(pipeline, "convert_files", convert_files)
    return converts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "docs"
    place.mkdir()
    for name in ("a", "b", "c", "bad", "slow-bad"):
        (place / f"{name}.md").write_text(f"The text of {name}.\n\nAnd more of it.")
    (place / "rows.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n')
    return place


def ingest(folder: Path, registry: Registry, settings: DocumentSettings = SETTINGS) -> Version:
    return pipeline.ingest(folder, "docs", registry=registry, settings=settings)


def from_nothing(folder: Path, place: Path) -> Version:
    return ingest(folder, open_registry(Workspace.find(place / "other")))


def test_only_what_changed_is_converted_again(folder: Path, tmp_path: Path, registry: Registry, converter: Converts):
    first = ingest(folder, registry)
    assert first.facts["num_documents"] == 5
    assert (first.facts["num_rejected"], first.facts["num_parts_rejected"], first.facts["num_found"]) == (2, 3, 7)
    converter.asked.clear()
    (folder / "b.md").write_text("Another text.")
    (folder / "c.md").unlink()
    (folder / "d.md").write_text("A new document.")
    second = ingest(folder, registry)
    assert converter.asked == ["b.md", "d.md", "slow-bad.md"]
    rows = {row["source"] for row in read_rows(registry.folder(second) / "documents.parquet")}
    assert rows == {"a.md", "b.md", "d.md", "rows.jsonl#1", "rows.jsonl#2"}
    assert second.digest == from_nothing(folder, tmp_path).digest


def test_other_settings_convert_everything_again(folder: Path, registry: Registry, converter: Converts):
    ingest(folder, registry)
    converter.asked.clear()
    ingest(folder, registry, DocumentSettings(chunk=ChunkSettings(max_tokens=5)))
    assert len(converter.asked) == 5


@pytest.mark.parametrize("table", ["chunks", "parents"])
def test_documents_that_an_erasure_took_rows_of_are_not_taken_over(
    folder: Path, tmp_path: Path, registry: Registry, converter: Converts, table: str
):
    version = ingest(folder, registry)
    files = dict(enumerate(scan(folder, limits=SETTINGS.limits).files))
    copy = tmp_path / "copy"
    shutil.copytree(registry.folder(version), copy)
    copy.chmod(0o700)
    rows = pq.read_table(copy / f"{table}.parquet")
    whole = [outcome["order"][0] for outcome in unchanged(copy, files)]
    (copy / f"{table}.parquet").unlink()
    pq.write_table(rows.filter(pc.field("source") != "b.md"), copy / f"{table}.parquet")
    rest = [outcome["order"][0] for outcome in unchanged(copy, files)]
    assert [files[place].source for place in whole] == ["a.md", "b.md", "c.md", "bad.md"]
    assert [files[place].source for place in rest] == ["a.md", "c.md", "bad.md"]


@pytest.mark.parametrize("kill_after", range(5))
def test_a_killed_run_goes_on_to_the_same_version(
    folder: Path, tmp_path: Path, registry: Registry, converter: Converts, kill_after: int
):
    converter.kill_after = kill_after
    with pytest.raises(Killed):
        ingest(folder, registry)
    assert registry.versions() == []
    spooled = list((registry.workspace.root / "ingest").iterdir())
    with spooled[0].open("ab") as file:
        file.write(b'{"order": [1, 0], "docu')
    converter.asked.clear()
    converter.kill_after = 1000
    version = ingest(folder, registry)
    assert len(converter.asked) == 5 - kill_after
    assert list((registry.workspace.root / "ingest").iterdir()) == []
    assert version.digest == from_nothing(folder, tmp_path).digest


def test_two_runs_of_the_same_work_do_not_share_a_spool(tmp_path: Path):
    with Spool(tmp_path / "s.jsonl") as one, Spool(tmp_path / "s.jsonl") as two:
        one.add_line(json.dumps({"order": [0, 0]}), [0, 0])
        assert (one.orders, two.orders) == ([(0, 0)], [])
        two.remove()
    with Spool(tmp_path / "s.jsonl") as again:
        assert again.orders == [(0, 0)]


def test_a_document_whose_sidecar_changed_is_converted_again(folder: Path, registry: Registry, converter: Converts):
    sidecar = folder / "a.md.meta.yaml"
    labels = []
    for text in (
        None,
        "access_labels: [hr]",
        "access_labels: [hr]",
        "access_labels: [board]",
        "access_labels: [",
        None,
    ):
        sidecar.unlink(missing_ok=True)
        if text:
            sidecar.write_text(text)
        converter.asked.clear()
        version = ingest(folder, registry)
        rows = {
            row["source"]: row["access_labels"] for row in read_rows(registry.folder(version) / "documents.parquet")
        }
        labels.append((rows.get("a.md"), "a.md" in converter.asked, version.facts["num_found"]))
    found = [([], True), (["hr"], True), (["hr"], False), (["board"], True), (None, False), ([], False)]
    assert labels == [(*each, 7) for each in found]


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose rows are read."""
    read: list[str] = []

    def note(file: SourceFile, **options: object) -> Iterator[object]:
        read.append(file.source)
        return read_rows_of(file, **options)

    monkeypatch.setattr("app.documents.work.read_rows", note)
    return read


ROWS = '{"id": 1, "text": "one"}\nnot a row\n{"id": 3, "text": "three"}\n{"id": 4, "text": ""}\n'


@pytest.mark.usefixtures("converter")
def test_rows_of_an_unchanged_file_are_not_read_again(
    folder: Path, tmp_path: Path, registry: Registry, rows_read: list[str]
):
    (folder / "rows.jsonl").write_text(ROWS)
    (folder / "zero.jsonl").write_text('{"id": 1, "text": "nil"}\n')
    first = ingest(folder, registry)
    (folder / "a.md").write_text("Another text.")
    (folder / "zero.jsonl").write_text('{"id": 1, "text": "nothing"}\n')
    rows_read.clear()
    second = ingest(folder, registry)
    assert set(rows_read) == {"zero.jsonl"}
    assert second.digest == from_nothing(folder, tmp_path).digest
    assert (first.facts["num_found"], second.facts["num_found"]) == (10, 10)


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize("spoiled", ["a duplicate", "an erased row", "a limit", "a sidecar", "nothing"])
def test_rows_are_read_again_where_their_file_is_not_whole(
    folder: Path, tmp_path: Path, registry: Registry, rows_read: list[str], spoiled: str
):
    if spoiled == "a duplicate":
        (folder / "zero.jsonl").write_text('{"id": 1, "text": "one"}\n')
    limit = 8 if spoiled == "a limit" else None
    first = pipeline.ingest(folder, "docs", registry=registry, settings=SETTINGS, limit=limit)
    if spoiled == "an erased row":
        path = registry.folder(first) / "documents.parquet"
        rows = pq.read_table(path).filter(pc.field("source") != "rows.jsonl#1")
        path.parent.chmod(0o700)
        path.unlink()
        pq.write_table(rows, path)
    if spoiled == "a sidecar":
        (folder / "rows.jsonl.meta.yaml").write_text("access_labels: [hr]")
    (folder / "a.md").write_text("Another text.")
    rows_read.clear()
    second = ingest(folder, registry)
    read = {"a duplicate": {"zero.jsonl"}, "nothing": set()}.get(spoiled, {"rows.jsonl"})
    assert set(rows_read) == read
    assert second.digest == from_nothing(folder, tmp_path).digest
