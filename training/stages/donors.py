"""Stage `donors`: the donor bank and its appearance model, from the CC0 portraits. Closed form, half a minute.

    python -m training.stages.donors --data DATA

Portraits that face the camera are taken, without the ones whose face is partly covered (`COVERED`, found by eye).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from refacex_core import recognisers
from refacex_core.donors import TEXTURE
from refacex_core.faces import warp
from refacex_core.faces.landmarks import GROUPS, OVAL, oval_mask
from refacex_core.faces.presentation import Presentation
from refacex_core.payload.network import WINDOW, window
from training.about import about_run
from training.common import Crops, to_tensor
from training.stages.age import left_out, portraits

#: Portraits with headscarf, cap, glasses, hair, a hard shadow or coloured light over the face, or a mark that tells its
#: bearer, by their place in the set.
COVERED = (
    6, 15, 31, 36, 38, 44, 46, 47, 55, 57, 66, 75, 77, 83, 90, 92, 94, 100, 102, 107, 116, 117, 122, 124, 145, 158, 160, 169,
    171, 175, 180, 193, 194, 195,
)  # fmt: skip


_WIDE = 1.06  # of the oval: so far out a donor is kept, for outlines differ


def frontal(points: torch.Tensor) -> torch.Tensor:
    """Which faces (N x 162 x 2) have their nose about in the middle."""
    oval = points[:, OVAL, 0]
    middle, width = (oval.amax(1) + oval.amin(1)) / 2, oval.amax(1) - oval.amin(1)
    nose = points[:, torch.from_numpy(GROUPS["nose"]), 0].mean(1)
    return ((nose - middle) / width).abs() < 0.13


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, with portraits-cc0.csv")
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--out", type=Path, default=Path("refacex_core/weights"))
    args = parser.parse_args()
    data = Crops(args.cache, ["portraits-cc0"])
    points = torch.stack([torch.from_numpy(data.mesh(i).copy()) for i in range(len(data))])
    chosen = [int(i) for i in frontal(points).nonzero()[:, 0]]
    chosen = [i for i in chosen if i not in COVERED]
    shapes, mean_shape = points[chosen], points.mean(0)
    crops = np.stack([data.image(i) for i in chosen])
    textures = torch.cat([texture(data.batch([i]), points[i : i + 1], mean_shape) for i in chosen])
    inside = _mask(mean_shape, forehead=_WIDE, jaw=_WIDE)[0, 0] > 0  # outside, every texture is the mean
    mean = textures.mean(0)
    flat = (textures - mean)[..., inside].flatten(1)
    u, s, v = torch.linalg.svd(flat, full_matrices=False)
    rank = len(chosen) - 1
    scale = v[:rank].abs().amax(1) / 127
    state = {
        "presentation": Presentation()(to_tensor(crops)),
        "ages": left_out(*portraits(args.cache, args.data))[chosen, None],
        "codes": torch.from_numpy(recognisers.sface()(crops)),
        "coefficients": (u * s)[:, :rank].contiguous(),
        "basis": (v[:rank] / scale[:, None]).round().to(torch.int8).contiguous(),
        "basis_scale": scale,
        "inside": inside,
        "mean_texture": mean,
        "shapes": shapes,
        "mean_shape": mean_shape,
    }
    path = args.out / "donors.safetensors"
    save_file({k: t.contiguous() for k, t in state.items()}, path)
    path.chmod(0o644)
    codes = state["codes"]
    about = {
        "what": "donor bank: SFace codes and appearance model",
        "donors": len(chosen),
        "portraits": chosen,
        "highest_cosine_between_two": round(float((codes @ codes.T - 2 * torch.eye(len(codes))).max()), 3),
        "data": ["portraits-cc0"],
        "rights": "Made from CC0 portraits of people who do not exist; no portrait is contained.",
        **about_run(),
    }
    (args.out / "donors.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    print(about)


def _mask(shape: torch.Tensor, **size: float) -> torch.Tensor:
    """The mask of a face (162 x 2) at the texture's size (1 x 1 x h x w)."""
    mask = torch.from_numpy(oval_mask(shape.numpy(), **size))[None, None]
    return F.interpolate(window(mask), size=TEXTURE, mode="area")


def texture(crop: torch.Tensor, points: torch.Tensor, mean_shape: torch.Tensor) -> torch.Tensor:
    """A crop (1 x 3 x 256 x 256) in the frame of the mean shape, at the texture's size."""
    where = warp.field(mean_shape[None], points, *WINDOW, stride=2)
    full = warp.sample(crop, where)
    return F.interpolate(full, size=TEXTURE, mode="area")


if __name__ == "__main__":
    main()
