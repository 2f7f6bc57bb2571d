"""The key ring: created once, read strictly, and the root of every key of the service-free mode."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from refacex_core.errors import KeyRingCorrupt, KeyRingError, KeyRingMissing
from refacex_core.keyring import KeyRing

LOCATOR = bytes(range(8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_ring_comes_back(path: Path) -> None:
    created = KeyRing.create(path)
    assert KeyRing.load(path) == created
    assert len(created.secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_mode_does_not_depend_on_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        KeyRing.create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_key_rings_differ(tmp_path: Path) -> None:
    assert KeyRing.create(tmp_path / "a").secret != KeyRing.create(tmp_path / "b").secret


def test_a_key_ring_is_never_overwritten(path: Path) -> None:
    KeyRing.create(path)
    before = path.read_bytes()
    with pytest.raises(KeyRingError, match="never overwritten"):
        KeyRing.create(path)
    assert path.read_bytes() == before


def test_a_missing_key_ring_says_what_to_do(path: Path) -> None:
    with pytest.raises(KeyRingMissing, match="refacex keys new"):
        KeyRing.load(path)


def test_one_byte_off_anywhere_is_noticed(path: Path) -> None:
    KeyRing.create(path)
    good = path.read_bytes()
    for at in range(len(good)):
        for wrong in {good[at] ^ 1, good[at] ^ 0x20, ord("0"), ord(" ")} - {good[at]}:
            path.write_bytes(good[:at] + bytes([wrong]) + good[at + 1 :])
            with pytest.raises(KeyRingCorrupt):
                KeyRing.load(path)


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, -1), slice(1, None), slice(0, 40)], ids=str)
def test_a_byte_missing_is_noticed(path: Path, cut: slice) -> None:
    KeyRing.create(path)
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(KeyRingCorrupt):
        KeyRing.load(path)


@pytest.mark.parametrize("text", ["[]", "{}", "null", "\xff", '{"refacex_key_ring": 1}', " " * 100_000], ids=range(6))
def test_what_is_no_key_ring_is_refused(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(KeyRingError, match="checksum" if "key_ring" in text else "it is none"):
        KeyRing.load(path)


def test_a_sound_key_ring_of_a_later_version_is_told_apart_from_a_damaged_one(path: Path) -> None:
    fields = {"refacex_key_ring": 2, "secret": "00" * 32}
    checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**fields, "sha256": checksum}))
    path.chmod(0o600)
    with pytest.raises(KeyRingError, match="later version") as caught:
        KeyRing.load(path)
    assert caught.value.code == "key_ring_error"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_ring_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    KeyRing.create(path)
    path.chmod(mode)
    with pytest.raises(KeyRingError, match="chmod 600"):
        KeyRing.load(path)


def test_a_folder_is_no_key_ring(tmp_path: Path) -> None:
    with pytest.raises(KeyRingError):
        KeyRing.load(tmp_path)


def test_a_key_ring_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyRingError, match="cannot be written"):
        KeyRing.create(tmp_path / "missing" / "keys.json")


def test_keys_follow_from_secret_locator_and_face_and_never_change() -> None:
    ring = KeyRing(bytes(range(32)))
    keys = ring.keys(LOCATOR, 2)
    assert keys.layout_key.hex() == "493231cdb51a5a589fd564718ce339ed26e74ac8de6c05355c127beea22486b1"
    assert keys.face_keys[0].hex() == "aa7113bf1b6876cd8a4724b3ab9d9b4e4be2589ef59fec5f88b16bad331b2747"
    assert keys.face_keys[1].hex() == "3612407bfda86a4f2c2fc5c8c4700b3acb9a377cef017a81ea045760adfdb060"
    assert set(keys.face_keys) == {0, 1}


def test_every_key_differs() -> None:
    rings = [KeyRing(bytes([i]) * 32) for i in range(3)]
    locators = [bytes([i]) * 8 for i in range(3)]
    keys = {ring.face_key(loc, face) for ring in rings for loc in locators for face in range(3)}
    keys |= {ring.layout_key(loc) for ring in rings for loc in locators}
    assert len(keys) == 36


def test_what_is_released_with_a_ring_is_recovered_with_it() -> None:
    ring = KeyRing(bytes(range(32)))
    item = ring.item_keys()
    recovery = ring.keys(LOCATOR, 1)
    assert item.layout_key(LOCATOR) == recovery.layout_key
    assert item.face_key(LOCATOR, 0) == recovery.face_keys[0]


def test_the_secret_is_never_printed() -> None:
    ring = KeyRing(b"\x41" * 32)
    assert "41" * 4 not in repr(ring)
    assert "AAAA" not in repr(ring)
    assert "AAAA" not in repr(ring.keys(LOCATOR, 1))


def test_of_a_photograph_it_does_not_say_who_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "anna.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    path.chmod(0o644)
    with pytest.raises(KeyRingError, match="it is none"):
        KeyRing.load(path)
