"""The payload codec's networks: the face inside `WINDOW` of a crop to integer codes, and back.

A transform code after Balle et al., *End-to-end optimized image compression* (2017), with gains a quality level after
Cui et al., *Asymmetric gained deep image compression* (2021). Faces are aligned, so mean and scale of every latent are
learned a channel *and* a position; they become integer tables, so that every machine decodes alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: The part of the 256 x 256 crop that is coded: top, left, height, width.
WINDOW = (44, 32, 208, 192)
LATENTS = 96
GRID = (WINDOW[2] // 16, WINDOW[3] // 16)
LEVELS = 16  # quality levels; each is 2 ** (1 / 4) finer than the one before


def window(crop: Tensor) -> Tensor:
    """The coded window of B x C x 256 x 256."""
    top, left, height, width = WINDOW
    return crop[:, :, top : top + height, left : left + width]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class PayloadEncoder(nn.Module):
    """Original and mask (B x 4 x 208 x 192; colour in -1..1, mask 0..1) to latents (B x 96 x 13 x 12)."""

    def __init__(self, widths: tuple[int, int, int] = (96, 128, 192)) -> None:
        super().__init__()
        a, b, c = widths
        self.net = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(64, a, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(a, b, 3, 2, 1),
            _Residual(b),
            nn.GELU(),
            nn.Conv2d(b, c, 3, 2, 1),
            _Residual(c),
            nn.Conv2d(c, LATENTS, 1),
        )

    def forward(self, face: Tensor, mask: Tensor) -> Tensor:
        latents: Tensor = self.net(torch.cat([face * mask, mask], 1)) * 4
        return latents


class PayloadDecoder(nn.Module):
    """Latents (B x 96 x 13 x 12) to the face in the window (B x 3 x 208 x 192, about -1..1)."""

    def __init__(self, widths: tuple[int, int, int] = (96, 128, 192)) -> None:
        super().__init__()
        a, b, c = widths
        self.net = nn.Sequential(
            nn.Conv2d(LATENTS, c, 3, padding=1),
            _Residual(c),
            nn.Conv2d(c, b * 4, 1),
            nn.PixelShuffle(2),
            _Residual(b),
            nn.Conv2d(b, a * 4, 1),
            nn.PixelShuffle(2),
            _Residual(a),
            nn.GELU(),
            nn.Conv2d(a, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, latents: Tensor) -> Tensor:
        face: Tensor = self.net(latents / 4)
        return face


class PayloadNetwork(nn.Module):
    """Encoder, decoder, and the tables of the latents' statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = PayloadEncoder(), PayloadDecoder()
        self.mean = nn.Parameter(torch.zeros(LATENTS, *GRID))
        self.log_scale = nn.Parameter(torch.zeros(LATENTS, *GRID))
        start = (torch.arange(LEVELS) - LEVELS // 2).float() * math.log(2) / 4
        self.log_gain = nn.Parameter(start[:, None].repeat(1, LATENTS))

    def gain(self, level: Tensor) -> Tensor:
        """How finely each channel is quantised at `level` (B): B x 96 x 1 x 1."""
        return self.log_gain[level].exp()[:, :, None, None]

    def forward(self, face: Tensor, mask: Tensor, level: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Training: the decoded face and the bits an image (B); `keep` (B x 96 x 1 x 1) drops channels past a prefix."""
        gain = self.gain(level)
        scaled = (self.encoder(face, mask) - self.mean) * gain
        noisy = scaled + torch.rand_like(scaled) - 0.5
        bits = (bits_of(noisy, self.log_scale.exp() * gain) * keep).sum((1, 2, 3))
        rounded = scaled + (torch.round(scaled) - scaled).detach()
        decoded: Tensor = self.decoder(rounded * keep / gain + self.mean)
        return decoded, bits

    def codes(self, face: Tensor, mask: Tensor, level: Tensor) -> Tensor:
        """The integer codes (B x 96 x 13 x 12) at `level`."""
        return torch.round((self.encoder(face, mask) - self.mean) * self.gain(level))

    def decode(self, codes: Tensor, level: Tensor) -> Tensor:
        """The face in the window (B x 3 x 208 x 192)."""
        face: Tensor = self.decoder(codes / self.gain(level) + self.mean)
        return face


def bits_of(symbols: Tensor, scale: Tensor) -> Tensor:
    """Bits of symbols under a zero-mean logistic of `scale`, integrated over a bin of width 1."""
    scale = scale.clamp(min=0.03)
    magnitude = symbols.abs()
    upper, lower = torch.sigmoid((0.5 - magnitude) / scale), torch.sigmoid((-0.5 - magnitude) / scale)
    return -torch.log2((upper - lower).clamp(min=1e-9))


def order(log_gain: Tensor, log_scale: Tensor) -> Tensor:
    """The channels by how much they carry (most first): the order of the nested code."""
    spread = (log_scale.exp() ** 2).mean((1, 2)) * (log_gain.mean(0).exp() ** 2)
    return torch.argsort(spread, descending=True)
