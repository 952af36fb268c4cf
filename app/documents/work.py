"""One file to its outcomes: a document with chunks, or a reject, for each document that the file holds. No Ray.

Guarantees: one outcome for every document of the file, whatever the file does to the converter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypedDict

from app.documents.chunk import TokenCounter, chunk_sections
from app.documents.errors import CannotConvert
from app.documents.read import ROWS_FORMAT, SourceFile, TextRow, read_rows
from app.documents.sandbox import Sandbox
from app.documents.schema import Reject, chunk_row, reject
from app.documents.sections import Converted
from app.documents.settings import DocumentSettings
from app.documents.text import convert_text


class Outcome(TypedDict):
    """What became of one document: either ``document`` and ``chunks``, or ``reject``."""

    order: list[int]
    document: dict[str, Any] | None
    chunks: list[dict[str, Any]]
    reject: Reject | None


@dataclass(frozen=True)
class Part:
    """A share of the work: a whole file, or every ``num_parts``-th row of a JSON Lines file from row ``part`` on."""

    index: int
    file: SourceFile
    part: int = 0
    num_parts: int = 1
    limit: int | None = None


class FileWorker:
    """Converts and chunks one file after another, with one sandboxed converter."""

    def __init__(self, *, settings: DocumentSettings, count_tokens: TokenCounter, sandbox: Sandbox) -> None:
        self._settings, self._count_tokens, self._sandbox = settings, count_tokens, sandbox

    def outcomes(self, part: Part) -> Iterator[Outcome]:
        """One outcome for every document in this part of a file."""
        if part.file.format != ROWS_FORMAT:
            yield self._file(part)
            return
        rows = islice(enumerate(read_rows(part.file, limits=self._settings.limits)), part.limit)
        for number, row in rows:
            if number % part.num_parts == part.part:
                yield self._row([part.index, number], row, part.file)

    def _file(self, part: Part) -> Outcome:
        file = part.file
        try:
            converted = self._sandbox.convert(file)
        except CannotConvert as error:
            return rejected([part.index, 0], reject(file.source, str(error), stage="convert", num_bytes=file.num_bytes))
        return self._chunked([part.index, 0], file.source, file.digest, file.format, converted, file.num_bytes)

    def _row(self, order: list[int], row: TextRow | Reject, file: SourceFile) -> Outcome:
        if not isinstance(row, TextRow):
            return rejected(order, row)
        converted = convert_text(row.text, title=row.title)
        return self._chunked(order, row.source, row.document_id, file.format, converted, row.num_bytes)

    def _chunked(
        self, order: list[int], source: str, document_id: str, kind: str, converted: Converted, num_bytes: int
    ) -> Outcome:
        document = {"document_id": document_id, "source": source, "title": converted.title, "format": kind}
        pieces = chunk_sections(converted.sections, settings=self._settings.chunk, count_tokens=self._count_tokens)
        chunks = [
            chunk_row(document, ordinal=piece.ordinal, heading_path=list(piece.heading_path), text=piece.text)
            for piece in pieces
        ]
        if not chunks:
            return rejected(order, reject(source, "no text was found in it", stage="chunk", num_bytes=num_bytes))
        counts = {"num_chunks": len(chunks), "num_chars": converted.num_chars}
        return Outcome(order=order, document=document | counts, chunks=chunks, reject=None)


def rejected(order: list[int], row: Reject) -> Outcome:
    """The outcome of a document that is not published."""
    return Outcome(order=order, document=None, chunks=[], reject=row)


def split_work(files: list[SourceFile], *, num_workers: int, limit: int | None) -> list[Part]:
    """Parts of the work, in the order of the files; a JSON Lines file is shared between the workers."""
    parts = []
    for index, file in enumerate(files[:limit]):
        shares = num_workers if file.format == ROWS_FORMAT else 1
        parts += [Part(index, file, share, shares, limit) for share in range(shares)]
    return parts


def merge_outcomes(outcomes: list[Outcome], *, limit: int | None) -> list[Outcome]:
    """Outcomes in the order of the documents, at most ``limit``; a repetition of a document becomes a reject."""
    first: dict[str, str] = {}
    merged = []
    for outcome in sorted(outcomes, key=lambda item: item["order"])[:limit]:
        document = outcome["document"]
        if document and document["document_id"] in first:
            reason = f"duplicate of {first[document['document_id']]}"
            row = reject(document["source"], reason, stage="read", num_bytes=0)
            merged.append(rejected(outcome["order"], row))
            continue
        if document:
            first[document["document_id"]] = document["source"]
        merged.append(outcome)
    return merged
