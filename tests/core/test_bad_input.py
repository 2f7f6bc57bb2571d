"""What should not come in, and what may happen to a file after its release: a clear outcome, never a wrong face."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import gateway
from refacex_core.errors import (
    CoreError,
    FaceUnknown,
    PayloadMismatch,
    PayloadMissing,
    PayloadUnreadable,
    WrongKey,
)
from refacex_core.faces import align
from refacex_core.images import decode, encode
from refacex_core.keyring import CONTEXT, KeyRing
from refacex_core.pipeline import Core
from refacex_core.types import (
    RGB,
    Failed,
    Held,
    HoldReason,
    ItemInput,
    ItemOptions,
    Outcome,
    Profile,
    RecoveryKeys,
    Released,
    SealContext,
)

PHOTOGRAPHS = Path(gateway.__file__).parent / "demo_images"
RING = KeyRing(bytes(range(32)))
NO_PAYLOAD = (PayloadMissing, PayloadUnreadable, PayloadMismatch)


@pytest.fixture(scope="module")
def photograph() -> RGB:
    """512 x 512, one face of about 100 pixels."""
    return decode((PHOTOGRAPHS / "astronaut.png").read_bytes()).rgb


@pytest.fixture(scope="module")
def face(photograph: RGB) -> RGB:
    """256 x 256 with the same face."""
    return np.ascontiguousarray(photograph[0:256, 95:351])


@dataclass(frozen=True)
class Stego:
    """A released file, its pixels and its keys."""

    data: bytes
    rgb: RGB
    keys: RecoveryKeys


@pytest.fixture(scope="module")
def stego(core: Core, photograph: RGB) -> Stego:
    outcome = release(core, encode(photograph, "png"))
    assert isinstance(outcome, Released), outcome
    return Stego(outcome.data, decode(outcome.data).rgb, RING.keys(outcome.locator, len(outcome.faces)))


def release(core: Core, data: bytes, options: ItemOptions | None = None) -> Outcome:
    (outcome,) = core.anonymise([ItemInput(data, RING.item_keys(), CONTEXT, options or ItemOptions())])
    return outcome


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 3.6 billion pixels in a few dozen bytes."""
    body = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return body


def two_frames(face: RGB) -> bytes:
    first = Image.fromarray(face)
    return saved(first, "WEBP", save_all=True, append_images=[Image.fromarray(face[::-1].copy())])


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda face: b"", "image_empty"),
        (lambda face: b"a text", "bad_image"),
        (lambda face: encode(face, "png")[:20_000], "image_truncated"),
        (lambda face: bomb(), "image_too_large"),
        (two_frames, "image_animated"),
        (lambda face: encode(np.asarray(cv2.resize(face, (100, 100)), np.uint8), "png"), "image_too_small"),
    ],
    ids=["empty", "text", "cut off", "bomb", "animated", "too small for its payload"],
)
def test_a_file_that_cannot_be_released_fails_with_its_own_code(
    core: Core, face: RGB, make: Callable[[RGB], bytes], code: str
) -> None:
    outcome = release(core, make(face))
    assert isinstance(outcome, Failed)
    assert outcome.code == code
    assert isinstance(outcome.error, CoreError)


@pytest.mark.parametrize(
    "options", [ItemOptions(), ItemOptions(format="jpeg", quality=75), ItemOptions(profile=Profile.ARCHIVE)]
)
def test_a_release_is_not_released_over_its_payload(core: Core, face: RGB, options: ItemOptions) -> None:
    first = core.anonymise([ItemInput(encode(face, "png"), RING.item_keys(), CONTEXT, options)])[0]
    assert isinstance(first, Released)
    second = release(core, first.data)
    assert isinstance(second, Failed) and second.code == "already_released"
    again = ItemOptions(release_again=True)
    assert not isinstance(core.anonymise([ItemInput(first.data, RING.item_keys(), CONTEXT, again)])[0], Failed)


