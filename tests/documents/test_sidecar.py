"""What people say of documents: sidecars, front matter, rows; what cannot be read refuses its document."""

import json
from pathlib import Path

import pytest

from app.documents.errors import BadLabels, CannotConvert
from app.documents.facts import facts_of_fields, front_matter
from app.documents.read import TextRow, read_rows, scan
from app.documents.sections import Converted, Facts, Section
from app.documents.settings import LimitSettings
from app.documents.sidecar import document_of, read_sidecar

WHOLE = """
title: Fees of 2026
date: 2026-01-02
modified: "2026-03-04T05:06:07Z"
language: en
licence: CC-BY-4.0
uri: https://example.org/fees
access_labels: [hr, board]
"""


def test_a_sidecar_says_what_counts(tmp_path: Path):
    (tmp_path / "fees.pdf.meta.yaml").write_text(WHOLE)
    sidecar = read_sidecar(tmp_path.iterdir())
    assert sidecar is not None
    own = Converted(
        "fees", (Section(("fees", "Cards"), "Free."),), Facts(language="de", num_pages=2, access_labels=("it",))
    )
    converted = sidecar.apply(own)
    assert (converted.title, converted.sections[0].heading_path) == ("Fees of 2026", ("Fees of 2026", "Cards"))
    dates = "2026-01-02", "2026-03-04T05:06:07Z"
    assert converted.facts == Facts(
        "en", *dates, "https://example.org/fees", "CC-BY-4.0", num_pages=2, access_labels=("board", "hr", "it")
    )
    assert Converted.from_json(json.loads(json.dumps(converted.to_json()))) == converted
    row = sidecar.apply_to_row(own)
    assert (row.title, row.facts.language, row.facts.access_labels) == ("fees", "de", ("board", "hr", "it"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("access_labels: [hr", "not YAML"),
        ("just a line", "must hold fields"),
        ("[1, 2]", "must hold fields"),
        ("", "must hold fields"),
        ("acess_labels: [hr]", "unknown field acess_labels"),
        ("access_labels: {hr: true}", "list of words"),
        ("access_labels:", "list of words"),
        ("access_labels: [hr, '']", "list of words"),
        ("access_labels: [12]", "list of words"),
        ("date: some day", "date is not one: 'some day'"),
        ("uri: fees", "uri is not one"),
        ("title: [a]", "title is not one"),
        ("title: ''", "title is not one"),
        ("language: 12", "language is not one"),
        ("title: " + "x" * 70_000, "exceeds 65536 bytes"),
        ("title: \udcff", "is refused"),
    ],
)
def test_a_sidecar_that_cannot_be_read_refuses_its_document(tmp_path: Path, text: str, reason: str):
    (tmp_path / "fees.md").write_text("Fees.")
    (tmp_path / "fees.md.meta.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "other.md").write_text("Other.")
    found = scan(tmp_path, limits=LimitSettings())
    assert [file.source for file in found.files] == ["other.md"]
    assert [row["source"] for row in found.rejects] == ["fees.md"]
    assert found.rejects[0]["reason"].startswith("its sidecar fees.md.meta.yaml")
    assert reason in found.rejects[0]["reason"]


def test_sidecars_are_no_documents_and_one_alone_is_a_reject(tmp_path: Path):
    (tmp_path / "fees.md").write_text("Fees.")
    (tmp_path / "fees.md.meta.json").write_text('{"access_labels": "hr, board"}')
    (tmp_path / "gone.md.meta.yml").write_text("title: Gone")
    found = scan(tmp_path, limits=LimitSettings())
    assert [(file.source, file.sidecar.facts.access_labels) for file in found.files if file.sidecar] == [
        ("fees.md", ("board", "hr"))
    ]
    assert [(row["source"], row["reason"].split(":")[0]) for row in found.rejects] == [
        ("gone.md.meta.yml", "a sidecar of no document")
    ]
    alone = scan(tmp_path / "fees.md", limits=LimitSettings()).files
    assert alone == found.files


def test_two_sidecars_and_links_are_refused(tmp_path: Path):
    (tmp_path / "fees.md").write_text("Fees.")
    (tmp_path / "fees.md.meta.yaml").write_text("title: A")
    (tmp_path / "fees.md.meta.json").write_text('{"title": "B"}')
    with pytest.raises(CannotConvert, match="two sidecars"):
        read_sidecar(path for path in tmp_path.iterdir() if document_of(path.name))
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(CannotConvert, match="not a regular file"):
        read_sidecar([tmp_path / "link"])


@pytest.mark.parametrize(
    ("name", "document"),
    [("a.pdf.meta.yaml", "a.pdf"), ("a.META.YML", "a"), ("a.meta.json", "a"), ("meta.yaml", None), ("a.yaml", None)],
)
def test_the_name_of_a_sidecar_is_its_documents_with_an_ending(name: str, document: str | None):
    assert document_of(name) == document


def test_labels_of_front_matter_and_rows(tmp_path: Path):
    assert facts_of_fields(front_matter("---\naccess_labels: [hr]\n---\nText")[0]).access_labels == ("hr",)
    with pytest.raises(BadLabels, match="not YAML"):
        front_matter("---\naccess_labels: [hr\n---\nText")
    assert front_matter("---\ntitle: [hr\n---\nText")[0] == {}
    rows = ['{"id": 1, "text": "a", "access_labels": ["hr"]}', '{"id": 2, "text": "b", "access_labels": 3}']
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, '{"id": 3, "text": "c"}']))
    found = list(read_rows(scan(tmp_path, limits=LimitSettings()).files[0], limits=LimitSettings()))
    assert [row.facts.access_labels if isinstance(row, TextRow) else row["reason"] for row in found] == [
        ("hr",),
        "access_labels must be a list of words, as [hr, board]",
        (),
    ]
