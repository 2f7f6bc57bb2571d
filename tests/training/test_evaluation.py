"""What the evaluation computes, on figures whose truth is known, and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from refacex_core.pipeline import DONORS_TRIED, SPARE_DONORS
from training import blind, geometry, page
from training.baselines import DonorPaste
from training.identities import Identities
from training.metrics import frechet

RNG = np.random.default_rng(0)
DEMO_IMAGES = Path(__file__).parents[2] / "gateway" / "demo_images"


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_frechet_is_that_of_the_gaussians() -> None:
    """Of independent coordinates: the means' distance, and of each the difference of both deviations, squared."""
    x = RNG.normal(size=(4000, 3))
    a, b = list(x), list(x * [1, 2, 3] + [1, 0, 0])
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, b) == pytest.approx(1 + 0 + 1 + 4, rel=0.08)


def test_who_is_recognised() -> None:
    """Forty strangers: of the first kind each is their own original, of the second somebody else entirely."""
    people = Identities()
    vectors = unit(RNG.normal(size=(40, 128)))
    other = unit(RNG.normal(size=(40, 128)))
    for i in range(40):
        people.add(["original", "same", "new"], {"r": np.stack([vectors[i], vectors[i], other[i]])})
        if i % 2:
            people.another({"r": unit(vectors[i][None] + 0.05 * RNG.normal(size=(1, 128)))})
    found = people.figures()["r"]
    assert (found["gallery"], found["genuine_cosine"]["n"]) == (40, 20)
    assert found["genuine_tar"]["mean"] == 1
    for name in ("rank1", "rank5", "tar", "rank1_another_photograph"):
        assert found["same"][name]["mean"] == 1
        assert found["new"][name]["mean"] < 0.2
    assert found["new"]["rank1"]["mean"] <= found["new"]["rank5"]["mean"]
    assert found["same"]["leak"]["mean"] > 1 > 0.2 > abs(found["new"]["leak"]["mean"])
    assert all(sum(shares) == pytest.approx(1, abs=1e-3) for shares in found["histograms"].values())


@pytest.mark.parametrize(
    ("similar", "tried", "chosen"),
    [
        ([0.2, 0.05, 0.0], 2, 1),  # good enough: no further donor
        # none is good, but one may be released: no spare ones
        ([0.2, 0.3, 0.16, *[0.25] * (DONORS_TRIED - 3), 0.0], DONORS_TRIED, 2),
        ([0.5, 0.4, *[0.6] * (DONORS_TRIED - 2), 0.29, 0.1], DONORS_TRIED + 1, DONORS_TRIED),
        ([0.5] * 20, DONORS_TRIED + SPARE_DONORS, 0),
    ],
)
def test_the_pasted_baseline_has_as_many_donors_and_the_same_thresholds(
    similar: list[float], tried: int, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes the one least like the original."""
    pasted: list[int] = []

    def paste(*_: object) -> NDArray[np.uint8]:
        pasted.append(len(pasted))
        return np.full((256, 256, 3), pasted[-1] + 1, np.uint8)

    def judge(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        cosine = similar[crops[0, 0, 0, 0] - 1] if crops[0, 0, 0, 0] else 1.0
        return np.array([[cosine, np.sqrt(1 - cosine**2)]], np.float32)

    class Portraits:
        def __len__(self) -> int:
            return 30

        def image(self, index: int) -> NDArray[np.uint8]:
            return np.zeros((256, 256, 3), np.uint8)

    baseline = DonorPaste(Portraits(), judge, lambda image: None)  # type: ignore[arg-type]
    monkeypatch.setattr(baseline, "_paste", paste)
    points = np.array([[100.0, 110], [156, 110], [128, 140], [105, 170], [150, 170]])
    result = baseline(np.zeros((256, 256, 3), np.uint8), points)
    assert len(pasted) == tried
    assert result.first[0, 0, 0] == 1 and result.gated[0, 0, 0] == chosen + 1


def mesh() -> NDArray[np.float64]:
    """Points that have a face's landmarks where a face has them, and depth."""
    points = RNG.uniform(60, 190, (478, 3)) * [1, 1, 0.3]
    for (left, right, top, bottom, iris), x in zip(geometry.EYES, (80, 140), strict=True):
        points[left, :2], points[right, :2] = (x, 100), (x + 30, 100)
        points[top, :2], points[bottom, :2], points[iris, :2] = (x + 15, 95), (x + 15, 105), (x + 15, 100)
    return points


def test_a_face_that_only_moved_keeps_everything() -> None:
    a = mesh()
    found = geometry.compare(a, 1.4 * a + [5, -3, 0])
    assert found == pytest.approx(dict.fromkeys(found, 0), abs=1e-6)


@pytest.mark.parametrize(("axis", "name"), [(0, "pitch"), (1, "yaw"), (2, "roll")])
def test_a_turned_head_is_turned(axis: int, name: str) -> None:
    a = mesh()
    vector = np.zeros(3)
    vector[axis] = np.radians(12)
    found = geometry.compare(a, a @ cv2.Rodrigues(vector)[0].T)
    wanted = {
        key: 12.0 if key == f"{name}_degrees" else 0.0 for key in ("pitch_degrees", "yaw_degrees", "roll_degrees")
    }
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-4)


