"""The last steps of a release: seal, embed, write the file, and read it back before anyone else does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from refacex_core import images
from refacex_core.errors import CoreError
from refacex_core.faces import align
from refacex_core.fingerprint import face_fingerprint, image_fingerprint
from refacex_core.reader import Model
from refacex_core.sealing import SealedFace, seal
from refacex_core.stego.framing import FaceGeometry, Header, new_locator
from refacex_core.types import RGB, ItemInput, Profile

SURVIVES = ("jpeg", 75)  # what a `robust` release is put through before it may leave: format and quality


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
    spread: int = 0,
) -> Stego:
    """`image` with the sealed payloads of its faces, as the file that is released.

    `spread` as in the header. ImageTooSmall; ReadBackFailed when the payload does not come out of the file, or, in the
    `robust` profile, not out of the file after one more encoding.
    """
    locator = new_locator()
    layout_key = item.keys.layout_key(locator)
    sealed_faces = [SealedFace(g, p, face_fingerprint(align.crop(image, g.matrix()))) for g, p in faces]
    header, sealed = seal(
        profile=item.options.profile,
        model_id=model.id,
        locator=locator,
        layout_key=layout_key,
        face_keys=[item.keys.face_key(locator, i) for i in range(len(faces))],
        context=item.context,
        faces=sealed_faces,
        fingerprint=image_fingerprint(image),
        spread=spread,
    )
    stego = model.embed(image, header, sealed, layout_key)
    data = images.encode(stego, item.options.format, item.options.quality)
    seen = images.decode(data, max_pixels=max_pixels).rgb
    _read_back(model, seen, header, sealed, layout_key)
    if header.profile is Profile.ROBUST:
        again = images.decode(images.encode(seen, *SURVIVES), max_pixels=max_pixels).rgb
        _read_back(model, again, header, sealed, layout_key)
    return Stego(data, hashlib.sha256(data).hexdigest(), header, seen, psnr(seen, image))


def _read_back(model: Model, seen: RGB, header: Header, sealed: bytes, layout_key: bytes) -> None:
    try:
        heard = model.listen(seen, header.profile)
        good = heard.header == header and heard.sealed(layout_key) == sealed
    except CoreError as error:
        raise ReadBackFailed(error.code) from error
    if not good:
        raise ReadBackFailed


def psnr(a: RGB, b: RGB) -> float:
    """Peak signal-to-noise ratio of two 8-bit images, dB; 99 when they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else round(float(10 * np.log10(255**2 / error)), 3)
