"""Model files of others: found, checked, and replaceable by a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from refacex_core.errors import ModelFileCorrupt, ModelFileMissing
from refacex_core.models import YUNET, locate


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    locate.cache_clear()
    yield
    locate.cache_clear()


def test_a_folder_of_the_users_own_replaces_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = locate(YUNET)
    locate.cache_clear()
    monkeypatch.setenv("REFACEX_MODEL_DIR", str(tmp_path))
    with pytest.raises(ModelFileMissing):
        locate(YUNET)
    own = tmp_path / shipped.name
    shutil.copy(shipped, own)
    assert locate(YUNET) == own


def test_one_byte_off_is_corrupt(tmp_path: Path) -> None:
    data = bytearray(locate(YUNET).read_bytes())
    data[-1] ^= 1
    (tmp_path / Path(YUNET.path).name).write_bytes(data)
    with pytest.raises(ModelFileCorrupt):
        locate(YUNET, str(tmp_path))
