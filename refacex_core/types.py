"""What goes into the core and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]  # H x W x 3
Box = tuple[float, float, float, float]  # x, y, width, height in pixels


class Profile(StrEnum):
    """`robust` survives JPEG and WebP; `archive` is PNG only and recovers more."""

    ROBUST = "robust"
    ARCHIVE = "archive"


class DonorPolicy(StrEnum):
    """How a donor is chosen: by chance, the same for a subject each time, or like the source in skin and shape."""

    RANDOM = "random"
    STABLE = "stable"
    MATCHED = "matched"


class HoldReason(StrEnum):
    """Why an image is not released."""

    NO_FACE = "no_face"
    FACE_TOO_SMALL = "face_too_small"
    FACE_AT_EDGE = "face_at_edge"
    FACE_MISSED = "face_missed"
    IDENTITY_LEAK = "identity_leak"
    FACE_LOST = "face_lost"
    READ_BACK_FAILED = "read_back_failed"


@dataclass(frozen=True)
class SealContext:
    """What a sealed payload is bound to, besides its key and its face number."""

    tenant: str
    release: str
    item: str
    model_version: str
    policy: str


@dataclass(frozen=True)
class ItemKeys:
    """The keys of one item while it is made: 32-byte layout key, and a 32-byte data key for each face number.

    Both are asked for with the locator of the attempt, so that a key ring can derive them and a worker can draw them.
    """

    layout_key: Callable[[bytes], bytes]
    face_key: Callable[[bytes, int], bytes]


@dataclass(frozen=True)
class ItemOptions:
    """How an image is to be released. `quality` None means the format's default (JPEG 95, WebP 90)."""

    profile: Profile = Profile.ROBUST
    format: str = "png"
    quality: int | None = None
    donor_policy: DonorPolicy = DonorPolicy.RANDOM
    donor_seed: bytes | None = field(default=None, repr=False)  # policy `stable`: PRF output of the subject's pseudonym
    release_without_face: bool = False
    release_again: bool = False  # what carries a payload already, and loses it: a recovered photograph


@dataclass(frozen=True)
class ItemInput:
    """One image to release: the file's bytes, its keys, what they are bound to, and how."""

    data: bytes = field(repr=False)
    keys: ItemKeys = field(repr=False)
    context: SealContext
    options: ItemOptions = ItemOptions()


@dataclass(frozen=True)
class FaceReport:
    """What became of one face. Similarities are cosines on SFace, -1..1; `donor_similarity` to the donor code, `audit_similarity` to the
    original: of a face that was released in the finished file, of one that was held as too like the higher of the cosine of the face as
    it is and of the mean over its views.

    `judged`: the cosine to the original by each recogniser that only judges, for a face that was released.
    """

    index: int
    box: Box
    released: bool
    reason: HoldReason | None = None
    donor: str | None = None
    donor_similarity: float | None = None
    audit_similarity: float | None = None
    payload_bytes: int = 0
    donors_tried: int = 0
    judged: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Released:
    """A finished stego file. `stego_psnr` in dB of the file as released against the anonymised image before embedding."""

    data: bytes = field(repr=False)
    format: str
    sha256: str
    locator: bytes
    width: int
    height: int
    faces: tuple[FaceReport, ...]
    payload_bytes: int
    stego_psnr: float
    timings_ms: Mapping[str, float]
    anonymised: RGB | None = field(default=None, repr=False)  # only when asked for: for evaluation and contact sheets


@dataclass(frozen=True)
class Held:
    """An image that must not be released, and why."""

    reason: HoldReason
    faces: tuple[FaceReport, ...]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True)
class Failed:
    """An image that could not be worked on; `error.code` is stable."""

    error: Exception
    code: str
    timings_ms: Mapping[str, float]


Outcome = Released | Held | Failed


@dataclass(frozen=True)
class RecoveryKeys:
    """The keys of the approved faces of one item."""

    layout_key: bytes = field(repr=False)
    face_keys: Mapping[int, bytes] = field(repr=False)


@dataclass(frozen=True)
class RecoveredFace:
    """One original face: the aligned crop (256 x 256 x 3) and `matrix`, image pixels to crop pixels (2 x 3)."""

    index: int
    crop: RGB = field(repr=False)
    matrix: NDArray[np.float64] = field(repr=False)
