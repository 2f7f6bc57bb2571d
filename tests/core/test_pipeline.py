"""The whole core on real photographs, from file to file."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from refacex_core import images, pipeline
from refacex_core.donors import Donor, DonorAppearance
from refacex_core.errors import (
    FaceUnknown,
    ImageTooSmall,
    ModelUnknown,
    PayloadMismatch,
    PayloadUnreadable,
    WrongKey,
)
from refacex_core.faces import align
from refacex_core.faces.landmarks import oval_mask
from refacex_core.gates import MOST_SIMILARITY
from refacex_core.item import Candidate, Clock
from refacex_core.payload.budget import least, share_out
from refacex_core.pipeline import Core, _without_neighbours
from refacex_core.release import Survival, psnr
from refacex_core.stego.framing import FaceGeometry
from refacex_core.types import (
    RGB,
    DonorPolicy,
    Failed,
    Held,
    HoldReason,
    ItemOptions,
    Profile,
    RecoveredFace,
    RecoveryKeys,
    Released,
)
from tests.core.conftest import Vault


@pytest.fixture(scope="module")
def released(core: Core, vault: Vault, photographs: dict[str, bytes]) -> Released:
    outcome = core.anonymise([vault.item(photographs["astronaut"])], keep_anonymised=True)[0]
    assert isinstance(outcome, Released), outcome
    return outcome


def _jpeg(data: bytes, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "jpeg", quality=quality)
    return buffer.getvalue()


def test_a_release_looks_like_somebody_else(core: Core, released: Released) -> None:
    (face,) = released.faces
    assert face.released and face.audit_similarity is not None and face.audit_similarity <= MOST_SIMILARITY
    assert face.donor_similarity is not None and face.donor_similarity > 0.3
    assert released.stego_psnr > 37
    assert face.payload_bytes >= 420


def test_only_the_face_changes_before_embedding(released: Released, photographs: dict[str, bytes]) -> None:
    original = images.decode(photographs["astronaut"]).rgb
    assert released.anonymised is not None
    x, y, w, h = (int(v) for v in released.faces[0].box)
    changed = (released.anonymised != original).any(2)
    changed[max(y - h // 3, 0) : y + h + h // 3, max(x - w // 3, 0) : x + w + w // 3] = False
    assert not changed.any()


@pytest.mark.parametrize(("quality", "least"), [(None, 29.0), (85, 28.0), (75, 27.0)])
def test_the_face_comes_back_from_the_file(
    core: Core, vault: Vault, released: Released, photographs: dict[str, bytes], quality: int | None, least: float
) -> None:
    data = released.data if quality is None else _jpeg(released.data, quality)
    (face,) = core.recover(data, vault.opened(released), vault.context)
    original = align.crop(images.decode(photographs["astronaut"]).rgb, face.matrix)
    assert psnr(face.crop, original) > least
    again, before = core._sface(np.stack([face.crop, original]))
    assert float(again @ before) > 0.6


def test_restore_lays_the_face_back(
    core: Core, vault: Vault, released: Released, photographs: dict[str, bytes]
) -> None:
    faces = core.recover(released.data, vault.opened(released), vault.context)
    original = images.decode(photographs["astronaut"]).rgb
    whole = core.restore(released.data, faces)
    assert whole.shape == original.shape
    assert psnr(whole, original) > psnr(images.decode(released.data).rgb, original) + 2
    (face,) = faces
    was = np.abs(align.crop(images.decode(released.data).rgb, face.matrix).astype(int) - face.crop).mean(2)
    left = np.abs(align.crop(whole, face.matrix).astype(int) - face.crop).mean(2)
    assert (was > 30).mean() > 0.01 and (left > 30).mean() < 0.05 * (was > 30).mean()  # no rim of the donor stays


def test_a_black_and_white_photograph_stays_so(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    grey = Image.open(io.BytesIO(photographs["astronaut"])).convert("L")
    buffer = io.BytesIO()
    grey.save(buffer, "png")
    outcome = core.anonymise([vault.item(buffer.getvalue())])[0]
    assert isinstance(outcome, Released), outcome
    assert int(np.ptp(images.decode(outcome.data).rgb, axis=2).max()) <= 1


def test_inspect_needs_no_key(core: Core, released: Released) -> None:
    header = core.inspect(_jpeg(released.data, 75))
    assert (header.locator, header.faces, header.model_id) == (released.locator, 1, core.model_id)


def test_wrong_keys_open_nothing(core: Core, vault: Vault, released: Released) -> None:
    keys = vault.opened(released)
    with pytest.raises(WrongKey):
        core.recover(released.data, RecoveryKeys(bytes(32), keys.face_keys), vault.context)
    one_bit = {0: bytes([keys.face_keys[0][0] ^ 1]) + keys.face_keys[0][1:]}
    with pytest.raises(WrongKey):
        core.recover(released.data, RecoveryKeys(keys.layout_key, one_bit), vault.context)
    with pytest.raises(FaceUnknown):
        core.recover(released.data, RecoveryKeys(keys.layout_key, {7: keys.face_keys[0]}), vault.context)


def test_another_models_payload_is_not_guessed_at(
    core: Core, vault: Vault, released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = replace(core.inspect(released.data), model_id=core.model_id + 1)
    monkeypatch.setattr(core.reader.model(core.model_id).channel, "read_header", lambda llr: header)
    with pytest.raises(ModelUnknown, match=f"model {core.model_id + 1}"):
        core.recover(released.data, vault.opened(released), vault.context)


def test_a_transplanted_payload_is_refused(core: Core, vault: Vault, released: Released) -> None:
    """Whoever has the public weights can read the raw bits of one file and write them into another."""
    assert released.anonymised is not None
    channel = core.reader.model(core.model_id).channel
    llr = channel.listen(images.decode(released.data).rgb)
    other = np.ascontiguousarray(np.flip(released.anonymised, (0, 1)))
    forged = channel.write(other, (llr < 0).astype(np.uint8), np.ones(llr.shape, bool))
    assert core.inspect(images.encode(forged, "png")).locator == released.locator  # the forgery is a good one
    with pytest.raises(PayloadMismatch):
        core.recover(images.encode(forged, "png"), vault.opened(released), vault.context)


@pytest.mark.parametrize("format_", ["jpeg", "webp"])
def test_lossy_formats_read_back(core: Core, vault: Vault, photographs: dict[str, bytes], format_: str) -> None:
    item = vault.item(photographs["astronaut"], ItemOptions(format=format_))
    outcome = core.anonymise([item])[0]
    assert isinstance(outcome, Released), outcome
    assert images.decode(outcome.data).format == format_
    assert len(core.recover(outcome.data, vault.opened(outcome), vault.context)) == 1


def test_archive_recovers_more(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    original = images.decode(photographs["astronaut"]).rgb
    values = {}
    for profile in Profile:
        options = ItemOptions(profile=profile, donor_policy=DonorPolicy.STABLE, donor_seed=b"one donor for both")
        outcome = core.anonymise([vault.item(photographs["astronaut"], options)])[0]
        assert isinstance(outcome, Released), outcome
        (face,) = core.recover(outcome.data, vault.opened(outcome), vault.context)
        values[profile] = psnr(face.crop, align.crop(original, face.matrix))
    assert values[Profile.ARCHIVE] > values[Profile.ROBUST]
    assert outcome.faces[0].payload_bytes > 8_000


def test_several_faces_and_a_bad_item_in_one_batch(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    left, right = (Image.open(io.BytesIO(photographs[n])).convert("RGB") for n in ("astronaut", "biden"))
    right = right.resize((512 * right.width // right.height, 512))
    both = Image.new("RGB", (left.width + right.width, 512))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    buffer = io.BytesIO()
    both.save(buffer, "png")
    good, bad = core.anonymise([vault.item(buffer.getvalue()), vault.item(b"not an image")])
    assert isinstance(bad, Failed) and bad.code == "bad_image"
    assert isinstance(good, Released), good
    assert len(good.faces) == 2
    keys = vault.opened(good)
    only = core.recover(good.data, RecoveryKeys(keys.layout_key, {1: keys.face_keys[1]}), vault.context)
    assert [face.index for face in only] == [1]


def test_budgets_follow_the_faces() -> None:
    budgets = share_out(3000, [100.0, 300.0], Profile.ROBUST)
    assert budgets[0] < budgets[1] and sum(budgets) <= 3000
    assert share_out(10**6, [1.0], Profile.ROBUST) == [2200]
    assert share_out(100, [], Profile.ROBUST) == []
    assert [least(side * side, Profile.ROBUST) for side in (0, 40, 80, 110, 500)] == [180, 180, 320, 420, 420]
    assert least(40 * 40, Profile.ARCHIVE) == 420
    assert share_out(864, [95.0**2, 45.0**2], Profile.ROBUST), "a bystander's small face needs less"
    with pytest.raises(ImageTooSmall, match="2 faces need 840 bytes"):
        share_out(864, [120.0**2, 120.0**2], Profile.ROBUST)


def test_a_face_that_no_code_of_its_bytes_holds_is_held(
    core: Core, vault: Vault, photographs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object) -> bytes:
        raise PayloadUnreadable

    monkeypatch.setattr("refacex_core.pipeline.codec.encode", encode)
    (outcome,) = core.anonymise([vault.item(photographs["astronaut"])])
    assert isinstance(outcome, Held) and outcome.reason is HoldReason.READ_BACK_FAILED


def test_what_would_not_survive_one_more_encoding_carries_less_or_is_held(
    core: Core, vault: Vault, released: Released, photographs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert core.recover(_jpeg(released.data, 50), vault.opened(released), vault.context), (
        "what it is put through at first"
    )
    crushing = SimpleNamespace(value=("jpeg", 5))
    monkeypatch.setattr(pipeline, "_WRITES", ((1.0, crushing), (0.5, Survival.LEAST)))
    tough = core.anonymise([vault.item(photographs["astronaut"])])[0]
    assert isinstance(tough, Released), tough
    assert tough.payload_bytes < 0.6 * released.payload_bytes
    assert core.recover(_jpeg(tough.data, 75), vault.opened(tough), vault.context)
    monkeypatch.setattr(pipeline, "_WRITES", ((1.0, crushing), (0.5, crushing)))
    held = core.anonymise([vault.item(photographs["astronaut"])])[0]
    assert isinstance(held, Held) and held.reason is HoldReason.READ_BACK_FAILED


def test_an_archive_payload_shows_no_other_face(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    """The whole window is coded, and in a crowd others reach into it: they are in there as released."""
    job = core._prepare(vault.item(photographs["astronaut"]), Clock())
    (face,) = job.faces
    beside = FaceGeometry.from_matrix(face.geometry.matrix() - [[0, 0, 60], [0, 0, 0]])
    donor = Donor("red", np.zeros(128, np.float32))
    grain = align.Grain(9.0, 1)
    other = replace(face, geometry=beside, candidates=[Candidate(donor, _red(), 0.0, 0.0, 0.0)], grain=grain)
    job.faces.append(other)
    seen = _without_neighbours(job, face)
    whole = align.paste(job.rgb, _red(), other.mask, beside.matrix(), grain)
    replaced = align.crop(whole, face.geometry.matrix())
    assert np.array_equal(seen, replaced)
    assert (np.abs(replaced.astype(int) - _red()) < 50).all(2).mean() > 0.1, "red, and grainy"
    job.faces.remove(other)
    assert np.array_equal(_without_neighbours(job, face), face.crop)


def _red() -> RGB:
    return np.full((256, 256, 3), (255, 0, 0), np.uint8)


def test_restoring_a_face_leaves_the_one_restored_before(core: Core, photographs: dict[str, bytes]) -> None:
    """A recovered crop shows the other face as released: that must not come back over what was restored."""
    original = np.ascontiguousarray(images.decode(photographs["astronaut"]).rgb[:300, 60:364])
    left, right = np.s_[100:200, 60:100], np.s_[100:200, 130:180]
    released = original.copy()
    released[left], released[right] = (255, 0, 0), (0, 0, 255)
    faces = []
    for index, (x, own) in enumerate(((0, left), (48, right))):
        shown = released.copy()
        shown[own] = original[own]
        faces.append(RecoveredFace(index, shown[22:278, x : x + 256], np.array([[1.0, 0, -x], [0, 1, -22]])))
    whole = core.restore(images.encode(released, "png"), faces)
    for own in (left, right):
        assert np.abs(whole[own].astype(int) - original[own]).mean() < 3


def test_a_release_with_room_lives_through_all_that_web_sites_do(
    core: Core, vault: Vault, photographs: dict[str, bytes]
) -> None:
    """It is written as strongly as that takes, and the picture stays good; the face comes back as well from it."""
    obama = Image.open(io.BytesIO(photographs["obama"])).convert("RGB")
    buffer = io.BytesIO()
    obama.crop((150, 0, 850, 760)).save(buffer, "png")
    outcome = core.anonymise([vault.item(buffer.getvalue())])[0]
    assert isinstance(outcome, Released), outcome
    assert outcome.stego_psnr > 39
    original = np.asarray(obama.crop((150, 0, 850, 760)))
    for kind, quality, lowest in (("png", None, 32.0), ("webp", 80, 30.0), ("jpeg", 50, 29.0)):
        data = images.encode(images.decode(outcome.data).rgb, kind, quality)
        (face,) = core.recover(data, vault.opened(outcome), vault.context)
        assert psnr(face.crop, align.crop(original, face.matrix)) > lowest, kind


def _noisy(level: float, height: int = 1200, width: int = 1000) -> RGB:
    noise = level * np.random.default_rng(0).standard_normal((height, width, 1))
    return np.clip(128 + noise, 0, 255).astype(np.uint8).repeat(3, 2)


MASK = oval_mask(DonorAppearance().mean_shape.numpy())


@pytest.mark.parametrize(
    ("level", "enlarged", "wanted"),
    [(8, 3.0, 8), (8, 1.0, 0), (0, 3.0, 0)],
    ids=["grainy", "small: a donor's own skin is as fine", "smooth"],
)
def test_an_enlarged_face_is_as_grainy_as_its_photograph(level: float, enlarged: float, wanted: float) -> None:
    image, face = _noisy(level), np.full((256, 256, 3), 128, np.uint8)
    matrix = np.array([[1 / enlarged, 0, 10.0], [0, 1 / enlarged, 10.0]])
    where = align.paste(np.zeros_like(image), np.full_like(face, 255), MASK, matrix)[..., 0]
    pasted = align.paste(image, face, MASK, matrix, align.grain(image, MASK, matrix, 1))
    assert np.array_equal(pasted[where == 0], image[where == 0]) and np.ptp(pasted, axis=2).max() == 0
    made, was = (each[..., 0][where == 255].astype(float) for each in (pasted, image))
    assert 0.6 * wanted <= made.std() <= 1.4 * wanted
    if wanted:
        assert abs(np.corrcoef(made, was)[0, 1]) < 0.02, "and none of it is the photograph's own"


def test_no_more_of_a_faces_grain_is_kept_than_there_is_around_it() -> None:
    """Stubble and wrinkles are the original's; what is beside it is released anyway."""
    image, matrix = _noisy(8), np.array([[1 / 3, 0, 10.0], [0, 1 / 3, 10.0]])
    where = align.paste(np.zeros_like(image), np.full((256, 256, 3), 255, np.uint8), MASK, matrix)[..., 0] > 0
    rough, calm = image.copy(), image.copy()
    rough[~where], calm[where] = 128, 128
    found = [align.grain(each, MASK, matrix, 1) for each in (rough, calm, image)]
    inside, around, both = (grain.strength for grain in found if grain is not None)
    assert max(inside, around) < 0.01 and 5 < both < 12


def test_the_pipeline_gives_a_face_the_grain_of_its_photograph(
    core: Core, vault: Vault, photographs: dict[str, bytes]
) -> None:
    rgb = images.decode(photographs["obama"]).rgb.astype(np.int16)
    large = np.clip(rgb + np.random.default_rng(0).normal(0, 9, (*rgb.shape[:2], 1)), 0, 255).astype(np.uint8)
    job = core._prepare(vault.item(images.encode(large, "png")), Clock())
    (face,) = job.faces
    assert face.grain is not None and 4 < face.grain.strength < 14
    face.candidates = [Candidate(Donor("grey", np.zeros(128, np.float32)), np.full_like(face.crop, 128), 0.0, 0.0, 0.0)]
    pasted = core._paste(job)
    matrix = face.geometry.matrix()
    inside = align.paste(np.zeros_like(large), np.full_like(face.crop, 255), face.mask, matrix)[..., 0] == 255
    assert 5 < pasted[inside].std() < 13
    assert np.array_equal(pasted, core._paste(job)), "wherever it is pasted again, the same"