def test_one_bad_item_stops_no_other(core: Core, face: RGB) -> None:
    keys = RING.item_keys()
    files = [b"", encode(face, "png"), b"a text"]
    outcomes = core.anonymise([ItemInput(data, keys, CONTEXT) for data in files])
    assert [type(outcome) for outcome in outcomes] == [Failed, Released, Failed]


def with_alpha(face: RGB) -> bytes:
    return saved(Image.fromarray(np.dstack([face, np.full(face.shape[:2], 255, np.uint8)])), "PNG")


def sixteen_bits(face: RGB) -> bytes:
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257
    return saved(Image.fromarray(grey), "TIFF")


@pytest.mark.parametrize(
    "make",
    [
        sixteen_bits,
        with_alpha,
        lambda face: saved(Image.fromarray(face).convert("CMYK"), "JPEG", quality=95),
        lambda face: saved(Image.fromarray(face).quantize(256), "PNG"),
        lambda face: saved(Image.fromarray(face), "HEIF", quality=95),
    ],
    ids=["16 bits", "alpha", "CMYK", "palette", "HEIC"],
)
def test_unusual_pixels_are_released(core: Core, face: RGB, make: Callable[[RGB], bytes]) -> None:
    outcome = release(core, make(face))
    assert isinstance(outcome, Released), outcome
    assert decode(outcome.data).rgb.shape == face.shape
    assert len(core.recover(outcome.data, RING.keys(outcome.locator, 1), CONTEXT)) == 1


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_photograph_that_lies_on_its_side_is_released_upright(core: Core, photograph: RGB, orientation: int) -> None:
    upright = np.ascontiguousarray(photograph[0:320, 60:380][:, :272])
    stored = np.ascontiguousarray(np.rot90(upright, {3: 2, 6: 1}[orientation]))
    exif = Image.Exif()
    exif[274] = orientation
    outcome = release(core, saved(Image.fromarray(stored), "PNG", exif=exif))
    assert isinstance(outcome, Released), outcome
    assert (outcome.width, outcome.height) == (272, 320)


def test_an_image_without_a_face_is_held_unless_the_policy_says_otherwise(core: Core) -> None:
    y, x = np.mgrid[0:256, 0:320]
    data = encode(np.stack([x // 2, y // 2 + 40, (x + y) // 4], 2).astype(np.uint8), "png")
    outcome = release(core, data)
    assert isinstance(outcome, Held)
    assert outcome.reason is HoldReason.NO_FACE
    outcome = release(core, data, ItemOptions(release_without_face=True))
    assert isinstance(outcome, Released)
    assert outcome.faces == ()
    assert core.inspect(outcome.data).faces == 0


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(0, 300), slice(220, 512)), (slice(0, 300), slice(0, 225)), (slice(120, 512), slice(0, 512))],
    ids=["left", "right", "top"],
)
def test_a_face_cut_by_the_edge_is_held(core: Core, photograph: RGB, rows: slice, columns: slice) -> None:
    outcome = release(core, encode(np.ascontiguousarray(photograph[rows, columns]), "png"))
    assert isinstance(outcome, Held), outcome
    assert outcome.reason in (HoldReason.FACE_AT_EDGE, HoldReason.FACE_MISSED, HoldReason.NO_FACE)


def test_a_face_of_twenty_pixels_is_held(core: Core, photograph: RGB) -> None:
    canvas = np.full((512, 512, 3), 200, np.uint8)
    canvas[200:300, 200:300] = cv2.resize(photograph, (100, 100), interpolation=cv2.INTER_AREA)
    outcome = release(core, encode(canvas, "png"))
    assert isinstance(outcome, Held), outcome
    assert outcome.reason is HoldReason.FACE_TOO_SMALL


def test_a_small_face_beside_a_large_one_is_not_released(core: Core, photograph: RGB) -> None:
    both = photograph.copy()
    both[400:500, 10:110] = cv2.resize(photograph, (100, 100), interpolation=cv2.INTER_AREA)
    outcome = release(core, encode(both, "png"))
    assert isinstance(outcome, Held), outcome
    assert outcome.reason in (HoldReason.FACE_TOO_SMALL, HoldReason.FACE_MISSED)


