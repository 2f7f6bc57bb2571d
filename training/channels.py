"""The learned channel beside parity QIM with Reed-Solomon, at equal net bytes, on the same images and through the same files.

    python -m training.channels --images 150

Writes `training/results/channels.json`: stego PSNR and SSIM, and the share of images whose bytes came back whole. A payload is
random bytes; the images are aligned `val` crops of 256 x 256 pixels, which no training saw.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from refacex_core.errors import CoreError, PayloadMissing
from refacex_core.reader import Heard, Model
from refacex_core.sealing import key_check
from refacex_core.stego.channel import Channel
from refacex_core.stego.framing import SPREADS, STRENGTHS, Header, new_locator
from refacex_core.stego.network import _ANNEX_K, FREQUENCIES, dct_matrix, from_grid, luma, to_grid
from refacex_core.types import RGB, Profile
from refacex_core.versions import CURRENT, MODELS
from training.about import about_run
from training.common import Crops
from training.metrics import interval, psnr, ssim

KEY = bytes(range(32))


def _saved(image: RGB, name: str, quality: int) -> RGB:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, name, quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))


def _resized(image: RGB, factor: float) -> RGB:
    small = Image.fromarray(image).resize(
        (int(image.shape[1] * factor), int(image.shape[0] * factor)), Image.Resampling.BICUBIC
    )
    return np.array(small.resize((image.shape[1], image.shape[0]), Image.Resampling.BICUBIC))


def _level(image: RGB, gain: float, offset: float) -> RGB:
    return np.clip((image.astype(np.float64) - 128) * gain + 128 + offset, 0, 255).round().astype(np.uint8)


#: What a released file goes through.
CONDITIONS: dict[str, Callable[[RGB], RGB]] = {
    "png": lambda i: i,
    **{f"jpeg{q}": lambda i, q=q: _saved(i, "jpeg", q) for q in (95, 90, 85, 80, 75, 70, 60, 50)},  # type: ignore[misc]
    **{f"webp{q}": lambda i, q=q: _saved(i, "webp", q) for q in (90, 85, 80)},  # type: ignore[misc]
    "jpeg95_75": lambda i: _saved(_saved(i, "jpeg", 95), "jpeg", 75),
    "jpeg75_90": lambda i: _saved(_saved(i, "jpeg", 75), "jpeg", 90),
    "brightness_5": lambda i: _level(i, 1.0, 12.75),
    "contrast_5": lambda i: _level(i, 1.05, 0.0),
    "resize_0.9": lambda i: _resized(i, 0.9),
    "shift_1": lambda i: np.roll(i, 1, 1),
    "crop_5": lambda i: np.ascontiguousarray(i[12:-12, 12:-12]),
}  # fmt: skip


class Learned:
    """The channel of the current model, filled with so many sealed bytes; the header's 30 come on top.

    As weakly as still comes out of a JPEG 50, as a release is written.
    """

    def __init__(self, net_bytes: int, weights: str) -> None:
        self._channel, self._bytes = Channel("cpu", weights), net_bytes
        self._model = Model(CURRENT, self._channel)

    LOW, HIGH = 5, 250

    def write(self, image: RGB) -> tuple[RGB, Callable[[RGB], bool]]:
        """The stego image, and what says of a received one whether it still gives the same bytes."""
        sealed, locator = os.urandom(self._bytes), new_locator()
        header = Header(
            Profile.ROBUST, CURRENT, 1, len(sealed), locator, key_check(KEY, locator), SPREADS - 1,
            size=(image.shape[1], image.shape[0]),
        )  # fmt: skip

        def read(seen: RGB) -> bool:
            try:
                return self._heard(seen).open(KEY).sealed == sealed
            except CoreError:
                return False

        tries = (self._channel.embed(image, replace(header, strength=each), sealed, KEY) for each in range(STRENGTHS))
        stego = next(
            written for n, written in enumerate(tries) if n == STRENGTHS - 1 or read(_saved(written, "jpeg", 50))
        )
        return stego, read

    def _heard(self, seen: RGB) -> Heard:
        try:
            return self._model.listen(seen)
        except PayloadMissing:
            piece = self._channel.register(seen)
            return Heard(piece.header, self._model, seen, piece.llr, piece)


class ParityQIM:
    """Quantisation index modulation by the parity of JPEG's own steps, eight coefficients a block, RS (255, 231).

    A codeword comes back where at most 12 of its 255 bytes are wrong, which is what a Reed-Solomon decoder needs.
    """

    COEFFICIENTS, CODEWORD, DATA = 8, 255, 231
    LOW, HIGH = 20, 235

    def __init__(self, quality: int = 50) -> None:
        scale = 5000 / quality if quality < 50 else 200 - 2 * quality
        table = np.clip((np.array(_ANNEX_K) * scale + 50) // 100, 1, 255)
        chosen = FREQUENCIES[: self.COEFFICIENTS]
        self._where = [r * 8 + c for r, c in chosen]
        self._steps = torch.tensor([float(table[r, c]) for r, c in chosen])[:, None, None]
        self._dct = dct_matrix()
        self._rng = np.random.default_rng(0)

    def net_bytes(self, image: RGB) -> int:
        """Bytes of payload that the image carries, 28 for a header left out."""
        return (image.shape[0] // 8) * (image.shape[1] // 8) * self.COEFFICIENTS // 8 // self.CODEWORD * self.DATA - 28

    def write(self, image: RGB) -> tuple[RGB, Callable[[RGB], bool]]:
        """As `Learned.write`."""
        x = torch.from_numpy(np.clip(image, self.LOW, self.HIGH)).permute(2, 0, 1)[None].float()
        grid = to_grid(luma(x), self._dct)
        bits = torch.from_numpy(self._rng.integers(0, 2, (self.COEFFICIENTS, *grid.shape[2:]))).float()
        here = grid[0, self._where] / self._steps
        target = (2 * torch.round((here - bits) / 2) + bits) * self._steps
        change = torch.zeros_like(grid)
        change[0, self._where] = target - grid[0, self._where]
        stego = (x + from_grid(change, self._dct)).round().clamp(0, 255)[0].permute(1, 2, 0).byte().numpy()
        order = self._rng.permutation(bits.numel())
        sent = np.packbits(bits.numpy().ravel()[order].astype(np.uint8))

        def read(seen: RGB) -> bool:
            if seen.shape != image.shape:
                return False
            y = luma(torch.from_numpy(seen.copy()).permute(2, 0, 1)[None].float())
            got = torch.round(to_grid(y, self._dct)[0, self._where] / self._steps) % 2
            wrong = np.packbits(got.numpy().ravel()[order].astype(np.uint8)) != sent
            words = wrong[: len(wrong) // self.CODEWORD * self.CODEWORD].reshape(-1, self.CODEWORD)
            return bool((words.sum(1) <= (self.CODEWORD - self.DATA) // 2).all())

        return np.ascontiguousarray(stego), read


def measure(coder: Learned | ParityQIM, crops: Crops) -> dict[str, dict[str, float]]:
    """All figures of one coder on one set."""
    values: dict[str, list[float]] = defaultdict(list)
    for index in range(len(crops)):
        image = crops.image(index)
        stego, read = coder.write(image)
        values["stego_psnr"].append(psnr(image, stego))
        kept_off_the_ends = np.clip(image, coder.LOW, coder.HIGH)  # both coders do this first; what it costs is apart
        values["embedding_psnr"].append(psnr(kept_off_the_ends, stego))
        values["stego_ssim"].append(ssim(image, stego))
        for name, change in CONDITIONS.items():
            values[name].append(float(read(change(stego))))
    return {name: interval(v) for name, v in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--images", type=int, default=150, help="a set")
    parser.add_argument("--weights", default=MODELS[CURRENT].channel)
    parser.add_argument("--out", type=Path, default=Path("training/results/channels.json"))
    args = parser.parse_args()
    baseline = ParityQIM()
    net_bytes = baseline.net_bytes(np.zeros((256, 256, 3), np.uint8))
    coders: dict[str, Learned | ParityQIM] = {"learned": Learned(net_bytes, args.weights), "parity_qim": baseline}
    result: dict[str, object] = {**about_run(), "weights": args.weights, "net_bytes": net_bytes, "size": [256, 256]}
    for name in ("lfw-val", "celebahq256-val"):
        crops = Crops(args.cache, [name], args.images)
        result[name] = {label: measure(coder, crops) for label, coder in coders.items()}
        print(name, json.dumps({k: {n: x["mean"] for n, x in v.items()} for k, v in result[name].items()}, indent=1))  # type: ignore[attr-defined]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
