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
        self._deviations: list[float] = []
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

    def ghost(self, of: Identity, noise: float) -> None:
        """Become `of` with noise on every layer (in standard deviations of its weights): a recogniser that sees alike but not
        the same, so that what fools it is less one network's peculiarity (after Li et al., *Learning transferable adversarial
        examples via ghost networks*, 2020)."""
        mine, theirs = self._layers(), of._layers()
        with torch.no_grad():
            drawn = [torch.randn_like(weight) for weight in theirs]
            torch._foreach_mul_(drawn, [noise * deviation for deviation in of.deviations()])
            torch._foreach_copy_(mine, theirs)
            torch._foreach_add_(mine, drawn)

    def _layers(self) -> list[Tensor]:
        return [weight for weight in self.nets.state_dict().values() if weight.is_floating_point() and weight.dim() > 1]

    def deviations(self) -> list[float]:
        """Standard deviation of each layer's weights."""
        if not self._deviations:
            self._deviations = [float(weight.std()) for weight in self._layers()]
        return self._deviations


def jitters(batch: int, device: str = "cpu", wide: float = 1.0) -> Tensor:
    """Small random similarities of the template (B x 2 x 3), `wide` times as far."""
    r = wide * torch.randn(batch, 4, device=device)
    angle, scale, shift = 0.05 * r[:, 0], torch.exp(0.05 * r[:, 1]), 2.0 * r[:, 2:]
    c, s = scale * torch.cos(angle), scale * torch.sin(angle)
    m = torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)
    centre = torch.tensor([56.0, 56.0], device=device)
    return torch.cat([m, (centre + shift - m @ centre)[:, :, None]], 2)


def lpips(folder: Path) -> nn.Module:
    """LPIPS v0.1 with SqueezeNet."""
    net: nn.Module = torch.jit.load(str(folder / "lpips_squeeze.pt"), map_location="cpu")
    for parameter in net.parameters():
        parameter.requires_grad = False
    return net.eval()
