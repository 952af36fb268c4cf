"""What changed between two versions: rows added, removed and changed.

Guarantees: rows are compared by their ids, which are digests of their content; an added and a removed row with the same
name (the id that they came with, else their document and question, else the chunk's place) are one changed row. Works
for rows, chunks, questions of a suite and outcomes of an evaluation alike.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.core.errors import UsageError
from app.core.parquet import read_rows
from app.registry.tables import CHUNKS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder

Row = Mapping[str, Any]
IDS = ("row_id", "chunk_id", "question_id")
SHOWN = ("question", "answer", "rejected", "text", "label", "split", "context", "unmask", "history", "input_ids")


class NothingToCompare(UsageError):
    """A version has no table of rows or chunks; the message says which."""


@dataclass(frozen=True)
class Change:
    """A row before and after, and the columns that differ."""

    before: str
    after: str
    columns: list[str]
    text: str


@dataclass(frozen=True)
class Difference:
    """Ids and first words of rows that came and went, and the rows that changed."""

    added: list[dict[str, str]]
    removed: list[dict[str, str]]
    changed: list[Change]
    num_same: int
    moved: dict[str, int]
    """Rows with the same content in another split, by ``from -> to``."""

    def to_json(self) -> dict[str, Any]:
        counts = {name: len(getattr(self, name)) for name in ("added", "removed", "changed")}
        return {"counts": {**counts, "same": self.num_same, "moved": sum(self.moved.values())}, **asdict(self)}


def compare(before: Version, after: Version, *, registry: Registry) -> Difference:
    """The difference of two versions' rows, or of their chunks where they have no rows.

    Raises:
        NothingToCompare: one has neither.
    """
    old, new = _table(before, registry), _table(after, registry)
    identity = next((name for name in IDS if name in (old or new or [{}])[0]), IDS[0])
    by_id = [{str(row.get(identity)): row for row in rows} for rows in (old, new)]
    gone = [row for key, row in by_id[0].items() if key not in by_id[1]]
    came = [row for key, row in by_id[1].items() if key not in by_id[0]]
    same = by_id[0].keys() & by_id[1].keys()
    pairs, removed, added = _paired(gone, came)
    moved: dict[str, int] = defaultdict(int)
    for key in same:
        splits = [str(rows[key].get("split")) for rows in by_id]
        if splits[0] != splits[1]:
            moved[f"{splits[0]} -> {splits[1]}"] += 1
    return Difference(
        added=[_shown(row, identity) for row in added],
        removed=[_shown(row, identity) for row in removed],
        changed=[_change(*pair, identity) for pair in pairs],
        num_same=len(same),
        moved=dict(sorted(moved.items())),
    )


def _table(version: Version, registry: Registry) -> list[dict[str, Any]]:
    folder = whole_folder(version, registry)
    path = next((folder / name for name in (ROWS_FILE, CHUNKS_FILE) if (folder / name).exists()), None)
    if path is None:
        raise NothingToCompare(f"{version.kind} {version.ref} holds neither rows nor chunks: name another version")
    return read_rows(path)


def _paired(gone: Sequence[Row], came: Sequence[Row]) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Rows of the same name on both sides, one to one in their order, and what is left of either side."""
    waiting: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in came:
        waiting[_name(row)].append(row)
    pairs, removed = [], []
    for row in gone:
        same = waiting[_name(row)]
        if same:
            pairs.append((row, same.pop(0)))
        else:
            removed.append(row)
    taken = {id(after) for _, after in pairs}
    return pairs, removed, [row for row in came if id(row) not in taken]


def _name(row: Row) -> tuple[str, ...]:
    """What a row is known by while its content changes."""
    if row.get("origin_id"):
        return ("id", str(row.get("document") or ""), str(row["origin_id"]))
    if row.get("question"):
        return ("question", str(row.get("document") or ""), str(row["question"]), str(row.get("split") or ""))
    place = row.get("ordinal", row.get("document") or "")
    return ("place", str(row.get("source") or ""), str(place), "/".join(row.get("heading_path") or []))


def _change(before: Row, after: Row, identity: str) -> Change:
    columns = [name for name in SHOWN if before.get(name) != after.get(name)]
    return Change(str(before.get(identity)), str(after.get(identity)), columns, _words(after))


def _shown(row: Row, identity: str) -> dict[str, str]:
    return {"id": str(row.get(identity)), "text": _words(row)}


def _words(row: Row) -> str:
    """The first words of a row, on one line."""
    return " ".join(str(row.get("question") or row.get("text") or row.get("input_ids") or "").split())[:100]
