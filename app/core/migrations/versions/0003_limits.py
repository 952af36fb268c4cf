"""Limits of API keys and tags, and what was used of them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make ``limits`` and ``used``."""
    op.create_table(
        "limits",
        sa.Column("subject", sa.String(200), primary_key=True),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "used",
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("period", sa.String(32), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("subject", "name", "period"),
    )


def downgrade() -> None:
    """There is no way back: an older Signalbox cannot read a newer one's database."""
    raise NotImplementedError("restore the backup made before the upgrade")
