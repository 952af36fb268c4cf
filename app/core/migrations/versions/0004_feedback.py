"""What callers said of answers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make ``feedback``."""
    op.create_table(
        "feedback",
        sa.Column("asked_by", sa.String(71), primary_key=True),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("release", sa.String(71), nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
    )


def downgrade() -> None:
    """There is no way back: an older Signalbox cannot read a newer one's database."""
    raise NotImplementedError("restore the backup made before the upgrade")
