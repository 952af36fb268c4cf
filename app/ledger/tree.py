"""Where the tree's hashes are stored: leaf hashes beside their leaves, inner nodes in runs of up to 256.

Purpose: read any hashes of the tree in one query, and store what a batch made in a row for each level and
256 nodes. Runs are only ever added: no append rewrites a row.
Guarantees: a position that is not stored is NodeMissing, never a wrong hash. Not guaranteed: that stored hashes are
right; ``app.ledger.verify`` recomputes them.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from sqlalchemy import Connection, TextClause, text

from app.core.database import insert_rows
from app.core.errors import SignalboxError
from app.core.schema import tree_runs
from app.ledger import merkle

RUN_NODES = 256
HASH_BYTES = 32


class NodeMissing(SignalboxError):
    """The ledger lacks a hash that its tree needs: run `signalbox verify` and restore the database from a backup."""


class TreeReader:
    """Stored hashes by position, fetched together beforehand."""

    def __init__(self, connection: Connection, positions: Iterable[merkle.Position]) -> None:
        self._hashes = dict(_fetch(connection, set(positions)))

    def __call__(self, position: merkle.Position) -> bytes:
        try:
            return self._hashes[position]
        except KeyError as error:
            message = f"the ledger lacks tree node {position}: run `signalbox verify`, then restore the database"
            raise NodeMissing(message) from error


def store_runs(connection: Connection, runs: Iterable[merkle.Run]) -> None:
    """Store the inner nodes that ``merkle.extend`` made; leaf hashes go with their leaves."""
    rows = [
        (level, start, b"".join(part)) for level, first, row in runs if level for start, part in _aligned(first, row)
    ]
    if rows:
        insert_rows(connection, tree_runs, rows)


def nodes_in(hashes: bytes) -> list[bytes]:
    """A stored run as single hashes; a torn last one is kept, too short to be right."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def _aligned(first: int, row: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Cut a run where a multiple of ``RUN_NODES`` begins."""
    end = first + len(row)
    start = first
    while start < end:
        stop = min(end, (start // RUN_NODES + 1) * RUN_NODES)
        yield start, row[start - first : stop - first]
        start = stop


def _fetch(connection: Connection, positions: set[merkle.Position]) -> Iterator[tuple[merkle.Position, bytes]]:
    if not positions:
        return
    bound: dict[str, int] = {}
    for each, (level, index) in enumerate(positions):
        bound[f"l{each}"], bound[f"i{each}"] = level, index
    for level, index, value in connection.execute(_lookup(len(positions)), bound):
        if value and len(value) == HASH_BYTES:
            yield (level, index), bytes(value)


@lru_cache(maxsize=256)
def _lookup(count: int) -> TextClause:
    """One seek for each position: the leaf, or the run that begins last before the node and 32 bytes at its place."""
    wanted = ", ".join(f"(:l{each}, :i{each})" for each in range(count))
    return text(
        f"WITH wanted(level, i) AS (VALUES {wanted}) SELECT level, i, CASE WHEN level = 0 "
        "THEN (SELECT leaf_hash FROM leaves WHERE leaf_index = i) "
        "ELSE (SELECT substr(hashes, (i - start) * 32 + 1, 32) FROM tree_runs AS r "
        "WHERE r.level = wanted.level AND start <= i ORDER BY start DESC LIMIT 1) END FROM wanted"
    )
