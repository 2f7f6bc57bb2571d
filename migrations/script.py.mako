"""${message}"""

from __future__ import annotations

from migrations import run_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Runs the SQL of this revision."""
    run_sql("${up_revision}_....sql")
