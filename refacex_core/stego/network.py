"""The learned stego channel on the 8 x 8 luma DCT grid: an embedder and an extractor around a quantisation lattice.

One raw bit is carried by one of `FREQUENCIES` DCT coefficients of a block. The lattice of a frequency has spacing
2 * step; bit b stands at 2 * step * (k + b / 2) (quantisation index modulation, Chen and Wornell 2001). What is learned:
the step of each frequency, how far each coefficient is moved towards its lattice point (the embedder, which sees the
block and its neighbours, and so spends noise where the eye does not look), and the reliability of each received bit
(the extractor, whose log-likelihood ratios go into the error-correcting code).

Shapes: images B x 3 x H x W, RGB 0..255; grids B x C x H/8 x W/8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core.layers import filled

BLOCK = 8
#: (row, column) of the carrying coefficients in a block, in zigzag order from the first AC coefficient.
FREQUENCIES: tuple[tuple[int, int], ...] = tuple(
    (s - c if s % 2 == 0 else c, c if s % 2 == 0 else s - c) for s in range(1, 7) for c in range(s + 1)
)[:22]
CARRIERS = len(FREQUENCIES)
#: The same as places among the 64 coefficients of a block, row by row.
CARRYING = [r * BLOCK + c for r, c in FREQUENCIES]

_ANNEX_K = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def dct_matrix() -> Tensor:
    """The orthonormal 8-point DCT-II (8 x 8)."""
    k = torch.arange(8, dtype=torch.float64)
    m = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) * 0.5
    m[0] /= math.sqrt(2)
    return m.float()


def luma(images: Tensor) -> Tensor:
    """JPEG luma (B x 1 x H x W) of RGB images."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def to_grid(y: Tensor, dct: Tensor) -> Tensor:
    """B x 1 x H x W to DCT coefficients B x 64 x H/8 x W/8; rows and columns beyond whole blocks are left out."""
    b, _, h, w = y.shape
    h, w = h // 8 * 8, w // 8 * 8
    blocks = y[:, 0, :h, :w].reshape(b, h // 8, 8, w // 8, 8).permute(0, 1, 3, 2, 4)
    return (dct @ blocks @ dct.T).reshape(b, h // 8, w // 8, 64).permute(0, 3, 1, 2)


def from_grid(grid: Tensor, dct: Tensor) -> Tensor:
    """The inverse of `to_grid`."""
    b, _, gh, gw = grid.shape
    blocks = dct.T @ grid.permute(0, 2, 3, 1).reshape(b, gh, gw, 8, 8) @ dct
    return blocks.permute(0, 1, 3, 2, 4).reshape(b, 1, gh * 8, gw * 8)


#: How much of the way that the embedder leaves is left by each strength: a stronger one costs picture quality and lasts longer.
STRENGTHS = (1.0, 0.8, 0.6, 0.4)
_MOVED = 0.25  # what the embedder hardly moves stays where it is, however strong


def strengthened(share: Tensor, strength: int) -> Tensor:
    """How far carriers move (0..1) at a strength, from how far the embedder moves them."""
    less = (1 - STRENGTHS[strength]) * (share / _MOVED).clamp(max=1)
    return 1 - (1 - share) * (1 - less)


class Embedder(nn.Module):
    """From the cover's coefficients: how far (0..1) each carrying coefficient moves to its lattice point."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(64 + CARRIERS, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            filled(nn.Conv2d(width, CARRIERS, 1), 2.0),
        )

    def forward(self, grid: Tensor, move: Tensor) -> Tensor:
        x = torch.cat([compress(grid), move.abs()], 1)
        share: Tensor = torch.sigmoid(self.net(x))
        return share


class Extractor(nn.Module):
    """From received coefficients: a log-likelihood ratio for each raw bit, positive for 0."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((CARRIERS,), 3.0))
        self.local = nn.Conv2d(64 + 2 * CARRIERS, width, 1)
        self.world = nn.Linear(2 * CARRIERS, width)
        self.middle = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"), nn.GELU()
        )
        self.out = filled(nn.Conv2d(width, 2 * CARRIERS, 1))

    def forward(self, grid: Tensor, steps: Tensor) -> Tensor:
        phase = grid[:, CARRYING] * (math.pi / steps).view(1, -1, 1, 1)
        cos, sin = torch.cos(phase), torch.sin(phase)
        # How sharply the phases gather tells what the file went through.
        world = torch.cat([torch.cos(2 * phase).mean((2, 3)), cos.abs().mean((2, 3))], 1)
        x = self.local(torch.cat([compress(grid), cos, sin], 1)) + self.world(world)[:, :, None, None]
        scale, offset = self.out(self.middle(x)).chunk(2, 1)
        llr: Tensor = self.gain.view(1, -1, 1, 1) * torch.exp(scale.clamp(-4, 3)) * cos + offset
        return llr


def compress(grid: Tensor) -> Tensor:
    """Coefficients on a signed logarithmic scale, about -1..1."""
    return torch.sign(grid) * torch.log1p(grid.abs()) / 5.0


class StegoNetwork(nn.Module):
    """Steps, embedder and extractor: everything of the channel that is trained."""

    dct: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedder, self.extractor = Embedder(), Extractor()
        start = torch.tensor([float(_ANNEX_K[r][c]) for r, c in FREQUENCIES])
        self.log_steps = nn.Parameter((start.clamp(max=24) * 0.8).log())
        self.register_buffer("dct", dct_matrix(), persistent=False)

    @property
    def steps(self) -> Tensor:
        """Half the lattice spacing of each frequency, in units of an orthonormal DCT of 0..255 luma."""
        return self.log_steps.exp()

    def lattice(self, grid: Tensor, bits: Tensor, straight_through: bool = False) -> Tensor:
        """The lattice points (B x CARRIERS x h x w) that stand for `bits` and are nearest to `grid`'s carriers."""
        spacing = (2 * self.steps).view(1, -1, 1, 1)
        u = grid[:, CARRYING] / spacing - bits / 2
        nearest = torch.round(u)
        if straight_through:
            nearest = u + (nearest - u).detach()
        else:
            nearest = nearest.detach()
        return spacing * (nearest + bits / 2)

    def embed(self, images: Tensor, bits: Tensor, used: Tensor, strength: int = 0) -> tuple[Tensor, Tensor]:
        """Images (0..255, not rounded) that carry `bits` (B x CARRIERS x h x w) where `used` (same shape) is 1.

        Also the squared change of the luma coefficients that training weighs (B x CARRIERS x h x w).
        """
        y = luma(images)
        grid = to_grid(y, self.dct)
        here = grid[:, CARRYING]
        target = self.lattice(grid.detach(), bits)
        spacing = (2 * self.steps).view(1, -1, 1, 1)
        share = strengthened(self.embedder(grid, ((target - here) / spacing).detach()), strength) * used
        change = torch.zeros_like(grid)
        change[:, CARRYING] = share * (target - here)
        delta = from_grid(change, self.dct)
        cost = (share * (self.lattice(grid.detach(), bits, straight_through=True) - here)) ** 2
        h, w = delta.shape[2:]
        return F.pad(delta, (0, images.shape[3] - w, 0, images.shape[2] - h)) + images, cost

    def extract(self, images: Tensor) -> Tensor:
        """Log-likelihood ratios (B x CARRIERS x h x w) of received images (0..255)."""
        llr: Tensor = self.extractor(to_grid(luma(images), self.dct), self.steps)
        return llr
