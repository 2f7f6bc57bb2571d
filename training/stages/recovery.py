"""Stage `recovery`: the network that gives the original face back.

    python -m training.stages.recovery --loss-networks WEIGHTS --run training/runs/recovery --export recovery

First a pool of released crops is made with the trained anonymiser and channel, as 8-bit pixels, with the payload's decoded
window beside each; then the network learns on them, through JPEG and WebP files drawn anew for every step and, as a reader
does it, with the channel's noise taken out again (`--unembedder`). The released pixels are integers read from the pool: there is no
path for a gradient to the anonymiser. Nor may the network lean on what
this anonymiser happens to draw: in some crops of the pool another person's face stands in the mask, and it is told which
pixels were replaced, so that it takes none of them for the original's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.anonymiser import Anonymiser
from refacex_core.payload import codec
from refacex_core.payload.network import WINDOW
from refacex_core.recovery import RecoveryNetwork
from refacex_core.stego.network import CARRIERS, StegoNetwork
from refacex_core.stego.unembed import Unembedder
from refacex_core.versions import CURRENT, MODELS
from training.common import (
    RIGHTS,
    Crops,
    Run,
    arguments,
    descend,
    parse,
    processes,
    set_up,
    sheet,
    to_images,
    to_tensor,
)
from training.losses import lpips
from training.masks import with_mesh
from training.stages.channel import HIGH, LOW, recode

TRAIN = ["celebahq256-train", "lfw-train"]
VAL = ["celebahq256-val", "lfw-val"]
LOOK = 128  # pixels, the side of the piece that LPIPS sees in a step: it costs most of one
STRANGE = 0.25  # share of the pool with the face of another photograph in the mask


def _codes(bank: torch.Tensor, rng: np.random.Generator, count: int) -> torch.Tensor:
    """Donor codes: bank entries and mixes of two."""
    a, b = rng.integers(0, len(bank), (2, count))
    share = torch.from_numpy(np.where(rng.random(count) < 0.5, rng.uniform(0.35, 0.65, count), 1.0)).float()[:, None]
    return F.normalize(share * bank[a] + (1 - share) * bank[b], dim=1)


@torch.inference_mode()
def make_pool(
    data: Crops, count: int, rng: np.random.Generator, quality: tuple[int, int], through: str
) -> dict[str, np.ndarray]:
    """`count` originals, released crops (8 bit, before the file is encoded, `through` that channel) and decoded windows."""
    anonymiser, channel = Anonymiser(), StegoNetwork()
    weights.load_into(anonymiser.unet, "anonymiser")
    weights.load_into(channel, through)
    usable = with_mesh(data)
    chosen = np.sort(rng.choice(usable, min(count, len(usable)), replace=False))
    pool: dict[str, list[np.ndarray]] = {name: [] for name in ("original", "released", "view", "mask", "bits", "used")}
    for part in np.array_split(chosen, max(len(chosen) // 8, 1)):
        source = data.batch(part)
        points = torch.from_numpy(np.stack([data.mesh(int(i)) for i in part]))
        points = points + 0.8 * torch.from_numpy(rng.standard_normal((len(part), 1, 2)).astype(np.float32))
        out = anonymiser(source, points, _codes(anonymiser.appearance.codes, rng, len(part)))
        strange = torch.from_numpy(rng.random((len(part), 1, 1, 1)) < STRANGE)
        face = torch.where(strange, source.roll(1, 0), out.face)
        crop = source + out.mask * (face - source)
        pixels = torch.from_numpy(to_images(crop)).permute(0, 3, 1, 2).float().clamp(LOW, HIGH)
        bits = torch.randint(0, 2, (len(part), CARRIERS, 32, 32)).float()
        used = (torch.rand_like(bits) < float(rng.uniform(0.5, 1.0))).float()
        stego, _ = channel.embed(pixels, bits, used)
        pool["bits"] += list(np.packbits(bits.numpy().astype(bool), axis=-1))
        pool["used"] += list(np.packbits(used.numpy().astype(bool), axis=-1))
        pool["released"] += list(stego.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
        pool["original"] += [data.image(int(i)) for i in part]
        masks_ = out.mask[:, 0].numpy()
        pool["mask"] += [(m * 255).astype(np.uint8) for m in masks_]
        for i, m in zip(part, masks_, strict=True):
            view = codec.window_of(codec.extend(data.image(int(i)), m))
            pool["view"].append(codec.recode(view, int(rng.integers(*quality))))
    return {k: np.stack(v) for k, v in pool.items()}


def main() -> None:
    parser = arguments(__doc__, minutes=25, batch=8, peak=1e-3)
    parser.add_argument("--pool", type=int, default=1600, help="released crops to learn from")
    parser.add_argument(
        "--channel", default=MODELS[CURRENT].channel, help="weights of the channel that the crops go through"
    )
    parser.add_argument("--unembedder", default=MODELS[CURRENT].unembedder, help="weights of what was trained with it")
    args = parse(parser)
    rng = set_up(args)
    before = Before(args.channel, args.unembedder, args.device)
    pool = load_pool(args, "pool", TRAIN, args.pool, rng)
    net = RecoveryNetwork().to(args.device, memory_format=torch.channels_last)
    perceptual = lpips(args.loss_networks).to(args.device)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-4)
    run = Run(args, {"net": net}, [optimiser])
    while run.running():
        run.learning_rate()
        chosen = rng.integers(0, len(pool["original"]), args.batch)
        original, released, view, mask = batch(pool, chosen, rng, args.device, before)
        with torch.autocast(torch.device(args.device).type, torch.bfloat16):
            out, replaced = net.choose(released, view)
        out, replaced = out.float(), replaced.float()
        error = F.mse_loss(out, original)
        top, left, height, width = WINDOW
        inside = (..., slice(top, top + height), slice(left, left + width))
        y, x = top + int(rng.integers(height - LOOK + 1)), left + int(rng.integers(width - LOOK + 1))
        look = (..., slice(y, y + LOOK), slice(x, x + LOOK))
        seen = perceptual(out[look], original[look]).mean()
        known = F.binary_cross_entropy_with_logits(replaced[inside], (mask[inside] > 0).float())
        loss = 20 * error + F.l1_loss(out, original) + 0.5 * seen + 0.1 * known
        descend(optimiser, loss.backward)
        run.tick(
            args.batch,
            {"psnr": float(10 * torch.log10(4 / error.detach())), "lpips": seen.item(), "replaced": known.item()},
        )
    run.end()
    figures = {n: evaluate(net, load_pool(args, f"pool-{n}", [n], 100, rng), perceptual, args, before) for n in VAL}
    print(figures)
    if args.export:
        weights.save(net, args.export, run.card(TRAIN, figures, RIGHTS))


def load_pool(args, name: str, sets: list[str], count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The pool of this run, made at the first call."""
    path = args.run / f"{name}.npz"
    first, several = processes()[0] == 0, processes()[1] > 1
    if several and not first:
        dist.barrier()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make_pool(Crops(args.cache, sets, args.limit), count, rng, (4, 48), args.channel))
    if several and first:
        dist.barrier()
    return dict(np.load(path))


