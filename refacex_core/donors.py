"""Donors: a bank of identity codes, what each code looks like, and how one is chosen for a face.

A donor code is a 128-d SFace vector of unit length. The bank's codes come from CC0 portraits of people who do not exist;
what lies between two of them looks like both. What a code looks like is an
appearance model in the sense of Cootes, Edwards and Taylor (*Active appearance models*, 2001): a shape (162 points) and a
texture in the frame of the mean shape, both linear in coefficients that attention over the bank's codes gives. The
portraits themselves are not shipped.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.age import Age
from refacex_core.errors import ModelFileMissing
from refacex_core.faces import expression
from refacex_core.faces.gaze import Gaze
from refacex_core.faces.landmarks import oval_mask, parts_mask
from refacex_core.faces.presentation import Presentation
from refacex_core.layers import gaussian
from refacex_core.looks import NEAREST, SUITS, Looks, distances, of_faces, of_textures
from refacex_core.payload.network import WINDOW, window
from refacex_core.recognisers import unit
from refacex_core.types import DonorPolicy

_FILE = Path(__file__).parent / "weights" / "donors.safetensors"
_SHARPNESS = 40.0
_COARSE = 4  # pixels of a texture that skin is carried on by
_SKIN = 0.35  # how far from the skin beside it, of 2, what is at the rim may be
_KEPT = "codes", "shapes", "mean_shape", "presentation", "ages"  # of the bank's file, as they are
#: Masks of parts: which, how far beyond their points, and how soft their edge is, in pixels.
_PARTS = (
    ("lips", ("lips",), 6, 4.0),
    ("expressive", ("left_eye", "right_eye", "lips"), 4, 3.0),
    ("brows", ("left_eyebrow", "right_eyebrow"), 5, 3.0),
)
TEXTURE = (WINDOW[2] * 3 // 4, WINDOW[3] * 3 // 4)
#: A donor this near to the source (cosine on SFace) is not used.
TOO_NEAR = 0.25
#: One in so many of those who are read as a face is looks enough like it, and at least so many do.
ALIKE, ALIKE_AT_LEAST = 4, 16
_ROUNDS = 4  # in each of which nobody of a pool is in two pairs
#: A mouth is taken from another donor where its own is so much further from the wanted opening. So much of its colour weighs as much, and
#: so much of how its face is read: stubble comes with it.
_GAP, _COLOUR, _READ = 0.05, 0.3, 0.4


@dataclass(frozen=True)
class Donor:
    """A chosen donor: a name for reports and its unit code (128).

    `d5` is the bank's; `d5+d9` lies between two of the bank's, and has something of either: fewer wrinkles and marks than both, and
    a face that no portrait shows.
    """

    name: str
    code: NDArray[np.float32]


class DonorAppearance(nn.Module):
    """Donor codes (B x 128) to texture (B x 3 x 208 x 192 in the mean shape's frame) and shape (B x 162 x 2, pixels)."""

    codes: Tensor
    textures: Tensor  # of the bank, N x 3 x 156 x 144
    shapes: Tensor
    mean_shape: Tensor
    presentation: Tensor
    ages: Tensor  # N x 1, years, as `refacex_core.age` reads portraits that it has not seen
    lips: Tensor  # the mask of what is a mouth's, 1 x 1 x 208 x 192
    expressive: Tensor  # of what shows an expression
    brows: Tensor
    gaps: Tensor
    lip_colours: Tensor

    def __init__(self, path: Path = _FILE) -> None:
        super().__init__()
        if not path.is_file():
            raise ModelFileMissing(path.name)
        saved = load_file(path)
        for name in _KEPT:
            self.register_buffer(name, saved[name].float())
        self.register_buffer("textures", _skin_alone(_decoded(saved), self.mean_shape), persistent=False)
        for name, parts, margin, feather in _PARTS:
            mask = torch.from_numpy(parts_mask(self.mean_shape.numpy(), parts, margin, feather))
            self.register_buffer(name, window(mask[None, None]), persistent=False)
        self.gaze = Gaze(self.mean_shape, *WINDOW[:2])
        self.register_buffer("gaps", expression.gap(self.shapes), persistent=False)
        self.register_buffer("lip_colours", self._lip_colours(_full(self.textures)), persistent=False)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        attention = self._attention(codes)
        shape = torch.einsum("bk,kij->bij", attention, self.shapes)
        return _full(torch.einsum("bk,kchw->bchw", attention, self.textures)), shape

    def _attention(self, codes: Tensor) -> Tensor:
        return torch.softmax(_SHARPNESS * F.normalize(codes, dim=1) @ self.codes.T, 1)

    def mouths(self, codes: Tensor, texture: Tensor, gap: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whose mouth to lay over the texture of `codes` (B x 3 x 208 x 192) whose own is open by `gap` where `wanted` (each B) would suit.

        The textures of the donors in the bank whose mouths are open about so far, on skin of about that colour, and who are read alike
        between male and female; which of them (B) suit better than the own mouth; and how far the better one is open (B).
        """
        apart = (self.gaps - wanted[:, None]).abs()
        cost = apart / _GAP + torch.cdist(self._lip_colours(texture), self.lip_colours) / _COLOUR
        cost += torch.cdist(self._attention(codes) @ self.presentation, self.presentation) / _READ
        best = cost.argmin(1)
        better = (gap - wanted).abs() - apart.gather(1, best[:, None])[:, 0] > _GAP
        return _full(self.textures[best]), better, torch.where(better, self.gaps[best], gap)

    def _lip_colours(self, texture: Tensor) -> Tensor:
        return (texture * self.lips).sum((2, 3)) / self.lips.sum()


def _decoded(saved: Mapping[str, Tensor]) -> Tensor:
    """The bank's textures (N x 3 x 156 x 144) from its file."""
    textures = saved["mean_texture"].float().expand(len(saved["coefficients"]), -1, -1, -1).clone()
    values = (saved["coefficients"].float() * saved["basis_scale"].float()) @ saved["basis"].float()
    textures[..., saved["inside"]] += values.view(len(textures), 3, -1)
    return textures


def _skin_alone(textures: Tensor, mean_shape: Tensor) -> Tensor:
    """Textures (N x 3 x 156 x 144) without the hair and the background at their rim: skin is carried on outwards instead.

    The outline of whom they are laid over may be wider than theirs, on one side at least where a head is turned.
    """
    # Where a texture is face for certain, and as far as it may be.
    core, rim = (
        F.interpolate(window(torch.from_numpy(oval_mask(mean_shape.numpy(), *how))[None, None]), TEXTURE, mode="area")
        for how in ((5.0, 0.9, 0.92), (3.0, 1.0, 1.0))
    )
    near, share = (gaussian(F.avg_pool2d(each, _COARSE), 4.0) for each in (textures * core, core))
    alike = torch.exp(-(((textures - _finer(near / (share + 1e-3))).abs().mean(1, keepdim=True) / _SKIN) ** 2))
    kept = torch.maximum(core, rim * alike)
    colours, weight = F.avg_pool2d(textures * kept, _COARSE), F.avg_pool2d(kept, _COARSE)
    total, share = torch.zeros_like(colours), torch.full_like(weight, 1e-6)
    for sigma, much in ((0.8, 1.0), (2.0, 0.05), (5.0, 2e-3), (12.0, 1e-4)):  # the nearest that there is
        total, share = total + much * gaussian(colours, sigma), share + much * gaussian(weight, sigma)
    return kept * textures + (1 - kept) * _finer(total / share)


def _finer(coarse: Tensor) -> Tensor:
    return F.interpolate(coarse, size=TEXTURE, mode="bilinear", align_corners=False)


def _full(textures: Tensor) -> Tensor:
    """Textures at the size of the crop's window (208 x 192)."""
    return F.interpolate(textures, size=WINDOW[2:], mode="bicubic", align_corners=False)


@torch.inference_mode()
def bank_looks(appearance: DonorAppearance) -> Looks:
    """Looks of every donor in the bank."""
    textures, shapes = appearance(appearance.codes)
    return of_textures(textures, shapes, appearance.mean_shape, appearance.presentation, appearance.ages)


class DonorBank:
    """The donors there are, and the choice among them."""

    def __init__(self, appearance: DonorAppearance) -> None:
        self.codes: NDArray[np.float32] = appearance.codes.cpu().numpy()
        self._ids = [int(i) for i in weights.card("donors")["portraits"]]  # a donor keeps its number from bank to bank
        self.mean_shape = appearance.mean_shape
        self._looks = bank_looks(appearance)
        self._presentation = Presentation().to(appearance.codes.device)
        self._age = Age(appearance.mean_shape).to(appearance.codes.device)

    def __len__(self) -> int:
        return len(self.codes)

    @torch.inference_mode()
    def looks(self, crops: Tensor, points: Tensor) -> list[Looks]:
        """Of each face, as `choose` wants them (shapes as `looks.of_faces` takes them, on the bank's device)."""
        measured = of_faces(crops, points, self.mean_shape, self._presentation(crops), self._age)
        rows = [part.split(1) for part in astuple(measured)]
        return [Looks(*row) for row in zip(*rows, strict=True)]

    def choose(
        self,
        policy: DonorPolicy,
        source_code: NDArray[np.float32],
        looks: Looks | None,
        count: int,
        seed: bytes | None = None,
        spare: int = 0,
    ) -> list[Donor]:
        """Up to `count` different donors in the order in which they are to be tried, and behind them up to `spare` for a face that none
        of these make unlike itself.

        `random` pairs, by chance, those who are read as the face is between male and female and look most like it
        (`ALIKE`; more where they are too few for so many pairs); its spare pairs come half from more of those who are read so, half from
        whoever else of the bank looks most like it. `matched` pairs those nearest to it in shape, skin and all else;
        `stable` draws single ones from the whole bank with `seed` alone, so that a subject keeps its first choice from photograph to
        photograph, and needs no looks. Whoever is near to the source's own code (128) is left out. `looks` is of the one face.
        """
        if policy is DonorPolicy.STABLE:
            return self._stable(source_code, count + spare, seed or secrets.token_bytes(16))
        if looks is None:
            raise ValueError(f"policy {policy} chooses by looks: measure them first (DonorBank.looks)")
        usable = self.order(looks, NEAREST if policy is DonorPolicy.MATCHED else SUITS)
        alike = (torch.cdist(looks.presentation, self._looks.presentation)[0] < 1).cpu().numpy()
        usable = usable[(self.codes[usable] @ source_code) < TOO_NEAR]
        if policy is DonorPolicy.MATCHED:
            return self._pairs(usable, count + spare, source_code)
        read_alike = usable[alike[usable]]
        few = max(len(read_alike) // ALIKE, ALIKE_AT_LEAST)
        first = self._draw(read_alike[:few], count, source_code)
        while len(first) < count and few < len(read_alike):
            few *= 2
            first = self._draw(read_alike[:few], count, source_code)
        more = max(len(read_alike) // 2, few + spare)
        others = usable[~np.isin(usable, read_alike[:more])]
        first += self._draw(read_alike[few:more], spare - spare // 2, source_code)
        rest = count + spare - len(first)
        return first + self._draw(others[: max(len(others) // ALIKE, ALIKE_AT_LEAST)], rest, source_code)

    def order(self, looks: Looks, weights: tuple[float, ...] = SUITS) -> NDArray[np.intp]:
        """The donors' places in the bank, those that look most like the one face first."""
        return np.asarray(distances(looks, self._looks, weights)[0].argsort().cpu().numpy())

    def _draw(self, pool: NDArray[np.intp], count: int, source_code: NDArray[np.float32]) -> list[Donor]:
        """Up to `count` pairs out of the pool, in the order in which chance drew them; as long as others are left, nobody is in two.

        If the furthest from the source came first, whoever knows the bank could tell by the donor whose face it was not
        (`training.attacks`, "donor's choice").
        """
        rng = np.random.Generator(np.random.Philox(secrets.randbits(128)))
        donors: dict[str, Donor] = {}
        for _ in range(_ROUNDS):
            for donor in self._pairs(rng.permutation(pool), count, source_code):
                donors.setdefault(donor.name, donor)
        return list(donors.values())[:count]

    def _pairs(self, places: NDArray[np.intp], count: int, source_code: NDArray[np.float32]) -> list[Donor]:
        """Up to `count` donors, each between one of the bank's and the next with whom it is not near to the source: what two have in
        common is stronger in their mean. Nobody of the bank is in two."""
        left = [int(place) for place in places]
        donors: list[Donor] = []
        while len(left) > 1 and len(donors) < count:
            one = left.pop(0)
            for other in left:
                donor = self._between(one, other)
                if donor.code @ source_code < TOO_NEAR:
                    donors.append(donor)
                    left.remove(other)
                    break
        return donors

    def _between(self, one: int, other: int) -> Donor:
        name = "+".join(f"d{number}" for number in sorted((self._ids[one], self._ids[other])))
        return Donor(name, unit(self.codes[one] + self.codes[other]))

    def _stable(self, source_code: NDArray[np.float32], count: int, seed: bytes) -> list[Donor]:
        """The donors in the order that the seed gives them, whatever the photograph looks like.

        Each has a place in it by its own number (rendezvous hashing): a bank that loses donors moves their subjects alone, one that gains
        some moves as many subjects as they are of all.
        """
        place = [hashlib.sha256(b"refacex stable donor %d " % donor + seed).digest() for donor in self._ids]
        order = sorted(range(len(self)), key=place.__getitem__)
        far = [i for i in order if self.codes[i] @ source_code < TOO_NEAR]
        return [Donor(f"d{self._ids[i]}", self.codes[i]) for i in far[:count]]
