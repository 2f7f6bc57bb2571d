"""Attacks on releases by somebody who has no key, but has releases of their own to learn from. Each is a command's output, not a claim.

    python -m training.collect --data DATA --set lfw-train --images 1500
    python -m training.collect --data DATA --set lfw-val
    python -m training.attacks --loss-networks WEIGHTS

Who attacks learns on pairs of `lfw-train` (people whom the anonymiser was trained on) and is measured on `lfw-val`, whom nobody saw. Chance
is one over the gallery. Writes `training/results/attacks.json`, and what the inverter makes, as a contact sheet, under `--out`.

- *retrained recogniser*: y1's network, trained on until a release's template is that of its original. Hair, pose, light and whatever is
  around a face are the photograph's own, so this finds the same photograph again; a gallery of other photographs says what it knows
  of people. Beside it the same with the face itself cut out of every release: what anybody reaches without looking at it.
- *inverter*: a network that paints the original from the release, with the recogniser's own gradient; judged in both galleries.
- *donor*: the source's template, guessed linearly from which donor was taken.
- *donor's choice*: are people told by the donor being further from them, or looking more like them, than strangers', or two releases
  of one person by having donors in common?
- *residual linkage*: are two releases of one person more alike in what a search for hidden marks looks at than those of two people?
  Beside it the same of the photographs themselves, as two pictures of one person often come from one camera.
- *extractor*: the sealed part's raw bits, heard at the places that another layout key names.
- *membership*: are people of the training data further from, or nearer to, their releases than others?
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core import images
from refacex_core.donors import DonorAppearance, DonorBank
from refacex_core.errors import CoreError
from refacex_core.looks import Looks
from refacex_core.pipeline import Core
from refacex_core.recognisers import unit
from refacex_core.stego import channel as stego
from refacex_core.stego import ldpc
from refacex_core.types import ItemInput, ItemOptions, Released, SealContext
from training.about import about_run
from training.common import sheet, to_images, to_tensor
from training.evaluate import Keys
from training.identities import Judges
from training.losses import Identity, jitters
from training.metrics import interval, psnr

Vectors = NDArray[np.float32]
_CHUNK = 32
LEARNT = ("retrained_recogniser", "retrained_without_the_face", "inverter")


@dataclass(frozen=True)
class Pairs:
    """Releases and their originals: whose they are, crops (N x 256 x 256 x 3), donors, residuals (N x 64 x 64) of the releases."""

    person: NDArray[np.str_]
    original: NDArray[np.uint8]
    released: NDArray[np.uint8]
    donor: NDArray[np.str_]
    residual: NDArray[np.float32]

    @staticmethod
    def load(folder: Path) -> Pairs:
        """What `training.collect` wrote."""
        parts = [np.load(path) for path in sorted(folder.glob("*.npz"))]
        if not parts:
            raise SystemExit(f"{folder}: nothing here; run training.collect first")
        return Pairs(**{key: np.concatenate([part[key] for part in parts]) for key in parts[0].files})

    def __len__(self) -> int:
        return len(self.person)

    def two_each(self) -> NDArray[np.int64]:
        """Two pairs of each person who has two (N x 2)."""
        rows = [np.flatnonzero(self.person == person)[:2] for person in np.unique(self.person)]
        return np.array([pair for pair in rows if len(pair) == 2])

    def faceless(self) -> Pairs:
        """The same with the middle of every released face grey."""
        oval = cv2.ellipse(np.zeros((256, 256), np.uint8), (128, 140), (62, 80), 0, 0, 360, 1, -1)
        return replace(self, released=np.where(oval[None, ..., None] > 0, np.uint8(128), self.released))

    def one_each(self) -> NDArray[np.int64]:
        """The first pair of each person."""
        return np.sort(np.unique(self.person, return_index=True)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss-networks", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, default=Path("out/attacks"))
    parser.add_argument("--minutes", type=float, default=20, help="for each network that is trained")
    parser.add_argument("--only", nargs="*", choices=LEARNT, help="these anew; all other figures stay as they are")
    parser.add_argument("--out", type=Path, default=Path("out/attacks"))
    parser.add_argument("--results", type=Path, default=Path("training/results"))
    args = parser.parse_args()
    torch.manual_seed(0)
    train, val = (Pairs.load(args.pairs / name) for name in ("lfw-train", "lfw-val"))
    judges, identity = Judges(args.loss_networks), Identity(args.loss_networks)
    path = args.results / "attacks.json"
    learnt: dict[str, Callable[[], dict[str, Any]]] = {
        "retrained_recogniser": lambda: retrained(args, train, val),
        "retrained_without_the_face": lambda: retrained(args, train.faceless(), val.faceless()),
        "inverter": lambda: inverter(args, train, val, identity, judges),
    }
    if args.only:
        result = json.loads(path.read_text()) | {"learnt_anew": {**about_run(), "attacks": args.only}}
        result |= {name: learnt[name]() for name in args.only}
        path.write_text(json.dumps(result, indent=2) + "\n")
        return
    result = {**about_run(), "pairs": {"lfw-train": len(train), "lfw-val": len(val)}}
    seen = {kind: _templates(judges, getattr(val, kind)[val.one_each()]) for kind in ("original", "released")}
    result["gallery"] = len(val.one_each())
    result["untouched"] = {name: rank(seen["released"][name], seen["original"][name]) for name in seen["original"]}
    result["donor"] = donor(train, val, identity)
    result["donor_choice"] = choices(val, judges)
    result["residual_linkage"] = linkage(val)
    result["membership"] = membership(judges, train, val)
    result["extractor"] = extractor(val)
    result |= {name: attack() for name, attack in learnt.items()}
    args.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def rank(probes: Vectors, gallery: Vectors) -> dict[str, Any]:
    """Rank-1 and rank-5 of probes (N x D) whose own originals stand at the same places of the gallery."""
    scores = probes @ gallery.T
    better = (scores > np.diag(scores)[:, None]).sum(1)
    return {f"rank{k}": interval((better < k).astype(float).tolist()) for k in (1, 5)}


def area(genuine: NDArray[np.floating], impostor: NDArray[np.floating]) -> float:
    """The area under the ROC curve: how often a genuine score is above an impostor's."""
    ordered = np.sort(impostor)
    below, upto = np.searchsorted(ordered, genuine), np.searchsorted(ordered, genuine, "right")
    return float((below + upto).mean() / 2 / len(ordered))