class Before:
    """Received crops as they were before embedding: what the reader gives the network."""

    def __init__(self, channel: str, unembedder: str, device: str) -> None:
        self._channel, self._net, self._device = StegoNetwork(), Unembedder(), device
        weights.load_into(self._channel, channel)
        weights.load_into(self._net, unembedder)
        self._channel.to(device)
        self._net.to(device)

    @torch.no_grad()
    def __call__(
        self, received: np.ndarray, pool: dict[str, np.ndarray], chosen: np.ndarray | list[int]
    ) -> torch.Tensor:
        """The crops `chosen` from the pool, `received` from files (B x 256 x 256 x 3): B x 3 x 256 x 256, -1..1, in whole levels."""
        bits, used = (
            torch.from_numpy(np.unpackbits(pool[name][chosen], axis=-1)).float().to(self._device)
            for name in ("bits", "used")
        )
        images = torch.from_numpy(np.array(received)).permute(0, 3, 1, 2).float().to(self._device)
        return self._net(self._channel, images, bits, used).round().clamp(0, 255).div(127.5).sub(1)


def batch(pool: dict[str, np.ndarray], chosen: np.ndarray, rng: np.random.Generator, device: str, before: Before):
    """Originals, released crops as read from a file and unembedded, windows (-1..1) and masks (0..1)."""
    released = []
    for i in chosen:
        u = rng.random()
        how = (
            []
            if u < 0.35
            else [("jpeg", int(rng.integers(70, 96)))]
            if u < 0.9
            else [("webp", int(rng.integers(80, 96)))]
        )
        released.append(recode(pool["released"][i], how))
    original, view = (to_tensor(pool[name][chosen]) for name in ("original", "view"))
    parts = [original, before(np.stack(released), pool, chosen), view]
    parts.append(torch.from_numpy(pool["mask"][chosen])[:, None].float() / 255)
    flip = bool(rng.random() < 0.5)
    return [(p.flip(3) if flip else p).to(device) for p in parts]


@torch.no_grad()  # the scripted LPIPS does not take inference tensors
def evaluate(net: RecoveryNetwork, pool: dict[str, np.ndarray], perceptual, args, before: Before) -> dict[str, float]:
    """PSNR over the crop and LPIPS, from PNG and from JPEG 85 and 75."""
    net.eval()
    figures: dict[str, float] = {}
    rows = []
    for name, how in (("png", []), ("jpeg85", [("jpeg", 85)]), ("jpeg75", [("jpeg", 75)])):
        psnr, seen = [], []
        for i in range(len(pool["original"])):
            original = to_tensor(pool["original"][i : i + 1]).to(args.device)
            received = recode(pool["released"][i], how)[None]
            out = net(before(received, pool, [i]), to_tensor(pool["view"][i : i + 1]).to(args.device)).clamp(-1, 1)
            psnr.append(float(10 * torch.log10(4 / F.mse_loss(out, original))))
            seen.append(float(perceptual(out, original)))
            if name == "jpeg85" and i < 12:
                rows.append([pool["original"][i], pool["released"][i], to_images(out)[0]])
        figures |= {f"{name}_psnr": round(float(np.mean(psnr)), 2), f"{name}_lpips": round(float(np.mean(seen)), 4)}
    sheet([[r[k] for r in rows] for k in range(3)], args.run / "samples.png")
    return figures


if __name__ == "__main__":
    main()
