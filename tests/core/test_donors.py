"""Donors suit the face: of those who are read as it is, the ones that look like it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from refacex_core import images
from refacex_core.age import Age
from refacex_core.anonymiser import GENTLE, MOVED, STRONG, Anonymiser, Drawing, Sketch
from refacex_core.audit import Unfit
from refacex_core.donors import TEXTURE, TOO_NEAR, Donor, DonorAppearance, DonorBank
from refacex_core.faces import align
from refacex_core.faces.detect import YuNet
from refacex_core.faces.expression import gap
from refacex_core.faces.landmarks import GROUPS, oval_mask, parts_mask
from refacex_core.faces.presentation import Presentation
from refacex_core.gates import GOOD_OVER_VIEWS, GOOD_SIMILARITY, MOST_SIMILARITY
from refacex_core.item import Candidate, Clock, Face, Job, good, order
from refacex_core.looks import NEAREST, SUITS, Looks
from refacex_core.payload.network import window
from refacex_core.pipeline import DONORS_TRIED, DRAWN_AGAIN, SPARE_DONORS, Core
from refacex_core.recognisers import unit, views
from refacex_core.types import DonorPolicy, HoldReason, ItemOptions
from tests.core.conftest import Vault
from training.common import to_tensor
from training.first_names import MEN, WOMEN, read_as_female

CODE = np.eye(1, 128, dtype=np.float32)[0]


def crop(data: bytes) -> np.ndarray:
    rgb = images.decode(data).rgb
    return align.crop(rgb, align.similarity(YuNet()(rgb)[0].points))


def looks_of(bank: DonorBank, presentation: float) -> Looks:
    """A donor's own, read so."""
    whole = bank.looks(torch.zeros(1, 3, 256, 256), bank.mean_shape[None])[0]
    return replace(whole, presentation=torch.full((1, 1), presentation))


def parts(name: str) -> list[str]:
    """Of the bank's donors, those that a donor is made of."""
    return name.split("+")


def sides(bank: DonorBank, presentation: float, policy: DonorPolicy) -> list[float]:
    """How the donors of many choices are read."""
    read = dict(zip((f"d{i}" for i in bank._ids), bank._looks.presentation[:, 0].tolist(), strict=True))
    looks = looks_of(bank, presentation)
    return [
        read[part] for _ in range(20) for donor in bank.choose(policy, CODE, looks, 5) for part in parts(donor.name)
    ]


def test_the_photographs_are_read_as_people_read_them(photographs: dict[str, bytes]) -> None:
    crops = to_tensor(np.stack([crop(photographs[name]) for name in ("astronaut", "biden", "obama")]))
    astronaut, biden, obama = Presentation()(crops)[:, 0].tolist()
    assert astronaut > 0.5 and biden < -0.5 and obama < -0.5
    assert torch.allclose(Presentation()(crops.flip(3)), Presentation()(crops), atol=1e-4), "whichever way they look"


def test_donors_are_read_as_the_face_is() -> None:
    bank = DonorBank(DonorAppearance())
    for policy in (DonorPolicy.RANDOM, DonorPolicy.MATCHED):
        assert min(sides(bank, 0.98, policy)) > 0
        assert max(sides(bank, -0.98, policy)) < 0


def test_donors_are_about_as_old_as_the_face_looks() -> None:
    bank = DonorBank(DonorAppearance())
    years = dict(zip((f"d{i}" for i in bank._ids), bank._looks.age[:, 0].tolist(), strict=True))
    for policy in (DonorPolicy.RANDOM, DonorPolicy.MATCHED):
        young, old = (
            [
                years[part]
                for donor in bank.choose(policy, CODE, replace(looks_of(bank, 0.9), age=torch.tensor([[age]])), 6)
                for part in parts(donor.name)
            ]
            for age in (22.0, 65.0)
        )
        assert np.mean(young) + 10 < np.mean(old)


