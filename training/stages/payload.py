"""Stage `payload`: the codec that turns an original face into codes of a byte budget.

    python -m training.stages.payload --run training/runs/payload --export payload

Rate and distortion at every quality level at once; whole channels are dropped from the end at random, so that a prefix of the
code decodes. The anonymiser is not in this stage, so no gradient can reach it.
"""

from __future__ import annotations

import numpy as np
import torch

from refacex_core import weights
from refacex_core.payload.network import LATENTS, LEVELS, PayloadNetwork, order, window
from training.common import RIGHTS, Crops, Run, arguments, descend, parse, set_up
from training.masks import masks, with_mesh

TRAIN = ["celebahq256-train", "lfw-train", "portraits-cc0"]
VAL = ["celebahq256-val", "lfw-val"]


def main() -> None:
    args = parse(arguments(__doc__, minutes=50, batch=8, peak=1e-3))
    rng = set_up(args)
    data = Crops(args.cache, TRAIN, args.limit)
    usable = with_mesh(data)
    net = PayloadNetwork().to(args.device)
    fast = {"mean", "log_scale", "log_gain"}
    groups = [
        {"params": [p for n, p in net.named_parameters() if n not in fast]},
        {"params": [p for n, p in net.named_parameters() if n in fast], "scale": 5.0},
    ]
    optimiser = torch.optim.AdamW(groups, 1e-3, weight_decay=0.0)
    run = Run(args, {"net": net}, [optimiser])
    while run.running():
        run.learning_rate()
        chosen = rng.choice(usable, args.batch)
        face = window(data.batch(chosen)).to(args.device)
        mask = window(masks(data, chosen)).to(args.device)
        if rng.random() < 0.5:
            face, mask = face.flip(3), mask.flip(3)
        level = torch.from_numpy(rng.integers(0, LEVELS, args.batch)).to(args.device)
        keep = prefix(net, rng, args.batch)
        decoded, bits = net(face, mask, level, keep)
        error = ((decoded - face) ** 2 * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
        # At a uniform quantiser's slope, distortion falls by 2 ln 2 / 4 a level of 2 ** (1 / 4).
        price = 2.2e-6 * 2.0 ** (-(level.float() - LEVELS // 2) / 2)
        loss = ((error + price * bits) / price.sqrt()).mean() * 1e-2
        descend(optimiser, loss.backward)
        middle = level == LEVELS // 2
        run.tick(
            args.batch,
            {"loss": loss.item(), "bytes": bits.mean().item() / 8, "psnr": psnr(error.mean())}
            | (
                {"bytes_mid": bits[middle].mean().item() / 8, "psnr_mid": psnr(error[middle].mean())}
                if middle.any()
                else {}
            ),
        )
    run.end()
    figures = {name: evaluate(net, Crops(args.cache, [name], args.limit or 100), args.device) for name in VAL}
    print(figures)
    if args.export:
        weights.save(net, args.export, run.card(TRAIN, figures, RIGHTS))


def prefix(net: PayloadNetwork, rng: np.random.Generator, batch: int) -> torch.Tensor:
    """Which channels are kept (B x 96 x 1 x 1): all in four of five, else a prefix in the order of the code."""
    keep = torch.ones(batch, LATENTS, 1, 1, device=net.mean.device)
    ranked = order(net.log_gain.detach(), net.log_scale.detach())
    for i in range(batch):
        if rng.random() < 0.2:
            keep[i, ranked[int(rng.integers(8, LATENTS)) :]] = 0
    return keep


def psnr(error: torch.Tensor) -> float:
    """Decibels of a squared error on the scale -1..1."""
    return float(10 * torch.log10(4 / error.detach().clamp(min=1e-9)))


@torch.inference_mode()
def evaluate(net: PayloadNetwork, data: Crops, device: str) -> dict[str, list[float]]:
    """Estimated bytes and PSNR inside the mask at each level."""
    from refacex_core.payload.network import bits_of

    net.eval()
    usable = with_mesh(data)
    result: dict[str, list[float]] = {"bytes": [], "psnr_in_mask": []}
    for k in range(0, LEVELS, 2):
        size, quality = [], []
        for part in np.array_split(usable, max(len(usable) // 20, 1)):
            face, mask = window(data.batch(part)).to(device), window(masks(data, part)).to(device)
            level = torch.full((len(part),), k, device=device)
            codes = net.codes(face, mask, level)
            size += (bits_of(codes, net.log_scale.exp() * net.gain(level)).sum((1, 2, 3)) / 8).tolist()
            error = ((net.decode(codes, level).clamp(-1, 1) - face) ** 2 * mask).sum((1, 2, 3)) / (
                3 * mask.sum((1, 2, 3))
            )
            quality += [psnr(e) for e in error]
        result["bytes"].append(round(float(np.mean(size)), 1))
        result["psnr_in_mask"].append(round(float(np.mean(quality)), 2))
    return result


if __name__ == "__main__":
    main()
