"""Stage `anonymiser`: the U-Net with Identity Feature Fusion, over the posed donor.

    python -m training.stages.anonymiser --loss-networks WEIGHTS --run training/runs/anonymiser --export anonymiser

Two recognisers push the source's identity out and the donor's in, seen through small moves, blur and noise so that what
drops is identity and not one network's opinion. LPIPS to the posed donor keeps skin, eyes and hair those of a photograph; the
face's edge is drawn to the source. SFace and dlib take no part and judge. No recovery loss exists in this stage.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from refacex_core import recognisers, weights
from refacex_core.anonymiser import Anonymiser, blur
from training.common import RIGHTS, Crops, Run, arguments, set_up, sheet, to_images
from training.losses import Identity, jitters, lpips
from training.masks import with_mesh

TRAIN = ["celebahq256-train", "lfw-train"]
VAL = ["celebahq256-val", "lfw-val"]


def draw_codes(bank: Tensor, rng: np.random.Generator, batch: int) -> Tensor:
    """Donor codes as the `random` policy draws them: bank entries and mixes of two."""
    a, b = rng.integers(0, len(bank), batch), rng.integers(0, len(bank), batch)
    share = torch.from_numpy(np.where(rng.random(batch) < 0.5, rng.uniform(0.35, 0.65, batch), 1.0)).float()[:, None]
    return F.normalize(share * bank[a] + (1 - share) * bank[b], dim=1)


def roughen(images: Tensor, rng: np.random.Generator) -> Tensor:
    """What a recogniser may meet: blur, noise, flips."""
    if rng.random() < 0.5:
        images = (
            blur(images, float(rng.uniform(4, 6)))
            if rng.random() < 0.2
            else F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        )
    if rng.random() < 0.5:
        images = images + torch.randn_like(images) * float(rng.uniform(0, 0.06))
    return images.flip(3) if rng.random() < 0.3 else images


def main() -> None:
    parser = arguments(__doc__, minutes=45, batch=6, peak=8e-4)
    parser.add_argument("--realism", type=float, default=1.0, help="weight of looking like the posed donor")
    parser.add_argument("--away", type=float, default=2.0, help="weight of not being the source")
    args = parser.parse_args()
    rng = set_up(args)
    data = Crops(args.cache, TRAIN, args.limit)
    usable = with_mesh(data)
    net = Anonymiser().to(args.device)
    identity = Identity(args.loss_networks).to(args.device)
    perceptual = lpips(args.loss_networks).to(args.device)
    optimiser = torch.optim.AdamW(net.unet.parameters(), 1e-3, weight_decay=1e-4)
    run = Run(args, {"unet": net.unet}, [optimiser])
    net.train()
    while run.running():
        run.learning_rate()
        chosen = rng.choice(usable, args.batch)
        source = data.batch(chosen).to(args.device)
        points = torch.from_numpy(np.stack([data.mesh(int(i)) for i in chosen])).to(args.device)
        codes = draw_codes(net.appearance.codes, rng, args.batch)
        out = net(source, points, codes)
        losses = objective(out.crop, out.posed, out.mask, source, identity, perceptual, rng)
        weight = {"away": args.away, "like": args.realism, "change": args.realism}
        losses = {part: value * weight.get(part, 1.0) for part, value in losses.items()}
        loss = sum(losses.values())
        assert isinstance(loss, Tensor)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.unet.parameters(), 1.0)
        optimiser.step()
        run.tick(args.batch, {k: v.item() for k, v in losses.items()})
        if run.step % 500 == 0:
            samples(net, Crops(args.cache, [VAL[0]], 12), args.run / f"samples_{run.step:06d}.png", args.device)
    run.save()
    run.use_averages()
    figures = {name: evaluate(net, Crops(args.cache, [name], args.limit or 200), args.device, args.run) for name in VAL}
    print(figures)
    if args.export:
        weights.save(net.unet, args.export, run.card([*TRAIN, "portraits-cc0"], figures, RIGHTS))


def objective(
    crop: Tensor,
    posed: Tensor,
    mask: Tensor,
    source: Tensor,
    identity: Identity,
    perceptual: torch.nn.Module,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """The losses of one batch, weighted."""
    jitter = jitters(len(crop)).to(crop.device)
    with torch.no_grad():
        of_source = identity(source)
        donor_face = source + mask * (posed - source)
        of_donor = identity(posed)
    seen = identity(roughen(crop, rng), jitter)
    away = sum(F.relu((a * b).sum(1) + 0.05).mean() for a, b in zip(seen, of_source, strict=True))
    near = sum((1 - (a * b).sum(1)).mean() for a, b in zip(seen, of_donor, strict=True))
    top = slice(40, 248)
    half = lambda x: F.avg_pool2d(x[:, :, top, 24:232], 2)  # noqa: E731
    like = (
        perceptual(half(crop), half(donor_face)).mean()
        + 0.5 * perceptual(crop[:, :, 60:188, 64:192], donor_face[:, :, 60:188, 64:192]).mean()
    )
    light = F.l1_loss(blur(crop, 20.0), blur(source, 20.0))
    change = ((crop - donor_face) ** 2).mean()
    assert isinstance(away, Tensor) and isinstance(near, Tensor)
    return {"away": away, "near": 0.5 * near, "like": 1.5 * like, "light": 1.0 * light, "change": 4.0 * change}


@torch.inference_mode()
def samples(net: Anonymiser, data: Crops, path, device: str) -> None:
    """Source, posed donor, result."""
    rng = np.random.default_rng(0)
    points = torch.from_numpy(np.stack([data.mesh(i) for i in range(len(data))])).to(device)
    source = data.batch(list(range(len(data)))).to(device)
    out = net(source, points, draw_codes(net.appearance.codes, rng, len(data)))
    donor = source + out.mask * (out.posed - source)
    sheet([list(to_images(source)), list(to_images(donor)), list(to_images(out.crop))], path)


@torch.inference_mode()
def evaluate(net: Anonymiser, data: Crops, device: str, folder) -> dict[str, float]:
    """Cosine to the source and rank-1 on SFace, for the result and for the posed donor before the U-Net."""
    net.eval()
    rng = np.random.default_rng(0)
    judge = recognisers.sface()
    usable = with_mesh(data)
    rows: dict[str, list[np.ndarray]] = {"source": [], "posed": [], "result": []}
    for part in np.array_split(usable, max(len(usable) // 10, 1)):
        source = data.batch(part).to(device)
        points = torch.from_numpy(np.stack([data.mesh(int(i)) for i in part])).to(device)
        out = net(source, points, draw_codes(net.appearance.codes, rng, len(part)))
        rows["source"].append(judge(to_images(source)))
        rows["posed"].append(judge(to_images(source + out.mask * (out.posed - source))))
        rows["result"].append(judge(to_images(out.crop)))
    gallery = np.concatenate(rows["source"])
    figures: dict[str, float] = {"images": len(usable)}
    for name in ("posed", "result"):
        s = np.concatenate(rows[name]) @ gallery.T
        figures[f"sface_cosine_{name}"] = round(float(np.diag(s).mean()), 4)
        figures[f"sface_rank1_{name}"] = round(float((s.argmax(1) == np.arange(len(s))).mean()), 4)
    figures["sface_cosine_impostor"] = round(float((gallery @ gallery.T)[~np.eye(len(gallery), dtype=bool)].mean()), 4)
    return figures


if __name__ == "__main__":
    main()
