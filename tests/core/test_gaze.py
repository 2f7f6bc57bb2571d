"""An iris is moved between its lids, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refacex_core.donors import DonorAppearance
from refacex_core.faces.landmarks import GROUPS, LIDS, ROW_OF
from refacex_core.payload.network import WINDOW

_CORNER = torch.tensor([WINDOW[1], WINDOW[0]])


@pytest.fixture(scope="module")
def appearance() -> DonorAppearance:
    return DonorAppearance()


@pytest.fixture(scope="module")
def textures(appearance: DonorAppearance) -> Tensor:
    whole: Tensor = appearance(appearance.codes)[0]
    return whole


def _irises(appearance: DonorAppearance) -> Tensor:
    """Where the right and the left iris are (2 x 2, pixels of the frame)."""
    return torch.stack([appearance.mean_shape[GROUPS[name]].mean(0) for name in ("right_iris", "left_iris")])


def _darkest(textures: Tensor, appearance: DonorAppearance, eye: int) -> Tensor:
    """Where between the lids of an eye most of the dark is (B x 2, pixels): in the iris, and not in the white."""
    ring = appearance.mean_shape[[ROW_OF[point] for point in LIDS[eye]]] - _CORNER
    left, top, right, bottom = (int(v) for v in (*ring.amin(0).round(), *ring.amax(0).round()))
    part = textures[:, :, top + 2 : bottom - 1, left + 2 : right - 1].mean(1)
    dark = (part.amax((1, 2), keepdim=True) - part) ** 2
    y, x = torch.meshgrid(torch.arange(part.shape[1]), torch.arange(part.shape[2]), indexing="ij")
    return torch.stack([(dark * at).sum((1, 2)) / dark.sum((1, 2)) for at in (x, y)], 1)


@pytest.mark.parametrize("away", [-4.0, 4.0])
def test_eyes_look_aside(appearance: DonorAppearance, textures: Tensor, away: float) -> None:
    wanted = (_irises(appearance) + torch.tensor([away, 0.0])).expand(len(textures), -1, -1)
    turned = appearance.gaze.turned(textures, wanted)
    for eye in (0, 1):
        moved = (_darkest(turned, appearance, eye) - _darkest(textures, appearance, eye))[:, 0] / away
        assert moved.median() > 0.25 and (moved > 0).float().mean() > 0.95


def test_nothing_but_what_is_between_the_lids_changes(appearance: DonorAppearance, textures: Tensor) -> None:
    wanted = (_irises(appearance) + torch.tensor([4.0, 1.0])).expand(len(textures), -1, -1)
    changed = (appearance.gaze.turned(textures, wanted) - textures).abs().amax((0, 1))
    y, x = torch.meshgrid(torch.arange(changed.shape[0]), torch.arange(changed.shape[1]), indexing="ij")
    near = torch.zeros_like(changed, dtype=torch.bool)
    for lids in LIDS:
        ring = appearance.mean_shape[[ROW_OF[point] for point in lids]] - _CORNER
        low, high = ring.amin(0) - 3, ring.amax(0) + 3
        near |= (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
    assert changed[~near].max() < 0.02 and changed[near].max() > 0.5


def test_eyes_that_look_there_already_stay_as_they_are(appearance: DonorAppearance, textures: Tensor) -> None:
    wanted = _irises(appearance).expand(len(textures), -1, -1)
    assert torch.allclose(appearance.gaze.turned(textures, wanted), textures, atol=1e-3)


def test_no_iris_leaves_its_eye(appearance: DonorAppearance, textures: Tensor) -> None:
    far, further = ((_irises(appearance) + torch.tensor([away, 0.0])).expand(3, -1, -1) for away in (12.0, 60.0))
    few = textures[:3]
    assert torch.equal(appearance.gaze.turned(few, far), appearance.gaze.turned(few, further))
