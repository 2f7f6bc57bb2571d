"""Releases for an attacker to learn from: pairs of original and released face, as `training.attacks` reads them.

    python -m training.collect --data DATA --set lfw-train --images 1500

The core runs as for a user, file in, file out; both faces are then found afresh. Of each person at most two photographs, those with two
first. Goes on where it stopped. What it writes shows people: it lies under an ignored folder and is never committed.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refacex_core import images
from refacex_core.faces import align
from refacex_core.faces.detect import YuNet
from refacex_core.pipeline import Core
from refacex_core.types import ItemInput, ItemOptions, Released, SealContext
from training.evaluate import Keys

SETS = ("lfw-train", "lfw-val")
SAVE = 50  # images a file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--images", type=int, default=10**9)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop by the clock")
    parser.add_argument("--out", type=Path, default=Path("out/attacks"))
    args = parser.parse_args()
    collect(args.data / f"{args.set}.tar", args.out / args.set, args.images, args.minutes)


def collect(archive: Path, out: Path, most: int, minutes: float) -> None:
    """Releases the archive's photographs and writes `SAVE` at a time to `out`/NNNN.npz."""
    core, detector, keys = Core.load(), YuNet(), Keys()
    context = SealContext("attacks", "", "", core.model_version, "default")
    out.mkdir(parents=True, exist_ok=True)
    done = len(list(out.glob("*.npz")))
    started = time.monotonic()
    photographs = list(_photographs(archive))[:most]
    for number in range(done, -(-len(photographs) // SAVE)):
        rows = []
        for name, data in photographs[number * SAVE : (number + 1) * SAVE]:
            outcome = core.anonymise([ItemInput(data, keys.item(), context, ItemOptions())])[0]
            if not isinstance(outcome, Released) or len(outcome.faces) != 1:
                continue
            released = images.decode(outcome.data).rgb
            crops = [_face(detector, each) for each in (images.decode(data).rgb, released)]
            if all(crop is not None for crop in crops):
                donor = outcome.faces[0].donor or ""
                rows.append((name.split("/")[0], *crops, donor, residual(released)))
        if rows:
            names = ("person", "original", "released", "donor", "residual")
            columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
            path = out / f"{number:04d}.npz"
            np.savez(path.with_suffix(".tmp.npz"), **{key: np.array(value) for key, value in columns.items()})
            path.with_suffix(".tmp.npz").replace(path)
        print(
            json.dumps(
                {"images": (number + 1) * SAVE, "kept": len(rows), "seconds": round(time.monotonic() - started)}
            ),
            flush=True,
        )
        if time.monotonic() - started > 60 * minutes:
            break


def residual(rgb: NDArray[np.uint8], tile: int = 64) -> NDArray[np.float32]:
    """What a search for a hidden mark looks at first: luma less its local mean, averaged over all tiles (64 x 64)."""
    luma = rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = luma.copy()
    mean[1:-1, 1:-1] = (
        sum(luma[1 + i : luma.shape[0] - 1 + i, 1 + j : luma.shape[1] - 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1))
        / 9
    )
    noise = np.clip(luma - mean, -12, 12)
    rows, columns = luma.shape[0] // tile, luma.shape[1] // tile
    tiles = noise[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile)
    return np.asarray(tiles.mean((0, 2)), np.float32)


def _photographs(archive: Path) -> Iterator[tuple[str, bytes]]:
    of: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            if member.isfile():
                of[member.name.split("/")[0]].append(member.name)
        for names in sorted(of.values(), key=lambda names: (-min(len(names), 2), names)):
            for name in names[:2]:
                handle = tar.extractfile(name)
                assert handle is not None
                yield name, handle.read()


def _face(detector: YuNet, rgb: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    middle = np.array(rgb.shape[1::-1]) / 2
    found = min(
        (d.points for d in detector(rgb)), key=lambda p: float(np.linalg.norm(p.mean(0) - middle)), default=None
    )
    return None if found is None else align.crop(rgb, align.similarity(found))


if __name__ == "__main__":
    main()
