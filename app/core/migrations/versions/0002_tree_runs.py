"""The tree's nodes in runs instead of a row each, a smaller index of subjects, witnesses' cosignatures.

An existing ledger is carried over: every hash keeps its position, so its checkpoints and proofs stay as they are.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

RUN = 256
READ_ROWS = 10_000


def upgrade() -> None:
    """Pack ``nodes`` into ``tree_runs``, exchange the index of subjects, and make ``cosignatures``."""
    runs = op.create_table(
        "tree_runs",
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "start"),
    )
    nodes = op.get_bind().execute(sa.text("SELECT level, node_index, hash FROM nodes ORDER BY level, node_index")).all()
    packed = list(_pack(nodes))
    for first in range(0, len(packed), READ_ROWS):
        op.bulk_insert(runs, packed[first : first + READ_ROWS])
    op.drop_table("nodes")
    op.drop_index("ix_leaves_subject", "leaves")
    op.create_index("ix_leaves_subject", "leaves", [sa.text("(leaf_index >> 14)"), sa.text("substr(subject, 8, 8)")])
    op.create_table(
        "cosignatures",
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("witness", sa.String(71), nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("size", "witness"),
    )


def downgrade() -> None:
    """There is no way back: an older Signalbox cannot read a newer one's database."""
    raise NotImplementedError("restore the backup made before the upgrade")


def _pack(nodes: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Neighbours of one level that lie in one aligned block of ``RUN`` nodes become a row; gaps stay gaps."""
    for _, run in groupby(enumerate(nodes), lambda each: (each[1][0], each[1][1] // RUN, each[1][1] - each[0])):
        rows = [row for _, row in run]
        yield {"level": rows[0][0], "start": rows[0][1], "hashes": b"".join(bytes(row[2]) for row in rows)}
