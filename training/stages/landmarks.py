"""Stage `landmarks`: 162 mesh points from a crop.

    python -m training.stages.landmarks --run training/runs/landmarks --export landmarks

The points of the training sets are MediaPipe's. Half of the objective is where the points lie, half is what they say of the expression:
lids, irises and lips in the axes of their own corners, where two pixels are the difference between an open eye and a closed one.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.faces import align, expression
from refacex_core.faces.landmarks import GROUPS, LandmarkNet
from training.common import RIGHTS, Crops, Run, arguments, descend, parse, set_up, to_tensor

TRAIN = ["celebahq256-train", "lfw-train"]
VAL = ["celebahq256-val", "lfw-val"]
_OTHER = {"left": "right", "right": "left"}


def jitter(rng: np.random.Generator) -> NDArray[np.float64]:
    """A small similarity about the crop's centre (2 x 3)."""
    angle, scale = rng.normal(0, 0.07), np.exp(rng.normal(0, 0.06))
    shift = rng.normal(0, 5, 2)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    m = np.array([[c, -s], [s, c]])
    return np.hstack([m, (np.array([128.0, 128.0]) + shift - m @ [128.0, 128.0])[:, None]])


def mirrored(points: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each row, which row a mirrored face has there: by the faces' mean (N x 162 x 2), part by part."""
    rows = np.arange(points.shape[1])
    for name, own in GROUPS.items():
        side = name.split("_")[0]
        others = GROUPS[name.replace(side, _OTHER.get(side, side), 1)]
        here, there = (points[:, part] - points[:, part].mean(1, keepdims=True) for part in (own, others))
        apart = here.mean(0)[:, None] - there.mean(0)[None] * [-1, 1]
        rows[own] = others[np.linalg.norm(apart, axis=2).argmin(1)]
    return rows


def worse(view: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A crop as a poorer camera, file or light would show it."""
    if rng.random() < 0.4:
        small = rng.uniform(0.25, 0.9)
        view = cv2.resize(cv2.resize(view, None, fx=small, fy=small, interpolation=cv2.INTER_AREA), view.shape[1::-1])
    if rng.random() < 0.3:
        buffer = io.BytesIO()
        Image.fromarray(view).save(buffer, "jpeg", quality=int(rng.integers(30, 95)))
        view = np.asarray(Image.open(buffer))
    out = view.astype(np.float32)
    if rng.random() < 0.1:
        out = np.repeat(out.mean(2, keepdims=True), 3, 2)
    gain = (rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)).astype(np.float32)
    out = (out - 128) * gain + np.float32(128 + rng.uniform(-30, 30))
    if rng.random() < 0.2:
        out += np.float32(rng.uniform(1, 8)) * rng.standard_normal(out.shape, np.float32)
    return np.clip(out, 0, 255).astype(np.uint8)


class Batches:
    """Augmented crops (B x 3 x 256 x 256, -1..1) and their points (B x 162 x 2, pixels)."""

    def __init__(self, data: Crops) -> None:
        self.data = data
        self.usable = np.array([i for i in range(len(data)) if np.isfinite(data.mesh(i)).all()])
        points = np.stack([data.mesh(int(i)) for i in self.usable[:2000]])
        self.mean, self._mirrored = points.mean(0), mirrored(points)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """So many, by chance."""
        images, points = [], []
        for i in rng.choice(self.usable, count):
            m = jitter(rng)
            view = cv2.warpAffine(self.data.image(int(i)), m, (256, 256), borderMode=cv2.BORDER_REPLICATE)
            mesh = align.apply(m, self.data.mesh(int(i)))
            if rng.random() < 0.5:
                view, mesh = view[:, ::-1], mesh[self._mirrored] * [-1, 1] + [255, 0]
            images.append(worse(np.ascontiguousarray(view), rng))
            points.append(mesh)
        return to_tensor(np.stack(images)), torch.from_numpy(np.stack(points)).float()


def objective(points: Tensor, wanted: Tensor) -> Tensor:
    """How far points are from where they should be (B x 162 x 2), and from the expression that they should show; about pixels."""
    weight = torch.ones(points.shape[1], 1, device=points.device)
    for part in ("lips", "left_eye", "right_eye", "left_iris", "right_iris"):
        weight[GROUPS[part]] = 2.0
    place = (F.smooth_l1_loss(points, wanted, beta=1.0, reduction="none") * weight).mean()
    shown = [(a - b).abs().mean() for a, b in zip(expression.parts(points), expression.parts(wanted), strict=True)]
    return place + 10 * torch.stack(shown).mean()


def main() -> None:
    args = parse(arguments(__doc__, minutes=50, batch=32, peak=2e-3))
    rng = set_up(args)
    batches = Batches(Crops(args.cache, TRAIN, args.limit))
    net = LandmarkNet().to(args.device)
    net.mean.copy_(torch.from_numpy(batches.mean))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-3)
    run = Run(args, {"net": net}, [optimiser])
    net.train()
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(batches.draw, rng, args.batch)
        while run.running():
            run.learning_rate()
            crops, wanted = (each.to(args.device) for each in coming.result())
            coming = ahead.submit(batches.draw, rng, args.batch)
            first = net.whole(crops)
            # Both looks learn apart: the closer one gets the first one's points as they come, a little off.
            seen = net.closer(crops, (first + 1.5 * torch.randn_like(first[:, :1])).detach())
            rough = objective(first, wanted)
            loss = rough + objective(seen, wanted)
            descend(optimiser, loss.backward)
            run.tick(args.batch, {"loss": loss.detach(), "first": rough.detach()})
    run.end()
    figures = {name: evaluate(net, Crops(args.cache, [name], args.limit), args.device) for name in VAL}
    print(figures)
    if args.export:
        weights.save(net, args.export, run.card(TRAIN, figures, RIGHTS))


@torch.inference_mode()
def evaluate(net: LandmarkNet, data: Crops, device: str) -> dict[str, float]:
    """Mean error in percent of the distance between the eyes' centres, and how eyes' and mouths' openings correlate with the true ones."""
    net.eval()
    usable = np.array([i for i in range(len(data)) if np.isfinite(data.mesh(i)).all()])
    wanted = torch.from_numpy(np.stack([data.mesh(int(i)) for i in usable]))
    seen = torch.cat([net(data.batch(part).to(device)).cpu() for part in np.array_split(usable, len(usable) // 64 + 1)])
    eyes = (wanted[:, GROUPS["left_eye"]].mean(1) - wanted[:, GROUPS["right_eye"]].mean(1)).norm(dim=-1)
    figures = {"nme_percent": 100 * float(((seen - wanted).norm(dim=-1).mean(1) / eyes).mean())}
    shown, true = expression.measures(seen), expression.measures(wanted)
    for column, name in enumerate(("eyes_correlation", "mouth_correlation")):
        figures[name] = float(torch.corrcoef(torch.stack([shown[:, column], true[:, column]]))[0, 1])
    return {name: round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    main()
