"""Batches of the request log on disk: a Parquet part of rows, and beside it the receipts of those rows.

``NAME.parquet`` holds a row per request with its salt, ``NAME.receipts`` a receipt per line in the same order. The
ledger's leaf names the Merkle root over the receipts, so that rows can be erased while every receipt stays.

The receipt's ``record`` commits to the other columns: a JSON array of ``RECORD_COLUMNS`` in their order, as Python's
``json`` writes it without spaces and without ASCII escapes, followed by the embedding as little-endian float32.

Guarantees: a part is whole or not there, and never there without its receipts; every value that a row's columns hold
is bound by the row's receipt. Not guaranteed: anything about bytes of a Parquet file that no reader looks at.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.core.clock import rfc3339
from app.core.digests import PREFIX
from app.ledger import merkle
from app.ledger.log import REQUEST_BATCH, Statement
from app.ledger.receipts import canonical_text, header_of, new_salt, receipt_leaf

RECEIPTS_SUFFIX = ".receipts"
CITATION_FIELDS = ("document_id", "chunk_id", "source", "title", "heading", "quote")
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("release", pa.string()),
        ("route", pa.string()),
        ("model", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("citations", pa.list_(pa.struct([(name, pa.string()) for name in CITATION_FIELDS]))),
        ("confidence", pa.float64()),
        ("small_confidence", pa.float64()),
        ("large_confidence", pa.float64()),
        ("retrieval_score", pa.float64()),
        ("num_question_words", pa.int32()),
        ("embedding", pa.list_(pa.float32())),
        ("num_prompt_tokens", pa.int32()),
        ("num_completion_tokens", pa.int32()),
        ("cost_usd", pa.float64()),
        ("cost_large_only_usd", pa.float64()),
        ("latency_s", pa.float64()),
        ("status", pa.int16()),
        ("error", pa.string()),
        ("request_json", pa.string()),
        ("response_json", pa.string()),
        ("salt", pa.binary()),
    ]
)
HEAD = ("request_id", "time", "release", "salt", "request_json", "response_json")
EMBEDDING = SCHEMA.field("embedding")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
RECORD_COLUMNS = tuple(name for name in SCHEMA.names if name not in (*HEAD, "embedding"))

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Sealed:
    """A row as the log keeps it, its embedding packed, and its receipt."""

    row: Record
    leaf: str

    @property
    def header(self) -> str:
        """What the client gets in the header ``x-signalbox-receipt``."""
        return header_of(self.leaf, self.row["salt"])


def seal(record: Record) -> Sealed:
    """Give a record its salt and its receipt; touches neither disk nor database."""
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {name: cast(record[name]) for name, cast in _CASTS.items() if record.get(name) is not None}
    row["salt"] = new_salt()
    leaf = _leaf(row, rfc3339(row["time"]), row["embedding"] or b"")
    return Sealed(row, leaf)


def write_part(path: Path, rows: Iterable[Record | Sealed]) -> None:
    """Write rows as one part with its receipts, those first; a record that has no receipt yet gets one."""
    sealed = [row if isinstance(row, Sealed) else seal(row) for row in rows]
    _replace(receipts_path(path), "".join(f"{each.leaf}\n" for each in sealed).encode())
    columns = [
        pa.array([each.row[field.name] for each in sealed], field.type) for field in SCHEMA if field != EMBEDDING
    ]
    columns.insert(SCHEMA.get_field_index(EMBEDDING.name), _packed([each.row[EMBEDDING.name] for each in sealed]))
    write_table(path, pa.table(columns, schema=SCHEMA))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a part's rows, whole or not at all; pages carry checksums, and no statistics that could hide a row."""
    staged = path.with_name(f".{path.name}.tmp")
    options = {"write_statistics": False, "write_page_checksum": True, "use_dictionary": ["release", "route", "model"]}
    pq.write_table(table, staged, compression="zstd", **options)
    staged.replace(path)


def read_part(path: Path) -> pa.Table:
    """A part's rows, pages checked against their checksums.

    Raises:
        OSError: it is missing or damaged (pyarrow.ArrowInvalid is a ValueError: it is no part at all).
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(use_threads=False)


def receipts_path(part: Path) -> Path:
    """Where a part's receipts lie."""
    return part.with_suffix(RECEIPTS_SUFFIX)


def read_receipts(part: Path) -> list[str]:
    """The receipts of a part in order, erased rows' too; OSError when their file cannot be read."""
    return _lines(receipts_path(part).read_bytes())


def root_of(receipts: Sequence[str]) -> str:
    """The batch's Merkle root, as the ledger's leaf names it."""
    return PREFIX + merkle.root_of([merkle.leaf_hash(leaf.encode()) for leaf in receipts]).hex()


