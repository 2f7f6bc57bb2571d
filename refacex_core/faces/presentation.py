"""How a face is read between what people call male and female, so that its donor suits the hair and clothes around it.

One number a face, used for the choice of a donor and for nothing else: it is neither reported nor kept. (The donor's name is, and whoever
looks that donor up in the bank learns about how the face was read.) Whoever finds somebody
hard to place finds the network unsure as well, and its number near 0, which rules no donor out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core import weights

INPUT = 64
_WIDTHS = (32, 64, 96, 128)


class PresentationNet(nn.Module):
    """Whole crops (N x 3 x 64 x 64, -1..1), hair and neck included, to a logit (N x 1): above 0 female."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
            layers += [
                nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False),
                nn.Conv2d(width, width, 1, bias=False),
            ]
            layers += [nn.BatchNorm2d(width), nn.SiLU()]
            before = width
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(before, 1)
        )

    def forward(self, crops: Tensor) -> Tensor:
        logit: Tensor = self.layers(crops)
        return logit


class Presentation(nn.Module):
    """Crops (N x 3 x 256 x 256, -1..1) to N x 1 in -1 (male) to 1 (female)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PresentationNet()
        weights.load_into(self.network, "presentation")

    @torch.inference_mode()
    def forward(self, crops: Tensor) -> Tensor:
        small = F.interpolate(crops, size=(INPUT, INPUT), mode="area")
        return torch.tanh((self.network(small) + self.network(small.flip(3))) / 2)
