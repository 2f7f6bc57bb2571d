"""Header, geometry, layout and interleaver: what is written is what is read, and its bytes never change."""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refacex_core.errors import PayloadMismatch, PayloadMissing
from refacex_core.stego.framing import (
    SPREADS,
    STRENGTHS,
    FaceEntry,
    FaceGeometry,
    Header,
    Layout,
    keyed_permutation,
    layout_size,
    new_locator,
)
from refacex_core.types import Profile

HEADER = Header(Profile.ARCHIVE, 0x0203, 4, 0x050607, b"locator!", b"chck")
HEADER_HEX = "0101020304050607" + b"locator!chck".hex() + "02ed8d4c"
SIZED = replace(HEADER, profile=Profile.ROBUST, spread=2, strength=3, size=(0x0A0B0C, 0x0D0E0F))
SIZED_HEX = "02e0020304050607" + b"locator!chck".hex() + "0a0b0c0d0e0f" + "cc33c5ff"

headers = st.builds(
    Header,
    profile=st.sampled_from(Profile),
    model_id=st.integers(0, 0xFFFF),
    spread=st.integers(0, SPREADS - 1),
    strength=st.integers(0, STRENGTHS - 1),
    faces=st.integers(0, 255),
    sealed_bytes=st.integers(0, 0xFFFFFF),
    locator=st.binary(min_size=8, max_size=8),
    key_check=st.binary(min_size=4, max_size=4),
    size=st.none() | st.tuples(st.integers(0, 0xFFFFFF), st.integers(0, 0xFFFFFF)),
)
geometries = st.builds(
    FaceGeometry,
    x=st.integers(-(2**23), 2**23 - 1),
    y=st.integers(-(2**23), 2**23 - 1),
    log_scale=st.integers(-(2**15), 2**15 - 1),
    angle=st.integers(-(2**15), 2**15 - 1),
)
faces = st.builds(
    FaceEntry,
    geometry=geometries,
    payload_bytes=st.integers(0, 0xFFFF),
    fingerprint=st.binary(min_size=8, max_size=8),
)


def test_the_header_is_laid_out_as_documented() -> None:
    assert HEADER.pack().hex() == HEADER_HEX
    assert SIZED.pack().hex() == SIZED_HEX


@given(headers)
def test_a_header_comes_back(header: Header) -> None:
    assert Header.unpack(header.pack()) == header


@given(headers, st.integers(0, 239))
def test_a_header_with_one_bit_off_is_no_header(header: Header, bit: int) -> None:
    data = bytearray(header.pack())
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PayloadMissing):
        Header.unpack(bytes(data))


@pytest.mark.parametrize("data", [b"", bytes(23), bytes(24), bytes(25), b"\xff" * 24])
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(PayloadMissing):
        Header.unpack(data)


def test_a_header_of_a_later_version_says_so() -> None:
    """Also one whose length is another version's."""
    for size, version in ((None, 3), (None, 2), ((640, 480), 1), ((640, 480), 3)):
        body = bytearray(Header(Profile.ROBUST, 1, 1, 1, bytes(8), bytes(4), size=size).pack()[:-4])
        body[0] = version
        with pytest.raises(PayloadMissing, match=f"format {version}"):
            Header.unpack(bytes(body) + zlib.crc32(body).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_id": 65536},
        {"faces": 256},
        {"sealed_bytes": 1 << 24},
        {"sealed_bytes": -1},
        {"locator": b"short"},
        {"key_check": b""},
        {"spread": SPREADS},
        {"size": (1 << 24, 1)},
        {"size": (1, -1)},
        {"spread": -1},
        {"strength": STRENGTHS},
        {"strength": -1},
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_is_not_written(wrong: dict[str, object]) -> None:
    fields = {"profile": Profile.ROBUST, "model_id": 1, "faces": 1, "sealed_bytes": 1, "locator": bytes(8)}
    fields |= {"key_check": bytes(4), **wrong}
    with pytest.raises(ValueError, match=r"locator|field|spread"):
        Header(**fields).pack()  # type: ignore[arg-type]


@given(geometries)
def test_a_geometry_comes_back(geometry: FaceGeometry) -> None:
    assert len(geometry.pack()) == 10
    assert FaceGeometry.unpack(geometry.pack()) == geometry


@given(
    st.floats(-2000, 20_000),
    st.floats(-2000, 20_000),
    st.floats(0.02, 12),
    st.floats(-math.pi, math.pi),
)
def test_a_geometry_is_close_to_its_matrix(x: float, y: float, scale: float, angle: float) -> None:
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[a, -b, 128 - a * x + b * y], [b, a, 128 - b * x - a * y]])
    geometry = FaceGeometry.from_matrix(matrix)
    quantised = geometry.matrix()
    corners = np.array([[0, 0], [255, 0], [0, 255], [255, 255]], float)
    inverse = np.linalg.inv(matrix[:, :2])
    image = (corners - matrix[:, 2]) @ inverse.T
    moved = image @ quantised[:, :2].T + quantised[:, 2]
    assert np.abs(moved - corners).max() < 0.06 + 0.05 * scale  # crop pixels; 1/32 image pixel of centre and the rest
    assert FaceGeometry.from_matrix(quantised) == geometry


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((2, 3)), np.full((2, 3), np.nan), np.array([[1.0, 0, 1e9], [0, 1, 0]])],
    ids=["zero", "nan", "far away"],
)
def test_a_matrix_that_is_no_face_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"similarity|layout"):
        FaceGeometry.from_matrix(matrix)


@given(st.binary(min_size=16, max_size=16), st.lists(faces, max_size=12))
def test_a_layout_comes_back(fingerprint: bytes, entries: list[FaceEntry]) -> None:
    layout = Layout(fingerprint, tuple(entries))
    assert len(layout.pack()) == layout_size(len(entries))
    assert Layout.unpack(layout.pack()) == layout


@pytest.mark.parametrize("size", [0, 15, 17, 35, 37])
def test_a_layout_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(PayloadMismatch):
        Layout.unpack(bytes(size))


def test_a_layout_that_does_not_fit_is_not_written() -> None:
    entry = FaceEntry(FaceGeometry(0, 0, 0, 0), 10, bytes(8))
    with pytest.raises(ValueError, match="255 faces"):
        Layout(bytes(16), (entry,) * 256).pack()
    with pytest.raises(ValueError, match="65535"):
        Layout(bytes(16), (FaceEntry(entry.geometry, 65536, bytes(8)),)).pack()


@given(st.binary(max_size=40), st.integers(0, 3000))
def test_a_permutation_holds_every_place_once(seed: bytes, n: int) -> None:
    assert np.array_equal(np.sort(keyed_permutation(seed, n)), np.arange(n))


def test_the_permutation_never_changes() -> None:
    order = keyed_permutation(b"seed", 1000)
    assert order[:6].tolist() == [756, 986, 484, 64, 825, 580]
    digest = hashlib.sha256(order.astype(">i8").tobytes()).hexdigest()
    assert digest == "81c1467e416b0e9c5ffeb2eec00a3a37b2e3a9e017fc007cf01705df7a0acc43"


def test_locators_are_fresh() -> None:
    assert len({new_locator() for _ in range(1000)}) == 1000
