"""162 points of the face (oval, lips, eyes, brows, nose, irises) from an aligned crop, by a small network of ours.

The points are a subset of the MediaPipe face mesh; `GROUPS` says which rows belong to which part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.faces import warp

POINTS = 162

_MESH = json.loads((Path(__file__).parent / "mesh.json").read_text())
#: Rows of each part among the 162 points.
GROUPS: dict[str, NDArray[np.int64]] = {k: np.array(v, np.int64) for k, v in _MESH["groups"].items()}
#: The row of each of the face mesh's points that we have.
ROW_OF: dict[int, int] = {point: row for row, point in enumerate(_MESH["mesh_index"])}
#: The face oval's rows in order around the face, from the chin.
OVAL: NDArray[np.int64] = np.array(_MESH["oval_order"], np.int64)


_BROW = 8.0  # pixels above an eye's middle: the middle of what is looked at
#: Around the right eye's opening and the left one's, each from its outer corner: the mesh's numbers.
LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)
#: Lids, iris and brow of the right eye, and of the left one in the same order.
_RIGHT = (*LIDS[0], *(468, 469, 470, 471, 472), *(46, 52, 53, 55, 63, 65, 66, 70, 105, 107))
_LEFT = (*LIDS[1], *(473, 476, 475, 474, 477), *(276, 282, 283, 285, 293, 295, 296, 300, 334, 336))
_EYES = tuple([ROW_OF[point] for point in points] for points in (_RIGHT, _LEFT))


class _Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, width), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )
        self.last = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x + self.body(x))
        return out


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.PReLU(outputs)
    )


def _features(*widths: int) -> nn.Sequential:
    """B x 3 x H x W to B x (the last width) x H/n x W/n: n is 2, and twice as much for each width but the first."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), _conv(12, widths[0])]
    for before, width in pairwise(widths):
        layers += [_conv(before, width, 2), _Residual(width)]
    return nn.Sequential(*layers)


class _Close(nn.Module):
    """A second look at one part, at the crop's own resolution: where its points lie, from where the first look saw them."""

    def __init__(self, points: int, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width
        self.see = nn.Sequential(_features(24, 48, 64), _conv(64, 96, 2), nn.Conv2d(96, 32, 1), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(32 * height * width // 256 + 2 * points, 192), nn.PReLU(192), nn.Linear(192, 2 * points)
        )

    def forward(self, crops: Tensor, points: Tensor, centre: Tensor) -> Tensor:
        """Points (B x N x 2) and the middle of what is looked at (B x 2), crop pixels."""
        height, width = self.size
        at = torch.meshgrid(
            torch.arange(width, device=crops.device) - (width - 1) / 2,
            torch.arange(height, device=crops.device) - (height - 1) / 2,
            indexing="xy",
        )
        seen = self.see(warp.sample(crops, torch.stack(at, -1) + centre[:, None, None]))
        placed = (points - centre[:, None]).flatten(1) / width
        moved: Tensor = points + width * self.head(torch.cat([seen, placed], 1)).view_as(points)
        return moved


class LandmarkNet(nn.Module):
    """Crop (B x 3 x 256 x 256, -1..1) to points (B x 162 x 2, crop pixels).

    A first look at the whole face at half the resolution, then a closer one at each eye with its brow, and at the mouth. Both eyes are
    seen by one network, the left one mirrored.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(_features(24, 48, 64, 96), _conv(96, 128, 2), nn.Conv2d(128, 48, 1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(48 * 16, 256), nn.PReLU(256), nn.Linear(256, POINTS * 2))
        self.eye, self.mouth = _Close(len(_EYES[0]), 64, 64), _Close(len(GROUPS["lips"]), 64, 96)
        self.register_buffer("mean", torch.zeros(POINTS, 2))

    def forward(self, crops: Tensor) -> Tensor:
        return self.closer(crops, self.whole(crops))

    def whole(self, crops: Tensor) -> Tensor:
        """The first look."""
        small = F.interpolate(crops, scale_factor=0.5, mode="area")
        offset: Tensor = self.head(self.see(small)).view(-1, POINTS, 2)
        return self.mean + 32.0 * offset

    def closer(self, crops: Tensor, points: Tensor) -> Tensor:
        """The points with those of eyes, brows and mouth put where a closer look sees them."""
        out = points.clone()
        for rows, mirrored in zip(_EYES, (False, True), strict=True):
            eye = _mirror(points[:, rows]) if mirrored else points[:, rows]
            centre = eye[:, : len(LIDS[0])].mean(1) - torch.tensor([0.0, _BROW], device=eye.device)
            eye = self.eye(crops.flip(3) if mirrored else crops, eye, centre)
            out[:, rows] = _mirror(eye) if mirrored else eye
        lips = torch.from_numpy(GROUPS["lips"])
        out[:, lips] = self.mouth(crops, points[:, lips], points[:, lips].mean(1))
        return out


def _mirror(points: Tensor) -> Tensor:
    return torch.stack([255 - points[..., 0], points[..., 1]], -1)


class Landmarks:
    """The trained network, ready to use."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._net = LandmarkNet()
        weights.load_into(self._net, "landmarks")
        self._net.to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Tensor:
        """Points (B x 162 x 2, pixels) of crops (B x 3 x 256 x 256, -1..1)."""
        points: Tensor = self._net(crops.to(self._device))
        return points


def parts_mask(points: NDArray[np.floating], parts: Sequence[str], margin: int, feather: float) -> NDArray[np.float32]:
    """The soft mask (256 x 256, 0..1) of some parts of a face, each with what is between its points, and `margin` pixels around."""
    hard = np.zeros((256, 256), np.uint8)
    for part in parts:
        hull = cv2.convexHull(np.asarray(points, np.float32)[GROUPS[part]])
        cv2.fillConvexPoly(hard, np.rint(hull * 16).astype(np.int32), 255, shift=4)
    wide = cv2.dilate(hard, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1)))
    return np.asarray(cv2.GaussianBlur(wide.astype(np.float32) / 255, (0, 0), feather), np.float32)


def oval_mask(
    points: NDArray[np.floating], feather: float = 6.0, forehead: float = 1.01, jaw: float = 1.0
) -> NDArray[np.float32]:
    """The soft mask (256 x 256, 0..1) of the face inside its oval, which is made so much larger or smaller above and below; 0 outside.

    By default all of it and a little of the hairline: recognisers know a forehead and a jaw.
    """
    oval = np.asarray(points, np.float64)[OVAL]
    centre = oval.mean(0)
    height = max(float(np.ptp(oval[:, 1])), 1e-6)
    below = ((oval[:, 1:] - centre[1]) / (0.3 * height) + 0.5).clip(0, 1)  # from one to the other in the middle third
    polygon = centre + (oval - centre) * (forehead + (jaw - forehead) * below)
    hard = np.zeros((256, 256), np.uint8)
    cv2.fillPoly(hard, [np.rint(polygon * 16).astype(np.int32)], 255, shift=4)
    inside = cv2.distanceTransform(hard, cv2.DIST_L2, 5)
    ramp = np.clip(inside / (2 * feather), 0, 1)
    soft: NDArray[np.float32] = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return soft
