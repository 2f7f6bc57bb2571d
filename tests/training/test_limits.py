"""The capacity is Costa's, and energy goes where the noise is least."""

from __future__ import annotations

import numpy as np
import pytest

from training.limits import binary_capacity, capacity, noise_of, scalar_costa


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


def test_a_binary_lattice_carries_less_than_a_gaussian_channel_and_a_bit_at_most() -> None:
    signals, bits = scalar_costa()
    costa = 0.5 * np.log2(1 + signals)
    assert (np.diff(bits) > 0).all() and (bits[1:] < costa[1:]).all() and bits[-1] < 1
    at_one = float(np.interp(1.0, signals, bits))
    assert 0.26 < at_one < 0.31


def test_binary_lattices_get_the_energy_where_it_is_worth_most() -> None:
    noise = np.concatenate([np.full(16, 4.0), np.full(48, 400.0)])
    carried = binary_capacity(noise, 16 * 4.0)
    assert 16 * 0.26 < carried < 16 * 0.31, "all of it into the quiet ones"
    assert binary_capacity(noise, 32 * 4.0) > carried
    assert binary_capacity(noise, 16 * 4.0) < capacity(noise, 16 * 4.0)
