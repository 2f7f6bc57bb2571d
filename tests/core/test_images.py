"""Decoding and encoding: every kind of pixel comes in upright as sRGB, every bad file gives its own error, no metadata gets out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

import gateway
from refacex_core.errors import BadImage, ImageAnimated, ImageEmpty, ImageTooLarge, ImageTruncated
from refacex_core.images import DEFAULT_QUALITY, EXTENSIONS, decode, encode
from refacex_core.types import RGB

PHOTOGRAPHS = Path(gateway.__file__).parent / "demo_images"


def scene(height: int = 48, width: int = 64) -> RGB:
    """A smooth picture whose four quarters differ in colour, so that no turn or flip looks like another."""
    y, x = np.mgrid[0:height, 0:width]
    top, left = y < height / 2, x < width / 2
    red = np.where(top & left, 220, 60) + 10 * x / width
    green = np.where(top & ~left, 200, 50) + 10 * y / height
    blue = np.where(~top & left, 210, 70)
    return np.stack([red, green, blue], 2).astype(np.uint8)


SCENE = scene()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def far(a: RGB, b: RGB) -> float:
    """Mean absolute difference in grey levels."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


SAVED_AS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "progressive jpeg": ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "heic": ("HEIF", {"quality": 95, "chroma": 444}),
}
KINDS = {kind: saved(Image.fromarray(SCENE), name, **options) for kind, (name, options) in SAVED_AS.items()}
LOSSY = {"JPEG": 2, "HEIF": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_comes_in(kind: str) -> None:
    image = decode(KINDS[kind])
    name = SAVED_AS[kind][0]
    assert (image.format, image.had_alpha, image.orientation) == (name.lower(), False, 1)
    assert (image.width, image.height) == (64, 48)
    assert image.rgb.dtype == np.uint8
    assert image.rgb.flags.c_contiguous
    assert image.rgb.flags.writeable
    assert far(image.rgb, SCENE) <= LOSSY.get(name, 0)


def test_sixteen_bit_grey_is_scaled() -> None:
    grey = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        image = decode(saved(Image.fromarray(grey), kind))
        expected = np.repeat(np.round(grey / 257)[..., None], 3, 2)
        assert np.abs(image.rgb - expected).max() <= 1


def test_sixteen_bit_colour_is_scaled() -> None:
    deep = SCENE.astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    image = decode(png(b"IHDR", header, b"IDAT", zlib.compress(rows)))
    assert np.array_equal(image.rgb, SCENE)


def test_thirty_two_bit_pixels_are_refused() -> None:
    for array in (np.ones((8, 8), np.float32), np.ones((8, 8), np.int32)):
        with pytest.raises(BadImage, match="32 bits"):
            decode(saved(Image.fromarray(array), "TIFF"))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    source = Image.fromarray(SCENE).convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "TIFF"}.get(mode, "PNG")
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    image = decode(saved(source, kind, **options))
    assert far(image.rgb, np.asarray(source.convert("RGB"))) < 3
    assert not image.had_alpha


def test_alpha_is_laid_on_white() -> None:
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 255
    rgba = Image.fromarray(np.dstack([SCENE, alpha]))
    grey = Image.fromarray(np.dstack([SCENE[..., 0], alpha]))
    for data in (saved(rgba, "PNG"), saved(rgba, "WEBP", lossless=True), saved(rgba, "TIFF"), saved(grey, "PNG")):
        image = decode(data)
        assert image.had_alpha
        assert (image.rgb[:, :32] == 255).all()
    assert np.array_equal(decode(saved(rgba, "PNG")).rgb[:, 32:], SCENE[:, 32:])


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_counts_as_alpha(mode: str) -> None:
    source, pixel = Image.new(mode, (8, 8), 7 if mode != "RGB" else (7, 7, 7)), 7 if mode != "RGB" else (7, 7, 7)
    if mode == "P":
        source.putpalette(range(96))
    image = decode(saved(source, "PNG", transparency=pixel))
    assert image.had_alpha
    assert (image.rgb == 255).all()


EXIF_MOVES = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", EXIF_MOVES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_image_is_turned_upright(kind: str, orientation: int) -> None:
    stored = np.ascontiguousarray(EXIF_MOVES[orientation](SCENE))  # what a camera held that way would store
    exif = Image.Exif()
    exif[274] = orientation
    every: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 95, "subsampling": 0},
    }
    options = every.get(kind, {})
    image = decode(saved(Image.fromarray(stored), kind, exif=exif, **options))
    assert far(image.rgb, SCENE) < 2
    assert image.orientation == orientation


