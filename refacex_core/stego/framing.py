"""The bytes of a payload: the public header, the layout of the faces, and the key-driven interleaver.

Header, 24 bytes, big-endian: format version u8 | strength u2 | spread u2 | profile u4 | model id u16 | faces u8 | sealed bytes u24 |
locator 8 | key check 4 | CRC-32 of the bytes before it. It stands at fixed places and needs no key. In format 2, 30 bytes: before
the CRC stand width u24 and height u24 of the image as released, so that a piece of it can be put back in its place.

Layout, 16 + 20 bytes a face, only ever stored sealed: fingerprint of the image 16, then for each face centre x and y
i24 (1/16 pixel), log2 of the scale i16 (1/2048), angle i16 (pi/32768), payload bytes u16, fingerprint of the face 8.
"""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from refacex_core.errors import PayloadMismatch, PayloadMissing
from refacex_core.types import Profile

HEADER_BYTES = {1: 24, 2: 30}  # by format version
LOCATOR_BYTES = 8
KEY_CHECK_BYTES = 4
MAX_FACES = 255
STRENGTHS = 4  # how far carriers are moved to their lattice points: see `network`
SPREADS = 3  # how widely the sealed part is spread over the image's places: see `channel`
MAX_PAYLOAD_BYTES = 0xFFFF
MAX_SEALED_BYTES = 0xFFFFFF
IMAGE_FINGERPRINT_BYTES = 16
FACE_FINGERPRINT_BYTES = 8

_PROFILES = (Profile.ROBUST, Profile.ARCHIVE)
_FACE_BYTES = 20
_POSITION_STEP = 1 / 16
_SCALE_STEP = 1 / 2048
_ANGLE_STEP = math.pi / 32768
_CROP_CENTRE = 128.0  # of the 256 x 256 aligned crop, in its pixel coordinates


def new_locator() -> bytes:
    """Eight random bytes that name one attempt at one image. Draw a fresh one for every call of `sealing.seal`."""
    return os.urandom(LOCATOR_BYTES)


@dataclass(frozen=True)
class Header:
    """What anyone can read from a released file: which model wrote it, how, and by which locator to ask for its keys."""

    profile: Profile
    model_id: int
    faces: int
    sealed_bytes: int
    locator: bytes
    key_check: bytes
    spread: int = 0
    strength: int = 0  # of the embedding: see `network`
    size: tuple[int, int] | None = None  # width and height in pixels; none in format 1

    @property
    def format_version(self) -> int:
        """1, or 2 where the header says how large the image was."""
        return 1 if self.size is None else 2

    def pack(self) -> bytes:
        """The 24 or 30 bytes. ValueError when a field is out of its range."""
        if len(self.locator) != LOCATOR_BYTES or len(self.key_check) != KEY_CHECK_BYTES:
            raise ValueError("a locator has 8 bytes and a key check 4")
        if self.spread not in range(SPREADS) or self.strength not in range(STRENGTHS):
            raise ValueError(f"the spread is 0..{SPREADS - 1}, the strength 0..{STRENGTHS - 1}")
        how = self.strength << 6 | self.spread << 4 | _PROFILES.index(self.profile)
        numbers = ((self.format_version, 1), (how, 1), (self.model_id, 2), (self.faces, 1))
        try:
            body = b"".join(value.to_bytes(size, "big") for value, size in (*numbers, (self.sealed_bytes, 3)))
            body += self.locator + self.key_check
            body += b"".join(side.to_bytes(3, "big") for side in self.size or ())
        except OverflowError as error:
            raise ValueError(f"a header field does not fit: {self}") from error
        return body + zlib.crc32(body).to_bytes(4, "big")

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """The header in `data` (24 or 30 bytes). PayloadMissing when the checksum, version or profile is not one of ours."""
        if len(data) not in HEADER_BYTES.values() or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
            raise PayloadMissing
        how, profile = divmod(data[1], 16)
        strength, spread = divmod(how, 4)
        if HEADER_BYTES.get(data[0]) != len(data) or profile >= len(_PROFILES) or spread >= SPREADS:
            raise PayloadMissing(f"it is of format {data[0]}.{data[1]}, which this version cannot read")
        return cls(
            size=(int.from_bytes(data[20:23], "big"), int.from_bytes(data[23:26], "big")) if data[0] == 2 else None,
            profile=_PROFILES[profile],
            spread=spread,
            strength=strength,
            model_id=int.from_bytes(data[2:4], "big"),
            faces=data[4],
            sealed_bytes=int.from_bytes(data[5:8], "big"),
            locator=data[8:16],
            key_check=data[16:20],
        )


