"""The notary as the process that it is: it anchors in time, once more at its end, and never over a fork."""

# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from schemas.audit import AuditEvent
from schemas.audit_tables import Event, TreeHead
from tests.conftest import Buckets, Database
from tests.governance import sessions
from workers.audit import append
from workers.audit.forks import accept_fork
from workers.audit.notary import NotaryOptions, keeper_from
from workers.custody import keys
from workers.errors import SettingsInvalid

Start = Callable[..., "subprocess.Popen[bytes]"]


def notary_environment(database: Database, buckets: Buckets, folder: Path) -> dict[str, str]:
    return buckets.environment("notary") | {
        "REFACEX_DATABASE_URL": database.url_for("notary"),
        "REFACEX_AUDIT_SIGNING_KEY": str(folder / "key.json"),
        "REFACEX_ANCHOR_SECONDS": "0.5",
        "REFACEX_ANCHOR_DAYS": "1",
    }


@pytest.fixture
def start(database: Database, buckets: Buckets, tmp_path: Path) -> Iterator[Start]:
    if not (tmp_path / "key.json").exists():
        keys.create_signing_key(tmp_path / "key.json")
    running: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, url: str | None = None) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REFACEX_")}
        environment |= notary_environment(database, buckets, tmp_path)
        environment |= {"REFACEX_DATABASE_URL": url} if url else {}
        command = [sys.executable, "-m", "workers.audit.notary", *arguments]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def write(database: Database) -> None:
    with sessions(database.url_for("gateway")).begin() as session:
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="alice")


def anchored_to(database: Database) -> int:
    with sessions(database.url_for("gateway"))() as session:
        return session.execute(select(func.coalesce(func.max(TreeHead.size), 0))).scalar_one()


def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not check():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_it_anchors_in_time_at_its_end_and_never_over_a_fork(
    database: Database, buckets: Buckets, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(database)
    process = start()
    until(lambda: anchored_to(database) == 1)
    write(database)
    until(lambda: anchored_to(database) == 3)
    write(database)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 0
    assert anchored_to(database) == 5
    assert start("--once").wait(timeout=120) == 0
    assert anchored_to(database) == 5, "its own events are no news"
    # Somebody takes the database back to an older state.
    with sessions(database.owner_url).begin() as session:
        for table in ("events", "nodes", "tree_heads"):
            session.connection().exec_driver_sql(f"ALTER TABLE audit.{table} DISABLE TRIGGER append_only")
            session.connection().exec_driver_sql(f"DELETE FROM audit.{table}")
        session.connection().exec_driver_sql("UPDATE audit.tail SET size = 0")
    write(database)
    process = start()
    assert process.wait(timeout=120) == 1
    assert b"audit fork" in (process.stdout.read() if process.stdout else b"")
    once = start("--once")
    assert once.wait(timeout=120) == 1
    with sessions(database.owner_url)() as session:
        assert session.execute(select(func.count()).select_from(Event)).scalar_one() == 1
    # The administrator says that this is meant, and the process goes on.
    with monkeypatch.context() as patch:
        for name, value in notary_environment(database, buckets, tmp_path).items():
            patch.setenv(name, value)
        anchors, signer = keeper_from(NotaryOptions.load())
    with sessions(database.url_for("notary")).begin() as session:
        fork = accept_fork(session, anchors, signer, by="root", reason="rehearsal", keep=timedelta(days=1))
    assert (fork.common_size, len(fork.lost)) == (0, 3)
    assert start("--once").wait(timeout=120) == 0
    assert anchored_to(database) == 2


def test_a_head_is_never_more_than_a_minute_away(
    database: Database, buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in notary_environment(database, buckets, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("REFACEX_ANCHOR_SECONDS")
    assert NotaryOptions.load().anchor_seconds == 30
    monkeypatch.setenv("REFACEX_ANCHOR_SECONDS", "60.1")
    with pytest.raises(SettingsInvalid):
        NotaryOptions.load()


def test_it_waits_for_a_database_that_is_away(database: Database, start: Start) -> None:
    process = start(url="postgresql+psycopg://refacex_notary:x@127.0.0.1:9/refacex")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    assert any(b"could not anchor" in line for line in lines)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 1
