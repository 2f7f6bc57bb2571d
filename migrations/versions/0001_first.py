"""Tables, audit trail, guards, roles"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from migrations import run_sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Frozen here: a later change of `schemas.audit.EVENT_ROLES` needs a migration of its own.
GRANTS: dict[str, tuple[str, ...]] = {
    "release:submitted": ("refacex_gateway",),
    "release:finished": (
        "refacex_release",
        "refacex_relay",
    ),
    "release:cancelled": ("refacex_gateway",),
    "item:claimed": ("refacex_release",),
    "item:committed": ("refacex_release",),
    "item:released": ("refacex_release",),
    "item:held": ("refacex_release",),
    "item:failed": (
        "refacex_release",
        "refacex_relay",
    ),
    "item:quarantined": (
        "refacex_release",
        "refacex_relay",
    ),
    "request:opened": ("refacex_gateway",),
    "request:approved": ("refacex_gateway",),
    "request:denied": ("refacex_gateway",),
    "request:withdrawn": ("refacex_gateway",),
    "request:expired": (
        "refacex_gateway",
        "refacex_relay",
        "refacex_custodian",
    ),
    "ticket:issued": ("refacex_custodian",),
    "ticket:spent": ("refacex_custodian",),
    "ticket:refused": ("refacex_custodian",),
    "recovery:recovered": ("refacex_recovery",),
    "recovery:fetched": ("refacex_gateway",),
    "recovery:failed": ("refacex_recovery",),
    "recovery:expired": (
        "refacex_gateway",
        "refacex_relay",
        "refacex_recovery",
    ),
    "export:started": (
        "refacex_release",
        "refacex_gateway",
    ),
    "export:finished": (
        "refacex_release",
        "refacex_gateway",
    ),
    "export:failed": (
        "refacex_release",
        "refacex_gateway",
    ),
    "person:added": (
        "@owner",
        "refacex_gateway",
    ),
    "head:anchored": ("refacex_notary",),
    "key:created": (
        "@owner",
        "refacex_custodian",
    ),
    "reconciler:swept": ("refacex_relay",),
}


def upgrade() -> None:
    """Creates everything."""
    for part in ("tables", "audit", "guards", "roles"):
        run_sql(f"0001_{part}.sql")
    rows = [{"event": event, "role": role} for event, roles in GRANTS.items() for role in roles]
    op.get_bind().execute(text("INSERT INTO audit.grants (event, role) VALUES (:event, :role)"), rows)


def downgrade() -> None:
    """There is nothing before the first revision; dropping an audit trail is not a migration."""
    raise NotImplementedError("the first revision cannot be taken back: drop the database instead")
