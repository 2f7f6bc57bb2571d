"""The recovery network: from a released face and its decoded payload to the original face.

It works on what was read from a file, detached: `recover` takes 8-bit pixels, and training stops every gradient at them,
so nothing of the reconstruction can reach the anonymiser.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.layers import filled
from refacex_core.payload.network import WINDOW
from refacex_core.types import RGB


def place(view: Tensor) -> Tensor:
    """A decoded window (B x 3 x 208 x 192) in its place in the crop, and where it is (B x 4 x 256 x 256)."""
    top, left, height, width = WINDOW
    marked = torch.cat([view, torch.ones_like(view[:, :1])], 1)
    return F.pad(marked, (left, 256 - left - width, top, 256 - top - height))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GELU())


class RecoveryNetwork(nn.Module):
    """Released crop (B x 3 x 256 x 256) and decoded window (B x 3 x 208 x 192), -1..1, to the original crop."""

    def __init__(self, widths: tuple[int, int, int] = (64, 96, 128)) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), _block(7 * 16, a))
        self.down1, self.down2 = _block(a, b, 2), _block(b, c, 2)
        self.middle = _block(c, c)
        self.up1, self.join1 = nn.Conv2d(c, b, 1), _block(b, b)
        self.up0, self.join0 = nn.Conv2d(b, a, 1), _block(a, a)
        self.out = nn.Sequential(filled(nn.Conv2d(a, 64, 3, padding=1)), nn.PixelShuffle(4))

    def forward(self, released: Tensor, view: Tensor) -> Tensor:
        return self.choose(released, view)[0]

    def choose(self, released: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """The original crop, and how sure it is that a pixel was replaced (B x 1 x 256 x 256, logits)."""
        released, view = released.detach(), view.detach()  # recovery is detached: nothing before it learns from it
        placed = place(view)
        s0 = self.stem(torch.cat([released, placed], 1))
        s1 = self.down1(s0)
        y = self.middle(self.down2(s1))
        y = self.join1(self.up1(F.interpolate(y, scale_factor=2)) + s1)
        y = self.join0(self.up0(F.interpolate(y, scale_factor=2)) + s0)
        correction, choice = self.out(y).split([3, 1], 1)
        replaced = 4 * choice
        share = torch.sigmoid(replaced) * placed[:, 3:]
        restored: Tensor = released + share * (placed[:, :3] - released) + correction
        return restored, replaced


class Recovery:
    """The trained network with the weights `name`, ready to use."""

    def __init__(self, device: torch.device | str, name: str) -> None:
        self._net = RecoveryNetwork()
        weights.load_into(self._net, name)
        self._net.to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, released: RGB, view: RGB) -> RGB:
        """The original crop (256 x 256 x 3) from the released crop and the decoded window (208 x 192 x 3)."""
        x, v = (
            torch.from_numpy(np.array(a)).permute(2, 0, 1)[None].float().div(127.5).sub(1).to(self._device)
            for a in (released, view)
        )
        out = self._net(x, v)[0].clamp(-1, 1).add(1).mul(127.5).round().byte()
        result: RGB = out.permute(1, 2, 0).cpu().numpy()
        return result
