"""Two independent detectors: YuNet finds the faces, CenterFace checks that none was missed.

YuNet: Wu, Peng, Yu, *YuNet: a tiny millisecond-level face detector* (2023). CenterFace: Xu et al., *CenterFace: joint face
detection and alignment using face as point* (2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from refacex_core.models import CENTERFACE, YUNET, locate
from refacex_core.types import Box

_LONG_SIDE = 1280  # whole-image pass
_TILE, _OVERLAP = 1024, 192


@dataclass(frozen=True)
class Detection:
    """A face: `box` is (x, y, width, height) in pixels, `points` 5 x 2 in the template's order, `score` 0..1."""

    box: Box
    points: NDArray[np.float64]
    score: float


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two (x, y, width, height) boxes."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (a[2] * a[3] + b[2] * b[3] - w * h)


def _contained(a: Box, b: Box) -> float:
    """The share of the smaller box that lies in the other."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(w, 0.0) * max(h, 0.0) / max(min(a[2] * a[3], b[2] * b[3]), 1e-9)


def same_face(a: Box, b: Box) -> bool:
    """Whether two boxes are of one face: they overlap well, or are of like size with one mostly inside the other.

    A small face in the corner of a large one's box (a child before a parent) is another face.
    """
    if iou(a, b) > 0.35:
        return True
    small, large = sorted((a[2] * a[3], b[2] * b[3]))
    return small > 0.4 * large and _contained(a, b) > 0.8


def suppress(found: list[Detection]) -> list[Detection]:
    """Non-maximum suppression over boxes from several scales and tiles, best score first."""
    kept: list[Detection] = []
    for d in sorted(found, key=lambda d: -d.score):
        if not any(same_face(d.box, k.box) for k in kept):
            kept.append(d)
    return kept


def _whole(found: list[Detection], view: tuple[int, int, int, int], image: tuple[int, ...]) -> list[Detection]:
    """Without the pieces of faces that a tile (x, y, width, height) cuts: a neighbour or the whole image has them whole."""
    x, y, w, h = view
    left, top = (x if x > 0 else -np.inf), (y if y > 0 else -np.inf)
    right, bottom = (x + w if x + w < image[1] else np.inf), (y + h if y + h < image[0] else np.inf)
    near = 4.0  # pixels
    return [
        d
        for d in found
        if d.box[0] > left + near
        and d.box[1] > top + near
        and d.box[0] + d.box[2] < right - near
        and d.box[1] + d.box[3] < bottom - near
    ]


def _views(image: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], float, int, int]]:
    """The image as a whole at a bounded size, then, if it is larger than that, its tiles: (view, scale, x, y)."""
    height, width = image.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    whole = image if scale == 1.0 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    yield np.asarray(whole, np.uint8), scale, 0, 0
    if scale == 1.0:
        return
    step = _TILE - _OVERLAP
    for y in range(0, max(height - _OVERLAP, 1), step):
        for x in range(0, max(width - _OVERLAP, 1), step):
            yield image[y : y + _TILE, x : x + _TILE], 1.0, x, y


class YuNet:
    """OpenCV Zoo's YuNet with five points, over the whole image and over tiles of large ones."""

    def __init__(self, model_dir: str | None = None, threshold: float = 0.6) -> None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of targets that nobody asked for
        self._net = cv2.FaceDetectorYN.create(
            str(locate(YUNET, model_dir)), "", (320, 320), score_threshold=threshold, nms_threshold=0.3
        )

    def __call__(self, image: NDArray[np.uint8]) -> list[Detection]:
        """The faces of an RGB image (H x W x 3, uint8), best score first."""
        found: list[Detection] = []
        for view, scale, x, y in _views(image):
            seen = self._view(view, scale, x, y)
            tile = (x, y, view.shape[1], view.shape[0])
            found += seen if scale < 1.0 else _whole(seen, tile, image.shape)
        return suppress(found)

    def _view(self, view: NDArray[np.uint8], scale: float, x: int, y: int) -> list[Detection]:
        height, width = view.shape[:2]
        up = 2.0 if max(height, width) <= 160 else 1.0  # the net has no scale for a face in so few pixels
        scaled = view if up == 1.0 else cv2.resize(view, None, fx=up, fy=up, interpolation=cv2.INTER_CUBIC)
        pad = 32  # faces close to the frame are found better with a border around them
        bgr = cv2.copyMakeBorder(cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR), pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        self._net.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, rows = self._net.detect(bgr)
        if rows is None:
            return []
        k, off = 1.0 / (scale * up), np.array([x, y], float)
        result = []
        for r in np.asarray(rows, np.float64):
            origin = (r[:2] - pad) * k + off
            points = (r[4:14].reshape(5, 2) - pad) * k + off
            result.append(Detection((origin[0], origin[1], r[2] * k, r[3] * k), points, float(r[14])))
        return result


class CenterFace:
    """CenterFace through OpenCV; used to cross-check, so its threshold is its authors' default."""

    def __init__(self, model_dir: str | None = None, threshold: float = 0.5) -> None:
        self._net = cv2.dnn.readNetFromONNX(str(locate(CENTERFACE, model_dir)))
        self._threshold = threshold

    def __call__(self, image: NDArray[np.uint8]) -> list[Detection]:
        """The faces of an RGB image (H x W x 3, uint8), best score first."""
        found: list[Detection] = []
        for view, scale, x, y in _views(image):
            seen = self._view(view, scale, x, y)
            tile = (x, y, view.shape[1], view.shape[0])
            found += seen if scale < 1.0 else _whole(seen, tile, image.shape)
        return suppress(found)

    def _view(self, view: NDArray[np.uint8], scale: float, x: int, y: int) -> list[Detection]:
        height, width = view.shape[:2]
        h32, w32 = max(-(-height // 32) * 32, 64), max(-(-width // 32) * 32, 64)
        sy, sx = height / h32, width / w32
        self._net.setInput(cv2.dnn.blobFromImage(np.ascontiguousarray(view), 1.0, (w32, h32), (0, 0, 0), False))
        heat, size, offset, marks = self._net.forward(["537", "538", "539", "540"])
        rows, cols = np.nonzero(heat[0, 0] > self._threshold)
        result = []
        for r, c in zip(rows, cols, strict=True):
            bh, bw = np.exp(size[0, :, r, c]) * 4
            cy = (r + offset[0, 0, r, c] + 0.5) * 4
            cx = (c + offset[0, 1, r, c] + 0.5) * 4
            x0, y0 = max(cx - bw / 2, 0.0), max(cy - bh / 2, 0.0)
            pts = [(x0 + marks[0, 2 * j + 1, r, c] * bw, y0 + marks[0, 2 * j, r, c] * bh) for j in range(5)]
            k = np.array([sx, sy]) / scale
            origin = np.array([x0, y0]) * k + (x, y)
            box = (float(origin[0]), float(origin[1]), float(bw * k[0]), float(bh * k[1]))
            result.append(Detection(box, np.array(pts) * k + (x, y), float(heat[0, 0, r, c])))
        return result
