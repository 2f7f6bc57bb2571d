"""Another provider is one file: put beside the others it seals, unwraps, and is rotated to and from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from schemas.tables import SealedKey
from tests.governance import World
from tests.workers.custody.another_provider import SUITE
from tests.workers.custody.test_kms import CONTEXT, custodian_settings, release_settings
from tests.workers.custody.test_rotation import ROWS, balanced, office
from workers.custody import providers
from workers.custody.providers.sealers import sealer_of
from workers.custody.providers.services import held, services
from workers.custody.providers.unwrappers import unwrapper_of


@pytest.fixture
def safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of its keys, with the provider found as if it lay in the package."""
    path = tmp_path / "safe.json"
    path.write_text(json.dumps({"safe-1": "11" * 32}))
    folder = tmp_path / "beside"
    folder.mkdir()
    (folder / "safe.py").symlink_to(Path(__file__).with_name("another_provider.py"))
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, str(folder)])
    monkeypatch.setenv("SAFE_OF_A_TEST", str(path))
    return path


def test_it_is_found_by_its_file(safe: Path) -> None:
    assert [each.suite for each in services()] == ["aws-kms", SUITE]


def test_it_seals_and_is_rotated_to_and_from(safe: Path, world: World, tmp_path: Path) -> None:
    settings = custodian_settings(tmp_path, custody_keyring=world.folder / "custody.json")
    keeper = office(world, unwrapper=unwrapper_of(settings), services=held(settings))
    assert sealer_of(release_settings()).seal(bytes(32), CONTEXT).suite == SUITE
    assert (keeper.rotate(to=SUITE).to, keeper.check().opened) == ("safe-1", ROWS)
    assert balanced(world) == [("safe-1", ROWS)]
    back = keeper.rotate()
    assert (back.rewrapped, keeper.check().opened) == (ROWS, ROWS)
    with world.as_("custodian")() as session:
        assert SUITE not in session.execute(select(SealedKey.suite)).scalars().all()


def test_a_key_that_the_service_lost_is_told_apart(safe: Path, world: World, tmp_path: Path) -> None:
    settings = custodian_settings(tmp_path, custody_keyring=world.folder / "custody.json")
    office(world, unwrapper=unwrapper_of(settings), services=held(settings)).rotate(to=SUITE)
    safe.write_text(json.dumps({"safe-2": "22" * 32}))
    tally = office(world, unwrapper=unwrapper_of(settings), services=held(settings)).check()
    assert {failure.code for failure in tally.failures} == {"custody_key_unknown"}
