"""The tables of a dataset version: documents, rejects, and rows of the chunks that `app.registry.tables` describes."""

from typing import Any, TypedDict

import pyarrow as pa

from app.core.digests import digest_json

DOCUMENTS = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("num_chunks", pa.int64(), nullable=False),
        pa.field("num_chars", pa.int64(), nullable=False),
    ]
)
REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)


class Reject(TypedDict):
    """A document that is not in the dataset, and why. ``stage`` is read, convert or chunk."""

    source: str
    reason: str
    stage: str
    bytes: int


def reject(source: str, reason: str, *, stage: str, num_bytes: int) -> Reject:
    """A reject row; the reason is cut to one line that Parquet and a terminal can hold."""
    line = " ".join(reason.split()).encode("utf-8", "replace").decode()
    return Reject(source=source, reason=line[:500], stage=stage, bytes=num_bytes)


def chunk_row(document: dict[str, Any], *, ordinal: int, heading_path: list[str], text: str) -> dict[str, Any]:
    """A chunk row. Its id is a digest of the document, the position and the content: a retry gives the same id."""
    identity = {"document_id": document["document_id"], "ordinal": ordinal, "heading_path": heading_path, "text": text}
    return {
        **identity,
        "chunk_id": digest_json(identity),
        "source": document["source"],
        "title": document["title"],
    }
