"""How faces look apart from who they are, measured: what a donor has to match to suit the hair, neck and light around it.

Each measure is a row a face; `distances` compares faces with donors measure by measure. All but two are measured; how a face is read
between male and female is learned (`refacex_core.faces.presentation`), and so is how old it looks (`refacex_core.age`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from refacex_core.faces import warp
from refacex_core.faces.expression import measures
from refacex_core.faces.landmarks import GROUPS, oval_mask, parts_mask
from refacex_core.payload.network import WINDOW, window

GRID, _FINE = (13, 12), (26, 24)


@dataclass(frozen=True)
class Looks:
    """Measures of N faces, a row each: shape (N x 324, place and size taken out), skin (N x 3, median colour 0..1), light and
    shade on it (N x 624), how much lighter than skin brows, upper lip and chin are (N x 3, of the 2 from black to white: the colour of
    hair, a beard), how fine-grained it is from place to place (N x 156: wrinkles, stubble), its colours (N x 312), what its eyes and
    mouth do (N x 3), how old it looks (N x 1, years), its presentation (N x 1, -1 male to 1 female). What is of skin is measured below
    the eyes: above them a fringe would count as wrinkles and its colour as skin's.
    """

    shape: Tensor
    skin: Tensor
    shade: Tensor
    hair: Tensor
    grain: Tensor
    colours: Tensor
    expression: Tensor
    age: Tensor
    presentation: Tensor


#: Of shape, skin, shade, hair, grain, colours, expression, age. Who suits the hair around it: shape is the source's for a
#: good part anyway, and a mouth is taken from whoever's is as far open (`DonorAppearance.mouths`).
SUITS = (0.0, 3.0, 0.3, 2.0, 1.5, 0.5, 0.3, 4.0)
#: Who is nearest in all of it.
NEAREST = (1.0, 2.0, 0.5, 2.0, 1.0, 0.5, 1.5, 3.0)
#: About one standard deviation of each measure of `faces.expression` over the portraits.
_EXPRESSIONS = torch.tensor([0.05, 0.06, 0.035])
#: A donor who is surely read otherwise comes after nearly all others, and one for an unsure face does not.
_PRESENTATION = 6.0


def of_faces(
    crops: Tensor, points: Tensor, mean_shape: Tensor, presentation: Tensor, age: Callable[[Tensor], Tensor]
) -> Looks:
    """Looks of crops (N x 3 x 256 x 256, -1..1) with their points (N x 162 x 2, pixels) and presentation (N x 1).

    `age` reads textures as `of_textures` takes them (`refacex_core.age.Age`).
    """
    field = warp.field(mean_shape.expand(len(points), -1, -1), points, *WINDOW)
    textures = warp.sample(crops, field)
    return of_textures(textures, points, mean_shape, presentation, age(textures))


def of_textures(textures: Tensor, shapes: Tensor, mean_shape: Tensor, presentation: Tensor, age: Tensor) -> Looks:
    """Looks of textures in the mean shape's frame (N x 3 x 208 x 192, -1..1) with shapes (N x 162 x 2), presentation and age (N x 1)."""
    oval = below_the_eyes(mean_shape).to(textures)
    skin = (textures[..., oval[0, 0] > 0.5].median(2).values + 1) / 2
    grey = textures.mean(1, keepdim=True)
    red, green, blue = textures[:, :1], textures[:, 1:2], textures[:, 2:]
    grain = F.interpolate(detail(grey, oval, 5), size=GRID, mode="area") * _inside(oval, GRID)
    centred = shapes - shapes.mean(1, keepdim=True)
    return Looks(
        F.normalize(centred.flatten(1), dim=1),
        skin,
        _pattern(grey, oval, _FINE),
        torch.cat([(grey * part).sum((2, 3)) / part.sum() for part in _hairy(mean_shape).to(grey)], 1)
        - grey[..., oval[0, 0] > 0.5].median(2).values,
        torch.log(grain.flatten(1) + 1e-2),
        _pattern(torch.cat([red - green, (red + green) / 2 - blue], 1), oval, GRID),
        measures(shapes) / _EXPRESSIONS.to(shapes),
        age,
        presentation,
    )


def detail(grey: Tensor, oval: Tensor, size: int) -> Tensor:
    """What of grey textures (N x 1 x H x W) is finer than `size` pixels, over the contrast inside the oval (1 x 1 x H x W)."""
    mean = (grey * oval).sum((2, 3), keepdim=True) / oval.sum()
    contrast = (((grey - mean) ** 2 * oval).sum((2, 3), keepdim=True) / oval.sum()).sqrt() + 1e-3
    return (grey - F.avg_pool2d(grey, size, 1, size // 2, count_include_pad=False)).abs() / contrast


def distances(faces: Looks, donors: Looks, weights: tuple[float, ...] = SUITS) -> Tensor:
    """How unlike each face and each donor look (N x M): every measure's distance, in its own standard deviations, weighted; and how
    otherwise each donor is read.
    """
    total = _PRESENTATION * torch.cdist(faces.presentation, donors.presentation)
    for face, donor, weight in zip(astuple(faces)[:-1], astuple(donors)[:-1], weights, strict=True):
        apart = torch.cdist(face, donor)
        total += weight * apart / apart.std(1, keepdim=True).clamp(min=1e-6)
    return total


def below_the_eyes(mean_shape: Tensor) -> Tensor:
    """Where a texture is face below its eyes (1 x 1 x 208 x 192, 0..1)."""
    shape = mean_shape.cpu().numpy()
    mask = oval_mask(shape)
    mask[: int(shape[[*GROUPS["left_eye"], *GROUPS["right_eye"]], 1].mean())] = 0
    return window(torch.from_numpy(mask)[None, None])


def _hairy(mean_shape: Tensor) -> Tensor:
    """Where a texture has brows, upper lip and chin (3 x 1 x 208 x 192, 0 or 1)."""
    shape = mean_shape.cpu().numpy()
    lips, nose, oval = (shape[GROUPS[part]] for part in ("lips", "nose", "face_oval"))
    left, right = lips[:, 0].min(), lips[:, 0].max()
    parts = np.zeros((3, 256, 256), np.float32)
    parts[0] = parts_mask(shape, ["left_eyebrow", "right_eyebrow"], margin=0, feather=1.0) > 0.5
    parts[1, int(nose[:, 1].max()) + 3 : int(lips[:, 1].min()) - 2, int(left) : int(right)] = 1
    chin = slice(int(0.75 * left + 0.25 * right), int(0.25 * left + 0.75 * right))
    parts[2, int(lips[:, 1].max()) + 5 : int(oval[:, 1].max()) - 8, chin] = 1
    return window(torch.from_numpy(parts)[:, None])


def _inside(oval: Tensor, size: tuple[int, int]) -> Tensor:
    return (F.interpolate(oval, size=size, mode="area") > 0.7).to(oval)


def _pattern(image: Tensor, oval: Tensor, size: tuple[int, int]) -> Tensor:
    """A small picture of what is inside the oval, its mean and contrast taken out (N x C * height * width)."""
    inside = _inside(oval, size)
    small = F.interpolate(image, size=size, mode="area")
    small = (small - (small * inside).sum((2, 3), keepdim=True) / inside.sum()) * inside
    return (small / ((small**2).sum((1, 2, 3), keepdim=True) / inside.sum()).sqrt().clamp(min=1e-4)).flatten(1)
