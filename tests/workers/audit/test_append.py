"""What the database stamps and nobody else: an event's time, number and role. And that the tail's lock is taken last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from tests.conftest import Buckets, Database
from tests.governance import World, sessions
from tests.workers.audit.harness import fetched
from tests.workers.audit.lives import whole_life
from workers.audit import append
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.notary import Notary
from workers.audit.verify import verify

# A process whose clock is years ahead, whatever it asks for the time.
AHEAD = """
import datetime, sys, time
real, shift = datetime.datetime, datetime.timedelta(days=1000)
class Later(real):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + shift
    @classmethod
    def utcnow(cls):
        return real.now(datetime.UTC).replace(tzinfo=None) + shift
datetime.datetime, said = Later, time.time
time.time = lambda: said() + shift.total_seconds()
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from schemas.audit import AuditEvent
from workers.audit import append
with Session(create_engine(sys.argv[1])) as session, session.begin():
    append(session, AuditEvent.RELEASE_SUBMITTED, actor="alice")
"""


def newest(database: Database) -> tuple[Event, dict[str, Any]]:
    with sessions(database.url_for("gateway"))() as session:
        row = session.execute(select(Event).order_by(Event.seq.desc()).limit(1)).scalar_one()
    return row, json.loads(row.canonical)


def clock(database: Database) -> datetime:
    with sessions(database.url_for("gateway"))() as session:
        moment: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return moment


def submitted(session: Session) -> None:
    append(session, AuditEvent.RELEASE_SUBMITTED, actor="alice")


def test_an_events_time_is_the_databases_whatever_the_clients_clock_says(fresh: Database) -> None:
    before = clock(fresh)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", AHEAD, fresh.url_for("gateway")], env=environment, check=True, timeout=60)
    row, said = newest(fresh)
    assert before < row.at < clock(fresh)
    assert datetime.fromisoformat(said["at"]) == row.at


def test_what_a_client_says_of_time_number_and_role_is_only_a_field(fresh: Database) -> None:
    before = clock(fresh)
    fields = {"actor": "alice", "at": "2001-01-01T00:00:00.000000Z", "seq": 7, "role": "refacex_custodian", "v": 2}
    with sessions(fresh.url_for("gateway")).begin() as session:
        statement = text("SELECT audit.append('release:submitted', CAST(:f AS jsonb))")
        session.execute(statement, {"f": json.dumps(fields)})
    row, said = newest(fresh)
    assert (said["seq"], said["role"], said["v"]) == (row.seq, row.role, 1) == (0, "refacex_gateway", 1)
    assert before < datetime.fromisoformat(said["at"]) == row.at < clock(fresh)
    assert said["fields"] == fields


def test_an_events_time_is_that_of_its_append_and_not_of_its_transaction(fresh: Database) -> None:
    """So times go up as numbers do, however long a transaction was about its other work."""
    factory = sessions(fresh.url_for("gateway"))
    with factory.begin() as slow:
        began: datetime = slow.execute(text("SELECT now()")).scalar_one()
        time.sleep(0.2)
        with factory.begin() as quick:
            submitted(quick)
        submitted(slow)
    with factory() as session:
        first, second = session.execute(select(Event.at).order_by(Event.seq)).scalars()
    assert began + timedelta(seconds=0.2) <= first < second


def test_a_clients_time_zone_changes_nothing(fresh: Database, anchors: Anchors, signer: HeadSigner) -> None:
    with sessions(fresh.url_for("gateway")).begin() as session:
        session.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
        session.execute(text("SET LOCAL DateStyle = 'SQL, DMY'"))
        submitted(session)
    row, said = newest(fresh)
    assert said["at"] == row.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    with sessions(fresh.url_for("gateway"))() as session:
        assert verify(session, anchors, signer.verifier).findings == []


def test_a_writer_at_its_other_work_holds_nobody_up(fresh: Database) -> None:
    """And one that has appended does, until its end: so it appends last."""
    factory = sessions(fresh.url_for("gateway"))

    def another() -> None:
        with factory.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = 300"))
            submitted(session)

    with factory.begin() as slow:
        slow.execute(text("SELECT count(*) FROM releases"))
        another()
        submitted(slow)
        with pytest.raises(DBAPIError, match="lock timeout"):
            another()
    another()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("'ticket:spent', '{\"actor\": \"x\"}'", "may not write"),
        ("'release:submitted', '[]'", "must be a JSON object"),
        ("'release:submitted', '{}'", "needs an actor"),
        ('\'release:submitted\', \'{"actor": "x", "n": 1.5}\'', "must be integers"),
    ],
)
def test_what_is_refused_is_refused_before_the_lock(fresh: Database, asked: str, words: str) -> None:
    with psycopg.connect(fresh.owner_url.replace("+psycopg", "")) as holder:
        holder.execute("SELECT * FROM audit.tail FOR UPDATE")
        with sessions(fresh.url_for("gateway"))() as session, pytest.raises(DBAPIError, match=words):
            session.execute(text("SET LOCAL lock_timeout = 300"))
            session.connection().exec_driver_sql(f"SELECT audit.append({asked})")
        holder.rollback()


@contextmanager
def statements_after_append() -> Iterator[list[str]]:
    """Whatever any transaction still says to the database once it has appended, save another event."""
    found: list[str] = []
    appended: dict[Any, str] = {}

    def seen(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "audit.append(" in statement:
            appended[connection.get_transaction()] = str(parameters)[:60]
        elif connection.get_transaction() in appended:
            found.append(f"{appended[connection.get_transaction()]}: {statement[:100]}")

    event.listen(Engine, "before_cursor_execute", seen)
    try:
        yield found
        assert len(appended) > 20
    finally:
        event.remove(Engine, "before_cursor_execute", seen)


def test_the_service_appends_last(world: World, buckets: Buckets, anchors: Anchors, signer: HeadSigner) -> None:
    """From the tail's lock to the commit everybody else waits: nothing but further events comes between."""
    with statements_after_append() as found:
        fetched(world)
        whole_life(world, buckets)
        Notary(world.as_("notary"), anchors, signer, timedelta(days=1)).anchor()
    assert found == []
