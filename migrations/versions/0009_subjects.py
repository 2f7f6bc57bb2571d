"""Pseudonyms that say whom they stand for"""

from __future__ import annotations

from migrations import run_sql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Subjects of before keep their random pseudonyms."""
    run_sql("0009_subjects.sql")


def downgrade() -> None:
    """Pseudonyms stand in the trail; without their salts nobody could tell whose they are."""
    raise NotImplementedError("restore a backup from before the upgrade instead")
