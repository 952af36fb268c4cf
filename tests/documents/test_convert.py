"""The formats: one small document of each, converted by the real converter; and what is refused."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.digests import digest_file
from app.documents.errors import CannotConvert
from app.documents.models import libreoffice
from app.documents.pdf import page_fault
from app.documents.read import SourceFile, format_of
from app.documents.sandbox import Sandbox
from app.documents.sections import Converted
from app.documents.settings import LimitSettings

REGML = """<regulation xmlns="eregs"><fdsys><title>EQUAL CREDIT</title><originalDate>2012-01-01</originalDate></fdsys>
<preamble><effectiveDate>2012-09-30</effectiveDate></preamble><part label="1002"><tableOfContents><x>Not this</x>
</tableOfContents><content><subpart label="A"><title>General</title><content><section label="1002-1">
<subject>§ 1002.1 Scope.</subject><paragraph marker="(a)"><title>Coverage.</title><content>Applies to
<ref>creditors</ref> who lend.<footnote>As defined.</footnote></content>
<paragraph marker="(1)"><content>Banks.</content></paragraph>
</paragraph><paragraph marker=""><content>See: <table><header><columnHeaderRow><column>Kind</column><column>Fee</column>
</columnHeaderRow></header><row><cell>Card</cell><cell>12</cell></row></table></content></paragraph></section></content>
</subpart></content></part></regulation>"""
MAIL = """From: Ann <ann@example.org>
To: Bob <bob@example.org>
Subject: New fees
Date: Mon, 02 Mar 2026 10:00:00 +0100
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain

The yearly fee is 12 euros.
--b
Content-Type: application/pdf
Content-Disposition: attachment; filename="fees.pdf"

x
--b--
"""
FILES = {
    "a.adoc": "= Fees\n\n== Cards\n\nA card costs 12 euros.\n",
    "a.md": "---\ntitle: Fees\ndate: 2026-03-02\nlicense: CC0-1.0\n---\n## Cards\n\nA card costs 12 euros.\n",
    "a.html": "<html lang=en><head><meta name=date content=2026-03-02></head><h1>Fees</h1><h2>Cards</h2><p>A card "
    "costs 12 euros.</html>",
    "a.txt": "Fees\n\nCARDS\n\nA card costs 12 euros.\n",
    "a.csv": "Kind,Fee\nCard,12\n",
    "a.xml": REGML,
    "a.eml": MAIL,
}


@pytest.fixture(scope="module")
def converter() -> Iterator[Sandbox]:
    with Sandbox(limits=LimitSettings(timeout_s=20)) as sandbox:
        yield sandbox


def convert(sandbox: Sandbox, path: Path) -> Converted:
    kind = str(format_of(path.name))
    return sandbox.convert(SourceFile(path, path.name, kind, digest_file(path), path.stat().st_size))


@pytest.fixture
def converted(tmp_path: Path, converter: Sandbox) -> dict[str, Converted]:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return {name: convert(converter, tmp_path / name) for name in FILES}


def test_every_format_keeps_headings_text_and_facts(converted: dict[str, Converted]):
    for name in ("a.adoc", "a.md", "a.html", "a.txt"):
        (section,) = converted[name].sections
        assert [part.title() for part in section.heading_path] == ["Fees", "Cards"]
        assert section.text == "A card costs 12 euros."
    assert converted["a.csv"].sections[0].text == "| Kind | Fee |\n| --- | --- |\n| Card | 12 |"
    assert (converted["a.md"].facts.created, converted["a.md"].facts.licence) == ("2026-03-02", "CC0-1.0")
    assert (converted["a.html"].facts.created, converted["a.html"].facts.language) == ("2026-03-02", "en")


def test_a_regulation_keeps_markers_footnotes_and_tables(converted: dict[str, Converted]):
    regulation = converted["a.xml"]
    assert (regulation.facts.created, regulation.facts.modified) == ("2012-01-01", "2012-09-30")
    (section,) = regulation.sections
    assert section.heading_path == ("Part 1002: EQUAL CREDIT", "General", "§ 1002.1 Scope.")
    assert section.text == (
        "(a) Coverage. Applies to creditors who lend. [As defined.]\n\n(1) Banks.\n\nSee:\n\n"
        "| Kind | Fee |\n| --- | --- |\n| Card | 12 |"
    )


def test_a_message_keeps_its_date_and_names_what_was_attached(converted: dict[str, Converted]):
    mail = converted["a.eml"]
    assert (mail.title, mail.facts.created) == ("New fees", "2026-03-02T09:00:00Z")
    assert "The yearly fee is 12 euros." in mail.sections[0].text
    assert [fault.part for fault in mail.faults] == ["attachment-1-fees.pdf (application/pdf)"]


def test_packed_files_and_rows(tmp_path: Path, converter: Sandbox):
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(REGML.encode()))
    assert convert(converter, tmp_path / "a.xml.gz").title == "Part 1002: EQUAL CREDIT"
    rows = [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
    for name, value, num in (("list", rows, 2), ("inside", {"data": rows, "n": 2}, 2), ("one", rows[0], 1)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(value))
        file = SourceFile(path, path.name, "json", digest_file(path), path.stat().st_size)
        assert [json.loads(line) for line in converter.rows(file)] == rows[:num]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.xml", b"<kml/>", "XML of an unknown kind"),
        ("a.xml", b"<a>", "not well-formed"),
        ("a.pdf", b"%PDF-1.7 nothing", "damaged"),
        ("a.txt", b"\x89PNG\r\n", "not text"),
        ("a.epub", b"PK", "damaged"),
    ],
)
def test_what_cannot_be_read_is_said_so(tmp_path: Path, converter: Sandbox, name: str, data: bytes, reason: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CannotConvert, match=reason):
        convert(converter, tmp_path / name)


def test_old_office_files_need_libreoffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.doc").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 512)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DOCLING_LIBREOFFICE_CMD", raising=False)
    with Sandbox(limits=LimitSettings()) as sandbox, pytest.raises(CannotConvert, match="save the file as"):
        convert(sandbox, tmp_path / "a.doc")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Error decoding page 0 of key=99ab: std::bad_alloc", "it needs more memory than a document may take"),
        ("Error decoding page 0 of key=99ab: no stream", "it cannot be parsed: Error decoding page 0: no stream"),
    ],
)
def test_a_page_that_cannot_be_parsed_says_why_without_a_key(message: str, reason: str):
    assert page_fault(message).startswith(reason)


@pytest.mark.skipif(not libreoffice(), reason="LibreOffice is not installed: install soffice to run this test")
def test_an_old_office_file_is_read_by_libreoffice(tmp_path: Path, converter: Sandbox):
    (tmp_path / "fees.rtf").write_text(r"{\rtf1\ansi{\pard\b Fees\par}{\pard The annual fee is 12 euros.\par}}")
    converted = convert(converter, tmp_path / "fees.rtf")
    assert "The annual fee is 12 euros." in converted.sections[-1].text


def test_no_picture_is_drawn_by_libreoffice(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "soffice"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'called'}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("DOCLING_LIBREOFFICE_CMD", str(program))
    (tmp_path / "a.rtf").write_text(r"{\rtf1 text}")
    with Sandbox(limits=LimitSettings()) as sandbox:
        for name in ("docx/sources/drawingml.docx", "xlsx/sources/xlsx_emf.xlsx"):
            convert(sandbox, shared_data / "docling_convert" / name)
        assert not (tmp_path / "called").exists()
        with pytest.raises(CannotConvert, match="LibreOffice could not read it"):
            convert(sandbox, tmp_path / "a.rtf")
    assert (tmp_path / "called").exists()
