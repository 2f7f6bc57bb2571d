"""Alembic's entry: migrates the database whose connection or URL it is given, one migrator at a time."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection, create_engine, text

import schemas.audit_tables
import schemas.tables  # noqa: F401  (fills the metadata)
from schemas.base import Base

# Two set-ups may start together: the second waits for the first instead of failing half way.
MIGRATION_LOCK = 7_433_115_200_001


def run(connection: Connection) -> None:
    """Upgrades or downgrades through `connection`."""
    context.configure(connection=connection, target_metadata=Base.metadata, include_schemas=True, compare_type=True)
    with context.begin_transaction():
        connection.execute(text("SET LOCAL lock_timeout = '30s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = context.config.get_main_option("sqlalchemy.url") or os.environ["REFACEX_DATABASE_URL"]
    with create_engine(url).connect() as opened:
        run(opened)
        opened.commit()