def test_age_is_read_from_lines_and_not_from_sharpness() -> None:
    """The bank's own textures, as they are and as a coarser photograph would show them."""
    appearance = DonorAppearance()
    reader = Age(appearance.mean_shape)
    with torch.inference_mode():
        textures, _ = appearance(appearance.codes)
        small = torch.nn.functional.interpolate(textures, scale_factor=0.6, mode="area")
        coarse = torch.nn.functional.interpolate(small, size=textures.shape[2:], mode="bicubic")
        sharp, dull = reader(textures)[:, 0], reader(coarse)[:, 0]
    assert torch.corrcoef(torch.stack([sharp, appearance.ages[:, 0]]))[0, 1] > 0.75
    assert torch.corrcoef(torch.stack([sharp, dull]))[0, 1] > 0.9
    assert (sharp - dull).mean().abs() < 5


def test_matched_donors_are_near_in_shape_as_well() -> None:
    """`random` leaves shape out, as a good part of it stays the source's anyway."""
    bank = DonorBank(DonorAppearance())
    looks = looks_of(bank, 0.0)
    turned = replace(looks, shape=bank._looks.shape[7:8])
    for policy, weights in ((DonorPolicy.MATCHED, NEAREST), (DonorPolicy.RANDOM, SUITS)):
        before, after = bank.order(looks, weights), bank.order(turned, weights)
        assert np.array_equal(before, after) == (policy is DonorPolicy.RANDOM)
    first, second = ([d.name for d in bank.choose(DonorPolicy.MATCHED, CODE, each, 5)] for each in (looks, turned))
    assert first != second


def test_spare_donors_come_from_the_whole_bank_behind_the_others() -> None:
    """For a face that none of its own reading makes unlike itself."""
    bank = DonorBank(DonorAppearance())
    read = dict(zip((f"d{i}" for i in bank._ids), bank._looks.presentation[:, 0].tolist(), strict=True))
    first, spare = [], []
    for _ in range(20):
        chosen = bank.choose(DonorPolicy.RANDOM, CODE, looks_of(bank, -0.4), 5, None, 6)
        assert len(chosen) == 11
        first += [read[part] for donor in chosen[:5] for part in parts(donor.name)]
        spare += [read[part] for donor in chosen[5:] for part in parts(donor.name)]
    assert max(first) < max(spare)
    for policy in (DonorPolicy.MATCHED, DonorPolicy.STABLE):
        assert len({donor.name for donor in bank.choose(policy, CODE, looks_of(bank, 0.0), 5, b"s", 3)}) == 8


def test_chance_chooses_among_those_who_look_alike_and_not_the_furthest() -> None:
    """The furthest first would tell whose face it was not."""
    bank = DonorBank(DonorAppearance())
    of = dict(zip((f"d{i}" for i in bank._ids), bank.codes @ CODE, strict=True))
    draws = [bank.choose(DonorPolicy.RANDOM, CODE, looks_of(bank, -0.98), 5) for _ in range(200)]
    cosines = np.array([[[of[part] for part in parts(donor.name)] for donor in drawn] for drawn in draws])
    assert abs(cosines[:, 0].mean() - cosines.mean()) < 0.03
    assert len({drawn[0].name for drawn in draws}) > 60
    assert cosines.max() < TOO_NEAR, "nobody near to the source"


def test_a_donor_lies_between_two_of_the_bank_and_nobody_is_in_two() -> None:
    bank = DonorBank(DonorAppearance())
    code = dict(zip((f"d{i}" for i in bank._ids), bank.codes, strict=True))
    for policy in (DonorPolicy.RANDOM, DonorPolicy.MATCHED):
        chosen = bank.choose(policy, CODE, looks_of(bank, 0.5), 5, None, 4)
        assert len(chosen) == 9
        of = [parts(donor.name) for donor in chosen]
        assert all(len(names) == 2 for names in of) and len({name for names in of for name in names}) == 18
        for donor, (one, other) in zip(chosen, of, strict=True):
            assert np.isclose(np.linalg.norm(donor.code), 1)
            assert np.isclose(donor.code @ code[one], donor.code @ code[other], atol=1e-6)
    assert all("+" not in donor.name for donor in bank.choose(DonorPolicy.STABLE, CODE, looks_of(bank, 0.5), 5, b"s"))


