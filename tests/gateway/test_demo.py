"""The demo as a person runs it, on one photograph: real engines, real processes, real networks; and its figures."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from gateway.demo import DemoFailed, apart, run_demo
from gateway.demo_figures import _CELL, COLUMNS, _difference, _sheet, ssim
from gateway.provision import Home
from refacex_core.pipeline import Core

SHIPPED = Path(__file__).parents[2] / "gateway" / "demo_images"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_photograph_goes_all_the_way(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    shutil.copy(SHIPPED / "astronaut.png", images)
    (images / "nobody.png").write_bytes(_plain_picture())
    told = io.StringIO()
    code = run_demo(images, home=tmp_path / "home", out=out, console=Console(file=told, width=160))
    assert code == 1, "a picture that was held is not a release that went well"
    figures = json.loads((out / "figures.json").read_text())
    face, nobody = figures["photographs"]
    assert (face["state"], nobody["state"], nobody["reason"]) == ("done", "held", "no_face"), told.getvalue()
    assert face["faces"] == len(face["psnr_db"]) == len(face["similarity"]["sface"]) == 1
    assert face["similarity"]["sface"][0] < 0.31 < face["similarity_recovered"]["sface"][0]
    assert face["decodes_after_jpeg75"] is True
    assert figures["audit_events_verified"] >= 15
    assert figures["audit_anchored_to"] >= figures["audit_events_verified"] - 2
    assert figures["refused"] == ["approving one's own request", "fetching a second time"]
    assert str((out / "contact-sheet.png").absolute()) in told.getvalue()
    assert str((out / "risk-report.html").absolute()) in told.getvalue()
    risk = json.loads((out / "risk-report.json").read_text())
    assert risk["images_by_state"] == {"done": 1, "held": 1} and risk["not_released"] == {"no_face": 1}
    assert {one["recogniser"]: one["count"] for one in risk["similarity_to_source"]} == {"sface": 1, "dlib": 1}
    assert len(risk["models"][0]["weights"]) == 8
    with Image.open(out / "contact-sheet.png") as sheet, Image.open(out / "released/astronaut.png") as released:
        assert sheet.width == len(COLUMNS) * (_CELL + 6) + 6
        assert not released.getexif() and released.size == (512, 512)
    (recovered,) = (out / "recovered").iterdir()
    ticket = Core.load("cpu").read_mark(recovered.read_bytes())
    assert ticket is not None and UUID(bytes=ticket).version == 4, (
        "the file that was fetched names the ticket that it came by"
    )
    assert len(list((out / "export").rglob("*.tar"))) == 1
    for log in Home(tmp_path / "home").logs.iterdir():
        assert "astronaut" not in log.read_text(), "a file name of somebody stands in a log"


def _plain_picture() -> bytes:
    buffer = io.BytesIO()
    ramp = np.linspace(40, 210, 320, dtype=np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (256, 1))] * 3, axis=-1)).save(buffer, "PNG")
    return buffer.getvalue()


def test_no_two_photographs_make_one_file() -> None:
    names = ["IMG_1.heic", "IMG_1.jpg", "img_1.PNG", "IMG_1-2.jpg", "a/IMG_1.jpg", "a.b.jpg", "a.c.jpg"]
    made = apart(names)
    assert made == ["IMG_1", "IMG_1-2", "img_1-3", "IMG_1-2-2", "a/IMG_1", "a.b", "a.c"]
    assert len({stem.casefold() for stem in made}) == len(names)


def test_images_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed):
        run_demo(
            tmp_path / "nothing", home=tmp_path / "home", out=tmp_path / "out", console=Console(file=io.StringIO())
        )
    assert not (tmp_path / "home").exists()


def test_ssim_is_one_for_equals_and_falls_with_noise() -> None:
    random = np.random.default_rng(0)
    image = random.integers(60, 190, (64, 64, 3), dtype=np.uint8)
    slight = np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    strong = np.clip(image + random.normal(0, 40, image.shape), 0, 255).astype(np.uint8)
    assert ssim(image, image) == pytest.approx(1.0)
    assert 0.9 < ssim(image, slight) < 1.0
    assert ssim(image, strong) < 0.8


def test_the_difference_is_four_times_as_large_and_never_wraps() -> None:
    dark, light = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)
    assert (_difference(dark, light) == 255).all() and (_difference(dark + 10, dark) == 40).all()


def test_pictures_of_any_shape_fit_their_cells() -> None:
    row = [np.zeros(shape, np.uint8) for shape in ((1, 900, 3), (900, 1, 3), (256, 256, 3), (30, 40, 3))]
    sheet = _sheet([row, row])
    assert sheet.shape == (30 + 2 * (_CELL + 6) + 6, 4 * (_CELL + 6) + 6, 3)
