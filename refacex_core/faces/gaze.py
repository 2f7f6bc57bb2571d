"""Where eyes look: the iris of a texture moved between its lids.

A warp would draw the iris out. So it is cut out, what it covered is filled from the white around it, and it is laid where the other
face's is, between the same corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from refacex_core.faces import warp
from refacex_core.faces.landmarks import GROUPS, LIDS, ROW_OF

#: How far an iris may be moved, in shares of its eye's width: along it and across it. Further, white or lid would have to be made up.
_FURTHEST = (0.2, 0.08)
_SIDE = (36, 52)  # pixels of what is worked on around an eye
_SOFT, _RIM = 0.8, 1.0  # pixels: of the iris's edge, and by how much more than the iris is cut out
_SURELY = 1.0  # pixels: a shift so large is made wholly, a smaller one in part
_WHITE, _REACH = 4.0, 25  # pixels: how far around the iris the white is taken from, and the window of it


class Gaze:
    """For textures in the frame of one mean shape (162 x 2, pixels), whose first pixel is at `top`, `left` of it."""

    def __init__(self, mean_shape: Tensor, top: int, left: int) -> None:
        self._corner = torch.tensor([left, top], dtype=torch.float32)
        points = (mean_shape.cpu() - self._corner).numpy()
        irises = ("right_iris", "left_iris")
        self._eyes = [_Eye.of(points, lids, GROUPS[iris]) for lids, iris in zip(LIDS, irises, strict=True)]

    def turned(self, texture: Tensor, irises: Tensor) -> Tensor:
        """The texture (B x 3 x H x W) with the middle of the right and of the left iris there (B x 2 x 2, pixels of the frame)."""
        out = texture.clone()
        for eye, at in zip(self._eyes, (irises - self._corner.to(irises)).unbind(1), strict=True):
            part = (..., eye.rows, eye.columns)
            out[part] = eye.with_iris_at(texture[part], at - at.new_tensor([eye.columns.start, eye.rows.start]))
        return out


@dataclass(frozen=True)
class _Eye:
    """Which part of a texture is around an eye, what lies between the lids there (h x w, 0..1), and the iris (pixels of the part)."""

    rows: slice
    columns: slice
    lids: Tensor
    centre: Tensor
    radius: float
    width: float  # of the eye

    @classmethod
    def of(cls, points: NDArray[np.float32], lids: tuple[int, ...], iris: NDArray[np.int64]) -> _Eye:
        """From the points of a face (162 x 2, pixels of the texture)."""
        ring = points[[ROW_OF[point] for point in lids]]
        left, top = np.rint(ring.mean(0) - [_SIDE[1] / 2, _SIDE[0] / 2]).astype(int).tolist()
        ring, iris_points = ring - [left, top], points[iris] - [left, top]
        centre = iris_points.mean(0)
        hard = np.zeros((4 * _SIDE[0], 4 * _SIDE[1]), np.uint8)  # drawn four times as large: an eye is nine pixels high
        cv2.fillPoly(hard, [np.rint(4 * (ring + 0.5) * 16).astype(np.int32)], 255, shift=4)
        soft = cv2.GaussianBlur(cv2.resize(hard, _SIDE[::-1], interpolation=cv2.INTER_AREA), (0, 0), 0.7)
        return cls(
            slice(top, top + _SIDE[0]),
            slice(left, left + _SIDE[1]),
            torch.from_numpy(soft.astype(np.float32) / 255),
            torch.from_numpy(centre.astype(np.float32)),
            float(np.linalg.norm(iris_points[1:] - centre, axis=1).mean()),
            float(np.linalg.norm(ring[len(lids) // 2] - ring[0])),
        )

    def with_iris_at(self, view: Tensor, wanted: Tensor) -> Tensor:
        """The part of a texture (B x 3 x h x w) with its iris there (B x 2, pixels of the part)."""
        lids, centre = self.lids.to(view), self.centre.to(view)
        most = self.width * torch.tensor(_FURTHEST).to(view)
        away = torch.minimum(torch.maximum(wanted - centre, -most), most)
        at = torch.stack(torch.meshgrid(*(torch.arange(side) for side in _SIDE[::-1]), indexing="xy"), -1).to(view)
        here = lids * self._disc(at, centre, _RIM)
        white = (lids - here).clamp(min=0) * (lids > 0.9)
        near = _spread((view * white).flatten(0, 1)[:, None]).view_as(view)
        bare = view + here * (near / (_spread(white[None, None]) + 1e-4) - view)
        there = lids * self._disc(at, centre + away[:, None, None], 0.0)
        turned = bare + there[:, None] * (warp.sample(view, at - away[:, None, None]) - bare)
        surely = (away.norm(dim=1) / _SURELY).clamp(max=1)[:, None, None, None]
        result: Tensor = view + surely * (turned - view)
        return result

    def _disc(self, at: Tensor, centre: Tensor, more: float) -> Tensor:
        return torch.sigmoid((self.radius + more - (at - centre).norm(dim=-1)) / (_SOFT / 2))


def _spread(image: Tensor) -> Tensor:
    """An image (B x 1 x h x w) blurred, with nothing beyond its edge."""
    line = torch.from_numpy(cv2.getGaussianKernel(_REACH, _WHITE)).view(1, 1, -1, 1).to(image)
    down = F.conv2d(image, line, padding=(_REACH // 2, 0))
    return F.conv2d(down, line.transpose(2, 3), padding=(0, _REACH // 2))
