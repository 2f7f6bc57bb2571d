"""The recovery network gives the original back whatever face was released in its place."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from refacex_core import images
from refacex_core.payload import codec
from refacex_core.pipeline import Core
from refacex_core.types import RGB, Profile
from refacex_core.versions import CURRENT

Shown = dict[str, tuple[RGB, np.ndarray]]


@pytest.fixture(scope="module")
def shown(core: Core, photographs: dict[str, bytes]) -> Shown:
    """Each photograph's aligned crop and the mask that a release replaces."""
    crops: Shown = {}
    for name, data in photographs.items():
        rgb = images.decode(data).rgb
        (face,) = core._align(rgb, core.audit.find(rgb))
        crops[name] = (face.crop, face.mask)
    return crops


def _released(shown: Shown, name: str, face: RGB) -> RGB:
    """A crop with `face` in its mask."""
    crop, mask = shown[name]
    return np.rint(crop + mask[..., None] * (face.astype(np.float32) - crop)).astype(np.uint8)


@pytest.mark.parametrize("name", ["astronaut", "biden", "obama"])
def test_no_pixel_of_the_face_that_was_released_comes_through(core: Core, shown: Shown, name: str) -> None:
    """Faces in every light, also lit from one side: where they are like the original the network must not trust them."""
    crop, mask = shown[name]
    payload = codec.encode(crop, mask, 900)
    model = core.reader.model(CURRENT)
    ramp = np.linspace(0.6, 1.5, 256, dtype=np.float32)[None, :, None]
    others = [other for key, (other, _) in shown.items() if key != name]
    faces = [*others, *(np.clip(other * ramp, 0, 255).astype(np.uint8) for other in others), crop[:, ::-1]]
    inside = cv2.erode(mask, np.ones((9, 9))) > 0.5
    coded = _error(codec.with_window(crop, codec.decode(payload)), crop, inside)
    for face in faces:
        error = _error(model.face(Profile.ROBUST, _released(shown, name, face), payload), crop, inside)
        assert error.max() < 1.3 * coded.max(), "a patch of the released face"
        assert error.sum() < 1.1 * coded.sum()


def _error(recovered: RGB, crop: RGB, inside: np.ndarray) -> np.ndarray:
    """Levels that a recovered crop is off inside the mask, on average over the 16 x 16 pixels around each."""
    return np.asarray(cv2.blur(np.abs(recovered.astype(np.float32) - crop).mean(2) * inside, (16, 16)))


def test_a_budget_is_filled_by_few_tries(monkeypatch: pytest.MonkeyPatch, shown: Shown) -> None:
    """As well as trying every quality would, but for a fiftieth of the bytes."""
    view = codec.window_of(codec.extend(*shown["biden"]))
    sizes = [len(codec._avif(view, quality)) for quality in range(0, 101, 4)]
    tried: list[int] = []

    def data(_: object, quality: int) -> bytes:
        tried.append(quality)
        return bytes(round(np.interp(quality / 4, range(len(sizes)), sizes)))

    monkeypatch.setattr(codec, "_avif", data)
    every = [len(data(view, quality)) for quality in range(101)]
    counts = []
    for budget in (1, sizes[0] - 1, sizes[0], 300, 500, 727, 809, 1200, 2200, 20_000, 10**6):
        tried.clear()
        found = len(codec._largest(view, budget))
        best = max((size for size in every if size <= budget), default=0)
        assert found <= budget and (found == best or found > 0.98 * budget)
        assert set(tried) <= set(range(101)) and len(tried) == len(set(tried)) <= 12
        counts.append(len(tried))
    assert np.mean(counts) < 6