def batch_statement(part: Path) -> Statement:
    """A part in the ledger: its name, the root over its receipts, and the releases that answered."""
    receipts = read_receipts(part)
    releases = {json.loads(leaf)["release"] for leaf in receipts} - {None}
    parents = tuple(sorted(releases))
    return Statement(kind=REQUEST_BATCH, subject=root_of(receipts), name=part.name, parents=parents, actor="gateway")


def find_receipt(folder: Path, request_id: str) -> tuple[Path, list[str], str] | None:
    """The newest part with a receipt of that request: part, its receipts, the one; None when there is none."""
    return next(parts_with(folder, request_id), None)


def parts_with(folder: Path, request_id: str, *, since: str = "") -> Iterator[tuple[Path, list[str], str]]:
    """Every part with a receipt of that request, newest first: part, its receipts, the last one of it.

    Args:
        since: leaves out parts whose name sorts before this; names begin with the time.
    """
    wanted = f'"request_id":{json.dumps(request_id, ensure_ascii=False)},'
    for part in reversed(_known_parts(folder)):
        data = receipts_path(part).read_bytes() if part.name >= since else b""
        if wanted.encode("utf-8", "replace") in data:
            receipts = _lines(data)
            yield part, receipts, [leaf for leaf in receipts if wanted in leaf][-1]


def row_leaves(table: pa.Table) -> Iterator[str]:
    """The receipt that each row of a part asks for, computed from its columns and its salt."""
    times = pc.strftime(table["time"].cast(pa.timestamp("us")), format="%Y-%m-%dT%H:%M:%SZ").to_pylist()
    columns = [name for name in SCHEMA.names if name not in ("time", "embedding")]
    rows = table.select(columns).to_pylist()
    for row, time, embedding in zip(rows, times, _embeddings(table), strict=True):
        yield _leaf(row, time, embedding)


def _known_parts(folder: Path) -> list[Path]:
    """Parts by their receipts, which are there even when a part was emptied or lost."""
    names = sorted(path for path in folder.glob(f"*{RECEIPTS_SUFFIX}") if not path.name.startswith("."))
    return [path.with_suffix(".parquet") for path in names]


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "replace").removesuffix("\n").split("\n") if data else []


def _leaf(row: Record, time: str, embedding: bytes) -> str:
    values = _ENCODER.encode([row[name] for name in RECORD_COLUMNS])
    return receipt_leaf(
        request_id=row["request_id"],
        time=time,
        release=row["release"],
        salt=row["salt"] or b"",
        request=(row["request_json"] or "").encode(),
        response=(row["response_json"] or "").encode(),
        record=values.encode() + embedding,
    )


def _embeddings(table: pa.Table) -> Iterator[bytes]:
    """Each row's embedding as little-endian float32, sliced from the column's own buffer."""
    for chunk in table["embedding"].chunks:
        values = chunk.values.to_numpy(zero_copy_only=False).astype("<f4", copy=False).tobytes()
        offsets = chunk.offsets.to_pylist()
        for start, end in pairwise(offsets):
            yield values[4 * start : 4 * end]


def _packed(embeddings: Sequence[bytes | None]) -> pa.Array:
    """Packed embeddings as the column that holds them."""
    ends = np.cumsum([0, *(len(each or b"") // 4 for each in embeddings)], dtype=np.int32)
    offsets = pa.array(ends, mask=np.array([*(each is None for each in embeddings), False]))
    return pa.ListArray.from_arrays(offsets, np.frombuffer(b"".join(each or b"" for each in embeddings), "<f4"))


def _pack(values: Sequence[float]) -> bytes:
    """Numbers as little-endian float32."""
    return np.asarray(values, dtype="<f4").tobytes()


def _clean(text: Any) -> str:
    """A text without halves of surrogate pairs, which no UTF-8 can hold."""
    return str(text).encode("utf-8", "replace").decode()


def _json(value: Any) -> str:
    """An object as canonical JSON; a text is one already."""
    return value if isinstance(value, str) else canonical_text(value)


def _citations(values: Iterable[Mapping[str, Any]]) -> list[dict[str, str | None]]:
    return [
        {name: None if each.get(name) is None else _clean(each[name]) for name in CITATION_FIELDS} for each in values
    ]


def _same(value: Any) -> Any:
    return value


def _cast_of(field: pa.Field) -> Any:
    if field.name.endswith("_json"):
        return _json
    if pa.types.is_list(field.type):
        return _citations if field.name == "citations" else _pack
    casts = ((pa.types.is_string, _clean), (pa.types.is_floating, float), (pa.types.is_integer, int))
    return next((cast for kind, cast in casts if kind(field.type)), _same)


_CASTS = {field.name: _cast_of(field) for field in SCHEMA}


def _replace(path: Path, data: bytes) -> None:
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_bytes(data)
    staged.replace(path)
