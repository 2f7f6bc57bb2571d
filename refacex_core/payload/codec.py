"""Original faces to payload bytes of a budget, and back to the coded window.

First byte: the code. `AVIF` is AV1 intra coding with its container taken off: for one window size and one setting the
container is the same 275 bytes but for two lengths, so only the AV1 data travels.
"""

from __future__ import annotations

import io
import math
from enum import IntEnum
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refacex_core.errors import PayloadUnreadable
from refacex_core.payload.network import WINDOW
from refacex_core.types import RGB

MAXIMUM_BYTES = {"robust": 2200, "archive": 20000}
_CONTAINER = (Path(__file__).parent / "avif_window.bin").read_bytes()
_EXTENT, _BOX = 117, 267  # where the lengths of the AV1 data and of its box stand
#: Pillow's own choice (speed 6, tuned for still pictures) is worse at equal bytes: `training.codecs`.
_EFFORT = {"speed": 4, "advanced": {"tune": "psnr"}}
#: The first quality to try, how much the logarithm of its bytes grows with quality, and which share of a budget is enough.
_FIRST, _GROWTH, _LEAST_GROWTH, _NEARLY = 35, 0.033, 0.005, 0.98


class Code(IntEnum):
    """How the bytes after the first one are to be read."""

    AVIF = 0


def encode(crop: RGB, mask: NDArray[np.float32] | None, budget: int) -> bytes:
    """The face under `mask` (256 x 256, 0..1; None: the whole window) of an aligned crop, in at most `budget` bytes, as
    good as they allow or a fiftieth less do. PayloadUnreadable when even the coarsest setting is larger than the budget; callers hold
    such an image.
    """
    view = window_of(crop if mask is None else extend(crop, mask))
    for sigma in (0.0, 1.5, 3.0, 6.0):  # where even the coarsest setting is too large, a softer picture is smaller
        soft = cv2.GaussianBlur(view, (0, 0), sigma) if sigma else view
        data = _largest(np.asarray(soft, np.uint8), budget - 1)
        if data:
            return bytes([Code.AVIF]) + data
    raise PayloadUnreadable(f"no setting of the codec fits into {budget} bytes")


def _largest(view: RGB, budget: int) -> bytes:
    """The best AV1 data of at most `budget` bytes, or data that has nearly so many; empty when there is none.

    The logarithm of the bytes grows about evenly with quality, so which quality to try next follows from those that were tried.
    """
    low, high, best, quality = -1, 101, b"", _FIRST
    growth, tried = _GROWTH, {}
    while high - low > 1:
        data = _avif(view, quality)
        tried[quality] = math.log(len(data) / max(budget, 1))
        if len(data) > budget:
            high = quality
        else:
            low, best = quality, data
            if len(data) > _NEARLY * budget:
                break
        if low in tried and high in tried:
            growth = (tried[high] - tried[low]) / (high - low)
        quality = min(max(quality - math.ceil(tried[quality] / max(growth, _LEAST_GROWTH)), low + 1), high - 1)
    return best


def decode(payload: bytes) -> RGB:
    """The coded window (208 x 192 x 3). PayloadUnreadable when the bytes are none of a codec we know."""
    if not payload or payload[0] != Code.AVIF:
        raise PayloadUnreadable("unknown payload code: a newer version wrote it")
    data = payload[1:]
    container = bytearray(_CONTAINER)
    container[_EXTENT : _EXTENT + 4] = len(data).to_bytes(4, "big")
    container[_BOX : _BOX + 4] = (len(data) + 8).to_bytes(4, "big")
    try:
        with Image.open(io.BytesIO(bytes(container) + data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise PayloadUnreadable("the face's code is damaged") from error


def extend(crop: RGB, mask: NDArray[np.float32]) -> RGB:
    """The crop with what lies outside the mask replaced by a smooth continuation of the inside: it costs few bits."""
    inside = (mask > 0.0).astype(np.float32)
    filled = crop.astype(np.float32) * inside[..., None]
    weight = inside.copy()
    result = filled.copy()
    for sigma in (4.0, 12.0, 36.0, 108.0):
        w = cv2.GaussianBlur(weight, (0, 0), sigma)
        colour = cv2.GaussianBlur(filled, (0, 0), sigma) / np.maximum(w, 1e-6)[..., None]
        missing = (result.sum(-1) == 0) & (w > 1e-3)
        result[missing] = colour[missing]
    smooth = cv2.GaussianBlur(result, (0, 0), 6.0)
    out: RGB = np.where(inside[..., None] > 0, crop, np.clip(smooth, 0, 255)).astype(np.uint8)
    return out


def recode(view: RGB, quality: int) -> RGB:
    """A window (208 x 192 x 3) as it comes back from AV1 at `quality` 0..100."""
    return decode(bytes([Code.AVIF]) + _avif(view, quality))


def window_of(crop: RGB) -> RGB:
    """The part of a crop (256 x 256 x 3) that is coded."""
    top, left, height, width = WINDOW
    return np.ascontiguousarray(crop[top : top + height, left : left + width])


def with_window(crop: RGB, view: RGB) -> RGB:
    """The crop (256 x 256 x 3) with `view` (208 x 192 x 3) in the place of its coded part."""
    top, left, height, width = WINDOW
    whole = crop.copy()
    whole[top : top + height, left : left + width] = view
    return whole


def _avif(view: RGB, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, "avif", quality=quality, subsampling="4:2:0", max_threads=1, **_EFFORT)
    data = buffer.getvalue()
    start = len(_CONTAINER)
    rest = bytearray(data[:start])
    rest[_EXTENT : _EXTENT + 4] = _CONTAINER[_EXTENT : _EXTENT + 4]
    rest[_BOX : _BOX + 4] = _CONTAINER[_BOX : _BOX + 4]
    if bytes(rest) != _CONTAINER:
        raise RuntimeError("this Pillow writes another AVIF container: use the pinned version")
    return data[start:]
