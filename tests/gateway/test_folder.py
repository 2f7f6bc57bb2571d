"""`refacex anonymise`, `recover`, `inspect` and `keys new` on real folders, with the real core."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import gateway
from gateway.cli import build, folder
from gateway.cli.batch import Job, Run, find_jobs
from refacex_core.images import decode, encode

PHOTOGRAPHS = Path(gateway.__file__).parent / "demo_images"
pipeline = pytest.importorskip("refacex_core.pipeline")


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def core() -> Any:
    """The real core, loaded once for all commands of this module."""
    return pipeline.Core.load(device="auto")


@pytest.fixture
def refacex(core: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(folder, "_load", lambda _device: core)
    return refacex_command


def refacex_command(*arguments: object) -> Said:
    result = CliRunner().invoke(build(), [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def lines(report: Path) -> dict[str, dict[str, Any]]:
    return {line["source"]: line for line in map(json.loads, report.read_text().splitlines())}


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class World:
    """Photographs, a key ring, and what `anonymise` made of them."""

    originals: Path
    keys: Path
    released: Path
    report: Path
    said: Said


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, core: Any) -> World:
    root = tmp_path_factory.mktemp("world")
    originals, keys, released, report = root / "in", root / "keys.json", root / "out", root / "report.jsonl"
    (originals / "portraits").mkdir(parents=True)
    with Image.open(PHOTOGRAPHS / "astronaut.png") as astronaut, Image.open(PHOTOGRAPHS / "obama.jpg") as tagged:
        astronaut.crop((95, 0, 351, 256)).save(originals / "astronaut.png")
        exif = tagged.getexif()
        astronaut.crop((60, 0, 380, 288)).save(originals / "portraits" / "tagged.jpg", quality=95, exif=exif)
    (originals / "notes.txt").write_text("not an image, not named, not touched")
    (originals / ".hidden.jpg").write_bytes(b"not looked at")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "_load", lambda _device: core)
        assert refacex_command("keys", "new", keys).code == 0
        said = refacex_command("anonymise", originals, "--out", released, "--keys", keys, "--report", report)
    return World(originals, keys, released, report, said)


def test_a_folder_comes_out_under_the_same_names(world: World) -> None:
    assert world.said.code == 0, world.said.err
    assert files(world.released) == {"astronaut.png", "portraits/tagged.png"}
    assert "2 of 2 images released" in world.said.out


def test_it_says_what_it_left_out(world: World) -> None:
    assert "1 file of other kinds left out: .txt" in world.said.err, "and says nothing of what is hidden"


def test_it_says_that_it_is_ungoverned(world: World) -> None:
    assert "ungoverned" in world.said.err


def test_the_report_has_a_line_an_image(world: World) -> None:
    report = lines(world.report)
    assert set(report) == {"astronaut.png", "portraits/tagged.jpg"}
    for line in report.values():
        assert line["outcome"] == "released"
        assert line["stego_psnr"] > 30
        assert line["payload_bytes"] > 0
        assert line["milliseconds"]
        (face,) = line["faces"]
        assert face["released"]
        assert len(face["box"]) == 4
        assert face["donor_similarity"] is not None
        assert face["audit_similarity"] is not None
    assert report["astronaut.png"]["width"] == 256


def test_the_face_is_replaced_and_the_rest_of_the_size_is_kept(world: World) -> None:
    before = decode((world.originals / "astronaut.png").read_bytes()).rgb.astype(int)
    after = decode((world.released / "astronaut.png").read_bytes()).rgb.astype(int)
    assert before.shape == after.shape
    assert np.abs(before - after).mean() > 1


def test_no_metadata_of_the_photograph_is_released(world: World) -> None:
    assert b"Souza" in (world.originals / "portraits" / "tagged.jpg").read_bytes()
    released = (world.released / "portraits" / "tagged.png").read_bytes()
    assert b"Souza" not in released
    with Image.open(io.BytesIO(released)) as image:
        assert not image.getexif()
        assert not image.info


def test_inspect_needs_no_key(world: World, refacex: Any) -> None:
    said = refacex("inspect", world.released / "astronaut.png")
    assert said.code == 0
    assert lines(world.report)["astronaut.png"]["locator"] in said.out
    assert "profile robust" in said.out
    assert "faces 1" in said.out


def test_inspect_of_a_file_without_a_payload(world: World, refacex: Any) -> None:
    said = refacex("inspect", world.originals / "astronaut.png", world.released / "astronaut.png")
    assert said.code == 1
    assert "carries no ReFaceX payload" in said.err
    assert "1 of 2 images" in said.err


def error_in(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a.astype(float) - b.astype(float)) ** 2).mean())


def test_a_renamed_file_is_recovered(world: World, refacex: Any, tmp_path: Path) -> None:
    renamed = tmp_path / "IMG_0001.png"
    shutil.copy(world.released / "astronaut.png", renamed)
    said = refacex("recover", renamed, "--keys", world.keys, "--out", tmp_path / "recovered")
    assert said.code == 0, said.err
    assert "ungoverned" in said.err
    assert files(tmp_path / "recovered") == {"IMG_0001.png", "IMG_0001.face-0.png"}
    original, released, recovered = (
        decode(path.read_bytes()).rgb
        for path in (world.originals / "astronaut.png", renamed, tmp_path / "recovered" / "IMG_0001.png")
    )
    assert error_in(recovered, original) < error_in(released, original) / 2
    crop = decode((tmp_path / "recovered" / "IMG_0001.face-0.png").read_bytes()).rgb
    assert crop.shape == (256, 256, 3)


def test_a_reencoded_file_is_recovered(world: World, refacex: Any, tmp_path: Path) -> None:
    pixels = decode((world.released / "portraits" / "tagged.png").read_bytes()).rgb
    (tmp_path / "copy.jpg").write_bytes(encode(pixels, "jpeg", 85))
    (tmp_path / "copy.webp").write_bytes(encode(pixels, "webp", 90))
    out = tmp_path / "recovered"
    said = refacex("recover", tmp_path / "copy.jpg", tmp_path / "copy.webp", "--keys", world.keys, "--out", out)
    assert said.code == 0, said.err
    assert {"copy.jpg.png", "copy.webp.png"} <= files(out)


def test_recovered_faces_are_for_their_owner_alone(world: World, refacex: Any, tmp_path: Path) -> None:
    refacex("recover", world.released / "astronaut.png", "--keys", world.keys, "--out", tmp_path)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_wrong_key_ring_gives_no_pixel(world: World, refacex: Any, tmp_path: Path) -> None:
    refacex("keys", "new", tmp_path / "other.json")
    out, report = tmp_path / "recovered", tmp_path / "report.jsonl"
    said = refacex("recover", world.released, "--keys", tmp_path / "other.json", "--out", out, "--report", report)
    assert said.code == 1
    assert said.err.count("The key does not open this payload") == 2
    assert {line["code"] for line in lines(report).values()} == {"wrong_key"}
    assert files(out) == set()


def test_an_image_without_a_payload_is_not_recovered(world: World, refacex: Any, tmp_path: Path) -> None:
    said = refacex("recover", world.originals / "astronaut.png", "--keys", world.keys, "--out", tmp_path)
    assert said.code == 1
    assert "carries no ReFaceX payload" in said.err
    assert files(tmp_path) == set()


def test_bad_files_are_listed_and_the_others_still_done(world: World, refacex: Any, tmp_path: Path) -> None:
    bad, out, report = tmp_path / "bad", tmp_path / "out", tmp_path / "report.jsonl"
    bad.mkdir()
    good = (world.originals / "astronaut.png").read_bytes()
    (bad / "a-empty.png").write_bytes(b"")
    (bad / "b-text.jpg").write_text("hello")
    (bad / "c-cut.png").write_bytes(good[: len(good) // 2])
    (bad / "d-plain.png").write_bytes(encode(np.full((256, 256, 3), 128, np.uint8), "png"))
    (bad / "e-good.png").write_bytes(good)
    said = refacex("anonymise", bad, "--out", out, "--keys", world.keys, "--report", report)
    assert said.code == 1
    assert files(out) == {"e-good.png"}
    ended = {name: line.get("code") or line.get("reason") or line["outcome"] for name, line in lines(report).items()}
    assert ended == {
        "a-empty.png": "image_empty",
        "b-text.jpg": "bad_image",
        "c-cut.png": "image_truncated",
        "d-plain.png": "no_face",
        "e-good.png": "released",
    }
    for name in ("a-empty.png", "b-text.jpg", "c-cut.png", "d-plain.png"):
        assert f"{name}: " in said.err
    assert "1 of 5 images released" in said.out


def test_an_unreadable_file_is_listed(world: World, refacex: Any, tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    said = refacex("anonymise", tmp_path, "--out", tmp_path / "out", "--keys", world.keys)
    assert said.code == 1
    assert "gone.png: failed" in said.err


def test_same_names_with_other_extensions_stay_apart(world: World, refacex: Any, tmp_path: Path) -> None:
    photographs = tmp_path / "in"
    photographs.mkdir()
    with Image.open(world.originals / "astronaut.png") as image:
        image.save(photographs / "a.png")
        image.save(photographs / "a.jpg", quality=95)
    said = refacex("anonymise", photographs, "--out", tmp_path / "out", "--keys", world.keys)
    assert said.code == 0, said.err
    assert files(tmp_path / "out") == {"a.png.png", "a.jpg.png"}


@pytest.mark.parametrize(("kind", "extension"), [("jpeg", ".jpg"), ("webp", ".webp")])
def test_other_formats_go_out(world: World, refacex: Any, tmp_path: Path, kind: str, extension: str) -> None:
    source = world.originals / "astronaut.png"
    said = refacex("anonymise", source, "--out", tmp_path, "--keys", world.keys, "--format", kind)
    assert said.code == 0, said.err
    assert decode((tmp_path / f"astronaut{extension}").read_bytes()).format == kind


def test_the_output_folder_inside_the_input_is_no_input(world: World, refacex: Any, tmp_path: Path) -> None:
    shutil.copy(world.originals / "astronaut.png", tmp_path / "a.png")
    command = ["anonymise", tmp_path, "--out", tmp_path / "released", "--keys", world.keys]
    assert "1 of 1 image released" in refacex(*command).out
    before = (tmp_path / "released" / "a.png").read_bytes()
    refused = refacex(*command)
    assert refused.code == 2 and "1 of 1 output there already" in refused.err
    assert (tmp_path / "released" / "a.png").read_bytes() == before
    replaced = refacex(*command, "--replace")
    assert "1 of 1 image released" in replaced.out and "other files" not in replaced.err


def test_an_output_folder_that_holds_other_files_is_told_of(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "original.jpg").write_bytes(b"x")
    (job,) = find_jobs([world.originals / "astronaut.png"], tmp_path, ".png")
    assert "holds other files already" in capsys.readouterr().err and job.output.parent == tmp_path


def test_a_face_never_takes_the_place_of_another_photograph(world: World, refacex: Any, tmp_path: Path) -> None:
    """`a.face-0.png` may be a photograph's own name, and is what the face of `a.png` is called."""
    for name in ("a.png", "a.face-0.png"):
        shutil.copy(PHOTOGRAPHS / "astronaut.png", tmp_path / name)
    refacex("anonymise", tmp_path, "--out", tmp_path / "out", "--keys", world.keys)
    said = refacex("recover", tmp_path / "out", "--out", tmp_path / "back", "--keys", world.keys)
    assert said.code == 0, said.err
    sizes = {path.name: decode(path.read_bytes()).rgb.shape[1::-1] for path in (tmp_path / "back").iterdir()}
    whole, crop = (512, 512), (256, 256)
    assert sizes["a.png"] == sizes["a.face-0.png"] == whole
    assert sizes["a.face-0-crop.png"] == sizes["a.face-0.face-0.png"] == crop
    before = (tmp_path / "back" / "a.face-0.png").read_bytes()
    (tmp_path / "back" / "a.png").unlink()
    refacex("recover", tmp_path / "out" / "a.png", "--out", tmp_path / "back", "--keys", world.keys)  # another day
    assert (tmp_path / "back" / "a.face-0.png").read_bytes() == before


