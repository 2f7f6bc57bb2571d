"""How the bytes that an image can carry are shared out among its faces."""

from __future__ import annotations

from collections.abc import Sequence

from refacex_core.errors import ImageTooSmall
from refacex_core.payload.codec import MAXIMUM_BYTES, MINIMUM_BYTES
from refacex_core.sealing import sealed_size
from refacex_core.types import Profile


def share_out(capacity: int, areas: Sequence[float], profile: Profile) -> list[int]:
    """Payload bytes a face, by face area (pixels) within the codec's limits.

    `capacity` is that of the whole sealed part. ImageTooSmall when a face would get less than the codec's minimum.
    """
    if not areas:
        return []
    most = MAXIMUM_BYTES[profile.value]
    left = capacity - sealed_size([0] * len(areas))
    if left < MINIMUM_BYTES * len(areas):
        raise ImageTooSmall(
            f"{len(areas)} faces need {MINIMUM_BYTES * len(areas)} bytes, the image carries {max(left, 0)}"
        )
    spare = left - MINIMUM_BYTES * len(areas)
    budgets = [MINIMUM_BYTES] * len(areas)
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
