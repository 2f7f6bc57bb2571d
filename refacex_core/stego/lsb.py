"""The `archive` profile: header and sealed part in the least significant bits of the colour values, for PNG alone.

The header stands at public places, the sealed part at places drawn by the layout key. A bit is set by moving a value to its
neighbour with that last bit, so no value changes by more than one. Nothing here survives any change of the pixels: the
header's checksum and the seal tell.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from refacex_core.errors import ImageTooSmall, PayloadMissing, PayloadUnreadable
from refacex_core.sealing import check_key, interleaving_seed
from refacex_core.stego.framing import HEADER_BYTES, Header
from refacex_core.types import RGB

_HEADER_BITS = 8 * HEADER_BYTES[1]
_PUBLIC = b"refacex v1 archive header places"
_SMALLEST = 128  # pixels, each side: as in the other profile
_DENSEST = 0.75  # the largest share of the colour values that carries a bit


def capacity(height: int, width: int) -> int:
    """The largest sealed part, in bytes, that an image of this size carries."""
    if min(height, width) < _SMALLEST:
        return 0
    return (int(height * width * 3 * _DENSEST) - _HEADER_BITS) // 8


def _places(seed: bytes, size: int, count: int, taken: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """`count` different numbers below `size`, none of them `taken`, drawn from `seed`: the first that SHAKE-256 gives.

    It does not depend on any library's random stream. No more is drawn than is needed: a large image has many places.
    """
    taken = np.zeros(0, np.int64) if taken is None else taken
    wanted = count + len(taken)
    words = wanted + wanted // 4 + 64
    while True:
        drawn = np.frombuffer(hashlib.shake_256(seed).digest(8 * words), ">u8") % np.uint64(size)
        line = np.concatenate([taken, drawn.astype(np.int64)])
        _, first = np.unique(line, return_index=True)
        if len(first) >= wanted:
            return line[np.sort(first)[len(taken) : wanted]]
        words *= 2


def _header_places(size: int) -> NDArray[np.int64]:
    return _places(_PUBLIC, size, _HEADER_BITS)


def _sealed_places(size: int, header: Header, layout_key: bytes) -> NDArray[np.int64]:
    seed = interleaving_seed(layout_key, header.locator)
    return _places(b"refacex v1 archive" + seed, size, 8 * header.sealed_bytes, _header_places(size))


def write(image: RGB, header: Header, sealed: bytes, layout_key: bytes) -> RGB:
    """`image` (H x W x 3) with header and sealed part in it. ImageTooSmall when they do not fit."""
    height, width = image.shape[:2]
    if len(sealed) > capacity(height, width):
        raise ImageTooSmall(f"{len(sealed)} bytes into {width} x {height} pixels")
    flat = image.reshape(-1).copy()
    places = np.concatenate([_header_places(flat.size), _sealed_places(flat.size, header, layout_key)])
    bits = np.unpackbits(np.frombuffer(header.pack() + sealed, np.uint8))
    flat[places] = (flat[places] & 0xFE) | bits
    return flat.reshape(image.shape)


def read_header(image: RGB) -> Header:
    """The header. PayloadMissing when there is none."""
    if min(image.shape[:2]) < _SMALLEST:
        raise PayloadMissing
    flat = image.reshape(-1)
    return Header.unpack(np.packbits(flat[_header_places(flat.size)] & 1).tobytes())


def read_sealed(image: RGB, header: Header, layout_key: bytes) -> bytes:
    """The sealed part: some bytes, which only opening tells right from wrong. WrongKey for another layout key;
    PayloadUnreadable when the image is too small for what the header says.
    """
    check_key(header, layout_key)
    if header.sealed_bytes > capacity(*image.shape[:2]):
        raise PayloadUnreadable("the image is smaller than it was when released")
    flat = image.reshape(-1)
    return np.packbits(flat[_sealed_places(flat.size, header, layout_key)] & 1).tobytes()
