"""What the supervisor remembers in its home folder between runs: ports, passwords, processes."""

from __future__ import annotations

import fcntl
import json
import os
import random
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.engines.errors import EngineFailed, HomeInUse, HomeUnusable
from gateway.engines.process import ProcessId

LOOPBACK = "127.0.0.1"
# Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that a port kept in the home
# folder is still free at the next start.
_PORTS = range(18_000, 32_000)


@dataclass(frozen=True)
class Recorded:
    """A process that an earlier supervisor of this home started. `detached`: it was told to outlive that supervisor."""

    identity: ProcessId
    detached: bool


@dataclass
class State:
    """The supervisor's memory; `save` replaces the file in one step, readable by its owner alone."""

    path: Path
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    processes: dict[str, Recorded] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> State:
        """Raises HomeUnusable if the file is there and cannot be read as ours."""
        if not path.exists():
            return cls(path)
        try:
            raw: dict[str, Any] = json.loads(path.read_text())
            processes = {
                k: Recorded(ProcessId(v["pid"], v["started"]), v["detached"]) for k, v in raw["processes"].items()
            }
            return cls(path, dict(raw["ports"]), dict(raw["secrets"]), processes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HomeUnusable("its state.json is damaged, or not to be read") from error

    def save(self) -> None:
        processes = {
            k: {"pid": v.identity.pid, "started": v.identity.started, "detached": v.detached}
            for k, v in self.processes.items()
        }
        write_private(
            self.path, json.dumps({"ports": self.ports, "secrets": self.secrets, "processes": processes}, indent=1)
        )

    def secret(self, name: str, length: int = 32) -> str:
        """The secret of that name, `length` hex digits, drawn at the first call."""
        if name not in self.secrets:
            self.secrets[name] = secrets.token_hex(length // 2)
        return self.secrets[name]

    def assign_ports(self, names: list[str], usable: Callable[[int], bool] | None = None) -> None:
        """Give every name a port: the one it had, unless it is not `usable` any more (by default: somebody listens there)."""
        usable = usable or port_is_free
        for name in names:
            port = self.ports.get(name)
            if port is None or not usable(port):
                self.ports[name] = free_port(set(self.ports.values()), usable)


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all, also through a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection still closing is no listener
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(taken: set[int], usable: Callable[[int], bool]) -> int:
    """A loopback port that is `usable` and not in `taken`; by chance, so that two homes rarely meet."""
    for port in random.SystemRandom().sample(_PORTS, 500):
        if port not in taken and usable(port):
            return port
    raise EngineFailed("no free port on 127.0.0.1")


class HomeLock:
    """An advisory lock on a home folder; the kernel drops it when its holder dies, so it is never stale."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises HomeInUse if another process, or another supervisor in this one, holds it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise HomeInUse(str(self._path.parent)) from error
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
