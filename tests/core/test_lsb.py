"""The `archive` profile's places in the least significant bits: what goes in comes out, and little changes."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refacex_core import images
from refacex_core.errors import ImageTooSmall, PayloadMissing, PayloadUnreadable, WrongKey
from refacex_core.release import psnr
from refacex_core.sealing import key_check
from refacex_core.stego import lsb
from refacex_core.stego.framing import Header, new_locator
from refacex_core.types import RGB, Profile
from refacex_core.versions import CURRENT

KEY = bytes(range(32))


def _header(size: int) -> Header:
    locator = new_locator()
    return Header(Profile.ARCHIVE, CURRENT, 1, size, locator, key_check(KEY, locator))


def _noise(height: int, width: int) -> RGB:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=25)
@given(st.integers(128, 300), st.integers(128, 300), st.floats(0, 1))
def test_what_goes_in_comes_out(height: int, width: int, share: float) -> None:
    image, sealed = _noise(height, width), os.urandom(int(share * lsb.capacity(height, width)))
    header = _header(len(sealed))
    stego = lsb.write(image, header, sealed, KEY)
    assert int(np.abs(stego.astype(int) - image).max(initial=0)) <= 1
    assert lsb.read_header(stego) == header
    assert lsb.read_sealed(stego, header, KEY) == sealed


def test_twenty_thousand_bytes_are_not_seen(photographs: dict[str, bytes]) -> None:
    photo, sealed = images.decode(photographs["astronaut"]).rgb, os.urandom(20_000)
    before = photo.copy()
    assert psnr(lsb.write(photo, _header(len(sealed)), sealed, KEY), photo) > 55
    assert np.array_equal(before, photo)  # the caller's image stays as it was


def test_another_key_and_another_size_are_refused() -> None:
    header = _header(500)
    stego = lsb.write(_noise(200, 200), header, os.urandom(500), KEY)
    with pytest.raises(WrongKey):
        lsb.read_sealed(stego, header, bytes(32))
    with pytest.raises(PayloadMissing):
        lsb.read_header(stego[:-1])
    with pytest.raises(PayloadMissing):
        lsb.read_header(stego[:100])
    with pytest.raises(PayloadUnreadable):
        lsb.read_sealed(stego, _header(50_000), KEY)


def test_too_much_for_the_image_is_refused() -> None:
    with pytest.raises(ImageTooSmall):
        lsb.write(_noise(130, 130), _header(lsb.capacity(130, 130) + 1), bytes(lsb.capacity(130, 130) + 1), KEY)
    assert lsb.capacity(127, 4000) == 0
