"""Embed a dataset's chunks in a Ray Data actor pool and publish an index version.

Guarantees: one vector for every chunk, in the order of the dataset's chunk table; batches are cut before they are
handed out, so that any number of workers gives the same bytes; the same dataset, encoder and settings give the same
version without work.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.parquet import read_rows
from app.core.progress import progress
from app.inference.encoder import DIMENSION, ENCODER_DIGEST
from app.registry.tables import CHUNKS_FILE
from app.registry.versions import Registry, Version
from app.retrieval.index import INDEX_KIND, IndexBroken, write_index
from app.retrieval.settings import RetrievalSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CODE_VERSION = "retrieval-1"
KIND = "index"


def build_index(dataset: Version, *, name: str, registry: Registry, settings: RetrievalSettings) -> Version:
    """Publish an index over a dataset version as the next version of index ``name``.

    Raises:
        IndexBroken: vectors were lost on the way; nothing is published.
    """
    inputs = {
        "dataset": dataset.digest,
        "encoder": ENCODER_DIGEST,
        "settings": settings.identity(),
        "code_version": CODE_VERSION,
    }
    if version := registry.find(KIND, name, inputs):
        return version
    rows = read_rows(registry.folder(dataset) / CHUNKS_FILE)
    vectors = embed([embedded_text(row, headings=settings.embed_headings) for row in rows], settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), vectors, rows)
        facts = {"encoder": ENCODER_DIGEST, "dim": DIMENSION, "kind": INDEX_KIND, "num_chunks": len(rows)}
        return registry.publish(KIND, name, folder=Path(folder), inputs=inputs, parents=[dataset.digest], facts=facts)


def embedded_text(row: Mapping[str, Any], *, headings: bool) -> str:
    """What of a chunk is embedded."""
    return ". ".join([*row["heading_path"], row["text"]]) if headings else str(row["text"])


def embed(texts: Sequence[str], *, settings: RetrievalSettings) -> "NDArray[np.float32]":
    """Vectors of texts, float32 (n, 384), by an actor pool; batch ``n`` of the work is batch ``n`` of the result."""
    import numpy as np
    import ray.data

    cuts = range(0, len(texts), settings.batch_size)
    batches = [{"place": place, "texts": list(texts[place : place + settings.batch_size])} for place in cuts]
    ray.data.DataContext.get_current().enable_progress_bars = False
    done = ray.data.from_items(batches, override_num_blocks=len(batches)).map_batches(
        Embedder,
        compute=ray.data.ActorPoolStrategy(size=min(settings.num_workers, len(batches))),
        batch_size=1,
        num_cpus=1,
        memory=settings.worker_memory_bytes,
    )
    vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
    num_done = 0
    with progress("chunks", total=len(texts)) as bar:
        for row in done.iter_rows():
            part = np.frombuffer(row["vectors"], dtype=np.float32).reshape(-1, DIMENSION)
            vectors[row["place"] : row["place"] + len(part)] = part
            num_done += len(part)
            bar.advance(len(part))
    if num_done != len(texts):
        raise IndexBroken(f"{num_done} of {len(texts)} chunks were embedded: index again; nothing was published")
    return vectors


class Embedder:
    """The actor: a batch of texts in, their vectors as bytes out."""

    def __init__(self) -> None:
        from app.inference.encoder import Encoder

        self._encoder = Encoder()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        vectors = [self._encoder.encode([str(text) for text in texts]).tobytes() for texts in batch["texts"]]
        return {"place": batch["place"], "vectors": vectors}
