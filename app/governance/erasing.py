"""What an erasure changes, file by file: the rows that stay are written aside, the originals are only read.

Guarantees: a row stays exactly as it was or goes; vectors and chunks of an index stay in step. Of an index whose chunks
lose rows, BM25 goes whole, of all its shards (every one knows the words of all; it is made from the chunks when the
index is opened); so does a file that holds no rows.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import delete, select

from app.core.digests import digest_file, hex_of
from app.core.parquet import ROW_GROUP_SIZE, parts_of
from app.core.schema import feedback
from app.governance.matching import Matcher
from app.ledger.batches import SCHEMA, read_part, read_receipts, receipts_path, root_of, row_leaves, write_table
from app.ledger.erasures import ErasedFile
from app.ledger.journal import BEGUN, UNREADABLE, recover
from app.ledger.log import REQUEST_BATCH
from app.registry.tables import CHUNKS_FILE, INDEX_FILE, LEXICAL_FOLDER, WINDOWS_FILE
from app.registry.versions import Registry, Version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEPT = ("model", "retriever", "policy", "verdict", "approval", "release")
"""Kinds whose files hold no rows of content: weights are for retraining, the others say what people decided."""
LEARNT = KEPT[:2]
SCANNED_BYTES = 64 << 20
STALE_S = 60.0
MAX_JOURNAL_WAIT_MS = 5_000
LOOKED_AT = ("store", "requests", "erasures", "keys", "signalbox.db")
"""What of a workspace is looked through by other means, or holds no content."""


@dataclass(frozen=True)
class Change:
    """A file that loses bytes; ``staged`` is where what stays of it was written, None when nothing does."""

    ref: str
    entry: ErasedFile
    staged: Path | None


def changes_of(matcher: Matcher, registry: Registry, *, aside: Path) -> list[Change]:
    """Everything that is to go, once nothing new descends from it; what stays of each file is written ``aside``."""
    known = -1
    while matcher.num_known != known:
        known = matcher.num_known
        for _, path in _tables(registry):
            _learn(matcher, path)
    return [*_versions(matcher, registry, aside), *_parts(matcher, registry, aside)]


def left_over(matcher: Matcher, registry: Registry) -> list[str]:
    """Where a subject stands that no erasure reaches: manifests, tables of the database, model files, logs."""
    found = []
    for version in registry.versions():
        if matcher.text(registry.store.manifest_bytes(version.kind, version.digest).decode()):
            found.append(f"the manifest of {version.kind} {version.ref}, which proofs need")
        if version.kind in LEARNT:
            held = [path for path in registry.folder(version).rglob("*") if _holds(matcher, path)]
            found += [f"{version.kind} {version.ref}: {path.name}" for path in sorted(held)]
    root = registry.workspace.root
    rest = (path for path in sorted(root.rglob("*")) if not path.relative_to(root).parts[0].startswith(LOOKED_AT))
    found += [str(path.relative_to(root)) for path in rest if _holds(matcher, path)]
    return [*found, *_strays(matcher, registry), *_database(matcher, registry)]


def feedback_of(matcher: Matcher, registry: Registry) -> list[str]:
    """What callers said of requests that go, or in words that hold a subject: by the rows' keys."""
    with registry.database.read() as connection:
        found = connection.execute(select(feedback).order_by(feedback.c.asked_by)).mappings().all()
    names = ("request_id", "comment", "answer")
    mask = matcher.rows(pa.table({name: pa.array([row[name] for row in found], pa.string()) for name in names}))
    return [row["asked_by"] for row, goes in zip(found, mask, strict=True) if goes]


def forget_feedback(keys: Sequence[str], registry: Registry) -> None:
    """Remove what callers said, and on SQLite overwrite where it stood."""
    with registry.database.write() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA secure_delete=ON")
        for key in keys:
            connection.execute(delete(feedback).where(feedback.c.asked_by == key))


