"""What of chunks is embedded, by which vectors, and what of it an index takes over from the version before it.

Guarantees: a chunk's vectors depend on its embedded text, the encoder and the settings alone, not on the chunks beside
it; so those that are taken over are the very ones that embedding again would give, and the version is the same. Vectors
are taken over only from files that are those published; vectors that their index keeps coarser than they were
(``ivf-rabitq``) are not. Not guaranteed: the same bits on another processor.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from app.core.digests import digest_json
from app.core.errors import SignalboxError
from app.inference.bert import read_shape
from app.inference.encoder import MAX_TOKENS, load_tokenizer
from app.inference.retrievers import ENCODER_FOLDER, Source
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder
from app.retrieval.settings import RetrievalSettings
from app.retrieval.shards import Local
from app.retrieval.windows import cut

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CODE_VERSION = "embedding-1"
EXACT_KINDS = ("flat", "hnsw", "ivf")
"""Kinds of vector indexes that give back the very vectors that were put in."""

logger = logging.getLogger(__name__)
Embed: TypeAlias = Callable[[Sequence[str]], "NDArray[np.float32]"]
Vectors: TypeAlias = "NDArray[np.float32]"


def embedding_identity(settings: RetrievalSettings, *, encoder: str) -> str:
    """Digest of all that decides a chunk's vectors but its own text."""
    how = settings.model_dump(mode="json", include={"embed_headings", "window_tokens", "window_overlap"})
    return digest_json({"encoder": encoder, "code_version": CODE_VERSION, **how})


def embedded_text(row: Mapping[str, Any], *, headings: bool) -> tuple[str, str]:
    """What of a chunk is embedded: what stands before each of its windows, and what is cut into windows."""
    return "".join(f"{heading}. " for heading in row["heading_path"]) if headings else "", str(row["text"])


def windows_of(texts: Sequence[tuple[str, str]], settings: RetrievalSettings, *, source: Source) -> list[list[str]]:
    """The windows of chunks, at least one each."""
    folder = source.folder / ENCODER_FOLDER if source.folder else None
    tokenizer, size, overlap = load_tokenizer(folder), settings.window_tokens, settings.window_overlap
    most = min(MAX_TOKENS, read_shape(folder).num_positions) if folder else MAX_TOKENS
    how = partial(cut, tokenizer=tokenizer, max_tokens=most, size=min(size, most), overlap=overlap)
    return [how(heading, text) for heading, text in texts]


def embed_chunks(
    rows: Sequence[Mapping[str, Any]],
    *,
    settings: RetrievalSettings,
    embed: Embed,
    source: Source,
    known: Mapping[tuple[str, str], Vectors] | None = None,
) -> "tuple[Vectors, NDArray[np.int64]]":
    """The vectors of chunks (m, dim), and the row that each belongs to (m,), ascending.

    Args:
        embed: texts to vectors; it is given what is not known, every window once.
        source: of the encoder that it embeds with.
        known: vectors of the windows of embedded texts.
    """
    import numpy as np

    texts, known = [embedded_text(row, headings=settings.embed_headings) for row in rows], known or {}
    new = list(dict.fromkeys(text for text in texts if text not in known))
    cuts = windows_of(new, settings, source=source)
    flat = list(dict.fromkeys(window for windows in cuts for window in windows))
    made = dict(zip(flat, embed(flat) if flat else [], strict=True))
    parts = {**known, **{text: np.stack([made[each] for each in cut]) for text, cut in zip(new, cuts, strict=True)}}
    if known:
        logger.info("%s chunks: vectors of %s taken over", len(rows), sum(text in known for text in texts))
    each = [parts[text] for text in texts]
    vectors = np.concatenate(each) if each else np.zeros((0, source.dim), dtype=np.float32)
    return vectors, np.repeat(np.arange(len(each)), [len(part) for part in each])


def known_vectors(
    name: str, *, registry: Registry, settings: RetrievalSettings, encoder: str
) -> dict[tuple[str, str], Vectors]:
    """Vectors by embedded text of the newest version of an index that was embedded alike; empty where there is none."""
    identity = embedding_identity(settings, encoder=encoder)
    alike = (
        each for each in reversed(registry.versions("index", name)) if each.stated("facts", "embedding") == identity
    )
    version = next((each for each in alike if each.stated("facts", "kind") in EXACT_KINDS), None)
    if version is None:
        return {}
    try:
        return _vectors_in(version, whole_folder(version, registry), headings=settings.embed_headings)
    except (SignalboxError, OSError) as error:
        logger.warning("every chunk is embedded anew, since nothing can be taken from %s: %s", version.ref, error)
        return {}


def _vectors_in(version: Version, folder: Path, *, headings: bool) -> dict[tuple[str, str], Vectors]:
    known: dict[tuple[str, str], Vectors] = {}
    for shard in Local.open(folder).shards:
        rows = shard.parts.chunks.select(["heading_path", "text"]).to_pylist()
        texts = (embedded_text(row, headings=headings) for row in rows)
        known.update(zip(texts, shard.parts.vectors.of_chunks(), strict=True))
    return known
