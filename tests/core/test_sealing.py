"""Sealing: known answers, and no way to read a payload with anything but its own key, header and context."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refacex_core import sealing
from refacex_core.errors import FaceUnknown, PayloadMismatch, WrongKey
from refacex_core.sealing import (
    SealedFace,
    check_key,
    key_check,
    open_face,
    open_layout,
    permutation,
    seal,
    sealed_size,
)
from refacex_core.stego.framing import FaceGeometry, Header
from refacex_core.types import Profile, SealContext

VECTORS = json.loads((Path(__file__).parent / "vectors" / "sealing_v1.json").read_text())
CONTEXT = SealContext(tenant="press", release="7", item="a.png", model_version="1", policy="random")
LAYOUT_KEY = bytes(range(32))
FACE_KEYS = [bytes([i]) * 32 for i in (1, 2)]
LOCATOR = b"8 bytes!"
FACES = [
    SealedFace(FaceGeometry(1600, -32, 512, -8192), b"first payload", b"face one"),
    SealedFace(FaceGeometry(3, 4, -5, 6), b"second", b"face two"),
]
FINGERPRINT = bytes(range(16))


def sealed(**changes: Any) -> tuple[Header, bytes]:
    arguments: dict[str, Any] = {
        "profile": Profile.ROBUST,
        "model_id": 1,
        "locator": LOCATOR,
        "layout_key": LAYOUT_KEY,
        "face_keys": FACE_KEYS,
        "context": CONTEXT,
        "faces": FACES,
        "fingerprint": FINGERPRINT,
    }
    return seal(**(arguments | changes))


def geometry(fields: list[int]) -> FaceGeometry:
    return FaceGeometry(*fields)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_known_answers(vector: dict[str, Any]) -> None:
    context = SealContext(**vector["context"])
    header, data = seal(
        profile=Profile(vector["profile"]),
        model_id=vector["model_id"],
        locator=bytes.fromhex(vector["locator"]),
        layout_key=bytes.fromhex(vector["layout_key"]),
        face_keys=[bytes.fromhex(key) for key in vector["face_keys"]],
        context=context,
        faces=[
            SealedFace(geometry(f["geometry"]), bytes.fromhex(f["payload"]), bytes.fromhex(f["fingerprint"]))
            for f in vector["faces"]
        ],
        fingerprint=bytes.fromhex(vector["fingerprint"]),
    )
    assert header.pack().hex() == vector["header"]
    assert data.hex() == vector["sealed"]
    order = permutation(bytes.fromhex(vector["layout_key"]), header.locator, 16)
    assert order.tolist() == vector["permutation_16"]


def test_what_is_sealed_opens() -> None:
    header, data = sealed()
    assert len(data) == header.sealed_bytes == sealed_size([len(face.payload) for face in FACES])
    layout = open_layout(header, data, LAYOUT_KEY, CONTEXT)
    assert layout.fingerprint == FINGERPRINT
    for i, face in enumerate(FACES):
        assert layout.faces[i].geometry == face.geometry
        assert layout.faces[i].fingerprint == face.fingerprint
        assert open_face(header, data, layout, i, FACE_KEYS[i], CONTEXT) == face.payload


def test_an_image_without_faces_still_names_itself() -> None:
    header, data = sealed(faces=[], face_keys=[])
    assert open_layout(header, data, LAYOUT_KEY, CONTEXT).faces == ()


def test_a_wrong_layout_key_is_known_from_the_header_alone() -> None:
    header, data = sealed()
    check_key(header, LAYOUT_KEY)
    for wrong in (bytes(32), LAYOUT_KEY[:-1] + b"\0", LAYOUT_KEY[:31], b""):
        with pytest.raises(WrongKey):
            check_key(header, wrong)
        with pytest.raises(WrongKey):
            open_layout(header, data, wrong, CONTEXT)


@pytest.mark.parametrize(
    "key", [FACE_KEYS[1], bytes(32), b"", LAYOUT_KEY], ids=["another face", "zeros", "none", "layout"]
)
def test_a_wrong_face_key_is_refused(key: bytes) -> None:
    header, data = sealed()
    layout = open_layout(header, data, LAYOUT_KEY, CONTEXT)
    with pytest.raises(WrongKey):
        open_face(header, data, layout, 0, key, CONTEXT)


@pytest.mark.parametrize("index", [-1, 2, 255])
def test_a_face_that_is_not_there_is_unknown(index: int) -> None:
    header, data = sealed()
    layout = open_layout(header, data, LAYOUT_KEY, CONTEXT)
    with pytest.raises(FaceUnknown):
        open_face(header, data, layout, index, FACE_KEYS[0], CONTEXT)


@pytest.fixture
def one_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys as if they were derived without the context: only the associated data still tells one from another."""
    derive = sealing._derive

    def without(key: bytes, locator: bytes, label: str, size: int, context: bytes = b"") -> bytes:
        return derive(key, locator, label, size)

    monkeypatch.setattr(sealing, "_derive", without)


