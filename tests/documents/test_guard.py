"""What is refused before it is opened: bombs, macros, encryption, entities; and what is not."""

import gzip
import os
import zipfile
from io import BytesIO

import pytest

from app.documents.errors import CannotConvert
from app.documents.guard import END_OF_DIRECTORY, check, gunzip, num_members
from app.documents.settings import MIB, LimitSettings

LIMITS = LimitSettings()
STRICT = b'<Relationship Type="http://purl.oclc.org/ooxml/officeDocument/relationships/officeDocument"/>'
ENTITIES = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'


def packed(parts: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def encrypted(data: bytes) -> bytes:
    """An archive whose first part says that it is encrypted."""
    place = data.index(b"PK\x01\x02") + 8
    return data[:place] + b"\x01" + data[place + 1 :]


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("docx", packed({"word/document.xml": b"\0" * (64 * MIB)}), "times its size"),
        ("docx", packed({"word/vbaProject.bin": b"x"}), r"macros \(word/vbaProject.bin\)"),
        ("xlsx", packed({"xl/macrosheets/sheet1.xml": b"<x/>"}), "macros"),
        ("xlsx", packed({"xl/workbook.xml": ENTITIES}), "declares entities"),
        ("docx", encrypted(packed({"word/document.xml": b"<x/>"})), "encrypted with a password"),
        ("pptx", bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 100, "password, or in the older"),
        ("epub", packed({"META-INF/encryption.xml": b"http://www.w3.org/2001/04/xmlenc#aes128-cbc"}), "rights manag"),
        ("xlsx", packed({f"a{n}.bin": b"" for n in range(20_001)}), "more than 20000 parts"),
        ("xml", ENTITIES, "declares entities"),
        ("doc", b"\xd0\xcf\x11\xe0" + "_VBA_PROJECT".encode("utf-16-le"), r"macros \(_VBA_PROJECT\)"),
        ("xlsx", packed({"_rels/.rels": STRICT}), "strict Open XML, which is not read: save it as an ordinary .xlsx"),
        ("pptx", packed({"_rels/.rels": STRICT}), "strict Open XML"),
    ],
)
def test_what_is_not_worth_opening_is_refused(kind: str, data: bytes, reason: str):
    with pytest.raises(CannotConvert, match=reason):
        check(data, kind=kind, limits=LIMITS)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("docx", packed({"word/document.xml": os.urandom(MIB)})),
        ("epub", packed({"META-INF/encryption.xml": b"http://www.idpf.org/2008/embedding", "a.xhtml": ENTITIES})),
        ("docx", b"no archive at all"),
        ("docx", packed({"_rels/.rels": STRICT})),
        ("xlsx", packed({"_rels/.rels": b"<Relationships/>", "xl/other.rels": STRICT})),
        ("docx", b"PK\x03\x04" + END_OF_DIRECTORY + b"\xff" * 4),
        ("xml", b"<!DOCTYPE x SYSTEM 'x.dtd'><x/>"),
        ("html", ENTITIES),
    ],
)
def test_what_may_be_opened_is_not(kind: str, data: bytes):
    check(data, kind=kind, limits=LIMITS)


def test_the_number_of_parts_is_read_without_the_directory():
    assert num_members(packed({"a": b"", "b": b""})) == 2
    assert num_members(b"none") == 0


def test_gzip_is_unpacked_within_bounds():
    assert gunzip(gzip.compress(b"text"), limits=LIMITS) == b"text"
    for data, reason in (
        (gzip.compress(b"\0" * 20_000_000), "times its size"),
        (gzip.compress(os.urandom(2_000_000)), "more than 1000000 bytes"),
        (gzip.compress(os.urandom(1000))[:-20], "damaged"),
        (b"no gzip", "damaged"),
    ):
        with pytest.raises(CannotConvert, match=reason):
            gunzip(data, limits=LIMITS if "times" in reason else LimitSettings(document_bytes=1_000_000))
