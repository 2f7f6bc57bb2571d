"""Pieces of released images: cut, shifted, framed; from real files. They are put back in their place and give the face back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refacex_core import images
from refacex_core.errors import PayloadMismatch, PayloadMissing, PayloadUnreadable, WrongKey
from refacex_core.faces import align
from refacex_core.pipeline import Core
from refacex_core.release import psnr
from refacex_core.sealing import key_check
from refacex_core.stego import ldpc
from refacex_core.stego.channel import _CLEAR, Channel, capacity
from refacex_core.stego.framing import SPREADS, Header, new_locator
from refacex_core.stego.registration import offsets
from refacex_core.types import RGB, Profile, Released
from refacex_core.versions import CURRENT, MODELS
from tests.core.conftest import Vault

KEY = bytes(range(32))
#: What is left of an image, and where it begins in it (row, column).
PIECES: dict[str, tuple[Callable[[RGB], RGB], tuple[int, int]]] = {
    "cut by 5 % all round": (lambda i: i[25:-25, 25:-25], (25, 25)),
    "cut at the right and below": (lambda i: i[:-37, :-61], (0, 0)),
    "cut by whole blocks": (lambda i: i[16:, 32:], (16, 32)),
    "a tile and more cut away": (lambda i: i[271:, 3:], (271, 3)),
    "shifted by one pixel": (lambda i: np.roll(i, 1, 1), (0, -1)),
    "shifted by a tile": (lambda i: np.pad(i[:, 256:], ((0, 0), (0, 256), (0, 0))), (0, 256)),
    "framed": (lambda i: np.pad(i, ((7, 3), (12, 9), (0, 0)), "edge"), (-7, -12)),
}


@pytest.fixture(scope="module")
def channel() -> Channel:
    return Channel("cpu", MODELS[CURRENT].channel)


@pytest.fixture(scope="module")
def photo(photographs: dict[str, bytes]) -> RGB:
    return images.decode(photographs["astronaut"]).rgb


def embedded(channel: Channel, photo: RGB, *, sized: bool = True, count: int = 900) -> tuple[RGB, Header, bytes]:
    sealed, locator = os.urandom(count), new_locator()
    size = (photo.shape[1], photo.shape[0]) if sized else None
    header = Header(Profile.ROBUST, CURRENT, 1, len(sealed), locator, key_check(KEY, locator), SPREADS - 1, size=size)
    return channel.embed(photo, header, sealed, KEY), header, sealed


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("quality", [None, 90])
def test_a_piece_is_put_back_in_its_place(channel: Channel, photo: RGB, piece: str, quality: int | None) -> None:
    stego, header, sealed = embedded(channel, photo)
    cut, (top, left) = PIECES[piece]
    seen = np.ascontiguousarray(cut(stego))
    if quality is not None:
        seen = images.decode(images.encode(seen, "jpeg", quality)).rgb
    found = channel.register(seen)
    assert found.header == header
    placed = channel.place(seen, found, KEY)
    assert (placed.rgb.shape, placed.shown) == (photo.shape, (top, left, top + seen.shape[0], left + seen.shape[1]))
    assert channel.read_sealed(placed.rgb, placed.llr, header, KEY) == sealed
    y, x = max(top, 0), max(left, 0)
    rest = seen[y - top :, x - left :][: photo.shape[0] - y, : photo.shape[1] - x]
    assert (placed.rgb[y : y + rest.shape[0], x : x + rest.shape[1]] == rest).all()
    with pytest.raises(WrongKey):
        channel.place(seen, found, bytes(32))


@pytest.mark.parametrize(("top", "left"), [(0, 1), (1, 0), (1, 1), (0, 7), (7, 0), (0, 2), (8, 8)])
@pytest.mark.parametrize("kept", [False, True])
def test_a_large_image_a_pixel_off_is_read(
    core: Core, photographs: dict[str, bytes], top: int, left: int, kept: bool
) -> None:
    """Its header repeats so often that it is heard beside its grid as well, and by another version's channel; on a canvas of its size
    (`kept`) or cut.
    """
    large = images.decode(photographs["obama"]).rgb
    stego, header, sealed = embedded(core.reader.model(CURRENT).channel, large, count=2216)
    seen = np.roll(stego, (-top, -left), (0, 1)) if kept else stego[top:, left:]
    heard = core.reader.listen(np.ascontiguousarray(seen))
    assert heard.header == header
    assert heard.open(KEY).sealed == sealed
    with pytest.raises(WrongKey):
        heard.open(bytes(32))


def test_a_header_in_its_place_is_told_at_a_glance(channel: Channel, photographs: dict[str, bytes]) -> None:
    agreement = ldpc.agreement
    said: list[float] = []

    def noted(llr: np.ndarray, k: int) -> np.ndarray:
        heard = agreement(llr, k)
        said.append(float(heard[0]))
        return heard

    for data in photographs.values():
        photo = images.decode(data).rgb
        stego, *_ = embedded(channel, photo)
        poor = images.decode(images.encode(stego, "jpeg", 50)).rgb
        assert channel.bears(stego) and channel.bears(poor) and not channel.bears(photo)
        said.clear()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ldpc, "agreement", noted)
            channel.bears(poor)
            channel.bears(photo)
        assert max(said[:2]) > 1.2 * _CLEAR and 2 * max(said[2:]) < _CLEAR, "and by a margin"


def test_there_is_nothing_to_find_in_other_pictures(channel: Channel, photo: RGB) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    through = images.decode(images.encode(photo, "jpeg", 70)).rgb[3:, 5:]  # has a grid, and not ours
    for picture in (photo, np.full((300, 400, 3), 127, np.uint8), noise, through, photo[:100, :100]):
        with pytest.raises(PayloadMissing):
            channel.register(picture)


def test_where_the_header_does_not_say_how_large_the_image_was_a_piece_is_not_read(
    channel: Channel, photo: RGB
) -> None:
    stego, header, _ = embedded(channel, photo, sized=False)
    found = channel.register(stego[3:, 5:])
    assert found.header == header
    with pytest.raises(PayloadUnreadable, match="how large they were"):
        channel.place(stego[3:, 5:], found, KEY)


def test_a_header_that_tells_of_a_huge_image_costs_nothing(channel: Channel, photo: RGB) -> None:
    stego, _, _ = embedded(channel, photo)
    found = channel.register(stego[3:, 5:])
    archive = replace(found, header=replace(found.header, profile=Profile.ARCHIVE))
    with pytest.raises(PayloadUnreadable):
        channel.place(stego[3:, 5:], archive, KEY)
    with pytest.raises(PayloadUnreadable, match="so little"):
        channel.place(stego[3:, 5:], found, KEY, max_pixels=photo[..., 0].size - 1)
    assert capacity(6_000, 6_000) == capacity(4_000, 4_000) < 200_000, "no more than the code is made for"
    forged = replace(found, header=replace(found.header, size=(0xFFFFFF, 0xFFFFFF)))
    with pytest.raises(PayloadUnreadable, match="so little"):
        channel.place(stego[3:, 5:], forged, KEY)
    forged = replace(found, header=replace(found.header, size=(0, 0)))
    with pytest.raises(PayloadUnreadable, match="so little"):
        channel.place(stego[3:, 5:], forged, KEY)
    for wrong in ({"sealed_bytes": 0}, {"sealed_bytes": 0xFFFFFF}):
        forged = replace(found, header=replace(found.header, **wrong))  # type: ignore[arg-type]
        with pytest.raises(PayloadUnreadable, match="more than the image"):
            channel.place(stego[3:, 5:], forged, KEY)
    whole = channel.listen(stego)
    for size in (0, 0xFFFFFF):
        with pytest.raises(PayloadUnreadable):
            channel.read_sealed(stego, whole, replace(found.header, sealed_bytes=size), KEY)


@given(st.data())
def test_the_right_place_is_among_those_that_are_tried(data: st.DataObject) -> None:
    whole = data.draw(st.tuples(st.integers(200, 3000), st.integers(200, 3000)))
    top, left = (data.draw(st.integers(-40, side // 2)) for side in whole)
    piece = (data.draw(st.integers(100, whole[0] - top)), data.draw(st.integers(100, whole[1] - left)))
    tried = list(offsets((top % 256, left % 256), 256, piece, whole))
    assert len(tried) <= 100 and len(set(tried)) == len(tried)
    if whole[0] <= 2200 and whole[1] <= 2200:  # of larger ones there may be more places than are tried
        assert (top, left) in tried


def test_a_code_word_agrees_and_nothing_else_does() -> None:
    rng = np.random.default_rng(0)
    word = ldpc.encode(rng.integers(0, 2, 240).astype(np.uint8), 2048)
    noisy = (1 - 2.0 * word) * 2.0 + rng.normal(0, 1.5, 2048)
    rolled = np.stack([np.roll(noisy, shift) for shift in (0, 1, 7, 512)]).astype(np.float32)
    right, *wrong = ldpc.agreement(rolled, 240)
    assert right > 0.1 and max(map(abs, wrong)) < right / 4


def test_a_face_comes_back_from_a_piece_of_its_photograph(
    core: Core, vault: Vault, photographs: dict[str, bytes], photo: RGB
) -> None:
    """And is laid back where it belongs in the piece. Where the face itself was cut, nothing is recovered."""
    released = core.anonymise([vault.item(photographs["astronaut"])])[0]
    assert isinstance(released, Released), released
    whole = images.decode(released.data).rgb
    piece = whole[21:-13, 30:-9]
    for data in (images.encode(piece, "png"), images.encode(piece, "jpeg", 85)):
        assert core.inspect(data).locator == released.locator
        (face,) = core.recover(data, vault.opened(released), vault.context)
        original = photo[21:-13, 30:-9]
        assert psnr(face.crop, align.crop(original, face.matrix)) > 28
        assert psnr(core.restore(data, [face]), original) > psnr(images.decode(data).rgb, original) + 1
    cut = whole[:, 240:]  # through the face
    assert core.inspect(images.encode(cut, "png")).locator == released.locator
    with pytest.raises(PayloadMismatch, match="cut away"):
        core.recover(images.encode(cut, "png"), vault.opened(released), vault.context)


def test_a_face_at_the_cut_comes_back_nearly_as_well(
    core: Core, vault: Vault, photographs: dict[str, bytes], photo: RGB
) -> None:
    """What only repeats the edge was never written into, and tells nothing of what the file went through."""
    released = core.anonymise([vault.item(photographs["astronaut"])])[0]
    assert isinstance(released, Released), released
    whole = images.decode(released.data).rgb
    (face,) = core.recover(released.data, vault.opened(released), vault.context)
    top = max(align.reach(face.matrix)[0] + 12, 0)
    (cut,) = core.recover(images.encode(whole[top:], "png"), vault.opened(released), vault.context)
    inner = slice(64, 256)
    assert psnr(cut.crop[inner], face.crop[inner]) > 38


def test_of_two_faces_the_one_that_is_left_comes_back(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    left, right = (images.decode(photographs[name]).rgb for name in ("astronaut", "obama"))
    right = np.ascontiguousarray(right[:512, 200:712])
    both = np.concatenate([left, right], 1)
    released = core.anonymise([vault.item(images.encode(both, "png"))])[0]
    assert isinstance(released, Released) and len(released.faces) == 2, released
    whole = images.decode(released.data).rgb
    for piece, offset, index in ((whole[:, :600], 0, 0), (whole[:, 430:], 430, 1)):
        (face,) = core.recover(images.encode(np.ascontiguousarray(piece), "png"), vault.opened(released), vault.context)
        assert face.index == index
        assert psnr(face.crop, align.crop(both[:, offset : offset + piece.shape[1]], face.matrix)) > 27


def test_a_payload_in_another_scene_is_refused_also_where_an_edge_is_missing(
    core: Core, vault: Vault, photographs: dict[str, bytes]
) -> None:
    """The face's own surroundings are pasted there as well, so that its fingerprint fits."""
    released = core.anonymise([vault.item(photographs["astronaut"])], keep_anonymised=True)[0]
    assert isinstance(released, Released) and released.anonymised is not None
    (face,) = core.recover(released.data, vault.opened(released), vault.context)
    top, left, bottom, right = (max(edge, 0) for edge in align.reach(face.matrix))
    scene = images.decode(photographs["obama"]).rgb[300:812, 100:612].copy()
    scene[top:bottom, left:right] = released.anonymised[top:bottom, left:right]
    channel = core.reader.model(core.model_id).channel
    llr = channel.listen(images.decode(released.data).rgb)
    forged = channel.write(scene, (llr < 0).astype(np.uint8), np.ones(llr.shape, bool))
    for data in (images.encode(forged, "png"), images.encode(np.ascontiguousarray(forged[:, :-1]), "png")):
        with pytest.raises(PayloadMismatch):
            core.recover(data, vault.opened(released), vault.context)
