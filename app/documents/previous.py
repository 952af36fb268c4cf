"""Documents that the version before holds already, so that an unchanged one is not converted again.

Guarantees: only rows that were made by the same code, converters and settings from the same bytes under the same name
are taken, and only where every row of the document is still there (an erasure may have taken some). A file of rows is
taken whole or not at all: not where one of its rows was a duplicate or erased, or the version lacks rows that it had.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import count, groupby
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from app.documents.read import ROWS_FORMATS, SourceFile
from app.documents.schema import Reject
from app.documents.work import Outcome, rejected
from app.registry.tables import CHUNKS_FILE, DOCUMENTS_FILE, PARENTS_FILE, REJECTS_FILE
from app.registry.versions import Registry, Version

SAME = ("settings", "tokenizer", "code_version", "converter")
"""The inputs that must be the same for rows to be taken over."""
TABLES = (DOCUMENTS_FILE, CHUNKS_FILE, PARENTS_FILE, REJECTS_FILE)
MAY_CHANGE = ("duplicate of ", "erased: ")
"""How reasons begin that hang on other documents than the one that they refuse."""
TRY_AGAIN = re.compile(r"^(not converted within|the converter |needs more than|a \.\w+ file needs)")
"""Reasons that another run may not meet with."""
Row = dict[str, Any]


def version_before(registry: Registry, name: str, inputs: Mapping[str, Any]) -> Version | None:
    """The newest version of a dataset that was made in the same way, its files all there."""
    for version in reversed(registry.versions("dataset", name)):
        before = version.manifest["inputs"]
        same = all(before.get(key) == inputs[key] for key in SAME)
        if same and all((registry.folder(version) / file).is_file() for file in TABLES):
            return version
    return None


def unchanged(folder: Path, files: Mapping[int, SourceFile]) -> Iterator[Outcome]:
    """Outcomes of the files that a version's folder knows, by their place in the order of the work."""
    known = {
        (file.source, file.digest, file.sidecar.digest if file.sidecar else None): place
        for place, file in files.items()
        if file.format not in ROWS_FORMATS
    }
    faults = _faults(folder)
    for document, chunks, parents in _documents(folder):
        place = known.get((document["source"], document["document_id"], document.get("sidecar")))
        whole = len(chunks) == document["num_chunks"] and len(parents) == document["num_parents"]
        if place is not None and whole:
            parts = faults.get(document["document_id"], [])
            yield Outcome(order=[place, 0], document=document, chunks=chunks, parents=parents, parts=parts, reject=None)
    for row in _rows(folder / REJECTS_FILE):
        place = known.get((row["source"], row["digest"], None))
        if place is not None and row["stage"] in ("convert", "chunk") and not TRY_AGAIN.match(row["reason"]):
            yield rejected([place, 0], cast(Reject, row))


def row_files(files: Iterable[SourceFile]) -> dict[str, list[str]]:
    """What tells files of rows from others of their names: the digests of their bytes and of their sidecars."""
    found = (file for file in files if file.format in ROWS_FORMATS)
    return {file.source: [file.digest, *([file.sidecar.digest] if file.sidecar else [])] for file in found}


def whole_row_files(version: Version, folder: Path) -> dict[str, list[str]]:
    """The files of rows that a version holds all outcomes of, as ``row_files`` tells them."""
    inputs, facts = version.manifest["inputs"], version.facts
    counts = [pq.ParquetFile(folder / file).metadata.num_rows for file in (DOCUMENTS_FILE, CHUNKS_FILE)]
    if inputs["limit"] is not None or counts != [facts["num_documents"], facts["num_chunks"]]:
        return {}
    found: dict[str, list[str]] = dict(inputs.get("row_files", {}))
    for row in _rows(folder / REJECTS_FILE):
        if row["reason"].startswith(MAY_CHANGE):
            found.pop(_file_of(row["source"], found), None)
    return found


def unchanged_rows(folder: Path, places: Mapping[str, int]) -> Iterator[Outcome]:
    """Outcomes of whole files of rows, in order, by the files' places in the order of the work."""
    numbers = {source: count() for source in places}
    for document, chunks, parents in _documents(folder):
        if (source := _file_of(document["source"], places)) and document["format"] in ROWS_FORMATS:
            order = [places[source], next(numbers[source])]
            yield Outcome(order=order, document=document, chunks=chunks, parents=parents, parts=[], reject=None)
    for row in _rows(folder / REJECTS_FILE):
        if source := _file_of(row["source"], places):
            yield rejected([places[source], next(numbers[source])], cast(Reject, row))


def _file_of(source: str, known: Container[str]) -> str:
    """The known file that a source is a row of, or that it is; nothing where there is none."""
    ends = [*(place for place, letter in enumerate(source) if letter == "#"), len(source)]
    return next((source[:end] for end in ends if source[:end] in known), "")


def _documents(folder: Path) -> Iterator[tuple[Row, list[Row], list[Row]]]:
    """Each document with its chunks and parents; the three tables are in the same order."""
    chunks, parents = (_by_document(folder / file) for file in (CHUNKS_FILE, PARENTS_FILE))
    held: dict[int, tuple[str, list[Row]]] = {0: next(chunks, ("", [])), 1: next(parents, ("", []))}
    for document in _rows(folder / DOCUMENTS_FILE):
        found: list[list[Row]] = []
        for number, rows in enumerate((chunks, parents)):
            own = held[number][0] == document["document_id"]
            found.append(held[number][1] if own else [])
            held[number] = next(rows, ("", [])) if own else held[number]
        yield document, found[0], found[1]


def _by_document(path: Path) -> Iterator[tuple[str, list[Row]]]:
    for document_id, rows in groupby(_rows(path), key=lambda row: str(row["document_id"])):
        yield document_id, list(rows)


def _faults(folder: Path) -> dict[str, list[Reject]]:
    """Parts that documents lost, by the documents' digests."""
    faults: dict[str, list[Reject]] = {}
    for row in _rows(folder / REJECTS_FILE):
        if row["stage"] == "part":
            faults.setdefault(row["digest"], []).append(cast(Reject, row))
    return faults


def _rows(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()
