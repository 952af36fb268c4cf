"""The append-only log: canonical-JSON statements as leaves of a Merkle tree in the metadata database.

Purpose: append batches of statements, and hand out checkpoints and proofs over them.
Guarantees: appends run in the database's one write transaction, so any number of processes may append without a gap or
a fork; leaves, tree nodes and a signed checkpoint are committed together or not at all; proofs read O(log n) hashes.
Not guaranteed: that nobody edited the tables since. ``app.ledger.verify`` finds out.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select

from app.core.clock import timestamp
from app.core.database import Database, open_database
from app.core.digests import canonical_json
from app.core.errors import SignalboxError, UsageError
from app.core.schema import checkpoints, leaves, nodes
from app.core.workspace import Workspace
from app.ledger import merkle
from app.ledger.keys import Signer, Verifier, load_or_create
from app.ledger.note import Checkpoint, sign_note

SERVICE_KEY = "service"
READ_ROWS = 10_000

KEY, REQUEST_BATCH, PROMOTION, ROLLBACK = "key", "request-batch", "promotion", "rollback"
"""Kinds of statements that publish no version; all others are kinds of versions."""
MOVES = (PROMOTION, ROLLBACK)
PRODUCTION = "production"
"""The alias that only statements of the kinds ``MOVES`` may move."""


class NodeMissing(SignalboxError):
    """The ledger lacks a hash that its tree needs: run `signalbox verify` and restore the database from a backup."""


class NoSuchLeaf(UsageError):
    """There is no leaf or tree size of that number: ask for one that the ledger has."""


class NotAStatement(SignalboxError):
    """A leaf is not a canonical statement: run `signalbox verify` to see what was changed."""


@dataclass(frozen=True)
class Statement:
    """One fact, as it stands in a leaf. Holds digests and names only, never personal data.

    ``payload`` is the digest of the manifest published under ``kind`` that says the rest; empty when there is none.
    For a published version it equals ``subject``.
    """

    kind: str
    subject: str
    name: str = ""
    parents: tuple[str, ...] = ()
    payload: str = ""
    actor: str = SERVICE_KEY
    time: str = field(default_factory=timestamp)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "parents": list(self.parents)}

    def to_bytes(self) -> bytes:
        """The leaf: RFC 8785 JSON."""
        return canonical_json(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> "Statement":
        """Read a leaf; NotAStatement when its bytes are not those that ``to_bytes`` writes."""
        try:
            values = json.loads(data)
            statement = cls(**{**values, "parents": tuple(values["parents"])})
            same = statement.to_bytes() == data
        except (ValueError, TypeError, KeyError) as error:
            raise NotAStatement(f"a leaf is not a statement ({error}): run `signalbox verify`") from error
        if not same:
            raise NotAStatement("a leaf is not in canonical form: run `signalbox verify`")
        return statement


@dataclass(frozen=True)
class Leaf:
    """A statement and where it stands."""

    index: int
    statement: Statement


class Ledger:
    """The log of one database, appended to under one signing key."""

    def __init__(self, database: Database, signer: Signer) -> None:
        self.database = database
        self.signer = signer

    @property
    def origin(self) -> str:
        """The log's name in its checkpoints."""
        return origin_of(self.signer.public)

    @property
    def size(self) -> int:
        """Number of leaves."""
        with self.database.read() as connection:
            return read_size(connection)

    def append(self, statements: Sequence[Statement], *, connection: Connection | None = None) -> list[int]:
        """Append a batch and sign the new checkpoint; the leaves' indexes come back.

        With ``connection``, which must be that of a ``Database.write()`` block, the batch joins its transaction.
        """
        if not statements:
            return []
        with nullcontext(connection) if connection else self.database.write() as writer:
            size = read_size(writer)
            data = [statement.to_bytes() for statement in statements]
            added = list(merkle.grow(size, map(merkle.leaf_hash, data), _Reader(writer, merkle.decompose(0, size))))
            _insert_leaves(writer, size, zip(statements, data, strict=True))
            _insert_nodes(writer, added)
            self._sign(writer, size + len(data))
        return list(range(size, size + len(data)))

    def checkpoint(self) -> str:
        """The newest checkpoint as a signed note; of the empty tree when nothing was appended."""
        with self.database.read() as connection:
            note = connection.execute(
                select(checkpoints.c.note).order_by(checkpoints.c.size.desc()).limit(1)
            ).scalar_one_or_none()
        return note or sign_note(Checkpoint(self.origin, 0, merkle.EMPTY_ROOT).to_text(), self.signer)

    def root(self, size: int | None = None) -> bytes:
        """Root over the first ``size`` leaves; all of them by default."""
        with self.database.read() as connection:
            size = _known_size(connection, size)
            return merkle.root(size, _Reader(connection, merkle.decompose(0, size)))

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Hashes that lead from leaf ``index`` to ``root(size)``."""
        with self.database.read() as connection:
            size = _known_size(connection, size)
            if not 0 <= index < size:
                raise NoSuchLeaf(f"no leaf {index} among {size}: ask for an index from 0 to {size - 1}")
            spans = merkle.inclusion_spans(index, size)
            return merkle.inclusion_proof(index, size, _Reader(connection, _positions(spans)))

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """Hashes that show that ``root(new_size)`` only appends to ``root(old_size)``."""
        with self.database.read() as connection:
            new_size = _known_size(connection, new_size)
            if not 0 <= old_size <= new_size:
                raise NoSuchLeaf(f"no tree of {old_size} leaves precedes one of {new_size}: ask for a smaller size")
            spans = merkle.consistency_spans(old_size, new_size)
            return merkle.consistency_proof(old_size, new_size, _Reader(connection, _positions(spans)))

    def leaves(self, kind: str | None = None, *, subject: str | None = None) -> Iterator[Leaf]:
        """Leaves in order, all or of one kind or about one digest."""
        query = select(leaves.c.leaf_index, leaves.c.leaf).order_by(leaves.c.leaf_index)
        if kind is not None:
            query = query.where(leaves.c.kind == kind)
        if subject is not None:
            query = query.where(leaves.c.subject == subject)
        with self.database.read() as connection:
            rows = connection.execution_options(yield_per=READ_ROWS).execute(query)
            for index, data in rows:
                yield Leaf(index, Statement.from_bytes(data))

    def register_key(self, verifier: Verifier) -> None:
        """Append a ``key`` leaf for a public key unless there is one: from then on its name and role are on record."""
        with self.database.write() as connection:
            known = select(leaves.c.leaf).where(leaves.c.kind == KEY, leaves.c.subject == verifier.digest)
            stated = [Statement.from_bytes(data).name for data in connection.execute(known).scalars()]
            if verifier.vkey not in stated:
                statement = Statement(kind=KEY, subject=verifier.digest, name=verifier.vkey, actor=self.signer.name)
                self.append([statement], connection=connection)

    def _sign(self, connection: Connection, size: int) -> None:
        root = merkle.root(size, _Reader(connection, merkle.decompose(0, size)))
        note = sign_note(Checkpoint(self.origin, size, root).to_text(), self.signer)
        connection.execute(insert(checkpoints).values(size=size, note=note))


def open_ledger(workspace: Workspace) -> Ledger:
    """The workspace's ledger, under its service key; database and key are made when missing."""
    signer = load_or_create(workspace.keys_dir, SERVICE_KEY, "service")
    return Ledger(open_database(workspace.database_url), signer)


