"""What an error message or a help text tells people to run is there to be run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

import gateway
from gateway.cli import build

ROOT = Path(gateway.__file__).parents[1]
SOURCES = [path for part in ("gateway", "workers", "refacex_core") for path in sorted((ROOT / part).rglob("*.py"))]
NAMED = re.compile(r"`refacex((?: [a-z][a-z-]*)+)|^refacex((?: [a-z][a-z-]*)+)", re.MULTILINE)


def _named(path: Path) -> set[str]:
    return {(one[0] or one[1]).strip() for one in NAMED.findall(path.read_text())}


def _is_command(words: list[str]) -> bool:
    """Whether the words lead to a command; what follows a command is its argument."""
    here: Any = typer.main.get_command(build())
    for word in words:
        if not hasattr(here, "commands"):
            return True
        if word not in here.commands:
            return False
        here = here.commands[word]
    return True


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "README.md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_exists(path: Path) -> None:
    assert [named for named in sorted(_named(path)) if not _is_command(named.split())] == []


def test_a_command_that_does_not_exist_is_seen() -> None:
    assert not _is_command(["release", "items"]) and _is_command(["release", "report"])
