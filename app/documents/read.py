"""Find the documents of a folder, and read those that are rows of a JSON Lines file.

Guarantees: the same folder gives the same items in the same order; whatever is found but cannot be read comes back as a
reject with its reason; links never lead outside the folder and never loop. Not guaranteed: files whose names begin with
a dot are not documents and are only counted; a folder that changes while it is read is noticed only by the converter,
which checks every file's digest.
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from app.core.digests import digest_bytes, digest_file
from app.documents.errors import BadLabels, CannotConvert, EmptyCorpus, SourceNotFound
from app.documents.facts import facts_of_fields
from app.documents.guard import unpack_fault
from app.documents.schema import Reject, reject
from app.documents.sections import Facts
from app.documents.settings import LimitSettings
from app.documents.sidecar import Sidecar, document_of, read_sidecar

FORMATS = {
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".csv": "csv",
    ".txt": "txt",
    ".pdf": "pdf",
    ".adoc": "adoc",
    ".asciidoc": "adoc",
    ".asc": "adoc",
    ".epub": "epub",
    ".eml": "eml",
    ".msg": "msg",
    ".xml": "xml",
    ".xml.gz": "xml",
    ".nxml": "xml",
    ".doc": "doc",
    ".ppt": "ppt",
    ".xls": "xls",
    ".rtf": "rtf",
    ".json": "json",
    ".json.gz": "json",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
}
ROWS_FORMATS = ("jsonl", "json")
"""Formats whose files hold a document in every row; the rows of ``json`` are read by the converter."""
MACRO_SUFFIXES = (".docm", ".dotm", ".pptm", ".potm", ".ppsm", ".xlsm", ".xltm", ".xlsb")
ID_FIELDS = ("id", "doc_id", "document_id", "_id", "docid")
TEXT_FIELDS = ("text", "body", "content", "contents", "passage")
TITLE_FIELDS = ("title", "name", "heading", "focus", "subject")


@dataclass(frozen=True)
class SourceFile:
    """A file to convert. ``source`` is its path relative to the folder, with forward slashes."""

    path: Path
    source: str
    format: str
    digest: str
    num_bytes: int
    sidecar: Sidecar | None = None


@dataclass(frozen=True)
class TextRow:
    """One row of a JSON Lines file: a document of its own."""

    source: str
    document_id: str
    title: str
    text: str
    num_bytes: int
    facts: Facts = field(default_factory=Facts)


@dataclass
class Scan:
    """What a folder holds: files to convert, rejects, and the number of hidden names passed over."""

    files: list[SourceFile] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    num_hidden: int = 0


def scan(source: str | Path, *, limits: LimitSettings) -> Scan:
    """Walk a folder (or take one file), in the order of the paths.

    Raises:
        SourceNotFound: the source is missing, not a local path, or may not be read.
        EmptyCorpus: there is nothing in it.
    """
    root = _readable_root(source)
    found = Scan()
    if root.is_file():
        beside = [path for path in root.parent.iterdir() if document_of(path.name) == root.name]
        _add_file(root, root.name, found, limits=limits, sidecars=beside)
    else:
        _walk(root, root, found, limits=limits)
    if not found.files and not found.rejects:
        raise EmptyCorpus(f"{root} holds no files: put documents in it, or name another folder")
    return found


def format_of(name: str) -> str | None:
    """The format that a file name says, or None when it is none that can be read."""
    lower = name.lower()
    suffixes = [suffix for suffix in FORMATS if lower.endswith(suffix)]
    return FORMATS[max(suffixes, key=len)] if suffixes else None


def read_rows(
    file: SourceFile, *, limits: LimitSettings, lines: Iterable[bytes] | None = None
) -> Iterator[TextRow | Reject]:
    """The rows of a JSON Lines file, or of ``lines`` that were read from it, one document or one reject each.

    A row without a known text field, an empty one, or a line that is not JSON is a reject of its own; when the file
    itself breaks off (a damaged gzip stream, a bomb), one last reject says so. When not one row has a text field, as in
    a table of something else, a single reject stands for the whole file.
    """
    pending: list[Reject] = []
    taken = 0
    for item in _rows(file, _lines(file, limits=limits) if lines is None else lines):
        if isinstance(item, TextRow):
            yield from pending
            pending, taken = [], taken + 1
            yield item
        elif taken or "no text field" not in item["reason"]:
            yield item
        else:
            pending.append(item)
    if taken:
        yield from pending
    elif pending:
        yield reject(file.source, f"{pending[0]['reason']} in any row", stage="read", num_bytes=file.num_bytes)


def _rows(file: SourceFile, lines: Iterable[bytes]) -> Iterator[TextRow | Reject]:
    number, seen = 0, set[str]()
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _distinct(_row(file.source, number, line), number, seen)
    except (OSError, EOFError, zlib.error, _TooLarge) as error:
        text = f"the file breaks off after line {number}: {error or type(error).__name__}"
        yield reject(file.source, text, stage="read", num_bytes=file.num_bytes)


def _distinct(row: TextRow | Reject, number: int, seen: set[str]) -> TextRow | Reject:
    """A row whose name an earlier row had gets its number behind the name."""
    if not isinstance(row, TextRow):
        return row
    name = f"{row.source}#row-{number}" if row.source in seen else row.source
    seen.add(name)
    return replace(row, source=name)


class _TooLarge(ValueError):
    """A line or an unpacked file exceeds its limit."""


def _lines(file: SourceFile, *, limits: LimitSettings) -> Iterator[bytes]:
    packed = file.path.suffix.lower() == ".gz"
    total = 0
    with _open(file.path, packed=packed) as stream:
        while line := stream.readline(limits.document_bytes + 1):
            total += len(line)
            if len(line) > limits.document_bytes:
                raise _TooLarge(f"a row exceeds {limits.document_bytes} bytes")
            if packed and (reason := unpack_fault(file.num_bytes, total, limits=limits)):
                raise _TooLarge(reason)
            yield line


def _open(path: Path, *, packed: bool) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


def _row(source: str, number: int, line: bytes) -> TextRow | Reject:
    place = f"{source}#{number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return reject(place, f"not JSON: {error}", stage="read", num_bytes=len(line))
    if not isinstance(row, dict):
        return reject(place, "the row is not a JSON object", stage="read", num_bytes=len(line))
    text = _first(row, TEXT_FIELDS)
    if text is None:
        return reject(place, f"no text field ({', '.join(TEXT_FIELDS)})", stage="read", num_bytes=len(line))
    if not text.strip():
        return reject(place, "the text is empty", stage="read", num_bytes=len(line))
    name = _row_name(row) or str(number)
    try:
        facts = facts_of_fields({str(key).lower(): value for key, value in row.items()})
    except BadLabels as error:
        return reject(place, str(error), stage="read", num_bytes=len(line))
    title = _first(row, TITLE_FIELDS) or name
    return TextRow(f"{source}#{name}", digest_bytes(line.strip()), title, text, len(line), facts)


def _row_name(row: dict[str, Any]) -> str:
    """The row's own id, behind its own source where it has one: ids are often unique within a source only."""
    own = next((str(row[name]) for name in ID_FIELDS if isinstance(row.get(name), str | int)), "")
    origin = row.get("source")
    return f"{origin}/{own}" if own and isinstance(origin, str) and origin else own


