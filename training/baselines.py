"""What the anonymiser must beat, on the same images: a donor's portrait pasted through five points, no network at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refacex_core.donors import DonorAppearance
from refacex_core.faces import align
from refacex_core.faces.landmarks import oval_mask
from refacex_core.gates import GOOD_SIMILARITY, MOST_SIMILARITY
from refacex_core.pipeline import DONORS_TRIED, SPARE_DONORS
from refacex_core.recognisers import Recogniser
from training.common import Crops

Find = Callable[[NDArray[np.uint8]], NDArray[np.float64] | None]


@dataclass(frozen=True)
class Pasted:
    """What the baseline made of one image: the crop with the first donor, and with the best of as many as the pipeline tries."""

    first: NDArray[np.uint8]
    gated: NDArray[np.uint8]


class DonorPaste:
    """Donors drawn by chance; `gated` has as many as the pipeline has, each once, and its thresholds by the same recogniser, of the
    face as it is."""

    def __init__(self, donors: Crops, judge: Recogniser, find: Find, seed: int = 0) -> None:
        self._donors, self._judge, self._find = donors, judge, find
        self._rng = np.random.default_rng(seed)
        self._oval = oval_mask(DonorAppearance().mean_shape.numpy())

    def __call__(self, original: NDArray[np.uint8], points: NDArray[np.float64]) -> Pasted:
        """`original` H x W x 3 with the five `points` (5 x 2) of the face to be replaced."""
        code = self._judge(align.crop(original, align.similarity(points))[None])[0]
        tries: list[tuple[float, NDArray[np.uint8]]] = []
        for index in self._rng.permutation(len(self._donors))[: DONORS_TRIED + SPARE_DONORS]:
            best = min((similarity for similarity, _ in tries), default=1.0)
            if best <= (GOOD_SIMILARITY if len(tries) < DONORS_TRIED else MOST_SIMILARITY):
                break
            crop = self._paste(original, points, self._donors.image(int(index)))
            tries.append((float(self._judge(crop[None])[0] @ code), crop))
        return Pasted(tries[0][1], min(tries, key=lambda t: t[0])[1])

    def _paste(
        self, original: NDArray[np.uint8], points: NDArray[np.float64], donor: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """The face found afresh and cut out of the image with the donor in it."""
        matrix = align.similarity(points)
        face = self._colour_matched(align.crop(original, matrix), donor)
        whole = align.paste(original, face, self._oval, matrix)
        again = self._find(whole)
        return align.crop(whole, matrix if again is None else align.similarity(again))

    def _colour_matched(self, crop: NDArray[np.uint8], donor: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The donor's crop with mean and spread of each colour taken from the source, inside the mean oval."""
        inside = self._oval > 0.5
        a, b = crop[inside].astype(float), donor[inside].astype(float)
        matched = (donor - b.mean(0)) / np.maximum(b.std(0), 1) * a.std(0) + a.mean(0)
        return np.clip(matched, 0, 255).astype(np.uint8)