def test_forty_faces_are_all_replaced_and_any_comes_back(core: Core, photograph: RGB) -> None:
    tile = photograph[20:220, 125:325]
    crowd = np.concatenate([np.concatenate([tile[:, :: 1 - 2 * (i % 2)] for i in range(8)], 1)] * 5, 0)
    outcome = release(core, encode(np.ascontiguousarray(crowd), "png"))
    assert isinstance(outcome, Released), outcome
    assert len(outcome.faces) == 40
    assert all(face.released and face.payload_bytes > 0 for face in outcome.faces)
    keys = RING.keys(outcome.locator, 40)
    some = replace(keys, face_keys={i: keys.face_keys[i] for i in (0, 17, 39)})
    assert [face.index for face in core.recover(outcome.data, some, CONTEXT)] == [0, 17, 39]


def test_more_faces_than_the_image_can_carry_fail(core: Core, photograph: RGB) -> None:
    tile = cv2.resize(photograph[20:220, 125:325], (80, 80), interpolation=cv2.INTER_AREA)
    crowd = np.tile(tile, (3, 3, 1))
    outcome = release(core, encode(np.ascontiguousarray(crowd), "png"))
    assert isinstance(outcome, Failed), outcome
    assert outcome.code == "image_too_small"


# -- after the release --------------------------------------------------------------------------------------------------


def refused(core: Core, rgb: RGB, keys: RecoveryKeys, errors: tuple[type[CoreError], ...] = NO_PAYLOAD) -> None:
    with pytest.raises(errors):
        core.recover(encode(np.ascontiguousarray(rgb), "png"), keys, CONTEXT)


def test_the_released_file_itself_is_recovered(core: Core, stego: Stego) -> None:
    (recovered,) = core.recover(stego.data, stego.keys, CONTEXT)
    assert recovered.crop.shape == (256, 256, 3)


@pytest.mark.parametrize(
    "change", [(0, 0, 8, 8), (0, 0, 1, 0), (0, 0, 0, 8), (3, 5, 0, 0), (0, 0, 256, 0), (8, 0, 0, 0)]
)
def test_a_cropped_file_gives_the_face(core: Core, stego: Stego, change: tuple[int, int, int, int]) -> None:
    """Where the face itself was left whole; its place is told in the cropped file."""
    top, left, bottom, right = change
    height, width = stego.rgb.shape[:2]
    cropped = np.ascontiguousarray(stego.rgb[top : height - bottom, left : width - right])
    (whole,) = core.recover(stego.data, stego.keys, CONTEXT)
    (face,) = core.recover(encode(cropped, "png"), stego.keys, CONTEXT)
    assert np.abs(face.crop.astype(int) - whole.crop).mean() < 1
    assert np.allclose(face.matrix[:, :2], whole.matrix[:, :2])
    middle, there = (align.apply(align.invert(one.matrix), np.array([128.0, 128.0])) for one in (whole, face))
    assert np.allclose(middle - there, (left, top))


