"""Ingest: a folder of documents to a dataset version, with Ray Data over the files.

Guarantees: every document found is published or stands in the rejects table, which is checked before anything is
published, as do the pages and attachments that a document lost; the same documents and settings give the same version
without work; a document that the version before holds is not converted again; a run that was killed goes on with what
it had converted, and gives the version that an undisturbed run gives; identical bytes are one document; a document that
was erased is refused by a reject; memory does not grow with the folder, but for the names of its files. Not guaranteed:
workers on other machines need the folder under the same path.
"""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.core.digests import digest_json, hex_of
from app.core.language import load_identifier
from app.core.parquet import RowWriter
from app.core.progress import progress
from app.documents.errors import DocumentsLost, EmptyCorpus
from app.documents.models import converter_versions, libreoffice, pdf_reader
from app.documents.previous import row_files, unchanged, unchanged_rows, version_before, whole_row_files
from app.documents.read import ROWS_FORMATS, Scan, scan
from app.documents.sandbox import Sandbox
from app.documents.schema import DOCUMENTS, PARENTS, REJECTS, Reject, reject
from app.documents.settings import DocumentSettings
from app.documents.spool import Order, Spool
from app.documents.work import FileWorker, Outcome, Part, merge_outcomes, plan_batches, rejected, split_work
from app.inference.encoder import PINNED, TokenCounter
from app.ledger.erasures import ErasedDocuments
from app.registry.tables import CHUNKS_FILE, DATASET_CHUNKS, DOCUMENTS_FILE, PARENTS_FILE, REJECTS_FILE
from app.registry.versions import Registry, Version

CODE_VERSION = "documents-4"
KIND = "dataset"
TABLES = {DOCUMENTS_FILE: DOCUMENTS, CHUNKS_FILE: DATASET_CHUNKS, PARENTS_FILE: PARENTS, REJECTS_FILE: REJECTS}


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
    key = hex_of(digest_json({"name": name, "inputs": inputs}))
    with Spool(registry.workspace.root / "ingest" / f"{key}.jsonl") as spool, tempfile.TemporaryDirectory() as folder:
        parts = split_work(found.files, num_workers=settings.num_workers, limit=limit)
        before, rows_before = _before(registry, name, inputs)
        take_over(spool, parts, folder=before, rows_before=rows_before)
        held = {order[0] for order in spool.orders}
        convert_files([part for part in parts if part.index not in held], spool, settings=settings)
        check_complete(parts, spool.orders)
        facts = write_tables(Path(folder), found, _decided(spool, erased, limit=limit), source=source)
        version = registry.publish(KIND, name, folder=Path(folder), inputs=inputs, facts=facts)
        spool.remove()
    return version


def take_over(
    spool: Spool, parts: Sequence[Part], *, folder: Path | None, rows_before: Mapping[str, list[str]] | None = None
) -> None:
    """Fill the spool with what need not be converted: outcomes of a killed run, and documents of the version before."""
    files = {part.index: part.file for part in parts if part.file.format not in ROWS_FORMATS}
    spool.keep(lambda order: order[0] in files)
    held = {order[0] for order in spool.orders}
    if folder is not None:
        for outcome in unchanged(folder, {place: file for place, file in files.items() if place not in held}):
            spool.add(outcome)
        same = row_files(part.file for part in parts)
        places = {part.file.source: part.index for part in parts if part.file.source in same}
        same = {source: digests for source, digests in same.items() if (rows_before or {}).get(source) == digests}
        for outcome in unchanged_rows(folder, {source: places[source] for source in same}) if same else ():
            spool.add(outcome)


def convert_files(parts: Sequence[Part], spool: Spool, *, settings: DocumentSettings) -> None:
    """files -> an outcome in the spool for every document, by an actor pool with a sandboxed converter each."""
    import pandas as pd
    import ray.data

    if not parts:
        return
    size = min(settings.num_workers, len(parts))
    batches = plan_batches(parts, num_workers=size, max_parts=settings.batch_size)
    ray.data.DataContext.get_current().enable_progress_bars = False
    done = ray.data.from_blocks([pd.DataFrame({"part": batch}) for batch in batches]).map_batches(
        Converter,
        fn_constructor_kwargs={"settings": settings},
        compute=ray.data.ActorPoolStrategy(size=size),
        batch_size=None,
        num_cpus=1,
        memory=settings.worker_memory_bytes,
    )
    with progress("documents") as bar:
        for row in done.iter_rows():
            spool.add_line(row["outcome"], row["order"])
            bar.advance()


class Converter:
    """The actor: parts of files in, outcomes as JSON out. ``begun_s`` is when the first of its batch was begun."""

    def __init__(self, settings: DocumentSettings) -> None:
        """Load what a worker needs, while its sandbox imports the converter."""
        sandbox = Sandbox(limits=settings.limits, pdf=pdf_reader(settings.pdf))
        sandbox.start()
        load_identifier()
        self._worker = FileWorker(settings=settings, count_tokens=TokenCounter(), sandbox=sandbox)
        sandbox.wait()

    def __call__(self, batch: dict[str, Sequence[Part]]) -> Iterator[dict[str, list[Any]]]:
        begun_s = time.time()
        for part in batch["part"]:
            for outcome in self._worker.outcomes(part):
                yield {"order": [outcome["order"]], "outcome": [json.dumps(outcome | {"begun_s": begun_s})]}


