"""File names that the trail and what people sign vouch for"""

from __future__ import annotations

from migrations import run_sql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Releases and requests of before stay as they are, vouched for by ids alone."""
    run_sql("0007_names.sql")


def downgrade() -> None:
    """The names that people signed cannot be taken out of what they signed."""
    raise NotImplementedError("restore a backup from before the upgrade instead")
