"""What all commands share: the version, tables that people copy ids from, numbers with their nouns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli import batch, build
from gateway.cli.service import table
from refacex_core.versions import CURRENT
from workers.words import number_of


def test_the_version_is_told_without_the_networks() -> None:
    said = CliRunner().invoke(build(), ["--version"])
    assert said.exit_code == 0
    assert said.stdout == f"refacex 0.1.0, model refacex-{CURRENT}\n"
    program = "import sys, gateway.cli\ntry:\n gateway.cli.main()\nfinally:\n assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, "--version"], check=True, capture_output=True)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)


ID, OTHER, HASH = str(uuid4()), str(uuid4()), "0123456789abcdef" * 4
ROWS = {
    "one id": (["id", "name", "state", "images"], [[ID, "photographs of the spring " * 4, "finished", "3: 3 done"]]),
    "two ids": (["id", "order", "target", "by"], [[ID, "shred", f"face {OTHER}:0", "kim"]]),
    "names and values": (["request", ID], [["approvals needed", "2"], ["SHA-256", HASH], ["reason", "long " * 40]]),
}


@pytest.mark.parametrize("columns", [80, 50])
@pytest.mark.parametrize("which", ROWS)
def test_no_id_is_broken_on_a_terminal(
    which: str, columns: int, terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    head, rows = ROWS[which]
    table(head, rows)
    shown = capsys.readouterr().out
    words = [word for row in rows for cell in row for word in cell.split()]
    assert "…" not in shown and all(word in shown for word in words)
    plain = [line.rstrip() for line in shown.splitlines() if "\x1b" not in line]
    assert [line for line in plain if len(line) > columns and HASH not in line] == []


def test_where_two_ids_leave_no_room_a_row_is_several_lines(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    table(*ROWS["two ids"])
    assert capsys.readouterr().out.splitlines() == [ID, f"  order shred  target face {OTHER}:0  by kim"]


def test_nothing_is_wrapped_for_a_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    head, rows = ROWS["one id"]
    table(head, [[*rows[0][:1], "photographs " * 40 + "x" * 300, *rows[0][2:]]])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_one_is_no_plural() -> None:
    assert [number_of(number, "face") for number in (0, 1, 2)] == ["0 faces", "1 face", "2 faces"]


def test_a_fault_of_ours_on_one_image_is_told_without_its_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What to do is for people; what it was stands in the report that they send."""

    def broken() -> dict[str, Any]:
        raise KeyError("a defect")

    report = tmp_path / "report.jsonl"
    with batch.Run([batch.Job(tmp_path / "a.png", "a.png", tmp_path / "b.png")], None, report) as run:
        assert run.each(run.jobs[0], broken) is None
        with pytest.raises(typer.Exit):
            run.finish("read")
    said = capsys.readouterr().err
    assert "a.png: failed through a fault of ours: please report it" in said and "KeyError" not in said
    line = json.loads(report.read_text())
    assert line == {"source": "a.png", "outcome": "failed", "code": "internal_error", "error": "KeyError"}
