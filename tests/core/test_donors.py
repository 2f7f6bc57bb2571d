"""Donors suit the face: of those who are read as it is, the ones that look like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from refacex_core import images
from refacex_core.anonymiser import Anonymised, Anonymiser, Drawing
from refacex_core.donors import DonorAppearance, DonorBank
from refacex_core.faces import align
from refacex_core.faces.detect import YuNet
from refacex_core.faces.expression import gap
from refacex_core.faces.landmarks import oval_mask, parts_mask
from refacex_core.faces.presentation import Presentation
from refacex_core.gates import FAIR_SIMILARITY, GOOD_SIMILARITY, MOST_SIMILARITY
from refacex_core.item import Candidate, Clock, Face, good, order
from refacex_core.looks import NEAREST, SUITS, Looks
from refacex_core.pipeline import _MILD, _STRONG, DONORS_TRIED, SPARE_DONORS, Core, _Result
from refacex_core.types import DonorPolicy
from tests.core.conftest import Vault
from training.common import to_tensor
from training.first_names import MEN, WOMEN, read_as_female

CODE = np.eye(1, 128, dtype=np.float32)[0]


def crop(data: bytes) -> np.ndarray:
    rgb = images.decode(data).rgb
    return align.crop(rgb, align.similarity(YuNet()(rgb)[0].points))


def looks_of(bank: DonorBank, presentation: float) -> Looks:
    """A donor's own, read so."""
    whole = bank.looks(torch.zeros(1, 3, 256, 256), bank.mean_shape[None], torch.ones(1, 1, 256, 256))[0]
    return replace(whole, presentation=torch.full((1, 1), presentation))


def sides(bank: DonorBank, presentation: float, policy: DonorPolicy) -> list[float]:
    """How the donors of many choices are read."""
    read = dict(zip((f"d{i}" for i in bank._ids), bank._looks.presentation[:, 0].tolist(), strict=True))
    looks = looks_of(bank, presentation)
    return [read[donor.name] for _ in range(20) for donor in bank.choose(policy, CODE, looks, 5)]


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
        first += [read[donor.name] for donor in chosen[:5]]
        spare += [read[donor.name] for donor in chosen[5:]]
    assert max(first) < max(spare)
    for policy in (DonorPolicy.MATCHED, DonorPolicy.STABLE):
        assert len({donor.name for donor in bank.choose(policy, CODE, looks_of(bank, 0.0), 5, b"s", 3)}) == 8


def test_chance_chooses_among_those_who_look_alike_and_not_the_furthest() -> None:
    """The furthest first would tell whose face it was not."""
    bank = DonorBank(DonorAppearance())
    of = dict(zip((f"d{i}" for i in bank._ids), bank.codes @ CODE, strict=True))
    draws = [bank.choose(DonorPolicy.RANDOM, CODE, looks_of(bank, -0.98), 5) for _ in range(200)]
    cosines = np.array([[of[donor.name] for donor in drawn] for drawn in draws])
    assert abs(cosines[:, 0].mean() - cosines.mean()) < 0.03
    assert len({drawn[0].name for drawn in draws}) > 12
    assert cosines.max() < 0.25, "nobody near to the source"


def test_spare_donors_are_tried_only_where_no_other_will_do(
    core: Core, vault: Vault, photographs: dict[str, bytes]
) -> None:
    def tried(similarity: float) -> int:
        job = core._prepare(vault.item(photographs["obama"]), Clock())
        (face,) = job.faces

        def next_donor(faces: list[Face]) -> None:
            face.candidates.append(Candidate(face.donors[face.tried], face.crop, similarity, 0.5))
            face.tried += 1

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(core, "_try_next_donor", next_donor)
            core._replace([(job, face)])
        return face.tried

    assert tried(GOOD_SIMILARITY) == 1
    assert tried(MOST_SIMILARITY) == DONORS_TRIED
    assert tried(MOST_SIMILARITY + 0.01) == DONORS_TRIED + SPARE_DONORS


def test_a_mouth_is_taken_from_a_donor_whose_is_as_far_open() -> None:
    appearance = DonorAppearance()
    texture, shape = appearance(appearance.codes)
    mine, wide = gap(shape), appearance.gaps.max()
    wanted = torch.where(mine < 0.02, wide, mine)
    mouth, better, shown = appearance.mouths(appearance.codes, texture, mine, wanted)
    assert torch.equal(better, mine < 0.02), "whoever has it keeps their own"
    assert (shown[better] > wide - 0.1).all() and torch.equal(shown[~better], mine[~better])
    whole = appearance.texture(appearance.coefficients)
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


