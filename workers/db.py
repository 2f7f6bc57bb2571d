"""Sessions and migrations.

The isolation is READ COMMITTED, PostgreSQL's default: the audit trail's `UPDATE ... RETURNING` and the claims with
`FOR UPDATE SKIP LOCKED` count on seeing the newest row after waiting for a lock.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from workers.strangers import column_json

STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 15_000
IDLE_TIMEOUT_MS = 600_000


def make_engine(url: str) -> Engine:
    """An engine for one process. `url` is `postgresql+psycopg://role:password@host:port/database`.

    Connections are tested before use, so that a database that went away and came back costs one retry and no restart.
    """
    limits = {
        "statement_timeout": STATEMENT_TIMEOUT_MS,
        "lock_timeout": LOCK_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT_MS,
    }
    # The database's owner may set a search_path for everybody, with functions of their own before PostgreSQL's.
    names = {"search_path": "pg_catalog,public,pg_temp"}
    options = " ".join(f"-c {name}={value}" for name, value in {**limits, **names}.items())
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=4,
        max_overflow=4,
        isolation_level="READ COMMITTED",
        json_deserializer=column_json,  # a stolen role writes what it likes
        connect_args={"options": options, "connect_timeout": 10, "application_name": "refacex"},
    )


def session_factory(url: str) -> sessionmaker[Session]:
    """Sessions on `url`: `with factory() as session, session.begin(): ...` is one transaction."""
    return sessionmaker(make_engine(url), expire_on_commit=False)


def migrate(url: str, revision: str = "head") -> None:
    """Brings the database up to `revision`; `url` must be the owner's. Does nothing where it is there already."""
    # Only set-up migrates: the services do without alembic.
    from alembic import command
    from alembic.config import Config

    import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()
    finally:
        engine.dispose()


def ready(url: str) -> bool:
    """Whether the database answers and has been migrated."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            return bool(connection.execute(text("SELECT to_regclass('audit.events') IS NOT NULL")).scalar_one())
    finally:
        engine.dispose()
