"""Files to pixels and back. The only place that decodes an image, so that every limit stands in one place.

In: PNG, JPEG, WebP, TIFF, HEIC; any bit depth up to 16, grey, palette, CMYK, with alpha. Out: PNG, JPEG, WebP, written
from bare pixels, so that no metadata of the source (EXIF, XMP, GPS, ICC, embedded thumbnails) can survive.
"""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms

from refacex_core.errors import BadImage, ImageAnimated, ImageEmpty, ImageTooLarge, ImageTruncated
from refacex_core.types import RGB

MAX_PIXELS: Final = 100_000_000
DEFAULT_QUALITY: Final = {"jpeg": 95, "webp": 90}
EXTENSIONS: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
INPUT_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".heic", ".heif", ".hif"}
)

_FORMATS = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp", "TIFF": "tiff", "HEIF": "heif"}
LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
_PNG = b"\x89PNG\r\n\x1a\n"
_ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

pillow_heif.register_heif_opener(thumbnails=False)
Image.MAX_IMAGE_PIXELS = None  # `decode` has a limit of its own, which callers can raise beyond Pillow's


@dataclass(frozen=True)
class SourceImage:
    """A decoded photograph: sRGB pixels, upright. `format` is the container, `orientation` the EXIF value applied."""

    rgb: RGB = field(repr=False)
    format: str
    had_alpha: bool
    orientation: int

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.rgb.shape[0])


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> SourceImage:
    """The photograph in `data`, turned upright, as sRGB; alpha is laid on white.

    Nothing larger than `max_pixels` is decoded. Raises BadImage or one of its kinds (ImageEmpty, ImageTruncated,
    ImageTooLarge, ImageAnimated), never anything else, whatever the bytes are.
    """
    if not data:
        raise ImageEmpty
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and the like: none of it is used
            return _decode(data, max_pixels)
    except BadImage:
        raise
    except Exception as error:  # a hostile file can bring any parser to raise anything
        if _is_cut(data) or "truncated" in str(error).lower():
            raise ImageTruncated from None
        raise BadImage from None


def encode(rgb: RGB, format: str, quality: int | None = None) -> bytes:  # noqa: A002 - as in ItemOptions
    """`rgb` (H x W x 3, uint8) as a PNG, JPEG (4:2:0, quality 95) or WebP (lossy, quality 90) without any metadata.

    ValueError for another format, shape or quality; ImageTooLarge when the format cannot hold so long a side.
    """
    if format not in EXTENSIONS or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError("only H x W x 3 bytes can be written, as png, jpeg or webp")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError("quality goes from 1 to 100")
    if max(rgb.shape[:2]) > LONGEST_SIDE[format]:
        raise ImageTooLarge(f"{format} holds at most {LONGEST_SIDE[format]} pixels a side")
    image, buffer = Image.fromarray(np.ascontiguousarray(rgb)), io.BytesIO()
    if format == "png":
        image.save(buffer, "PNG", compress_level=6)
    elif format == "jpeg":
        image.save(buffer, "JPEG", quality=quality or DEFAULT_QUALITY["jpeg"], subsampling="4:2:0", optimize=True)
    else:
        image.save(buffer, "WEBP", quality=quality or DEFAULT_QUALITY["webp"], method=4)
    return buffer.getvalue()


def _decode(data: bytes, max_pixels: int) -> SourceImage:
    _check_sums(data)
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "TIFF", "HEIF")) as image:
        if image.width * image.height > max_pixels:
            raise ImageTooLarge(f"{image.width} x {image.height}")
        container = str(image.format)
        # A JPEG of several pictures (MPO) is one photograph with its depth or gain map behind it.
        if container != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise ImageAnimated
        orientation = _orientation(image)
        image.load()
        had_alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
        upright = _turn(_to_srgb(image), orientation if container != "TIFF" else 1)  # Pillow turns TIFFs while loading
        rgb = np.array(upright, np.uint8)
    return SourceImage(np.ascontiguousarray(rgb), _FORMATS[container], had_alpha, orientation)


def _check_sums(data: bytes) -> None:
    """ImageTruncated for a PNG with a chunk that ends behind it, BadImage for one that does not match its checksum.

    Pixels would be decoded from either all the same.
    """
    if not data.startswith(_PNG):
        return
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            raise ImageTruncated
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise BadImage("it was damaged on its way, by its own checksum: send it again")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where it is missing or nonsense. HEIC is turned by its own decoder, which resets it."""
    try:
        value = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF is no reason to refuse the pixels
        return 1
    return value if 1 <= value <= 8 else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    move = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if move is None else image.transpose(move)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: 16 bits scaled, palette expanded, the embedded ICC profile applied, alpha laid on white."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F"):
        raise BadImage("pixels of 32 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(_apply_profile(rgba.convert("RGB"), profile), mask=rgba.getchannel("A"))
        return white
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _converted(image, lab)
    return _apply_profile(image, profile)


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """`image` in sRGB. A profile that is broken or made for another kind of pixel is passed over, as browsers do."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" in (ImageCms.getProfileDescription(source) or ""):
                return image.convert("RGB")  # no rounding where nothing needs converting
            return _converted(image, source)
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def _converted(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    result = ImageCms.profileToProfile(
        image, source, _SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB", inPlace=False, flags=flags
    )
    if result is None:  # only when the conversion is in place
        raise BadImage("its colours cannot be converted")
    return result


def _is_cut(data: bytes) -> bool:
    """Whether a file that could not be decoded starts as an image of a known kind and lacks its end."""
    if data.startswith(_PNG):
        return b"IEND" not in data[-16:]
    if data.startswith(b"\xff\xd8\xff"):
        return not data.rstrip(b"\0").endswith(b"\xff\xd9")
    if data.startswith(b"RIFF") and (len(data) < 12 or data[8:12] == b"WEBP"):
        return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[4:8] == b"ftyp":
        return _boxes_end(data) > len(data)
    if data[:4] == b"II*\0":
        return int.from_bytes(data[4:8], "little") + 2 > len(data)
    return data[:4] == b"MM\0*" and int.from_bytes(data[4:8], "big") + 2 > len(data)


def _boxes_end(data: bytes) -> int:
    """Where the last top-level box of an ISO base media file (HEIC) says that it ends."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # 0: to the end of the file
            return len(data)
        at += size
    return at