def origin_of(verifier: Verifier) -> str:
    """A log's name: one log per key."""
    return f"signalbox/ledger/{verifier.key_id.hex()}"


def read_size(connection: Connection) -> int:
    """Number of leaves as this transaction sees it."""
    last = connection.execute(select(func.max(leaves.c.leaf_index))).scalar_one_or_none()
    return 0 if last is None else int(last) + 1


class _Reader:
    """Stored hashes by position, fetched together beforehand."""

    def __init__(self, connection: Connection, positions: Iterable[merkle.Position]) -> None:
        self._hashes = _fetch(connection, set(positions))

    def __call__(self, position: merkle.Position) -> bytes:
        try:
            return self._hashes[position]
        except KeyError as error:
            message = f"the ledger lacks tree node {position}: run `signalbox verify`, then restore the database"
            raise NodeMissing(message) from error


def _fetch(connection: Connection, positions: set[merkle.Position]) -> Mapping[merkle.Position, bytes]:
    """At most two queries: leaf hashes stand beside their leaves, all others in ``nodes``."""
    bottom = [index for level, index in positions if level == 0]
    upper = [and_(nodes.c.level == level, nodes.c.node_index == index) for level, index in positions if level]
    found: dict[merkle.Position, bytes] = {}
    if bottom:
        query = select(leaves.c.leaf_index, leaves.c.leaf_hash).where(leaves.c.leaf_index.in_(bottom))
        found.update(((0, index), value) for index, value in connection.execute(query))
    if upper:
        query_upper = select(nodes.c.level, nodes.c.node_index, nodes.c.hash).where(or_(*upper))
        found.update(((level, index), value) for level, index, value in connection.execute(query_upper))
    return found


def _positions(spans: Iterable[merkle.Span]) -> Iterator[merkle.Position]:
    for span in spans:
        yield from merkle.decompose(*span)


def _known_size(connection: Connection, size: int | None) -> int:
    present = read_size(connection)
    if size is not None and not 0 <= size <= present:
        raise NoSuchLeaf(f"the ledger has {present} leaves, not {size}: ask for a size from 0 to {present}")
    return present if size is None else size


def _insert_leaves(connection: Connection, size: int, batch: Iterable[tuple[Statement, bytes]]) -> None:
    rows = [
        {
            "leaf_index": index,
            "kind": statement.kind,
            "subject": statement.subject,
            "leaf": data,
            "leaf_hash": merkle.leaf_hash(data),
        }
        for index, (statement, data) in enumerate(batch, start=size)
    ]
    connection.execute(insert(leaves), rows)


def _insert_nodes(connection: Connection, added: Iterable[tuple[merkle.Position, bytes]]) -> None:
    rows = [{"level": level, "node_index": index, "hash": value} for (level, index), value in added if level]
    if rows:
        connection.execute(insert(nodes), rows)
