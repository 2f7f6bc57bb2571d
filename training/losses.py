"""Frozen loss networks: two recognisers that give gradients, and LPIPS. They are read from outside and never shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core.faces.align import CROP_TO_ARCFACE

RECOGNISERS = ("id_mobilefacenet_y1.pt", "id_mobilefacenet_casia.pt")


class Identity(nn.Module):
    """Crops (B x 3 x 256 x 256, -1..1) to unit vectors of each recogniser (list of B x 128)."""

    to_crop: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.nets = nn.ModuleList(torch.jit.load(str(folder / name), map_location="cpu") for name in RECOGNISERS)
        for parameter in self.nets.parameters():
            parameter.requires_grad = False
        self.nets.eval()
        square = np.vstack([CROP_TO_ARCFACE, [0, 0, 1]])
        self.register_buffer("to_crop", torch.from_numpy(np.linalg.inv(square)[:2]).float())

    def view(self, crops: Tensor, jitter: Tensor | None = None) -> Tensor:
        """Crops at the ArcFace template, 0..255; `jitter` (B x 2 x 3) moves the template a little."""
        ys, xs = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
        grid = torch.stack([xs, ys, torch.ones_like(xs)], -1).to(crops.device)
        if jitter is None:
            where = (grid @ self.to_crop.T).expand(len(crops), -1, -1, -1)
        else:
            moved = torch.einsum("hwk,bjk->bhwj", grid, jitter)
            where = torch.cat([moved, torch.ones_like(moved[..., :1])], -1) @ self.to_crop.T
        smooth = F.avg_pool2d(F.pad(crops, (0, 1, 0, 1), mode="replicate"), 2, 1)
        return (F.grid_sample(smooth, (2 * where) / 256 - 1, align_corners=False, padding_mode="border") + 1) * 127.5

    def forward(self, crops: Tensor, jitter: Tensor | None = None) -> list[Tensor]:
        seen = self.view(crops, jitter)
        return [net(seen) for net in self.nets]


def jitters(batch: int, generator: torch.Generator | None = None) -> Tensor:
    """Small random similarities of the template (B x 2 x 3)."""
    r = torch.randn(batch, 4, generator=generator)
    angle, scale, shift = 0.05 * r[:, 0], torch.exp(0.05 * r[:, 1]), 2.0 * r[:, 2:]
    c, s = scale * torch.cos(angle), scale * torch.sin(angle)
    m = torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)
    centre = torch.tensor([56.0, 56.0])
    return torch.cat([m, (centre + shift - m @ centre)[:, :, None]], 2)


def lpips(folder: Path) -> nn.Module:
    """LPIPS v0.1 with SqueezeNet."""
    net: nn.Module = torch.jit.load(str(folder / "lpips_squeeze.pt"), map_location="cpu")
    for parameter in net.parameters():
        parameter.requires_grad = False
    return net.eval()
