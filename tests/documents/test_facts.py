"""What documents say of themselves: dates, languages, addresses, licences, by format."""

import zipfile
from datetime import UTC, date, datetime
from io import BytesIO

import pytest

from app.documents.errors import CannotConvert
from app.documents.facts import (
    archive_facts,
    facts_of_fields,
    front_matter,
    html_facts,
    iso_date,
    language_code,
    parse_xml,
    pdf_facts,
)
from app.documents.sections import Facts


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-01", "2026-03-01"),
        ("2026-03-01T10:00:00+02:00", "2026-03-01T08:00:00Z"),
        ("2026-03-01 10:00:00", "2026-03-01T10:00:00"),
        ("Mon, 01 Mar 2026 10:00:00 +0000", "2026-03-01T10:00:00Z"),
        (date(2026, 3, 1), "2026-03-01"),
        (datetime(2026, 3, 1, tzinfo=UTC), "2026-03-01T00:00:00Z"),
        ("2026-13-01", None),
        ("soon", None),
        (7, None),
        ("x" * 1000, None),
    ],
)
def test_dates_become_iso_8601_or_nothing(value: object, expected: str | None):
    assert iso_date(value) == expected


@pytest.mark.parametrize(
    ("tag", "code"), [("en-GB", "en"), ("DE", "de"), ("fr_CA", "fr"), ("english", None), (1, None)]
)
def test_languages_are_codes(tag: object, code: str | None):
    assert language_code(tag) == code


def test_a_page_says_its_language_dates_address_and_licence():
    page = """<html lang='de-AT'><head><meta property="article:published_time" content="2026-01-02">
    <meta name=dcterms.modified content=2026-02-03><link rel="canonical" href="https://example.org/a">
    <link rel="license" href="https://creativecommons.org/licenses/by/4.0/"></head>"""
    assert html_facts(page) == Facts(
        "de", "2026-01-02", "2026-02-03", "https://example.org/a", "https://creativecommons.org/licenses/by/4.0/"
    )
    assert html_facts("<p>nothing</p>") == Facts()


def test_front_matter_is_read_and_taken_off():
    fields, text = front_matter("---\nTitle: A\ndate: 2026-01-02\nlicense: CC-BY-4.0\n---\n# B\n")
    assert (fields["title"], text) == ("A", "# B\n")
    assert facts_of_fields(fields) == Facts(created="2026-01-02", licence="CC-BY-4.0")
    for whole in ("---\n- a list\n---\nx", "---\n: : :\n  - [\n---\nx", "# no matter", "---\nopen: 1\n"):
        assert front_matter(whole) == ({}, whole)


def test_fields_with_odd_values_give_nothing():
    assert facts_of_fields({"date": [1], "url": "not a link", "language": {"a": 1}, "licence": ""}) == Facts()


def test_archives_say_their_dates():
    core = (
        '<cp:coreProperties xmlns:cp="a" xmlns:dcterms="b" xmlns:dc="c"><dcterms:created>2026-01-02T03:04:05Z'
        "</dcterms:created><dc:language>en-US</dc:language></cp:coreProperties>"
    )
    container = '<container><rootfiles><rootfile full-path="o.opf"/></rootfiles></container>'
    package = (
        '<package xmlns:dc="c"><metadata><dc:language>fr</dc:language><dc:date>2020-05-06</dc:date>'
        '<dc:rights>Public domain</dc:rights><meta property="dcterms:modified">2021-01-01</meta></metadata></package>'
    )
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in (("docProps/core.xml", core), ("META-INF/container.xml", container), ("o.opf", package)):
            archive.writestr(name, text)
    assert archive_facts(buffer.getvalue(), kind="docx") == Facts("en", "2026-01-02T03:04:05Z")
    epub = archive_facts(buffer.getvalue(), kind="epub")
    assert epub == Facts("fr", "2020-05-06", "2021-01-01", licence="Public domain")
    assert archive_facts(b"none", kind="xlsx") == Facts()


def test_pdf_dates():
    info = {"CreationDate": "D:20260102030405+01'00'", "ModDate": "D:2026"}
    assert pdf_facts(info, num_pages=3) == Facts(None, "2026-01-02T02:04:05Z", "2026-01-01", num_pages=3)
    assert pdf_facts({"CreationDate": "yesterday"}, num_pages=1) == Facts(num_pages=1)


def test_entities_and_malformed_xml_are_refused():
    for data in (b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", b"<a>", b"\xff\xfe"):
        with pytest.raises(CannotConvert, match="not well-formed"):
            parse_xml(data)
