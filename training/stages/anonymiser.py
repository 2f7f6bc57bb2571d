"""Stage `anonymiser`: the U-Net with Identity Feature Fusion, over the posed donor.

    python -m training.stages.anonymiser --loss-networks WEIGHTS --run training/runs/anonymiser --export anonymiser

Copies of two recognisers with noise on their weights push the source's identity out and the donor's in, seen
through moves, blur, noise and missing pieces, so that what drops is identity and not one network's opinion. LPIPS to the posed
donor keeps skin, eyes and hair those of a photograph; a critic tells released crops from photographs; our landmark network
keeps the shapes of eyes, brows and mouth. SFace and dlib take no part and judge. No recovery loss exists in this stage.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from refacex_core import weights
from refacex_core.anonymiser import Anonymiser
from refacex_core.faces.landmarks import GROUPS, LandmarkNet
from refacex_core.layers import blur
from training.common import RIGHTS, Run, arguments, descend, parse, set_up, sheet, to_images
from training.losses import Identity, jitters, lpips
from training.shards import Faces, draw_donors

TRAIN = ["celebahq256-train", "lfw-train"]
VAL = ["celebahq256-val", "lfw-val"]
GHOSTS, GHOSTS_LIVE = 2, 4  # how many at once, and for how many steps
#: Parts whose shape is kept, each with the part that it is seen from.
SHAPES = {
    "lips": "lips", "left_eye": "left_eye", "right_eye": "right_eye", "left_eyebrow": "left_eyebrow",
    "right_eyebrow": "right_eyebrow", "left_iris": "left_eye", "right_iris": "right_eye",
}  # fmt: skip


class Critic(nn.Module):
    """Crop and mask (B x 4 x 256 x 256) to how real each patch looks (B x 1 x 16 x 16)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        w = width
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        for inputs, outputs, stride in (
            (16, w, 1),
            (w, 2 * w, 2),
            (2 * w, 4 * w, 2),
            (4 * w, 4 * w, 2),
            (4 * w, 4 * w, 1),
        ):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 3, stride, 1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, spectral_norm(nn.Conv2d(4 * w, 1, 3, 1, 1)))

    def forward(self, crop: Tensor, mask: Tensor) -> Tensor:
        patches: Tensor = self.body(torch.cat([crop, 2 * mask - 1], 1)).float()
        return patches


