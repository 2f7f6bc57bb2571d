"""A world for each module, and a copy of it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.governance import World, build, copied
from tests.workers.verifying import anchors, nothing_found, signer

__all__ = ["anchors", "nothing_found", "signer"]


@pytest.fixture(scope="module")
def _first_world(database: Database, tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(database, tmp_path_factory.mktemp("custody"))


@pytest.fixture
def world(_first_world: World, tmp_path: Path) -> Iterator[World]:
    with copied(_first_world.database) as fresh:
        yield _first_world.moved(fresh, tmp_path / "custody")
