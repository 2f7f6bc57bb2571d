"""Stage `presentation`: how a face is read between male and female, so that donors suit what is around the face.

    python -m training.stages.presentation --run training/runs/presentation --export presentation

Learned from LFW, whose people are filed under their names, where the first name says so (`training.first_names`), and from the
portraits that the bank's donors are made of, whose prompts say so; judged on the people of LFW's `val` and on the other portraits.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.faces.presentation import INPUT, PresentationNet
from training.common import Crops, Run, arguments, descend, parse, set_up
from training.first_names import read_as_female
from training.masks import masks, with_mesh

TRAIN = ["lfw-train", "portraits-cc0"]
ALONE = 1 / 3  # of the faces are shown without anything around them
RIGHTS = (
    "Trained on LFW, which is for research use, and on CC0 portraits; train on your own data for commercial use. "
    "The weights hold no image of either set."
)


def labels(data: Crops, bank: bool) -> NDArray[np.int64]:
    """1 female, 0 male, -1 not to be used; `bank`: whether the bank's portraits are used, or the others."""
    portraits = set(weights.card("donors")["portraits"])
    found, number = [], 0
    for name in data.names:
        if not name.startswith("portraits-cc0/"):
            said = read_as_female(name)
            found.append(-1 if said is None else int(said))
            continue
        found.append(int("/female/" in name) if (number in portraits) is bank else -1)
        number += 1
    return np.array(found)


def small(data: Crops, indices: NDArray[np.int64]) -> Tensor:
    """The network's inputs (N x 3 x 64 x 64)."""
    parts = [data.batch(part) for part in np.array_split(indices, max(len(indices) // 64, 1))]
    return torch.cat([F.interpolate(part, size=(INPUT, INPUT), mode="area") for part in parts])


def faces(data: Crops, indices: NDArray[np.int64]) -> Tensor:
    """Where the network's inputs are face (N x 1 x 64 x 64, 0..1)."""
    parts = [masks(data, part) for part in np.array_split(indices, max(len(indices) // 64, 1))]
    return torch.cat([F.interpolate(part, size=(INPUT, INPUT), mode="area") for part in parts])


def augment(x: Tensor, face: Tensor) -> Tensor:
    """Other light, colour, place, sharpness and noise; of a third the face alone, for hair tells of most people and misleads
    with the others; and a patch gone from every second one.
    """
    n = len(x)
    alone = (torch.rand(n, 1, 1, 1) < ALONE).float()
    x = x + alone * (1 - face) * (torch.rand(n, 3, 1, 1) * 2 - 1 - x)
    x = x * (0.7 + 0.6 * torch.rand(n, 3, 1, 1)) + 0.3 * torch.randn(n, 1, 1, 1)
    grey = (torch.rand(n, 1, 1, 1) < 0.5).float()
    x = grey * x.mean(1, keepdim=True) + (1 - grey) * x
    scale, angle = 1 + 0.15 * (torch.rand(n) * 2 - 1), 0.2 * torch.randn(n)
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    cos, sin, shift = scale * torch.cos(angle), torch.sin(angle), 0.12 * (torch.rand(n, 2) * 2 - 1)
    rows = [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    if torch.rand(()) < 0.5:
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = x + 0.15 * torch.rand(n, 1, 1, 1) * torch.randn_like(x)
    for i in range(0, n, 2):
        top, left = (int(v) for v in torch.randint(0, INPUT - 20, (2,)))
        x[i, :, top : top + 20, left : left + 20] = 0
    return x


@torch.no_grad()
def figures(net: PresentationNet, data: Crops, said: NDArray[np.int64], device: str) -> dict[str, float]:
    """How often it reads a face as it is labelled, and how well it orders pairs (area under the curve)."""
    known = np.flatnonzero(said >= 0)
    if not len(known):
        return {}
    net.eval()
    x, truth = small(data, known).to(device), said[known] == 1
    logits = ((net(x) + net(x.flip(3))) / 2).cpu().numpy()[:, 0]
    women, men = logits[truth], logits[~truth]
    right = ((logits > 0) == truth).mean()
    return {
        "faces": len(known),
        "right_percent": round(100 * float(right), 1),
        "auc": round(float((women[:, None] > men[None]).mean()), 4) if len(women) and len(men) else 0.0,
    }


def main() -> None:
    args = parse(arguments(__doc__, minutes=10, batch=128, peak=3e-3))
    rng = set_up(args)
    data = Crops(args.cache, TRAIN, args.limit)
    said = labels(data, bank=True)
    used = np.intersect1d(np.flatnonzero(said >= 0), with_mesh(data))
    images, shown, truth = small(data, used), faces(data, used), said[used]
    of = [np.flatnonzero(truth == value) for value in (0, 1)]
    net = PresentationNet().to(args.device)
    optimiser = torch.optim.AdamW(net.parameters(), args.peak, weight_decay=0.05)
    run = Run(args, {"net": net}, [optimiser])
    net.train()
    while run.running():
        run.learning_rate()
        chosen = np.concatenate([rng.choice(part, args.batch // 2) for part in of if len(part)])
        x = augment(images[chosen], shown[chosen]).to(args.device)
        y = torch.from_numpy(truth[chosen]).float().to(args.device)
        loss = F.binary_cross_entropy_with_logits(net(x)[:, 0], y * 0.9 + 0.05)
        descend(optimiser, loss.backward)
        run.tick(len(chosen), {"loss": loss.item()})
    run.end()
    judged = {}
    for name in ("lfw-val", "portraits-cc0"):
        others = Crops(args.cache, [name], args.limit)
        judged[name] = figures(net, others, labels(others, bank=False), args.device)
    print(json.dumps(judged))
    if args.export:
        weights.save(net, args.export, run.card(TRAIN, judged, RIGHTS))


if __name__ == "__main__":
    main()
