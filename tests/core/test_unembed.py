"""Taking the channel's noise out again, from real files: what was there before comes back, and nothing else is touched."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from refacex_core import images, weights
from refacex_core.release import psnr
from refacex_core.sealing import key_check
from refacex_core.stego.channel import Channel, capacity
from refacex_core.stego.framing import SPREADS, Header, new_locator
from refacex_core.stego.unembed import Unembedder, _backwards
from refacex_core.types import RGB, Profile
from refacex_core.versions import CURRENT, MODELS

KEY = bytes(range(32))
WHOLE = (0, 0, 10_000, 10_000)


@pytest.fixture(scope="module")
def channel() -> Channel:
    return Channel("cpu", MODELS[CURRENT].channel)


@pytest.fixture(scope="module")
def unembedder() -> Unembedder:
    name = MODELS[CURRENT].unembedder
    assert name is not None
    made = Unembedder()
    weights.load_into(made, name)
    return made


@pytest.fixture(scope="module", params=["astronaut", "biden", "obama"])
def photo(request: pytest.FixtureRequest, photographs: dict[str, bytes]) -> RGB:
    rgb = images.decode(photographs[request.param]).rgb
    small = Image.fromarray(rgb).resize((316, 364), Image.Resampling.LANCZOS)
    return np.clip(np.asarray(small), 5, 250)  # as it is written: clipping at the ends of the range is not undone


def embedded(channel: Channel, photo: RGB) -> tuple[RGB, Header, bytes]:
    sealed, locator = os.urandom(capacity(*photo.shape[:2])), new_locator()
    size = photo.shape[1], photo.shape[0]
    header = Header(Profile.ROBUST, CURRENT, 1, len(sealed), locator, key_check(KEY, locator), SPREADS - 1, size=size)
    return channel.embed(photo, header, sealed, KEY), header, sealed


def test_what_was_there_before_comes_back(channel: Channel, unembedder: Unembedder, photo: RGB) -> None:
    """From a PNG nearly all; from a JPEG what it left; nowhere less than was received."""
    stego, header, sealed = embedded(channel, photo)
    for quality, gain in ((None, 7.0), (95, 1.0), (85, 0.2), (75, -0.05)):
        seen = stego if quality is None else images.decode(images.encode(stego, "jpeg", quality)).rgb
        before = channel.unembed(seen, header, sealed, KEY, [WHOLE], unembedder)
        assert psnr(before, photo) > psnr(seen, photo) + gain, quality


def test_it_takes_the_right_bits(channel: Channel, unembedder: Unembedder, photo: RGB) -> None:
    """Without the sealed part nobody gets there: the noise is no plain filter's to remove."""
    stego, header, sealed = embedded(channel, photo)
    right, wrong = (
        channel.unembed(stego, header, part, KEY, [WHOLE], unembedder) for part in (sealed, os.urandom(len(sealed)))
    )
    assert psnr(wrong, photo) < psnr(right, photo) - 6


def test_it_works_in_windows_and_nowhere_else(channel: Channel, unembedder: Unembedder, photo: RGB) -> None:
    stego, header, sealed = embedded(channel, photo)
    whole = channel.unembed(stego, header, sealed, KEY, [WHOLE], unembedder)
    part = channel.unembed(stego, header, sealed, KEY, [(80, 96, 208, 224), (-50, -50, -9, -9)], unembedder)
    assert (part[80:208, 96:224] != stego[80:208, 96:224]).mean() > 0.5
    outside = np.ones(photo.shape[:2], bool)
    outside[80:208, 96:224] = False
    assert (part[outside] == stego[outside]).all()
    inner = (slice(104, 184), slice(120, 200))
    assert psnr(part[inner], whole[inner]) > 45, "what lies around a window hardly matters inside it"
    assert (channel.unembed(stego, header, sealed, KEY, [], unembedder) == stego).all()


def test_distortion_compensation_backwards_is_exact() -> None:
    before = torch.linspace(-0.99, 0.99, 50)
    for share in (0.0, 0.3, 0.7, 0.9):
        assert torch.allclose(_backwards(before * (1 - share), torch.full_like(before, share)), before, atol=1e-5)
