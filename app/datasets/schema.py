"""The tables of a version of rows: one schema for whatever format the rows came in, and what did not make it.

Guarantees: a row's id is a digest of its content alone, so that the same row from another file has the same id.
Not guaranteed: that every column is filled; ``form`` says which are.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import rfc8785

from app.core.digests import digest_json
from app.datasets.messages import BadRow

QA, PREFERENCE, TEXT, TOKENS = "qa", "preference", "text", "tokens"
"""Forms: a question with its answer (and the turns before), the same with a worse answer beside the better one,
running text, or tokens with labels."""
ASKING = (QA, PREFERENCE)
"""Forms that ask a question."""

FINDINGS_FILE = "findings.parquet"
QUALITY_FILE = "quality.json"

MESSAGE = pa.struct({"role": pa.string(), "content": pa.string()})
ROWS = pa.schema(
    {
        "row_id": pa.string(),
        "form": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
        "answers": pa.list_(pa.string()),
        "rejected": pa.string(),
        "context": pa.string(),
        "history": pa.list_(MESSAGE),
        "unmask": pa.bool_(),
        "text": pa.string(),
        "input_ids": pa.list_(pa.int64()),
        "labels": pa.list_(pa.int64()),
        "label": pa.string(),
        "subject": pa.string(),
        "attribute": pa.string(),
        "chunk_id": pa.string(),
        "document_id": pa.string(),
        "source": pa.string(),
        "document": pa.string(),
        "origin_id": pa.string(),
        "extra": pa.string(),
        "method": pa.string(),
        "template": pa.string(),
        "seed": pa.int64(),
        "split": pa.string(),
    }
)
"""``question`` is the whole prompt; ``context`` is the part of it that the format kept apart; ``history`` the turns
before. ``rejected`` is the worse answer of a preference, whose ``answer`` is the better one. ``document`` groups rows
that must share a split; ``document_id`` is the digest of the file; ``extra`` is JSON."""

CONTENT = ("form", "question", "answer", "history", "unmask", "text", "input_ids", "labels", "label")
"""What a row is, and its id is taken over; `rejected` too, where there is one."""
TEXTS = ("question", "answer", "rejected", "context", "text", "extra")
NAMES = ("label", "subject", "document", "origin_id")
"""What a row is called by; numbers in it are no phone numbers."""

REJECTS = pa.schema(
    {
        "source": pa.string(),
        "place": pa.int64(),
        "reason": pa.string(),
        "stage": pa.string(),
        "row_id": pa.string(),
        "bytes": pa.int64(),
    }
)
"""A record that is not among the rows. ``place`` is its line or number in the file, from 1 (0: the whole file);
``stage`` is read, format, or the finding that dropped it; ``row_id`` is empty for what was no row."""

FINDINGS = pa.schema({"row_id": pa.string(), "finding": pa.string(), "detail": pa.string(), "action": pa.string()})
"""What the quality report found in a row. ``detail`` repeats no personal data; ``action`` is report, mask or drop."""

DOCUMENTS = pa.schema(
    {
        "document_id": pa.string(),
        "source": pa.string(),
        "title": pa.string(),
        "format": pa.string(),
        "num_rows": pa.int64(),
        "num_rejected": pa.int64(),
        "bytes": pa.int64(),
    }
)
"""The files that rows came from."""

_EMPTY: dict[str, Any] = {
    **dict.fromkeys(("subject", "attribute", "chunk_id", "document_id", "source", "document"), ""),
    **dict.fromkeys(("origin_id", "label", "context", "extra", "split", "template"), ""),
    **dict.fromkeys(("question", "answer", "rejected", "text", "input_ids", "labels")),
    "answers": [],
    "history": [],
    "unmask": False,
    "method": "import",
    "seed": 0,
}


def make_row(form: str, **fields: Any) -> dict[str, Any]:
    """A whole row with its id; ``fields`` are columns of ``ROWS``."""
    return with_identity(with_columns(form, **fields))


def with_columns(form: str, **fields: Any) -> dict[str, Any]:
    """A row of every column; one that has an id keeps it."""
    row = {**_EMPTY, **fields, "form": form}
    row["answers"] = row["answers"] or ([row["answer"]] if row["answer"] else [])
    return row


def with_identity(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its id.

    Raises:
        BadRow: a text of it holds half a character (an unpaired surrogate), which no file can hold.
    """
    try:
        "".join(str(row[name]) for name in ("subject", "document", "origin_id", "extra", "context", "split")).encode()
        return {**row, "row_id": identity_of(row)}
    except UnicodeEncodeError as error:
        raise BadRow("holds half a character (an unpaired surrogate)") from error
    except rfc8785.CanonicalizationError as error:
        raise BadRow(f"holds what no file can hold ({error})") from error


def identity_of(row: Mapping[str, Any]) -> str:
    """The digest of what a row says."""
    content = {name: row[name] for name in CONTENT}
    return digest_json(content | ({"rejected": row["rejected"]} if row.get("rejected") else {}))


def reject(source: str, place: int, reason: str, *, stage: str, row_id: str = "", num_bytes: int = 0) -> dict[str, Any]:
    """A reject row; the reason is cut to one line that Parquet and a terminal can hold."""
    line = " ".join(reason.split()).encode("utf-8", "replace").decode()[:500]
    return {"source": source, "place": place, "reason": line, "stage": stage, "row_id": row_id, "bytes": num_bytes}