@pytest.mark.parametrize("device", ["cuda", "banana"])
def test_a_device_that_is_not_there_is_one_line(world: World, tmp_path: Path, device: str) -> None:
    said = refacex_command("anonymise", world.originals, "--out", tmp_path, "--keys", world.keys, "--device", device)
    assert said.code == 1 and "There is no such device here" in said.err and "Traceback" not in said.err


def test_an_original_is_never_overwritten(world: World, refacex: Any, tmp_path: Path) -> None:
    shutil.copy(world.originals / "astronaut.png", tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    said = refacex("anonymise", tmp_path / "a.png", "--out", tmp_path, "--keys", world.keys)
    assert said.code == 2
    assert "overwrite its input" in said.err
    said = refacex("anonymise", tmp_path, "--out", tmp_path, "--format", "jpeg", "--keys", world.keys)
    assert said.code == 2
    assert "would mix the two" in said.err
    assert (tmp_path / "a.png").read_bytes() == before


def test_two_folders_with_the_same_names_are_refused(world: World, refacex: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(world.originals / "astronaut.png", tmp_path / name / "a.png")
    said = refacex("anonymise", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out", "--keys", world.keys)
    assert said.code == 2
    one, two, out = (tmp_path / each for each in ("one/a.png", "two/a.png", "out/a.png.png"))
    assert said.err == f"refacex: {one} and {two} would become one file, {out}: give each an --out of its own.\n"
    assert not (tmp_path / "out").exists()


def test_an_image_named_twice_is_taken_once(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph = world.originals / "astronaut.png"
    (tmp_path / "link.png").symlink_to(photograph)
    given = [photograph, world.originals, tmp_path / "link.png", photograph]
    jobs = find_jobs(given, tmp_path / "out", ".png")
    once = [job.source for job in find_jobs([world.originals], tmp_path / "out", ".png")]
    assert len(jobs) == len(once) > 1 and {job.source for job in jobs} == set(once)
    assert jobs[0].source == photograph, "as it was named first"
    assert "refacex: 3 images named more than once, and taken once\n" in capsys.readouterr().err


def test_whose_photographs_are_stable_is_said(world: World, refacex: Any, tmp_path: Path) -> None:
    (tmp_path / "in" / "anna").mkdir(parents=True)
    for name in ("in/anna/a.jpg", "in/b.jpg", "in/c.jpg"):
        (tmp_path / name).write_bytes(b"no photograph")
    given = ("--out", tmp_path / "out", "--keys", world.keys, "--donor-policy")
    said = refacex("anonymise", tmp_path / "in", *given, "stable")
    assert "refacex: 2 images outside a sub-folder, each taken for a subject of its own" in said.err
    assert "sub-folder" not in refacex("anonymise", tmp_path / "in", *given, "random").err


def test_a_command_that_is_told_to_end_leaves_nothing_empty(tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report.jsonl"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, Run([Job(tmp_path / "a.png", "a.png", out / "a.png")], out, report):
        assert out.is_dir() and report.is_file()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not out.exists() and not report.exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_empty_folder_is_left_where_nothing_came_of_a_command(world: World, refacex: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_bytes(b"")
    deep, report = tmp_path / "out" / "deep", tmp_path / "out" / "report.jsonl"
    given = ("--out", deep, "--report", report)
    said = refacex("anonymise", world.originals, *given, "--keys", tmp_path / "empty.json")
    assert said.code == 1 and "restore it from your copy" in said.err
    assert not (tmp_path / "out").exists()
    (tmp_path / "no.jpg").write_bytes(b"no photograph")
    said = refacex("anonymise", tmp_path / "no.jpg", "--out", tmp_path / "out", "--keys", world.keys)
    assert said.code == 1 and not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    said = refacex("recover", tmp_path / "no.jpg", "--out", tmp_path / "mine", "--keys", world.keys)
    assert said.code == 1 and (tmp_path / "mine").is_dir(), "but no folder that was there before"


@pytest.mark.parametrize("where", ["file/out", "file"])
def test_a_folder_that_cannot_be_written(world: World, refacex: Any, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("in the way")
    for command in ("anonymise", "recover"):
        said = refacex(command, world.originals, "--out", tmp_path / where, "--keys", world.keys)
        assert said.code == 1
        assert "cannot be written" in said.err.splitlines()[-1]
        assert "--out" in said.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights(world: World, refacex: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    said = refacex("anonymise", world.originals, "--out", tmp_path, "--keys", world.keys)
    assert said.code == 1
    assert "cannot be written" in said.err


def test_an_output_that_cannot_be_written_fails_alone(world: World, refacex: Any, tmp_path: Path) -> None:
    (tmp_path / "astronaut.png").mkdir()
    said = refacex("anonymise", world.originals, "--out", tmp_path, "--keys", world.keys)
    assert said.code == 1
    assert "astronaut.png: failed, it cannot be written" in said.err
    assert files(tmp_path) == {"portraits/tagged.png"}


def test_a_report_that_cannot_be_written(world: World, refacex: Any, tmp_path: Path) -> None:
    source, report = world.originals / "astronaut.png", tmp_path / "missing" / "report.jsonl"
    said = refacex("anonymise", source, "--out", tmp_path, "--keys", world.keys, "--report", report)
    assert said.code == 1
    assert "--report" in said.err


def test_a_report_is_never_written_over(world: World, refacex: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    before = '{"source": "of before"}\n'
    report.write_text(before)
    released = next(world.released.glob("*.png"))
    said = refacex("inspect", released, "--report", report)
    assert said.code == 2 and "--replace" in said.err
    broken = tmp_path / "broken.json"
    broken.write_text('{"secret": ""}')
    told = ("--out", tmp_path / "out", "--report", report, "--replace")
    assert refacex("anonymise", world.originals / "astronaut.png", "--keys", broken, *told).code == 1
    assert report.read_text() == before, "nor where nothing came of the command"
    assert refacex("inspect", released, "--report", report, "--replace").code == 0
    assert set(lines(report)) == {released.name}


@pytest.mark.parametrize("what", ["ring", "hard link", "other ring", "photograph", "output"])
def test_nothing_but_a_report_is_replaced_by_one(world: World, refacex: Any, tmp_path: Path, what: str) -> None:
    photograph, ring, out = tmp_path / "a.png", tmp_path / "ring.json", tmp_path / "out"
    photograph.write_bytes((world.originals / "astronaut.png").read_bytes())
    for path in (ring, tmp_path / "other.json"):
        assert refacex("keys", "new", path).code == 0
    (tmp_path / "linked.json").hardlink_to(ring)
    report = {
        "ring": ring, "hard link": tmp_path / "linked.json", "other ring": tmp_path / "other.json",
        "photograph": photograph, "output": out / "a.png",
    }[what]  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    said = refacex("anonymise", photograph, "--out", out, "--keys", ring, "--report", report, "--replace")
    assert said.code == 1 and "--report" in said.err
    assert {path: path.read_bytes() for path in before} == before


def test_images_go_on_where_the_report_cannot(world: World, refacex: Any) -> None:
    released = next(world.released.glob("*.png"))
    said = refacex("inspect", released, "--report", "/dev/full")
    assert said.code == 1 and "the report ends here" in said.err and "1 of 1 image" in said.err


def test_a_release_is_released_again_only_when_told_to(world: World, refacex: Any, tmp_path: Path) -> None:
    released = next(world.released.glob("*.png"))
    told = ("anonymise", released, "--out", tmp_path / "out", "--keys", world.keys)
    said = refacex(*told)
    assert said.code == 1 and "carries a ReFaceX payload already" in said.err and "--again" in said.err
    assert "carries a ReFaceX payload" not in refacex(*told, "--again").err


def damaged(keys: Path, how: str) -> None:
    data = bytearray(keys.read_bytes())
    if how == "missing":
        keys.unlink()
    elif how == "one byte off":
        data[40] ^= 1
        keys.write_bytes(data)
    else:
        keys.chmod(0o644)


@pytest.mark.parametrize(
    ("how", "says"),
    [("missing", "refacex keys new"), ("one byte off", "restore it from your copy"), ("open to all", "chmod 600")],
)
@pytest.mark.parametrize("command", ["anonymise", "recover"])
def test_a_key_ring_that_cannot_be_used(
    world: World, refacex: Any, tmp_path: Path, command: str, how: str, says: str
) -> None:
    keys = tmp_path / "keys.json"
    shutil.copy(world.keys, keys)
    damaged(keys, how)
    said = refacex(command, world.released, "--out", tmp_path / "out", "--keys", keys)
    assert said.code == 1
    assert says in said.err.splitlines()[-1]
    assert files(tmp_path / "out") == set()


def test_keys_new_never_overwrites(refacex: Any, tmp_path: Path) -> None:
    assert refacex("keys", "new", tmp_path / "k").code == 0
    before = (tmp_path / "k").read_bytes()
    said = refacex("keys", "new", tmp_path / "k")
    assert said.code == 1
    assert "never overwritten" in said.err
    assert (tmp_path / "k").read_bytes() == before


def test_nothing_to_do_is_an_error(world: World, refacex: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = refacex("anonymise", tmp_path / "empty", "--out", tmp_path / "out", "--keys", world.keys)
    assert said.code == 1
    assert "no image" in said.err


@pytest.mark.parametrize(
    "options",
    [
        ["--quality", "90"],
        ["--profile", "archive", "--format", "jpeg"],
        ["--quality", "0", "--format", "jpeg"],
        ["--donor-policy", "celebrity"],
        ["--format", "gif"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_usage_errors(world: World, refacex: Any, tmp_path: Path, options: list[str]) -> None:
    source = world.originals / "astronaut.png"
    assert refacex("anonymise", source, "--out", tmp_path, "--keys", world.keys, *options).code == 2
    assert files(tmp_path) == set()


def test_an_input_that_is_not_there_is_a_usage_error(world: World, refacex: Any, tmp_path: Path) -> None:
    assert refacex("anonymise", tmp_path / "nothing", "--out", tmp_path, "--keys", world.keys).code == 2


def test_images_of_one_subfolder_are_one_subject() -> None:
    def subject(name: str) -> str:
        return folder._subject(Job(Path(name), name, Path(name)))

    assert subject("ann/1.jpg") == subject("ann/2.jpg") != subject("bob/1.jpg")
    assert subject("1.jpg") != subject("2.jpg")


@pytest.mark.parametrize("target", ["ring", "photograph"])
def test_a_report_never_replaces_what_cannot_be_made_again(
    refacex: Any, tmp_path: Path, world: World, target: str
) -> None:
    ring, photograph = tmp_path / "ring.json", tmp_path / "a.png"
    shutil.copy(world.keys, ring)
    shutil.copy(world.originals / "astronaut.png", photograph)
    precious = {"ring": ring, "photograph": photograph}[target]
    before = precious.read_bytes()
    said = refacex("anonymise", photograph, "--out", tmp_path / "out", "--keys", ring, "--report", precious)
    assert said.code == 1 and "--report" in said.err
    assert precious.read_bytes() == before
