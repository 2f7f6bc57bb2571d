"""Taking the channel's own noise out again: once every bit is known, where did each coefficient stand before it was written?

The embedder moved each carrier x a share a of the way to its lattice point q, so x = q + (y - q) / (1 - a): distortion
compensation (Chen and Wornell 2001, section V) run backwards. a depends on x, so it is found by repetition. Rounding is all
that a PNG adds to it; what a lossy file added would be amplified, so the network says how far to believe it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core.layers import filled
from refacex_core.stego.network import (
    CARRIERS,
    CARRYING,
    StegoNetwork,
    compress,
    from_grid,
    luma,
    strengthened,
    to_grid,
)

_REPETITIONS = 8


class Unembedder(nn.Module):
    """Received images and what was written into them, to the images before; for the one channel that it was trained with."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.local = nn.Conv2d(64 + 4 * CARRIERS, width, 1)
        self.world = nn.Linear(2 * CARRIERS, width)
        self.middle = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
        )
        self.out = filled(nn.Conv2d(width, 2 * CARRIERS, 1))

    def forward(self, channel: StegoNetwork, images: Tensor, bits: Tensor, used: Tensor, strength: int = 0) -> Tensor:
        """Images (B x 3 x H x W, 0..255) before `bits` were written, that strong, where `used` is 1 (both B x CARRIERS x H/8 x W/8);
        not rounded.
        """
        grid = to_grid(luma(images), channel.dct)
        received, step = grid[:, CARRYING], channel.steps.view(1, -1, 1, 1)
        point = channel.lattice(grid, bits)
        apart = (received - point) / step
        before = self._before(grid, apart, _share(channel, grid, point, used, strength), used)
        change = torch.zeros_like(grid)
        change[:, CARRYING] = (before - apart) * step * used
        delta = from_grid(change, channel.dct)
        h, w = delta.shape[2:]
        return F.pad(delta, (0, images.shape[3] - w, 0, images.shape[2] - h)) + images

    def _before(self, grid: Tensor, apart: Tensor, share: Tensor, used: Tensor) -> Tensor:
        """Where each carrier stood, from its lattice point, in steps (-1..1); `apart`: where it arrived."""
        backwards = _backwards(apart, share)
        # A carrier that was moved so far cannot be further away than this, but for what the file added.
        beyond = F.relu(apart.abs() - (1 - share)) * used
        places = used.sum((2, 3)).clamp(min=1)
        world = torch.cat([(apart**2 * used).sum((2, 3)) / places, 10 * beyond.sum((2, 3)) / places], 1)
        x = (
            self.local(torch.cat([compress(grid), apart, backwards, share, used], 1))
            + self.world(world)[..., None, None]
        )
        belief, correction = self.out(self.middle(x)).chunk(2, 1)
        belief = torch.sigmoid(belief)
        before: Tensor = belief * backwards + (1 - belief) * apart + correction
        return before.clamp(-1, 1)


@torch.no_grad()
def _share(channel: StegoNetwork, grid: Tensor, point: Tensor, used: Tensor, strength: int) -> Tensor:
    """How far each carrier was moved to its lattice point (0..1), from where it arrived."""
    step, received, whole = channel.steps.view(1, -1, 1, 1), grid[:, CARRYING], grid.clone()
    share = torch.zeros_like(received)
    for _ in range(_REPETITIONS):
        before = _backwards((received - point) / step, share) * step + point
        whole[:, CARRYING] = torch.where(used > 0, before, received)
        found = strengthened(channel.embedder(whole, (point - before) / (2 * step)), strength)
        share = 0.5 * (share + found * used)
    return share


def _backwards(apart: Tensor, share: Tensor) -> Tensor:
    """Where a carrier stood that was moved that share of the way to its lattice point, and arrived `apart` from it (in steps)."""
    return (apart / (1 - share).clamp(min=0.05)).clamp(-1, 1)
