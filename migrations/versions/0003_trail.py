"""The gateway reads the register of custody keys, to hold it against the trail"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The register holds ids, suites and times, and no key."""
    op.execute("GRANT SELECT ON custody_keys TO refacex_gateway")


def downgrade() -> None:
    """Takes it back."""
    op.execute("REVOKE SELECT ON custody_keys FROM refacex_gateway")
