"""The release side of the service as processes to kill, and the check that nothing was lost or done twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from schemas.states import AttemptState, ItemState, KeyState, ReleaseState
from schemas.tables import Attempt, Item, Release
from workers.custody import keys as custody_keys
from workers.db import session_factory
from workers.releases import reporting, service, sources
from workers.releases.service import ReleaseOptions
from workers.settings import GatewaySettings, RelaySettings, ReleaseSettings
from workers.storage import Storage

ROOT = Path(__file__).parents[3]
QUICK = {
    "CLAIM_SECONDS": "3",
    "PATIENCE_SECONDS": "15",
    "RECONCILE_SECONDS": "0.5",
    "STALLED_SECONDS": "2",
    "SWEEP_SECONDS": "1",
    "ORPHAN_SECONDS": "1",
    "RELAY_POLL_SECONDS": "0.1",
    "CHUNK": "4",
    "SHARD_BYTES": "120000",
    "ALLOW_FAULTS": "1",
}


class Service:
    """A database, buckets and brokers of the test's own, and the processes that work on them."""

    def __init__(self, folder: Path, database: Any, buckets: Any, brokers: Any, *, stand_in: bool = True) -> None:
        self.folder = folder
        self.photographs = folder / "photographs"
        self.photographs.mkdir(parents=True, exist_ok=True)
        public = custody_keys.create_custody_keyring(folder / "custody.keyring.json")
        custody_keys.write_public(folder / "custody.public.json", public)
        self._database, self._buckets, self._brokers = database, buckets, brokers
        self._stand_in = stand_in
        self._processes: list[subprocess.Popen[bytes]] = []
        self.sessions: sessionmaker[Session] = session_factory(database.owner_url)
        self.gateway: sessionmaker[Session] = session_factory(database.url_for("gateway"))
        self.worker: sessionmaker[Session] = session_factory(database.url_for("release"))
        self.custodian: sessionmaker[Session] = session_factory(database.url_for("custodian"))

    # --- processes

    def environment(self, process: str, **more: str) -> dict[str, str]:
        """The REFACEX_* variables of `release`, `relay` or `gateway`."""
        values = {
            "DATABASE_URL": self._database.url_for(process),
            "BROKER_URL": self._brokers.release,
            "PRIVILEGED_BROKER_URL": self._brokers.privileged,
            "CUSTODY_PUBLIC_KEY": str(self.folder / "custody.public.json"),
            "SOURCE_ROOTS": json.dumps([str(self.photographs)]),
            **QUICK,
        }
        if process == "release" and self._stand_in:
            values["CORE_FACTORY"] = "tests.workers.releases.standin:load"
        named = {f"REFACEX_{name}": value for name, value in (values | more).items()}
        return named | self._buckets.environment(process)

    def start_worker(self, **more: str) -> subprocess.Popen[bytes]:
        """A release worker, in a process group of its own."""
        options = ["-c", "1", "-Q", "release,exports", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [sys.executable, "-m", "celery", "-A", "workers.releases.app:app", "worker", *options, "-l", "INFO"]
        return self._start("release", command, more)

    def start_relay(self, **more: str) -> subprocess.Popen[bytes]:
        """The relay and reconciler, in a process group of its own."""
        return self._start("relay", [sys.executable, "-m", "workers.outbox"], more)

    def _start(self, process: str, command: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment(process, **more)}
        with (self.folder / f"{process}.log").open("ab") as log:
            started = subprocess.Popen(
                command, cwd=ROOT, env=environment, stderr=log, stdout=log, start_new_session=True
            )
        self._processes.append(started)
        return started

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """`kill -9` a process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)

    def stop(self) -> None:
        for process in self._processes:
            self.kill(process)
        for sessions in (self.sessions, self.gateway, self.worker, self.custodian):
            sessions.kw["bind"].dispose()

    def log(self, process: str) -> str:
        path = self.folder / f"{process}.log"
        return path.read_text() if path.exists() else ""

    # --- work

    def settings(self, kind: type[Any], process: str) -> Any:
        """The settings that a process would read."""
        values = {name.removeprefix("REFACEX_").lower(): value for name, value in self.environment(process).items()}
        for name in ("source_roots",):
            values[name] = json.loads(values[name])
        return kind(**{name: value for name, value in values.items() if name in kind.model_fields})

    @property
    def release_settings(self) -> ReleaseSettings:
        return self.settings(ReleaseSettings, "release")

    @property
    def relay_settings(self) -> RelaySettings:
        return self.settings(RelaySettings, "relay")

    @property
    def gateway_settings(self) -> GatewaySettings:
        return self.settings(GatewaySettings, "gateway")

    @cached_property
    def storage(self) -> Storage:
        """The store with the release worker's identity."""
        return Storage(self.release_settings)

    def submit(
        self,
        files: dict[str, bytes],
        *,
        options: ReleaseOptions | None = None,
        chunk: int = 4,
        subject: str | None = None,
    ) -> UUID:
        """Write the files and submit them by their folder, all of one subject if any."""
        folder = self.photographs / os.urandom(4).hex()
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        found = [replace(source, subject=subject) for source in sources.collect([str(folder)], [self.photographs])]
        with self.gateway.begin() as session:
            return service.submit(
                session, tenant="t", actor="tester", name="r", sources=found, options=options, chunk=chunk
            )

    def await_finished(self, release_id: UUID, timeout: float = 60.0) -> service.Progress:
        """The release's progress once it is finished; fails with the logs if it does not."""

        def finished() -> service.Progress | None:
            with self.gateway() as session:
                now = service.progress(session, release_id)
            return now if now.state is ReleaseState.FINISHED else None

        return self.eventually(finished, timeout)

    def eventually(self, look: Callable[[], Any], timeout: float = 30.0) -> Any:
        """What `look` gives, once it gives something; fails with the logs' ends if it never does."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            time.sleep(0.1)
        ends = "\n".join(f"--- {name}\n{self.log(name)[-6000:]}" for name in ("release", "relay"))
        raise AssertionError(f"did not happen within {timeout} s\n{ends}")

    # --- the check

    def check(self, release_id: UUID, *, cancelled: bool = False) -> dict[ItemState, int]:
        """Every item ended exactly once; no object without its row, no row without its object; the trail is dense; the
        risk report lies beside the files.
        """
        self.eventually(lambda: self._reported(release_id), 30)
        self.eventually(lambda: self._objects(release_id) == self._released(release_id), 15)
        self.eventually(lambda: not self._unswept(release_id), 15)
        counts: dict[ItemState, int] = {}
        with self.sessions() as session:
            events = self._events(session)
            for item in session.scalars(select(Item).where(Item.release_id == release_id)):
                counts[item.state] = counts.get(item.state, 0) + 1
                told = [name for name, fields in events if fields.get("item") == str(item.id)]
                attempts = session.scalars(select(Attempt).where(Attempt.item_id == item.id)).all()
                published = [each for each in attempts if each.state is AttemptState.PUBLISHED]
                assert not [each for each in attempts if each.state is AttemptState.COMMITTED]
                self._check_keys(session, attempts)
                if item.state is ItemState.DONE:
                    assert [each.object_key for each in published] == [item.object_key]
                    data = self.storage.get(self.release_settings.bucket_releases, item.object_key)
                    assert hashlib.sha256(data).hexdigest() == item.sha256 == published[0].sha256
                else:
                    assert item.state in (ItemState.HELD, ItemState.FAILED, ItemState.QUARANTINED)
                    assert not published
                ends = [name for name in told if name.split(":")[1] in ("released", "held", "failed", "quarantined")]
                assert len(ends) == 1, told
            told = [name for name, fields in events if fields.get("release") == str(release_id)]
            end = "release:cancelled" if cancelled else "release:finished"
            ends = [name for name in told if name in ("release:cancelled", "release:finished")]
            assert ends == [end] and told.count("release:submitted") == told.count("release:reported") == 1
            state = session.get_one(Release, release_id).state
            assert state is (ReleaseState.CANCELLED if cancelled else ReleaseState.FINISHED)
            sha256 = next(
                fields["detail"]["sha256"]
                for name, fields in events
                if name == "release:reported" and fields["release"] == str(release_id)
            )
        reporting.read(self.storage, self.release_settings.bucket_releases, release_id, sha256)
        return counts

    def _reported(self, release_id: UUID) -> bool:
        with self.sessions() as session:
            return session.get_one(Release, release_id).report_sha256 is not None

    def _check_keys(self, session: Session, attempts: Any) -> None:
        query = text("SELECT state, count(*) FROM sealed_keys WHERE attempt_id = :id GROUP BY state")
        for attempt in attempts:
            states = dict(session.execute(query, {"id": attempt.id}).all())
            wanted = KeyState.LIVE if attempt.state is AttemptState.PUBLISHED else KeyState.SUPERSEDED
            assert set(states) == {wanted.value} and states[wanted.value] >= 2, (attempt.state, states)

    def _events(self, session: Session) -> list[tuple[str, dict[str, Any]]]:
        rows = session.execute(text("SELECT seq, event, canonical, leaf FROM audit.events ORDER BY seq")).all()
        assert [row.seq for row in rows] == list(range(len(rows)))
        assert all(hashlib.sha256(b"\0" + row.canonical).digest() == row.leaf for row in rows)
        return [(row.event, json.loads(row.canonical)["fields"]) for row in rows]

    def _objects(self, release_id: UUID) -> set[str]:
        listed = {each.key for each in self.storage.list(self.release_settings.bucket_releases, f"{release_id}/")}
        return listed - {reporting.object_key(release_id, name) for name in (reporting.JSON, reporting.PAGE)}

    def _unswept(self, release_id: UUID) -> bool:
        """Whether an abandoned attempt still has live keys, which the reconciler has not come to yet."""
        query = text(
            "SELECT 1 FROM sealed_keys k JOIN attempts a ON a.id = k.attempt_id JOIN items i ON i.id = a.item_id"
            " WHERE i.release_id = :id AND a.state = 'abandoned' AND k.state = 'live' LIMIT 1"
        )
        with self.sessions() as session:
            return session.execute(query, {"id": release_id}).first() is not None

    def _released(self, release_id: UUID) -> set[str]:
        with self.sessions() as session:
            query = select(Item.object_key).where(Item.release_id == release_id, Item.state == ItemState.DONE)
            return {key for key in session.scalars(query) if key}
