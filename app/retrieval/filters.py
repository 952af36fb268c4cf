"""What a search may see and what it asks for: access labels, documents, sections, dates, as a mask over chunks.

Guarantees: a chunk with labels is seen only by who holds every one of them; a caller without labels sees public chunks
alone; the mask is made before ranking, so that a hidden chunk neither takes a place nor moves a score's scale.
Not guaranteed: that how rare a word is (BM25's statistics) tells nothing about hidden chunks.
"""

import functools
import operator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

LABELS = "access_labels"
DATE = "date"


@dataclass(frozen=True)
class Scope:
    """Limits of a search; the default sees every public chunk.

    Args:
        labels: access labels that the caller holds; None sees everything and is for work that shows nobody a chunk.
        documents: ids or sources of documents; empty: all.
        section: a heading; chunks under it, at any depth.
        dated_from: chunks of documents of that day or later; where no date is known, a chunk is left out.
        dated_to: chunks of documents of that day or earlier; likewise.
    """

    labels: frozenset[str] | None = frozenset()
    documents: frozenset[str] = frozenset()
    section: str = ""
    dated_from: date | None = None
    dated_to: date | None = None


PUBLIC = Scope()


def mask_of(chunks: "pa.Table", scope: Scope) -> "NDArray[np.bool_] | None":
    """Which chunks a search may see, bool (n,); None when it may see all."""
    masks = [mask for test in (_visible, _named, _under, _dated) if (mask := test(chunks, scope)) is not None]
    return functools.reduce(operator.and_, masks) if masks else None


def _visible(chunks: "pa.Table", scope: Scope) -> "NDArray[np.bool_] | None":
    if LABELS not in chunks.column_names or scope.labels is None:
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

    column = chunks[LABELS].combine_chunks()
    held = pc.is_in(pc.list_flatten(column), pa.array(sorted(scope.labels), pa.string()))
    return ~_rows_with(column, pc.invert(held))


def _named(chunks: "pa.Table", scope: Scope) -> "NDArray[np.bool_] | None":
    if not scope.documents:
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

    named = pa.array(sorted(scope.documents), pa.string())
    return _bools(pc.or_(pc.is_in(chunks["document_id"], named), pc.is_in(chunks["source"], named)))


def _under(chunks: "pa.Table", scope: Scope) -> "NDArray[np.bool_] | None":
    if not scope.section:
        return None
    import pyarrow.compute as pc

    column = chunks["heading_path"].combine_chunks()
    return _rows_with(column, pc.equal(pc.utf8_lower(pc.list_flatten(column)), scope.section.lower()))


def _dated(chunks: "pa.Table", scope: Scope) -> "NDArray[np.bool_] | None":
    if scope.dated_from is None and scope.dated_to is None:
        return None
    import numpy as np
    import pyarrow.compute as pc

    if DATE not in chunks.column_names:
        return np.zeros(len(chunks), dtype=bool)

    days = pc.utf8_slice_codeunits(chunks[DATE], 0, 10)
    after, before = scope.dated_from or date.min, scope.dated_to or date.max
    inside = pc.and_(pc.greater_equal(days, after.isoformat()), pc.less_equal(days, before.isoformat()))
    return _bools(pc.fill_null(inside, False))


def _rows_with(column: "pa.ListArray", found: "pa.BooleanArray") -> "NDArray[np.bool_]":
    """Rows of a list column of which a flattened element is marked."""
    import numpy as np
    import pyarrow.compute as pc

    mask = np.zeros(len(column), dtype=bool)
    mask[pc.list_parent_indices(column).filter(found).to_numpy(zero_copy_only=False)] = True
    return mask


def _bools(values: "pa.ChunkedArray") -> "NDArray[np.bool_]":
    import numpy as np

    return np.asarray(values.to_numpy(), dtype=bool)
