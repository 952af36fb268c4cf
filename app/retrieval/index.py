"""An index on disk: vectors, BM25 and the table of their chunks, written to a folder, opened from one.

Guarantees: row ``n`` of the chunk table belongs to vector ``n`` and to text ``n`` of BM25; equal vectors, rows and
settings give equal bytes; vectors and BM25 are mapped into memory, not read. An index without BM25 (an older one, or
one that an erasure took it from) gets it from its chunk table when it is opened. Not guaranteed: that the chunk table
is mapped; it is held as Arrow columns.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.core.errors import SignalboxError
from app.core.parquet import ROW_GROUP_SIZE
from app.registry.tables import CHUNKS, CHUNKS_FILE, INDEX_FILE, LEXICAL_FOLDER
from app.retrieval import vectors as faiss_kinds
from app.retrieval.filters import DATE, LABELS
from app.retrieval.lexical import Lexical, joined
from app.retrieval.settings import LexicalSettings, SearchSettings

if TYPE_CHECKING:
    import faiss
    import numpy as np
    from numpy.typing import NDArray

SEARCH_FILE = "search.json"
ADDED = {
    LABELS: pa.list_(pa.string()),
    DATE: pa.string(),
    "language": pa.string(),
    "page_start": pa.int64(),
    "page_end": pa.int64(),
}
"""Columns that an index's chunk table has where its dataset knows them."""


class IndexBroken(SignalboxError):
    """An index and its chunk table do not belong together: build the index again."""


@dataclass(frozen=True)
class Opened:
    """The parts of an index."""

    vectors: "faiss.Index"
    lexical: Lexical
    chunks: pa.Table
    settings: SearchSettings


def write_index(
    folder: Path,
    vectors: "NDArray[np.float32]",
    rows: Sequence[Mapping[str, Any]],
    *,
    kind: str = "flat",
    lexical: LexicalSettings | None = None,
    search: SearchSettings | None = None,
) -> None:
    """Write vectors (n, dim) of unit length and their n chunk rows.

    Raises:
        IndexBroken: the numbers of vectors and rows differ.
    """
    import faiss

    if len(vectors) != len(rows):
        raise IndexBroken(f"{len(vectors)} vectors for {len(rows)} chunks: build the index again")
    faiss.write_index(faiss_kinds.build(vectors, kind), str(folder / INDEX_FILE))
    table = chunk_table(rows)
    pq.write_table(table, folder / CHUNKS_FILE, compression="zstd", row_group_size=ROW_GROUP_SIZE)
    build_lexical(table, settings=lexical or LexicalSettings()).write(folder / LEXICAL_FOLDER)
    write_search(folder, search=search or SearchSettings(), lexical=lexical or LexicalSettings())


def write_search(folder: Path, *, search: SearchSettings, lexical: LexicalSettings) -> None:
    """Say how the index is searched, and how its words were made."""
    how = {"search": search, "lexical": lexical}
    (folder / SEARCH_FILE).write_text(json.dumps({part: each.model_dump(mode="json") for part, each in how.items()}))


def chunk_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Chunk rows as a table: the columns that every chunk has, and of the others those that a row has."""
    fields = [*CHUNKS, *(pa.field(name, kind) for name, kind in ADDED.items() if rows and name in rows[0])]
    present = [field for field in fields if not field.nullable or (rows and field.name in rows[0])]
    schema = pa.schema(present)
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def build_lexical(chunks: pa.Table, *, settings: LexicalSettings) -> Lexical:
    """BM25 over a chunk table."""
    rows = zip(*(chunks[name].to_pylist() for name in ("title", "heading_path", "text")), strict=True)
    texts = (joined(title, path, text, headings=settings.headings) for title, path, text in rows)
    return Lexical.build(texts, settings=settings)


def read_index(folder: Path) -> Opened:
    """Open an index's parts.

    Raises:
        IndexBroken: a file is missing, damaged, or of another index.
    """
    import faiss

    try:
        index = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC)
        chunks = pq.read_table(folder / CHUNKS_FILE)
        search, words = _read_settings(folder)
        lexical = _read_lexical(folder, chunks, words)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise IndexBroken(f"the index in {folder} cannot be opened: build it again") from error
    if not index.ntotal == len(lexical) == len(chunks):
        counts = f"{index.ntotal} vectors for {len(chunks)} chunks"
        raise IndexBroken(f"the index in {folder} has {counts}, {len(lexical)} of them in BM25: build it again")
    return Opened(index, lexical, chunks, search)


def _read_lexical(folder: Path, chunks: pa.Table, settings: LexicalSettings) -> Lexical:
    try:
        return Lexical.open(folder / LEXICAL_FOLDER)
    except FileNotFoundError:
        return build_lexical(chunks, settings=settings)


def _read_settings(folder: Path) -> tuple[SearchSettings, LexicalSettings]:
    path = folder / SEARCH_FILE
    how = json.loads(path.read_text()) if path.exists() else {"search": {}, "lexical": {}}
    return SearchSettings(**how["search"]), LexicalSettings(**how["lexical"])
