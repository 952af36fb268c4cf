"""From files, or an earlier version's rows, to a dataset version: read, checked, cleaned, divided, reported.

Guarantees: records in = rows + rejects, or nothing is published; the same files, settings, suites and recognisers give
the same version without work; a file whose bytes an erasure names is a reject. Not guaranteed: that a person would call
the rows good; the report lies in the version's folder, `signalbox datasets show` prints it.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version as version_of
from itertools import islice
from pathlib import Path
from typing import Any

from app.core.digests import digest_json
from app.core.errors import SignalboxError, UsageError
from app.core.parquet import read_rows, write_rows
from app.datasets.formats import parse
from app.datasets.messages import BadRow
from app.datasets.quality import apply, as_finding, divided_resemblances, drop_repeated, find_all, report, resembled
from app.datasets.read import Found, RowFile, find_files, read_records
from app.datasets.schema import (
    DOCUMENTS,
    FINDINGS,
    FINDINGS_FILE,
    QA,
    QUALITY_FILE,
    REJECTS,
    ROWS,
    TEXT,
    make_row,
    reject,
    with_columns,
)
from app.datasets.settings import DatasetSettings
from app.datasets.splits import divided_documents, split_of
from app.ledger.erasures import ErasedDocuments
from app.registry.tables import CHUNKS_FILE, DOCUMENTS_FILE, REJECTS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder

CODE_VERSION = "datasets-3"
KIND = "dataset"
SUITE = "suite"
QUALITY = "quality"
"""Kind of a report on a version that has none in its own folder."""
Row = dict[str, Any]
Examined = list[dict[str, Any]]
Examine = Callable[[Sequence[Row]], Examined]


class NoRows(UsageError):
    """No row is left: the message names the first reason; name another format, or mend the files."""


class RowsLost(SignalboxError):
    """Records in are not rows and rejects out: report this; nothing was published."""


@dataclass
class Read:
    """What was read: rows with their places, rejects, and a row for each file."""

    rows: list[Row]
    places: list[int]
    rejects: list[dict[str, Any]]
    documents: list[dict[str, Any]]


@dataclass(frozen=True)
class Curation:
    """What rows are curated with: settings, who examines them (this process or the pipeline), suites to keep out."""

    registry: Registry
    settings: DatasetSettings
    examining: Callable[[DatasetSettings, Mapping[str, list[Row]]], Examine]
    suites: Sequence[Version] = ()


@dataclass(frozen=True)
class Reading:
    """How files are read: the records' format, new names of fields by old ones, and how many records of each file."""

    format_name: str = "auto"
    renamed: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None


def import_rows(source: Path, name: str, *, by: Curation, reading: Reading | None = None) -> Version:
    """Publish the rows of a file or folder as the next version of dataset ``name``.

    Raises:
        SourceUnusable: there is nothing to read.
        NoRows: nothing of it is a row.
    """
    reading = reading or Reading()
    files, refused = find_files(source)
    erased = ErasedDocuments(by.registry.ledger, by.registry.store)
    found = {
        "files": [[file.source, file.digest] for file in files],
        "refused": [[row["source"], row["reason"]] for row in refused],
    }
    inputs = {"files": digest_json(found), "reading": asdict(reading)}
    inputs |= {"erased": erased.names} if erased.names else {}

    def read() -> Read:
        parts = [_read_unless_erased(file, erased=erased, reading=reading, settings=by.settings) for file in files]
        return _joined(parts, refused)

    return _publish(KIND, name, inputs, (), read, by=by)


def curate(version: Version, name: str, *, by: Curation) -> Version:
    """Publish the rows of an earlier version again: checked and cleaned. Splits stay as they are."""
    return _publish(
        version.kind, name, {"of": version.digest}, (version.digest,), lambda: read_again(version, by), by=by
    )


def assess(version: Version, *, by: Curation) -> Version:
    """Publish the quality report on a version that has none in its folder, beside it; nothing is dropped."""
    inputs = _inputs({"of": version.digest}, by)
    if found := by.registry.find(QUALITY, version.name, inputs):
        return found
    with tempfile.TemporaryDirectory() as folder:
        write_version(Path(folder), read_again(version, by), by, looked=inputs["looks"], rows_stay=True)
        facts = json.loads((Path(folder) / QUALITY_FILE).read_text(encoding="utf-8"))
        parents = [version.digest]
        return by.registry.publish(
            QUALITY, version.name, folder=Path(folder), inputs=inputs, parents=parents, facts=facts
        )


