"""An index on disk: vectors, BM25 and the table of their chunks, written to a folder, opened from one.

Guarantees: row ``n`` of the chunk table belongs to text ``n`` of BM25 and to the vectors of which the table of windows
says so, or to vector ``n`` where there is no such table (every chunk has one vector); equal vectors, rows and settings
give equal bytes; vectors and BM25 are mapped into memory, not read. An index without BM25 (an older one, or one that an
erasure took it from) gets it from its chunk table when it is opened, and one written before titles were scored is
searched without them. Not guaranteed: that the chunk table is mapped; it is held as Arrow columns.
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
from app.registry.tables import CHUNKS, CHUNKS_FILE, INDEX_FILE, LEXICAL_FOLDER, WINDOWS_FILE
from app.retrieval import vectors as faiss_kinds
from app.retrieval.filters import DATE, LABELS
from app.retrieval.learnt import Learnt, LearntBroken
from app.retrieval.lexical import BEFORE_PAIRS, Lexical, joined
from app.retrieval.settings import LexicalSettings, SearchSettings
from app.retrieval.titles import Titles
from app.retrieval.windows import ChunkVectors, WindowsBroken

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEARCH_FILE = "search.json"
MATCHED = ("title", "heading_path", "text")
"""Columns of a chunk table whose words are matched."""
COUNTED = ("chunk_id", *MATCHED)
"""Columns that BM25 is built from."""
BEFORE_TITLES = {"title_weight": 0.0}
"""Settings of an index that says nothing of them."""
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

    vectors: ChunkVectors
    lexical: Lexical
    titles: Titles
    chunks: pa.Table
    settings: SearchSettings


def write_index(
    folder: Path,
    vectors: "NDArray[np.float32]",
    rows: Sequence[Mapping[str, Any]],
    *,
    windows: "NDArray[np.int64] | None" = None,
    kind: str = "flat",
    lexical: LexicalSettings | None = None,
    search: SearchSettings | None = None,
    words: Lexical | None = None,
    learnt: Learnt | None = None,
) -> None:
    """Write vectors (n, dim) of unit length and their chunk rows.

    Args:
        windows: the row that each vector belongs to, ascending; None: every row has one vector.
        words: BM25 over the rows, where it is made already.
        learnt: what BM25 is made with, where it is made here.

    Raises:
        IndexBroken: a row has no vector, or a vector no row.
    """
    import faiss
    import numpy as np

    index = faiss_kinds.build(vectors, kind)
    _checked(index, windows, num_chunks=len(rows), what="the index")
    faiss.write_index(index, str(folder / INDEX_FILE))
    if windows is not None and len(windows) != len(rows):
        pq.write_table(
            pa.table({"row": np.asarray(windows, dtype=np.int64)}), folder / WINDOWS_FILE, compression="zstd"
        )
    table = chunk_table(rows)
    pq.write_table(table, folder / CHUNKS_FILE, compression="zstd", row_group_size=ROW_GROUP_SIZE)
    words = words or build_lexical(table, settings=lexical or LexicalSettings(), learnt=learnt)
    if learnt:
        learnt.write(folder)
    words.write(folder / LEXICAL_FOLDER)
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


def build_lexical(chunks: pa.Table, *, settings: LexicalSettings, learnt: Learnt | None = None) -> Lexical:
    """BM25 over a chunk table, with what was learnt of questions."""
    rows = zip(*(chunks[name].to_pylist() for name in MATCHED), strict=True)
    texts = (joined(title, path, text, headings=settings.headings) for title, path, text in rows)
    asked = learnt.asked.by_row(chunks["chunk_id"].to_pylist()) if learnt else None
    return Lexical.build(texts, settings=settings, terms=learnt.terms if learnt else None, asked=asked)


def read_index(folder: Path, *, words: Lexical | None = None) -> Opened:
    """Open an index's parts.

    Args:
        words: BM25 over its rows, where it is not to be read from the folder.

    Raises:
        IndexBroken: a file is missing, damaged, or of another index.
    """
    import faiss

    try:
        index = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC)
        windows = _read_windows(folder)
        chunks = pq.read_table(folder / CHUNKS_FILE)
        search, how = read_settings(folder)
        lexical = _read_lexical(folder, chunks, how) if words is None else words
        titles = Titles(chunks, language=how.language)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, LearntBroken, pa.ArrowException) as error:
        raise IndexBroken(f"the index in {folder} cannot be opened: build it again") from error
    vectors = _checked(index, windows, num_chunks=len(chunks), what=f"the index in {folder}")
    if len(lexical) != len(chunks):
        raise IndexBroken(f"the index in {folder} has {len(lexical)} of {len(chunks)} chunks in BM25: build it again")
    return Opened(vectors, lexical, titles, chunks, search)


def _checked(index: Any, windows: "NDArray[np.int64] | None", *, num_chunks: int, what: str) -> ChunkVectors:
    """Vectors by chunk; IndexBroken when they are of another number of chunks."""
    try:
        vectors = ChunkVectors(index, windows)
    except WindowsBroken as error:
        raise IndexBroken(f"{what}: {error}") from error
    if len(vectors) != num_chunks:
        raise IndexBroken(f"{what} has {len(vectors)} vectors for {num_chunks} chunks: build it again")
    return vectors


def _read_windows(folder: Path) -> "NDArray[np.int64] | None":
    path = folder / WINDOWS_FILE
    return pq.read_table(path)["row"].to_numpy() if path.is_file() else None


def _read_lexical(folder: Path, chunks: pa.Table, settings: LexicalSettings) -> Lexical:
    try:
        return Lexical.open(folder / LEXICAL_FOLDER)
    except FileNotFoundError:
        return build_lexical(chunks, settings=settings, learnt=Learnt.of_folder(folder))


def read_settings(folder: Path) -> tuple[SearchSettings, LexicalSettings]:
    """How an index is searched, and how its words were made; IndexBroken when the file that says so is damaged."""
    path = folder / SEARCH_FILE
    try:
        how = json.loads(path.read_text()) if path.exists() else {"search": {}, "lexical": {}}
        return SearchSettings(**BEFORE_TITLES | how["search"]), LexicalSettings(**BEFORE_PAIRS | how["lexical"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IndexBroken(f"the index in {folder} does not say how it is searched: build it again") from error