def test_the_mildest_result_that_is_unlike_its_original_is_taken(
    core: Core, vault: Vault, photographs: dict[str, bytes]
) -> None:
    (face,) = core._prepare(vault.item(photographs["obama"]), Clock()).faces

    def made(donor: int, good: float, mild: float) -> Candidate:
        face.tried, face.candidates = donor, []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("refacex_core.pipeline.GOOD_SIMILARITY", good)
            patched.setattr("refacex_core.pipeline._MILD", mild)
            core._try_next_donor([face])
        return next(made for made in face.candidates if not made.everywhere)

    tried = [(n, made(n, 1.0, 0.3), made(n, 1.0, 1.0)) for n in range(len(face.donors))]
    n, mild, whole = max(tried, key=lambda each: each[1].similarity - each[2].similarity)
    assert not np.array_equal(mild.face, whole.face) and whole.similarity < mild.similarity
    between = (mild.similarity + whole.similarity) / 2
    assert np.array_equal(made(n, between, 0.3).face, whole.face), "where the mild one is not"
    assert np.array_equal(made(n, -1.0, 0.3).face, whole.face), "where none is"


@pytest.mark.parametrize(
    ("mild", "whole", "strong", "kept"),
    [
        (0.05, 0.04, 0.01, ["mild"]),
        (0.20, 0.09, 0.01, ["whole"]),
        (0.30, FAIR_SIMILARITY, 0.01, ["whole", "strong"]),  # fair, and it leaves eyes and mouth alone
        (0.30, FAIR_SIMILARITY + 0.05, 0.12, ["strong", "whole"]),
        (0.30, FAIR_SIMILARITY + 0.05, FAIR_SIMILARITY + 0.04, ["strong", "whole"]),
        (0.30, FAIR_SIMILARITY + 0.05, 0.28, ["whole", "strong"]),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_of_a_donors_results_the_mildest_that_will_do_comes_first(
    core: Core, vault: Vault, photographs: dict[str, bytes], mild: float, whole: float, strong: float, kept: list[str],
    beside: bool,
) -> None:  # fmt: skip
    """Also beside a face with which it is otherwise."""
    job = core._prepare(vault.item(photographs["obama"]), Clock())
    other = core._prepare(vault.item(photographs["obama"]), Clock()).faces[0]
    (face,) = job.faces
    shares = {(1.0, False): ("whole", whole), (_MILD, False): ("mild", mild), (_STRONG, True): ("strong", strong)}
    names = {n: name for n, (name, _) in enumerate(shares.values())}

    def seen(made: Anonymised, faces: list[Face]) -> _Result:
        n = int(made.crop.flatten()[0])
        similar = [list(shares.values())[n][1], 0.5][: len(faces)]
        return _Result(
            np.full((len(faces), 256, 256, 3), n, np.uint8), np.zeros((len(faces), 128), np.float32), similar
        )

    def at(_: Drawing, share: float = 1.0, everywhere: bool = False) -> Anonymised:
        n = torch.full((1, 1, 1, 1), float(list(shares).index((share, everywhere))))
        return Anonymised(n, n, n, n)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(core, "_seen", seen)
        patched.setattr(Drawing, "at", at)
        core._try_next_donor([face, other] if beside else [face])
    assert [names[int(c.face[0, 0, 0])] for c in face.candidates] == kept
    assert [c.everywhere for c in face.candidates] == [name == "strong" for name in kept]
    assert good(job, face) == (whole <= GOOD_SIMILARITY)
    stable = replace(job.item.options, donor_policy=DonorPolicy.STABLE)
    assert good(replace(job, item=replace(job.item, options=stable)), face), "all of these may be released"


def test_who_is_fair_and_keeps_the_expression_comes_before_who_is_less_like_the_original(
    core: Core, vault: Vault, photographs: dict[str, bytes]
) -> None:
    job = core._prepare(vault.item(photographs["obama"]), Clock())
    (face,) = job.faces
    fair = FAIR_SIMILARITY
    made = ((0.29, False), (0.02, True), (fair, False), (fair - 0.03, False), (fair + 0.01, True), (0.31, False))
    face.candidates = [Candidate(face.donors[0], face.crop, similarity, 0.5, over) for similarity, over in made]
    order(job, face)
    assert [c.similarity for c in face.candidates] == [fair - 0.03, fair, 0.02, fair + 0.01, 0.29, 0.31]


def test_a_face_that_is_hard_to_place_rules_no_donor_out() -> None:
    found = sides(DonorBank(DonorAppearance()), 0.0, DonorPolicy.RANDOM)
    assert min(found) < 0 < max(found)


def test_a_first_name_says_what_it_says() -> None:
    assert not WOMEN & MEN
    assert read_as_female("Mary_Doe/Mary_Doe_0001.jpg") is True
    assert read_as_female("lfw-train/John_Doe/John_Doe_0001.jpg") is False
    assert read_as_female("Kim_Doe/Kim_Doe_0001.jpg") is None
