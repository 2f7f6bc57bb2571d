"""The two marks of a recovered face: one to be seen, under the picture, and one embedded in its pixels."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from refacex_core.types import RGB
    from workers.core import Core

BAND = 32  # pixels under the picture
_INK, _PAPER = (20, 20, 20), (255, 214, 10)


def mark(core: Core, crop: RGB, ticket: UUID, at: datetime) -> RGB:
    """A recovered crop (H x W x 3) with both marks: (H + 32) x W x 3; its first H rows are the picture."""
    height, width = crop.shape[:2]
    picture = Image.new("RGB", (width, height + BAND), _PAPER)
    picture.paste(Image.fromarray(core.mark(crop, ticket.bytes)), (0, 0))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=10)
    lines = (f"RECOVERED {at:%Y-%m-%d} - DO NOT PASS ON", f"ticket {ticket}")
    for line, text in enumerate(lines):
        draw.text((4, height + 3 + 13 * line), text, font=font, fill=_INK)
    return np.asarray(picture)