def test_a_part_that_moved_and_eyes_that_look_away() -> None:
    a = mesh()
    b = a.copy()
    b[list(geometry.BROWS), 1] -= 9  # a tenth of the distance of the outer eye corners
    for *_, iris in geometry.EYES:
        b[iris, 0] += 30 * geometry.EYEBALL * np.sin(np.radians(20))
    found = geometry.compare(a, b)
    assert found["brows_shape"] == pytest.approx(0.1, rel=0.15)
    assert found["mouth_shape"] < 0.02
    assert found["gaze_degrees"] == pytest.approx(20, abs=1e-3)
    left = geometry.EYES[0]
    b[left[2], 1] -= 10
    assert geometry.opening(b, left[:4]) == pytest.approx(20 / 30)


def test_a_folder_is_measured_from_its_files(tmp_path: Path) -> None:
    """Where the face is lost in the release, that counts, and nothing else of it does."""
    for i in range(4):
        for suffix in (".original", ".png"):
            _, data = cv2.imencode(".png", np.full((64, 64, 3), 50 * i, np.uint8))
            (tmp_path / f"{i:04d}{suffix}").write_bytes(data.tobytes())
    calls = []

    def find(rgb: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        calls.append(int(rgb[0, 0, 0]))
        return [] if calls == [0, 0] else [mesh() + RNG.normal(size=(478, 3))]

    found = geometry.measure(tmp_path, find)
    assert calls == [0, 0, 50, 50, 100, 100, 150, 150]
    assert (found["found_again"]["mean"], found["found_again"]["n"], found["yaw_degrees"]["n"]) == (0.75, 4, 3)


def test_the_page_shows_every_figure_of_the_results(tmp_path: Path) -> None:
    results = Path("training/results")
    text = page.write(tmp_path / "out", results).read_text()
    robust = json.loads((results / "robust.json").read_text())
    for name in ("lfw", "celebahq"):
        for judge, entry in robust[name]["identity"].items():
            assert f"<h4>{judge}, {entry['gallery']} people</h4>" in text
    assert text.count("<svg") >= 8 and "NaN" not in text and "None" not in text
    assert not re.findall(r'(?:src|href)="(?!\w+/sheet)', text), "nothing from elsewhere"


def test_a_blind_judge_sees_releases_and_originals_mixed(tmp_path: Path) -> None:
    photographs = {path.stem: path.read_bytes() for path in DEMO_IMAGES.glob("*.*g")}
    folder = tmp_path / "set"
    folder.mkdir()
    for name, photograph in (("0001", "astronaut"), ("0002", "obama")):
        (folder / f"{name}.original").write_bytes(photographs[photograph])
        (folder / f"{name}.png").write_bytes(photographs[photograph])
    assert blind.sheets([folder], tmp_path / "out", 1, 1, seed=3) == 2
    key = {each["kind"]: each["number"] for each in json.loads((tmp_path / "out" / "key.json").read_text())}
    assert sorted(key.values()) == [1, 2]
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheet_1.png"))
    assert sheet[blind.LINE : blind.FACE, 5 : blind.FACE].std() > 20
    passed = blind.score(tmp_path / "out", {key["set released"]})
    assert (passed["set released"]["mean"], passed["set original"]["mean"]) == (0, 1)
