"""Alembic migrations. Each runs plain SQL files from `sql/`, so that what the database enforces can be read as it
is.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

SQL = Path(__file__).with_name("sql")


def run_sql(name: str) -> None:
    """Runs the statements of `sql/<name>` in the migration's transaction."""
    # Through the driver itself: without parameters psycopg takes many statements at once and reads no placeholder in
    # them.
    connection = op.get_bind().connection.driver_connection
    if connection is None:
        raise RuntimeError("migrations need an open connection; offline SQL is not supported")
    connection.execute((SQL / name).read_text("utf-8"))
