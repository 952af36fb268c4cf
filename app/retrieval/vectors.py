"""FAISS indexes of unit vectors: the kind by size, written, mapped into memory, searched under a mask.

Kinds, as measured by ``python -m benchmarks.index_kinds`` (benchmarks/results/index_kinds.json):
``flat`` is exact; ``ivf`` looks into the nearest of its cells; ``ivf-rabitq`` keeps a bit a dimension in the cells and
refines its candidates by 8-bit vectors; ``hnsw`` is a graph, slow to build.

Guarantees: vector ``n`` has the id ``n``; a mask is applied before ranking, inside the search, and a search that few
vectors are left to is exact; the same vectors give the same index on one machine and FAISS version. Not guaranteed:
that ``ivf``, ``ivf-rabitq`` and ``hnsw`` find every near vector.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import faiss
    import numpy as np
    from numpy.typing import NDArray

MAX_FLAT = 20_000
MAX_IVF = 1_000_000
NUM_PROBES = 32
RABITQ_PROBES = 64
REFINE_FACTOR = 10
HNSW_LINKS = 32
HNSW_SEARCH = 128
TRAIN_PER_CELL = 64
EXACT_BELOW = 20_000
"""With so few vectors allowed by a mask, all of them are compared."""


def choose_kind(num: int) -> str:
    """The kind of index for so many vectors."""
    if num <= MAX_FLAT:
        return "flat"
    return "ivf" if num <= MAX_IVF else "ivf-rabitq"


def build(vectors: "NDArray[np.float32]", kind: str) -> "faiss.Index":
    """An index over vectors (n, dim) of unit length; ``auto`` chooses the kind by n."""
    num, dim = vectors.shape
    index = _empty(dim, num, choose_kind(num) if kind == "auto" else kind)
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    return index


def search(
    index: "faiss.Index", vectors: "NDArray[np.float32]", k: int, mask: "NDArray[np.bool_] | None" = None
) -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
    """Cosines and ids (n, k) of the nearest vectors, best first; -1 stands where there are fewer.

    Args:
        mask: bool (ntotal,); only vectors under True are compared.
    """
    import numpy as np

    k = min(k, index.ntotal)
    if mask is None:
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = index.search(vectors, k, params=_params(index))
        return found
    allowed = np.flatnonzero(mask)
    if len(allowed) <= EXACT_BELOW:
        return _exact(index, vectors, allowed, k)
    import faiss

    bits = np.packbits(mask, bitorder="little")
    selector = faiss.IDSelectorBitmap(bits)
    limited: tuple[NDArray[np.float32], NDArray[np.int64]] = index.search(vectors, k, params=_params(index, selector))
    return limited


def cosines(index: "faiss.Index", vector: "NDArray[np.float32]", ids: "NDArray[np.int64]") -> "NDArray[np.float32]":
    """Cosines (m,) of one vector (dim,) and the vectors of some ids (m,)."""
    product: NDArray[np.float32] = index.reconstruct_batch(ids) @ vector
    return product


def _exact(
    index: "faiss.Index", vectors: "NDArray[np.float32]", allowed: "NDArray[np.int64]", k: int
) -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
    import numpy as np

    scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    ids = np.full((len(vectors), k), -1, dtype=np.int64)
    if len(allowed):
        products = vectors @ index.reconstruct_batch(allowed).T
        order = np.argsort(-products, axis=1, kind="stable")[:, :k]
        width = order.shape[1]
        scores[:, :width], ids[:, :width] = np.take_along_axis(products, order, 1), allowed[order]
    return scores, ids


def _empty(dim: int, num: int, kind: str) -> "faiss.Index":
    import faiss

    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = HNSW_SEARCH
        return index
    cells = max(1, min(int(4 * math.sqrt(num)), num // 39))
    spec = f"IVF{cells},Flat" if kind == "ivf" else f"IVF{cells},RaBitQ,Refine(SQ8)"
    index = faiss.index_factory(dim, spec, faiss.METRIC_INNER_PRODUCT)
    cell_index = faiss.extract_index_ivf(index)
    cell_index.cp.max_points_per_centroid = TRAIN_PER_CELL
    if kind == "ivf":
        cell_index.make_direct_map()
    return index


def _params(index: "faiss.Index", selector: Any = None) -> Any:
    """Search parameters of an index's kind."""
    import faiss

    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        base = faiss.SearchParametersIVF(sel=selector, nprobe=RABITQ_PROBES)
        return faiss.IndexRefineSearchParameters(k_factor=REFINE_FACTOR, base_index_params=base)
    if isinstance(inner, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=NUM_PROBES)
    if isinstance(inner, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=HNSW_SEARCH)
    return faiss.SearchParameters(sel=selector)
