"""The tables of a dataset version: documents, parents, rejects; `app.registry.tables` describes the chunks."""

from typing import Any, TypedDict

import pyarrow as pa

from app.core.digests import digest_json
from app.documents.chunk import Chunk, Parent

PLACE = ("page_start", "page_end", "char_start", "char_end", "header_start", "header_end")

DOCUMENTS = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("num_chunks", pa.int64(), nullable=False),
        pa.field("num_chars", pa.int64(), nullable=False),
        pa.field("num_parents", pa.int64()),
        pa.field("num_tables", pa.int64()),
        pa.field("num_pages", pa.int64()),
        pa.field("language", pa.string()),
        pa.field("created", pa.string()),
        pa.field("modified", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("access_labels", pa.list_(pa.string())),
        pa.field("sidecar", pa.string()),
        pa.field("num_bytes", pa.int64()),
    ]
)
"""A row for each document. Dates are as it says them, in ISO 8601; ``uri`` is its own, else one below ``base_uri``;
``sidecar`` is the digest of the file beside it (see sidecar.py)."""
PARENTS = pa.schema(
    [
        pa.field("parent_id", pa.string(), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("heading_path", pa.list_(pa.string()), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("page_start", pa.int64()),
        pa.field("page_end", pa.int64()),
        pa.field("char_start", pa.int64(), nullable=False),
        pa.field("char_end", pa.int64(), nullable=False),
    ]
)
"""The converted text in the pieces that chunks are cut from; in order and with a blank line between, it is whole."""
REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("digest", pa.string()),
    ]
)
"""``digest`` is that of the file, where one was read."""


class Reject(TypedDict):
    """A document that is not in the dataset, or a part of one that is, and why.

    ``stage`` is read, convert, chunk, or part: a page or attachment of a document that was published without it.
    """

    source: str
    reason: str
    stage: str
    bytes: int
    digest: str | None


def reject(source: str, reason: str, *, stage: str, num_bytes: int, digest: str | None = None) -> Reject:
    """A reject row; the reason is cut to one line that Parquet and a terminal can hold."""
    line = " ".join(reason.split()).encode("utf-8", "replace").decode()
    return Reject(source=source, reason=line[:500], stage=stage, bytes=num_bytes, digest=digest)


def chunk_row(document: dict[str, Any], chunk: Chunk, *, parent: int) -> dict[str, Any]:
    """A chunk row. Its id is a digest of the document, the position and the content: a retry gives the same id."""
    identity = {
        "document_id": document["document_id"],
        "ordinal": chunk.ordinal,
        "heading_path": list(chunk.heading_path),
        "text": chunk.text,
    }
    own = {name: document[name] for name in ("source", "title", "language")}
    return {**identity, **own, "chunk_id": digest_json(identity), "parent": parent, **_place(chunk)}


def parent_row(document: dict[str, Any], parent: Parent) -> dict[str, Any]:
    """A row of the parents table; its id is a digest like a chunk's."""
    identity = {
        "document_id": document["document_id"],
        "parent": parent.ordinal,
        "heading_path": list(parent.heading_path),
        "text": parent.text,
    }
    row = {name: value for name, value in identity.items() if name != "parent"}
    own = {name: document[name] for name in ("source", "title")}
    return {**row, **own, "parent_id": digest_json(identity), "ordinal": parent.ordinal, **_place(parent)}


def _place(piece: Chunk | Parent) -> dict[str, Any]:
    return {name: getattr(piece, name) for name in PLACE if hasattr(piece, name)}
