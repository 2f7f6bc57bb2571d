"""SECURITY.md says of each attack which test tries it: those tests exist, and so does each case that it names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = set(re.findall(r"`(test_\w+)(?:\[[^`]+\])?`", PAGE))
CASES = set(re.findall(r"`(test_\w+\[[^`]+\])`", PAGE))


def defined() -> dict[str, set[Path]]:
    """The files that define each test."""
    there: dict[str, set[Path]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.M):
            there.setdefault(name, set()).add(path)
    return there


def test_every_attack_in_the_table_is_tried_by_a_test() -> None:
    assert len(NAMED) > 30
    assert not NAMED - defined().keys()


def test_every_case_in_the_table_is_tried() -> None:
    """As pytest itself collects them: a row whose case was taken away says so here."""
    there = defined()
    files = {path for case in CASES for path in there[case.partition("[")[0]]}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        *map(str, sorted(files)),
    ]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert collected.returncode == 0, collected.stdout[-2000:]
    ids = {line.partition("::")[2] for line in collected.stdout.splitlines()}
    assert len(CASES) > 30
    assert not CASES - ids


def test_every_row_of_the_table_names_a_test() -> None:
    table = PAGE[PAGE.index("## Attacks") : PAGE.index("## What is out of scope")]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 50
    assert [row for row in rows if "`test_" not in row.split(" | ")[-1]] == []
