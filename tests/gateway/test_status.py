"""`refacex status` where the custodian runs and refuses to work: it says so, and why."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from gateway.engines.process import ProcessId
from gateway.provision import Home, write_env
from gateway.status import Report, look, table
from tests.conftest import Database
from tests.governance import World, build, copied
from workers.alerts import AlertKind, raise_alert
from workers.custody.policies import write_policies


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    with copied(database) as fresh:
        yield build(fresh, tmp_path / "world")


@pytest.fixture
def status(world: World, tmp_path: Path) -> Callable[[], Report]:
    """The status of a home whose custodian runs: this process stands for it. No engine but the database answers."""
    home = Home(tmp_path / "home")
    for folder in (home.env("gateway").parent, home.run):
        folder.mkdir(parents=True)
    url, nobody = world.database.url_for("gateway"), "redis://127.0.0.1:9/0"
    write_env(home.env("gateway"), {"REFACEX_DATABASE_URL": url, "REFACEX_S3_ENDPOINT": "http://127.0.0.1:9"})
    write_env(home.env("relay"), {"REFACEX_BROKER_URL": nobody, "REFACEX_PRIVILEGED_BROKER_URL": nobody})
    files = {"ROSTER": world.roster, "POLICIES": world.policies, "TOMBSTONES": world.folder / "tombstones.json"}
    write_env(home.env("custodian"), {f"REFACEX_{name}": str(path) for name, path in files.items()})
    own = ProcessId.of(os.getpid())
    assert own is not None
    (home.run / "processes.json").write_text(json.dumps({"custodian": {"pid": own.pid, "started": own.started}}))
    return lambda: look(home.path)


def shown(report: Report) -> str:
    told = io.StringIO()
    Console(file=told, width=400).print(table(report))
    (line,) = [line for line in told.getvalue().splitlines() if line.startswith("│ custodian ")]
    return line


def test_a_custodian_that_refuses_its_files_does_not_just_run(status: Callable[[], Report], world: World) -> None:
    assert status().refuses is None and "runs" in shown(status())
    for path in (world.roster, world.policies, world.folder / "tombstones.json"):
        kept = path.read_bytes()
        path.write_bytes(b"{")
        report = status()
        assert not report.healthy and "refuses: " in shown(report) and "runs" not in shown(report)
        path.unlink()
        assert "refuses:" in shown(status())
        path.write_bytes(kept)
    assert status().refuses is None


def test_a_custodian_that_told_of_its_ledger_refuses_until_it_works_again(
    status: Callable[[], Report], world: World
) -> None:
    with world.as_("custodian").begin() as session:
        raise_alert(session, AlertKind.LEDGER_REFUSED, code="ledger_behind")
    assert "refuses: The custodian's ledger is older than" in shown(status())
    write_policies(world.policies, [])
    world.custodian().load_policies()  # which stands in the trail
    assert status().refuses is None
