"""Recompute the request log: rows open their receipts, receipts make the roots that the ledger's leaves name.

Guarantees: with the receipts whole, each row changed, removed, added or moved is named by its request; with the rows
whole, each receipt changed is. Where both were changed to fit one another, the root still shows it, and the part
is named. Not guaranteed: anything about parts that no leaf names yet.
"""

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from app.core.parquet import parts_of
from app.ledger.batches import SCHEMA, read_part, read_receipts, receipts_path, root_of, row_leaves
from app.ledger.erasures import ERASE_AGAIN
from app.ledger.faults import Report
from app.ledger.log import REQUEST_BATCH
from app.ledger.verify_tree import Row

Found = tuple[str, str, str]


def verify_requests(
    rows: Iterable[Row], requests_dir: Path, report: Report, *, erased: Mapping[str, set[int]] | None = None
) -> None:
    """Check every part of the request log that a ``request-batch`` leaf names.

    Args:
        erased: by part, the places of receipts whose rows an erasure leaf says were removed.
    """
    named = [(row.statement.name, row.statement.subject) for row in rows if row.statement and row.kind == REQUEST_BATCH]
    for name, root in dict.fromkeys(named):
        report.num_files += 1
        gone = (erased or {}).get(name, set())
        for kind, where, message in check_part(requests_dir / name, root, erased=gone):
            report.add(kind, f"request log {name}{where}", message)
        if gone:
            report.notes.append(f"request log {name}: {len(gone)} rows erased, their receipts remain")
    parts = {path.name for path in parts_of(requests_dir)}
    if waiting := sorted(parts - {name for name, _ in named}):
        report.notes.append(f"{len(waiting)} parts of the request log are not in the ledger yet, first {waiting[0]}")


def check_part(part: Path, root: str, *, erased: set[int]) -> Iterator[Found]:
    """Everything about a part that is not as the root says: kind, place within the part, sentence."""
    receipts = yield from _receipts(part)
    leaves = yield from _rows(part)
    if leaves is None:
        if receipts is not None:
            yield from _lost(receipts, erased)
        return
    if receipts is None:
        if root_of(leaves) != root:
            yield "changed-batch", "", "its rows are not those that the ledger's leaf commits to"
        return
    if root_of(receipts) == root:
        yield from _compare(leaves, receipts, erased)
    elif root_of(leaves) == root:
        yield from _changed_receipts(leaves, receipts)
    else:
        yield from _compare(leaves, receipts, erased)
        yield "changed-batch", "", "neither its rows nor its receipts are those that the ledger's leaf commits to"


def _receipts(part: Path) -> Generator[Found, None, list[str] | None]:
    try:
        return read_receipts(part)
    except FileNotFoundError:
        yield "missing-file", "", f"its receipts {receipts_path(part).name} are gone: restore them from a backup"
    except OSError as error:
        yield "unreadable-file", "", f"its receipts cannot be read ({error.strerror})"
    return None


def _rows(part: Path) -> Generator[Found, None, list[str] | None]:
    """The receipts that the rows ask for."""
    try:
        table = read_part(part)
        if table.schema.equals(SCHEMA):
            return list(row_leaves(table))
        yield "changed-file", "", "its columns are not those of the request log"
    except FileNotFoundError:
        yield "missing-file", "", "the file is gone: restore it from a backup"
    except (OSError, pa.ArrowException, ValueError) as error:
        yield "unreadable-file", "", f"its rows cannot be read ({_line(error)}): they were changed, or the disk is bad"
    return None


def _lost(receipts: Sequence[str], erased: set[int]) -> Iterator[Found]:
    for place, leaf in enumerate(receipts):
        if place not in erased:
            yield "missing-row", f", request {_id(leaf)}", "its row is lost with the part; its receipt remains"


def _compare(leaves: Sequence[str], receipts: Sequence[str], erased: set[int]) -> Iterator[Found]:
    """Rows against receipts: those that the erasure left must be there, in their order."""
    expected = [leaf for place, leaf in enumerate(receipts) if place not in erased]
    if list(leaves) == expected:
        return
    gone, present = {leaf for place, leaf in enumerate(receipts) if place in erased}, set(leaves)
    if left := gone & present - set(expected):
        message = f"{len(left)} rows that a leaf says were erased are still there: {ERASE_AGAIN}"
        yield "erasure-under-way", "", message
        leaves = [leaf for leaf in leaves if leaf not in left]
    missing, added = Counter(expected) - Counter(leaves), Counter(leaves) - Counter(expected)
    changed = {_id(leaf) for leaf in missing} & {_id(leaf) for leaf in added}
    for identity in sorted(changed):
        yield "changed-row", f", request {identity}", "the row does not open its receipt: one of the two was changed"
    for leaf in missing:
        if _id(leaf) not in changed:
            message = "its row was removed, and no erasure leaf says so"
            yield "missing-row", f", request {_id(leaf)}", message
    for leaf in added:
        if _id(leaf) not in changed:
            yield "extra-row", f", request {_id(leaf)}", "no receipt knows this row: it was put there afterwards"
    yield from _moved(
        [leaf for leaf in leaves if leaf not in added], [leaf for leaf in expected if leaf not in missing]
    )


def _moved(leaves: Sequence[str], expected: Sequence[str]) -> Iterator[Found]:
    moved = [found for found, wanted in zip(leaves, expected, strict=False) if found != wanted]
    if moved:
        message = f"its row and {len(moved) - 1} others stand in another order than their receipts"
        yield "reordered-rows", f", request {_id(moved[0])}", message


def _changed_receipts(leaves: Sequence[str], receipts: Sequence[str]) -> Iterator[Found]:
    """The rows are those that the leaf commits to: name the receipts that are not."""
    known = Counter(receipts)
    for place, leaf in enumerate(leaves):
        if place >= len(receipts) or receipts[place] != leaf:
            what = "was changed" if not known[leaf] else "was moved"
            yield "changed-receipt", f", request {_id(leaf)}", f"its receipt {what}; the row itself is whole"
    if len(receipts) > len(leaves):
        yield "changed-receipt", "", f"{len(receipts) - len(leaves)} receipts were added"


def _id(leaf: str) -> str:
    """A receipt's request, for people."""
    try:
        return str(json.loads(leaf)["request_id"])
    except (ValueError, KeyError, TypeError):
        return "that its changed receipt no longer names"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
