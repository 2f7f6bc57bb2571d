"""What `refacex status` shows: engines, processes, work that waits."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import redis
from rich.table import Table
from rich.text import Text
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from gateway.engines.errors import HomeNotReady
from gateway.processes import PROCESSES, running_processes
from gateway.provision import Home, read_env
from workers.custody.errors import CustodyError, LedgerBehind, LedgerInvalid, LedgerMissing
from workers.custody.ledger import Ledger
from workers.custody.policies import load_policies
from workers.custody.roster import load_roster

_WORK = {
    "releases not finished": "SELECT count(*) FROM releases WHERE state IN ('open', 'running')",
    "items waiting or in hand": "SELECT count(*) FROM items WHERE state IN ('pending', 'claimed', 'committed')",
    "items done": "SELECT count(*) FROM items WHERE state = 'done'",
    "items held": "SELECT count(*) FROM items WHERE state = 'held'",
    "items failed or in quarantine": "SELECT count(*) FROM items WHERE state IN ('failed', 'quarantined')",
    "alerts not delivered": "SELECT count(*) FROM alerts WHERE delivered_at IS NULL",
    "alerts shown here only": "SELECT count(*) FROM alerts WHERE delivered_at = at",
    "recovery requests open": "SELECT count(*) FROM recovery_requests WHERE state = 'open'",
    "audit events": "SELECT count(*) FROM audit.events",
    "audit events not yet anchored": (
        "SELECT (SELECT count(*) FROM audit.events) - coalesce((SELECT max(size) FROM audit.tree_heads), 0)"
    ),
}
# The files without which the custodian refuses every message, by their settings.
_TRUSTED: dict[str, Callable[[Path], object]] = {
    "REFACEX_ROSTER": load_roster,
    "REFACEX_POLICIES": load_policies,
    "REFACEX_TOMBSTONES": lambda path: Ledger(path).holds(),
}
_REFUSED = """SELECT detail->>'code' FROM alerts WHERE kind = 'ledger_refused' AND at >= :started AND at > coalesce(
    (SELECT at FROM audit.events WHERE role = 'refacex_custodian' ORDER BY seq DESC LIMIT 1), '-infinity') ORDER BY id DESC LIMIT 1"""


@dataclass
class Report:
    """Engines and processes by name (True: answers, runs), and counts of work; `work` is empty without the database."""

    home: Path
    engines: dict[str, bool] = field(default_factory=dict)
    processes: dict[str, bool] = field(default_factory=dict)
    refuses: str | None = None  # why the custodian does nothing, where it does not
    work: dict[str, int] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        runs = bool(self.processes) and all(self.processes.values())
        return all(self.engines.values()) and runs and self.refuses is None


def look(home: Path) -> Report:
    """Ask every engine and process. Raises HomeNotReady where nothing was set up."""
    place = Home(home)
    if not place.env("gateway").exists():
        raise HomeNotReady
    gateway, relay = read_env(place.env("gateway")), read_env(place.env("relay"))
    work = _work(gateway["REFACEX_DATABASE_URL"])
    engines = {
        "release broker": broker_answers(relay["REFACEX_BROKER_URL"]),
        "privileged broker": broker_answers(relay["REFACEX_PRIVILEGED_BROKER_URL"]),
        "database": bool(work),
        "storage": _storage_answers(gateway["REFACEX_S3_ENDPOINT"]),
    }
    running = running_processes(place)
    custodian = running.get("custodian")
    refuses = _unusable(place)
    if refuses is None and custodian is not None:
        refuses = _refused(gateway["REFACEX_DATABASE_URL"], custodian.started_at)
    return Report(home, engines, {name: name in running for name in PROCESSES}, refuses, work)


def _unusable(place: Home) -> str | None:
    """What is wrong with the files that the custodian trusts, where they lie here and we may read them."""
    try:
        settings = read_env(place.env("custodian"))
        for name, read in _TRUSTED.items():
            path = Path(settings[name])
            if not path.exists() or os.access(path, os.R_OK):
                read(path)
    except (OSError, KeyError):
        return None
    except CustodyError as error:
        return str(error)
    return None


def _refused(database_url: str, started_at: datetime) -> str | None:
    """Why the custodian that runs said in an alert that it does nothing, unless it has written to the trail since."""
    engine = create_engine(database_url, connect_args={"connect_timeout": 2})
    try:
        with engine.connect() as connection:
            code = connection.execute(text(_REFUSED), {"started": started_at}).scalar_one_or_none()
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()
    kinds: tuple[type[LedgerInvalid], ...] = (LedgerInvalid, LedgerMissing, LedgerBehind)
    return next((str(kind()) for kind in kinds if kind.code == code), code)


def broker_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _work(database_url: str) -> dict[str, int]:
    engine = create_engine(database_url, connect_args={"connect_timeout": 2})
    try:
        with engine.connect() as connection:
            return {name: int(connection.execute(text(query)).scalar_one()) for name, query in _WORK.items()}
    except SQLAlchemyError:
        return {}
    finally:
        engine.dispose()


def _storage_answers(endpoint: str) -> bool:
    """Whether anything speaks HTTP there; a refusal without credentials is an answer."""
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()  # noqa: S310  (our own setting, http or https)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return True
    except OSError:
        return False
    return True


def table(report: Report) -> Table:
    """The report for a terminal."""
    shown = Table(title=f"ReFaceX at {report.home}", show_header=False, title_justify="left")
    for name, answers in report.engines.items():
        shown.add_row(name, "[green]answers[/]" if answers else "[red]away[/]")
    shown.add_section()
    for name, runs in report.processes.items():
        if name == "custodian" and report.refuses is not None:
            shown.add_row(name, Text(f"refuses: {report.refuses}", style="red"))
        else:
            shown.add_row(name, "[green]runs[/]" if runs else "[red]not running[/]")
    shown.add_section()
    for name, count in report.work.items():
        shown.add_row(name, str(count))
    return shown
