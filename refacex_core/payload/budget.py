"""How the bytes that an image can carry are shared out among its faces."""

from __future__ import annotations

import math
from collections.abc import Sequence

from refacex_core.errors import ImageTooSmall
from refacex_core.payload.codec import MAXIMUM_BYTES
from refacex_core.sealing import sealed_size
from refacex_core.types import Profile

#: The least bytes for a face: so many for each pixel of its side, as what it does not show needs no code, between these bounds.
_A_PIXEL, _LEAST, _ENOUGH = 4.0, 180, 420


def least(area: float, profile: Profile) -> int:
    """The fewest payload bytes for a face of `area` pixels; `archive` codes what is around it as well."""
    if profile is Profile.ARCHIVE:
        return _ENOUGH
    return round(min(max(_A_PIXEL * math.sqrt(max(area, 0.0)), _LEAST), _ENOUGH))


def share_out(capacity: int, areas: Sequence[float], profile: Profile) -> list[int]:
    """Payload bytes a face, by face area (pixels) within the codec's limits.

    `capacity` is that of the whole sealed part. ImageTooSmall when a face would get less than its `least`.
    """
    if not areas:
        return []
    most = MAXIMUM_BYTES[profile.value]
    left = capacity - sealed_size([0] * len(areas))
    budgets = [least(area, profile) for area in areas]
    spare = left - sum(budgets)
    if spare < 0:
        raise ImageTooSmall(f"{len(areas)} faces need {sum(budgets)} bytes, the image carries {max(left, 0)}")
    open_ = set(range(len(areas)))
    while spare >= len(open_) and open_:  # what a face cannot use goes to the others
        total = sum(max(areas[i], 1.0) for i in open_)
        given = {i: int(spare * max(areas[i], 1.0) / total) for i in open_}
        used = 0
        for i, extra in given.items():
            take = min(extra, most - budgets[i])
            budgets[i] += take
            used += take
        open_ = {i for i in open_ if budgets[i] < most}
        spare -= used
        if used == 0:
            break
    return budgets
