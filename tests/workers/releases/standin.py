"""A core without networks for the tests of the life cycle: its outcomes are told by the first bytes of a file.

    BAD     not an image                HOLD    no face in it          SLOW    takes a second, then is released
    POISON  kills its process           BREAK   the core breaks        anything else is released

The released bytes differ from attempt to attempt, as the real core's do, so that a mix-up of attempts shows.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import time
from collections.abc import Sequence

from refacex_core.errors import BadImage
from refacex_core.types import FaceReport, Failed, Held, HoldReason, ItemInput, Outcome, Released

STEGO_BYTES = 48_000


class StandIn:
    """Has the core's `anonymise` and `model_version`."""

    model_version = "stand-in-1"

    def anonymise(self, items: Sequence[ItemInput]) -> list[Outcome]:
        return [self._one(item) for item in items]

    def _one(self, item: ItemInput) -> Outcome:
        if item.data.startswith(b"POISON"):
            os.kill(os.getpid(), signal.SIGKILL)
        if item.data.startswith(b"BREAK"):
            return Failed(RuntimeError("the stand-in broke"), "internal_error", {})
        if item.data.startswith(b"BAD"):
            return Failed(BadImage(), BadImage.code, {})
        if item.data.startswith(b"HOLD"):
            return Held(HoldReason.NO_FACE, (), {"detect": 1.0})
        if item.data.startswith(b"SLOW"):
            time.sleep(1.0)
        locator = secrets.token_bytes(8)
        layout, face = item.keys.layout_key(locator), item.keys.face_key(locator, 0)
        data = hashlib.shake_256(layout + face + item.data).digest(STEGO_BYTES)
        report = FaceReport(
            0,
            (1.0, 2.0, 30.0, 40.0),
            True,
            donor="d",
            donor_similarity=0.5,
            audit_similarity=0.1,
            payload_bytes=90,
            donors_tried=1,
            judged={"dlib": 0.88},
        )
        return Released(
            data=data,
            format=item.options.format,
            sha256=hashlib.sha256(data).hexdigest(),
            locator=locator,
            width=64,
            height=48,
            faces=(report,),
            payload_bytes=100,
            stego_psnr=40.0,
            timings_ms={"anonymise": 1.0},
        )


def load() -> StandIn:
    """What REFACEX_CORE_FACTORY names."""
    return StandIn()
