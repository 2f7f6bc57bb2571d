"""What is looked at before an image is released: are the faces fit to be replaced, and were they?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refacex_core.faces import align
from refacex_core.faces.detect import CenterFace, Detection, YuNet, same_face
from refacex_core.gates import SMALLEST_FACE
from refacex_core.recognisers import Recogniser
from refacex_core.stego.framing import FaceGeometry
from refacex_core.types import RGB, Box, HoldReason

_OUTSIDE = 0.22  # the most of a box that may lie beyond the image


class Unfit(Exception):
    """Internal: the image is held, because of these faces (boxes; none where the reason is not a face)."""

    def __init__(self, reason: HoldReason, boxes: Sequence[Box] = ()) -> None:
        self.reason, self.boxes = reason, tuple(boxes)


@dataclass(frozen=True)
class Verdict:
    """What the audit found: no reason, or why the image must be held and which faces (numbers) or places (boxes) do it."""

    similar: tuple[float, ...]  # cosine to the original, a face
    reason: HoldReason | None = None
    faces: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()


class Audit:
    """Two independent detectors and a recogniser, before and after."""

    def __init__(self, first: YuNet, second: CenterFace, recogniser: Recogniser) -> None:
        self._first, self._second, self._recogniser = first, second, recogniser

    def find(self, rgb: RGB) -> list[Detection]:
        """The faces that can be replaced. Unfit when one is too small, is cut, or is seen by the second detector alone."""
        height, width = rgb.shape[:2]
        found = self._first(rgb)
        small = [d.box for d in found if max(d.box[2:]) < SMALLEST_FACE]
        if small:
            raise Unfit(HoldReason.FACE_TOO_SMALL, small)
        cut = [d.box for d in found if _is_cut(d, height, width)]
        if cut:
            raise Unfit(HoldReason.FACE_AT_EDGE, cut)
        missed = _unmatched(self._second(rgb), [d.box for d in found])
        if missed:
            raise Unfit(HoldReason.FACE_MISSED, missed)
        return found

    def __call__(
        self, seen: RGB, faces: Sequence[tuple[FaceGeometry, Box, NDArray[np.float32]]], most: float
    ) -> Verdict:
        """Looks at a finished file (its pixels) as a stranger would.

        Every face that either detector finds must be one that was replaced; each replaced face must still be found; none may be nearer
        to its original (its code) than the cosine `most`, neither where the original lay nor where a detector finds the new one.
        """
        replaced = [box for _, box, _ in faces]
        first = self._first(seen)
        similar = tuple(self._similar(seen, face, first) for face in faces)
        missed = _unmatched([*first, *self._second(seen)], replaced)
        if missed:
            return Verdict(similar, HoldReason.FACE_MISSED, boxes=tuple(missed))
        lost = tuple(i for i, box in enumerate(replaced) if not any(_overlaps(d.box, box) for d in first))
        if lost:
            return Verdict(similar, HoldReason.FACE_LOST, lost)
        alike = tuple(i for i, value in enumerate(similar) if value > most)
        return Verdict(similar, HoldReason.IDENTITY_LEAK if alike else None, alike)

    def _similar(
        self, seen: RGB, face: tuple[FaceGeometry, Box, NDArray[np.float32]], found: Sequence[Detection]
    ) -> float:
        """The greatest cosine to the original's code, by all the places that are taken for the face."""
        geometry, box, code = face
        matrices = [geometry.matrix(), *(align.similarity(d.points) for d in found if _overlaps(d.box, box))]
        codes = self._recogniser(np.stack([align.crop(seen, matrix) for matrix in matrices]))
        return float((codes @ code).max())


def _is_cut(face: Detection, height: int, width: int) -> bool:
    x, y, w, h = face.box
    inside = max(min(x + w, width) - max(x, 0), 0) * max(min(y + h, height) - max(y, 0), 0)
    beyond = (face.points < 0) | (face.points > [width - 1, height - 1])
    return bool(inside < (1 - _OUTSIDE) * w * h or beyond.any())


def _unmatched(found: Sequence[Detection], boxes: Sequence[Box]) -> list[Box]:
    return [d.box for d in found if not any(_overlaps(d.box, box) for box in boxes)]


def _overlaps(a: Box, b: Box) -> bool:
    """Whether two detectors' boxes, which are drawn differently, are of one face."""
    if same_face(a, b):
        return True
    between = np.hypot(a[0] + a[2] / 2 - b[0] - b[2] / 2, a[1] + a[3] / 2 - b[1] - b[3] / 2)
    ratio = (a[2] * a[3]) / max(b[2] * b[3], 1e-6)
    return bool(0.4 < ratio < 2.5 and between < 0.35 * max(b[2:]))
