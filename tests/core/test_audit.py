"""No face slips through: neither before nor after it should have been replaced."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from refacex_core import images
from refacex_core.anonymiser import Drawing
from refacex_core.audit import Audit, Unfit
from refacex_core.donors import DonorAppearance, DonorBank
from refacex_core.faces import align
from refacex_core.faces.detect import Detection, same_face, suppress
from refacex_core.pipeline import Core
from refacex_core.stego.framing import FaceGeometry
from refacex_core.types import Box, DonorPolicy, Failed, Held, HoldReason, ItemOptions, Released
from tests.core.conftest import Vault


def _astronaut(photographs: dict[str, bytes]) -> Image.Image:
    return Image.open(io.BytesIO(photographs["astronaut"])).convert("RGB")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def _found(box: Box, score: float) -> Detection:
    return Detection(box, np.zeros((5, 2)), score)


def test_a_small_face_inside_a_large_box_is_a_face_of_its_own() -> None:
    large, small = _found((0, 0, 200, 260), 0.95), _found((130, 190, 60, 60), 0.9)
    assert suppress([large, small]) == [large, small]
    assert suppress([large, _found((10, 10, 180, 240), 0.9)]) == [large]
    assert not same_face((0, 0, 10, 10), (20, 20, 10, 10))


@pytest.mark.parametrize("size", [60, 80])
def test_a_face_in_front_of_another_is_never_left_as_it_was(
    core: Core, vault: Vault, photographs: dict[str, bytes], size: int
) -> None:
    image = _astronaut(photographs).resize((1024, 1024), Image.Resampling.LANCZOS)
    child = _astronaut(photographs).crop((165, 50, 285, 185)).resize((size, size), Image.Resampling.LANCZOS)
    x, y = 356 + 190 - size, 126 + 240 - size  # the lower right corner of the large face's box
    image.paste(child, (x, y))
    (outcome,) = core.anonymise([vault.item(_png(image))])
    if isinstance(outcome, Held):
        return
    assert isinstance(outcome, Released), outcome
    seen = images.decode(outcome.data).rgb[y : y + size, x : x + size].astype(int)
    before = np.asarray(child).astype(int)
    middle = slice(size // 4, 3 * size // 4)
    assert np.abs(seen - before)[middle, middle].mean() > 12


def test_a_face_that_only_the_second_detector_sees_holds_the_image(
    core: Core, vault: Vault, photographs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.audit, "_first", lambda rgb: [])
    with pytest.raises(Unfit) as unfit:
        core.audit.find(images.decode(photographs["astronaut"]).rgb)
    assert unfit.value.reason is HoldReason.FACE_MISSED and len(unfit.value.boxes) == 1
    (outcome,) = core.anonymise([vault.item(photographs["astronaut"])])
    assert isinstance(outcome, Held) and outcome.faces[0].reason is HoldReason.FACE_MISSED


def test_a_network_that_fails_on_one_face_fails_one_item(
    core: Core, vault: Vault, photographs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = core._try

    def failing(pairs: list, drawing: Drawing) -> None:  # type: ignore[type-arg]
        if any(face.box[0] > 250 for face, _ in pairs):
            raise RuntimeError("out of memory")
        once(pairs, drawing)

    monkeypatch.setattr(core, "_try", failing)
    good, bad = core.anonymise([vault.item(photographs["astronaut"]), vault.item(photographs["obama"])])
    assert isinstance(good, Released), good
    assert isinstance(bad, Failed) and bad.code == "internal_error"


def test_a_release_that_the_audit_turns_down_gets_another_donor(
    core: Core, vault: Vault, photographs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, verdicts = core.audit, []

    def strict(seen, faces, most):  # type: ignore[no-untyped-def]
        verdicts.append(audit(seen, faces, most if verdicts else -1.0))
        return verdicts[-1]

    strict.find = audit.find  # type: ignore[attr-defined]
    monkeypatch.setattr(core, "audit", strict)
    (outcome,) = core.anonymise([vault.item(photographs["astronaut"])])
    assert isinstance(outcome, Released), outcome
    assert [v.reason for v in verdicts] == [HoldReason.IDENTITY_LEAK, None]
    assert outcome.faces[0].reason is None and outcome.faces[0].audit_similarity == round(verdicts[1].similar[0], 4)


def test_stable_keeps_a_subjects_donor_from_photograph_to_photograph() -> None:
    bank = DonorBank(DonorAppearance())
    rng = np.random.default_rng(0)
    looks = bank.looks(torch.rand(11, 3, 256, 256), bank.mean_shape + 5 * torch.randn(11, 162, 2))
    first = []
    for _ in range(10):
        code = rng.standard_normal(128).astype(np.float32)
        code /= np.linalg.norm(code)
        first.append(bank.choose(DonorPolicy.STABLE, code, looks.pop(), 3, b"subject")[0].name)
    assert len(set(first)) <= 2  # another only where the first is too near to the source
    others = {bank.choose(DonorPolicy.STABLE, code, looks[0], 1, bytes([i]))[0].name for i in range(20)}
    smaller = DonorBank(DonorAppearance())
    gone = f"d{smaller._ids.pop()}"
    smaller.codes = smaller.codes[:-1]
    for seed in (bytes([i]) for i in range(50)):  # a donor that leaves the bank takes nobody else's subjects along
        before, after = (b.choose(DonorPolicy.STABLE, code, looks[0], 1, seed)[0].name for b in (bank, smaller))
        assert after == before or before == gone
    assert len(others) > 10


@pytest.mark.parametrize("policy", [DonorPolicy.STABLE, DonorPolicy.MATCHED])
def test_every_policy_releases(core: Core, vault: Vault, photographs: dict[str, bytes], policy: DonorPolicy) -> None:
    item = vault.item(photographs["astronaut"], ItemOptions(donor_policy=policy, donor_seed=b"subject"))
    (outcome,) = core.anonymise([item])
    assert isinstance(outcome, Released), outcome


def test_a_face_is_compared_where_a_stranger_finds_it() -> None:
    """In its old place it is somebody else; where the detector finds it now, it is itself again."""
    seen = np.zeros((400, 400, 3), np.uint8)
    seen[:, 150:] = 255
    geometry = FaceGeometry.from_matrix(align.similarity(align.TEMPLATE - [60, 0]))  # mostly in the dark
    detection = Detection((80, 60, 120, 160), align.TEMPLATE + np.array([100.0, 40.0]), 0.9)

    def of_light(crops: np.ndarray) -> np.ndarray:
        light = crops.mean((1, 2, 3))[:, None] > 128
        return np.where(light, [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)

    audit = Audit(lambda _: [detection], lambda _: [], of_light)  # type: ignore[arg-type]
    face = (geometry, detection.box, np.array([1, 0], np.float32))
    assert of_light(align.crop(seen, geometry.matrix())[None])[0, 0] == 0
    verdict = audit(seen, [face], 0.3)
    assert (verdict.similar, verdict.reason, verdict.faces) == ((1.0,), HoldReason.IDENTITY_LEAK, (0,))
