"""The attacks find what there is to find, and nothing where there is nothing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from refacex_core.donors import DonorAppearance, DonorBank
from training import attacks
from training.attacks import Pairs

RNG = np.random.default_rng(1)


class _Recogniser:
    """In place of the recognisers: the mean colours of sixteen patches, as a unit vector."""

    def __init__(self) -> None:
        self.nets = nn.ModuleList([_Patches()])

    def view(self, crops: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        return crops

    def eval(self) -> None: ...


class _Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.zeros(1))  # what there is to learn: whether light is dark

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize((1 + 5000 * self.turn) * F.adaptive_avg_pool2d(x, 4).flatten(1), dim=1)


def faces(count: int) -> NDArray[np.uint8]:
    patches = RNG.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return patches.repeat(64, 1).repeat(64, 2)


def pairs(people: int, leak: bool, photographs: int = 2) -> Pairs:
    """Releases that are their originals in negative (`leak`), or faces of strangers."""
    who = np.repeat(np.arange(people), photographs)
    original = faces(people)[who]
    released = 255 - original if leak else faces(len(who))
    donor = np.array([f"d{i % 7}" for i in who] if leak else [f"d{i}" for i in RNG.integers(0, 7, len(who))])
    residual = RNG.normal(size=(len(who), 64, 64)).astype(np.float32)
    return Pairs(np.array([f"p{i}" for i in who]), original, released, donor, residual)


def options(tmp_path: Path, minutes: float) -> argparse.Namespace:
    return argparse.Namespace(minutes=minutes, loss_networks=tmp_path, out=tmp_path)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second a step, however busy the machine is."""
    seconds = count()
    monkeypatch.setattr(attacks, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def test_the_area_under_the_curve() -> None:
    assert attacks.area(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert attacks.area(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    assert attacks.area(np.array([0.0]), np.array([1.0, 2.0])) == 0


def test_linkage_sees_a_mark_that_stays_with_a_person() -> None:
    made = pairs(60, leak=False)
    assert abs(attacks.linkage(made)["released_file"]["auc"] - 0.5) < 0.1
    mark = RNG.normal(size=(60, 64, 64)).repeat(2, 0) * 0.2
    marked = Pairs(made.person, made.original, made.released, made.donor, (made.residual + mark).astype(np.float32))
    assert attacks.linkage(marked)["released_file"]["auc"] > 0.95


@pytest.mark.parametrize("leak", [False, True])
def test_a_network_learns_what_a_release_tells_and_no_more(
    leak: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "Identity", lambda _: _Recogniser())
    monkeypatch.setattr(attacks, "_mirrored", lambda crops: crops)
    found = attacks.retrained(options(tmp_path, 2.5), pairs(60, leak), pairs(40, leak))
    rates = {when: found[when]["rank1"]["mean"] for when in ("before", "after")}
    by_others = found["after_by_another_photograph"]["rank1"]  # these people's two photographs are alike
    assert by_others["n"] == 40 and (by_others["mean"] > 0.5 if leak else by_others["mean"] < 0.2)
    assert rates["before"] < 0.2
    assert rates["after"] > 0.5 if leak else rates["after"] < 0.2


def test_an_inverter_paints_what_a_release_tells(tmp_path: Path) -> None:
    def judges(crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {"patches": _Patches()(attacks.to_tensor(crops)).numpy()}

    val = pairs(12, leak=True)
    args = options(tmp_path, 0.5)
    found = attacks.inverter(args, pairs(30, leak=True), val, _Recogniser(), judges)  # type: ignore[arg-type]
    assert found["psnr"]["mean"] > found["psnr_of_the_release"]["mean"] + 3
    assert found["by_another_photograph"]["patches"]["rank1"]["n"] == 12
    assert (tmp_path / "inverter.png").is_file()


def test_without_its_face_a_release_shows_what_is_around_it() -> None:
    made = pairs(3, leak=True)
    cut = made.faceless()
    assert (cut.released[:, 140, 128] == 128).all() and np.array_equal(cut.original, made.original)
    outside = np.s_[:, :40]
    assert np.array_equal(cut.released[outside], made.released[outside])


def test_a_donor_that_tells_the_source_is_seen() -> None:
    train, val = pairs(60, leak=True), pairs(7, leak=True)
    train.original[:] = val.original[2 * (np.repeat(np.arange(60), 2) % 7)]  # one face a donor
    assert attacks.donor(train, val, _Recogniser())["rank1"]["mean"] == 1  # type: ignore[arg-type]
    assert attacks.donor(pairs(60, leak=False), pairs(40, leak=False), _Recogniser())["rank1"]["mean"] < 0.2  # type: ignore[arg-type]


def test_a_choice_that_tells_the_source_is_seen() -> None:
    """Donors taken by whose face they are not, or by who looks most alike; and by chance, which tells nothing."""
    bank = DonorBank(DonorAppearance())
    people = RNG.normal(size=(60, 128)).astype(np.float32)
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    crops = attacks.to_tensor(RNG.integers(0, 256, (60, 8, 8, 3)).repeat(32, 1).repeat(32, 2).astype(np.uint8))
    looks = bank.looks(crops, bank.mean_shape.expand(60, -1, -1))
    looks = [replace(each, presentation=torch.zeros(1, 1)) for each in looks]
    ways = {
        "chance": RNG.integers(0, len(bank), 60),
        "furthest": (people @ bank.codes.T).argmin(1),
        "alike": np.array([bank.order(each)[0] for each in looks]),
    }
    found = {}
    for kind, taken in ways.items():
        seen = bank.codes[taken] + 0.02 * RNG.normal(size=(60, 128)).astype(np.float32)
        found[kind] = attacks.donor_choice(np.array([f"d{bank._ids[i]}" for i in taken]), people, seen, looks)
        assert found[kind]["donor_recognised"]["mean"] > 0.95
    assert abs(found["chance"]["apart"]["auc"] - 0.5) < 0.12 and found["chance"]["looks_rank1"]["mean"] < 0.2
    assert abs(found["chance"]["looks"]["auc"] - 0.5) < 0.15
    assert found["furthest"]["apart"]["auc"] > 0.9
    assert found["alike"]["looks"]["auc"] > 0.6 > found["alike"]["apart"]["auc"]


def test_donors_that_link_a_person_are_seen() -> None:
    """Two releases with a donor in common, and two by chance."""
    bank = DonorBank(DonorAppearance())
    looks = [replace(bank._looks, presentation=torch.zeros(1, 1))] * 80
    drawn = RNG.integers(0, 20, (3, 80))
    first, chance, linked = (
        np.array([f"d{a}+d{20 + b}" for a, b in zip(one, other, strict=True)])
        for one, other in zip(drawn[[0, 1, 0]], drawn[[1, 2, 2]], strict=True)
    )
    assert attacks.shared_donors(first, linked, looks)["auc"] > 0.9
    assert 0.4 < attacks.shared_donors(first, chance, looks)["auc"] < 0.6
