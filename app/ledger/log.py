"""The append-only log: canonical-JSON statements as leaves of a Merkle tree in the metadata database.

Purpose: append batches of statements, and hand out checkpoints and proofs over them.
Guarantees: appends run in the database's one write transaction, so any number of processes may append without a gap or
a fork; leaves, tree nodes and a signed checkpoint are committed together or not at all; proofs read O(log n) hashes.
Not guaranteed: that nobody edited the tables since. ``app.ledger.verify`` finds out.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from json.encoder import encode_basestring
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, literal_column, select

from app.core.clock import timestamp
from app.core.database import Database, insert_rows, open_database, read_rows
from app.core.errors import SignalboxError, UsageError
from app.core.schema import SUBJECT_BLOCK, SUBJECT_PREFIX, checkpoints, cosignatures, leaves
from app.core.workspace import Workspace
from app.ledger import merkle
from app.ledger.keys import Signer, Verifier, load_or_create
from app.ledger.note import Checkpoint, sign_note
from app.ledger.tree import TreeReader, store_runs

SERVICE_KEY = "service"

KEY, REQUEST_BATCH, PROMOTION, ROLLBACK = "key", "request-batch", "promotion", "rollback"
STOP, RESUME = "stop", "resume"
ERASURE = "erasure"
WITNESS = "witness"
ACCESS = "access"
GUARANTEE, VOID = "guarantee", "void"
"""Kinds of statements that publish no version; all others are kinds of versions."""
CANARY, CANARY_END = "canary", "canary-end"
MOVES = (PROMOTION, ROLLBACK, STOP, RESUME)
PRODUCTION = "production"
"""The alias that only statements of the kinds ``MOVES`` may move; a stop leaves it where it is."""
STEPS = (*MOVES, CANARY, CANARY_END)
"""The moves, and canaries: a release beside production for a share of the requests, from its leaf to the next step."""


PLAIN = r'[^"\\\x00-\x1f]*+'
PLAIN_LEAF = re.compile(
    f'{{"actor":"({PLAIN})","kind":"({PLAIN})","name":"({PLAIN})","parents":\\[((?:"{PLAIN}"(?:,"{PLAIN}")*+)?+)\\],'
    f'"payload":"({PLAIN})","subject":"({PLAIN})","time":"({PLAIN})"}}'
)
"""A leaf without a character that JSON escapes: what matches is canonical already, and most leaves do."""


NEWEST_NOTE = select(checkpoints.c.size, checkpoints.c.note).order_by(checkpoints.c.size.desc()).limit(1)
NOTE_OF = select(checkpoints.c.size, checkpoints.c.note).where(checkpoints.c.size == bindparam("of"))
COSIGNED = select(cosignatures.c.line).where(cosignatures.c.size == bindparam("of")).order_by(cosignatures.c.witness)
LEAF_AT = select(leaves.c.leaf).where(leaves.c.leaf_index == bindparam("at"))
"""Built once: a proof takes less than a millisecond, and building its queries would be a third of that."""


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
        """The leaf: RFC 8785 JSON. Written here by hand, since a leaf is all strings and appends are many.

        Raises:
            NotAStatement: a field is no text that UTF-8 can hold.
        """
        quote = encode_basestring
        try:
            parents = ",".join(map(quote, self.parents))
            return (
                f'{{"actor":{quote(self.actor)},"kind":{quote(self.kind)},"name":{quote(self.name)},'
                f'"parents":[{parents}],"payload":{quote(self.payload)},"subject":{quote(self.subject)},'
                f'"time":{quote(self.time)}}}'
            ).encode()
        except (TypeError, UnicodeEncodeError) as error:
            raise NotAStatement(f"a statement holds text only ({error}): give every field as a string") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> "Statement":
        """Read a leaf; NotAStatement when its bytes are not those that ``to_bytes`` writes."""
        try:
            text = data.decode()
            match = PLAIN_LEAF.fullmatch(text)
            if match:
                actor, kind, name, parents, payload, subject, time = match.groups()
                return cls(
                    kind, subject, name, tuple(parents[1:-1].split('","') if parents else ()), payload, actor, time
                )
            values = json.loads(text)
            fields = (values["kind"], values["subject"], values["name"], tuple(values["parents"]))
            statement = cls(*fields, values["payload"], values["actor"], values["time"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NotAStatement(f"a leaf is not a statement ({error}): run `signalbox verify`") from error
        if statement.to_bytes() != data:
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
    def log_key(self) -> str:
        """The verifier key of the key that signs the log: what signed bodies name it by."""
        return self.signer.public.vkey

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
        data = [statement.to_bytes() for statement in statements]
        hashes = [merkle.leaf_hash(each) for each in data]
        with nullcontext(connection) if connection else self.database.write() as writer:
            size = read_size(writer)
            runs, root = merkle.extend(size, hashes, TreeReader(writer, merkle.decompose(0, size)))
            stated = zip(statements, data, hashes, strict=True)
            rows = [(index, said.kind, said.subject, *each) for index, (said, *each) in enumerate(stated, start=size)]
            insert_rows(writer, leaves, rows)
            store_runs(writer, runs)
            note = sign_note(Checkpoint(self.origin, size + len(data), root).to_text(), self.signer)
            writer.execute(insert(checkpoints).values(size=size + len(data), note=note))
        return list(range(size, size + len(data)))

    def checkpoint(self) -> str:
        """The newest checkpoint as a signed note; of the empty tree when nothing was appended."""
        with self.database.read() as connection:
            return read_note(connection, None)[1] or sign_note(
                Checkpoint(self.origin, 0, merkle.EMPTY_ROOT).to_text(), self.signer
            )

    def root(self, size: int | None = None) -> bytes:
        """Root over the first ``size`` leaves; all of them by default."""
        with self.database.read() as connection:
            size = _known_size(connection, size)
            return merkle.root(size, TreeReader(connection, merkle.decompose(0, size)))

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Hashes that lead from leaf ``index`` to ``root(size)``."""
        with self.database.read() as connection:
            size = _known_size(connection, size)
            if not 0 <= index < size:
                raise NoSuchLeaf(f"no leaf {index} among {size}: ask for an index from 0 to {size - 1}")
            spans = merkle.inclusion_spans(index, size)
            return merkle.inclusion_proof(index, size, TreeReader(connection, positions_of(spans)))

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """Hashes that show that ``root(new_size)`` only appends to ``root(old_size)``."""
        with self.database.read() as connection:
            new_size = _known_size(connection, new_size)
            if not 0 <= old_size <= new_size:
                raise NoSuchLeaf(f"no tree of {old_size} leaves precedes one of {new_size}: ask for a smaller size")
            spans = merkle.consistency_spans(old_size, new_size)
            return merkle.consistency_proof(old_size, new_size, TreeReader(connection, positions_of(spans)))

    def leaves(self, kind: str | None = None, *, subject: str | None = None) -> Iterator[Leaf]:
        """Leaves in order, all or of one kind or about one digest."""
        query = select(leaves.c.leaf_index, leaves.c.leaf).order_by(leaves.c.leaf_index)
        if kind is not None:
            query = query.where(leaves.c.kind == kind)
        if subject is not None:
            query = query.where(leaves.c.subject == subject)
        with self.database.read() as connection:
            if subject is not None:
                query = query.where(*_indexed(subject, read_size(connection)))
            for index, data in read_rows(connection, query):
                yield Leaf(index, Statement.from_bytes(data))

    def register_key(self, verifier: Verifier) -> None:
        """Append a ``key`` leaf for a public key unless there is one: from then on its name and role are on record."""
        with self.database.write() as connection:
            known = select(leaves.c.leaf).where(leaves.c.kind == KEY, leaves.c.subject == verifier.digest)
            stated = [Statement.from_bytes(data).name for data in connection.execute(known).scalars()]
            if verifier.vkey not in stated:
                statement = Statement(kind=KEY, subject=verifier.digest, name=verifier.vkey, actor=self.signer.name)
                self.append([statement], connection=connection)


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