def test_a_pair_that_is_nearer_to_the_source_than_either_is_not_drawn() -> None:
    """What two have in common with the source is stronger in their mean."""
    bank = DonorBank(DonorAppearance())
    of = bank.codes @ bank.codes.T
    mixed = np.array([[unit(a + b) for b in bank.codes] for a in bank.codes])
    one, other = np.unravel_index(of.argmin(), of.shape)
    source = unit(mixed[one, other] + 3.4 * np.linalg.svd(bank.codes[[one, other]])[2][-1].astype(np.float32))
    assert max(bank.codes[[one, other]] @ source) < TOO_NEAR < mixed[one, other] @ source
    found = [d for _ in range(30) for d in bank._draw(np.array([one, other, *range(20, 26)]), 4, source)]
    assert len(found) > 60 and max(donor.code @ source for donor in found) < TOO_NEAR


def test_what_lies_between_two_donors_looks_like_both() -> None:
    appearance = DonorAppearance()
    one, other = appearance.codes[3], appearance.codes[40]
    textures, shapes = appearance(torch.stack([one, other, F.normalize(one + other, dim=0)]))
    assert torch.allclose(textures[2], textures[:2].mean(0), atol=0.05)
    assert torch.allclose(shapes[2], shapes[:2].mean(0), atol=0.5)


def test_hair_over_the_brow_and_a_beard_are_measured_apart_from_skin() -> None:
    bank = DonorBank(DonorAppearance())
    crop = torch.zeros(1, 3, 256, 256)
    points = bank.mean_shape[None]
    plain = bank.looks(crop, points)[0]
    eyes = int(points[0, GROUPS["left_eye"], 1].mean())
    fringe, beard = crop.clone(), crop.clone()
    fringe[..., : eyes - 20, :] = -0.8
    fringe[..., : eyes - 20, ::2] = 0.8
    beard[..., int(points[0, GROUPS["lips"], 1].max()) :, :] = -0.5
    with_fringe, with_beard = (bank.looks(each, points)[0] for each in (fringe, beard))
    for measure in ("skin", "grain", "colours", "age"):
        assert torch.allclose(getattr(plain, measure), getattr(with_fringe, measure), atol=1e-3), measure
    assert torch.allclose(plain.skin, with_beard.skin, atol=1e-3)
    assert with_beard.hair[0, 2] < plain.hair[0, 2] - 0.4 and abs(with_beard.hair[0, 0] - plain.hair[0, 0]) < 0.01


