"""The `robust` profile: header and sealed bytes into the pixels of a finished image, and out of a received file.

The learned network on the luma DCT grid, soft decisions, error correction; the header at public places that repeat with
every tile of 32 x 32 blocks, the sealed part over all other places in the order of the layout key.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from refacex_core import weights
from refacex_core.errors import ImageTooSmall, PayloadMissing, PayloadUnreadable
from refacex_core.sealing import check_key, permutation
from refacex_core.stego import ldpc
from refacex_core.stego.framing import HEADER_BYTES, Header, keyed_permutation
from refacex_core.stego.network import CARRIERS, StegoNetwork
from refacex_core.types import RGB, Profile

TILE = 32  # blocks
HEADER_PLACES = 2048  # a tile
_LOW, _HIGH = 5, 250  # rounding and clipping at the ends of the range would cost bits
#: Information bits a place: at most, or the image is too small; and at least, by the header's `spread` (more places make
#: the payload harder to lose and the picture a little worse).
_FULLEST = 0.36
_SPARSEST = (0.26, 0.13)


def _tile_places() -> NDArray[np.bool_]:
    """Which places (CARRIERS x 32 x 32) of a tile carry the header."""
    flat = np.zeros(CARRIERS * TILE * TILE, bool)
    flat[_header_order()] = True
    return flat.reshape(CARRIERS, TILE, TILE)


def _header_order() -> NDArray[np.int64]:
    return keyed_permutation(b"refacex v1 header places", CARRIERS * TILE * TILE)[:HEADER_PLACES]


_TILE = _tile_places()
#: For each header place, which bit of the header's code word stands there (CARRIERS x 32 x 32).
_TILE_BIT = np.zeros((CARRIERS, TILE, TILE), np.int64)
_TILE_BIT.ravel()[_header_order()] = np.arange(HEADER_PLACES)


def _tiled(tile: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.generic]:
    repeated = np.tile(tile, (1, -(-rows // TILE), -(-columns // TILE)))
    return repeated[:, :rows, :columns]


def _bits(data: bytes) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(data, np.uint8))


def capacity(height: int, width: int) -> int:
    """The largest sealed part, in bytes, that an image of this size carries."""
    rows, columns = height // 8, width // 8
    if rows < TILE // 2 or columns < TILE // 2:  # less than half a tile each way cannot carry the header
        return 0
    free = CARRIERS * rows * columns - int(_tiled(_TILE, rows, columns).sum())
    return int(free * _FULLEST) // 8


def _length(header: Header, free: int) -> int:
    """How many places carry the sealed part: a rule that writer and reader share."""
    return min(free, int(header.sealed_bytes * 8 / _SPARSEST[header.spread]))


class Channel:
    """The trained network with the weights `name`, and its framing. One instance serves any number of images."""

    def __init__(self, device: torch.device | str, name: str) -> None:
        self._net = StegoNetwork()
        weights.load_into(self._net, name)
        self._net.to(device)
        self._device = device

    def embed(self, image: RGB, header: Header, sealed: bytes, layout_key: bytes) -> RGB:
        """`image` (H x W x 3) with header and sealed part in it. ImageTooSmall when they do not fit."""
        height, width = image.shape[:2]
        if len(sealed) > capacity(height, width):
            raise ImageTooSmall(f"{len(sealed)} bytes into {width} x {height} pixels")
        rows, columns = height // 8, width // 8
        bits = np.zeros((CARRIERS, rows, columns), np.uint8)
        used = _tiled(_TILE, rows, columns).astype(bool)
        word = ldpc.encode(_bits(header.pack()), HEADER_PLACES)
        bits[used] = word[_tiled(_TILE_BIT, rows, columns)[used]]
        free = np.flatnonzero(~used.ravel())
        n = _length(header, len(free))
        places = free[permutation(layout_key, header.locator, len(free))[:n]]
        bits.ravel()[places] = ldpc.encode(_bits(sealed), n)
        used.ravel()[places] = True
        return self.write(image, bits, used)

    @torch.inference_mode()
    def write(self, image: RGB, bits: NDArray[np.uint8], used: NDArray[np.bool_]) -> RGB:
        """`image` with raw `bits` in the places that are `used` (both CARRIERS x H/8 x W/8)."""
        x = torch.from_numpy(np.clip(image, _LOW, _HIGH)).permute(2, 0, 1)[None].float().to(self._device)
        b = torch.from_numpy(bits)[None].float().to(self._device)
        u = torch.from_numpy(used)[None].float().to(self._device)
        stego, _ = self._net.embed(x, b, u)
        out: RGB = stego[0].round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(out)

    @torch.inference_mode()
    def listen(self, image: RGB) -> NDArray[np.float32]:
        """Log-likelihood ratios of all places (CARRIERS x H/8 x W/8). PayloadMissing when the image is too small."""
        if min(image.shape[:2]) < 8 * TILE // 2:
            raise PayloadMissing
        x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float().to(self._device)
        llr: NDArray[np.float32] = self._net.extract(x)[0].cpu().numpy()
        return llr

    def read_header(self, llr: NDArray[np.float32]) -> Header:
        """The header in what `listen` heard; all tiles add up. PayloadMissing when there is none."""
        rows, columns = llr.shape[1:]
        there = _tiled(_TILE, rows, columns).astype(bool)
        heard = np.bincount(_tiled(_TILE_BIT, rows, columns)[there], llr[there], HEADER_PLACES).astype(np.float32)
        try:
            bits = ldpc.decode(heard, 8 * HEADER_BYTES)
        except PayloadUnreadable:
            raise PayloadMissing from None
        return Header.unpack(np.packbits(bits).tobytes())

    def read_sealed(self, image: RGB, llr: NDArray[np.float32], header: Header, layout_key: bytes) -> bytes:
        """The sealed part. WrongKey for another layout key; PayloadUnreadable when too much was lost."""
        check_key(header, layout_key)
        archive = header.profile is Profile.ARCHIVE
        if header.sealed_bytes > (image.size // 8 if archive else capacity(*image.shape[:2])):
            raise PayloadUnreadable("the image is smaller than it was when released")
        if archive:  # as model 1 wrote it
            flat = image.reshape(-1)
            places = permutation(layout_key, header.locator, flat.size)[: 8 * header.sealed_bytes]
            return np.packbits(flat[places] & 1).tobytes()
        rows, columns = llr.shape[1:]
        free = np.flatnonzero(~_tiled(_TILE, rows, columns).astype(bool).ravel())
        n = _length(header, len(free))
        places = free[permutation(layout_key, header.locator, len(free))[:n]]
        bits = ldpc.decode(llr.ravel()[places], 8 * header.sealed_bytes)
        return np.packbits(bits).tobytes()
