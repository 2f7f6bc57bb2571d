"""Bundles of keys that the custodian seals anew while a recovery waits"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from migrations import run_sql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Recoveries that wait get a fresh bundle from the custodian; none is lost."""
    run_sql("0005_bundles.sql")
    granted = "INSERT INTO audit.grants (event, role) VALUES ('ticket:renewed', 'refacex_custodian')"
    op.get_bind().execute(text(granted))


def downgrade() -> None:
    """The trail may tell of renewed bundles."""
    raise NotImplementedError("restore a backup from before the upgrade instead")
