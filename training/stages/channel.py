"""Stage `channel`: the stego network, through real JPEG and WebP files.

    python -m training.stages.channel --run training/runs/channel --export channel

The codecs are Pillow's own, passed straight through for the gradient. The objective is the smallest visible change at which
every image still carries `--rate` bits a block, as measured by the mutual information of the extractor's soft decisions
(the rate that a bit-interleaved code can reach).
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.stego.network import CARRIERS, StegoNetwork, luma
from training.common import RIGHTS, Crops, Run, arguments, descend, parse, set_up

TRAIN = ["celebahq256-train", "lfw-train", "portraits-cc0"]
VAL = ["celebahq256-val", "lfw-val"]
LOW, HIGH = 5.0, 250.0  # pixels are kept off the ends of the range before embedding


def recode(image: np.ndarray, how: list[tuple[str, int]]) -> np.ndarray:
    """A uint8 RGB image through the given codecs, one after another."""
    for name, quality in how:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, name, quality=quality, **({"method": 2} if name == "webp" else {}))
        image = np.asarray(Image.open(buffer).convert("RGB"))
    return image


def draw(rng: np.random.Generator) -> list[tuple[str, int]]:
    """What happens to a released file."""
    u = rng.random()
    if u < 0.08:
        return []
    if u < 0.28:
        return [("webp", int(rng.integers(80, 95)))]
    if u < 0.40:
        return [("jpeg", int(rng.integers(75, 96))), ("jpeg", int(rng.integers(70, 96)))]
    if u < 0.70:
        return [("jpeg", int(rng.integers(49, 65)))]
    return [("jpeg", int(rng.integers(65, 96)))]


def attack(images: Tensor, how: list[list[tuple[str, int]]]) -> Tensor:
    """Round, save, read; the gradient passes straight through."""
    flat = images.detach().clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    received = np.stack([recode(i, h) for i, h in zip(flat, how, strict=True)])
    back = torch.from_numpy(received).permute(0, 3, 1, 2).to(images)
    return images + (back - images).detach()


def information(llr: Tensor, bits: Tensor) -> Tensor:
    """Bits a block that the soft decisions carry, an image (B); a binary symmetric view of each raw bit."""
    loss = F.softplus(torch.where(bits > 0.5, llr, -llr)) / math.log(2)
    return (1 - loss).sum(1).mean((1, 2))


def visibility(images: Tensor) -> Tensor:
    """Weights for luma changes, mean 1: more where the picture is smooth (B x 1 x H x W)."""
    y = luma(images)
    mean = F.avg_pool2d(y, 7, 1, 3, count_include_pad=False)
    var = F.avg_pool2d(y * y, 7, 1, 3, count_include_pad=False) - mean**2
    w = 1 / (var.clamp(min=0).sqrt() + 6)
    return w / w.mean((2, 3), keepdim=True)


def main() -> None:
    parser = arguments(__doc__, minutes=25, batch=8, peak=2e-3)
    parser.add_argument("--rate", type=float, default=8.8, help="bits a block (of 8 x 8) wanted in every image")
    args = parse(parser)
    rng = set_up(args)
    data = Crops(args.cache, TRAIN, args.limit)
    net = StegoNetwork().to(args.device)
    fast = [net.log_steps]
    slow = [p for n, p in net.named_parameters() if n != "log_steps"]
    optimiser = torch.optim.AdamW([{"params": slow}, {"params": fast, "scale": 2.0}], 1e-3, weight_decay=0.0)
    run = Run(args, {"net": net}, [optimiser])
    while run.running():
        run.learning_rate()
        images = ((data.batch(rng.integers(0, len(data), args.batch)) + 1) * 127.5).clamp(LOW, HIGH).to(args.device)
        shift = rng.integers(0, 8, 2)
        images = images[:, :, shift[0] : shift[0] + 248, shift[1] : shift[1] + 248]
        bits = torch.randint(0, 2, (args.batch, CARRIERS, 31, 31), device=args.device).float()
        stego, cost = net.embed(images, bits, torch.ones_like(bits))
        how = [draw(rng) for _ in range(args.batch)]
        llr = net.extract(attack(stego, how))
        info = information(llr, bits)
        webp = torch.tensor([h[-1:] != [] and h[-1][0] == "webp" for h in how], device=args.device)
        short = F.relu(torch.where(webp, 0.9, 1.0) * args.rate - info)  # what all of WebP would cost is seen elsewhere
        delta = luma(stego - images)
        weighted = (visibility(images) * delta**2).mean()
        plain = cost.sum(1).mean() / 64
        # `cost` moves the steps (its gradient sees the lattice), `weighted` moves the embedder.
        loss = 0.5 * plain + 0.5 * weighted + 4.0 * (short + 0.5 * short**2).mean() - 0.02 * info.mean()
        descend(optimiser, loss.backward)
        psnr = 10 * math.log10(255**2 / max((stego - images).detach().pow(2).mean().item(), 1e-9))
        run.tick(
            args.batch,
            {"loss": loss.item(), "bits_a_block": info.mean().item(), "short": short.mean().item(), "psnr": psnr},
            decay=0.995,
        )
    run.end()
    figures = {name: evaluate(net, Crops(args.cache, [name], args.limit or 100), args.device) for name in VAL}
    print(figures, "steps", [round(s, 1) for s in net.steps.tolist()])
    if args.export:
        weights.save(net, args.export, run.card(TRAIN, figures, RIGHTS))


CONDITIONS: dict[str, list[tuple[str, int]]] = {
    "png": [], "jpeg95": [("jpeg", 95)], "jpeg85": [("jpeg", 85)], "jpeg75": [("jpeg", 75)], "jpeg60": [("jpeg", 60)],
    "jpeg50": [("jpeg", 50)], "webp90": [("webp", 90)], "webp80": [("webp", 80)], "jpeg95_75": [("jpeg", 95), ("jpeg", 75)],
}  # fmt: skip


@torch.inference_mode()
def evaluate(net: StegoNetwork, data: Crops, device: str) -> dict[str, float]:
    """PSNR, and for each condition the lowest and the mean number of bits a block over the images."""
    net.eval()
    torch.manual_seed(0)
    result: dict[str, list[float]] = {k: [] for k in CONDITIONS}
    psnr = []
    for i in range(len(data)):
        images = ((data.batch([i]) + 1) * 127.5).clamp(LOW, HIGH).to(device)
        bits = torch.randint(0, 2, (1, CARRIERS, 32, 32), device=device).float()
        stego, _ = net.embed(images, bits, torch.ones_like(bits))
        psnr.append(10 * math.log10(255**2 / (stego.clamp(0, 255).round() - images).pow(2).mean().item()))
        for name, how in CONDITIONS.items():
            result[name].append(information(net.extract(attack(stego, [how])), bits).item())
    figures = {"psnr": float(np.mean(psnr)), "images": len(data)}
    for name, values in result.items():
        figures |= {f"{name}_min": min(values), f"{name}_mean": float(np.mean(values))}
    return {k: round(v, 3) for k, v in figures.items()}


if __name__ == "__main__":
    main()
