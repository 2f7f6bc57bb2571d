"""The processes of the system besides its engines: how each is started, in what order they stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.engines.process import ProcessId
from gateway.provision import Home

# Nothing that a worker could learn from another worker is worth the commands that it would need on the broker
_QUIET_CELERY = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True)
class ProcessSpec:
    """One process. `wave`: the lower stops the sooner. `grace`: seconds that it may take to stop."""

    name: str
    arguments: Callable[[Home], list[str]]
    wave: int
    grace: float

    def command(self, home: Home) -> list[str]:
        return [sys.executable, *self.arguments(home)]


def _worker(name: str, module: str, queues: str) -> Callable[[Home], list[str]]:
    return lambda _home: [
        *("-m", "celery", "--quiet", "-A", f"{module}:app", "worker", "--concurrency=1", "--pool=prefork"),
        *(f"--queues={queues}", f"--hostname={name}@%h", "--loglevel=INFO", *_QUIET_CELERY),
    ]


def _beat(home: Home) -> list[str]:
    schedule = home.run / "beat-schedule"
    return ["-m", "celery", "--quiet", "-A", "workers.releases.app:app", "beat", f"--schedule={schedule}", "--pidfile="]


PROCESSES: dict[str, ProcessSpec] = {
    spec.name: spec
    for spec in (
        ProcessSpec("notary", lambda _: ["-m", "workers.audit.notary"], wave=2, grace=15.0),
        ProcessSpec("custodian", _worker("custodian", "workers.custody.app", "custody"), wave=1, grace=40.0),
        ProcessSpec("recovery", _worker("recovery", "workers.recoveries.app", "recovery"), wave=1, grace=40.0),
        ProcessSpec("release", _worker("release", "workers.releases.app", "release,exports"), wave=1, grace=40.0),
        ProcessSpec("relay", lambda _: ["-m", "workers.outbox"], wave=0, grace=15.0),
        ProcessSpec("beat", _beat, wave=0, grace=10.0),
    )
}


def process_json(running: Mapping[str, ProcessId]) -> str:
    """What `refacex status` reads of the processes that run."""
    return json.dumps({name: {"pid": one.pid, "started": one.started} for name, one in running.items()})


def running_processes(home: Home) -> dict[str, ProcessId]:
    """The processes of a system that was started from this home, of those that run now; empty where none was."""
    try:
        noted = json.loads((home.run / "processes.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    known = {name: ProcessId(one["pid"], one["started"]) for name, one in noted.items()}
    return {name: process for name, process in known.items() if process.alive}
