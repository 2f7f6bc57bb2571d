"""What a channel as noisy as each encoding would carry: dirty-paper capacity, at one distortion.

    python -m training.limits --images 60

For noise that is Gaussian and independent of what is written, Costa (*Writing on dirty paper*, 1983) gives ½ log2(1 + S/N) bits a
coefficient, however large the host. N is what one more encoding does to each of the 64 luma DCT coefficients of a picture that carries
changes of the wanted size already, averaged over the picture; S is water-filled over them, for a change of `--psnr` dB in all. An encoder's
noise is neither: it can be foreseen in part, which helps, and what is near zero is wiped out whole, which does not. So this is a measure to
hold a channel against, and no bound. Writes `training/results/limits.json`: bytes in 256 x 256 pixels.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refacex_core.stego.network import dct_matrix, luma, to_grid
from refacex_core.types import RGB
from training.about import about_run
from training.channels import CONDITIONS
from training.common import Crops
from training.metrics import interval

SETS = ("lfw-val", "celebahq256-val")
ENCODINGS = ("jpeg75", "jpeg50", "webp90", "webp85", "webp80")
BLOCKS = 32 * 32


def capacity(noise: NDArray[np.float64], energy: float) -> float:
    """Bits a block for noise of these variances (64) and a signal of `energy` a block in all, water-filled."""
    low, high = float(noise.min()), float(noise.max()) + energy
    for _ in range(60):
        level = (low + high) / 2
        if np.maximum(level - noise, 0).sum() > energy:
            high = level
        else:
            low = level
    return float(0.5 * np.log2(np.maximum(low / noise, 1)).sum())


@cache
def scalar_costa() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Signal over noise, 0 to 16, and the most bits that a coefficient's binary lattice then carries."""
    signals = np.concatenate([[0.0], np.geomspace(0.05, 16, 160)])
    best = np.zeros_like(signals)
    at = np.linspace(-1, 1, 512, endpoint=False)  # of half the spacing of one bit's points
    for share in np.linspace(0.2, 1.0, 17):
        for i, signal in enumerate(signals[1:], 1):
            half = np.sqrt(3 * signal) / share  # a cover's coefficient lies anywhere between the points
            left = np.exp(-0.5 * ((at[:, None] + 2 * np.arange(-3, 4)) * half) ** 2).sum(1)  # noise, folded
            stays = (np.abs(at) <= max(1 - share, 1 / 512)).astype(float)  # what the embedder leaves of the distance
            seen = np.fft.ifft(np.fft.fft(np.fft.ifftshift(left)) * np.fft.fft(np.fft.ifftshift(stays))).real.clip(
                1e-300
            )
            zero = seen / seen.sum()
            either = (zero + np.roll(zero, len(at) // 2)) / 2
            best[i] = max(best[i], float((zero * np.log2(zero / either)).sum()))
    return signals, best


def binary_capacity(noise: NDArray[np.float64], energy: float) -> float:
    """As `capacity`, of binary lattices; `energy` is shared out as suits them best."""
    signals, bits = scalar_costa()
    low, high = 1e-9, 1e3  # bits that one unit of energy is worth
    less, more = (0.0, 0.0), (0.0, 0.0)  # energy and bits where it is worth more, and less
    for _ in range(60):
        worth = float(np.sqrt(low * high))
        chosen = (bits - worth * signals * noise[:, None]).argmax(1)
        found = float((signals[chosen] * noise).sum()), float(bits[chosen].sum())
        if found[0] > energy:
            low, more = worth, found
        else:
            high, less = worth, found
    if more[0] <= less[0]:  # no more could be spent
        return less[1]
    return less[1] + (energy - less[0]) / (more[0] - less[0]) * (more[1] - less[1])  # some do one, some the other


def noise_of(image: RGB, encoding: str, change: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Variance that an encoding adds to each luma coefficient (64) of the image with a random change of that variance a pixel."""
    dct = dct_matrix()
    grey = rng.normal(0, np.sqrt(change), image.shape[:2])[..., None]  # in luma alone
    written = np.clip(np.clip(image, 5.0, 250.0) + grey, 0, 255).round().astype(np.uint8)
    received = CONDITIONS[encoding](written)
    grids = [
        to_grid(luma(torch.from_numpy(each.copy()).permute(2, 0, 1)[None].float()), dct) for each in (written, received)
    ]
    return np.asarray((grids[1] - grids[0]).double().pow(2).mean((0, 2, 3)).numpy()) + 1 / 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--images", type=int, default=60, help="of each set")
    parser.add_argument("--psnr", type=float, default=40.0)
    parser.add_argument("--results", type=Path, default=Path("training/results"))
    args = parser.parse_args()
    change = 255**2 / 10 ** (args.psnr / 10)
    result: dict[str, Any] = {**about_run(), "psnr": args.psnr}
    for name in SETS:
        data, rng = Crops(args.cache, [name], args.images), np.random.default_rng(0)
        result[name], result[f"{name} binary"] = {}, {}
        for encoding in ENCODINGS:
            noises = [noise_of(data.image(i), encoding, change, rng) for i in range(len(data))]
            for key, carried in ((name, capacity), (f"{name} binary", binary_capacity)):
                result[key][encoding] = interval([BLOCKS * carried(noise, 64 * change) / 8 for noise in noises])
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "limits.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
