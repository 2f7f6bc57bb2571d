"""The embedded mark of a recovered face: sixteen bytes (a ticket's id) through the learned channel, at public places.

Anyone may read it and so learn which recovery a face that turns up somewhere came from. It survives what the channel
survives: JPEG, WebP, brightness; a crop or a shift, where the piece was kept as PNG; not a resize.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from refacex_core.errors import PayloadMissing, PayloadUnreadable
from refacex_core.stego import ldpc, registration
from refacex_core.stego.channel import TILE, Channel
from refacex_core.stego.framing import keyed_permutation
from refacex_core.stego.network import CARRIERS
from refacex_core.types import RGB

MARK_BYTES = 16
SIDE = 8 * TILE  # pixels: a mark lies in the first 256 x 256 of an image
_FAINT, _GRIDS = 1.0, 6  # a mark uses few places, so its grid does not stand out
_PLACES = 2048  # of the tile's: few enough to be invisible, enough to survive a WebP 80: tests/core/test_mark.py


def _order() -> NDArray[np.int64]:
    return keyed_permutation(b"refacex v1 mark places", CARRIERS * TILE * TILE)[:_PLACES]


def write(channel: Channel, image: RGB, mark: bytes) -> RGB:
    """`image` (256 x 256 x 3) with `mark` (16 bytes) in it. ValueError for another size of either."""
    if image.shape[:2] != (SIDE, SIDE) or len(mark) != MARK_BYTES:
        raise ValueError(f"a mark has {MARK_BYTES} bytes and goes into {SIDE} x {SIDE} pixels")
    bits = np.zeros(CARRIERS * TILE * TILE, np.uint8)
    used = np.zeros(CARRIERS * TILE * TILE, bool)
    word = np.unpackbits(np.frombuffer(mark + zlib.crc32(mark).to_bytes(4, "big"), np.uint8))
    bits[_order()], used[_order()] = ldpc.encode(word, _PLACES), True
    return channel.write(image, bits.reshape(CARRIERS, TILE, TILE), used.reshape(CARRIERS, TILE, TILE))


def read(channel: Channel, image: RGB) -> bytes | None:
    """The mark in the first 256 x 256 pixels of `image` (H x W x 3), or in a piece of them; None where there is none."""
    if min(image.shape[:2]) >= SIDE:
        found = _mark_of(channel.listen(np.array(image[:SIDE, :SIDE])).ravel()[_order()])
        if found is not None:
            return found
    try:
        for _, llr in channel.grids(image[: 2 * SIDE, : 2 * SIDE], clear=_FAINT, most=_GRIDS):
            for _, heard in registration.tiles(llr, _order(), TILE, [8 * (MARK_BYTES + 4)]):
                found = _mark_of(heard)
                if found is not None:
                    return found
    except PayloadMissing:
        pass
    return None


def _mark_of(heard: NDArray[np.float32]) -> bytes | None:
    """The mark, from what was heard of each of its places."""
    try:
        word = np.packbits(ldpc.decode(heard, 8 * (MARK_BYTES + 4))).tobytes()
    except PayloadUnreadable:
        return None
    return word[:MARK_BYTES] if zlib.crc32(word[:MARK_BYTES]).to_bytes(4, "big") == word[MARK_BYTES:] else None
