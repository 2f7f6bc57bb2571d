"""Codecs are compared at equal bytes: none gets more, and what does not fit is not counted as if it did."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training import codecs
from training.table import _coded

RNG = np.random.default_rng(0)


def view() -> NDArray[np.uint8]:
    return np.asarray(RNG.integers(0, 256, (8, 8, 3)).repeat(26, 0).repeat(24, 1), np.uint8)


def test_the_best_that_fits_is_taken() -> None:
    """And nothing where even the worst does not."""
    sizes = {quality: 100 + 10 * quality for quality in range(101)}
    asked = []

    def code(image: NDArray[np.uint8], quality: int) -> codecs.Coded:
        asked.append(quality)
        return sizes[quality], np.full_like(image, quality)

    back = codecs._search(view(), 777, code)
    assert back is not None and back[0, 0, 0] == 67 and len(asked) < 9
    assert codecs._search(view(), 99, code) is None


def test_every_codec_gives_the_picture_back() -> None:
    image = view()
    for name, code in codecs.codecs().items():
        size, back = code(image, 90)
        assert 0 < size < 9000 and back.shape == image.shape, name
        assert np.abs(back.astype(int) - image).mean() < 25, name
    plain, bare = (
        codecs.codecs()[name](image, 50)[0] for name in ("AVIF, Pillow's settings", "the same, container not counted")
    )
    assert plain - bare == codecs.CONTAINER


def test_what_does_not_fit_shows_in_the_table() -> None:
    one = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    assert _coded({"fits": {**one, "mean": 0.0}}) == "none fits"
    whole = dict.fromkeys(("fits", "psnr_in_mask", "ssim", "lpips", "cosine_sface"), one)
    assert _coded(whole).endswith("(n = 4, 50 % fit)")
