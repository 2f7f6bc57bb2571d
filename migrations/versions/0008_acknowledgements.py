"""Auditors acknowledge what verification finds and nobody can mend"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The gateway writes down who acknowledged what, with their signature."""
    granted = "INSERT INTO audit.grants (event, role) VALUES ('finding:acknowledged', 'refacex_gateway')"
    op.get_bind().execute(text(granted))


def downgrade() -> None:
    """The trail may tell of acknowledgements."""
    raise NotImplementedError("restore a backup from before the upgrade instead")
