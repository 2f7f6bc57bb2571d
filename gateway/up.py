"""Keeps the whole system running in the foreground: engines, workers, relay, notary, beat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from gateway.engines import Engines
from gateway.engines.process import Child, spawn
from gateway.engines.state import write_private
from gateway.processes import PROCESSES, ProcessSpec, process_json
from gateway.provision import Home, provision, read_env

_POLL_SECONDS = 0.2
_HEALTHY_SECONDS = 60.0  # a process that lived this long starts again at once
_LONGEST_PAUSE = 30.0
# What a process takes from the environment that `refacex up` was started in, besides its env file.
_GIVEN = {"relay": ("REFACEX_ALERT_WEBHOOK", "REFACEX_ALERT_SECRET"), "release": ("REFACEX_JUDGES",)}
_LOG_BYTES = 10 * 2**20  # a log larger than this is put aside at the next start

Echo = Callable[[str, str], None]


@dataclass
class Kept:
    """A process under our care. `failures` in a row decide how long we wait before the next start."""

    spec: ProcessSpec
    child: Child | None = None
    started: float = 0.0
    failures: int = 0
    next_start: float = 0.0

    def ended(self, now: float) -> float:
        """Note that it ended; gives the pause in seconds before it starts again."""
        self.failures = 0 if now - self.started > _HEALTHY_SECONDS else self.failures + 1
        pause = min(0.5 * 2.0 ** max(self.failures - 1, 0), _LONGEST_PAUSE)
        self.child = None
        self.next_start = now + pause
        return pause


class System:
    """The engines and every process of one home folder, in the background of the calling program until `stop`.

    `echo(process, line)` gets every line that a process logs; each is also appended to `<home>/logs/<process>.log`.
    `overrides`: REFACEX_* variables for every process, over those of its env file. `only`: some of the processes.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        source_roots: Sequence[Path] = (),
        only: Iterable[str] | None = None,
        overrides: Mapping[str, str] | None = None,
        echo: Echo | None = None,
    ) -> None:
        self.home = Home(Path(home).absolute())
        self.engines = Engines(self.home.path)
        self._source_roots = source_roots
        names = tuple(PROCESSES) if only is None else tuple(only)
        self._kept = {name: Kept(PROCESSES[name]) for name in names}
        self._overrides = dict(overrides or {})
        self._echo = echo or (lambda _process, _line: None)
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper")
        self._pumps: list[threading.Thread] = []
        self._started = threading.Event()
        self._failure: BaseException | None = None

    def start(self) -> Self:
        """Start the engines, provision what is missing, start every process. Raises EngineError and what provisioning raises."""
        self._echo("refacex", f"home {self.home.path}")
        # The keeper starts everything, because the kernel ends a child together with the thread that started it.
        self._keeper.start()
        self._started.wait()
        if self._failure is not None:
            self._keeper.join()
            raise self._failure
        return self

    def stop(self) -> None:
        """Stop everything, the notary last of the processes, so that the trail's last events are anchored. Repeatable."""
        self._stopping.set()
        if self._keeper.is_alive():
            self._keeper.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until something stops the system; False when `seconds` went by first."""
        return self._stopping.wait(seconds)

    def alive(self) -> dict[str, bool]:
        """Which processes run now."""
        return {name: kept.child is not None and kept.child.alive for name, kept in self._kept.items()}

    def failures(self, name: str) -> int:
        """How often in a row that process ended soon after its start."""
        return self._kept[name].failures

    def pid(self, name: str) -> int | None:
        """The process's number, for tests that kill it."""
        child = self._kept[name].child
        return child.identity.pid if child is not None and child.alive else None

    # --- the keeper's thread

    def _keep(self) -> None:
        try:
            self._bring_up()
        except BaseException as error:
            self._failure = error
            self._stopping.set()
        self._started.set()
        try:
            while not self._stopping.wait(_POLL_SECONDS):
                self._look_after()
        finally:
            self._bring_down()

    def _bring_up(self) -> None:
        started = time.monotonic()
        urls = self.engines.start()
        self._echo("engines", f"ready in {time.monotonic() - started:.1f} s, storage at {urls.s3_endpoint}")
        provision(self.home.path, self.engines, source_roots=self._source_roots)
        self._echo("refacex", "provisioned: roles, database, buckets, keys, env files")
        for kept in self._kept.values():
            self._launch(kept)

    def _look_after(self) -> None:
        for name in self.engines.running:
            if not self.engines.alive(name):
                self._echo("engines", f"{name} ended; starting it again")
                try:
                    self.engines.restart(name)
                except Exception as error:  # it is tried again at the next look
                    self._echo("engines", f"{name}: {str(error).splitlines()[0]}")
                    self._stopping.wait(2.0)
        now = time.monotonic()
        for kept in self._kept.values():
            if kept.child is not None and not kept.child.alive:
                status = kept.child.returncode
                pause = kept.ended(now)
                self._echo(kept.spec.name, f"ended with status {status}; starts again in {pause:.1f} s")
            if kept.child is None and now >= kept.next_start:
                self._launch(kept)

    def _launch(self, kept: Kept) -> None:
        name = kept.spec.name
        kept.started = time.monotonic()
        try:
            kept.child = spawn(
                kept.spec.command(self.home),
                output=subprocess.PIPE,
                env=self._environment(name),
                cwd=self.home.run,
                death_signal=signal.SIGTERM,
            )
        except OSError as error:
            pause = kept.ended(kept.started)
            self._echo(name, f"could not be started: {error.strerror}; next try in {pause:.1f} s")
            return
        assert kept.child.output is not None  # it was started with a pipe
        pump = threading.Thread(target=self._pump, args=(name, kept.child.output), daemon=True)
        pump.start()
        self._pumps = [thread for thread in self._pumps if thread.is_alive()] + [pump]
        self._note_processes()

    def _environment(self, name: str) -> dict[str, str]:
        """What the process may know: our own environment without any of our settings but a few, then its env file."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("REFACEX_")}
        kept = {key: os.environ[key] for key in ("REFACEX_MODEL_DIR", *_GIVEN.get(name, ())) if key in os.environ}
        return {
            **inherited,
            **kept,
            "PYTHONUNBUFFERED": "1",
            "OPENCV_LOG_LEVEL": "ERROR",
            # Celery says this of every worker that runs as root; it matters for pickle, and ours take JSON alone
            "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",
            "REFACEX_LOG_FORMAT": "console",
            **read_env(self.home.env(name)),
            **self._overrides,
        }

    def _note_processes(self) -> None:
        running = {name: kept.child.identity for name, kept in self._kept.items() if kept.child is not None}
        write_private(self.home.run / "processes.json", process_json(running))

    def _pump(self, name: str, output: IO[bytes]) -> None:
        path = self.home.logs / f"{name}.log"
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as log, output:
            for raw in output:
                log.write(raw)
                log.flush()
                if line := raw.decode(errors="replace").rstrip():
                    self._echo(name, line)

    def _bring_down(self) -> None:
        """Those that make work first, then the workers, the notary, the engines."""
        for wave in sorted({kept.spec.wave for kept in self._kept.values()}):
            leaving = [kept for kept in self._kept.values() if kept.spec.wave == wave and kept.child is not None]
            for kept in leaving:
                if kept.child is not None:
                    kept.child.send(signal.SIGTERM)
            for kept in leaving:
                if kept.child is not None:
                    kept.child.stop(signal.SIGTERM, kept.spec.grace)
                    kept.child = None
        for pump in self._pumps:
            pump.join(2.0)
        (self.home.run / "processes.json").unlink(missing_ok=True)
        self.engines.stop()
        self._echo("refacex", "stopped")


class Printer:
    """Prints `process | line` with a colour a process; lines of two processes never mix."""

    COLOURS = (36, 33, 32, 35, 34, 96, 93, 92)

    def __init__(self, stream: IO[str] = sys.stdout) -> None:
        self._stream = stream
        self._colour = stream.isatty() and "NO_COLOR" not in os.environ
        self._width = max(len(name) for name in (*PROCESSES, "refacex", "engines"))
        self._names: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, process: str, line: str) -> None:
        with self._lock:
            code = self.COLOURS[self._names.setdefault(process, len(self._names)) % len(self.COLOURS)]
            label = f"{process:<{self._width}} |"
            self._stream.write((f"\033[{code}m{label}\033[0m" if self._colour else label) + f" {line}\n")
            self._stream.flush()


def run_in_foreground(home: Path, *, source_roots: Sequence[Path] = (), only: Iterable[str] | None = None) -> int:
    """`refacex up`: run until Ctrl-C or SIGTERM, then stop clean; a second Ctrl-C does not wait. Gives the exit code."""
    printer = Printer()
    system = System(home, source_roots=source_roots, only=only, echo=printer)
    asked = threading.Event()

    def ask(*_: object) -> None:
        if asked.is_set():  # the kernel ends the children with us
            os._exit(130)
        asked.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        system.start()
        printer("refacex", "everything runs; Ctrl-C stops it")
        while not asked.is_set() and not system.wait(0.5):
            pass
        printer("refacex", "stopping")
    finally:
        system.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0