def _first(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        if isinstance(row.get(name), str):
            return str(row[name]).encode("utf-8", "replace").decode()
    return None


def _readable_root(source: str | Path) -> Path:
    if isinstance(source, str) and "://" in source and not source.startswith("file://"):
        raise SourceNotFound(f"{source} is not a local folder: copy or mount the documents, and name that folder")
    root = Path(str(source).removeprefix("file://")).expanduser().absolute()
    if not root.exists():
        whole = Path(str(source).removeprefix("file://")).is_absolute()
        hint = "check the path" if whole else "give the whole path, since a job runs in a copy of its folder"
        raise SourceNotFound(f"there is no file or folder {root}: {hint}")
    needed = os.R_OK | os.X_OK if root.is_dir() else os.R_OK
    if not os.access(root, needed) or not (root.is_dir() or root.is_file()):
        raise SourceNotFound(f"{root} cannot be read: allow this user to read it, or name another folder")
    return root.resolve()


def _walk(folder: Path, root: Path, found: Scan, *, limits: LimitSettings) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.rejects.append(_fault(_relative(folder, root) + "/", f"the folder cannot be read: {error.strerror}"))
        return
    sidecars = _sidecars(entries)
    for entry in entries:
        if document_of(entry.name) in sidecars:
            continue
        path, source = Path(entry.path), _relative(Path(entry.path), root)
        if entry.name.startswith("."):
            found.num_hidden += 1
        elif entry.is_dir(follow_symlinks=False):
            _walk(path, root, found, limits=limits)
        elif fault := _entry_fault(entry, root):
            found.rejects.append(_fault(source, fault))
        else:
            _add_file(path, source, found, limits=limits, sidecars=sidecars.get(entry.name, ()))


def _sidecars(entries: Iterable[os.DirEntry[str]]) -> dict[str, list[Path]]:
    """The sidecars in a folder by the names of their documents, which are there."""
    files = {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
    found: dict[str, list[Path]] = {}
    for entry in entries:
        name = document_of(entry.name)
        if name in files and not entry.name.startswith("."):
            found.setdefault(str(name), []).append(Path(entry.path))
    return found


def _relative(path: Path, root: Path) -> str:
    """The path below the root, readable even where a name is not UTF-8."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()


def _entry_fault(entry: os.DirEntry[str], root: Path) -> str | None:
    if entry.is_symlink():
        target = Path(os.path.realpath(entry.path))
        if not target.is_relative_to(root):
            return "a symbolic link that leads outside the folder"
        if not target.is_file():
            return "a symbolic link to a folder or to nothing; it is not followed"
    return None if Path(entry.path).is_file() else "not a regular file"


def _add_file(path: Path, source: str, found: Scan, *, limits: LimitSettings, sidecars: Iterable[Path] = ()) -> None:
    try:
        num_bytes = path.stat().st_size
        kind = format_of(path.name)
        if fault := _file_fault(path, kind, num_bytes, limits=limits):
            found.rejects.append(reject(source, fault, stage="read", num_bytes=num_bytes))
            return
        sidecar = read_sidecar(sidecars)
        found.files.append(SourceFile(path, source, str(kind), digest_file(path), num_bytes, sidecar))
    except CannotConvert as error:
        found.rejects.append(reject(source, str(error), stage="read", num_bytes=num_bytes))
    except OSError as error:
        found.rejects.append(_fault(source, f"cannot be read: {error.strerror}"))


def _file_fault(path: Path, kind: str | None, num_bytes: int, *, limits: LimitSettings) -> str | None:
    if name := document_of(path.name):
        return f"a sidecar of no document: there is no file {name} beside it"
    if path.suffix.lower() in MACRO_SUFFIXES:
        return f"a {path.suffix} file may hold macros: save it in the format without them"
    if kind is None:
        return f"unknown format {path.suffix or '(no suffix)'}: known are {', '.join(FORMATS)}"
    if num_bytes == 0:
        return "the file is empty"
    if kind != "jsonl" and num_bytes > limits.document_bytes:
        return f"the file exceeds {limits.document_bytes} bytes (documents.limits.document_bytes)"
    return None


def _fault(source: str, reason: str) -> Reject:
    return reject(source, reason, stage="read", num_bytes=0)
