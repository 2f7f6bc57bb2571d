"""What is looked at before an image is released: are the faces fit to be replaced, and were they?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refacex_core.faces import align
from refacex_core.faces.detect import CenterFace, Detection, YuNet, iou
from refacex_core.recognisers import Recogniser
from refacex_core.stego.framing import FaceGeometry
from refacex_core.types import RGB, Box, HoldReason

SMALLEST_FACE = 36.0  # pixels, longer side of the box; faces of 40 px have boxes of 36 and more
_OUTSIDE = 0.22  # the most of a box that may lie beyond the image
#: A second detector's finding counts from this score: below, it reports folds and leaves.
_SECOND_OPINION = 0.65


class Unfit(Exception):
    """Internal: a face that cannot be replaced; the image is held."""

    def __init__(self, reason: HoldReason) -> None:
        self.reason = reason


def check_faces(found: Sequence[Detection], size: tuple[int, ...]) -> None:
    """Raises Unfit for a face that is too small or cut by the edge of an image of `size` (height, width)."""
    height, width = size[0], size[1]
    for face in found:
        x, y, w, h = face.box
        if max(w, h) < SMALLEST_FACE:
            raise Unfit(HoldReason.FACE_TOO_SMALL)
        inside = max(min(x + w, width) - max(x, 0), 0) * max(min(y + h, height) - max(y, 0), 0)
        cut = ((face.points < 0) | (face.points > [width - 1, height - 1])).any()
        if inside < (1 - _OUTSIDE) * w * h or cut:
            raise Unfit(HoldReason.FACE_AT_EDGE)


class Audit:
    """Looks at a finished file as a stranger would."""

    def __init__(self, first: YuNet, second: CenterFace, recogniser: Recogniser) -> None:
        self._first, self._second, self._recogniser = first, second, recogniser

    def __call__(
        self, seen: RGB, faces: Sequence[tuple[FaceGeometry, Box, NDArray[np.float32]]], most: float
    ) -> list[float] | HoldReason:
        """The similarity of each released face to its original (cosine), or why the image must be held.

        Every face that either detector finds must be one that was replaced; each replaced face must still look like a
        face; none may be nearer to its original than `most`.
        """
        replaced = [box for _, box, _ in faces]
        first = self._first(seen)
        second = [d for d in self._second(seen) if d.score >= _SECOND_OPINION]
        for detection in (*first, *second):
            if not any(overlaps(detection.box, box) for box in replaced):
                return HoldReason.FACE_MISSED
        for box in replaced:
            if not any(overlaps(d.box, box) for d in first):
                return HoldReason.FACE_LOST
        if not faces:
            return []
        crops = np.stack([align.crop(seen, g.matrix()) for g, _, _ in faces])
        similar = [float(a @ b) for a, (_, _, b) in zip(self._recogniser(crops), faces, strict=True)]
        return HoldReason.IDENTITY_LEAK if max(similar) > most else similar


def overlaps(a: Box, b: Box) -> bool:
    """Whether two boxes are of one face: they overlap well, or one holds the other's middle and is of like size."""
    if iou(a, b) > 0.3:
        return True
    middle = (a[0] + a[2] / 2, a[1] + a[3] / 2)
    holds = b[0] <= middle[0] <= b[0] + b[2] and b[1] <= middle[1] <= b[1] + b[3]
    return holds and 0.25 < (a[2] * a[3]) / max(b[2] * b[3], 1e-6) < 4
