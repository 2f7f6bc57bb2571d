"""What a stolen role may not write: other processes' messages, times that nobody can read, late items and keys"""

from __future__ import annotations

from migrations import run_sql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Messages that no process of ours writes are taken away; releases and attempts of before take no further items and keys."""
    run_sql("0010_guards.sql")


def downgrade() -> None:
    """What was written under these guards may stand under the earlier ones, but nobody should have to work without them."""
    raise NotImplementedError("restore a backup from before the upgrade instead")
