"""Finding documents: formats, links, folders that cannot be read, rows of JSON Lines files."""

import gzip
import json
import os
from itertools import islice
from pathlib import Path

import pytest

from app.documents import read
from app.documents.errors import EmptyCorpus, SourceNotFound
from app.documents.read import TextRow, format_of, read_rows, scan
from app.documents.settings import LimitSettings

LIMITS = LimitSettings()


def rows_of(path: Path, *, limits: LimitSettings = LIMITS) -> list:
    return list(read_rows(scan(path, limits=limits).files[0], limits=limits))


def reasons(folder: Path) -> dict[str, str]:
    return {row["source"]: row["reason"] for row in scan(folder, limits=LIMITS).rejects}


def test_a_folder_is_read_recursively_in_order_and_hidden_names_are_counted(tmp_path: Path):
    for name in ("b.md", "a/c.PDF", "a/b/d.jsonl.gz", ".git/config", "z.htm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = scan(tmp_path, limits=LIMITS)
    assert [(file.source, file.format) for file in found.files] == [
        ("a/b/d.jsonl.gz", "jsonl"),
        ("a/c.PDF", "pdf"),
        ("b.md", "md"),
        ("z.htm", "html"),
    ]
    assert (found.rejects, found.num_hidden) == ([], 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.Md", "md"),
        ("a.tar.gz", None),
        ("a.jsonl.gz", "jsonl"),
        ("a.doc", "doc"),
        ("a.xml.gz", "xml"),
        ("a.vsd", None),
        ("md", None),
    ],
)
def test_formats_go_by_the_name(name: str, expected: str | None):
    assert format_of(name) == expected


def test_what_cannot_be_read_is_a_reject_with_its_reason(tmp_path: Path):
    (tmp_path / "old.vsd").write_text("x")
    (tmp_path / "empty.md").write_text("")
    os.mkfifo(tmp_path / "pipe.md")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(LIMITS.document_bytes + 1)
    found = reasons(tmp_path)
    assert found["old.vsd"].startswith("unknown format .vsd")
    assert found["empty.md"] == "the file is empty"
    assert found["pipe.md"] == "not a regular file"
    assert "document_bytes" in found["large.txt"]


def test_links_never_loop_and_never_lead_outside(tmp_path: Path):
    folder, outside = tmp_path / "docs", tmp_path / "secret.md"
    folder.mkdir()
    outside.write_text("secret")
    (folder / "a.md").write_text("a")
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "out.md").symlink_to(outside)
    (folder / "same.md").symlink_to("a.md")
    found = scan(folder, limits=LIMITS)
    assert [file.source for file in found.files] == ["a.md", "same.md"]
    assert reasons(folder).keys() == {"loop", "self", "out.md"}
    assert "outside" in reasons(folder)["out.md"]


def test_a_folder_that_may_not_be_listed_is_a_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "shut").mkdir()
    (tmp_path / "a.md").write_text("a")
    real = os.scandir

    def refuse(path: Path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(read.os, "scandir", refuse)
    assert reasons(tmp_path) == {"shut/": "the folder cannot be read: Permission denied"}


@pytest.mark.parametrize("source", ["missing", "s3://bucket/docs"])
def test_a_source_that_is_not_there_is_said_so(tmp_path: Path, source: str):
    with pytest.raises(SourceNotFound, match=r"check the path|local folder"):
        scan(source if "://" in source else tmp_path / source, limits=LIMITS)


def test_a_source_that_may_not_be_read_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(read.os, "access", lambda *_: False)
    with pytest.raises(SourceNotFound, match="cannot be read"):
        scan(tmp_path, limits=LIMITS)


def test_an_empty_folder_is_an_empty_corpus(tmp_path: Path):
    with pytest.raises(EmptyCorpus, match="holds no files"):
        scan(tmp_path, limits=LIMITS)


def test_rows_have_names_titles_and_rejects(tmp_path: Path):
    lines = [
        '{"doc_id": "1", "source": "NIH", "text": "t", "title": "T"}',
        '{"id": 2, "body": "b"}',
        '{"content": "no id"}',
        "not json",
        '{"id": 5, "text": "  "}',
        '{"id": 6, "answer": "x"}',
        "[" * 100_000,
    ]
    (tmp_path / "d.jsonl").write_text("\n".join([*lines, ""]))
    rows = rows_of(tmp_path / "d.jsonl")
    assert [(row.source, row.title) for row in rows if isinstance(row, TextRow)] == [
        ("d.jsonl#NIH/1", "T"),
        ("d.jsonl#2", "2"),
        ("d.jsonl#3", "3"),
    ]
    refused = [row["reason"][:10] for row in rows if not isinstance(row, TextRow)]
    assert refused == ["not JSON: ", "the text i", "no text fi", "not JSON: "]


def test_a_table_of_something_else_is_one_reject(tmp_path: Path):
    (tmp_path / "qa.jsonl").write_text('{"question": "q"}\n' * 50)
    assert [row["source"] for row in rows_of(tmp_path / "qa.jsonl")] == ["qa.jsonl"]


def test_a_damaged_or_swollen_gzip_ends_in_a_reject(tmp_path: Path):
    data = "".join(json.dumps({"id": n, "text": f"text {n}"}) + "\n" for n in range(2000)).encode()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(data)[:-40])
    *rows, last = rows_of(tmp_path / "cut.jsonl.gz")
    assert "breaks off" in last["reason"]
    assert all(isinstance(row, TextRow) for row in rows)

    bomb = b'{"text": "' + b"a" * 1_000_000 + b'"}\n'
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(bomb * 50))
    assert "times its size" in rows_of(tmp_path / "bomb.jsonl.gz")[-1]["reason"]


def test_medquad_rows_are_unique_by_source_and_id(shared_data: Path):
    file = scan(shared_data / "medquad" / "documents.jsonl.gz", limits=LIMITS).files[0]
    rows = list(islice(read_rows(file, limits=LIMITS), 500))
    assert rows[0].source == "documents.jsonl.gz#CancerGov/0000001_1"
    assert len({row.source for row in rows}) == 500  # ten of them share their source and id with another row
