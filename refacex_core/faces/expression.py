"""Expression: how far eyes and mouth are open and where the eyes look, measured on a face's 162 points, and carried over to another's.

Each part is measured in the axes of its own corners, so that neither pose nor the face's size counts: x along the line from one corner to
the other, y across it, both in shares of the distance between the corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from refacex_core.faces.landmarks import GROUPS, ROW_OF

#: How much wider or narrower than a donor's own an eye may be opened: beyond that its texture tears.
_NARROWEST, _WIDEST = 0.35, 1.8
#: How much further than it is a mouth may be opened, in shares of its width: beyond that its teeth are drawn out.
_FURTHER = 0.04


@dataclass(frozen=True)
class _Part:
    """Rows of the corners and of the points between them."""

    corners: tuple[int, int]
    rows: Tensor

    @staticmethod
    def of(first: int, second: int, group: str) -> _Part:
        """By the mesh's numbers of both corners."""
        return _Part((ROW_OF[first], ROW_OF[second]), torch.from_numpy(GROUPS[group]))

    def measure(self, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """Where `rows` (the part's own, where none are given) of points (B x 162 x 2) lie in the part's axes (B x N x 2)."""
        start, axes = self._axes(points)
        measured: Tensor = (points[:, self.rows if rows is None else rows] - start) @ torch.linalg.inv(axes)
        return measured

    def place(self, points: Tensor, measured: Tensor, rows: Tensor | None = None) -> Tensor:
        """The points with these rows moved to where they were measured."""
        start, axes = self._axes(points)
        moved = points.clone()
        moved[:, self.rows if rows is None else rows] = start + measured @ axes
        return moved

    def _axes(self, points: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (points[:, row] for row in self.corners)
        along = second - first
        along = torch.where(along.norm(dim=1, keepdim=True) < 1, torch.tensor([1.0, 0.0]).to(along), along)
        return first[:, None], torch.stack([along, torch.stack([-along[:, 1], along[:, 0]], 1)], 1)


_EYES = (
    (_Part.of(33, 133, "right_eye"), torch.from_numpy(GROUPS["right_iris"])),
    (_Part.of(362, 263, "left_eye"), torch.from_numpy(GROUPS["left_iris"])),
)
_MOUTH = _Part.of(61, 291, "lips")
_UPPER = (185, 40, 39, 37, 0, 267, 269, 270, 409, 191, 80, 81, 82, 13, 312, 311, 310, 415)
_LOWER = (146, 91, 181, 84, 17, 314, 405, 321, 375, 95, 88, 178, 87, 14, 317, 402, 318, 324)
_SIDE = torch.zeros(len(ROW_OF))
_SIDE[[ROW_OF[point] for point in _UPPER]], _SIDE[[ROW_OF[point] for point in _LOWER]] = -1, 1


def carry(points: Tensor, source: Tensor, shown: Tensor | None = None) -> Tensor:
    """`points` with the source's expression (each B x 162 x 2, pixels): eyes as far open and looking as its do, the mouth as far open.

    `shown`: how far the mouth that will be drawn there is open itself (`gap`, B), which bounds it.
    """
    for eye, iris in _EYES:
        mine, theirs = eye.measure(points), eye.measure(source)
        wider = (_opening(theirs) / _opening(mine).clamp(min=1e-3)).clamp(_NARROWEST, _WIDEST)
        look = eye.measure(source, iris).mean(1, keepdim=True) - eye.measure(points, iris).mean(1, keepdim=True)
        looking = eye.measure(points, iris) + look
        scale = torch.stack([torch.ones_like(wider), wider], 1)[:, None]
        points = eye.place(eye.place(points, mine * scale), looking, iris)
    lips = _MOUTH.measure(points)
    wanted = gap(source) if shown is None else torch.minimum(gap(source), shown.clamp(min=0) + _FURTHER)
    further = wanted - gap(points)
    along = lips[..., 0].clamp(0, 1)
    middle = 1 - (2 * along - 1) ** 2  # most in the middle, nothing at the corners
    lips[..., 1] += 0.5 * _SIDE.to(lips)[_MOUTH.rows] * middle * further[:, None]
    return _MOUTH.place(points, lips)


def measures(points: Tensor) -> Tensor:
    """What a face (B x 162 x 2) does: both eyes' opening on average, the mouth's, and how far its corners are drawn up (B x 3)."""
    eyes = torch.stack([_opening(eye.measure(points)) for eye, _ in _EYES]).mean(0)
    lips = _MOUTH.measure(points)[..., 1]
    return torch.stack([eyes, gap(points), lips.mean(1)], 1)


def ahead(points: Tensor, like: Tensor) -> Tensor:
    """`points` with irises as far along their eyes as those of `like` are (each B x 162 x 2, pixels)."""
    for eye, iris in _EYES:
        looking, wanted = eye.measure(points, iris), eye.measure(like, iris)
        looking[..., 0] += (wanted - looking)[..., 0].mean(1, keepdim=True)
        points = eye.place(points, looking, iris)
    return points


def parts(points: Tensor) -> list[Tensor]:
    """What points (B x 162 x 2) say of the expression: lids, irises and lips, each in its part's axes (B x N x 2)."""
    eyes = [eye.measure(points, rows) for eye, iris in _EYES for rows in (None, iris)]
    return [*eyes, _MOUTH.measure(points)]


def _opening(measured: Tensor) -> Tensor:
    return measured[..., 1].amax(1) - measured[..., 1].amin(1)


def gap(points: Tensor) -> Tensor:
    """How far a mouth (of points, B x 162 x 2) is open in its middle, in shares of its width (B)."""
    inner = _MOUTH.measure(points, torch.tensor([ROW_OF[13], ROW_OF[14]]))[..., 1]
    return inner[:, 1] - inner[:, 0]
