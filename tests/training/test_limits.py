"""The capacity is Costa's, and energy goes where the noise is least."""

from __future__ import annotations

import numpy as np
import pytest

from training.limits import capacity, noise_of


def test_equal_noise_is_shared_equally() -> None:
    assert capacity(np.full(64, 2.0), 64 * 2.0) == pytest.approx(64 * 0.5)
    assert capacity(np.full(64, 1.0), 64 * 15.0) == pytest.approx(64 * 2)


def test_energy_is_poured_over_the_quietest() -> None:
    """Two quiet coefficients take it all: at level 5 the loud ones get nothing."""
    noise = np.array([1.0, 1.0] + [5.0] * 62)
    assert capacity(noise, 8.0) == pytest.approx(2 * 0.5 * np.log2(5))
    assert capacity(noise, 8.0 + 64.0) > capacity(noise, 8.0) + 1


def test_a_coarser_file_is_noisier() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3)).repeat(32, 0).repeat(32, 1).astype(np.uint8)
    quiet, loud = (noise_of(image, name, 6.5, np.random.default_rng(1)).sum() for name in ("webp90", "webp80"))
    assert noise_of(image, "png", 6.5, np.random.default_rng(1)).sum() == pytest.approx(64 / 12)
    assert 64 / 12 < quiet < loud
