"""An item on its way through the core, and what is reported of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from refacex_core.anonymiser import Sketch
from refacex_core.audit import Unfit
from refacex_core.donors import Donor
from refacex_core.errors import CoreError
from refacex_core.faces.align import Grain
from refacex_core.faces.detect import Detection
from refacex_core.gates import GOOD_OVER_VIEWS, GOOD_SIMILARITY, MOST_SIMILARITY
from refacex_core.release import Stego
from refacex_core.stego.framing import FaceGeometry
from refacex_core.types import (
    RGB,
    Box,
    DonorPolicy,
    FaceReport,
    Failed,
    Held,
    HoldReason,
    ItemInput,
    Outcome,
    Released,
)


@dataclass(frozen=True)
class Candidate:
    """One donor's result on one face: the face alone (256 x 256 x 3), its cosine to the original, as it is and on average over
    `recognisers.views` (as it is where that alone is too much), and to the donor."""

    donor: Donor
    face: RGB
    similarity: float
    over_views: float
    donor_similarity: float

    @property
    def excess(self) -> float:
        """How far it is above what is good enough; not above 0 where it is good."""
        return max(self.similarity - GOOD_SIMILARITY, self.over_views - GOOD_OVER_VIEWS)

    @property
    def likeness(self) -> float:
        """What must not be more than `MOST_SIMILARITY` for a release: the higher of the two."""
        return max(self.similarity, self.over_views)

    @property
    def rank(self) -> tuple[bool, float]:
        """The least of several is least like the original; what may not be released comes last."""
        return self.likeness > MOST_SIMILARITY, self.excess


@dataclass
class Face:
    """A face on its way: where it is, its original, its donors, and what they gave, the one in use first."""

    detection: Detection
    geometry: FaceGeometry
    crop: RGB
    points: NDArray[np.float32]
    codes: NDArray[np.float32]  # of its views, 3 x 128
    mask: NDArray[np.float32]
    grain: Grain | None = None
    grey: bool = False  # of a black-and-white photograph
    donors: list[Donor] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    tried: int = 0  # donors
    #: Of donors that may be drawn again, by name; in half precision.
    sketches: dict[str, Sketch] = field(default_factory=dict)
    audited: float | None = None
    reason: HoldReason | None = None
    payload: bytes = b""
    judged: dict[str, float] = field(default_factory=dict)

    @property
    def box(self) -> Box:
        """Pixels, as detected."""
        return self.detection.box

    @property
    def code(self) -> NDArray[np.float32]:
        """Of the face as it is (128)."""
        code: NDArray[np.float32] = self.codes[0]
        return code

    @property
    def next_donor(self) -> Donor | None:
        """The first that was not tried; None where all were."""
        return self.donors[self.tried] if self.tried < len(self.donors) else None

    @property
    def best(self) -> float:
        """The least likeness between the original and what a donor gave; infinite where none was tried."""
        return min((c.likeness for c in self.candidates), default=math.inf)


@dataclass
class Job:
    """An item on its way."""

    item: ItemInput
    rgb: RGB
    faces: list[Face]
    clock: Clock
    error: Exception | None = None

    @property
    def stable(self) -> bool:
        """Whether a subject keeps the first donor that will do."""
        return self.item.options.donor_policy is DonorPolicy.STABLE


class Clock:
    """Milliseconds a stage."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        """Adds time to a stage."""
        self.ms[name] = self.ms.get(name, 0.0) + seconds * 1000

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)


def released(job: Job, stego: Stego, anonymised: RGB | None) -> Released:
    return Released(
        data=stego.data,
        format=job.item.options.format,
        sha256=stego.sha256,
        locator=stego.header.locator,
        width=job.rgb.shape[1],
        height=job.rgb.shape[0],
        faces=_reports(job, True),
        payload_bytes=stego.header.sealed_bytes,
        stego_psnr=stego.psnr,
        timings_ms=_rounded(job.clock.ms),
        anonymised=anonymised,
    )


def good(job: Job, face: Face) -> bool:
    """Whether a face needs no further donor. Policy `stable` keeps the first that may be released at all."""
    if job.stable:
        return face.best <= MOST_SIMILARITY
    return any(made.excess <= 0 for made in face.candidates)


def order(job: Job, face: Face) -> None:
    """The candidate least like the original first; `stable` goes by the order of its donors."""
    if not job.stable:
        face.candidates.sort(key=lambda made: made.rank)


def _reports(job: Job, released: bool) -> tuple[FaceReport, ...]:
    return tuple(_report(i, face, released) for i, face in enumerate(job.faces))


def _report(index: int, face: Face, released: bool) -> FaceReport:
    used = face.candidates[0] if face.candidates else None
    return FaceReport(
        index=index,
        box=_box(face.box),
        released=released,
        reason=face.reason,
        donor=used.donor.name if used else None,
        donor_similarity=round(used.donor_similarity, 4) if used else None,
        audit_similarity=round(face.audited, 4) if face.audited is not None else None,
        payload_bytes=len(face.payload),
        donors_tried=face.tried,
        judged={name: round(cosine, 4) for name, cosine in face.judged.items()},
    )


def _box(box: Box) -> Box:
    x, y, width, height = (round(float(v), 1) for v in box)
    return x, y, width, height


def outcome(error: Exception, clock: Clock, job: Job | None = None) -> Outcome:
    if isinstance(error, Unfit):
        reports = _reports(job, False) if job else ()
        places = tuple(
            FaceReport(len(reports) + i, _box(box), False, error.reason) for i, box in enumerate(error.boxes)
        )
        return Held(error.reason, reports + places, _rounded(clock.ms))
    code = error.code if isinstance(error, CoreError) else "internal_error"
    return Failed(error, code, _rounded(clock.ms))


def _rounded(ms: Mapping[str, float]) -> dict[str, float]:
    return {k: round(v, 2) for k, v in ms.items()}
