"""The mark of a recovered face: read by anyone, after what a file goes through, and never where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from refacex_core import images
from refacex_core.pipeline import Core
from refacex_core.release import psnr

FACE = images.decode((Path(__file__).parent / "golden" / "v2-robust.face.png").read_bytes()).rgb
#: A marked face of model 2 as it was written, which stays readable for ever.
GOLDEN = Path(__file__).parent / "golden" / "v2-mark.jpg"
GOLDEN_TICKET = bytes(range(16))


def test_a_mark_is_invisible_and_survives_what_a_file_goes_through(core: Core) -> None:
    ticket = os.urandom(16)
    marked = core.mark(FACE, ticket)
    assert psnr(marked, FACE) > 46
    band = np.concatenate([marked, np.full((32, 256, 3), 255, np.uint8)])
    for how in (("png", None), ("jpeg", 75), ("jpeg", 50), ("webp", 80)):
        assert core.read_mark(images.encode(band, *how)) == ticket, how


def test_a_mark_is_read_from_a_piece_of_the_face(core: Core) -> None:
    ticket = os.urandom(16)
    marked = core.mark(FACE, ticket)
    for piece in (
        marked[13:-13, 13:-13],
        np.roll(marked, (3, -2), (0, 1)),
        marked[:200],
        np.pad(marked, ((5, 0), (9, 1), (0, 0))),
    ):
        assert core.read_mark(images.encode(np.ascontiguousarray(piece), "png")) == ticket


def test_there_is_no_mark_where_none_was_written(core: Core, photographs: dict[str, bytes]) -> None:
    for data in (images.encode(FACE, "png"), *photographs.values()):
        assert core.read_mark(data) is None
    assert core.read_mark(images.encode(FACE[:200], "png")) is None


def test_only_a_crop_and_sixteen_bytes_are_marked(core: Core) -> None:
    for image, ticket in ((FACE[:255], bytes(16)), (FACE, bytes(15))):
        with pytest.raises(ValueError, match="16 bytes"):
            core.mark(image, ticket)


def test_the_golden_mark_stays_readable(core: Core) -> None:
    assert core.read_mark(GOLDEN.read_bytes()) == GOLDEN_TICKET
