"""The anonymiser: a U-Net that a donor code steers through Identity Feature Fusion.

The donor's appearance (texture and shape that its code decodes to) is brought into the source's pose and light; the U-Net
sees it beside the source. In its decoder the donor code modulates the features (adaptive group normalisation), and at every
scale a learned mask chooses between these donor features and the skip features of the source: Identity Feature Fusion. What
comes out replaces the inside of the face oval; every pixel outside the mask stays as it was.

After *ReFaceX: donor-driven reversible face anonymisation with detached recovery* (Sci. Rep. 2026). Nothing here takes a
gradient from the recovery: `Anonymiser.forward` is called under training losses of its own, and everything after it works on
detached images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core.donors import DonorAppearance
from refacex_core.faces import expression, warp
from refacex_core.faces.landmarks import GROUPS, oval_mask
from refacex_core.layers import blur, filled
from refacex_core.payload.network import WINDOW

#: How far each part moves from the source's shape (0) to the donor's in the source's pose (1). The oval goes half the way:
#: all the way would show the edge of a narrower donor's jaw inside the source's outline. Eyes, brows and mouth keep something of the
#: source's shape, for what they do is its expression.
SHAPE_FROM_DONOR = {
    "face_oval": 0.5,
    "lips": 0.2, "left_eye": 0.8, "right_eye": 0.8, "left_eyebrow": 0.7, "right_eyebrow": 0.7,
    "nose": 1.0, "left_iris": 0.9, "right_iris": 0.9,
}  # fmt: skip
_IRISES = GROUPS["right_iris"], GROUPS["left_iris"]
REACH = 8.0  # pixels that the network may move a part of the face; a `Drawing` takes it further
_SHARPER = 1.5  # so much of a correction is taken: what it does by blotches it does by lines as well
LIGHT_SIGMA = 30.0  # pixels: light and skin tone coarser than this come from the source
#: Rows: lightness, red against green, yellow against blue; orthonormal.
_OPPONENT = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))
_LEAST_GAIN = (0.55, 0.4, 0.4)  # below it, eyes, brows and lips would fade
#: Beyond it, skin would show what a portrait's flat light had hidden; colours are never made stronger.
_MOST_GAIN = (1.4, 1.0, 1.0)


@dataclass(frozen=True)
class Drawing:
    """How far what the network draws is taken: `further` times its moves, and no correction beyond `most` of the 2 from black to white
    (0: none)."""

    further: float
    most: float


#: What is moved alone looks most like a photograph; what is drawn strongly, the least like the source.
MOVED, GENTLE, STRONG = Drawing(1.6, 0.0), Drawing(1.8, 0.12), Drawing(1.8, 0.25)


def target_shape(source: Tensor, donor: Tensor, shown: Tensor | None = None) -> Tensor:
    """Where the donor's points go: pose, outline and expression of the source, shape of the donor (each B x 162 x 2).

    `shown`: how far the mouth that is drawn there is open (`expression.gap`, B).
    """
    ones = torch.ones_like(donor[..., :1])
    basis = torch.cat([donor, ones], 2)
    # Regularised: an affine fit over 162 points is well determined, but a collapsed mesh must not break it.
    gram = basis.transpose(1, 2) @ basis + 1e-3 * torch.eye(3, dtype=donor.dtype, device=donor.device)
    posed = basis @ warp.solve(gram, basis.transpose(1, 2) @ source)
    weight = torch.zeros(source.shape[1], 1, dtype=source.dtype, device=source.device)
    for part, share in SHAPE_FROM_DONOR.items():
        weight[torch.from_numpy(GROUPS[part])] = share
    return expression.carry(source + weight * (posed - source), source, shown)


def tone(donor: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The donor's face with about as much contrast inside the mask as the source's has there, and no more colour: of its details, for
    light coarser than `LIGHT_SIGMA` is `relight`'s.

    Under flat light a studio portrait's skin would look darker and redder than the ears beside it, and under hard light as if seen
    through haze. Standard deviations in an opponent colour space, after Reinhard et al., *Color transfer between images*, 2001.
    """
    opponent = torch.tensor(_OPPONENT, device=donor.device, dtype=donor.dtype)
    inside = (mask > 0.5).to(donor)
    count, share = inside.sum((2, 3), keepdim=True).clamp(min=1), blur(inside, LIGHT_SIGMA) + 1e-3

    def parted(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        colours = torch.einsum("ij,bjhw->bihw", opponent, image)
        coarse = blur(colours * inside, LIGHT_SIGMA) / share
        return coarse, colours - coarse, (((colours - coarse) ** 2 * inside).sum((2, 3), keepdim=True) / count).sqrt()

    coarse, details, spread = parted(donor)
    _, _, wanted = parted(source)
    least, most = (torch.tensor(bound).to(donor).view(1, 3, 1, 1) for bound in (_LEAST_GAIN, _MOST_GAIN))
    gain = (1.1 * wanted / (spread + 1e-3)).minimum(most).maximum(least)
    return torch.einsum("ij,bjhw->bihw", opponent.T, coarse + gain * details)


def relight(donor: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The donor's face with the source's coarse light and colour, both measured inside the mask."""
    inside = (mask > 0.02).to(source)
    share = blur(inside, LIGHT_SIGMA) + 1e-3
    difference = blur((source - donor) * inside, LIGHT_SIGMA) / share
    return donor + difference


def seamless(face: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The face with its colours led to the source's along the mask's edge (after Perez et al., *Poisson image editing*, 2003).

    The difference on the edge is spread inwards by normalised blurs, the near ones first. Where face and source are far
    apart there, hair or background meets skin, and no colour is taken over.
    """
    difference = source - face
    alike = torch.exp(-((difference.abs().mean(1, keepdim=True) / 0.35) ** 2))
    edge = 4 * mask * (1 - mask) * alike
    total, weight = torch.zeros_like(face), torch.full_like(mask, 0.02)
    for sigma, share in ((5.0, 1.0), (12.0, 0.15), (28.0, 0.03)):
        total = total + share * blur(edge * difference, sigma)
        weight = weight + share * blur(edge, sigma)
    return face + (total / weight).clamp(-0.4, 0.4)


def interior(mask: Tensor) -> Tensor:
    """Where the network may draw: 0 along the mask's edge, where a line would show, 1 from about 14 pixels inside it."""
    return ((blur(mask, 8.0) - 0.55) / 0.4).clamp(0, 1)


def together(move: Tensor, brows: Tensor) -> Tensor:
    """Moves (B x 2) that bend a brow where they would pull it apart; `brows` (B x 1, 0..1): where they are."""
    whole = blur(move * brows, 12.0) / (blur(brows, 12.0) + 1e-3)
    near = (1.5 * blur(brows, 6.0)).clamp(0, 1)
    joined = move + brows * (whole - move)
    return joined + near * (blur(joined, 3.0) - joined)


class _Modulated(nn.Module):
    """Convolution whose normalised features the donor code scales and shifts."""

    def __init__(self, inputs: int, outputs: int, code: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(8, outputs, affine=False)
        self.style = nn.Linear(code, 2 * outputs)
        nn.init.zeros_(self.style.weight)
        nn.init.zeros_(self.style.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.style(code)[:, :, None, None].chunk(2, 1)
        modulated: Tensor = F.gelu(self.norm(self.conv(x)) * (1 + scale) + shift)
        return modulated


class IdentityFeatureFusion(nn.Module):
    """A learned mask (B x 1 x h x w) chooses between donor features and the source's skip features."""

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        self.donor = _Modulated(width, width, code)
        self.mask = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor, code: Tensor) -> Tensor:
        donor: Tensor = self.donor(x, code)
        choice = torch.sigmoid(self.mask(torch.cat([donor, skip], 1)))
        return choice * donor + (1 - choice) * skip


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(8, outputs), nn.GELU())


class FusionUNet(nn.Module):
    """Source, posed donor and mask (B x 7 x 256 x 256) and code (B x 128) to what is done to the donor's face: where each
    pixel is taken from (B x 2 x 256 x 256, pixels to the right and down, within `REACH`) and a correction (B x 3)."""

    def __init__(self, widths: tuple[int, int, int, int] = (64, 128, 160, 192), code: int = 128) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(7 * 16, a, 3, padding=1), nn.GroupNorm(8, a), nn.GELU()
        )
        self.down1, self.down2, self.down3 = _down(a, b), _down(b, c), _down(c, d)
        self.middle = _Modulated(d, d, code)
        self.fuse3 = IdentityFeatureFusion(d, code)
        self.up2, self.fuse2 = nn.Conv2d(d, c, 1), IdentityFeatureFusion(c, code)
        self.up1, self.fuse1 = nn.Conv2d(c, b, 1), IdentityFeatureFusion(b, code)
        self.up0, self.fuse0 = nn.Conv2d(b, a, 1), IdentityFeatureFusion(a, code)
        self.move = filled(nn.Conv2d(b, 2, 3, padding=1))
        self.last = _Modulated(a, a, code)
        self.out = nn.Sequential(filled(nn.Conv2d(a, 48, 3, padding=1)), nn.PixelShuffle(4))

    def forward(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        s0 = self.stem(x)
        s1 = self.down1(s0)
        s2 = self.down2(s1)
        s3 = self.down3(s2)
        y = self.fuse3(self.middle(s3, code), s3, code)
        y = self.fuse2(_twice(self.up2(y)), s2, code)
        y = self.fuse1(_twice(self.up1(y)), s1, code)
        move = REACH * torch.tanh(F.interpolate(self.move(y), scale_factor=8, mode="bicubic", align_corners=False))
        y = self.fuse0(_twice(self.up0(y)), s0, code)
        return move, self.out(y + self.last(y, code))


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Sketch(NamedTuple):
    """What can be drawn of a donor on a face: the donor's face in the source's pose and light (B x 3 x 256 x 256); from where the
    network would take each of its pixels (B x 2, pixels to the right and down) and how much lighter it would make it (B x 1); and where
    it may (B x 1, 0..1)."""

    posed: Tensor
    move: Tensor
    shade: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Anonymised:
    """What the anonymiser made: the crop with the face in it, the mask that it changed (B x 1), the face alone without
    anything of the source blended in, and the donor's face before correction."""

    crop: Tensor
    face: Tensor
    mask: Tensor
    posed: Tensor


class Anonymiser(nn.Module):
    """Crops and donor codes to crops of somebody else."""

    def __init__(self, appearance: DonorAppearance | None = None) -> None:
        super().__init__()
        self.appearance = appearance or DonorAppearance()
        self.unet = FusionUNet()

    def pose(self, source: Tensor, points: Tensor, codes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The donor's face in the pose and light of the source; where its eyes and mouth are, and its brows (B x 2, 0..1). No gradient."""
        with torch.no_grad():
            texture, shape = self.appearance(codes)
            mouth, better, shown = self.appearance.mouths(codes, texture, expression.gap(shape), expression.gap(points))
            laid = self.appearance.lips * better[:, None, None, None]
            texture = texture + laid * (seamless(mouth, texture, laid) - texture)
            target = target_shape(points, shape, shown)
            mean = self.appearance.mean_shape[None].expand(len(points), -1, -1)
            irises = torch.stack([target[:, rows].mean(1) for rows in _IRISES], 1)
            fit = warp.spline(expression.ahead(target, mean).double(), mean.double())
            texture = self.appearance.gaze.turned(texture, warp.evaluate(fit, irises.double()).to(texture))
            where = warp.over(fit, 0, 0, 256, 256, stride=4)
            offset = torch.tensor([WINDOW[1], WINDOW[0]], device=source.device, dtype=where.dtype)
            posed = tone(warp.sample(texture, where - offset), source, mask)
            parts = torch.cat([self.appearance.expressive, self.appearance.brows], 1)
            parts = warp.sample(parts.expand(len(points), -1, -1, -1), where - offset)
            return seamless(relight(posed, source, mask), source, mask).clamp(-1, 1), parts

    def forward(
        self, source: Tensor, points: Tensor, codes: Tensor, mask: Tensor | None = None, drawing: Drawing = STRONG
    ) -> Anonymised:
        """`source` B x 3 x 256 x 256 in -1..1, `points` B x 162 x 2 pixels of the crop, `codes` B x 128 unit vectors,
        `mask` B x 1 x 256 x 256 in 0..1 (drawn from the points where it is not given)."""
        if mask is None:
            ovals = np.stack([oval_mask(p) for p in points.cpu().numpy()])
            mask = torch.from_numpy(ovals)[:, None].to(source)
        return self.draw(source, mask, self.sketch(source, points, codes, mask), drawing)

    def sketch(self, source: Tensor, points: Tensor, codes: Tensor, mask: Tensor) -> Sketch:
        """As much of `forward` as is the same whatever the drawing, and nearly all of its work."""
        posed, parts = self.pose(source, points, codes, mask)
        expressive, brows = parts[:, :1], parts[:, 1:]
        move, correction = self.unet(torch.cat([source, posed, mask], 1), codes)
        # Not where eyes and mouth are: what they do is the source's already.
        inside = interior(mask) * (1 - expressive)
        # Without its colours: they leave blotches, and make nobody less like themselves.
        shade = correction.to(inside).mean(1, keepdim=True)
        return Sketch(posed, together(move.to(inside), brows), shade, inside)

    def draw(self, source: Tensor, mask: Tensor, sketch: Sketch, drawing: Drawing) -> Anonymised:
        """The source (B x 3 x 256 x 256) with what is sketched drawn inside the mask (B x 1)."""
        posed, move, shade, inside = sketch
        at = torch.arange(256, device=source.device, dtype=source.dtype)
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)
        moved = warp.sample(posed, grid + (drawing.further * inside * move).permute(0, 2, 3, 1))
        drawn = moved
        if drawing.most:
            drawn = moved + inside * drawing.most * torch.tanh(_SHARPER / drawing.most * shade)
        # Lit once more: a correction is good for the face's details, and may not change how light the skin is.
        face = seamless(relight(drawn, source, mask), source, mask).clamp(-1, 1)
        return Anonymised(source + mask * (face - source), face, mask, posed)