def differ(crop: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Crops and masks moved, mirrored and lit a little otherwise, alike for real and released ones
    (after Zhao et al., *Differentiable augmentation for data-efficient GAN training*, 2020)."""
    both = torch.cat([crop, mask], 1)
    y, x = (int(v) for v in torch.randint(0, 17, (2,)))
    both = F.pad(both, (8, 8, 8, 8), mode="replicate")[:, :, y : y + 256, x : x + 256]
    if torch.rand(()) < 0.5:
        both = both.flip(3)
    b = len(crop)
    gain = torch.empty(b, 1, 1, 1, device=crop.device).uniform_(0.8, 1.2)
    level = torch.empty(b, 1, 1, 1, device=crop.device).uniform_(-0.2, 0.2)
    return both[:, :3] * gain + level, both[:, 3:]


def roughen(images: Tensor) -> Tensor:
    """What a recogniser may meet: blur, few pixels, noise, missing pieces, other light, flips."""
    u = torch.rand(6)
    if u[0] < 0.2:
        small = F.interpolate(images, size=int(torch.randint(72, 160, ())), mode="area")
        images = F.interpolate(small, size=256, mode="bilinear", align_corners=False)
    elif u[0] < 0.35:
        images = blur(images, float(4 + 2 * u[1]))
    elif u[0] < 0.6:
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    if u[2] < 0.5:
        images = images + torch.randn_like(images) * (0.06 * torch.rand((), device=images.device))
    if u[3] < 0.3:
        pieces = (torch.rand(len(images), 1, 6, 6, device=images.device) > 0.15).to(images)
        images = images * F.interpolate(pieces, size=256)
    if u[4] < 0.3:
        images = images * torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(0.75, 1.25)
    return images.flip(3) if u[5] < 0.4 else images


class Objective:
    """The losses of a released crop and their gradients, each kind by itself."""

    def __init__(self, folder: Path, device: str, away: float, realism: float, wide: float, noise: float) -> None:
        self.clean = Identity(folder).to(device)
        self.ghosts = [Identity(folder).to(device) for _ in range(GHOSTS)]
        self.perceptual = lpips(folder).to(device)
        self.landmarks = LandmarkNet().to(device)
        weights.load_into(self.landmarks, "landmarks")
        self.away, self.realism, self.wide, self.noise = away, realism, wide, noise
        self.cast = torch.autocast(torch.device(device).type, torch.bfloat16)

    def haunt(self) -> None:
        """Draw the noise of the recognisers anew."""
        for ghost in self.ghosts:
            ghost.ghost(self.clean, self.noise)

    def identity(self, crop: Tensor, source: Tensor, posed: Tensor) -> dict[str, Tensor]:
        """Away from the source, towards the donor."""
        away, near = [], []
        for recogniser in self.ghosts:
            jitter = jitters(len(crop), str(crop.device), self.wide)
            with self.cast:
                with torch.no_grad():
                    of_both = recogniser(torch.cat([source, posed]))
                seen = recogniser(roughen(crop), jitter)
            for a, b in zip(seen, of_both, strict=True):
                of_source, of_donor = b.float().chunk(2)
                away.append(F.relu((a.float() * of_source).sum(1) + 0.1).mean())
                near.append((1 - (a.float() * of_donor).sum(1)).mean())
        return {"away": self.away * torch.stack(away).mean(), "near": torch.stack(near).mean()}

    def like(self, crop: Tensor, donor: Tensor) -> dict[str, Tensor]:
        """As the posed donor looks."""
        half = lambda x: F.avg_pool2d(x[:, :, 40:248, 24:232], 2)  # noqa: E731
        y, x = (int(v) for v in torch.randint(40, 89, (2,)))
        piece = (..., slice(y, y + 128), slice(x, x + 128))
        with self.cast:
            seen = self.perceptual(half(crop), half(donor)) + self.perceptual(crop[piece], donor[piece])
        change = ((crop - donor) ** 2).mean()
        return {"like": 1.5 * self.realism * seen.float().mean(), "change": 4.0 * self.realism * change}

    def shape(self, crop: Tensor, donor: Tensor) -> dict[str, Tensor]:
        """Eyes, brows and mouth shaped, and looking, as the posed donor's; a pixel is free."""
        with torch.no_grad():
            wanted = self.landmarks(donor)
        got = self.landmarks(crop)
        parts = []
        for part, base in SHAPES.items():
            rows, from_ = torch.from_numpy(GROUPS[part]), torch.from_numpy(GROUPS[base])
            moved = (got[:, rows] - got[:, from_].mean(1, keepdim=True)) - (
                wanted[:, rows] - wanted[:, from_].mean(1, keepdim=True)
            )
            parts.append(F.relu(moved.abs() - 1).mean())
        return {"shape": 0.3 * torch.stack(parts).mean()}


def main() -> None:
    parser = arguments(__doc__, minutes=45, batch=6, peak=8e-4)
    parser.add_argument("--shards", type=Path, help="folder of what training.shards wrote, instead of the cache")
    parser.add_argument("--away", type=float, default=6.0, help="weight of not being the source")
    parser.add_argument("--realism", type=float, default=2.0, help="weight of looking like the posed donor")
    parser.add_argument("--critic", type=float, default=0.5, help="the critic's pull, as a share of realism's")
    parser.add_argument("--critic-from", type=int, default=300, help="steps before the critic is heard")
    parser.add_argument("--wide", type=float, default=2.0, help="how far the recognisers' view moves")
    parser.add_argument(
        "--noise", type=float, default=0.1, help="on the recognisers' weights, in deviations of each layer"
    )
    parser.add_argument("--samples", type=int, default=500, help="steps between two sample sheets")
    args = parse(parser)
    set_up(args)
    faces = (
        Faces.from_shards(args.shards, args.device, args.limit)
        if args.shards
        else Faces.from_cache(args.cache, TRAIN, args.device, args.limit)
    )
    net = Anonymiser().to(args.device, memory_format=torch.channels_last)
    critic = Critic().to(args.device, memory_format=torch.channels_last)
    pools = faces.donors(net.appearance)
    objective = Objective(args.loss_networks, args.device, args.away, args.realism, args.wide, args.noise)
    fused = {"fused": True} if args.device.startswith("cuda") else {}
    optimiser = torch.optim.AdamW(net.unet.parameters(), 1e-3, weight_decay=1e-4, **fused)
    judging = torch.optim.AdamW(critic.parameters(), 1e-3, betas=(0.5, 0.99), weight_decay=1e-4, **fused)
    judging.param_groups[0]["scale"] = 0.4
    run = Run(args, {"unet": net.unet, "critic": critic}, [optimiser, judging])
    net.unet.forward = objective.cast(net.unet.forward)  # type: ignore[method-assign]
    critic.forward = objective.cast(critic.forward)  # type: ignore[method-assign]
    net.unet.train()
    while run.running():
        run.learning_rate()
        if run.step % GHOSTS_LIVE == 0:
            objective.haunt()
        chosen = torch.randint(len(faces), (args.batch,), device=args.device)
        source, mask, points = faces.batch(chosen)
        points = points + 0.8 * torch.randn_like(points[:, :1])
        codes = draw_donors(net.appearance, faces.codes[chosen], pools[chosen], draws=1 + run.step % 4)
        out = net(source, points, codes, mask)
        donor = source + mask * (out.posed - source)
        crop = out.crop.detach().requires_grad_()
        kinds = (
            objective.like(crop, donor), objective.identity(crop, source, out.posed), objective.shape(crop, donor)
        )  # fmt: skip
        like, identity, shape = (torch.autograd.grad(torch.stack(list(k.values())).sum(), crop)[0] for k in kinds)
        pull = like + identity + shape
        heard = {}
        if args.critic and run.step >= args.critic_from // 2:
            real, of_real = critic(*differ(source, mask)), critic(*differ(crop.detach(), mask))
            told = F.relu(1 - real).mean() + F.relu(1 + of_real).mean()
            descend(judging, told.backward)
            heard = {"told_apart": told.detach()}
            if run.step >= args.critic_from:
                for parameter in critic.parameters():
                    parameter.requires_grad_(False)
                (real_looks,) = torch.autograd.grad(-critic(*differ(crop, mask)).mean(), crop)
                for parameter in critic.parameters():
                    parameter.requires_grad_(True)
                pull = pull + args.critic * like.norm() / real_looks.norm().clamp(min=1e-12) * real_looks
        descend(optimiser, partial(out.crop.backward, pull))
        run.tick(args.batch, {k: v.detach() for part in (*kinds, heard) for k, v in part.items()})
        if run.step % args.samples == 0 and run.first:
            samples(net, faces, pools, args.run / f"samples_{run.step:06d}.png")
    run.end()
    samples(net, faces, pools, args.run / "samples.png")
    if args.export:
        net.float()
        figures = {
            name: evaluate(net, Faces.from_cache(args.cache, [name], args.device, args.limit or 400)) for name in VAL
        }
        print(figures)
        weights.save(net.unet, args.export, run.card([*TRAIN, "portraits-cc0"], figures, RIGHTS))


@torch.inference_mode()
def samples(net: Anonymiser, faces: Faces, pools: Tensor, path: Path) -> None:
    """Source, posed donor, result."""
    chosen = torch.linspace(0, len(faces) - 1, min(12, len(faces)), device=pools.device).long()
    source, mask, points = faces.batch(chosen)
    out = net(source, points, draw_donors(net.appearance, faces.codes[chosen], pools[chosen]), mask)
    donor = source + mask * (out.posed - source)
    sheet([list(to_images(x)) for x in (source, donor, out.crop)], path)


@torch.inference_mode()
def evaluate(net: Anonymiser, faces: Faces) -> dict[str, float]:
    """Cosine to the source and rank-1 on SFace, for the result and for the posed donor before the U-Net."""
    from refacex_core import recognisers  # the machine that trains need not have it

    net.eval()
    torch.manual_seed(0)
    judge = recognisers.sface()
    pools = faces.donors(net.appearance)
    rows: dict[str, list[np.ndarray]] = {"posed": [], "result": []}
    for part in torch.arange(len(faces), device=pools.device).split(16):
        source, mask, points = faces.batch(part)
        out = net(source, points, draw_donors(net.appearance, faces.codes[part], pools[part], draws=20), mask)
        rows["posed"].append(judge(to_images(source + mask * (out.posed - source))))
        rows["result"].append(judge(to_images(out.crop)))
    gallery = faces.codes.cpu().numpy()
    figures: dict[str, float] = {"images": len(faces)}
    for name, row in rows.items():
        s = np.concatenate(row) @ gallery.T
        figures[f"sface_cosine_{name}"] = round(float(np.diag(s).mean()), 4)
        figures[f"sface_rank1_{name}"] = round(float((s.argmax(1) == np.arange(len(s))).mean()), 4)
    figures["sface_cosine_impostor"] = round(float((gallery @ gallery.T)[~np.eye(len(gallery), dtype=bool)].mean()), 4)
    return figures


if __name__ == "__main__":
    main()
