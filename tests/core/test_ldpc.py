"""The error-correcting code: its structure never changes, and it corrects what the channel needs."""

from __future__ import annotations

import hashlib
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refacex_core.errors import PayloadUnreadable
from refacex_core.stego import ldpc

#: Released images depend on these. A new structure needs a new format version, never a new hash here.
STRUCTURES = {
    (192, 1900): "6c934e12526688a4ef4e1f9458632558361778f8fce765e60e93ccc0958e9a07",
    (2000, 8000): "b127f89796cec9c5dabbf01da4f233955da6812fbf4acbe82a65b4fe37985f5b",
    (4000, 8000): "9a8ba223322e5ef7a50af13346be89442251f824d2cd28ff230f9188ba35e6c8",
    (4001, 5003): "8fe40139ebfa6cf468047bd4a1330052ebac8224c500f62f1719159a187b1727",
    (7600, 8000): "9f71fb80b84ceb9718e451fc045eb15687b735f61cddd3c43fd61b9e6459bd2c",
    (40_000, 100_000): "124597d39f06b3c1fb438c8d2d53afaa745cdd3bcb46f7fa27459d9c8b7091e9",
}
CODE_WORD = "a72590f0aa471708802b1fecaba4076ea2563c305f6a0d3694784f00efd1889a"

#: (rate, noise deviation): one dB above the Shannon limit of binary signalling on the Gaussian channel.
ONE_DB = {0.3: 1.2354, 0.5: 0.8723, 0.8: 0.5571}


def noisy(bits: NDArray[np.uint8], deviation: float, rng: np.random.Generator) -> NDArray[np.float32]:
    received = 1 - 2.0 * bits + deviation * rng.standard_normal(len(bits))
    return (2 * received / deviation**2).astype(np.float32)


def flipped(bits: NDArray[np.uint8], rate: float, rng: np.random.Generator) -> NDArray[np.float32]:
    received = bits ^ (rng.random(len(bits)) < rate)
    return ((1 - 2.0 * received) * math.log((1 - rate) / rate)).astype(np.float32)


@pytest.mark.parametrize("size", STRUCTURES, ids=str)
def test_the_structure_is_the_one_of_released_images(size: tuple[int, int]) -> None:
    assert ldpc.code(*size).digest() == STRUCTURES[size]


def test_a_known_code_word() -> None:
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"known").digest(24), np.uint8))
    assert hashlib.sha256(ldpc.encode(bits, 1900).tobytes()).hexdigest() == CODE_WORD


@pytest.mark.parametrize("size", [(2400, 8000), (4000, 8000), (6400, 8000)], ids=str)
def test_the_graph_has_no_double_edge_and_no_cycle_of_four(size: tuple[int, int]) -> None:
    code = ldpc.code(*size)
    accumulator = [((r, 0), (r + 1, 0)) for r in range(code.rows - 1)] + [((code.rows - 1, 0), (0, 1))]
    seen: set[tuple[int, int, int]] = set()
    for column in (*code.edges, *accumulator):
        assert len({r for r, _ in column}) == len(column)
        for (r, s), (q, t) in combinations(sorted(column), 2):
            step = (r, q, (t - s) % code.lifting)
            assert step not in seen
            seen.add(step)


@settings(max_examples=25, deadline=None)
@given(st.integers(40, 3000), st.floats(0.06, 0.94), st.integers(0, 2**32 - 1))
@example(40, 0.9375, 0)  # two check bits: once accepted, and never decoded
@example(43, 0.93, 0)
def test_any_length_and_rate_comes_back(n: int, rate: float, seed: int) -> None:
    k = min(max(8, round(n * rate)), 19 * n // 20, n - 3)
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, k).astype(np.uint8)
    sent = ldpc.encode(bits, n)
    assert len(sent) == n
    assert np.array_equal(sent[:k], bits)
    assert np.array_equal(ldpc.decode(noisy(sent, 0.2, rng), k), bits)


@pytest.mark.parametrize("rate", ONE_DB)
def test_one_decibel_from_capacity(rate: float) -> None:
    rng = np.random.default_rng(1)
    k = round(8000 * rate)
    for _ in range(10):
        bits = rng.integers(0, 2, k).astype(np.uint8)
        assert np.array_equal(ldpc.decode(noisy(ldpc.encode(bits, 8000), ONE_DB[rate], rng), k), bits)


def test_a_header_survives_one_bit_in_five_flipped() -> None:
    rng = np.random.default_rng(2)
    for _ in range(25):
        bits = rng.integers(0, 2, 192).astype(np.uint8)
        assert np.array_equal(ldpc.decode(flipped(ldpc.encode(bits, 1900), 0.2, rng), 192), bits)


def test_erased_bits_are_filled_in() -> None:
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2, 2000).astype(np.uint8)
    llr = np.where(rng.random(5000) < 0.5, 0, 8 * (1 - 2.0 * ldpc.encode(bits, 5000))).astype(np.float32)
    assert np.array_equal(ldpc.decode(llr, 2000), bits)


@pytest.mark.parametrize(
    "llr",
    [
        np.random.default_rng(4).standard_normal(4000) * 3,
        np.random.default_rng(4).choice([-1e-3, 1e-3], 4000),
        np.zeros(4000),
        np.full(4000, np.nan),
    ],
    ids=["noise", "guesses", "nothing", "not a number"],
)
def test_what_carries_nothing_is_unreadable(llr: NDArray[np.float64]) -> None:
    with pytest.raises(PayloadUnreadable):
        ldpc.decode(llr.astype(np.float32), 2000, iterations=20)


@pytest.mark.parametrize(("k", "n"), [(4, 40), (100, 4000), (990, 1000), (100, 100), (0, 10), (10**6, 5 * 10**6)])
def test_sizes_without_a_code_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="no code"):
        ldpc.code(k, n)


def test_a_large_payload_comes_back() -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2, 120_000).astype(np.uint8)
    assert np.array_equal(ldpc.decode(noisy(ldpc.encode(bits, 240_000), 0.9, rng), 120_000), bits)