@pytest.mark.usefixtures("one_derivation")
@pytest.mark.parametrize("field", ["tenant", "release", "item", "model_version", "policy"])
def test_the_associated_data_alone_binds_to_the_context(field: str) -> None:
    header, data = sealed()
    layout, other = open_layout(header, data, LAYOUT_KEY, CONTEXT), replace(CONTEXT, **{field: "other"})
    assert open_face(header, data, layout, 0, FACE_KEYS[0], CONTEXT) == FACES[0].payload
    with pytest.raises(PayloadMismatch):
        open_layout(header, data, LAYOUT_KEY, other)
    with pytest.raises(PayloadMismatch):
        open_face(header, data, layout, 0, FACE_KEYS[0], other)


def swapped() -> tuple[Header, bytes]:
    """Two faces under one key, each in the other's place."""
    faces = [replace(face, payload=bytes([i]) * 10) for i, face in enumerate(FACES)]
    header, data = sealed(faces=faces, face_keys=[FACE_KEYS[0]] * 2)
    size = sealing.SUITE.commitment_bytes + 10 + sealing.SUITE.tag_bytes
    return header, data[: -2 * size] + data[-size:] + data[-2 * size : -size]


def test_a_face_in_anothers_place_is_refused() -> None:
    header, data = swapped()
    layout = open_layout(header, data, LAYOUT_KEY, CONTEXT)
    for face in (0, 1):
        with pytest.raises(WrongKey):
            open_face(header, data, layout, face, FACE_KEYS[0], CONTEXT)


@pytest.mark.usefixtures("one_derivation")
def test_the_associated_data_alone_tells_faces_apart() -> None:
    header, data = swapped()
    layout = open_layout(header, data, LAYOUT_KEY, CONTEXT)
    for face in (0, 1):
        with pytest.raises(PayloadMismatch):
            open_face(header, data, layout, face, FACE_KEYS[0], CONTEXT)


@pytest.mark.parametrize("field", ["tenant", "release", "item", "model_version", "policy"])
def test_a_payload_is_bound_to_its_context(field: str) -> None:
    header, data = sealed()
    other = replace(CONTEXT, **{field: "other"})
    with pytest.raises(PayloadMismatch):
        open_layout(header, data, LAYOUT_KEY, other)
    with pytest.raises(WrongKey):  # the commitment is derived with the context
        open_face(header, data, open_layout(header, data, LAYOUT_KEY, CONTEXT), 0, FACE_KEYS[0], other)


@pytest.mark.parametrize(
    "change",
    [{"profile": Profile.ARCHIVE}, {"model_id": 2}, {"faces": 1}, {"sealed_bytes": 99}, {"locator": b"another!"}],
    ids=str,
)
def test_a_payload_is_bound_to_its_header(change: dict[str, Any]) -> None:
    header, data = sealed()
    forged = replace(header, **change)
    forged = replace(forged, key_check=key_check(LAYOUT_KEY, forged.locator))
    with pytest.raises(PayloadMismatch):
        open_layout(forged, data, LAYOUT_KEY, CONTEXT)


def test_a_payload_under_another_items_header_is_refused() -> None:
    _, data = sealed()
    header, _ = sealed(locator=b"victim 2", layout_key=bytes(32))
    with pytest.raises(PayloadMismatch):
        open_layout(header, data, bytes(32), CONTEXT)


@settings(deadline=None)
@given(st.data())
def test_no_bit_can_be_changed(data: st.DataObject) -> None:
    header, good = sealed()
    layout = open_layout(header, good, LAYOUT_KEY, CONTEXT)
    bit = data.draw(st.integers(0, len(good) * 8 - 1))
    forged = bytearray(good)
    forged[bit // 8] ^= 1 << bit % 8
    opened: list[object] = []
    for attempt in (
        lambda: open_layout(header, bytes(forged), LAYOUT_KEY, CONTEXT),
        lambda: open_face(header, bytes(forged), layout, 0, FACE_KEYS[0], CONTEXT),
        lambda: open_face(header, bytes(forged), layout, 1, FACE_KEYS[1], CONTEXT),
    ):
        try:
            opened.append(attempt())
        except (PayloadMismatch, WrongKey):
            opened.append(None)
    assert opened.count(None) == 1  # the part that holds the bit, and only that one


@given(st.integers(0, 200))
def test_a_shortened_payload_is_refused(cut: int) -> None:
    header, data = sealed()
    if cut >= len(data):
        return
    with pytest.raises(PayloadMismatch):
        open_layout(header, data[:cut], LAYOUT_KEY, CONTEXT)
    layout = open_layout(header, data, LAYOUT_KEY, CONTEXT)
    with pytest.raises((PayloadMismatch, WrongKey)):
        open_face(header, data[:cut], layout, 1, FACE_KEYS[1], CONTEXT)


def test_two_attempts_share_no_bytes() -> None:
    _, first = sealed(locator=b"attempt1")
    _, second = sealed(locator=b"attempt2")
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert same <= 12  # chance: len / 256, about one


@pytest.mark.parametrize(
    "wrong",
    [{"layout_key": b"short"}, {"face_keys": FACE_KEYS[:1]}, {"face_keys": [b"", b""]}, {"locator": b"x"}],
    ids=["layout key", "one key", "no keys", "locator"],
)
def test_sizes_are_checked_before_anything_is_sealed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"key"):
        sealed(**wrong)


def test_nothing_secret_is_printed() -> None:
    assert "payload" not in repr(FACES[0])
    header, data = sealed()
    assert FINGERPRINT.hex() not in repr(open_layout(header, data, LAYOUT_KEY, CONTEXT))
