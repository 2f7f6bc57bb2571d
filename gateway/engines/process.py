"""Child processes that do not outlive their supervisor, and a way to know them again after a crash.

Linux only: the identity of a process is its number and its start time (`/proc/PID/stat`), so that a number used again by
somebody else is never signalled; `PR_SET_PDEATHSIG` makes the kernel end a child when the *thread* that started it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ProcessId:
    """A process: its number and its start time in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The identity of the running process `pid`; None if there is none (a zombie counts as none)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat[stat.rindex(")") + 2 :].split()  # the name in brackets may hold anything
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self

    @property
    def started_at(self) -> datetime:
        """When it was started, by this machine's clock."""
        boot = time.time() - float(Path("/proc/uptime").read_text().split()[0])
        return datetime.fromtimestamp(boot + self.started / os.sysconf("SC_CLK_TCK"), UTC)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it is still the same process."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Child:
    """A process under our care: started here, or found again by its identity."""

    def __init__(self, identity: ProcessId, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.identity = identity
        self._popen = popen

    @property
    def alive(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is None
        return self.identity.alive

    @property
    def output(self) -> IO[bytes] | None:
        """What it prints, where it was started with a pipe."""
        return self._popen.stdout if self._popen is not None else None

    @property
    def returncode(self) -> int | None:
        """Exit status of a child started here (negative: the signal that ended it); None while it runs or when it was found."""
        return self._popen.poll() if self._popen is not None else None

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            self.identity.send(number)

    def wait(self, seconds: float) -> bool:
        """True if it ended within `seconds`."""
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def stop(self, number: signal.Signals = signal.SIGTERM, grace: float = 10.0) -> None:
        """Ask it to end; after `grace` seconds, end it."""
        self.send(number)
        if not self.wait(grace):
            self.kill()

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait(10.0)


def spawn(
    command: Sequence[str],
    *,
    output: int | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: signal.Signals | None = signal.SIGTERM,
) -> Child:
    """Start `command` in a session of its own (a terminal's Ctrl-C reaches the supervisor alone).

    `output` is a log file to append to, or `subprocess.PIPE`. With `death_signal` the child gets it when the calling thread
    ends, however that happens; with None it goes on alone. Raises OSError if it cannot be started.
    """
    log = (
        output
        if isinstance(output, int)
        else os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    )
    try:
        popen = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_die_with(death_signal) if death_signal is not None else None,
        )
    finally:
        if not isinstance(output, int):
            os.close(log)
    # A child that has already ended has no start time left to read; it is reported dead by its Popen all the same.
    return Child(ProcessId.of(popen.pid) or ProcessId(popen.pid, -1), popen)


def _die_with(number: signal.Signals) -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork: no import lock is taken in the child
    parent = os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died in between: the signal will not come
            os._exit(1)

    return in_child
