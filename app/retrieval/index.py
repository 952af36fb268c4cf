"""A FAISS index beside the table of its chunks: written to a folder, opened from one.

Guarantees: row ``n`` of the chunk table belongs to vector ``n``; equal vectors and rows give equal bytes. Not
guaranteed: speed beyond some 100,000 chunks, for the index is flat (exact).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from app.core.errors import SignalboxError
from app.core.parquet import read_rows, write_rows
from app.registry.tables import CHUNKS, CHUNKS_FILE, INDEX_FILE

if TYPE_CHECKING:
    import faiss
    import numpy as np
    from numpy.typing import NDArray

INDEX_KIND = "flat-inner-product"


class IndexBroken(SignalboxError):
    """An index and its chunk table do not belong together: build the index again."""


def write_index(folder: Path, vectors: "NDArray[np.float32]", rows: Sequence[Mapping[str, Any]]) -> None:
    """Write vectors (n, dim) of unit length and their n chunk rows.

    Raises:
        IndexBroken: the numbers of vectors and rows differ.
    """
    import faiss

    if len(vectors) != len(rows):
        raise IndexBroken(f"{len(vectors)} vectors for {len(rows)} chunks: build the index again")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(folder / INDEX_FILE))
    write_rows(folder / CHUNKS_FILE, rows, schema=CHUNKS)


def read_index(folder: Path) -> "tuple[faiss.Index, list[dict[str, Any]]]":
    """An index, mapped into memory rather than read, and its chunk rows.

    Raises:
        IndexBroken: a file is missing, damaged, or of another index.
    """
    import faiss

    try:
        index = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC)
        rows = read_rows(folder / CHUNKS_FILE)
    except (RuntimeError, OSError, pa.ArrowInvalid) as error:
        raise IndexBroken(f"the index in {folder} cannot be opened: build it again") from error
    if index.ntotal != len(rows):
        raise IndexBroken(f"the index in {folder} has {index.ntotal} vectors for {len(rows)} chunks: build it again")
    return index, rows
