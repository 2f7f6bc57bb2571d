"""Prepared crops as tar shards, to carry to another machine, and as tensors on the device that trains.

    python -m training.shards --cache training/cache --out training/cache/shards --sets celebahq256-train lfw-train

A shard holds `NNNNN.webp` crops, `points.npy` (N x 162 x 2, crop pixels) and `codes.npy` (N x 128, SFace), and nothing that names
the photographs.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refacex_core.age import Age
from refacex_core.donors import ALIKE, TOO_NEAR, DonorAppearance, bank_looks
from refacex_core.faces.landmarks import oval_mask
from refacex_core.faces.presentation import Presentation
from refacex_core.looks import distances, of_faces

QUALITY = 72


class Faces:
    """Crops with their masks, points and SFace codes, all on one device.

    `images` N x 3 x 256 x 256 and `masks` N x 1 x 256 x 256 are uint8; `points` N x 162 x 2; `codes` N x 128.
    """

    def __init__(
        self, crops: NDArray[np.uint8], points: NDArray[np.float32], codes: NDArray[np.float32], device: str
    ) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            masks = np.stack(list(pool.map(lambda p: np.rint(oval_mask(p) * 255).astype(np.uint8), points)))
        self.images = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(device)
        self.masks = torch.from_numpy(masks)[:, None].to(device)
        self.points = torch.from_numpy(points.astype(np.float32)).to(device)
        self.codes = F.normalize(torch.from_numpy(codes.astype(np.float32)).to(device), dim=1)

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def from_cache(cls, cache: Path, sets: list[str], device: str, limit: int | None = None) -> Faces:
        """The faces with known landmarks of what `training.prepare` wrote."""
        parts = []
        for name in sets:
            crops, points, codes = (np.load(cache / name / f"{f}.npy", mmap_mode="r") for f in PARTS)
            known = np.flatnonzero(np.isfinite(points[:, 0, 0]))[:limit]
            parts.append((crops[known], points[known], codes[known]))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)), device)

    @classmethod
    def from_shards(cls, folder: Path, device: str, limit: int | None = None) -> Faces:
        """The faces of every shard in a folder."""
        parts = []
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                members = {m.name: _bytes(tar, m) for m in tar if m.isfile()}
            names = sorted(n for n in members if n.endswith(".webp"))[:limit]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                crops = np.stack(list(pool.map(_image, [members[name] for name in names])))
            points, codes = (np.load(io.BytesIO(members[f"{f}.npy"])).astype(np.float32) for f in PARTS[1:])
            parts.append((crops, points[: len(crops)], codes[: len(crops)]))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)), device)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crops (B x 3, -1..1), masks (B x 1, 0..1) and points of the faces `chosen` (B)."""
        return (
            self.images[chosen].float().div_(127.5).sub_(1),
            self.masks[chosen].float().div_(255),
            self.points[chosen],
        )

    @torch.inference_mode()
    def donors(self, appearance: DonorAppearance) -> Tensor:
        """For each face, the part of the bank that looks most like it (N x K), about as `DonorBank.choose` takes it."""
        bank, presentation = bank_looks(appearance), Presentation().to(self.codes.device)
        age = Age(appearance.mean_shape).to(self.codes.device)
        apart = []
        for part in torch.arange(len(self)).split(64):
            crops, _, points = self.batch(part)
            seen = of_faces(crops, points, appearance.mean_shape, presentation(crops), age)
            apart.append(distances(seen, bank))
        distance = torch.cat(apart)
        distance[self.codes @ appearance.codes.T >= TOO_NEAR] = torch.inf
        return distance.argsort(1)[
            :, : len(appearance.codes) // (2 * ALIKE)
        ]  # about half of the bank is read otherwise


def draw_donors(appearance: DonorAppearance, codes: Tensor, pool: Tensor, draws: int = 4) -> Tensor:
    """A donor code a face (B x 128) to learn with: single ones and mixes of two out of `pool` (B x K), of `draws` the one that is
    furthest from the face's own code (B x 128). `DonorBank.choose` mixes two as chance draws them."""
    b, k = pool.shape
    first, second = (
        appearance.codes[pool.gather(1, torch.randint(k, (b, draws), device=pool.device))] for _ in range(2)
    )
    share = torch.empty(b, draws, 1, device=pool.device).uniform_(0.35, 0.65)
    share = torch.where(torch.rand_like(share) < 0.5, share, torch.ones_like(share))
    mixed = F.normalize(share * first + (1 - share) * second, dim=2)
    best = torch.einsum("bdk,bk->bd", mixed, codes).argmin(1)
    return mixed[torch.arange(b, device=pool.device), best]


PARTS = ("crops", "points", "codes")


def _image(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(member)
    assert handle is not None
    return handle.read()


def pack(cache: Path, name: str, out: Path) -> Path:
    """One shard of a prepared set."""
    crops, points, codes = (np.load(cache / name / f"{f}.npy", mmap_mode="r") for f in PARTS)
    known = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.tar"

    def webp(i: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(crops[i]).save(buffer, "WEBP", quality=QUALITY, method=4)
        return buffer.getvalue()

    def array(values: NDArray[np.float32]) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, values.astype(np.float16))
        return buffer.getvalue()

    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar, ThreadPoolExecutor(os.cpu_count()) as pool:
        files = {f"{n:05}.webp": data for n, data in enumerate(pool.map(webp, known))}
        files |= {"points.npy": array(points[known]), "codes.npy": array(codes[known])}
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--out", type=Path, default=Path("training/cache/shards"))
    parser.add_argument("--sets", nargs="+", default=["celebahq256-train", "lfw-train"])
    args = parser.parse_args()
    for name in args.sets:
        path = pack(args.cache, name, args.out)
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
