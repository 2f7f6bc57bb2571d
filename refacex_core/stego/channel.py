"""The `robust` profile: header and sealed bytes into the pixels of a finished image, and out of a received file.

The learned network on the luma DCT grid, soft decisions, error correction; the header at public places that repeat with
every tile of 32 x 32 blocks, the sealed part over all other places in the order of the layout key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from refacex_core import weights
from refacex_core.errors import ImageTooSmall, PayloadMissing, PayloadUnreadable
from refacex_core.images import MAX_PIXELS
from refacex_core.sealing import check_key, permutation
from refacex_core.stego import ldpc, registration
from refacex_core.stego.framing import HEADER_BYTES, Header, keyed_permutation
from refacex_core.stego.network import CARRIERS, StegoNetwork
from refacex_core.stego.unembed import Unembedder
from refacex_core.types import RGB, Profile

TILE = 32  # blocks
HEADER_PLACES = 2048  # a tile
_LARGEST = 16  # times as many pixels as are left of it that an image may have had
_CLEAR = 0.03  # agreement of a header that was heard: more from a JPEG 50 of a release, less than half of it where there is none
_LOW, _HIGH = 5, 250  # rounding and clipping at the ends of the range would cost bits
#: Information bits a place: at most, or the image is too small; and at least, by the header's `spread` (more places make
#: the payload harder to lose and the picture a little worse).
_FULLEST = 0.36
_SPARSEST = (0.26, 0.13, 0.07)


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


def writable(image: RGB) -> RGB:
    """`image` as it is before anything is written into it: off the ends of the range."""
    return np.clip(image, _LOW, _HIGH)


def capacity(height: int, width: int) -> int:
    """The largest sealed part, in bytes, that an image of this size carries."""
    if min(height, width) // 8 < TILE // 2:  # less than half a tile each way cannot carry the header
        return 0
    return int(min(_free(height, width), ldpc.MAX_BITS) * _FULLEST) // 8


def fullness(height: int, width: int, sealed_bytes: int) -> float:
    """Information bits a place, where the sealed part is spread over all of an image of this size."""
    return 8 * sealed_bytes / max(_free(height, width), 1)


def _free(height: int, width: int) -> int:
    """Places for the sealed part."""
    rows, columns = height // 8, width // 8
    return CARRIERS * rows * columns - int(_tiled(_TILE, rows, columns).sum())


@dataclass(frozen=True)
class Piece:
    """A piece of a released image: its header, what was heard from its block grid on, where that begins in it (row, column), and where
    in the image it begins itself (row, column, in pixels, but for multiples of a tile)."""

    header: Header
    llr: NDArray[np.float32] = field(repr=False)
    grid: tuple[int, int]
    first: tuple[int, int]


@dataclass(frozen=True)
class Placed:
    """A piece in its place: the whole image with nothing else in it, what was heard, and where in it the piece lies (top, left,
    bottom, right, in pixels; it may reach over the edge)."""

    rgb: RGB = field(repr=False)
    llr: NDArray[np.float32] = field(repr=False)
    shown: tuple[int, int, int, int]


def _length(header: Header, free: int) -> int:
    """How many places carry the sealed part: a rule that writer and reader share."""
    return min(free, int(header.sealed_bytes * 8 / _SPARSEST[header.spread]), ldpc.MAX_BITS)


def _sealed_places(header: Header, layout_key: bytes, rows: int, columns: int) -> NDArray[np.int64]:
    """Where the sealed part stands among all places, in its order."""
    free = np.flatnonzero(~_tiled(_TILE, rows, columns).astype(bool).ravel())
    return free[permutation(layout_key, header.locator, len(free))[: _length(header, len(free))]]


def _summed(llr: NDArray[np.float32]) -> NDArray[np.float32]:
    """What all tiles together say of each of the header's places."""
    rows, columns = llr.shape[1:]
    there = _tiled(_TILE, rows, columns).astype(bool)
    heard = np.bincount(_tiled(_TILE_BIT, rows, columns)[there], llr[there], HEADER_PLACES)
    return heard.astype(np.float32)


def _tiles(image: RGB) -> tuple[int, int]:
    """How many whole tiles an image has, down and across."""
    return image.shape[0] // (8 * TILE), image.shape[1] // (8 * TILE)


