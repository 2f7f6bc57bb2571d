"""What every embedded engine has in common."""

from __future__ import annotations

import contextlib
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from gateway.engines.errors import EngineFailed
from gateway.engines.process import Child, spawn
from gateway.engines.state import State, port_is_free

_LOG_TAIL_LINES = 12


class Engine(ABC):
    """One server process with a folder of its own below `folder`, listening on loopback only."""

    port_names: ClassVar[tuple[str, ...]] = ()
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_grace: ClassVar[float] = 10.0  # seconds
    start_timeout: ClassVar[float] = 60.0  # seconds

    def __init__(self, name: str, folder: Path, state: State) -> None:
        self.name = name
        self.folder = folder / name
        self.state = state
        self.child: Child | None = None

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def ports(self) -> list[str]:
        """The names under which this engine's ports are kept in the state."""
        return [f"{self.name}.{port}" if port else self.name for port in self.port_names]

    def port(self, name: str = "") -> int:
        return self.state.ports[f"{self.name}.{name}" if name else self.name]

    def port_is_usable(self, port: int) -> bool:
        """Whether this engine can listen on a port."""
        return port_is_free(port)

    @abstractmethod
    def prepare(self) -> None:
        """Make folder, configuration and data where they are missing. Safe to repeat."""

    @abstractmethod
    def command(self) -> list[str]:
        """The server's command line; it holds no secret, because other users can read it."""

    @abstractmethod
    def check(self) -> None:
        """Use the engine once as a client would; any exception means: not ready yet."""

    def environment(self) -> Mapping[str, str] | None:
        return None

    def launch(self, death_signal: signal.Signals | None) -> Child:
        """Start the process; `await_ready` tells when it can be used."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.prepare()
        self.child = spawn(
            self.command(),
            output=self.log_path,
            env=self.environment(),
            cwd=self.working_folder(),
            death_signal=death_signal,
        )
        return self.child

    def working_folder(self) -> Path:
        return self.folder

    def await_ready(self) -> None:
        """Raises EngineFailed, with the end of the log, when it ends or is not ready in time."""
        deadline = time.monotonic() + self.start_timeout
        pause = 0.02
        last: Exception | None = None
        while time.monotonic() < deadline:
            if self.child is None or not self.child.alive:
                raise EngineFailed(f"{self.name} ended at once; the end of {self.log_path}:\n{self.log_tail()}")
            try:
                self.check()
                return
            except Exception as error:  # whatever a client library raises while the server is still coming up
                last = error
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        raise EngineFailed(
            f"{self.name} not ready after {self.start_timeout:.0f} s: {type(last).__name__}; "
            f"the end of {self.log_path}:\n{self.log_tail()}"
        )

    def is_ready(self) -> bool:
        with contextlib.suppress(Exception):
            self.check()
            return True
        return False

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop(self.stop_signal, self.stop_grace)
            self.child = None

    def log_tail(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])
