"""Image metrics over uint8 crops: PSNR, SSIM, Frechet distances, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], mask: NDArray[np.floating] | None = None) -> float:
    """dB over all colour values, or over those where `mask` is above one half."""
    error = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    value = float(error.mean() if mask is None else error[mask > 0.5].mean())
    return 99.0 if value == 0 else float(10 * np.log10(255**2 / value))


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity (Wang et al. 2004): 11 x 11 Gaussian of sigma 1.5, colour, data range 255."""
    x, y = a.astype(np.float64), b.astype(np.float64)

    def mean(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(v, (11, 11), 1.5))[5:-5, 5:-5]

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def interval(values: Sequence[float], seed: int = 0, draws: int = 1000) -> dict[str, float]:
    """Mean with its 95 % bootstrap interval, the least and the greatest value, and n."""
    v = np.asarray(values, np.float64)
    if not len(v):
        return {"n": 0}
    rng = np.random.default_rng(seed)
    means = v[rng.integers(0, len(v), (draws, len(v)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    figures = {"mean": v.mean(), "low": low, "high": high, "min": v.min(), "max": v.max()}
    return {**{name: round(float(value), 4) for name, value in figures.items()}, "n": len(v)}


def frechet(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> float:
    """The Frechet distance of two Gaussians fitted to features (Dowson and Landau, 1982): to be compared at equal numbers alone, as few
    examples make it larger.
    """
    x, y = np.stack(a), np.stack(b)
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross)
