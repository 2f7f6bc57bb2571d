"""Who is recognised: cosines, ranks and rates of one gallery of originals, by several recognisers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refacex_core import recognisers
from training.common import to_tensor
from training.losses import Identity, lpips
from training.metrics import interval

FAR = 1e-3
BINS = np.linspace(-0.5, 1.0, 61)  # of the cosines' histograms


class Judges:
    """Recognisers by name, and LPIPS."""

    def __init__(self, folder: Path) -> None:
        self._identity = Identity(folder)
        self.lpips = lpips(folder)
        self.sface, self._dlib = recognisers.sface(), recognisers.dlib()

    @torch.no_grad()
    def __call__(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Unit vectors of crops (N x 256 x 256 x 3), by recogniser."""
        y1, casia = self._identity(to_tensor(crops))
        return {"sface": self.sface(crops), "dlib": self._dlib(crops), "y1": y1.numpy(), "casia": casia.numpy()}

    @torch.no_grad()
    def features(self, crop: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The last features of LPIPS's SqueezeNet, averaged over the crop (256 x 256 x 3): 512 numbers, for Frechet distances."""
        values = (to_tensor(crop[None]) - self.lpips.shift) / self.lpips.scale
        for i in range(7):
            values = getattr(self.lpips.slices, str(i))(values)
        return np.asarray(values.mean((2, 3))[0].numpy(), np.float64)


class Identities:
    """Templates of the same people: of originals, of what was made of them, and of other photographs of some."""

    def __init__(self) -> None:
        self._vectors: dict[str, dict[str, list[NDArray[np.float32]]]] = defaultdict(lambda: defaultdict(list))
        self._others: dict[str, dict[int, NDArray[np.float32]]] = defaultdict(dict)

    def add(self, kinds: list[str], by: dict[str, NDArray[np.float32]]) -> None:
        """One person: a vector a kind (`original` among them), by recogniser."""
        for name, vectors in by.items():
            for kind, vector in zip(kinds, vectors, strict=True):
                self._vectors[name][kind].append(vector)

    def another(self, by: dict[str, NDArray[np.float32]]) -> None:
        """Another photograph (1 x 128) of who was added last."""
        for name, vectors in by.items():
            self._others[name][len(self._vectors[name]["original"]) - 1] = vectors[0]

    def figures(self) -> dict[str, Any]:
        """By recogniser: impostors, genuine pairs, and of each kind cosine, rank-1, rank-5, TAR at FAR 1e-3 and leak, with histograms."""
        return {name: self._of(kinds, self._others[name]) for name, kinds in self._vectors.items()}

    def _of(
        self, kinds: dict[str, list[NDArray[np.float32]]], others: dict[int, NDArray[np.float32]]
    ) -> dict[str, Any]:
        gallery = np.stack(kinds["original"])
        strangers = (gallery @ gallery.T)[~np.eye(len(gallery), dtype=bool)]
        impostor = float(strangers.mean())
        threshold = float(np.quantile(strangers, 1 - FAR))
        known = sorted(others)
        genuine = np.array([gallery[row] @ others[row] for row in known])
        result: dict[str, Any] = {
            "impostor_cosine": round(impostor, 4),
            "gallery": len(gallery),
            "threshold_at_far_0.001": round(threshold, 4),
            "histograms": {"impostor": _histogram(strangers)},
        }
        if known:
            result["genuine_cosine"] = interval(genuine.tolist())
            result["genuine_tar"] = interval((genuine > threshold).astype(float).tolist())
            result["histograms"]["genuine"] = _histogram(genuine)
        for kind in [each for each in kinds if each != "original"]:
            scores = np.stack(kinds[kind]) @ gallery.T
            mine = np.diag(scores)
            rank = (scores > mine[:, None]).sum(1)
            result[kind] = {
                "cosine": interval(mine.tolist()),
                "rank1": interval((rank < 1).astype(float).tolist()),
                "rank5": interval((rank < 5).astype(float).tolist()),
                "tar": interval((mine > threshold).astype(float).tolist()),
            }
            result["histograms"][kind] = _histogram(mine)
            if known:
                result[kind]["leak"] = interval(((mine - impostor) / (genuine.mean() - impostor)).tolist())
                result[kind]["rank1_another_photograph"] = interval(_by_another(scores, kinds[kind], others))
        return result


def _by_another(
    scores: NDArray[np.float32], probes: list[NDArray[np.float32]], others: dict[int, NDArray[np.float32]]
) -> list[float]:
    """Rank-1 where the gallery has another photograph of the person in the original's place."""
    hits = []
    for row, other in sorted(others.items()):
        line = scores[row].copy()
        line[row] = probes[row] @ other
        hits.append(float(line.argmax() == row))
    return hits


def _histogram(cosines: NDArray[np.floating]) -> list[float]:
    """The share of the cosines in each of `BINS`; what lies beyond them counts with the first or the last."""
    counts, _ = np.histogram(np.clip(cosines, BINS[0], BINS[-1]), BINS)
    return [round(float(count) / max(len(cosines), 1), 5) for count in counts]
