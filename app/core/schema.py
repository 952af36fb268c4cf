"""Tables of the metadata database, in one place; Alembic's migrations make them.

Times are RFC 3339 strings in UTC, digests are ``sha256:`` strings, JSON is canonical text: what is
hashed is what is stored.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

SUBJECT_BLOCK, SUBJECT_PREFIX = text("(leaf_index >> 14)"), text("substr(subject, 8, 8)")
"""The index of subjects: the block of 16,384 leaves, then eight hex digits of the digest. Digests are random: an index
of them alone is written all over by every batch. In blocks only its end is, and a look-up seeks once in each block."""

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String(71), nullable=False),
    Column("inputs_digest", String(71), nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("kind", "name", "number", name="uq_versions_number"),
    UniqueConstraint("kind", "name", "digest", name="uq_versions_digest"),
    Index("ix_versions_digest", "digest"),
    Index("ix_versions_inputs", "kind", "name", "inputs_digest"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("kind", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("alias", String(64), nullable=False),
    Column("version_id", Integer, ForeignKey("versions.id"), nullable=False),
    Column("updated_at", String(32), nullable=False),
    PrimaryKeyConstraint("kind", "name", "alias"),
)

leaves = Table(
    "leaves",
    metadata,
    Column("leaf_index", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(71), nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    Index("ix_leaves_kind", "kind"),
    Index("ix_leaves_subject", SUBJECT_BLOCK, SUBJECT_PREFIX),
)

tree_runs = Table(
    "tree_runs",
    metadata,
    Column("level", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
    PrimaryKeyConstraint("level", "start"),
)
"""Inner nodes of the Merkle tree: nodes ``start`` and following of a level, 32 bytes each, as one batch made them."""

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)

cosignatures = Table(
    "cosignatures",
    metadata,
    Column("size", Integer, nullable=False),
    Column("witness", String(71), nullable=False),
    Column("line", Text, nullable=False),
    PrimaryKeyConstraint("size", "witness"),
)
"""Signature lines of witnesses over the checkpoint of ``size`` leaves; ``witness`` is the digest of the raw key."""

lease = Table(
    "lease",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("expires_at", String(32), nullable=False),
)

ticks = Table(
    "ticks",
    metadata,
    Column("signal", String(64), nullable=False),
    Column("window_end", String(200), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("result", Text, nullable=False),
    PrimaryKeyConstraint("signal", "window_end"),
)

triggers = Table(
    "triggers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("window_end", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", String(32), nullable=False),
    Column("job_id", String(128)),
    UniqueConstraint("kind", "window_end", name="uq_triggers_window"),
)

limits = Table(
    "limits",
    metadata,
    Column("subject", String(200), primary_key=True),
    Column("rule", Text, nullable=False),
    Column("updated_at", String(32), nullable=False),
)
"""What a key (``key:`` and its digest), a tag (``tag:`` and its name) or ``anonymous`` may do, as JSON."""

used = Table(
    "used",
    metadata,
    Column("subject", String(200), nullable=False),
    Column("name", String(32), nullable=False),
    Column("period", String(32), nullable=False),
    Column("amount", BigInteger, nullable=False),
    PrimaryKeyConstraint("subject", "name", "period"),
)
"""How much of a limit was used or reserved: ``period`` is a minute, a day, a month (UTC), or empty for always."""

feedback = Table(
    "feedback",
    metadata,
    Column("asked_by", String(71), primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("release", String(71), nullable=False),
    Column("score", Float, nullable=False),
    Column("comment", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("updated_at", String(32), nullable=False),
)
"""What a caller said of an answer last: ``asked_by`` is the digest of the request and its caller."""
