"""Every stage of the training runs from end to end on a few crops: learns, stops, goes on where it stopped, exports."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from refacex_core import recognisers, weights
from refacex_core.age import Lines
from refacex_core.donors import DonorAppearance
from refacex_core.faces import align
from refacex_core.faces.detect import YuNet
from refacex_core.faces.landmarks import Landmarks
from refacex_core.images import decode
from tests.core.conftest import PHOTOGRAPHS
from training.common import Crops, to_tensor
from training.shards import Faces, pack
from training.stages import age, presentation

ROOT = Path(__file__).parents[2]
SETS = ("celebahq256-train", "celebahq256-val", "lfw-train", "lfw-val", "portraits-cc0")
# The loss networks are TorchScript: nothing else holds a network without its code.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
STAGES = ("landmarks", "presentation", "payload", "channel", "unembedder", "anonymiser", "recovery")


class _Recogniser(torch.nn.Module):
    """In a recogniser's place: N x 3 x 112 x 112 to N x 128 of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 7, 8)
        self.out = torch.nn.Linear(8, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.relu(self.conv((x - 127.5) / 128)).mean((2, 3))
        return torch.nn.functional.normalize(self.out(seen), dim=1)


class _Distance(torch.nn.Module):
    """In LPIPS's place: two N x 3 x H x W to N distances."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean((1, 2, 3))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    made = {"id_mobilefacenet_y1": _Recogniser(), "id_mobilefacenet_casia": _Recogniser(), "lpips_squeeze": _Distance()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, network in made.items():
            torch.jit.script(network).save(str(folder / f"{name}.pt"))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `training.prepare` writes, of the photographs that the project ships: six crops a set."""
    folder = tmp_path_factory.mktemp("cache")
    detector, landmarks, sface = YuNet(), Landmarks(), recognisers.sface()
    crops = []
    for path in sorted(PHOTOGRAPHS.glob("*.*g")):
        rgb = decode(path.read_bytes()).rgb
        crop = align.crop(rgb, align.similarity(detector(rgb)[0].points))
        crops += [crop, np.ascontiguousarray(crop[:, ::-1])]
    images = np.stack(crops)
    for name in SETS:
        (folder / name).mkdir()
        np.save(folder / name / "crops.npy", images)
        np.save(folder / name / "points.npy", landmarks(to_tensor(images)).numpy())
        np.save(folder / name / "codes.npy", sface(images))
        names = [f"{('John', 'Mary')[n % 2]}_Doe_{n}.png" for n in range(len(images))]
        (folder / name / "names.json").write_text(json.dumps(names))
    return folder


def words(stage: str, cache: Path, networks: Path, folder: Path) -> list[str]:
    few = ["--batch", "2", "--limit", "4", "--device", "cpu", *(["--pool", "4"] if stage == "recovery" else [])]
    return ["--cache", str(cache), "--loss-networks", str(networks), "--folder", str(folder), *few]


def begin(stage: str, cache: Path, networks: Path, folder: Path, *more: str) -> None:
    """As `python -m training.stages.STAGE` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [stage, *words(stage, cache, networks, folder), *more])
        importlib.import_module(f"training.stages.{stage}").main()


def state_of(folder: Path) -> dict[str, object]:
    state: dict[str, object] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_stops_and_goes_on(stage: str, cache: Path, networks: Path, tmp_path: Path) -> None:
    begin(stage, cache, networks, tmp_path, "--total-steps", "2")
    before = state_of(tmp_path)
    assert (before["step"], before["seen"]) == (2, 4)
    begin(stage, cache, networks, tmp_path, "--total-steps", "3")
    after = state_of(tmp_path)
    assert (after["step"], after["seen"]) == (3, 6)
    assert len(after["history"]) == 2, "every call that it was made of"  # type: ignore[arg-type]
    (name, old), (_, new) = (next(iter(state["networks"].items())) for state in (before, after))  # type: ignore[attr-defined]
    assert any(not torch.equal(old[k], new[k]) for k in old), f"{name} did not learn"


def test_the_bank_and_the_reading_of_age_come_from_the_portraits_and_their_table(cache: Path, tmp_path: Path) -> None:
    names = json.loads((cache / "portraits-cc0" / "names.json").read_text())
    table = "".join(f"{name},{20 + 10 * n}\n" for n, name in enumerate(names))
    (tmp_path / "portraits-cc0.csv").write_text("name,age\n" + table)
    for stage in ("donors", "age"):
        with pytest.MonkeyPatch.context() as patch:
            given = ["--cache", str(cache), "--data", str(tmp_path), "--out", str(tmp_path)]
            patch.setattr(sys, "argv", [stage, *given])
            importlib.import_module(f"training.stages.{stage}").main()
    bank, portraits = DonorAppearance(tmp_path / "donors.safetensors"), weights.card("donors", tmp_path)["portraits"]
    assert bank.ages.shape == (len(portraits), 1) and bank.ages.isfinite().all()
    linear = torch.nn.Linear(Lines(bank.mean_shape).count, 1)
    card = weights.load_into(linear, "age", tmp_path)
    assert card["figures"]["portraits"] == len(names) and linear.weight.abs().max() > 0


def test_age_is_read_from_lines_as_far_as_they_tell_it() -> None:
    """A regression that sees of what it is asked for nothing else, and figures that are not of what it has learned."""
    torch.manual_seed(0)
    lines = torch.randn(3, 60, 40)
    told = 40 + 12 * lines[0, :, 3]
    lines[1:] = lines[0] + 0.1 * lines[1:]
    assert age.figures(age.left_out(lines, told), told)["correlation"] > 0.6
    chance = told[torch.randperm(60)]
    learned = age.YEARS * age.fitted(lines, chance)(lines[0])[:, 0].detach()
    assert age.figures(learned, chance)["correlation"] > 0.6, "what is told by chance can be learned by heart"
    assert age.figures(age.left_out(lines, chance), chance)["correlation"] < 0.3
    assert int(age.fitted(lines, told).weight.abs().argmax()) == 3


def test_of_some_faces_nothing_around_them_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of a face that is shown alone nothing of itself is hidden by it."""
    face = torch.zeros(64, 1, 64, 64)
    face[..., 24:40, 24:40] = 1
    shown = 0.5 * torch.ones(64, 3, 64, 64)

    def changed(alone: float) -> torch.Tensor:
        monkeypatch.setattr(presentation, "ALONE", alone)
        torch.manual_seed(0)
        return presentation.augment(shown, face)

    difference = (changed(1.0) - changed(0.0)).abs().mean((0, 1))
    assert difference[:8, :8].mean() > 0.2 and difference[30:34, 30:34].mean() < 0.02


def test_a_run_begins_from_shipped_weights(cache: Path, networks: Path, tmp_path: Path) -> None:
    """Also where a critic learns beside them."""
    begin("anonymiser", cache, networks, tmp_path, "--total-steps", "1", "--start", "anonymiser", "--peak", "1e-9")
    state, shipped = state_of(tmp_path), load_file(ROOT / "refacex_core" / "weights" / "anonymiser.safetensors")
    began = state["networks"]["unet"]  # type: ignore[index]
    assert all(torch.allclose(began[k], shipped[k].float(), atol=1e-4) for k in shipped)
    assert state["origin"]["weights"] == "anonymiser"  # type: ignore[index]


def test_a_stage_stops_by_the_clock(cache: Path, networks: Path, tmp_path: Path) -> None:
    begin("landmarks", cache, networks, tmp_path, "--minutes", "0.02")
    state = state_of(tmp_path)
    assert int(state["step"]) > 0 and float(state["seconds"]) < 20  # type: ignore[call-overload,arg-type]


def test_two_processes_make_one_run(cache: Path, networks: Path, tmp_path: Path) -> None:
    """They begin alike, though each draws its own images, and the first one's checkpoint counts both's images."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training.stages.landmarks"]
    command = [sys.executable, "-m", *launch, *words("landmarks", cache, networks, tmp_path), "--total-steps", "2"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state = state_of(tmp_path)
    assert (state["step"], state["seen"]) == (2, 8)


def test_a_config_gives_options_and_the_command_line_goes_before(
    cache: Path, networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "landmarks.yaml"
    config.write_text("total-steps: 5\nseed: 7\n")
    begin("landmarks", cache, networks, tmp_path / "run", "--config", str(config), "--total-steps", "1")
    assert state_of(tmp_path / "run")["step"] == 1
    for text, message in (("total-stebs: 5", "no such option: total-stebs"), ("seed: many", "seed: 'many' is no int")):
        config.write_text(text)
        with pytest.raises(SystemExit, match="2"):
            begin("landmarks", cache, networks, tmp_path / "run", "--config", str(config))
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("config", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_fits_its_stage(config: Path, cache: Path, networks: Path, tmp_path: Path) -> None:
    begin(config.stem, cache, networks, tmp_path, "--config", str(config), "--total-steps", "1")


def test_a_shard_holds_what_the_cache_holds_and_no_names(cache: Path, tmp_path: Path) -> None:
    path = pack(cache, "lfw-val", tmp_path)
    kept, packed = Faces.from_cache(cache, ["lfw-val"], "cpu"), Faces.from_shards(tmp_path, "cpu")
    assert len(packed) == len(kept) == len(Crops(cache, ["lfw-val"]))
    assert (kept.points - packed.points).abs().max() < 0.1
    assert (kept.codes * packed.codes).sum(1).min() > 0.999
    assert (kept.images.float() - packed.images.float()).abs().mean() < 4
    assert b"names" not in path.read_bytes()


def test_what_is_exported_is_the_average_with_its_card(
    cache: Path, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refacex_core.weights._FOLDER", tmp_path)
    begin("landmarks", cache, networks, tmp_path / "run", "--total-steps", "2", "--export", "made")
    card = json.loads((tmp_path / "made.json").read_text())
    assert card["trained"]["steps"] == 2 and card["commit"] and str(cache) not in json.dumps(card)
    made, average = load_file(tmp_path / "made.safetensors"), state_of(tmp_path / "run")["averages"]["net"]  # type: ignore[index]
    assert all(torch.equal(made[k], average[k].half()) for k in made if made[k].is_floating_point())
