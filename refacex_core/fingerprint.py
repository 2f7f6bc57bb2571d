"""Coarse perceptual fingerprints: is this the photograph, and is this the face, that a payload was made for?

The signs of the lowest frequencies of a 32 x 32 luma thumbnail (DCT), the mean left out: 128 for an image, 64 for an
aligned face. Re-encoding and small changes of brightness turn a few signs; another photograph turns about half of them.
It is no authentication: whoever makes a similar picture on purpose passes. The payload itself is authenticated elsewhere.
"""

from __future__ import annotations

import cv2
import numpy as np

from refacex_core.stego.framing import FACE_FINGERPRINT_BYTES, IMAGE_FINGERPRINT_BYTES
from refacex_core.types import RGB

_SIDE = 32
#: Frequencies (u, v) from low to high; the mean (0, 0) is left out.
_ORDER = sorted(((u, v) for u in range(_SIDE) for v in range(_SIDE)), key=lambda f: (sum(f), f))[1:]
#: Most differing bits at which two fingerprints still match, by their length in bytes.
_TOLERANCE = {IMAGE_FINGERPRINT_BYTES: 16, FACE_FINGERPRINT_BYTES: 7}


def _signs(rgb: RGB, count: int) -> bytes:
    luma = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY).astype(np.float32)
    spectrum = cv2.dct(cv2.resize(luma, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
    return np.packbits([spectrum[u, v] > 0 for u, v in _ORDER[:count]]).tobytes()


def image_fingerprint(rgb: RGB) -> bytes:
    """16 bytes for a whole image (H x W x 3, RGB)."""
    return _signs(rgb, 8 * IMAGE_FINGERPRINT_BYTES)


def face_fingerprint(crop: RGB) -> bytes:
    """8 bytes for an aligned face crop (256 x 256 x 3, RGB)."""
    return _signs(crop, 8 * FACE_FINGERPRINT_BYTES)


def matches(a: bytes, b: bytes, *, piece: bool = False) -> bool:
    """Whether two fingerprints of the same kind are of the same picture. ValueError when they are of two kinds.

    `piece`: one is of a picture whose edge is missing, and was repeated: twice as many bits may differ.
    """
    if len(a) != len(b) or len(a) not in _TOLERANCE:
        raise ValueError("fingerprints have 16 bytes (image) or 8 (face)")
    distance = (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()
    return distance <= _TOLERANCE[len(a)] * (2 if piece else 1)
