"""Stage `landmarks`: 162 mesh points from a crop.

python -m training.stages.landmarks --run training/runs/landmarks --export landmarks
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.faces import align
from refacex_core.faces.landmarks import GROUPS, INPUT, LandmarkNet
from training.common import RIGHTS, Crops, Run, arguments, descend, parse, set_up, to_tensor

TRAIN = ["celebahq256-train", "lfw-train"]
VAL = ["celebahq256-val", "lfw-val"]


def jitter(rng: np.random.Generator, strength: float = 1.0) -> NDArray[np.float64]:
    """A small similarity about the crop's centre, scaled down to the network's input size."""
    angle, scale = rng.normal(0, 0.07 * strength), np.exp(rng.normal(0, 0.06 * strength))
    shift = rng.normal(0, 5 * strength, 2)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    m = np.array([[c, -s], [s, c]])
    return np.hstack([m, (np.array([128.0, 128.0]) + shift - m @ [128.0, 128.0])[:, None]])


def sample(data: Crops, indices: NDArray[np.int64], rng: np.random.Generator, strength: float):
    """Augmented inputs (B x 3 x 128 x 128) and points (B x 162 x 2, pixels of the 256 crop)."""
    images, points = [], []
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25]])
    for i in indices:
        m = jitter(rng, strength)
        full = half[:, :2] @ m + np.array([[0, 0, half[0, 2]], [0, 0, half[1, 2]]])
        view = cv2.warpAffine(
            data.image(int(i)), full, (INPUT, INPUT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        if strength and rng.random() < 0.3:
            view = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.3, 1.5))
        gain, bias = (rng.uniform(0.7, 1.3, 3), rng.uniform(-25, 25)) if strength else (np.ones(3), 0.0)
        images.append(np.clip(view * gain + bias, 0, 255).astype(np.uint8))
        points.append(align.apply(m, data.mesh(int(i))))
    return to_tensor(np.stack(images)), torch.from_numpy(np.stack(points)).float()


def main() -> None:
    args = parse(arguments(__doc__, minutes=12, batch=64, peak=2e-3))
    rng = set_up(args)
    data = Crops(args.cache, TRAIN, args.limit)
    usable = np.array([i for i in range(len(data)) if np.isfinite(data.mesh(i)).all()])
    net = LandmarkNet().to(args.device)
    net.mean.copy_(torch.from_numpy(np.stack([data.mesh(i) for i in usable[:2000]]).mean(0)))
    weight = torch.ones(162, 1)
    for part in ("lips", "left_eye", "right_eye", "left_iris", "right_iris"):
        weight[GROUPS[part]] = 2.0
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-4)
    run = Run(args, {"net": net}, [optimiser])
    net.train()
    while run.running():
        run.learning_rate()
        x, y = sample(data, rng.choice(usable, args.batch), rng, 1.0)
        loss = (
            F.smooth_l1_loss(net(x.to(args.device)), y.to(args.device), beta=2.0, reduction="none")
            * weight.to(args.device)
        ).mean()
        descend(optimiser, loss.backward)
        run.tick(args.batch, {"loss": loss.item()})
    run.end()
    figures = {name: nme(net, Crops(args.cache, [name], args.limit), rng, args.device) for name in VAL}
    print(figures)
    if args.export:
        weights.save(net, args.export, run.card(TRAIN, {"nme_percent_of_eye_distance": figures}, RIGHTS))


@torch.inference_mode()
def nme(net: LandmarkNet, data: Crops, rng: np.random.Generator, device: str) -> float:
    """Normalised mean error in percent of the distance between the eyes' centres, under half the training jitter."""
    net.eval()
    usable = np.array([i for i in range(len(data)) if np.isfinite(data.mesh(i)).all()])
    errors = []
    for part in np.array_split(usable, max(len(usable) // 64, 1)):
        x, y = sample(data, part, rng, 0.0)
        p = net(x.to(device)).cpu()
        eyes = (y[:, GROUPS["left_eye"]].mean(1) - y[:, GROUPS["right_eye"]].mean(1)).norm(dim=-1)
        errors.append(((p - y).norm(dim=-1).mean(1) / eyes).numpy())
    return round(100 * float(np.concatenate(errors).mean()), 3)


if __name__ == "__main__":
    main()
