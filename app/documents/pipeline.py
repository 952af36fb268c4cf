"""Ingest: a folder of documents to a dataset version, with Ray Data over the files.

Guarantees: every document found is published or stands in the rejects table, which is checked before anything is
published; the same documents and settings give the same version without work; identical bytes are one document; a
document that was erased is refused by a reject. Not guaranteed: workers on other machines need the folder under the
same path.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from app.core.digests import digest_json
from app.core.parquet import write_rows
from app.core.progress import progress
from app.documents.errors import DocumentsLost, EmptyCorpus
from app.documents.read import ROWS_FORMAT, Scan, scan
from app.documents.sandbox import Sandbox
from app.documents.schema import DOCUMENTS, REJECTS, reject
from app.documents.settings import DocumentSettings
from app.documents.work import FileWorker, Outcome, Part, merge_outcomes, rejected, split_work
from app.inference.encoder import PINNED, TokenCounter
from app.ledger.erasures import ErasedDocuments
from app.registry.tables import CHUNKS, CHUNKS_FILE, DOCUMENTS_FILE, REJECTS_FILE
from app.registry.versions import Registry, Version

CODE_VERSION = "documents-1"
KIND = "dataset"
FILES = (DOCUMENTS_FILE, CHUNKS_FILE, REJECTS_FILE)
TABLES = (DOCUMENTS, CHUNKS, REJECTS)


def ingest(
    source: str | Path, name: str, *, registry: Registry, settings: DocumentSettings, limit: int | None = None
) -> Version:
    """Publish the documents of a folder, or of one file, as the next version of dataset ``name``.

    Args:
        source: a local folder, read recursively, or one file.
        limit: take at most so many documents, in the order of their paths.

    Raises:
        SourceNotFound: the source is missing or cannot be read.
        EmptyCorpus: it holds no document that could be read; nothing is published.
        DocumentsLost: the count of documents does not add up; nothing is published.
    """
    found = scan(source, limits=settings.limits)
    erased = ErasedDocuments(registry.ledger, registry.store)
    inputs = _inputs(found, settings=settings, limit=limit) | ({"erased": erased.names} if erased.names else {})
    if version := registry.find(KIND, name, inputs):
        return version
    converted = [_allowed(outcome, erased) for outcome in convert_files(found, settings=settings, limit=limit)]
    outcomes = merge_outcomes(converted, limit=limit)
    tables = _tables(found, outcomes, source=source)
    with tempfile.TemporaryDirectory() as folder:
        for file, table, rows in zip(FILES, TABLES, tables, strict=True):
            write_rows(Path(folder) / file, rows, schema=table)
        facts = _facts(*tables) | {"num_hidden": found.num_hidden}
        return registry.publish(KIND, name, folder=Path(folder), inputs=inputs, facts=facts)


def convert_files(found: Scan, *, settings: DocumentSettings, limit: int | None) -> list[Outcome]:
    """files -> one outcome for every document, by an actor pool with a sandboxed converter each; in no order."""
    import ray.data

    parts = split_work(found.files, num_workers=settings.num_workers, limit=limit)
    if not parts:
        return []
    size = min(settings.num_workers, len(parts))
    ray.data.DataContext.get_current().enable_progress_bars = False
    done = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches(
        Converter,
        fn_constructor_kwargs={"settings": settings},
        compute=ray.data.ActorPoolStrategy(size=size),
        batch_size=max(1, min(settings.batch_size, len(parts) // (4 * size))),
        num_cpus=1,
        memory=settings.worker_memory_bytes,
    )
    outcomes: list[Outcome] = []
    with progress("documents") as bar:
        for row in done.iter_rows():
            outcomes.append(json.loads(row["outcome"]))
            bar.advance()
    _check_complete(parts, outcomes)
    return outcomes


class Converter:
    """The actor: parts of files in, outcomes as JSON out, a batch for every document."""

    def __init__(self, settings: DocumentSettings) -> None:
        sandbox = Sandbox(limits=settings.limits)
        self._worker = FileWorker(settings=settings, count_tokens=TokenCounter(), sandbox=sandbox)

    def __call__(self, batch: dict[str, Sequence[Part]]) -> Iterator[dict[str, list[str]]]:
        for part in batch["part"]:
            for outcome in self._worker.outcomes(part):
                yield {"outcome": [json.dumps(outcome)]}


def _inputs(found: Scan, *, settings: DocumentSettings, limit: int | None) -> dict[str, Any]:
    """What decides the content: names and bytes read, names refused with the reason, settings, tokenizer, code."""
    files = [[file.source, file.digest] for file in found.files]
    refused = [[row["source"], row["reason"]] for row in found.rejects]
    return {
        "documents": digest_json({"files": files, "refused": refused}),
        "settings": settings.identity(),
        "limit": limit,
        "tokenizer": PINNED["tokenizer.json"],
        "code_version": CODE_VERSION,
    }


def _allowed(outcome: Outcome, erased: ErasedDocuments) -> Outcome:
    """A document that an erasure names becomes a reject, so that it does not come back."""
    document = outcome["document"]
    leaf = erased.leaf_of(document["document_id"]) if document else None
    if document is None or leaf is None:
        return outcome
    reason = f"erased: leaf {leaf} of the ledger names this document; take out what was erased, then ingest it again"
    return rejected(outcome["order"], reject(document["source"], reason, stage="read", num_bytes=0))


def _check_complete(parts: Sequence[Part], outcomes: Sequence[Outcome]) -> None:
    """Every file that is one document has exactly one outcome, and the rows of the others have no gap."""
    seen = Counter(outcome["order"][0] for outcome in outcomes)
    rows = Counter((outcome["order"][0], outcome["order"][1]) for outcome in outcomes)
    for part in parts:
        whole = part.file.format != ROWS_FORMAT
        complete = all(rows[part.index, number] == 1 for number in range(seen[part.index]))
        if not complete or (whole and seen[part.index] != 1):
            raise DocumentsLost(
                f"{part.file.source} came back {seen[part.index]} times: report this; nothing was published"
            )


def _tables(found: Scan, outcomes: Sequence[Outcome], *, source: str | Path) -> tuple[list[Any], list[Any], list[Any]]:
    documents = [outcome["document"] for outcome in outcomes if outcome["document"]]
    chunks = [chunk for outcome in outcomes for chunk in outcome["chunks"]]
    rejects = sorted(
        [*found.rejects, *(outcome["reject"] for outcome in outcomes if outcome["reject"])],
        key=lambda row: (row["source"], row["reason"]),
    )
    if not documents:
        first = f", the first because: {rejects[0]['reason']}" if rejects else ""
        raise EmptyCorpus(
            f"none of the {len(rejects)} documents in {source} could be read{first}; nothing was published"
        )
    return documents, chunks, rejects


def _facts(documents: list[Any], chunks: list[Any], rejects: list[Any]) -> dict[str, Any]:
    """Counts. ``num_found`` is of documents, read or not: a file of rows that breaks off is a reject, but no document
    beside its own rows; one of which no row could be read counts as one."""
    named = [str(row["source"]) for row in (*documents, *rejects)]
    files_of_rows = {name[:place] for name in named for place, letter in enumerate(name) if letter == "#"}
    num_broken = sum(row["source"] in files_of_rows for row in rejects)
    return {
        "num_documents": len(documents),
        "num_chunks": len(chunks),
        "num_rejected": len(rejects),
        "num_found": len(documents) + len(rejects) - num_broken,
        "by_format": dict(sorted(Counter(row["format"] for row in documents).items())),
    }