def area_interval(genuine: NDArray[np.floating], impostor: NDArray[np.floating], draws: int = 500) -> dict[str, float]:
    """The same with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    drawn = [area(rng.choice(genuine, len(genuine)), rng.choice(impostor, len(impostor))) for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    figures = {"auc": area(genuine, impostor), "low": low, "high": high}
    return {key: round(float(value), 4) for key, value in figures.items()} | {"n": len(genuine)}


def donor(train: Pairs, val: Pairs, identity: Identity) -> dict[str, Any]:
    """Rank-1 by the template that a ridge regression gives for the donors that were taken (which a release's report names)."""
    both = [_taken(pairs.donor) for pairs in (train, val)]
    names = sorted(set().union(*both[0], *both[1]))
    taken = [np.array([[name in those for name in names] for those in each], float) for each in both]
    wanted = _y1(identity, train.original)
    mean = wanted.mean(0)
    x = taken[0]
    fitted = np.linalg.solve(x.T @ x + 3.0 * np.eye(len(names)), x.T @ (wanted - mean))
    rows = val.one_each()
    guessed = taken[1][rows] @ fitted + mean
    guessed /= np.linalg.norm(guessed, axis=1, keepdims=True)
    return rank(guessed.astype(np.float32), _y1(identity, val.original[rows]))


def _taken(donors: NDArray[np.str_]) -> list[set[str]]:
    """Of the bank's donors, those that each release's is made of."""
    return [set(name.split("+")) for name in donors]


def donor_choice(taken: NDArray[np.str_], original: Vectors, released: Vectors, looks: list[Looks]) -> dict[str, Any]:
    """What the choice of a donor tells of whose face it replaced, of people with SFace templates (N x 128) and looks of a photograph.

    How often one of the bank's donors that it is made of is recognised in the release; how often the donor that was taken is less like
    its original than like somebody else who is read alike (`apart`), and looks more like it, in the bank's order for each (`looks`): .5
    where the choice tells nothing; and rank-1 by the looks.
    """
    bank = DonorBank(DonorAppearance())
    row = {f"d{number}": i for i, number in enumerate(bank._ids)}
    share = np.zeros((len(taken), len(bank)))
    for of, names in zip(share, _taken(taken), strict=True):
        of[[row[name] for name in names]] = 1 / len(names)
    guessed = (released @ bank.codes.T).argmax(1)
    alike = _read_alike(looks)
    by_code = -(unit(share @ bank.codes) @ original.T)
    places = np.stack([bank.order(each).argsort() for each in looks])  # of each donor, a person
    by_looks = -(share @ places.T)
    return {
        "donor_recognised": interval((share[np.arange(len(share)), guessed] > 0).astype(float).tolist()),
        "apart": area_interval(np.diag(by_code), by_code[alike]),
        "looks": area_interval(np.diag(by_looks), by_looks[alike]),
        "looks_rank1": interval((by_looks.argmax(1) == np.arange(len(share))).astype(float).tolist()),
    }


def shared_donors(first: NDArray[np.str_], second: NDArray[np.str_], looks: list[Looks]) -> dict[str, float]:
    """Are two releases of one person told by their donors? How often two of one person (`first` and `second`) have more of the bank's
    donors in common than two of different people who are read alike: .5 where donors link nobody."""
    common = np.array([[len(one & other) for other in _taken(second)] for one in _taken(first)])
    return area_interval(np.diag(common), common[_read_alike(looks)])


def _read_alike(looks: list[Looks]) -> NDArray[np.bool_]:
    """Which two different people are read alike between male and female (N x N)."""
    read = np.array([float(each.presentation) for each in looks])
    return np.asarray((np.abs(read[:, None] - read) < 1) & ~np.eye(len(read), dtype=bool))


def _looks_of(core: Core, crops: NDArray[np.uint8]) -> list[Looks]:
    """Looks of crops (N x 256 x 256 x 3) as the core measures them."""
    tensors = to_tensor(crops)
    return core._bank.looks(tensors, core._landmarks(tensors))


def choices(val: Pairs, judges: Judges) -> dict[str, Any]:
    """`donor_choice` where the attacker has the released photograph's original, and where another photograph of each person; and
    `shared_donors`."""
    core = Core.load("cpu")
    two = val.two_each()
    seen = {kind: _templates(judges, getattr(val, kind)[two[:, 0]])["sface"] for kind in ("original", "released")}
    other = _templates(judges, val.original[two[:, 1]])["sface"]
    known = {"the_original": (seen["original"], two[:, 0]), "another_photograph": (other, two[:, 1])}
    looks = {name: _looks_of(core, val.original[rows]) for name, (_, rows) in known.items()}
    found = {
        name: donor_choice(val.donor[two[:, 0]], templates, seen["released"], looks[name])
        for name, (templates, _) in known.items()
    }
    first, second = val.donor[two].T
    return found | {"in_common": shared_donors(first, second, looks["the_original"])}


def linkage(val: Pairs) -> dict[str, Any]:
    """How well two releases of one person are told from those of two people by their residuals; and two originals."""
    from training.collect import residual

    two = val.two_each()
    made = val.residual
    before = np.stack([residual(crop) for crop in val.original])
    after = np.stack([residual(crop) for crop in val.released])
    return {
        name: _linked(each, two)
        for name, each in (("released_file", made), ("released_face", after), ("original_face", before))
    }


def _linked(residuals: NDArray[np.float32], two: NDArray[np.int64]) -> dict[str, float]:
    flat = residuals.reshape(len(residuals), -1)
    flat = flat - flat.mean(0)  # what all have in common, such as the header's places, tells nobody apart
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    scores = flat[two[:, 0]] @ flat[two[:, 1]].T
    return area_interval(np.diag(scores), scores[~np.eye(len(scores), dtype=bool)])


def membership(judges: Judges, train: Pairs, val: Pairs) -> dict[str, Any]:
    """Whether a release tells that its person was in the training data: by how near it is to its original."""
    rows = train.one_each()[: len(val.one_each())]
    result = {}
    by = [
        (_templates(judges, pairs.original[at]), _templates(judges, pairs.released[at]))
        for pairs, at in ((train, rows), (val, val.one_each()))
    ]
    for name in by[0][0]:
        inside, outside = ((before[name] * after[name]).sum(1) for before, after in by)
        result[name] = area_interval(inside, outside)
    return result


def extractor(val: Pairs, most: int = 60) -> dict[str, Any]:
    """The share of the sealed part's raw bits that are right at the places of another layout key, and at those of its own."""
    core, keys = Core.load(), Keys()
    context = SealContext("attacks", "", "", core.model_version, "default")
    shares: dict[str, list[float]] = {"own_key": [], "another_key": []}
    for crop in val.original[:most]:
        outcome = core.anonymise([ItemInput(images.encode(crop, "png"), keys.item(), context, ItemOptions())])[0]
        if not isinstance(outcome, Released):
            continue
        layout = keys.recovery(outcome).layout_key
        try:
            heard = core.reader.listen(images.decode(outcome.data).rgb)
            sealed = heard.open(layout).sealed
        except CoreError:
            continue
        assert heard.llr is not None
        bits = np.unpackbits(np.frombuffer(sealed, np.uint8))
        for name, key in (("own_key", layout), ("another_key", secrets.token_bytes(32))):
            places = stego._sealed_places(heard.header, key, *heard.llr.shape[1:])
            right = ldpc.encode(bits, len(places)) == (heard.llr.ravel()[places] < 0)
            shares[name].append(float(right.mean()))
    return {name: interval(each) for name, each in shares.items()}


def retrained(args: argparse.Namespace, train: Pairs, val: Pairs) -> dict[str, Any]:
    """y1's network trained on to give a release the template of its original: rank-1 before and after, by originals' y1 templates
    and by other photographs'.
    """
    teacher, pupil = Identity(args.loss_networks), Identity(args.loss_networks)
    wanted = torch.from_numpy(_y1(teacher, train.original))
    people = np.unique(train.person, return_inverse=True)[1]
    # A frozen network has its weights among its buffers.
    trained = [*pupil.nets[0].parameters(), *(each for each in pupil.nets[0].buffers() if each.dim() > 1)]
    optimiser = torch.optim.AdamW([each.requires_grad_(True) for each in trained], lr=3e-4, weight_decay=1e-3)
    rows, two = val.one_each(), val.two_each()
    gallery, others = _y1(teacher, val.original[rows]), _y1(teacher, val.original[two[:, 1]])
    before = rank(_y1(pupil, val.released[rows]), gallery)
    before_others = rank(_y1(pupil, val.released[two[:, 0]]), others)

    def lose(chosen: NDArray[np.int64]) -> Tensor:
        view = pupil.view(_mirrored(to_tensor(train.released[chosen])), jitters(len(chosen)))
        scores = 16 * pupil.nets[0](view) @ wanted.T  # against every original of the training set
        same = torch.from_numpy(people[chosen][:, None] == people[None])
        return (torch.logsumexp(scores, 1) - torch.logsumexp(scores.masked_fill(~same, -1e4), 1)).mean()

    steps, losses = _train(args.minutes, len(train), 32, lose, optimiser)
    pupil.eval()
    chosen = train.one_each()
    return {
        "before": before,
        "after": rank(_y1(pupil, val.released[rows]), gallery),
        "before_by_another_photograph": before_others,
        "after_by_another_photograph": rank(_y1(pupil, val.released[two[:, 0]]), others),
        "after_on_its_own_training_pairs": rank(
            _y1(pupil, train.released[chosen]), _y1(teacher, train.original[chosen])
        ),
        "steps": steps,
        "loss": losses,
    }


def inverter(args: argparse.Namespace, train: Pairs, val: Pairs, identity: Identity, judges: Judges) -> dict[str, Any]:
    """A network that paints originals from releases (128 x 128), led by pixels and by y1; who is recognised in what it paints."""
    net = _Painter()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    wanted = torch.from_numpy(_y1(identity, train.original))

    def paint(crops: NDArray[np.uint8]) -> Tensor:
        small = F.interpolate(to_tensor(crops), size=128, mode="area")
        return F.interpolate(net(small), size=256, mode="bicubic", align_corners=False)

    def lose(chosen: NDArray[np.int64]) -> Tensor:
        made = paint(train.released[chosen])
        near = 1 - (identity.nets[0](identity.view(made, jitters(len(chosen)))) * wanted[chosen]).sum(1).mean()
        return F.l1_loss(made, to_tensor(train.original[chosen])) + 0.5 * near

    steps, losses = _train(args.minutes, len(train), 16, lose, optimiser)
    net.eval()
    rows, two = val.one_each(), val.two_each()

    def painted(chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        with torch.inference_mode():
            return np.concatenate([to_images(paint(val.released[part])) for part in _chunks(chosen)])

    made = painted(rows)
    truth, released = val.original[rows], val.released[rows]
    shown = range(min(10, len(rows)))
    sheet([[each[i] for i in shown] for each in (truth, released, made)], args.out / "inverter.png")
    seen, known = _templates(judges, made), _templates(judges, truth)
    of_two, others = _templates(judges, painted(two[:, 0])), _templates(judges, val.original[two[:, 1]])
    return {
        **{name: rank(seen[name], known[name]) for name in seen},
        "by_another_photograph": {name: rank(of_two[name], others[name]) for name in seen},
        "psnr": interval([psnr(a, b) for a, b in zip(truth, made, strict=True)]),
        "psnr_of_the_release": interval([psnr(a, b) for a, b in zip(truth, released, strict=True)]),
        "steps": steps,
        "loss": losses,
    }


class _Painter(nn.Module):
    """A small U-Net (Ronneberger et al., 2015) that adds to what it is given (B x 3 x 128 x 128, -1..1)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 4 * width]
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(_block(a, b, 2) for a, b in pairwise(sizes))
        self.up = nn.ModuleList(_block(b + a, a, 1) for a, b in pairwise(sizes))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [F.silu(self.first(x))]
        for down in self.down:
            seen.append(down(seen[-1]))
        y = seen.pop()
        for up in reversed(self.up):
            y = up(torch.cat([F.interpolate(y, scale_factor=2.0), seen.pop()], 1))
        out: Tensor = x + self.last(y)
        return out


def _block(inside: int, outside: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1), nn.GroupNorm(8, outside), nn.SiLU(),
        nn.Conv2d(outside, outside, 3, 1, 1), nn.GroupNorm(8, outside), nn.SiLU(),
    )  # fmt: skip


def _train(
    minutes: float,
    count: int,
    batch: int,
    lose: Callable[[NDArray[np.int64]], Tensor],
    optimiser: torch.optim.Optimizer,
) -> tuple[int, list[float]]:
    """Steps by the clock, the rate falling to nothing; gives their number and ten means of the loss."""
    rng, started, losses = np.random.default_rng(0), time.monotonic(), []
    rates = [group["lr"] for group in optimiser.param_groups]
    while (share := (time.monotonic() - started) / (60 * minutes)) < 1:
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - share)
        loss = lose(rng.choice(count, min(batch, count), replace=False))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return len(losses), [round(float(part.mean()), 4) for part in np.array_split(losses, min(10, len(losses)))]


def _mirrored(crops: Tensor) -> Tensor:
    """Half of them the other way round."""
    return torch.where(torch.rand(len(crops), 1, 1, 1) < 0.5, crops, crops.flip(3))


def _y1(identity: Identity, crops: NDArray[np.uint8]) -> Vectors:
    with torch.inference_mode():
        parts = [identity.nets[0](identity.view(to_tensor(part))).numpy() for part in _chunks(crops)]
    return np.concatenate(parts)


def _templates(judges: Judges, crops: NDArray[np.uint8]) -> dict[str, Vectors]:
    parts = [judges(part) for part in _chunks(crops)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _chunks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (rows[at : at + _CHUNK] for at in range(0, len(rows), _CHUNK))


if __name__ == "__main__":
    main()
