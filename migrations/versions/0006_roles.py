"""Submitters that sign what they submit"""

from __future__ import annotations

from migrations import run_sql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Releases of before carry no signature; whether that is enough is their policy's word."""
    run_sql("0006_roles.sql")


def downgrade() -> None:
    """Signatures that exist cannot be taken back."""
    raise NotImplementedError("restore a backup from before the upgrade instead")