def empty_journal(registry: Registry) -> list[str]:
    """Copy SQLite's write-ahead log into the database and cut it off: it holds what was overwritten there.

    Returns:
        What is left over: the log, where another process kept it from being cut.
    """
    with registry.database.engine.connect() as connection:
        if connection.dialect.name != "sqlite":
            return []
        connection.detach()  # its time-out goes with it
        connection.exec_driver_sql(f"PRAGMA busy_timeout={MAX_JOURNAL_WAIT_MS}")
        busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
    told = "the database's file signalbox.db-wal, which somebody reads: it goes when all close the database"
    return [told] if busy else []


def sweep(requests_dir: Path) -> None:
    """Remove parts and journals that a crash left half written; nobody reads them, and they may hold anything."""
    for path in (path for suffix in (".tmp", BEGUN, UNREADABLE) for path in requests_dir.glob(f".*{suffix}")):
        if time.time() - path.stat().st_mtime > STALE_S:
            path.unlink(missing_ok=True)


def _tables(registry: Registry) -> Iterator[tuple[Version | None, Path]]:
    for version in registry.versions():
        if version.kind not in KEPT:
            folder = registry.folder(version)
            yield from ((version, folder / name) for name in _present(version, folder) if name.endswith(".parquet"))
    for path in parts_of(registry.workspace.requests_dir):
        yield None, path


def _present(version: Version, folder: Path) -> list[str]:
    """Files of a version that no erasure took yet."""
    return [name for name in sorted(version.manifest["files"]) if (folder / name).is_file()]


def _learn(matcher: Matcher, path: Path) -> None:
    table = pq.read_table(path)
    matcher.learn(table, matcher.rows(table))


def _versions(matcher: Matcher, registry: Registry, aside: Path) -> Iterator[Change]:
    for version in registry.versions():
        if version.kind in KEPT:
            continue
        folder = registry.folder(version)
        names = _present(version, folder)
        indexed = any(Path(name).parent.name == LEXICAL_FOLDER for name in names)
        lost = sum(int(_gone(matcher, path).sum()) for path in folder.rglob(CHUNKS_FILE)) if indexed else 0
        for name in names:
            staged = aside / f"{len(list(aside.iterdir()))}"
            result = _file(matcher, folder, name, staged, lost=lost)
            if result is not None:
                new = digest_file(staged) if staged.exists() else ""
                entry = ErasedFile(version.kind, version.digest, name, digest_file(folder / name), new, result)
                yield Change(f"{version.kind} {version.ref}: {name}", entry, staged if new else None)


def _file(matcher: Matcher, folder: Path, name: str, staged: Path, *, lost: int) -> int | None:
    """Write what stays of a file aside; the number of rows that go, None when the file stays as it is.

    Args:
        lost: rows that the chunk tables of an index lose.
    """
    path = folder / name
    if path.name in (INDEX_FILE, WINDOWS_FILE):
        return _vectors(matcher, path, staged)
    if name.endswith(".parquet"):
        return _rows(matcher, path, staged)
    if path.parent.name == LEXICAL_FOLDER:
        return lost or None
    return 0 if _holds(matcher, path) else None


def _rows(matcher: Matcher, path: Path, staged: Path) -> int | None:
    table = pq.read_table(path)
    mask = matcher.rows(table)
    if not mask.any():
        return None
    pq.write_table(table.filter(pa.array(~mask)), staged, compression="zstd", row_group_size=ROW_GROUP_SIZE)
    return int(mask.sum())


def _vectors(matcher: Matcher, path: Path, staged: Path) -> int | None:
    """What stays of an index's vectors, or of the table that says whose they are."""
    import faiss
    import numpy as np

    mask = _gone(matcher, path.parent / CHUNKS_FILE)
    if not mask.any():
        return None
    windows = path.parent / WINDOWS_FILE
    rows = pq.read_table(windows)["row"].to_numpy() if windows.is_file() else np.arange(len(mask))
    if path.name == INDEX_FILE:
        faiss.write_index(_without(faiss.read_index(str(path)), mask[rows]), str(staged))
    else:
        pq.write_table(pa.table({"row": (np.cumsum(~mask) - 1)[rows[~mask[rows]]]}), staged, compression="zstd")
    return int(mask.sum())