def read_again(version: Version, by: Curation) -> Read:
    """The rows and documents of an earlier version."""
    rows = rows_of(version, by.registry)
    return Read(rows, list(range(1, len(rows) + 1)), [], _documents_of(version, by.registry))


def rows_of(version: Version, registry: Registry) -> list[Row]:
    """The rows of a version under the one schema: its own, or the chunks of documents as running text.

    Raises:
        NoRows: it holds neither.
    """
    folder = whole_folder(version, registry)
    if (folder / ROWS_FILE).exists():
        return [_whole(row) for row in read_rows(folder / ROWS_FILE)]
    if (folder / CHUNKS_FILE).exists():
        return [_chunk(row) for row in read_rows(folder / CHUNKS_FILE)]
    raise NoRows(f"{version.kind} {version.ref} holds neither rows nor chunks: name another")


def _whole(row: Row) -> Row:
    """A row of this schema; an older or synthetic one, or a suite's question, with the columns that it lacks."""
    if "form" in row:
        return dict.fromkeys(ROWS.names) | row
    known = {name: row[name] for name in ROWS.names if row.get(name) is not None}
    known.setdefault("answer", next(iter(row.get("answers") or []), ""))
    return with_columns(QA, **known) if known.get("row_id") else make_row(QA, **known)


def _chunk(row: Row) -> Row:
    known = {name: row[name] for name in ("text", "chunk_id", "document_id", "source")}
    return with_columns(TEXT, **known, row_id=row["chunk_id"], document=row["document_id"], method="chunk")


def _documents_of(version: Version, registry: Registry) -> list[Row]:
    path = registry.folder(version) / DOCUMENTS_FILE
    rows = read_rows(path) if path.exists() else []
    empty = {"num_rows": 0, "num_rejected": 0, "bytes": 0, "title": "", "format": ""}
    return [{**empty, **{name: row[name] for name in DOCUMENTS.names if name in row}} for row in rows]


def _publish(
    kind: str, name: str, inputs: Mapping[str, Any], parents: Sequence[str], read: Callable[[], Read], *, by: Curation
) -> Version:
    """The version there is, or the one that is made now."""
    whole = _inputs(inputs, by)
    if found := by.registry.find(kind, name, whole):
        return found
    with tempfile.TemporaryDirectory() as folder:
        facts = write_version(Path(folder), read(), by, looked=whole["looks"])
        return by.registry.publish(kind, name, folder=Path(folder), inputs=whole, parents=parents, facts=facts)


def _inputs(inputs: Mapping[str, Any], by: Curation) -> dict[str, Any]:
    suites = [each.digest for each in by.suites]
    looked = looks(by.settings, by.suites)
    named = {"settings": by.settings.identity(), "suites": suites, "looks": looked, "code_version": CODE_VERSION}
    return {**inputs, **named}


def looks(settings: DatasetSettings, suites: Sequence[Version]) -> dict[str, str]:
    """How each look is taken, or why it is not; versions of the recognisers count, for they decide what is found."""
    quality = settings.quality
    none = "not taken: no suite was named"
    found = {"near_duplicate": f"MinHash, Jaccard {quality.similarity:g} of {quality.shingle_words} words"}
    found["language"] = f"py3langid {version_of('py3langid')}"
    found["encoding"] = f"ftfy {version_of('ftfy')}"
    found["contamination"] = f"{quality.contamination_words} words, {len(suites)} suites" if suites else none
    found["embedding"] = f"cosine {quality.embedding_similarity:g}" if suites else none
    found["label_issue"] = "confident learning"
    found["personal"] = _recognisers() if quality.personal != "skip" else "not taken: switched off"
    skipped = [name for name in ("embedding", "label_issues") if getattr(quality, name) == "skip"]
    return found | {name.removesuffix("s"): "not taken: switched off" for name in skipped}


def _recognisers() -> str:
    from app.datasets.personal import recogniser_versions

    return ", ".join(f"{name} {value}" for name, value in recogniser_versions().items())


