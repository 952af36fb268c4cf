"""Files of rows to records: JSON Lines, JSON, CSV, Parquet and YAML, plain or gzipped.

Guarantees: every record of every file is handed on or stands in the rejects with its line and a reason; files are read
record by record, so that one broken line costs itself alone. Not guaranteed: a guess at other encodings than UTF-8.
"""

import codecs
import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from app.core.digests import digest_file
from app.core.errors import UsageError
from app.datasets.schema import reject
from app.datasets.settings import ReadSettings

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".yaml": "yaml",
    ".yml": "yaml",
}
LISTS = (
    *("messages", "conversations", "history", "input_ids", "labels", "attention_mask", "answers"),
    *("tokens", "tags", "spans"),
)
GZIP = ".gz"
UTF8_MARK = codecs.BOM_UTF8
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
SKIPPED = ("SOURCE.md", "README.md", "LICENSE", "attribution.txt")
"""Files that lie beside rows and hold none; they are no rejects."""


class SourceUnusable(UsageError):
    """There is nothing to read rows from; the message says what to name."""


@dataclass(frozen=True)
class RowFile:
    """A file to read rows from; ``source`` is its name below what the user named."""

    path: Path
    source: str
    kind: str

    @property
    def digest(self) -> str:
        return digest_file(self.path)


@dataclass(frozen=True)
class Found:
    """A record, or the reason why there is none, at a place of a file."""

    place: int
    record: dict[str, Any] | None
    reason: str = ""
    num_bytes: int = 0


def find_files(source: Path) -> tuple[list[RowFile], list[dict[str, Any]]]:
    """The files of a folder, or the one file, and a reject for each that is of no kind that rows are read from.

    Raises:
        SourceUnusable: there is no such file or folder, or nothing in it.
    """
    if not source.exists():
        raise SourceUnusable(f"there is no {source}: name a file or a folder of rows")
    paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    paths = [path for path in paths if not path.name.startswith(".") and path.name not in SKIPPED]
    if not paths:
        raise SourceUnusable(f"{source} holds no file: name a file or a folder of rows")
    files, rejects = [], []
    for path in paths:
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        kind = SUFFIXES.get(Path(name.lower().removesuffix(GZIP)).suffix)
        if kind and path.is_file() and _readable(path):
            files.append(RowFile(path, name, kind))
        else:
            reason = f"rows are read from {', '.join(SUFFIXES)} and their {GZIP}" if not kind else "cannot be opened"
            rejects.append(reject(name, 0, reason, stage="read"))
    return files, rejects


def read_records(file: RowFile, *, settings: ReadSettings) -> Iterator[Found]:
    """Every record of a file, in order. What goes wrong ends at the record, or where it must, at the file."""
    readers = {"jsonl": _json_lines, "json": _json, "csv": _csv, "parquet": _parquet, "yaml": _yaml}
    place = 0
    try:
        if encoding := _other_encoding(file):
            yield Found(0, None, f"is text in {encoding}; rows are read in UTF-8: convert the file")
            return
        for found in readers[file.kind](file, settings):
            place = found.place
            yield found
    except (OSError, EOFError, zlib.error) as error:
        yield Found(place + 1, None, f"the file cannot be read on from here ({error})")


def _other_encoding(file: RowFile) -> str:
    """The encoding that a file's byte order mark names, when it is not UTF-8."""
    with _opened(file) as stream:
        start = stream.read(4)
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "")


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _json_lines(file: RowFile, settings: ReadSettings) -> Iterator[Found]:
    read = 0
    with _opened(file) as stream:
        place = 0
        while line := stream.readline(settings.record_bytes + 1):
            place, read = place + 1, read + len(line)
            if len(line) > settings.record_bytes:
                size = len(line)
                while line and not line.endswith(b"\n"):
                    line = stream.readline(settings.record_bytes)
                    size += len(line)
                read += size
                yield Found(place, None, f"the line is longer than {settings.record_bytes} bytes", size)
            elif line.strip():
                yield _from_json(place, line)
            if read > settings.file_bytes:
                yield Found(place + 1, None, f"the file goes on after {settings.file_bytes} bytes, the limit")
                return


def _from_json(place: int, data: bytes) -> Found:
    try:
        value = _loads(data)
    except UnicodeDecodeError as error:
        return Found(place, None, f"is not UTF-8 (byte {error.start})", len(data))
    except (ValueError, RecursionError) as error:
        return Found(place, None, f"is not JSON ({error})", len(data))
    return _mapping(place, value, len(data))


def _loads(data: bytes) -> Any:
    return json.loads(data.decode("utf-8-sig"), parse_constant=_no_number, object_pairs_hook=_fields)


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object; of two of one name the first would be lost in silence."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"the field {_twice(name for name, _ in pairs)!r} stands twice in an object")
    return fields


def _twice(names: Iterable[str]) -> str:
    return next(name for name, number in Counter(names).items() if number > 1)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _mapping(place: int, value: object, num_bytes: int = 0) -> Found:
    if not isinstance(value, dict):
        return Found(place, None, f"is a {type(value).__name__}, not a record with fields", num_bytes)
    if odd := next((key for key in value if not isinstance(key, str)), None):
        return Found(place, None, f"has a field {odd!r}, whose name is no text", num_bytes)
    return Found(place, value, num_bytes=num_bytes)


def _json(file: RowFile, settings: ReadSettings) -> Iterator[Found]:
    """A list of records, or one record."""
    data = _whole(file, settings.file_bytes)
    if data is None:
        yield Found(0, None, f"the file is larger than {settings.file_bytes} bytes")
        return
    try:
        value = _loads(data)
    except (ValueError, RecursionError) as error:
        yield Found(0, None, f"is not JSON in UTF-8 ({error}); JSON Lines are named .jsonl", len(data))
        return
    for place, each in enumerate(value if isinstance(value, list) else [value], 1):
        yield _mapping(place, each)


