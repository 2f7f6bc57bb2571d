"""Where a piece of a released image lies in it: read from the payload itself, which needs no template of its own.

Written carriers gather at lattice points, so of the 64 ways to lay the block grid over the pixels the right one stands out. Of the
1,024 ways to lay the tiles over the blocks, the right one makes a code word of the header. What is left, a multiple of a
tile, is told by the sealed part in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refacex_core.stego import ldpc
from refacex_core.stego.network import BLOCK, CARRYING, StegoNetwork, luma, to_grid

_LOOK, _LOOKS = 256, 4  # pixels of a window each way, and windows each way over the image: enough to see the grid in
CLEAR = 8.0  # standard deviations that the grid of a payload stands out by; by chance none of 64 reaches 5
_MOST_PLACES = 100
_SHARED = 0.25  # of the piece, at least, lies inside the image


def grids(net: StegoNetwork, image: Tensor, clear: float, most: int) -> list[tuple[int, int]]:
    """The rows and columns (0..7 each) at which the block grid may begin in an image (1 x 3 x H x W, 0..255), the best first: at
    `most` so many of those that are so `clear` (standard deviations).
    """
    rows, columns = (
        {int(at) // BLOCK * BLOCK for at in np.linspace(0, max(side - _LOOK, 0), _LOOKS)} for side in image.shape[2:]
    )
    y = torch.cat([luma(image[:, :, row : row + _LOOK, column : column + _LOOK]) for row in rows for column in columns])
    scores = {(row, column): _gathering(net, y[:, :, row:, column:]) for row in range(BLOCK) for column in range(BLOCK)}
    ranked = sorted(scores, key=lambda at: -scores[at])
    usual = float(np.median(list(scores.values())))  # a picture may gather a little by itself, wherever the grid lies
    return [at for at in ranked[:most] if scores[at] - usual > clear]


def _gathering(net: StegoNetwork, y: Tensor) -> float:
    """How clearly the carriers stand at lattice points rather than anywhere, in standard deviations."""
    steps = net.steps.view(1, -1, 1, 1)
    carriers = to_grid(y, net.dct)[:, CARRYING]
    apart = (carriers.abs() > steps).float()  # near 0 everything lies at a lattice point
    phases = torch.cos(2 * torch.pi * carriers / steps) * apart
    return float(phases.sum() / (apart.sum() / 2).clamp(min=1).sqrt())


def tiles(
    llr: NDArray[np.float32], places: NDArray[np.int64], side: int, information_bits: Sequence[int]
) -> list[tuple[tuple[int, int], NDArray[np.float32]]]:
    """Which block of a tile (row, column) the first block of an image is, and what is heard of the word that stands in each tile.

    The three likeliest, the best first. `llr`: CARRIERS x rows x columns. `places`: where each bit of the word stands in a tile,
    flat; `side`: blocks of a tile each way; `information_bits`: of the codes that it may be a word of.
    """
    carriers = len(llr)
    folded = np.zeros((carriers, side, side), np.float32)
    for row in range(0, llr.shape[1], side):
        for column in range(0, llr.shape[2], side):
            part = llr[:, row : row + side, column : column + side]
            folded[:, : part.shape[1], : part.shape[2]] += part
    carrier, where_row, where_column = np.unravel_index(places, (carriers, side, side))
    shifts = np.arange(side)
    # heard[a, b, j]: bit j where the image's first block is block (a, b) of a tile
    heard = folded[
        carrier[None, None],
        (where_row[None, None] - shifts[:, None, None]) % side,
        (where_column[None, None] - shifts[None, :, None]) % side,
    ].reshape(side * side, -1)
    scores = np.maximum.reduce([ldpc.agreement(heard, bits) for bits in information_bits])
    return [((int(at) // side, int(at) % side), heard[at]) for at in np.argsort(-scores)[:3]]


def offsets(
    first: tuple[int, int], period: int, piece: tuple[int, int], whole: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Where (row, column, in pixels) a piece of such a size may lie in an image of `whole` (height, width each), the likeliest first.

    `first` is known but for multiples of `period`; a piece may reach over the image's edge.
    """
    ways = []
    for low, length, total in zip(first, piece, whole, strict=True):
        starts = [low + period * k for k in range(-(length // period) - 2, total // period + 2)]
        shared = {start: min(start + length, total) - max(start, 0) for start in starts}
        ways.append({start: share / length for start, share in shared.items() if share > 0})
    both = {(row, column): a * b for row, a in ways[0].items() for column, b in ways[1].items()}
    ranked = sorted(both, key=lambda at: -both[at])
    yield from (at for at in ranked[:_MOST_PLACES] if both[at] >= _SHARED)