def write_version(
    folder: Path, read: Read, by: Curation, *, looked: Mapping[str, str], rows_stay: bool = False
) -> dict[str, Any]:
    """Write the tables and the report of what was read; the version's facts come back.

    Args:
        rows_stay: write findings and report only; what would be dropped is a finding like any other.
    """
    examine = by.examining(
        by.settings, {each.ref: read_rows(whole_folder(each, by.registry) / ROWS_FILE) for each in by.suites}
    )
    first, repeated = drop_repeated(read.rows, read.places)
    unlike, places = [read.rows[n] for n in first], [read.places[n] for n in first]
    examined = examine(unlike)
    findings = find_all(unlike, examined, resembled(examined, by.settings.quality), settings=by.settings.quality)
    kept, dropped, noted = apply(unlike, examined, places, findings)
    rejects = [*read.rejects, *repeated, *dropped]
    rows = [{**row, "split": split_of(row, by.settings.splits)} for row in kept]
    if rows_stay:
        rows, noted, rejects = read.rows, [*noted, *map(as_finding, rejects)], []
    _check(rows, rejects, read, may_be_none=rows_stay)
    found = report(rows, noted, rejects, examined=examined, settings=by.settings.quality, looked=looked)
    found["documents_in_two_splits"] = len(divided_documents(rows))
    found["near_duplicates_across_splits"] = divided_resemblances(rows, noted)
    write_rows(folder / FINDINGS_FILE, noted, schema=FINDINGS)
    (folder / QUALITY_FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if not rows_stay:
        write_rows(folder / ROWS_FILE, rows, schema=ROWS)
        write_rows(folder / REJECTS_FILE, rejects, schema=REJECTS)
        write_rows(folder / DOCUMENTS_FILE, read.documents, schema=DOCUMENTS)
    return _facts(rows, found)


def _check(rows: Sequence[Row], rejects: Sequence[Row], read: Read, *, may_be_none: bool) -> None:
    if len(rows) + len(rejects) != len(read.rows) + len(read.rejects):
        raise RowsLost(f"{len(read.rows)} rows became {len(rows)} and {len(rejects)} rejects: report this")
    if not rows and not may_be_none:
        reason = f", the first because: {rejects[0]['reason']}" if rejects else ""
        raise NoRows(f"none of {len(rejects)} records is a row{reason}; name the format, or mend the files")


def _facts(rows: Sequence[Row], found: Mapping[str, Any]) -> dict[str, Any]:
    by_format = dict(sorted(Counter(row["template"] for row in rows if row["method"] == "import").items()))
    summary = {name: found[name] for name in ("rejected_by_stage", "rows_with_finding", "actions")}
    return {
        "num_rows": len(rows),
        "num_rejected": found["num_rejected"],
        "by_split": found["splits"],
        "by_form": dict(sorted(Counter(row["form"] for row in rows).items())),
        "by_format": by_format,
        "quality": {"report": QUALITY_FILE, **summary},
    }


def _read_unless_erased(file: RowFile, *, erased: ErasedDocuments, reading: Reading, settings: DatasetSettings) -> Read:
    digest = file.digest
    leaf = erased.leaf_of(digest)
    if leaf is not None:
        reason = f"erased: leaf {leaf} of the ledger names this file; take out what was erased, then import it again"
        num_bytes = file.path.stat().st_size
        return Read([], [], [reject(file.source, 0, reason, stage="read", num_bytes=num_bytes)], [])
    return read_file(file, digest=digest, reading=reading, settings=settings)


def read_file(file: RowFile, *, digest: str, reading: Reading, settings: DatasetSettings) -> Read:
    """The rows of a file, and a reject for each record that is none."""
    num_bytes = file.path.stat().st_size
    read = Read([], [], [], [])
    for found in islice(read_records(file, settings=settings.read), reading.limit):
        for each in _rows_of(found, reading):
            if isinstance(each, str):
                stage = "format" if found.record else "read"
                read.rejects.append(reject(file.source, found.place, each, stage=stage, num_bytes=found.num_bytes))
            else:
                read.rows.append({**each, "document_id": digest, "source": file.source})
                read.places.append(found.place)
    counts = {"num_rows": len(read.rows), "num_rejected": len(read.rejects), "bytes": num_bytes}
    named = {"document_id": digest, "source": file.source, "title": file.source, "format": file.kind}
    read.documents.append({**named, **counts})
    return read


def _rows_of(found: Found, reading: Reading) -> list[Row | str]:
    """The rows of a record, or in place of each that is none the reason."""
    if found.record is None:
        return [found.reason]
    renamed = {reading.renamed.get(key, key): value for key, value in found.record.items()}
    try:
        parsed = parse(renamed, format_name=reading.format_name)
    except BadRow as error:
        return [str(error)]
    return [str(each) if isinstance(each, BadRow) else each for each in parsed]


def _joined(parts: Sequence[Read], refused: Sequence[dict[str, Any]]) -> Read:
    return Read(
        [row for part in parts for row in part.rows],
        [place for part in parts for place in part.places],
        [*refused, *(row for part in parts for row in part.rejects)],
        [row for part in parts for row in part.documents],
    )
