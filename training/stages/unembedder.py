"""Stage `unembedder`: what takes the channel's own noise out of a received file again, once the payload is known.

    python -m training.stages.unembedder --run training/runs/unembedder --export unembedder-1

The channel stays as it is; crops go through it, through real files, and back. Half of the objective is relative to each
image's own error, so that PNG, where almost all comes back, counts beside JPEG.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from refacex_core import weights
from refacex_core.stego.network import CARRIERS, STRENGTHS, StegoNetwork
from refacex_core.stego.unembed import Unembedder
from refacex_core.versions import CURRENT, MODELS
from training.common import RIGHTS, Crops, Run, arguments, descend, parse, set_up
from training.stages.channel import HIGH, LOW, attack

TRAIN = ["celebahq256-train", "lfw-train", "portraits-cc0"]
VAL = ["celebahq256-val", "lfw-val"]
_LEAST = 0.15  # mean squared error, levels: below it nothing is to be had, for pixels are rounded twice


def draw(rng: np.random.Generator) -> list[tuple[str, int]]:
    """What happens to a released file: nothing, mostly."""
    u = rng.random()
    if u < 0.45:
        return []
    if u < 0.60:
        return [("webp", int(rng.integers(80, 96)))]
    return [("jpeg", int(rng.integers(60, 98)))]


def batch(data: Crops, chosen: np.ndarray, rng: np.random.Generator, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Cropped images as they are before embedding (0..255), bits, and which places are used."""
    images = ((data.batch(chosen) + 1) * 127.5).round().clamp(LOW, HIGH).to(device)
    y, x = rng.integers(0, 8, 2)
    images = images[:, :, y : y + 248, x : x + 248]
    bits = torch.randint(0, 2, (len(chosen), CARRIERS, 31, 31), device=device).float()
    used = (torch.rand_like(bits) < float(rng.uniform(0.3, 1.0))).float()
    return images, bits, used


def main() -> None:
    parser = arguments(__doc__, minutes=20, batch=8, peak=2e-3)
    parser.add_argument("--channel", default=MODELS[CURRENT].channel, help="weights of the channel that it is for")
    args = parse(parser)
    rng = set_up(args)
    data = Crops(args.cache, TRAIN, args.limit)
    channel, net = StegoNetwork(), Unembedder().to(args.device)
    weights.load_into(channel, args.channel)
    channel.to(args.device)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.0)
    run = Run(args, {"net": net}, [optimiser])
    while run.running():
        run.learning_rate()
        images, bits, used = batch(data, rng.integers(0, len(data), args.batch), rng, args.device)
        with torch.no_grad():
            strength = int(rng.integers(len(STRENGTHS)))
            stego, _ = channel.embed(images, bits, used, strength)
            received = attack(stego, [draw(rng) for _ in range(args.batch)])
        error = (net(channel, received, bits, used, strength) - images).pow(2).mean((1, 2, 3))
        before = (received - images).pow(2).mean((1, 2, 3))
        loss = error.mean() / 4 + (error + _LEAST).log().mean()
        descend(optimiser, loss.backward)
        run.tick(args.batch, {"gain_db": 10 * torch.log10(before / error.detach()).mean(), "loss": loss.detach()})
    run.end()
    figures = {name: evaluate(net, channel, Crops(args.cache, [name], args.limit or 100), args.device) for name in VAL}
    print(figures)
    if args.export:
        weights.save(net, args.export, {**run.card(TRAIN, figures, RIGHTS), "channel": args.channel})


@torch.inference_mode()
def evaluate(net: Unembedder, channel: StegoNetwork, data: Crops, device: str) -> dict[str, float]:
    """PSNR to the image before embedding, of what was received and of what came back, by file."""
    net.eval()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    figures: dict[str, float] = {"images": len(data)}
    files: dict[str, list[tuple[str, int]]] = {"png": [], "webp90": [("webp", 90)]}
    files |= {f"jpeg{quality}": [("jpeg", quality)] for quality in (95, 85, 75, 50)}
    tries = [(name, how, 0) for name, how in files.items()]
    tries += [(f"png_strength{strength}", [], strength) for strength in range(1, len(STRENGTHS))]
    for name, how, strength in tries:
        before, after = [], []
        for i in range(len(data)):
            images, bits, used = batch(data, np.array([i]), rng, device)
            received = attack(channel.embed(images, bits, used, strength)[0], [how])
            back = net(channel, received, bits, used, strength).round().clamp(0, 255)
            before.append(_psnr(received, images))
            after.append(_psnr(back, images))
        figures |= {f"{name}_received": round(float(np.mean(before)), 2), name: round(float(np.mean(after)), 2)}
    return figures


def _psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(255**2 / max((a - b).pow(2).mean().item(), 1e-9))


if __name__ == "__main__":
    main()