@pytest.mark.parametrize("orientation", EXIF_MOVES)
def test_a_heic_is_turned_upright_once(orientation: int) -> None:
    stored = np.ascontiguousarray(EXIF_MOVES[orientation](SCENE))
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(Image.fromarray(stored), "HEIF", quality=95, chroma=444, exif=exif.tobytes())
    assert far(decode(data).rgb, SCENE) < 4


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_senseless_orientation_is_passed_over(value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    assert np.array_equal(decode(saved(Image.fromarray(SCENE), "PNG", exif=exif)).rgb, SCENE)


def test_damaged_exif_is_no_reason_to_refuse() -> None:
    data = saved(Image.fromarray(SCENE), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decode(data).rgb, SCENE)


def wide_profile() -> bytes:
    """A profile that is surely not sRGB: a CIE Lab one would do for Lab pixels; for RGB, linear light with sRGB's primaries."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    for i in range(count):
        entry = 132 + 12 * i
        tag, offset = bytes(profile[entry : entry + 4]), int.from_bytes(profile[entry + 4 : entry + 8], "big")
        if tag in (b"rTRC", b"gTRC", b"bTRC"):  # a parametric curve becomes a plain gamma of 1
            profile[offset : offset + 16] = b"para\0\0\0\0\0\0\0\0" + (1 << 16).to_bytes(4, "big")
        if tag == b"desc":
            size = int.from_bytes(profile[entry + 8 : entry + 12], "big")
            text = bytes(profile[offset : offset + size]).replace(
                "sRGB".encode("utf-16-be"), "linR".encode("utf-16-be")
            )
            profile[offset : offset + size] = text
    return bytes(profile)


def test_an_icc_profile_is_applied() -> None:
    linear = Image.fromarray(np.full((8, 8, 3), 55, np.uint8))
    image = decode(saved(linear, "PNG", icc_profile=wide_profile()))
    assert np.abs(image.rgb.astype(int) - 128).max() <= 2  # 55/255 in linear light is 128/255 in sRGB


def test_an_srgb_profile_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode(saved(Image.fromarray(SCENE), "PNG", icc_profile=profile)).rgb, SCENE)


@pytest.mark.parametrize("profile", [b"nonsense", wide_profile()[:200]])
def test_a_broken_profile_is_passed_over(profile: bytes) -> None:
    assert np.array_equal(decode(saved(Image.fromarray(SCENE), "PNG", icc_profile=profile)).rgb, SCENE)


def test_a_photograph_with_a_second_picture_behind_it_is_one_photograph() -> None:
    first, second = Image.fromarray(SCENE), Image.fromarray(SCENE[::-1].copy())
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    assert far(decode(data).rgb, SCENE) < 2


def frames(kind: str) -> bytes:
    first, second = Image.fromarray(SCENE), Image.fromarray(SCENE[::-1].copy())
    return saved(first, kind, save_all=True, append_images=[second])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "HEIF"])
def test_several_frames_are_refused(kind: str) -> None:
    with pytest.raises(ImageAnimated):
        decode(frames(kind))


def test_nothing_is_an_empty_image() -> None:
    with pytest.raises(ImageEmpty):
        decode(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"hello, I am a text",
        b"%PDF-1.7\n",
        b"\x89PNG",
        bytes(4096),
        frames("GIF"),
        b"<svg/>",
        b"\xff\xd8\xff\xd9",
    ],
    ids=["byte", "text", "pdf", "four bytes", "zeros", "gif", "svg", "empty jpeg"],
)
def test_what_is_no_image_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.code == "bad_image"


def test_a_png_that_does_not_match_its_checksum_is_refused() -> None:
    data = bytearray(encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "png"))
    data[len(data) // 2] ^= 1
    with pytest.raises(BadImage, match="damaged on its way"):
        decode(bytes(data))
    data = bytearray(encode(np.zeros((64, 64, 3), np.uint8), "png"))
    data[33:37] = b"\x7f\xff\xff\xff"  # the length of its pixels
    with pytest.raises(ImageTruncated):
        decode(bytes(data))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_says_so(kind: str, part: float) -> None:
    whole = decode((PHOTOGRAPHS / "astronaut.png").read_bytes()).rgb[100:356, 100:356]
    name, options = SAVED_AS[kind]
    data = saved(Image.fromarray(whole), name, **options)
    with pytest.raises(ImageTruncated):
        decode(data[: int(len(data) * part)])


def png(*chunks: bytes) -> bytes:
    """A PNG of the given chunks (type, data, type, data ...), with right checksums."""
    body = b"\x89PNG\r\n\x1a\n"
    for kind, data in [*zip(chunks[::2], chunks[1::2], strict=True), (b"IEND", b"")]:
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return body


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # 3.6 billion pixels, 10 GB
    with pytest.raises(ImageTooLarge):
        decode(png(b"IHDR", header, b"IDAT", zlib.compress(bytes(1000))))


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_counts_pixels_before_decoding(kind: str) -> None:
    data = KINDS[kind]
    with pytest.raises(ImageTooLarge, match="64 x 48"):
        decode(data, max_pixels=64 * 48 - 1)
    assert decode(data, max_pixels=64 * 48).width == 64


def test_the_limit_is_ours_and_not_pillows() -> None:
    tall = saved(Image.new("1", (20_000, 9_500)), "PNG")  # 190 million pixels: Pillow alone would refuse it, unnamed
    with pytest.raises(ImageTooLarge, match="20000 x 9500"):
        decode(tall, max_pixels=189_999_999)


def test_a_bomb_in_a_text_chunk_does_no_harm() -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    text = b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    data = png(b"IHDR", header, *text, b"IDAT", zlib.compress(b"\0abc"))
    with contextlib.suppress(BadImage):  # refusing is as good: what counts is that the error is ours
        assert decode(data).width == 1


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(KINDS)), st.data())
def test_damaged_files_give_pixels_or_our_errors(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(KINDS[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage):
        assert decode(bytes(damaged), max_pixels=1_000_000).rgb.shape[2] == 3


def test_errors_name_no_file_and_no_content() -> None:
    with pytest.raises(BadImage) as caught:
        decode(b"/home/someone/private.jpg")
    assert "private" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_what_is_written_is_read_again(kind: str) -> None:
    image = decode(encode(SCENE, kind))
    assert image.format == kind
    assert far(image.rgb, SCENE) < (0.001 if kind == "png" else 4)


@pytest.mark.parametrize("kind", DEFAULT_QUALITY)
def test_quality_is_what_costs_bytes(kind: str) -> None:
    photograph = decode((PHOTOGRAPHS / "obama.jpg").read_bytes()).rgb[:256, 300:556]
    assert len(encode(photograph, kind, 40)) < len(encode(photograph, kind)) < len(encode(photograph, kind, 100))


@pytest.mark.parametrize(
    ("rgb", "kind", "quality"),
    [
        (SCENE, "gif", None),
        (SCENE[..., 0], "png", None),
        (SCENE.astype(np.float32), "png", None),
        (SCENE, "jpeg", 0),
        (SCENE, "webp", 101),
    ],
    ids=["format", "grey", "float", "quality 0", "quality 101"],
)
def test_what_cannot_be_written_is_refused(rgb: Any, kind: str, quality: int | None) -> None:
    with pytest.raises(ValueError, match=r"written|quality"):
        encode(rgb, kind, quality)


def test_a_side_too_long_for_the_format_is_refused() -> None:
    with pytest.raises(ImageTooLarge, match="16383"):
        encode(np.zeros((1, 16_384, 3), np.uint8), "webp")


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_no_metadata_of_the_source_survives(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET-description"
    exif[0x8825] = {1: "N", 2: (51.0, 30.0, 26.0), 29: "SECRET-gps"}
    marks: dict[str, Any] = {"exif": exif, "icc_profile": wide_profile(), "xmp": b"<x:xmpmeta>SECRET-xmp</x:xmpmeta>"}
    data = saved(Image.fromarray(SCENE), "JPEG", comment=b"SECRET-comment", **marks)
    assert data.count(b"SECRET") >= 3
    written = encode(decode(data).rgb, kind)
    assert b"SECRET" not in written
    assert only_pixels(written)


def only_pixels(data: bytes) -> bool:
    """Whether a file holds nothing but its pixels: no chunk or segment beyond the ones that decoding needs."""
    if data.startswith(b"\x89PNG"):
        kinds, at = [], 8
        while at < len(data):
            kinds.append(data[at + 4 : at + 8])
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        return set(kinds) == {b"IHDR", b"IDAT", b"IEND"} and at == len(data)
    if data.startswith(b"\xff\xd8"):
        scan = data.index(b"\xff\xda")
        segments, at = [], 2
        while at < scan:
            segments.append(data[at + 1])
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        allowed = {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF header (18 bytes, without a thumbnail), tables, frame
        return set(segments) <= allowed and data[2:6] == b"\xff\xe0\x00\x10" and data.endswith(b"\xff\xd9")
    return data[:4] == b"RIFF" and data[12:16] == b"VP8 " and int.from_bytes(data[4:8], "little") + 8 == len(data)


@pytest.mark.parametrize("name", ["obama.jpg", "biden.jpg"])
@pytest.mark.parametrize("kind", EXTENSIONS)
def test_a_real_photograph_loses_its_metadata(name: str, kind: str) -> None:
    data = (PHOTOGRAPHS / name).read_bytes()
    assert b"Souza" in data
    written = encode(decode(data).rgb[:200, :200], kind)
    assert b"Souza" not in written
    assert only_pixels(written)
    with Image.open(io.BytesIO(written)) as image:
        assert not image.getexif()
        assert "icc_profile" not in image.info


def test_the_photographs_are_the_ones_named_in_their_provenance() -> None:
    text = (PHOTOGRAPHS / "PROVENANCE.md").read_text()
    listed = dict(re.findall(r"^\| `(\S+)` .*`([0-9a-f]{64})` \|$", text, re.MULTILINE))
    present = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in PHOTOGRAPHS.iterdir() if p.suffix != ".md"}
    assert listed == present


def test_heic_is_really_there() -> None:
    assert pillow_heif.libheif_version()
