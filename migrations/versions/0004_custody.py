"""What the custodian says of its own files, and its reading of what it signed"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Frozen here, as in revision 0001.
GRANTS: dict[str, tuple[str, ...]] = {
    "ledger:begun": ("refacex_custodian",),
    "pinned:changed": ("refacex_custodian",),
}


def upgrade() -> None:
    """The custodian holds its ledger against its own events, so it reads the trail, as notary and gateway do."""
    op.execute("GRANT SELECT ON audit.events TO refacex_custodian")
    rows = [{"event": event, "role": role} for event, roles in GRANTS.items() for role in roles]
    op.get_bind().execute(text("INSERT INTO audit.grants (event, role) VALUES (:event, :role)"), rows)


def downgrade() -> None:
    """Events that exist cannot be taken back."""
    raise NotImplementedError("restore a backup from before the upgrade instead")
