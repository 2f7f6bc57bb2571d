"""Policies, signed requests and tickets, reviews, custody orders, subjects, alerts"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from migrations import run_sql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Frozen here, as in revision 0001.
GRANTS: dict[str, tuple[str, ...]] = {
    "release:reported": ("refacex_release",),
    "review:opened": ("refacex_custodian",),
    "review:closed": ("refacex_gateway",),
    "message:refused": ("refacex_custodian", "refacex_recovery", "refacex_release"),
    "recovery:refused": ("refacex_recovery",),
    "order:given": ("refacex_gateway",),
    "order:done": ("refacex_custodian",),
    "order:refused": ("refacex_custodian",),
    "export:asked": ("refacex_gateway",),
    "schedule:set": ("refacex_gateway",),
    "person:removed": ("@owner", "refacex_gateway"),
    "policy:set": ("@owner", "refacex_gateway"),
    "subject:erased": ("refacex_custodian",),
    "trail:forked": ("refacex_notary",),
    "key:rotation_started": ("refacex_custodian",),
    "key:rewrapped": ("refacex_custodian",),
    "key:rotation_finished": ("refacex_custodian",),
    "key:retired": ("refacex_custodian",),
    "key:shredded": ("refacex_custodian",),
}


def upgrade() -> None:
    """Adds what is new; what was released before stays recoverable, what was asked before has to be asked again."""
    run_sql("0002_governance.sql")
    rows = [{"event": event, "role": role} for event, roles in GRANTS.items() for role in roles]
    op.get_bind().execute(text("INSERT INTO audit.grants (event, role) VALUES (:event, :role)"), rows)


def downgrade() -> None:
    """Signatures and orders that exist cannot be taken back."""
    raise NotImplementedError("restore a backup from before the upgrade instead")
