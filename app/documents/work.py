"""One file to its outcomes: a document with chunks, or a reject, for each document that the file holds. No Ray.

Guarantees: one outcome for every document of the file, whatever the file does to the converter.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NotRequired, TypedDict
from urllib.parse import quote

from app.core.language import UNKNOWN, language_of
from app.documents.chunk import Parent, TokenCounter, cut_sections, num_tables
from app.documents.errors import CannotConvert
from app.documents.guard import OLD_OFFICE, ZIPPED
from app.documents.read import ROWS_FORMATS, SourceFile, TextRow, read_rows
from app.documents.sandbox import Sandbox
from app.documents.schema import Reject, chunk_row, parent_row, reject
from app.documents.sections import Converted
from app.documents.settings import DocumentSettings
from app.documents.text import convert_text

SAMPLED_PARENTS = 4
SHARES = 3
LEAST_EFFORT_BYTES = 20_000
PACKED = (*ZIPPED, *OLD_OFFICE, "pdf", "msg")
PACKED_SHARE = 0.125


class Outcome(TypedDict):
    """What became of one document: either ``document`` with its rows, or ``reject``; ``parts`` are what it lost.

    ``begun_s`` is when, in seconds since the epoch, a worker began with the batch that it was in.
    """

    order: list[int]
    document: dict[str, Any] | None
    chunks: list[dict[str, Any]]
    parents: list[dict[str, Any]]
    parts: list[Reject]
    reject: Reject | None
    begun_s: NotRequired[float]


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
        if part.file.format not in ROWS_FORMATS:
            yield self._file(part)
            return
        lines = None
        if part.file.format == "json":
            try:
                lines = self._sandbox.rows(part.file)
            except CannotConvert as error:
                yield _refused([part.index, 0], part.file, error)
                return
        rows = islice(enumerate(read_rows(part.file, limits=self._settings.limits, lines=lines)), part.limit)
        for number, row in rows:
            if number % part.num_parts == part.part:
                yield self._row([part.index, number], row, part.file)

    def _file(self, part: Part) -> Outcome:
        file = part.file
        try:
            converted = self._sandbox.convert(file)
        except CannotConvert as error:
            return _refused([part.index, 0], file, error)
        if file.sidecar:
            converted = file.sidecar.apply(converted)
        return self._published([part.index, 0], file.source, file.digest, file, converted, file.num_bytes)

    def _row(self, order: list[int], row: TextRow | Reject, file: SourceFile) -> Outcome:
        if not isinstance(row, TextRow):
            return rejected(order, row)
        converted = convert_text(row.text, title=row.title).with_facts(row.facts)
        if file.sidecar:
            converted = file.sidecar.apply_to_row(converted)
        return self._published(order, row.source, row.document_id, file, converted, row.num_bytes)

    def _published(
        self, order: list[int], source: str, document_id: str, file: SourceFile, converted: Converted, num_bytes: int
    ) -> Outcome:
        cut = cut_sections(converted.sections, settings=self._settings.chunk, count_tokens=self._count_tokens)
        parents = list(cut)
        if not parents:
            row = reject(source, "no text was found in it", stage="chunk", num_bytes=num_bytes, digest=document_id)
            return rejected(order, row)
        document = self._document(source, document_id, file.format, converted, parents) | {"num_bytes": num_bytes}
        document["sidecar"] = file.sidecar.digest if file.sidecar else None
        chunks = [chunk_row(document, chunk, parent=parent.ordinal) for parent in parents for chunk in parent.chunks]
        parts = [
            reject(f"{source}#{fault.part}", fault.reason, stage="part", num_bytes=0, digest=document_id)
            for fault in converted.faults
        ]
        document["num_chunks"] = len(chunks)
        rows = [parent_row(document, parent) for parent in parents]
        return Outcome(order=order, document=document, chunks=chunks, parents=rows, parts=parts, reject=None)

    def _document(
        self, source: str, document_id: str, kind: str, converted: Converted, parents: list[Parent]
    ) -> dict[str, Any]:
        facts, settings = asdict(converted.facts), self._settings
        counts = {
            "num_chars": converted.num_chars,
            "num_tables": sum(num_tables(parent.text) for parent in parents),
            "num_parents": len(parents),
        }
        detected = language_of(" ".join(parent.text for parent in parents[:SAMPLED_PARENTS]))
        own = {
            "language": facts["language"] if detected == UNKNOWN else detected,
            "uri": facts["uri"] or settings.base_uri + quote(source, safe="/#"),
            "licence": facts["licence"] or settings.licence,
        }
        return {
            "document_id": document_id,
            "source": source,
            "title": converted.title,
            "format": kind,
            **facts,
            "access_labels": list(converted.facts.access_labels),
            **own,
            **counts,
        }


def _refused(order: list[int], file: SourceFile, error: CannotConvert) -> Outcome:
    row = reject(file.source, str(error), stage="convert", num_bytes=file.num_bytes, digest=file.digest)
    return rejected(order, row)


def rejected(order: list[int], row: Reject) -> Outcome:
    """The outcome of a document that is not published."""
    return Outcome(order=order, document=None, chunks=[], parents=[], parts=[], reject=row)


def split_work(files: list[SourceFile], *, num_workers: int, limit: int | None) -> list[Part]:
    """Parts of the work, in the order of the files; a JSON Lines file is shared between the workers."""
    parts = []
    for index, file in enumerate(files[:limit]):
        shares = num_workers if file.format == "jsonl" else 1
        parts += [Part(index, file, share, shares, limit) for share in range(shares)]
    return parts


def plan_batches(parts: Sequence[Part], *, num_workers: int, max_parts: int) -> list[list[Part]]:
    """Parts of the work in the batches that workers take one after another, the dearest parts first.

    A batch is at most its share of what is left, so that batches shrink towards the end and the workers end together
    (guided self-scheduling: Polychronopoulos and Kuck, 1987); it holds at most ``max_parts`` parts.
    """
    waiting = sorted(parts, key=lambda part: -_effort(part))
    left = sum(map(_effort, waiting))
    batches: list[list[Part]] = []
    place = 0
    while place < len(waiting):
        batch, share = [waiting[place]], left / (SHARES * num_workers)
        held = _effort(batch[0])
        for part in waiting[place + 1 : place + max_parts]:
            if held + _effort(part) > share:
                break
            batch, held = [*batch, part], held + _effort(part)
        batches.append(batch)
        place, left = place + len(batch), left - held
    return batches


def _effort(part: Part) -> float:
    """What a part of the work may cost, in bytes of text; what is packed is mostly pictures and fonts."""
    share = PACKED_SHARE if part.file.format in PACKED else 1.0
    return LEAST_EFFORT_BYTES + share * part.file.num_bytes / part.num_parts


def merge_outcomes(outcomes: Iterable[Outcome], *, limit: int | None) -> Iterator[Outcome]:
    """At most ``limit`` outcomes that come in the order of the documents; a repetition of one becomes a reject."""
    first: dict[str, str] = {}
    for outcome in islice(outcomes, limit):
        document = outcome["document"]
        if document and document["document_id"] in first:
            reason = f"duplicate of {first[document['document_id']]}"
            row = reject(document["source"], reason, stage="read", num_bytes=0)
            yield rejected(outcome["order"], row)
            continue
        if document:
            first[document["document_id"]] = document["source"]
        yield outcome