def read_note(connection: Connection, size: int | None) -> tuple[int, str]:
    """Size and note, cosignatures below, of the checkpoint of that size or the newest; 0 and no text without any.

    Raises:
        NoSuchLeaf: no checkpoint of that size was signed.
    """
    found = connection.execute(NEWEST_NOTE if size is None else NOTE_OF, {} if size is None else {"of": size}).first()
    if found is None and size:
        raise NoSuchLeaf(f"no checkpoint of {size} leaves was signed: ask for the newest, or a size that was one")
    if found is None:
        return 0, ""
    lines = connection.execute(COSIGNED, {"of": found.size}).scalars()
    return int(found.size), found.note + "".join(lines)


def _indexed(subject: str, size: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """What the index of subjects needs to hear; its expressions must stand in the query as they stand in the index."""
    blocks = literal_column(SUBJECT_BLOCK.text).in_(range((size >> 14) + 1))
    return blocks, literal_column(SUBJECT_PREFIX.text) == subject[7:15]


def positions_of(spans: Iterable[merkle.Span]) -> Iterator[merkle.Position]:
    """The stored hashes that a proof's spans are made of."""
    for span in spans:
        yield from merkle.decompose(*span)


def _known_size(connection: Connection, size: int | None) -> int:
    present = read_size(connection)
    if size is not None and not 0 <= size <= present:
        raise NoSuchLeaf(f"the ledger has {present} leaves, not {size}: ask for a size from 0 to {present}")
    return present if size is None else size
