"""The channel through real files: what goes in comes out, and nothing else does."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from refacex_core import images
from refacex_core.errors import ImageTooSmall, PayloadMissing, PayloadUnreadable, WrongKey
from refacex_core.release import psnr
from refacex_core.sealing import key_check
from refacex_core.stego.channel import Channel, capacity
from refacex_core.stego.framing import SPREADS, Header, new_locator
from refacex_core.types import RGB, Profile
from refacex_core.versions import CURRENT, MODELS

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def channel() -> Channel:
    return Channel("cpu", MODELS[CURRENT].channel)


@pytest.fixture(scope="module")
def photo(photographs: dict[str, bytes]) -> RGB:
    return images.decode(photographs["astronaut"]).rgb


def _header(sealed: bytes, spread: int = 0) -> Header:
    locator = new_locator()
    return Header(Profile.ROBUST, CURRENT, 1, len(sealed), locator, key_check(KEY, locator), spread)


def _recoded(rgb: RGB, name: str, quality: int) -> RGB:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, name, quality=quality)
    return images.decode(buffer.getvalue()).rgb


@pytest.mark.parametrize("size", [(256, 256), (250, 250), (264, 513), (512, 512)])
@pytest.mark.parametrize("how", [None, ("jpeg", 95), ("jpeg", 85), ("jpeg", 75), ("webp", 95)])
def test_a_full_payload_survives_the_file(
    channel: Channel, photo: RGB, size: tuple[int, int], how: tuple[str, int] | None
) -> None:
    image = np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.LANCZOS))
    sealed = os.urandom(capacity(*size))
    header = _header(sealed)
    stego = channel.embed(image, header, sealed, KEY)
    assert psnr(stego, image) > 37.0
    seen = _recoded(stego, *how) if how else stego
    llr = channel.listen(seen)
    assert channel.read_header(llr) == header
    assert channel.read_sealed(seen, llr, header, KEY) == sealed


def test_a_small_payload_changes_less_and_survives_more(channel: Channel, photo: RGB) -> None:
    full, small = os.urandom(capacity(512, 512)), os.urandom(600)
    header = _header(small)
    stego = channel.embed(photo, header, small, KEY)
    assert psnr(stego, photo) > psnr(channel.embed(photo, _header(full), full, KEY), photo)
    seen = _recoded(stego, "jpeg", 60)
    llr = channel.listen(seen)
    assert channel.read_sealed(seen, llr, channel.read_header(llr), KEY) == small


def test_a_wrong_layout_key_is_known_before_decoding(channel: Channel, photo: RGB) -> None:
    sealed = os.urandom(500)
    stego = channel.embed(photo, _header(sealed), sealed, KEY)
    llr = channel.listen(stego)
    with pytest.raises(WrongKey):
        channel.read_sealed(stego, llr, channel.read_header(llr), bytes([KEY[0] ^ 1]) + KEY[1:])


def test_plain_photographs_have_no_header(channel: Channel, photo: RGB) -> None:
    with pytest.raises(PayloadMissing):
        channel.read_header(channel.listen(photo))
    with pytest.raises(PayloadMissing):
        channel.read_header(channel.listen(np.full((256, 256, 3), 127, np.uint8)))
    with pytest.raises(PayloadMissing):
        channel.listen(photo[:100, :100])


def test_too_much_for_the_image_is_refused(channel: Channel, photo: RGB) -> None:
    sealed = os.urandom(capacity(256, 256) + 1)
    with pytest.raises(ImageTooSmall):
        channel.embed(photo[:256, :256], _header(sealed), sealed, KEY)
    assert capacity(100, 100) == 0


def test_a_crushed_file_is_unreadable_not_wrong(channel: Channel, photo: RGB) -> None:
    sealed = os.urandom(capacity(512, 512))
    stego = channel.embed(photo, _header(sealed), sealed, KEY)
    seen = _recoded(stego, "jpeg", 20)
    llr = channel.listen(seen)
    with pytest.raises((PayloadUnreadable, PayloadMissing)):
        channel.read_sealed(seen, llr, channel.read_header(llr), KEY)


def test_a_wider_spread_survives_more(channel: Channel, photo: RGB) -> None:
    """The lowest JPEG quality at which each spread is still read."""
    sealed = os.urandom(1200)
    lowest = []
    for spread in range(SPREADS):
        header = _header(sealed, spread=spread)
        stego = channel.embed(photo, header, sealed, KEY)
        read = [quality for quality in range(80, 15, -4) if _reads(channel, _recoded(stego, "jpeg", quality), sealed)]
        lowest.append(min(read))
    assert lowest[1] < lowest[0]


def _reads(channel: Channel, seen: RGB, sealed: bytes) -> bool:
    llr = channel.listen(seen)
    try:
        return channel.read_sealed(seen, llr, channel.read_header(llr), KEY) == sealed
    except (PayloadMissing, PayloadUnreadable):
        return False