def _header_of(heard: NDArray[np.float32]) -> Header:
    """The header, from what was heard of each of its places. PayloadMissing."""
    for size in sorted(HEADER_BYTES.values(), reverse=True):
        with suppress(PayloadUnreadable, PayloadMissing):
            return Header.unpack(np.packbits(ldpc.decode(heard, 8 * size)).tobytes())
    raise PayloadMissing


def _laid_over(piece: Piece, top: int, left: int, whole: tuple[int, int]) -> NDArray[np.float32]:
    """What was heard of a piece that begins there in an image of `whole` (height, width); 0 where nothing was."""
    row, column = (top + piece.grid[0]) // 8, (left + piece.grid[1]) // 8
    rows, columns = whole[0] // 8, whole[1] // 8
    out = np.zeros((CARRIERS, rows, columns), np.float32)
    a, b = max(row, 0), max(column, 0)
    part = piece.llr[:, a - row : max(rows - row, 0), b - column : max(columns - column, 0)]
    out[:, a : a + part.shape[1], b : b + part.shape[2]] = part
    return out


def _laid_out(
    header: Header, sealed: bytes, layout_key: bytes, rows: int, columns: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The raw bits of header and sealed part in their places, and which places are used (both CARRIERS x rows x columns)."""
    bits = np.zeros((CARRIERS, rows, columns), np.uint8)
    used = _tiled(_TILE, rows, columns).astype(bool)
    word = ldpc.encode(_bits(header.pack()), HEADER_PLACES)
    bits[used] = word[_tiled(_TILE_BIT, rows, columns)[used]]
    places = _sealed_places(header, layout_key, rows, columns)
    bits.ravel()[places] = ldpc.encode(_bits(sealed), len(places))
    used.ravel()[places] = True
    return bits, used


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
        return self.write(image, *_laid_out(header, sealed, layout_key, height // 8, width // 8), header.strength)

    @torch.inference_mode()
    def write(self, image: RGB, bits: NDArray[np.uint8], used: NDArray[np.bool_], strength: int = 0) -> RGB:
        """`image` with raw `bits` in the places that are `used` (both CARRIERS x H/8 x W/8), that strong (`network.STRENGTHS`)."""
        x = torch.from_numpy(writable(image)).permute(2, 0, 1)[None].float().to(self._device)
        b = torch.from_numpy(bits)[None].float().to(self._device)
        u = torch.from_numpy(used)[None].float().to(self._device)
        stego, _ = self._net.embed(x, b, u, strength)
        out: RGB = stego[0].round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(out)

    @torch.inference_mode()
    def unembed(
        self,
        image: RGB,
        header: Header,
        sealed: bytes,
        layout_key: bytes,
        windows: Sequence[tuple[int, int, int, int]],
        unembedder: Unembedder,
        shown: tuple[int, int, int, int] | None = None,
    ) -> RGB:
        """A received image (H x W x 3) with the channel's noise taken out in `windows` (top, left, bottom, right, in pixels).

        Header and sealed part are what was read from it. `unembedder` is the one that was trained with this channel. `shown`: the part
        that was received, where that is a piece.
        """
        rows, columns = image.shape[0] // 8, image.shape[1] // 8
        bits, used = _laid_out(header, sealed, layout_key, rows, columns)
        if shown is not None:  # what only repeats the piece's edge was never written into
            top, left, bottom, right = (max(edge, 0) for edge in shown)
            there = np.zeros_like(used[0])
            there[-(-top // 8) : bottom // 8, -(-left // 8) : right // 8] = True
            used &= there
        out = image.copy()
        for top, left, bottom, right in windows:
            a, b = (
                slice(max(low // 8, 0), min(-(-high // 8), most))
                for low, high, most in ((top, bottom, rows), (left, right, columns))
            )
            if a.start >= a.stop or b.start >= b.stop:
                continue
            part = (slice(8 * a.start, 8 * a.stop), slice(8 * b.start, 8 * b.stop))
            x = torch.from_numpy(image[part].copy()).permute(2, 0, 1)[None].float().to(self._device)
            written = (torch.from_numpy(each[:, a, b].copy())[None].float().to(self._device) for each in (bits, used))
            before = unembedder(self._net, x, *written, header.strength)[0].round().clamp(0, 255).byte()
            out[part] = before.permute(1, 2, 0).cpu().numpy()
        return out

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
        return _header_of(_summed(llr))

    def bears(self, image: RGB) -> bool:
        """Whether a header stands in an image in its place: of a release, and of a copy of it that was neither cut nor shifted.

        A quick look at the middle of it; what is meant to be read goes through `listen`.
        """
        middle = tuple(slice(8 * TILE * max(tiles // 2 - 1, 0), 8 * TILE * (tiles // 2 + 1)) for tiles in _tiles(image))
        try:
            heard = _summed(self.listen(image[middle]))
            if max(ldpc.agreement(heard[None], 8 * size)[0] for size in HEADER_BYTES.values()) < _CLEAR:
                return False
            _header_of(heard)
        except PayloadMissing:
            return False
        return True

    def register(self, image: RGB) -> Piece:
        """The header of a piece of a released image, cut or shifted, and where it may lie. PayloadMissing when there is none."""
        for (down, right), llr in self.grids(image):
            for block, heard in registration.tiles(llr, _header_order(), TILE, [8 * n for n in HEADER_BYTES.values()]):
                with suppress(PayloadMissing):
                    return Piece(_header_of(heard), llr, (down, right), (8 * block[0] - down, 8 * block[1] - right))
        raise PayloadMissing

    @torch.inference_mode()
    def grids(
        self, image: RGB, clear: float = registration.CLEAR, most: int = 2
    ) -> Iterator[tuple[tuple[int, int], NDArray[np.float32]]]:
        """Where the block grid begins in a piece of an image (row, column, 0..7 each), and what is heard from there on; the likeliest
        first, and nothing where none is `clear` (`registration.grids`). PayloadMissing when the image is too small.
        """
        if min(image.shape[:2]) < 8 * TILE // 2:
            raise PayloadMissing
        x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float().to(self._device)
        for down, right in registration.grids(self._net, x, clear, most):
            yield (down, right), self._net.extract(x[:, :, down:, right:])[0].cpu().numpy()

    def place(self, image: RGB, piece: Piece, layout_key: bytes, max_pixels: int = MAX_PIXELS) -> Placed:
        """The piece in an image of the size that its header says, and what was heard in it. WrongKey; PayloadUnreadable, also where that
        were more than `max_pixels`: whoever changes a file can make its header say anything.

        Where the piece shows nothing, its edge is repeated, and nothing is heard.
        """
        header = piece.header
        check_key(header, layout_key)
        if header.size is None or header.profile is not Profile.ROBUST:
            raise PayloadUnreadable("it was cut or shifted, and files of its version do not say how large they were")
        height, width = whole = header.size[::-1]
        little = "so little of the image is left that it cannot be put in its place"
        if max(whole) > _LARGEST * max(image.shape[:2]) or height * width > min(
            _LARGEST * image[..., 0].size, max_pixels
        ):
            raise PayloadUnreadable(little)
        places = list(registration.offsets(piece.first, 8 * TILE, image.shape[:2], whole))
        if not places:
            raise PayloadUnreadable(little)
        if not 0 < header.sealed_bytes <= capacity(*whole):
            raise PayloadUnreadable("its header tells of more than the image can carry")
        sealed = _sealed_places(header, layout_key, height // 8, width // 8)
        found = []
        for top, left in places:
            heard = _laid_over(piece, top, left, whole).ravel()[sealed]
            found.append((float(ldpc.agreement(heard[None], 8 * header.sealed_bytes)[0]), top, left))
        _, top, left = max(found)
        rows = np.clip(np.arange(height) - top, 0, image.shape[0] - 1)
        columns = np.clip(np.arange(width) - left, 0, image.shape[1] - 1)
        shown = (top, left, top + image.shape[0], left + image.shape[1])
        return Placed(image[np.ix_(rows, columns)], _laid_over(piece, top, left, whole), shown)

    def read_sealed(self, image: RGB, llr: NDArray[np.float32], header: Header, layout_key: bytes) -> bytes:
        """The sealed part. WrongKey for another layout key; PayloadUnreadable when too much was lost."""
        check_key(header, layout_key)
        archive = header.profile is Profile.ARCHIVE
        if not 0 < header.sealed_bytes <= (image.size // 8 if archive else capacity(*image.shape[:2])):
            raise PayloadUnreadable("the image is smaller than it was when released")
        if archive:  # as model 1 wrote it
            flat = image.reshape(-1)
            places = permutation(layout_key, header.locator, flat.size)[: 8 * header.sealed_bytes]
            return np.packbits(flat[places] & 1).tobytes()
        places = _sealed_places(header, layout_key, *llr.shape[1:])
        bits = ldpc.decode(llr.ravel()[places], 8 * header.sealed_bytes)
        return np.packbits(bits).tobytes()
