"""What several networks build with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def filled(layer: nn.Conv2d, bias: float = 0.0) -> nn.Conv2d:
    """`layer` with zero weights: at first it gives `bias` whatever it sees."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of B x C x H x W, `sigma` in pixels; beyond its edge, the edge is repeated."""
    radius = int(3 * sigma)
    x = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma * sigma))
    kernel = kernel / kernel.sum()
    c = image.shape[1]
    padded = F.pad(image, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c)


def blur(image: Tensor, sigma: float) -> Tensor:
    """The same of an image whose sides are multiples of 4, done at a quarter of its size, as light is smooth."""
    return F.interpolate(
        gaussian(F.avg_pool2d(image, 4), sigma / 4), scale_factor=4, mode="bilinear", align_corners=False
    )
