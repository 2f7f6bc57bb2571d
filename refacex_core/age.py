"""How old a face looks, read from its lines and folds, so that its donor is about as old.

One number a face, used for the choice of a donor and for nothing else: it is neither reported nor kept. (The donor's name is, and whoever
looks that donor up in the bank learns it roughly.) What is read is drawn to the middle, of donors as of faces: the two are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.looks import GRID, below_the_eyes, detail

_AROUND = (5, 9, 17)  # pixels: fine lines, wrinkles, folds
YEARS = 20.0  # what the weights are in, so that half precision holds them


class Lines(nn.Module):
    """Textures in the mean shape's frame (N x 3 x 208 x 192, -1..1) to how strong lines of three widths are from place to place below
    the eyes (N x F), against all that the face shows of that width: how sharp a photograph is counts little.
    """

    oval: Tensor
    inside: Tensor

    def __init__(self, mean_shape: Tensor) -> None:
        super().__init__()
        self.register_buffer("oval", below_the_eyes(mean_shape), persistent=False)
        inside = F.interpolate(self.oval, size=GRID, mode="area")[0, 0] > 0.7
        self.register_buffer("inside", inside, persistent=False)

    @property
    def count(self) -> int:
        """F."""
        return len(_AROUND) * int(self.inside.sum())

    def forward(self, textures: Tensor) -> Tensor:
        grey = textures.mean(1, keepdim=True)
        strong = []
        for size in _AROUND:
            strength = F.interpolate(detail(grey, self.oval, size), size=GRID, mode="area")
            line = torch.log(strength + 1e-2)[..., self.inside].flatten(1)
            strong.append(line - line.mean(1, keepdim=True))
        return torch.cat(strong, 1)


class Age(nn.Module):
    """Textures (N x 3 x 208 x 192, -1..1, in the frame of `mean_shape`, 162 x 2) to years (N x 1)."""

    def __init__(self, mean_shape: Tensor) -> None:
        super().__init__()
        self.lines = Lines(mean_shape)
        self.linear = nn.Linear(self.lines.count, 1)
        weights.load_into(self.linear, "age")

    def forward(self, textures: Tensor) -> Tensor:
        years: Tensor = YEARS * self.linear(self.lines(textures))
        return years