def _gone(matcher: Matcher, chunks: Path) -> "NDArray[np.bool_]":
    """Which rows of an index's chunk table go; none where it has no table any more."""
    import numpy as np

    return matcher.rows(pq.read_table(chunks)) if chunks.is_file() else np.zeros(0, dtype=bool)


def _without(index: Any, mask: "NDArray[np.bool_]") -> Any:
    """The index without the vectors under the mask; those that stay close up, as their chunks do."""
    import faiss
    import numpy as np

    if isinstance(faiss.downcast_index(index), faiss.IndexFlat):
        index.remove_ids(np.flatnonzero(mask).astype(np.int64))
        return index
    kept = index.reconstruct_batch(np.flatnonzero(~mask).astype(np.int64))
    index.reset()
    index.add(kept)
    return index


def _parts(matcher: Matcher, registry: Registry, aside: Path) -> Iterator[Change]:
    recover(registry.workspace.requests_dir)
    for path in parts_of(registry.workspace.requests_dir):
        table = read_part(path)
        mask = matcher.rows(table)
        if not mask.any():
            continue
        staged = aside / path.name
        write_table(staged, table.filter(pa.array(~mask)))
        root, places = _receipts(path, table, mask)
        new = digest_file(staged)
        entry = ErasedFile(REQUEST_BATCH, root, path.name, digest_file(path), new, int(mask.sum()), places)
        yield Change(f"request log {path.name}", entry, staged)


def _receipts(path: Path, table: pa.Table, mask: "NDArray[np.bool_]") -> tuple[str, tuple[int, ...]]:
    """The batch's root, and the places of the receipts of the rows under a mask."""
    if not receipts_path(path).exists() or not table.schema.equals(SCHEMA):
        return "", ()
    receipts = read_receipts(path)
    gone = {leaf for leaf, goes in zip(row_leaves(table), mask, strict=True) if goes}
    return root_of(receipts), tuple(place for place, leaf in enumerate(receipts) if leaf in gone)


def _strays(matcher: Matcher, registry: Registry) -> Iterator[str]:
    """Folders of the store that no version names: what a crash cut short, and records of events."""
    root = registry.store.local_root
    known = {(version.kind, hex_of(version.digest)) for version in registry.versions()}
    if root is None:
        return
    for folder in sorted(root.glob("*/*")):
        held = (path for path in sorted(folder.rglob("*")) if _holds(matcher, path))
        if (folder.parent.name, folder.name) not in known and (path := next(held, None)):
            yield f"the store's {path.relative_to(root)}, which no version names"


def _holds(matcher: Matcher, path: Path) -> bool:
    """Whether a subject occurs in a file, read as text; large files and folders are passed over."""
    if not path.is_file() or path.stat().st_size > SCANNED_BYTES:
        return False
    if path.suffix == ".parquet":
        return _in_rows(matcher, path)
    return matcher.text(path.read_bytes().decode("utf-8", "ignore"))


def _in_rows(matcher: Matcher, path: Path) -> bool:
    try:
        return bool(matcher.rows(pq.read_table(path)).any())
    except (OSError, pa.ArrowException):
        return False


def _database(matcher: Matcher, registry: Registry) -> Iterator[str]:
    """Columns of the metadata database, MLflow's tables among them, in which a subject stands."""
    from sqlalchemy import String, column, inspect, table

    with registry.database.read() as connection:
        inspector = inspect(connection)
        for name in sorted(set(inspector.get_table_names()) - {feedback.name}):
            for each in inspector.get_columns(name):
                query: Any = select(column(each["name"])).select_from(table(name))
                if isinstance(each["type"], String) and _any(matcher, connection.execute(query).scalars()):
                    yield f"the database's column {name}.{each['name']}"


def _any(matcher: Matcher, values: Any) -> bool:
    texts: Sequence[str] = [str(value) for value in values if value]
    return bool(matcher.rows(pa.table({"text": pa.array(texts, pa.string())})).any())