@pytest.mark.parametrize("change", [(256, 256, 0, 0), (0, 0, 400, 0), (0, 240, 0, 0), (0, 0, 384, 384)])
def test_a_cut_face_is_not_recovered(core: Core, stego: Stego, change: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = change
    height, width = stego.rgb.shape[:2]
    refused(core, stego.rgb[top : height - bottom, left : width - right], stego.keys)


@pytest.mark.parametrize("scale", [0.5, 0.9, 0.98, 1.1, 2.0])
def test_a_resized_file_gives_no_face(core: Core, stego: Stego, scale: float) -> None:
    refused(core, np.asarray(cv2.resize(stego.rgb, None, fx=scale, fy=scale), np.uint8), stego.keys)


def test_a_blank_file_gives_no_face(core: Core, stego: Stego) -> None:
    for grey in (0, 128, 255):
        refused(core, np.full_like(stego.rgb, grey), stego.keys, (PayloadMissing,))


def test_a_blanked_face_gives_no_face(core: Core, stego: Stego) -> None:
    blanked = stego.rgb.copy()
    blanked[50:190, 165:285] = 127
    refused(core, blanked, stego.keys)


def test_an_exchanged_face_gives_no_face(core: Core, stego: Stego, photograph: RGB) -> None:
    exchanged = stego.rgb.copy()
    other = decode((PHOTOGRAPHS / "obama.jpg").read_bytes()).rgb[60:460, 290:690]
    exchanged[48:192, 160:304] = cv2.resize(other, (144, 144), interpolation=cv2.INTER_AREA)
    refused(core, exchanged, stego.keys)


def test_a_turned_or_mirrored_file_gives_no_face(core: Core, stego: Stego) -> None:
    for turned in (stego.rgb[:, ::-1], stego.rgb[::-1], np.rot90(stego.rgb)):
        refused(core, turned, stego.keys)


def test_an_ordinary_photograph_carries_nothing(core: Core, stego: Stego, photograph: RGB) -> None:
    refused(core, photograph, stego.keys, (PayloadMissing,))
    for name in ("obama.jpg", "biden.jpg"):
        with pytest.raises(PayloadMissing):
            core.inspect((PHOTOGRAPHS / name).read_bytes())


def other_photograph() -> RGB:
    return np.ascontiguousarray(decode((PHOTOGRAPHS / "obama.jpg").read_bytes()).rgb[20:532, 230:742])


def test_a_payload_moved_to_another_photograph_is_refused(core: Core, stego: Stego) -> None:
    """The attack of one who has no key: read every place of the channel and write the same bits elsewhere."""
    channel = core.reader.model(core.model_id).channel
    bits = (channel.listen(stego.rgb) < 0).astype(np.uint8)
    forged = channel.write(other_photograph(), bits, np.ones_like(bits, bool))
    assert core.inspect(encode(forged, "png")) == core.inspect(stego.data)  # the payload has really arrived there
    refused(core, forged, stego.keys, (PayloadMismatch,))


def test_two_photographs_joined_give_no_face_of_the_other(core: Core, stego: Stego) -> None:
    joined = stego.rgb.copy()
    joined[:, :300] = other_photograph()[:, :300]
    refused(core, joined, stego.keys)


def test_wrong_keys_are_refused(core: Core, stego: Stego) -> None:
    face_key = stego.keys.face_keys[0]
    off = bytes([face_key[0] ^ 1]) + face_key[1:]
    layout_off = bytes([stego.keys.layout_key[0] ^ 1]) + stego.keys.layout_key[1:]
    for keys in (
        replace(stego.keys, layout_key=layout_off),
        replace(stego.keys, face_keys={0: off}),
        KeyRing(bytes(32)).keys(bytes(8), 1),
        RecoveryKeys(b"", {}),
    ):
        with pytest.raises(WrongKey):
            core.recover(stego.data, keys, CONTEXT)


def test_an_unknown_face_is_refused(core: Core, stego: Stego) -> None:
    keys = replace(stego.keys, face_keys={1: bytes(32)})
    with pytest.raises(FaceUnknown):
        core.recover(stego.data, keys, CONTEXT)


def test_another_release_or_tenant_is_refused(core: Core, stego: Stego) -> None:
    for other in (SealContext("service-free", "7", "", "", ""), SealContext("press", "", "", "", "")):
        with pytest.raises((PayloadMismatch, WrongKey)):
            core.recover(stego.data, stego.keys, other)


@pytest.mark.parametrize("data", [b"", b"a text", bomb()], ids=["empty", "text", "bomb"])
def test_a_bad_file_is_refused_by_every_reader(core: Core, stego: Stego, data: bytes) -> None:
    with pytest.raises(CoreError):
        core.inspect(data)
    with pytest.raises(CoreError):
        core.recover(data, stego.keys, CONTEXT)
