"""`refacex up` with real engines and real processes: what dies comes back, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.engines.process import ProcessId
from gateway.engines.state import State
from gateway.processes import PROCESSES
from gateway.provision import Home, write_env
from gateway.status import broker_answers, look
from gateway.up import Kept, Printer, System

SMALL = ("notary", "relay")  # those without networks


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def below(parent: int) -> list[ProcessId]:
    """Every process that descends from `parent` now."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
    found, new = set[int](), {parent}
    while new:
        new = {pid for pid, above in parents.items() if above in new}
        found |= new
    return [identity for pid in found if (identity := ProcessId.of(pid)) is not None]


def test_a_process_is_given_its_own_settings_of_our_environment_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"REFACEX_ALERT_WEBHOOK": "http://127.0.0.1/x", "REFACEX_ALERT_SECRET": "s", "REFACEX_JUDGES": "[]"}
    for name, value in (given | {"REFACEX_DATABASE_URL": "postgresql://elsewhere"}).items():
        monkeypatch.setenv(name, value)
    home = Home(tmp_path)
    home.env("x").parent.mkdir()
    system = System(tmp_path)
    for process in PROCESSES:
        write_env(home.env(process), {})
        seen = {name for name in system._environment(process) if name in given or name == "REFACEX_DATABASE_URL"}
        own = {"relay": {"REFACEX_ALERT_WEBHOOK", "REFACEX_ALERT_SECRET"}, "release": {"REFACEX_JUDGES"}}
        assert seen == own.get(process, set()), process


def test_a_killed_process_and_a_killed_engine_come_back(tmp_path: Path) -> None:
    lines: list[tuple[str, str]] = []
    with System(tmp_path, only=SMALL, echo=lambda process, line: lines.append((process, line))) as system:
        assert system.alive() == {"notary": True, "relay": True}
        old = system.pid("notary")
        assert old is not None
        os.kill(old, signal.SIGKILL)
        assert until(lambda: system.pid("notary") not in (None, old)), lines
        broker = system.engines.urls.release_broker
        before = system.engines.pid("release_broker")
        assert before is not None
        os.kill(before, signal.SIGKILL)
        assert until(lambda: system.engines.pid("release_broker") not in (None, before)), lines
        assert until(lambda: broker_answers(broker)), lines
        report = look(tmp_path)
        assert all(report.engines.values()) and report.processes["relay"] and not report.processes["release"]
        assert not report.healthy, "a part of the system is no healthy system"
        log = Home(tmp_path).logs / "notary.log"
        assert until(lambda: "notary started" in log.read_text()), lines
        running = [ProcessId.of(pid) for name in SMALL if (pid := system.pid(name)) is not None]
    assert len(running) == 2 and not [one for one in running if one is not None and one.alive]
    assert ("notary", "ended with status -9; starts again in 0.5 s") in lines
    after = look(tmp_path)
    assert not any(after.engines.values()) and not any(after.processes.values())


FOREGROUND = """
import sys
from pathlib import Path
from gateway.up import run_in_foreground
sys.exit(run_in_foreground(Path(sys.argv[1]), only=("notary", "relay")))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", FOREGROUND, str(tmp_path)], stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        seen: list[str] = []
        for line in up.stdout:
            seen.append(line)
            if "everything runs" in line:
                break
        descendants = below(up.pid)
        assert len(descendants) >= 6, seen  # four engines, two processes
        up.send_signal(number)
        rest, _ = up.communicate(timeout=60)
    assert up.returncode == (-9 if number is signal.SIGKILL else 0), rest
    assert until(lambda: not [one for one in descendants if one.alive], 20.0)
    if number is not signal.SIGKILL:
        assert "refacex   | stopped" in rest
        assert not State.load(tmp_path / "engines/state.json").processes


def test_the_pause_grows_with_failures_in_a_row_and_starts_anew_after_a_good_run() -> None:
    kept = Kept(PROCESSES["relay"])
    pauses = []
    for second in range(9):
        kept.started = float(second)
        pauses.append(kept.ended(second + 1.0))
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    kept.started = 100.0
    assert kept.ended(200.0) == 0.5


def test_lines_are_prefixed_and_plain_when_it_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(sys.stdout)
    printer("relay", "one")
    printer("custodian", "two")
    assert capsys.readouterr().out == "relay     | one\ncustodian | two\n"
