"""An expression is measured whatever the pose, and carried over whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refacex_core.anonymiser import target_shape
from refacex_core.donors import DonorAppearance
from refacex_core.faces.expression import ahead, carry, gap, measures
from refacex_core.faces.landmarks import GROUPS, ROW_OF


@pytest.fixture(scope="module")
def shapes() -> Tensor:
    """Faces of the bank's donors (N x 162 x 2), some of which smile."""
    appearance = DonorAppearance()
    points: Tensor = appearance(appearance.codes[:14])[1].double()
    return points


def turned(points: Tensor, angle: float, scale: float) -> Tensor:
    c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    return scale * points @ torch.tensor([[c, s], [-s, c]], dtype=points.dtype) + 30


def test_its_own_expression_changes_nothing(shapes: Tensor) -> None:
    assert torch.allclose(carry(shapes, shapes), shapes, atol=1e-4)
    assert torch.allclose(carry(shapes, turned(shapes, 0.3, 1.7)), shapes, atol=1e-3)


def test_measures_are_the_same_in_every_pose(shapes: Tensor) -> None:
    assert torch.allclose(measures(turned(shapes, -0.4, 0.6)), measures(shapes), atol=1e-5)
    assert (measures(shapes).std(0) > 0.01).all()


def test_eyes_and_mouth_open_as_the_sources_do(shapes: Tensor) -> None:
    """And the eyes look where its do; the outline, the brows and the nose stay."""
    source = turned(shapes.roll(1, 0), 0.2, 1.3)
    carried = carry(shapes, source)
    apart = (measures(carried) - measures(source)).abs()
    assert (apart[:, 0] < 1e-6).all()
    assert (apart[:, 1] < 5e-3).all(), "lips move less where they are not quite in the middle"
    for part in ("face_oval", "nose", "left_eyebrow", "right_eyebrow"):
        assert torch.equal(carried[:, GROUPS[part]], shapes[:, GROUPS[part]])
    looked = carry(carried, source)
    assert torch.allclose(looked, carried, atol=0.2), "once is enough"


def test_eyes_that_look_ahead_are_nothing_but_that(shapes: Tensor) -> None:
    """Irises as far along as another face's; how high they stand, and all else, stays."""
    other = turned(shapes.roll(1, 0), 0.2, 1.3)
    away = carry(shapes, other)
    looking = ahead(away, shapes)
    irises = [torch.from_numpy(GROUPS[name]) for name in ("left_iris", "right_iris")]
    rest = [row for row in range(162) if not any(row in rows for rows in irises)]
    assert torch.equal(looking[:, rest], away[:, rest])
    for iris in irises:
        moved = (looking - away)[:, iris]
        assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-6), "an iris keeps its form"
    assert torch.allclose(ahead(looking, shapes), looking, atol=1e-6)
    assert (looking - away).abs().max() > 0.3


def test_a_donor_is_posed_with_the_sources_expression(shapes: Tensor) -> None:
    source, donor = turned(shapes, 0.2, 1.3).float(), shapes.roll(1, 0).float()
    posed = target_shape(source, donor)
    assert torch.allclose(measures(posed)[:, :2], measures(source)[:, :2], atol=5e-3)
    assert not torch.allclose(posed, source, atol=1)


def test_a_mouth_is_not_drawn_further_open_than_what_is_drawn_there(shapes: Tensor) -> None:
    """Teeth that are not there are not to be stretched."""
    source, mine = shapes.clone(), gap(shapes)
    source[:, ROW_OF[14]] += torch.tensor([0.0, 30.0], dtype=source.dtype)
    assert (gap(source) > mine + 0.2).all()
    assert torch.allclose(gap(carry(shapes, source)), gap(source), atol=0.02), "unless nobody says how far that is"
    assert torch.allclose(gap(carry(shapes, source, mine)), mine.clamp(min=0) + 0.04, atol=2e-3)
    assert torch.allclose(gap(carry(shapes, shapes, mine + 0.3)), mine, atol=2e-3)


def test_an_eye_is_never_torn_open(shapes: Tensor) -> None:
    wide = shapes.clone()
    for part in ("left_eye", "right_eye"):
        eye = wide[:, GROUPS[part]]
        middle = eye.mean(1, keepdim=True)
        wide[:, GROUPS[part]] = middle + (eye - middle) * torch.tensor([1.0, 6.0], dtype=eye.dtype)
    opened = measures(carry(shapes, wide))[:, 0] / measures(shapes)[:, 0]
    assert (opened < 2).all() and (opened > 1.2).all()


def test_a_mesh_that_collapsed_gives_numbers(shapes: Tensor) -> None:
    flat = torch.zeros_like(shapes)
    assert torch.isfinite(carry(shapes, flat)).all() and torch.isfinite(carry(flat, shapes)).all()
    assert torch.isfinite(target_shape(flat.float(), shapes.float())).all()
