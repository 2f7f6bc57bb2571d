"""The last steps of a release: seal, embed, write the file, and read it back before anyone else does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np

from refacex_core import images
from refacex_core.errors import CoreError
from refacex_core.faces import align
from refacex_core.fingerprint import face_fingerprint, image_fingerprint
from refacex_core.reader import Model
from refacex_core.sealing import SealedFace, seal
from refacex_core.stego.channel import fullness, writable
from refacex_core.stego.framing import SPREADS, STRENGTHS, FaceGeometry, Header, new_locator
from refacex_core.types import RGB, ItemInput, ItemOptions, Profile


class Survival(Enum):
    """What a `robust` release is put through before it may leave: format and quality."""

    ALWAYS = ("webp", 80)  # whatever a web site does to it
    OFTEN = ("jpeg", 50)
    LEAST = ("jpeg", 75)


_GOOD = 40.0  # dB between the released picture and what was written into
_FULL = 0.2  # information bits a place


class ReadBackFailed(CoreError):
    """The finished file did not give its payload back: release it at a higher quality or as PNG."""

    code = "read_back_failed"


@dataclass(frozen=True)
class Stego:
    """A finished file, what it holds, and its pixels as a reader sees them."""

    data: bytes = field(repr=False)
    sha256: str
    header: Header
    seen: RGB = field(repr=False)
    psnr: float


def write_release(
    model: Model,
    image: RGB,
    faces: Sequence[tuple[FaceGeometry, bytes]],
    item: ItemInput,
    max_pixels: int = images.MAX_PIXELS,
    least: Survival = Survival.OFTEN,
) -> Stego:
    """`image` with the sealed payloads of its faces, as the file that is released.

    A `robust` one is written as weakly as lives through `least`, and stronger where it then lives through all there is and the
    picture stays as good as `_GOOD`. ImageTooSmall; ReadBackFailed when the payload does not come out of the file or, in the
    `robust` profile, out of what `least` makes of it.
    """
    chosen: _Attempt | None = None
    for strength in range(STRENGTHS if item.options.profile is Profile.ROBUST else 1):
        attempt = _Attempt.at(model, image, faces, item, strength, max_pixels)
        if chosen is None and attempt.lives_through(least):
            chosen = attempt
        if chosen is None:
            continue
        full = fullness(image.shape[0], image.shape[1], attempt.header.sealed_bytes)
        if item.options.profile is Profile.ARCHIVE or full > _FULL:
            break  # what is so full does not live through more at any strength
        if attempt is not chosen and psnr(attempt.pixels, writable(image)) < _GOOD:
            break
        more = (Survival.ALWAYS,) if attempt is chosen else (least, Survival.ALWAYS)
        if attempt.lives_through(*more):
            chosen = attempt
            break
    if chosen is None:
        raise ReadBackFailed
    return chosen.file(image)


@dataclass
class _Attempt:
    """An image with its payload written into it, at one strength, and the file of it, which is made and read when it is first needed."""

    model: Model
    pixels: RGB = field(repr=False)
    header: Header
    sealed: bytes = field(repr=False)
    layout_key: bytes = field(repr=False)
    options: ItemOptions
    max_pixels: int

    @classmethod
    def at(
        cls,
        model: Model,
        image: RGB,
        faces: Sequence[tuple[FaceGeometry, bytes]],
        item: ItemInput,
        strength: int,
        max_pixels: int,
    ) -> _Attempt:
        locator = new_locator()
        layout_key = item.keys.layout_key(locator)
        robust = item.options.profile is Profile.ROBUST
        header, sealed = seal(
            profile=item.options.profile,
            model_id=model.id,
            locator=locator,
            layout_key=layout_key,
            face_keys=[item.keys.face_key(locator, i) for i in range(len(faces))],
            context=item.context,
            faces=[SealedFace(g, p, face_fingerprint(align.crop(image, g.matrix()))) for g, p in faces],
            fingerprint=image_fingerprint(image),
            spread=SPREADS - 1 if robust else 0,
            strength=strength,
            size=(image.shape[1], image.shape[0]) if robust else None,
        )
        pixels = model.embed(image, header, sealed, layout_key)
        return cls(model, pixels, header, sealed, layout_key, item.options, max_pixels)

    @cached_property
    def data(self) -> bytes:
        """The file. ImageTooLarge where its format cannot hold the image."""
        return images.encode(self.pixels, self.options.format, self.options.quality)

    @cached_property
    def seen(self) -> RGB:
        """The pixels that a reader of the file sees; a PNG gives back what it is given, and need not be made for that."""
        return self.pixels if self.options.format == "png" else self._decoded(self.data)

    @cached_property
    def comes_back(self) -> bool:
        """Whether the payload comes out of the file."""
        return self._gives_it(self.seen)

    def lives_through(self, *survivals: Survival) -> bool:
        """Whether the payload comes out of the file, and of the file encoded once more, in each way; an `archive` payload, of the file
        alone. ImageTooLarge.
        """
        if self.header.profile is Profile.ARCHIVE or not self.comes_back:
            return self.comes_back
        return all(self._survives(*survival.value) for survival in survivals)

    def file(self, image: RGB) -> Stego:
        """The file itself, of which `lives_through` said that it does. ReadBackFailed where it is not what was read there."""
        seen = self._decoded(self.data)
        if not np.array_equal(seen, self.seen):
            raise ReadBackFailed
        return Stego(self.data, hashlib.sha256(self.data).hexdigest(), self.header, seen, psnr(seen, image))

    def _survives(self, kind: str, quality: int) -> bool:
        if max(self.seen.shape[:2]) > images.LONGEST_SIDE[kind]:
            return False
        return self._gives_it(self._decoded(images.encode(self.seen, kind, quality)))

    def _decoded(self, data: bytes) -> RGB:
        return images.decode(data, max_pixels=self.max_pixels).rgb

    def _gives_it(self, seen: RGB) -> bool:
        try:
            heard = self.model.listen(seen, self.header.profile)
            return heard.header == self.header and heard.open(self.layout_key).sealed == self.sealed
        except CoreError:
            return False


def psnr(a: RGB, b: RGB) -> float:
    """Peak signal-to-noise ratio of two 8-bit images, dB; 99 when they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else round(float(10 * np.log10(255**2 / error)), 3)
