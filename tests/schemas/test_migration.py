"""The migration against the models, and the words of the states against the CHECK constraints."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, text

import migrations
import schemas.audit_tables
import schemas.tables  # noqa: F401  (fills the metadata)
from schemas import states
from schemas.audit import EVENT_ROLES, SERVICE_ROLES
from schemas.base import Base
from schemas.messages import BROKER_OF, QUEUE_OF, Broker, Queue, TaskName, outbox_row, task_args
from tests.conftest import Database
from tests.governance import sessions
from workers.db import migrate, ready


def test_models_and_migration_agree(database: Database) -> None:
    with create_engine(database.owner_url, poolclass=NullPool).connect() as connection:
        options = {"include_schemas": True, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrate(database.owner_url)
    assert ready(database.url_for("relay")) is True
    with sessions(database.owner_url)() as session:
        # one head: no two lines of history
        (newest,) = ScriptDirectory(str(Path(migrations.__file__).parent)).get_heads()
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == newest


def test_grants_of_the_trail_are_those_of_the_code(database: Database) -> None:
    with sessions(database.url_for("gateway"))() as session:
        rows = {(row.event, row.role) for row in session.execute(text("SELECT event, role FROM audit.grants"))}
    assert rows == {(event.value, role.value) for event, roles in EVENT_ROLES.items() for role in roles}


WORDS: list[tuple[str, str, type[StrEnum]]] = [
    ("releases", "state", states.ReleaseState),
    ("items", "state", states.ItemState),
    ("attempts", "state", states.AttemptState),
    ("sealed_keys", "kind", states.KeyKind),
    ("sealed_keys", "state", states.KeyState),
    ("recovery_requests", "state", states.RequestState),
    ("approvals", "decision", states.Decision),
    ("recoveries", "state", states.RecoveryState),
    ("exports", "state", states.ExportState),
    ("custody_orders", "kind", states.OrderKind),
    ("custody_orders", "scope", states.OrderScope),
    ("custody_orders", "state", states.OrderState),
]


@pytest.mark.parametrize(("table", "column", "enum"), WORDS)
def test_the_database_knows_the_same_words(database: Database, table: str, column: str, enum: type[StrEnum]) -> None:
    query = text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name")
    with sessions(database.owner_url)() as session:
        definition = session.execute(query, {"name": f"{table}_{column}_check"}).scalar_one()
    assert set(re.findall(r"'(\w+)'", definition)) == {word.value for word in enum}


@pytest.mark.parametrize("task", TaskName)
def test_the_database_knows_the_same_messages(database: Database, task: TaskName) -> None:
    one, two = "a0000000-0000-4000-8000-000000000001", "b0000000-0000-4000-8000-000000000002"
    message = outbox_row(task, [UUID(one)])
    several = [[one, two]] if task is TaskName.ANONYMISE else [one, two]
    others = [[], [{}], [one, 1], [[]], [[one, 1]], [[[one]]], ["x"], [one.upper()], [None], [f"{one}\n"]]
    others += [[one] if task is TaskName.ANONYMISE else [[one]]]
    query = text("SELECT is_message(:broker, :queue, :task, CAST(:args AS jsonb))")
    with sessions(database.owner_url)() as session:

        def known(**more: object) -> bool:
            said = message | more
            return session.execute(query, said | {"args": json.dumps(said["args"])}).scalar_one()

        assert known()
        assert known(args=several) is (task is TaskName.ANONYMISE)
        assert not [args for args in others if known(args=args)]
        wrong = [{"queue": queue.value} for queue in Queue if queue is not QUEUE_OF[task]]
        wrong += [{"broker": broker.value} for broker in Broker if broker is not BROKER_OF[QUEUE_OF[task]]]
        wrong += [{"queue": "nowhere"}, {"task": ""}, {"task": "x"}]
        assert not [each for each in wrong if known(**each)]


def test_no_service_writes_a_time_that_nobody_can_read(database: Database) -> None:
    """Every column of a time that a service's role may write has a check of its own."""
    query = text(
        "SELECT c.oid::regclass || '.' || a.attname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
        "JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'audit') AND c.relkind = 'r' "
        "AND a.atttypid = 'timestamptz'::regtype AND EXISTS (SELECT FROM unnest(CAST(:roles AS text[])) AS role "
        "WHERE has_column_privilege(role, c.oid, a.attnum, 'INSERT, UPDATE')) AND NOT EXISTS (SELECT FROM pg_constraint AS k "
        "WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.convalidated "
        "AND strpos(pg_get_constraintdef(k.oid), 'readable_time(' || quote_ident(a.attname) || ')') > 0)"
    )
    with sessions(database.owner_url)() as session:
        assert session.execute(query, {"roles": [role.value for role in SERVICE_ROLES]}).scalars().all() == []
        for moment, fits in (("2000-01-01", True), ("20000-01-01", False), ("-infinity", False), (None, True)):
            says = text("SELECT readable_time(CAST(:moment AS timestamptz))")
            assert session.execute(says, {"moment": moment}).scalar_one() is fits


def test_every_function_pins_its_search_path(database: Database) -> None:
    """A SECURITY DEFINER function that looks names up in the caller's path would run the caller's code."""
    query = text(
        "SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('public', 'audit') "
        "AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)"
    )
    with sessions(database.owner_url)() as session:
        assert session.execute(query).scalars().all() == []


def test_no_service_role_has_more_than_its_grants(database: Database) -> None:
    query = text(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY(:roles) AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR "
        "has_schema_privilege(rolname, 'public', 'CREATE') OR has_schema_privilege(rolname, 'audit', 'CREATE') OR EXISTS "
        "(SELECT FROM pg_auth_members WHERE member = pg_roles.oid))"
    )
    with sessions(database.owner_url)() as session:
        assert session.execute(query, {"roles": [role.value for role in SERVICE_ROLES]}).scalars().all() == []


def test_messages() -> None:
    one, two = UUID(int=1), UUID(int=2)
    assert task_args(TaskName.ANONYMISE, [one, two]) == [[str(one), str(two)]]
    assert task_args(TaskName.OPEN, [one]) == [str(one)]
    for task, ids in ((TaskName.OPEN, [one, two]), (TaskName.ANONYMISE, [])):
        with pytest.raises(ValueError, match="id"):
            task_args(task, ids)
    assert QUEUE_OF.keys() == set(TaskName)
    assert BROKER_OF.keys() == set(Queue)


def test_the_migrations_folder_travels_with_the_package() -> None:
    import migrations

    folder = Path(migrations.__file__).parent
    assert {path.name for path in (folder / "sql").glob("0001_*.sql")} == {
        "0001_tables.sql",
        "0001_audit.sql",
        "0001_guards.sql",
        "0001_roles.sql",
    }