def check_complete(parts: Sequence[Part], orders: Sequence[Order]) -> None:
    """Every file that is one document has exactly one outcome, and the rows of the others have no gap.

    Raises:
        DocumentsLost: one has not.
    """
    seen = Counter(place for place, _ in orders)
    held = set(orders)
    for part in parts:
        whole = part.file.format not in ROWS_FORMATS
        complete = all((part.index, number) in held for number in range(seen[part.index]))
        if not complete or (whole and seen[part.index] != 1):
            raise DocumentsLost(
                f"{part.file.source} came back {seen[part.index]} times: report this; nothing was published"
            )


def write_tables(folder: Path, found: Scan, outcomes: Iterator[Outcome], *, source: str | Path) -> dict[str, Any]:
    """Write the version's tables, in the order of the documents; its facts come back.

    Raises:
        EmptyCorpus: there is no document to publish.
    """
    rejects, formats, counts = list(found.rejects), Counter[str](), Counter[str]()
    sources: set[str] = set()
    with ExitStack() as stack:
        writers = {file: stack.enter_context(RowWriter(folder / file, schema=TABLES[file])) for file in TABLES}
        for outcome in outcomes:
            rejects += [*outcome["parts"], *([outcome["reject"]] if outcome["reject"] else [])]
            document = outcome["document"]
            rows = {CHUNKS_FILE: outcome["chunks"], PARENTS_FILE: outcome["parents"]}
            for file, each in (rows | {DOCUMENTS_FILE: [document] if document else []}).items():
                for one in each:
                    writers[file].add(one)
            if document:
                formats[document["format"]] += 1
                sources |= files_of_rows(document["source"]) if document["format"] in ROWS_FORMATS else set()
                counts.update({name: document[name] or 0 for name in ("num_pages", "num_tables", "num_chunks")})
        rejects.sort(key=lambda row: (row["source"], row["reason"]))
        for row in rejects:
            writers[REJECTS_FILE].add(row)
    _check_any(formats, rejects, source=source)
    num_parts = sum(row["stage"] == "part" for row in rejects)
    num_documents = sum(formats.values())
    return {
        "num_documents": num_documents,
        "num_chunks": counts["num_chunks"],
        "num_rejected": len(rejects) - num_parts,
        "num_found": count_found(num_documents, rejects, sources),
        "num_parts_rejected": num_parts,
        "num_pages": counts["num_pages"],
        "num_tables": counts["num_tables"],
        "by_format": dict(sorted(formats.items())),
        "num_hidden": found.num_hidden,
    }


def _inputs(found: Scan, *, settings: DocumentSettings, limit: int | None) -> dict[str, Any]:
    """What decides the content: names and bytes read, names refused with the reason, settings, tokenizer, code."""
    files = [[file.source, file.digest, *([file.sidecar.digest] if file.sidecar else [])] for file in found.files]
    refused = [[row["source"], row["reason"]] for row in found.rejects]
    return {
        "documents": digest_json({"files": files, "refused": refused}),
        "settings": settings.identity(),
        "limit": limit,
        "tokenizer": PINNED["tokenizer.json"],
        "converter": converter_versions(settings.pdf),
        "libreoffice": libreoffice(),
        "code_version": CODE_VERSION,
        "row_files": row_files(found.files),
    }


def _before(registry: Registry, name: str, inputs: Mapping[str, Any]) -> tuple[Path | None, dict[str, list[str]]]:
    """The folder of the version before, and the files of rows that may be taken from it."""
    version = version_before(registry, name, inputs)
    if version is None:
        return None, {}
    folder = registry.folder(version)
    return folder, whole_row_files(version, folder) if inputs["limit"] is None else {}


def _decided(spool: Spool, erased: ErasedDocuments, *, limit: int | None) -> Iterator[Outcome]:
    """The outcomes that count, in order."""
    return merge_outcomes((_allowed(outcome, erased) for outcome in spool.outcomes()), limit=limit)


def _allowed(outcome: Outcome, erased: ErasedDocuments) -> Outcome:
    """A document that an erasure names becomes a reject, so that it does not come back."""
    document = outcome["document"]
    leaf = erased.leaf_of(document["document_id"]) if document else None
    if document is None or leaf is None:
        return outcome
    reason = f"erased: leaf {leaf} of the ledger names this document; take out what was erased, then ingest it again"
    return rejected(outcome["order"], reject(document["source"], reason, stage="read", num_bytes=0))


def _check_any(formats: Mapping[str, int], rejects: Sequence[Reject], *, source: str | Path) -> None:
    if not formats:
        first = f", the first because: {rejects[0]['reason']}" if rejects else ""
        raise EmptyCorpus(
            f"none of the {len(rejects)} documents in {source} could be read{first}; nothing was published"
        )


def files_of_rows(source: str) -> set[str]:
    """The files that a source may be a row of."""
    return {source[:place] for place, letter in enumerate(source) if letter == "#"}


def count_found(num_documents: int, rejects: Sequence[Reject], row_files: set[str]) -> int:
    """Documents that were there, read or not. A file of rows that breaks off is a reject, but no document beside its
    own rows; one of which no row could be read counts as one."""
    whole = [row["source"] for row in rejects if row["stage"] != "part"]
    known = row_files.union(*map(files_of_rows, whole))
    return num_documents + sum(source not in known for source in whole)
