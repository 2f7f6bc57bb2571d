"""162 points of the face (oval, lips, eyes, brows, nose, irises) from an aligned crop, by a small network of ours.

The points are a subset of the MediaPipe face mesh; `GROUPS` says which rows belong to which part.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core import weights

POINTS = 162
INPUT = 128

_MESH = json.loads((Path(__file__).parent / "mesh.json").read_text())
#: Rows of each part among the 162 points.
GROUPS: dict[str, NDArray[np.int64]] = {k: np.array(v, np.int64) for k, v in _MESH["groups"].items()}
#: The row of each of the face mesh's points that we have.
ROW_OF: dict[int, int] = {point: row for row, point in enumerate(_MESH["mesh_index"])}
#: The face oval's rows in order around the face, from the chin.
OVAL: NDArray[np.int64] = np.array(_MESH["oval_order"], np.int64)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.PReLU(outputs),
    )


class LandmarkNet(nn.Module):
    """Crop (B x 3 x 128 x 128, -1..1) to points (B x 162 x 2, crop pixels of the 256 x 256 crop)."""

    mean: Tensor

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(nn.Conv2d(3, w, 3, 2, 1, bias=False), nn.BatchNorm2d(w), nn.PReLU(w))
        self.body = nn.Sequential(
            _block(w, 2 * w, 2),
            _block(2 * w, 2 * w, 1),
            _block(2 * w, 3 * w, 2),
            _block(3 * w, 3 * w, 1),
            _block(3 * w, 4 * w, 2),
            _block(4 * w, 4 * w, 1),
        )
        self.squeeze = nn.Conv2d(4 * w, 24, 1)
        self.head = nn.Sequential(nn.Linear(24 * 64, 256), nn.PReLU(256), nn.Linear(256, POINTS * 2))
        self.register_buffer("mean", torch.zeros(POINTS, 2))

    def forward(self, crop: Tensor) -> Tensor:
        features = self.squeeze(self.body(self.stem(crop))).flatten(1)
        offset: Tensor = self.head(features).view(-1, POINTS, 2)
        return self.mean + 32.0 * offset


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
        small = F.interpolate(crops.to(self._device), size=INPUT, mode="area")
        points: Tensor = self._net(small)
        return points


def lips_mask(points: NDArray[np.floating], margin: int = 6, feather: float = 4.0) -> NDArray[np.float32]:
    """The soft mask (256 x 256, 0..1) of the lips, what is between them, and `margin` pixels around."""
    hard = np.zeros((256, 256), np.uint8)
    hull = cv2.convexHull(np.asarray(points, np.float32)[GROUPS["lips"]])
    cv2.fillConvexPoly(hard, np.rint(hull * 16).astype(np.int32), 255, shift=4)
    wide = cv2.dilate(hard, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1)))
    return np.asarray(cv2.GaussianBlur(wide.astype(np.float32) / 255, (0, 0), feather), np.float32)


def oval_mask(points: NDArray[np.floating], feather: float = 6.0, shrink: float = 0.97) -> NDArray[np.float32]:
    """The soft mask (256 x 256, 0..1) of the face inside its oval; it is 0 outside the oval."""
    oval = np.asarray(points, np.float64)[OVAL]
    centre = oval.mean(0)
    polygon = centre + (oval - centre) * shrink
    hard = np.zeros((256, 256), np.uint8)
    cv2.fillPoly(hard, [np.rint(polygon * 16).astype(np.int32)], 255, shift=4)
    inside = cv2.distanceTransform(hard, cv2.DIST_L2, 5)
    ramp = np.clip(inside / (2 * feather), 0, 1)
    soft: NDArray[np.float32] = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return soft