@dataclass(frozen=True)
class FaceGeometry:
    """Where a face lies: the similarity from image pixels to its 256 x 256 crop, in the layout's whole-number steps.

    Cut crops with `matrix()` of the quantised geometry, so that writer and reader cut the very same pixels.
    """

    x: int  # centre of the crop in the image, 1/16 pixel; may lie outside the image
    y: int
    log_scale: int  # log2(crop pixels an image pixel), 1/2048
    angle: int  # pi/32768

    @classmethod
    def from_matrix(cls, matrix: NDArray[np.float64]) -> FaceGeometry:
        """The nearest geometry to a 2 x 3 similarity (image to crop). ValueError when it is out of range or none."""
        a, b = float(matrix[0, 0]), float(matrix[1, 0])
        scale = math.hypot(a, b)
        if not (math.isfinite(scale) and scale > 0 and np.all(np.isfinite(matrix))):
            raise ValueError("not a similarity")
        dx, dy = _CROP_CENTRE - float(matrix[0, 2]), _CROP_CENTRE - float(matrix[1, 2])
        x, y = (a * dx + b * dy) / scale**2, (a * dy - b * dx) / scale**2
        angle = (round(math.atan2(b, a) / _ANGLE_STEP) + 32768) % 65536 - 32768
        log_scale = round(math.log2(scale) / _SCALE_STEP)
        geometry = cls(round(x / _POSITION_STEP), round(y / _POSITION_STEP), log_scale, angle)
        geometry.pack()
        return geometry

    def matrix(self) -> NDArray[np.float64]:
        """The 2 x 3 similarity from image pixels to crop pixels."""
        scale, angle = 2.0 ** (self.log_scale * _SCALE_STEP), self.angle * _ANGLE_STEP
        a, b = scale * math.cos(angle), scale * math.sin(angle)
        x, y = self.x * _POSITION_STEP, self.y * _POSITION_STEP
        return np.array([[a, -b, _CROP_CENTRE - a * x + b * y], [b, a, _CROP_CENTRE - b * x - a * y]])

    def pack(self) -> bytes:
        """Ten bytes. ValueError when a field is out of its range."""
        try:
            return b"".join(
                value.to_bytes(size, "big", signed=True)
                for value, size in ((self.x, 3), (self.y, 3), (self.log_scale, 2), (self.angle, 2))
            )
        except OverflowError as error:
            raise ValueError(f"a face lies beyond what the layout can hold: {self}") from error

    @classmethod
    def unpack(cls, data: bytes) -> FaceGeometry:
        """The geometry in ten bytes."""
        fields = (data[0:3], data[3:6], data[6:8], data[8:10])
        return cls(*(int.from_bytes(part, "big", signed=True) for part in fields))


@dataclass(frozen=True)
class FaceEntry:
    """One face of a layout: where it is, how long its payload is, and the fingerprint of the released face."""

    geometry: FaceGeometry
    payload_bytes: int
    fingerprint: bytes


@dataclass(frozen=True)
class Layout:
    """All faces of an image and the fingerprint of the image as released."""

    fingerprint: bytes = field(repr=False)
    faces: tuple[FaceEntry, ...]

    def pack(self) -> bytes:
        """16 + 20 bytes a face. ValueError when something is out of its range."""
        if len(self.fingerprint) != IMAGE_FINGERPRINT_BYTES or len(self.faces) > MAX_FACES:
            raise ValueError(f"a layout needs a fingerprint of 16 bytes and at most {MAX_FACES} faces")
        parts = [self.fingerprint]
        for face in self.faces:
            if len(face.fingerprint) != FACE_FINGERPRINT_BYTES or not 0 <= face.payload_bytes <= MAX_PAYLOAD_BYTES:
                raise ValueError("a face needs a fingerprint of 8 bytes and a payload of at most 65535")
            parts += [face.geometry.pack(), face.payload_bytes.to_bytes(2, "big"), face.fingerprint]
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> Layout:
        """The layout in `data`, which was authenticated before. PayloadMismatch when its length is none of ours."""
        count, rest = divmod(len(data) - IMAGE_FINGERPRINT_BYTES, _FACE_BYTES)
        if count < 0 or rest:
            raise PayloadMismatch("the layout has no valid length")
        starts = range(IMAGE_FINGERPRINT_BYTES, len(data), _FACE_BYTES)
        records = [data[i : i + _FACE_BYTES] for i in starts]
        faces = tuple(
            FaceEntry(FaceGeometry.unpack(r[:10]), int.from_bytes(r[10:12], "big"), r[12:20]) for r in records
        )
        return cls(data[:IMAGE_FINGERPRINT_BYTES], faces)


def layout_size(faces: int) -> int:
    """Plaintext bytes of the layout of so many faces."""
    return IMAGE_FINGERPRINT_BYTES + _FACE_BYTES * faces


def keyed_permutation(seed: bytes, n: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 drawn from `seed`: the stable order of n 64-bit words of SHAKE-256.

    It does not depend on any library's random stream, so that files stay readable for ever.
    """
    words = np.frombuffer(hashlib.shake_256(b"refacex v1 permutation" + seed).digest(8 * n), ">u8").astype(np.uint64)
    return np.argsort(words, kind="stable").astype(np.int64)
