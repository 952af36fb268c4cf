"""Refuse what is not worth opening: bombs, macros, encryption and declared entities, by a document's bytes alone.

Runs in the sandboxed process. Guarantees: nothing is unpacked but the first bytes of the parts of an archive. Not
guaranteed: a bomb that lies about its sizes is cut short by the reader or stopped by the sandbox's limits.
"""

import gzip
import re
import zipfile
import zlib
from io import BytesIO

from app.documents.errors import CannotConvert
from app.documents.settings import MIB, LimitSettings

ZIPPED = ("docx", "pptx", "xlsx", "epub")
OLD_OFFICE = ("doc", "ppt", "xls", "rtf")
OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
VBA = "_VBA_PROJECT".encode("utf-16-le")
STRICT = b"purl.oclc.org/ooxml/"
NOT_STRICT = ("xlsx", "pptx")
SMALL_BYTES = 8 * MIB
MAX_MEMBERS = 20_000
HEAD_BYTES = 4096
END_OF_DIRECTORY = b"PK\x05\x06"
ENTITY = re.compile(rb"<!ENTITY")
PART = re.compile(r"\.(xml|rels|opf|ncx)$", re.IGNORECASE)
MACROS = re.compile(r"(^|/)(vbaProject\.bin|macrosheets/)", re.IGNORECASE)
DRM = re.compile(rb"xmlenc#(aes|tripledes|rsa)|adept", re.IGNORECASE)


def unpack_fault(packed_bytes: int, unpacked_bytes: int, *, limits: LimitSettings) -> str | None:
    """Why a packed file of these sizes is refused, or None."""
    if unpacked_bytes > limits.unpacked_bytes:
        return f"it unpacks to more than {limits.unpacked_bytes} bytes"
    if unpacked_bytes > SMALL_BYTES and unpacked_bytes > limits.unpack_ratio * packed_bytes:
        return f"it unpacks to more than {limits.unpack_ratio:g} times its size"
    return None


def check(data: bytes, *, kind: str, limits: LimitSettings) -> None:
    """Refuse a document by what its bytes declare.

    Raises:
        CannotConvert: with the reason.
    """
    if kind in ZIPPED:
        if data.startswith(OLE_MAGIC):
            raise CannotConvert("encrypted with a password, or in the older binary format under a newer suffix")
        _check_archive(data, kind=kind, limits=limits)
    if kind in OLD_OFFICE and VBA in data:
        raise CannotConvert("it holds macros (_VBA_PROJECT): save it without them")
    if kind == "xml" and ENTITY.search(data):
        raise CannotConvert("its XML declares entities, which may swell or read other files; resolve them first")


def gunzip(data: bytes, *, limits: LimitSettings) -> bytes:
    """The bytes of a gzipped document.

    Raises:
        CannotConvert: it is damaged, or unpacks to too much.
    """
    parts: list[bytes] = []
    total = 0
    try:
        with gzip.open(BytesIO(data)) as stream:
            while part := stream.read(MIB):
                parts.append(part)
                total += len(part)
                if total > limits.document_bytes:
                    raise CannotConvert(f"it unpacks to more than {limits.document_bytes} bytes")
                if fault := unpack_fault(len(data), total, limits=limits):
                    raise CannotConvert(fault)
    except (OSError, EOFError, zlib.error) as error:
        raise CannotConvert(f"the gzip stream is damaged: {error}") from error
    return b"".join(parts)


def _check_archive(data: bytes, *, kind: str, limits: LimitSettings) -> None:
    if num_members(data) > MAX_MEMBERS:
        raise CannotConvert(f"the archive holds more than {MAX_MEMBERS} parts")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = archive.infolist()
            if fault := unpack_fault(len(data), sum(member.file_size for member in members), limits=limits):
                raise CannotConvert(fault)
            for member in members:
                _check_member(archive, member, kind=kind)
    except (OSError, ValueError, NotImplementedError, EOFError, zlib.error, zipfile.BadZipFile):
        return  # damaged, or no zip at all: the converter says what it is


def num_members(data: bytes) -> int:
    """How many parts an archive says that it has, before its directory is read."""
    place = data.rfind(END_OF_DIRECTORY, max(0, len(data) - 65_557))
    return int.from_bytes(data[place + 10 : place + 12], "little") if place >= 0 else 0


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, kind: str) -> None:
    if member.flag_bits & 1:
        raise CannotConvert("encrypted with a password")
    if MACROS.search(member.filename):
        raise CannotConvert(f"it holds macros ({member.filename}): save it without them")
    if not PART.search(member.filename) or (kind == "epub" and not member.filename.startswith("META-INF/")):
        return
    with archive.open(member) as part:
        head = part.read(HEAD_BYTES)
    if ENTITY.search(head):
        raise CannotConvert(f"its XML declares entities ({member.filename}), which may swell or read other files")
    if member.filename == "_rels/.rels" and kind in NOT_STRICT and STRICT in head:
        raise CannotConvert(
            f"strict Open XML, which is not read: save it as an ordinary .{kind} file (Office's default)"
        )
    if kind == "epub" and DRM.search(head):
        raise CannotConvert("encrypted by a rights management system")