def test_who_is_tried_in_which_order(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    """Moved alone until one is good; then those gently, and strongly, who left it least like itself; others only where none may be
    released."""
    job = core._prepare(vault.item(photographs["obama"]), Clock())
    (face,) = job.faces

    def tries(*similar: float, job: Job = job) -> list[tuple[int, Drawing]]:
        """Which donors were tried and how, where they gave these cosines by every view and all others the last of them."""
        face.candidates, face.tried, made = [], 0, []

        def sketch(pairs: list[tuple[Face, Donor]], source: Tensor, mask: Tensor, *, keep: bool) -> Sketch:
            ((each, donor),) = pairs
            each.sketches[donor.name] = Sketch(*[torch.full((1, 1), float(each.donors.index(donor)))] * 4)
            return each.sketches[donor.name]

        def draw(source: Tensor, mask: Tensor, of: Sketch, drawing: Drawing) -> SimpleNamespace:
            made.append((int(of.posed), drawing))
            return SimpleNamespace(crop=source, face=source)

        def cosine() -> float:
            return similar[min(len(made), len(similar)) - 1] - 1e-6

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(core, "_sketches", sketch)
            patched.setattr(core, "_anonymiser", SimpleNamespace(draw=draw))
            patched.setattr(core, "_sface", lambda crops: cosine() * face.code[None])
            patched.setattr(core, "_codes", lambda crops, plain: cosine() * face.codes[None])
            core._replace([(job, face)])
        assert job.error is None and face.tried == len({donor for donor, _ in made}) and not face.sketches
        return made

    moved = [(i, MOVED) for i in range(DONORS_TRIED)]
    assert tries(GOOD_SIMILARITY) == moved[:1]
    assert tries(0.4, 0.3, GOOD_SIMILARITY) == moved[:3]
    rising = [0.2 + 0.01 * i for i in range(DONORS_TRIED)]
    gently, strongly = ([(i, how) for i in range(DRAWN_AGAIN)] for how in (GENTLE, STRONG))
    assert tries(*rising, GOOD_SIMILARITY) == moved + gently[:1], "as soon as one is good, no more"
    assert tries(*rising, *[0.2] * DRAWN_AGAIN, GOOD_SIMILARITY) == moved + gently + strongly[:1]
    assert tries(*rising, MOST_SIMILARITY) == moved + gently + strongly
    last = range(DONORS_TRIED - DRAWN_AGAIN, DONORS_TRIED)
    assert tries(*rising[::-1], 0.5) == moved + [(i, how) for how in (GENTLE, STRONG) for i in last]
    spare = [(DONORS_TRIED + i, STRONG) for i in range(SPARE_DONORS)]
    worst = MOST_SIMILARITY + 0.01
    assert tries(*[worst] * (DONORS_TRIED + 2 * DRAWN_AGAIN), MOST_SIMILARITY) == moved + gently + strongly + spare[:1]
    assert tries(worst) == moved + gently + strongly + spare
    stable = replace(job, item=replace(job.item, options=replace(job.item.options, donor_policy=DonorPolicy.STABLE)))
    assert tries(MOST_SIMILARITY, job=stable) == [(0, STRONG)]
    assert tries(worst, job=stable) == [(i, STRONG) for i in range(len(face.donors))], (
        "each once, in the subject's order"
    )


def test_a_face_is_good_by_every_view_or_not_at_all(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    """The cosines that decide are those of the face as it is, closer and coarser."""
    job = core._prepare(vault.item(photographs["obama"]), Clock())
    (face,) = job.faces
    core._try([(face, face.donors[0])], MOVED)
    (made,) = face.candidates
    mask = face.mask[..., None]
    crop = np.rint(face.crop + mask * (made.face.astype(np.float32) - face.crop)).astype(np.uint8)
    both = zip(views(crop[None]), views(face.crop[None]), strict=True)
    seen = [float(core._sface(after)[0] @ core._sface(before)[0]) for after, before in both]
    assert np.isclose(made.similarity, seen[0], atol=0.02)
    wanted = np.mean(seen) if made.similarity <= MOST_SIMILARITY else made.similarity
    assert np.isclose(made.over_views, wanted, atol=0.02)


def test_what_is_drawn_again_is_not_posed_again(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    job = core._prepare(vault.item(photographs["obama"]), Clock())
    (face,) = job.faces
    sketch, posed = core._anonymiser.sketch, []

    def counted(source: Tensor, *rest: Tensor) -> Sketch:
        posed.append(len(source))
        return sketch(source, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(core._anonymiser, "sketch", counted)
        patched.setattr("refacex_core.pipeline.good", lambda job, face: False)
        patched.setattr("refacex_core.pipeline.MOST_SIMILARITY", 2.0)  # so that no spare one is tried
        core._replace([(job, face)])
    assert sum(posed) == DONORS_TRIED and len(face.candidates) == DONORS_TRIED + 2 * DRAWN_AGAIN
    assert not face.sketches


def test_views_are_as_it_is_closer_and_coarser() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    plain, closer, coarse = views(crops)
    assert np.array_equal(plain, crops) and views(crops[:0]).shape == (3, 0, 256, 256, 3)
    assert np.array_equal(closer[:, 128, 128], crops[:, 128, 128]), "about the middle"
    marked = np.zeros((1, 256, 256, 3), np.uint8)
    marked[:, :, 178:] = 255
    _, closer, _ = views(marked)
    assert abs(int((closer[0, 128, :, 0] > 127).argmax()) - (128 + 1.3 * 50)) <= 1
    assert coarse.std() < 0.3 * crops.std() < crops.std()


def test_a_batch_that_fails_half_way_leaves_no_half_of_it(
    core: Core, vault: Vault, photographs: dict[str, bytes]
) -> None:
    jobs = [core._prepare(vault.item(photographs[name]), Clock()) for name in ("obama", "astronaut")]
    work = [(job, face) for job in jobs for face in job.faces]
    codes, calls = core._codes, []

    def once(crops: NDArray[np.uint8], plain: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(crops))
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return codes(crops, plain)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(core, "_codes", once)
        patched.setattr("refacex_core.pipeline.MOST_SIMILARITY", 2.0)
        core._replace_some([(job, face, face.donors[0]) for job, face in work], MOVED)
    assert calls[0] == len(work) > 1 and all(job.error is None for job in jobs)
    assert all(face.tried == len(face.candidates) == 1 for _, face in work)


@pytest.mark.parametrize("policy", [DonorPolicy.RANDOM, DonorPolicy.STABLE])
def test_what_the_audit_turns_down_is_followed_by_the_next_donor_in_its_turn(
    core: Core, vault: Vault, photographs: dict[str, bytes], policy: DonorPolicy
) -> None:
    job = core._prepare(
        vault.item(photographs["obama"], ItemOptions(donor_policy=policy, donor_seed=b"s" * 32)), Clock()
    )
    (face,) = job.faces
    made: list[tuple[Donor, Drawing]] = []

    def one(pairs: list[tuple[Face, Donor]], drawing: Drawing) -> None:
        ((_, donor),) = pairs
        made.append((donor, drawing))
        face.tried += 1
        face.candidates.append(Candidate(donor, face.crop, 0.1, 0.1, 0.5))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(core, "_try", one)
        core._replace([(job, face)])
        while core._next_candidate(job, face):
            pass
    first = STRONG if policy is DonorPolicy.STABLE else MOVED
    assert [donor.name for donor, _ in made] == [donor.name for donor in face.donors]
    assert [drawing for _, drawing in made] == [first] * DONORS_TRIED + [STRONG] * SPARE_DONORS


def test_a_mouth_is_taken_from_a_donor_whose_is_as_far_open() -> None:
    appearance = DonorAppearance()
    texture, shape = appearance(appearance.codes)
    mine, wide = gap(shape), appearance.gaps.max()
    wanted = torch.where(mine < 0.02, wide, mine)
    mouth, better, shown = appearance.mouths(appearance.codes, texture, mine, wanted)
    assert torch.equal(better, mine < 0.02), "whoever has it keeps their own"
    assert (shown[better] > wide - 0.1).all() and torch.equal(shown[~better], mine[~better])
    whole = appearance(appearance.codes)[0]
    whose = [int((whole - each).abs().sum((1, 2, 3)).argmin()) for each in mouth[better]]
    apart = (appearance.presentation[whose] - appearance.presentation[better]).abs()
    assert (apart < 1).float().mean() > 0.95, "and who is read alike: stubble comes with it"
    colours = [appearance._lip_colours(each) for each in (texture, mouth)]
    strangers = torch.cdist(colours[0], colours[0]).mean()
    assert (colours[0] - colours[1])[better].norm(dim=1).mean() < 0.6 * strangers, "on skin like theirs"


def test_a_smile_is_laid_over_a_closed_mouth_and_over_nothing_else() -> None:
    anonymiser = Anonymiser()
    appearance = anonymiser.appearance
    closed = int(appearance.gaps.abs().argmin())
    smiling = appearance.shapes[int(appearance.gaps.argmax())][None]
    mask = torch.from_numpy(oval_mask(smiling[0].numpy()))[None, None]
    source, code = torch.zeros(1, 3, 256, 256), appearance.codes[closed][None]
    with_smile, _ = anonymiser.pose(source, smiling, code, mask)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(appearance, "lips", torch.zeros_like(appearance.lips))
        without, _ = anonymiser.pose(source, smiling, code, mask)
    changed = (with_smile - without).abs().mean(1)[0]
    mouth = torch.from_numpy(parts_mask(smiling[0].numpy(), ["lips"], margin=16, feather=1.0)) > 0.5
    assert changed[mouth].mean() > 10 * changed[~mouth].mean() and changed.max() > 0.2
    assert changed[~mouth].mean() < 0.01


def test_what_is_least_like_the_original_comes_first(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    job = core._prepare(vault.item(photographs["obama"]), Clock())
    (face,) = job.faces
    stable = replace(job, item=replace(job.item, options=replace(job.item.options, donor_policy=DonorPolicy.STABLE)))
    for similar, over_views, one, subject in (
        (GOOD_SIMILARITY, GOOD_OVER_VIEWS, True, True),
        (GOOD_SIMILARITY, GOOD_OVER_VIEWS + 0.01, False, True),
        (GOOD_SIMILARITY + 0.01, 0.0, False, True),
        (MOST_SIMILARITY, 0.0, False, True),
        (0.0, MOST_SIMILARITY, False, True),
        (0.0, MOST_SIMILARITY + 0.01, False, False),
        (MOST_SIMILARITY + 0.01, MOST_SIMILARITY + 0.01, False, False),
    ):
        face.candidates = [Candidate(face.donors[0], face.crop, similar, over_views, 0.5)]
        assert (good(job, face), good(stable, face)) == (one, subject)
    seen = (0.29, 0.1), (0.16, 0.2), (0.17, 0.29), (0.1, 0.31)
    face.candidates = [Candidate(face.donors[0], face.crop, *cosines, 0.5) for cosines in seen]
    order(stable, face)
    assert [c.similarity for c in face.candidates] == [0.29, 0.16, 0.17, 0.1], "a subject keeps its first"
    order(job, face)
    assert [c.similarity for c in face.candidates] == [0.16, 0.17, 0.29, 0.1], "what may not be released last"


def test_what_is_alike_over_views_alone_is_held(core: Core, vault: Vault, photographs: dict[str, bytes]) -> None:
    job = core._prepare(vault.item(photographs["obama"]), Clock())
    (face,) = job.faces
    face.tried = len(face.donors)
    face.candidates = [Candidate(face.donors[0], face.crop, 0.1, MOST_SIMILARITY, 0.5)]
    core._paste(job)
    face.candidates = [Candidate(face.donors[0], face.crop, 0.1, MOST_SIMILARITY + 0.01, 0.5)]
    with pytest.raises(Unfit):
        core._paste(job)
    assert face.reason is HoldReason.IDENTITY_LEAK and face.audited == MOST_SIMILARITY + 0.01


def test_only_the_stable_donor_is_chosen_without_looks() -> None:
    bank = DonorBank(DonorAppearance())
    assert bank.choose(DonorPolicy.STABLE, CODE, None, 2, b"s")
    with pytest.raises(ValueError, match="looks"):
        bank.choose(DonorPolicy.RANDOM, CODE, None, 2)


def test_no_hair_or_background_of_a_donor_stands_at_the_rim() -> None:
    """Where a head is turned its outline is wider than the donor's on one side: skin is wanted there."""
    appearance = DonorAppearance()
    textures = appearance.textures
    face, core, rim, wide = (
        F.interpolate(
            window(torch.from_numpy(oval_mask(appearance.mean_shape.numpy(), 3.0, size, size))[None, None]),
            size=TEXTURE,
        )
        for size in (0.8, 0.88, 1.0, 1.15)
    )
    cheeks = (textures * face).sum((2, 3)) / face.sum()
    outside = (wide > 0.5) & (rim < 0.01)
    apart = (textures - cheeks[..., None, None]).abs().mean(1, keepdim=True)
    assert apart[outside.expand_as(apart)].mean() < 0.35
    steps = (textures - textures.roll(1, 3)).abs().mean(1, keepdim=True)
    assert steps[outside.expand_as(steps)].max() < 0.1, "and no edge"
    kept = (core > 0.99).expand_as(steps)
    assert steps[kept].mean() > 3 * steps[outside.expand_as(steps)].mean(), "and the face itself is as sharp as it was"


def test_a_face_that_is_hard_to_place_rules_no_donor_out() -> None:
    found = sides(DonorBank(DonorAppearance()), 0.0, DonorPolicy.RANDOM)
    assert min(found) < 0 < max(found)


def test_a_first_name_says_what_it_says() -> None:
    assert not WOMEN & MEN
    assert read_as_female("Mary_Doe/Mary_Doe_0001.jpg") is True
    assert read_as_female("lfw-train/John_Doe/John_Doe_0001.jpg") is False
    assert read_as_female("Kim_Doe/Kim_Doe_0001.jpg") is None
