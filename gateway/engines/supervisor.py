"""Starts, stops and watches the embedded engines of one home folder."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.engines.base import Engine
from gateway.engines.errors import (
    EngineError,
    EngineExternal,
    EngineFailed,
    EngineUnknown,
    EngineUnsupported,
    HomeUnusable,
)
from gateway.engines.external import External
from gateway.engines.postgres import Postgres
from gateway.engines.process import Child
from gateway.engines.seaweed import ADMIN, S3Identity, Seaweed
from gateway.engines.state import HomeLock, Recorded, State
from gateway.engines.valkey import Valkey

NAMES = ("release_broker", "privileged_broker", "postgres", "s3")
#: Who may reach which queues of the privileged broker: each of the two workers its own, the relay both to write to.
PRIVILEGED_USERS = {"custodian": ("custody",), "recovery": ("recovery",), "relay": ("custody", "recovery")}


@dataclass(frozen=True)
class EngineUrls:
    """Where the engines are. The URLs hold passwords, so they are kept out of the repr."""

    release_broker: str = field(repr=False)
    privileged_broker: str = field(repr=False)
    postgres_admin: str = field(repr=False)
    s3_endpoint: str
    s3_admin_access: str
    s3_admin_secret: str = field(repr=False)
    privileged_users: Mapping[str, str] = field(repr=False, default_factory=dict)

    def privileged_for(self, process: str) -> str:
        """The privileged broker as a process may use it: with its own user where the broker is ours."""
        return self.privileged_users.get(process, self.privileged_broker)


class Engines:
    """Two Valkeys, PostgreSQL and SeaweedFS below `home`/engines, or servers of your own for any of them.

    With `die_with_parent` (the default) they end when the thread that started them ends, however it ends; without, they go
    on, and the next supervisor of the same home takes them over. `only` starts some of them and leaves the others alone.
    `bucket_families`: rights cover every bucket whose name begins with ours (for tests that make fresh buckets).

    >>> with Engines(Path("/tmp/home")) as engines:  # doctest: +SKIP
    ...     engines.urls.postgres_admin
    """

    def __init__(
        self,
        home: Path | str,
        *,
        die_with_parent: bool = True,
        only: Iterable[str] = NAMES,
        external: External | None = None,
        bucket_families: bool = False,
    ) -> None:
        self.home = Path(home).absolute()
        self.folder = self.home / "engines"
        self.die_with_parent = die_with_parent
        self.external = External.from_environment(os.environ) if external is None else external
        self._only = tuple(only)
        self._bucket_families = bucket_families
        self._lock = HomeLock(self.folder / "lock")
        self._state = State(self.folder / "state.json")
        self._engines: dict[str, Engine] = {}
        self._urls: EngineUrls | None = None

    # --- the whole

    def start(self) -> EngineUrls:
        """Bring every engine up and answer when all can be used; at once if they already run.

        Raises HomeInUse, HomeUnusable, EngineMissing, EngineUnsupported or EngineFailed; nothing is left running then.
        """
        if self._urls is not None:
            return self._urls
        if not sys.platform.startswith("linux") and set(self._only) - set(self.external.urls):
            raise EngineUnsupported(sys.platform)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
            self._lock.acquire()
        except OSError as error:
            raise HomeUnusable(error.strerror or "") from error
        try:
            self._state = State.load(self._state.path)
            self._engines = self._make()
            self._bring_up()
            self.external.await_ready(self._only)
        except BaseException:
            self.stop()
            raise
        self._urls = self._collect_urls()
        return self._urls

    def stop(self) -> None:
        """End every engine that runs here; safe to repeat."""
        for engine in self._engines.values():  # all are asked first, so that they end side by side
            if engine.child is not None:
                engine.child.send(engine.stop_signal)
        for name, engine in self._engines.items():
            engine.stop()
            self._forget(name)
        self._engines = {}
        self._urls = None
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def urls(self) -> EngineUrls:
        if self._urls is None:
            raise EngineFailed("not started")
        return self._urls

    @property
    def s3_identities(self) -> dict[str, S3Identity]:
        """Credentials by process name (see `seaweed.RIGHTS`). With a store of your own: see `external`."""
        engine = self._engines.get("s3")
        if isinstance(engine, Seaweed):
            return engine.identities()
        if not self.external.s3_identities:
            raise EngineFailed("storage was not started")
        return dict(self.external.s3_identities)

    # --- one engine

    def kill(self, name: str) -> None:
        """`kill -9` that engine and leave it dead: for fault tests. Raises EngineUnknown, EngineExternal."""
        engine = self._engine(name)
        if engine.child is not None:
            engine.child.kill()

    def restart(self, name: str) -> None:
        """Start that engine again on its old ports, after stopping it if it still runs."""
        engine = self._engine(name)
        engine.stop()
        self._launch(engine)
        engine.await_ready()

    def alive(self, name: str) -> bool:
        """Whether its process runs (True for a server of your own: not ours to know)."""
        if name in self.external.urls:
            return True
        engine = self._engine(name)
        return engine.child is not None and engine.child.alive

    def log_path(self, name: str) -> Path:
        return self._engine(name).log_path

    def pid(self, name: str) -> int | None:
        child = self._engine(name).child
        return child.identity.pid if child is not None and child.alive else None

    @property
    def running(self) -> tuple[str, ...]:
        """The names of the engines under our care, dead or alive."""
        return tuple(self._engines)

    # --- inside

    def _engine(self, name: str) -> Engine:
        if name in self.external.urls:
            raise EngineExternal(name)
        if name not in self._engines:
            raise EngineUnknown(f"{name}: one of {', '.join(NAMES)}")
        return self._engines[name]

    def _make(self) -> dict[str, Engine]:
        kinds: dict[str, type[Engine]] = {
            "release_broker": Valkey,
            "privileged_broker": Valkey,
            "postgres": Postgres,
            "s3": Seaweed,
        }
        names = [name for name in NAMES if name in self._only and name not in self.external.urls]
        engines = {name: kinds[name](name, self.folder, self._state) for name in names}
        if isinstance(storage := engines.get("s3"), Seaweed):
            storage.bucket_families = self._bucket_families
        if isinstance(broker := engines.get("privileged_broker"), Valkey):
            broker.users = PRIVILEGED_USERS
        return engines

    def _bring_up(self) -> None:
        """Take over or clear away what an earlier supervisor left, then start the rest side by side."""
        waiting = [engine for name, engine in self._engines.items() if not self._take_over(name, engine)]
        for engine in waiting:
            self._state.assign_ports(engine.ports, engine.port_is_usable)
        self._state.save()
        for engine in waiting:
            self._launch(engine)
        for engine in waiting:
            engine.await_ready()
        self._state.save()

    def _launch(self, engine: Engine) -> None:
        child = engine.launch(signal.SIGTERM if self.die_with_parent else None)
        self._state.processes[engine.name] = Recorded(child.identity, detached=not self.die_with_parent)
        self._state.save()

    def _take_over(self, name: str, engine: Engine) -> bool:
        """True if an engine that was told to outlive its supervisor still serves; what else still runs is ended."""
        recorded = self._state.processes.get(name)
        if recorded is None or not recorded.identity.alive:
            return False
        engine.child = Child(recorded.identity)
        if recorded.detached and engine.is_ready():
            return True
        engine.stop()
        return False

    def _forget(self, name: str) -> None:
        if self._state.processes.pop(name, None) is not None:
            self._state.save()

    def _collect_urls(self) -> EngineUrls:
        own = dict(self.external.urls)
        s3 = self._engines.get("s3")
        nobody = S3Identity("", "")
        admin = s3.identities()[ADMIN] if isinstance(s3, Seaweed) else self.external.s3_identities.get(ADMIN, nobody)
        for name, engine in self._engines.items():
            if isinstance(engine, Valkey | Postgres):
                own[name] = engine.url
            elif isinstance(engine, Seaweed):
                own[name] = engine.endpoint
        broker = self._engines.get("privileged_broker")
        users = {name: broker.url_of(name) for name in broker.users} if isinstance(broker, Valkey) else {}
        return EngineUrls(
            privileged_users=users,
            release_broker=own.get("release_broker", ""),
            privileged_broker=own.get("privileged_broker", ""),
            postgres_admin=own.get("postgres", ""),
            s3_endpoint=own.get("s3", ""),
            s3_admin_access=admin.access,
            s3_admin_secret=admin.secret,
        )


__all__ = ["NAMES", "EngineError", "EngineUrls", "Engines"]
