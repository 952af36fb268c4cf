"""The first tables, as they stood then: later changes of ``app.core.schema`` do not reach back into this file."""

from alembic import op
from sqlalchemy import (
    Column,
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
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

metadata = MetaData()

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
    Index("ix_leaves_subject", "subject"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("level", Integer, nullable=False),
    Column("node_index", Integer, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("level", "node_index"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)

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


def upgrade() -> None:
    """Make every table of the first release."""
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    """Drop them."""
    metadata.drop_all(op.get_bind())