def _csv(file: RowFile, settings: ReadSettings) -> Iterator[Found]:
    csv.field_size_limit(settings.record_bytes)
    with _opened(file) as stream:
        delimiter = "\t" if ".tsv" in file.source.lower() else ","
        reader = csv.reader(_lines(stream, settings), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            try:
                values = next(reader, None)
                if values is None:
                    return
                if header is None:
                    header = _header(values)
                elif values:
                    yield _from_csv(reader.line_num, header, values)
            except csv.Error as error:
                yield Found(reader.line_num, None, f"is not CSV ({error}); the file is not read on")
                return


def _lines(stream: IO[bytes], settings: ReadSettings) -> Iterator[str]:
    """The lines of a text file without its byte order mark; bytes that are not UTF-8 as lone surrogates.

    Raises:
        csv.Error: a line, or the file, is longer than the settings allow.
    """
    read = 0
    while line := stream.readline(settings.record_bytes + 1):
        line = line if read else line.removeprefix(UTF8_MARK)
        read += len(line)
        if len(line) > settings.record_bytes:
            raise csv.Error(f"a line is longer than {settings.record_bytes} bytes")
        if read > settings.file_bytes:
            raise csv.Error(f"it goes on after {settings.file_bytes} bytes, the limit")
        yield line.decode("utf-8", "surrogateescape")


def _header(values: list[str]) -> list[str]:
    names = [name.strip() for name in values]
    if len(set(names)) < len(names):
        raise csv.Error(f"its header names the column {_twice(names)!r} twice")
    if any(map(_is_escaped, names)):
        raise csv.Error("its header is not UTF-8")
    return names


def _is_escaped(text: str) -> bool:
    """Whether a text holds bytes that were not UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)


def _from_csv(place: int, header: list[str], values: list[str]) -> Found:
    if len(values) != len(header):
        return Found(place, None, f"has {len(values)} columns, the header {len(header)}")
    if any(map(_is_escaped, values)):
        return Found(place, None, "is not UTF-8")
    return Found(place, {name: _cell(name, value) for name, value in zip(header, values, strict=True)})


def _cell(name: str, value: str) -> Any:
    """A cell of turns, tokens or answers as the JSON list that it holds; any other as its text."""
    if name in LISTS and value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _parquet(file: RowFile, settings: ReadSettings) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = 0
    try:
        with pq.ParquetFile(file.path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for found in _rows_of(batch, place + 1):
                    place = found.place
                    yield found
    except (pa.ArrowException, OSError) as error:
        yield Found(place + 1, None, f"is not Parquet that can be read on ({error})")


def _rows_of(batch: Any, first: int) -> Iterator[Found]:
    """The rows of a record batch, one by one where one of them holds what Python has no value for."""
    try:
        yield from (Found(place, row) for place, row in enumerate(batch.to_pylist(), first))
    except (ValueError, OverflowError):
        for place in range(batch.num_rows):
            try:
                yield Found(first + place, batch.slice(place, 1).to_pylist()[0])
            except (ValueError, OverflowError) as error:
                yield Found(first + place, None, f"holds a value that cannot be read ({error})")


def _yaml(file: RowFile, settings: ReadSettings) -> Iterator[Found]:
    data = _whole(file, settings.yaml_bytes)
    if data is None:
        yield Found(0, None, f"the file is larger than {settings.yaml_bytes} bytes")
        return
    try:
        text = data.decode("utf-8-sig")
        _check_names(yaml.compose(text, yaml.SafeLoader))
        value = yaml.safe_load(text)
        _check_aliases(value, settings.yaml_bytes)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        yield Found(0, None, f"is not YAML in UTF-8 ({error})", len(data))
        return
    for place, each in enumerate(value if isinstance(value, list) else [value], 1):
        found = _mapping(place, each, len(data))
        if found.record is not None and "seed_examples" in found.record:
            found.record.setdefault("path", Path(file.source).parent.as_posix())
        yield found


def _check_names(node: Any) -> None:
    """Refuse a mapping that names a field twice; a node that aliases point to is looked at once."""
    waiting, seen = [node], set[int]()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen or isinstance(each, yaml.ScalarNode):
            continue
        seen.add(id(each))
        if isinstance(each, yaml.MappingNode):
            names = [key.value for key, _ in each.value if isinstance(key, yaml.ScalarNode)]
            if len(set(names)) < len(names):
                raise ValueError(f"the field {_twice(names)!r} stands twice in a mapping")
            waiting += [value for _, value in each.value]
        else:
            waiting += each.value


def _check_aliases(value: object, limit: int) -> None:
    """Refuse a small file whose aliases stand for more values than a whole file may have bytes, or for themselves."""
    sizes: dict[int, int] = {}

    def size(each: object) -> int:
        if not isinstance(each, dict | list):
            return 1
        if id(each) not in sizes:
            sizes[id(each)] = limit + 1
            sizes[id(each)] = 1 + sum(map(size, each.values() if isinstance(each, dict) else each))
        return sizes[id(each)]

    if size(value) > limit:
        raise ValueError("its aliases stand for too much")


def _opened(file: RowFile) -> IO[bytes]:
    return gzip.open(file.path, "rb") if file.path.name.lower().endswith(GZIP) else file.path.open("rb")  # type: ignore[return-value]


def _whole(file: RowFile, limit_bytes: int) -> bytes | None:
    """All bytes of a file; None when there are more than the limit."""
    with _opened(file) as stream:
        data = stream.read(limit_bytes + 1)
    return data if len(data) <= limit_bytes else None
