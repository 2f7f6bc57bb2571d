"""Between a photograph and the aligned crop: similarity transform, crop, paste back.

A crop is 256 x 256 pixels; `TEMPLATE` says where the five points of a face come to lie in it: left eye, right eye, nose,
left and right mouth corner as seen in the image. It is the ArcFace template, scaled so that chin and forehead fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

CROP = 256

ARCFACE_TEMPLATE: NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_SCALE = 1.76
_ENLARGED = 0.8  # crop pixels a pixel of the image: below it, a face that is pasted is enlarged
_COARSE = 0.6  # pixels: the blur of a photograph's grain
_INSIDE = 0.95  # of a mask
TEMPLATE: NDArray[np.float64] = (ARCFACE_TEMPLATE - [56.0, 51.6]) * _SCALE + [128.0, 114.0]

#: Maps crop coordinates to the ArcFace 112 x 112 template (2 x 3).
CROP_TO_ARCFACE: NDArray[np.float64] = np.array(
    [[1 / _SCALE, 0.0, 56.0 - 128.0 / _SCALE], [0.0, 1 / _SCALE, 51.6 - 114.0 / _SCALE]]
)


@dataclass(frozen=True)
class Grain:
    """How grainy an image is (standard deviation, levels), and where its noise begins: the same seed gives the same noise."""

    strength: float
    seed: int


def similarity(points: NDArray[np.floating], template: NDArray[np.float64] = TEMPLATE) -> NDArray[np.float64]:
    """The least-squares similarity (2 x 3) that takes `points` (5 x 2, pixels) to `template` (Umeyama 1991)."""
    src = np.asarray(points, np.float64)
    mu_s, mu_t = src.mean(0), template.mean(0)
    s, t = src - mu_s, template - mu_t
    var = (s**2).sum()
    a = (s * t).sum() / max(var, 1e-12)
    b = (s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum() / max(var, 1e-12)
    m = np.array([[a, -b], [b, a]])
    return np.hstack([m, (mu_t - m @ mu_s)[:, None]])


def invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of a 2 x 3 similarity."""
    inverse: NDArray[np.float64] = np.asarray(cv2.invertAffineTransform(matrix), np.float64)
    return inverse


def apply(matrix: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """`points` (... x 2) through a 2 x 3 transform."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def moved(matrix: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    """The same similarity (2 x 3) from an image whose first pixel is the pixel (x, y) of this one."""
    return np.hstack([matrix[:, :2], apply(matrix, np.array([x, y]))[:, None]])


def crop(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int = CROP) -> NDArray[np.uint8]:
    """The aligned crop (size x size x 3) of `image` (H x W x 3); beyond its edge, the edge is repeated.

    A face larger than the crop is averaged down first, so that it does not alias.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    m = matrix
    if scale < 0.6:
        f = max(scale * 1.2, 1.0 / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=f, fy=f, interpolation=cv2.INTER_AREA)
        fx, fy = small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]
        image, m = (
            np.asarray(small, np.uint8),
            matrix @ np.array([[1 / fx, 0, 0.5 / fx - 0.5], [0, 1 / fy, 0.5 / fy - 0.5], [0, 0, 1]]),
        )
    out = cv2.warpAffine(image, m, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    result: NDArray[np.uint8] = np.asarray(out, np.uint8)
    return result


def reach(matrix: NDArray[np.float64], margin: int = 0) -> tuple[int, int, int, int]:
    """The part of the image that a crop shows: top, left, bottom, right in whole pixels, with a margin; it may lie beyond the image."""
    corners = apply(invert(matrix), np.array([[0, 0], [CROP, 0], [CROP, CROP], [0, CROP]], float))
    left, top = np.floor(corners.min(0)).astype(int) - margin
    right, bottom = np.ceil(corners.max(0)).astype(int) + margin
    return int(top), int(left), int(bottom), int(right)


def paste(
    image: NDArray[np.uint8],
    face: NDArray[np.uint8],
    mask: NDArray[np.float32],
    matrix: NDArray[np.float64],
    grain: Grain | None = None,
) -> NDArray[np.uint8]:
    """`image` with the crop `face` (256 x 256 x 3) laid back where `mask` (256 x 256, 0..1) is above zero.

    Pixels outside the mask keep their exact values. The face gets what it lacks of the `grain`.
    """
    height, width = image.shape[:2]
    top, left, bottom, right = reach(matrix, 1)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x0 >= x1 or y0 >= y1:
        return image.copy()
    back = invert(matrix).copy()
    back[:, 2] -= (x0, y0)
    size = (x1 - x0, y1 - y0)
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    flags = cv2.INTER_CUBIC
    if scale > 1.6:  # the photograph's face is smaller than the crop: average before sampling
        face = np.asarray(cv2.GaussianBlur(face, (0, 0), 0.35 * scale), np.uint8)
        flags = cv2.INTER_LINEAR
    layer = cv2.warpAffine(face, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    alpha = cv2.warpAffine(mask, back, size, flags=cv2.INTER_LINEAR)[..., None]
    if grain is not None:
        layer += _noise(grain, layer, alpha[..., 0] > _INSIDE)
    out = image.copy()
    region = out[y0:y1, x0:x1]
    blended = region + alpha * (layer - region)
    out[y0:y1, x0:x1] = np.where(alpha > 0, np.clip(np.rint(blended), 0, 255), region).astype(np.uint8)
    return out


def grain(image: NDArray[np.uint8], mask: NDArray[np.float32], matrix: NDArray[np.float64], seed: int) -> Grain | None:
    """The grain of an image (H x W x 3) at a crop's place: the weaker of that inside the mask (256 x 256) and that around it.

    None where the crop has as many pixels as the image: a face that is pasted there has grain of its own.
    """
    if np.hypot(matrix[0, 0], matrix[0, 1]) >= _ENLARGED:
        return None
    top, left, bottom, right = reach(matrix)
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not part.size:
        return None
    back = invert(matrix).copy()
    back[:, 2] -= (max(left, 0), max(top, 0))
    alpha = cv2.warpAffine(mask, back, part.shape[1::-1], flags=cv2.INTER_LINEAR)
    grey = part.astype(np.float32).mean(2)
    return Grain(min(_strength(grey, alpha > _INSIDE), _strength(grey, alpha == 0)), seed)


def _noise(grain: Grain, face: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What a face (H x W x 3, levels) lacks of the grain (H x W x 1); the same for the same face, place and grain."""
    white = np.random.default_rng(grain.seed).standard_normal(inside.shape, np.float32)
    noise = np.asarray(cv2.GaussianBlur(white, (0, 0), _COARSE), np.float32)
    missing = np.sqrt(max(grain.strength**2 - _strength(face.mean(2), inside) ** 2, 0.0))
    return np.asarray(noise * missing / max(_strength(noise, inside), 1e-6), np.float32)[..., None]


def _strength(grey: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    """The standard deviation of what is finer than a pixel or two (levels), by the median of its size."""
    detail = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.2))[where]
    return float(np.median(detail) / 0.6745) if detail.size else 0.0
