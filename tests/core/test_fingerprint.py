"""Fingerprints: the same picture passes after re-encoding, another one does not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

import gateway
from refacex_core.fingerprint import face_fingerprint, image_fingerprint, matches
from refacex_core.images import decode, encode
from refacex_core.types import RGB

PHOTOGRAPHS = Path(gateway.__file__).parent / "demo_images"


def tiles(name: str, side: int = 256) -> list[RGB]:
    """Parts of a photograph, each a picture of its own (flat ones left out)."""
    rgb = decode((PHOTOGRAPHS / name).read_bytes()).rgb
    rows, columns = range(0, rgb.shape[0] - side, side), range(0, rgb.shape[1] - side, side)
    parts = [np.ascontiguousarray(rgb[y : y + side, x : x + side]) for y in rows for x in columns]
    return [part for part in parts if part.std() > 20]


PICTURES = [part for name in ("astronaut.png", "obama.jpg", "biden.jpg") for part in tiles(name)]


def brighter(rgb: RGB, factor: float) -> RGB:
    return np.asarray(np.clip(rgb * factor, 0, 255), np.uint8)


CHANGES: dict[str, Callable[[RGB], RGB]] = {
    "jpeg 50": lambda a: decode(encode(a, "jpeg", 50)).rgb,
    "jpeg 95 then 50": lambda a: decode(encode(decode(encode(a, "jpeg", 95)).rgb, "jpeg", 50)).rgb,
    "webp 80": lambda a: decode(encode(a, "webp", 80)).rgb,
    "5 % brighter": lambda a: brighter(a, 1.05),
    "5 % darker": lambda a: brighter(a, 0.95),
    "noise of 38 dB": lambda a: np.clip(a + np.random.default_rng(1).normal(0, 3.2, a.shape), 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("fingerprint", [image_fingerprint, face_fingerprint])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_still_matches(change: str, fingerprint: Callable[[RGB], bytes]) -> None:
    for picture in PICTURES:
        assert matches(fingerprint(picture), fingerprint(CHANGES[change](picture)))


@pytest.mark.parametrize("fingerprint", [image_fingerprint, face_fingerprint])
def test_another_picture_does_not_match(fingerprint: Callable[[RGB], bytes]) -> None:
    assert len(PICTURES) > 20
    for a, b in combinations([fingerprint(picture) for picture in PICTURES], 2):
        assert not matches(a, b)


def test_a_blanked_face_does_not_match() -> None:
    crop = cv2.resize(decode((PHOTOGRAPHS / "obama.jpg").read_bytes()).rgb[60:460, 260:660], (256, 256))
    original = face_fingerprint(np.asarray(crop, np.uint8))
    for blank in (np.zeros_like(crop), np.full_like(crop, 128), cv2.GaussianBlur(crop, (0, 0), 60)):
        assert not matches(original, face_fingerprint(np.asarray(blank, np.uint8)))


def test_sizes_are_the_ones_of_the_layout() -> None:
    assert len(image_fingerprint(PICTURES[0])) == 16
    assert len(face_fingerprint(PICTURES[0])) == 8


@pytest.mark.parametrize(("a", "b"), [(bytes(16), bytes(8)), (bytes(4), bytes(4)), (b"", b"")])
def test_fingerprints_of_two_kinds_cannot_be_compared(a: bytes, b: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        matches(a, b)


def test_fingerprints_of_released_files_stay_valid() -> None:
    y, x = np.mgrid[0:96, 0:128]
    picture = np.stack([x * 2, y * 2, (x * y) % 251], 2).astype(np.uint8)
    assert matches(image_fingerprint(picture), bytes.fromhex("00000000000150d003e0ff07fa17f87f"))
    assert matches(face_fingerprint(picture), bytes.fromhex("00000000000150d0"))
