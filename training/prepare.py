"""Aligned 256 x 256 crops of the face data sets, with landmarks and parsing labels, as one .npz-like folder a set.

    python -m training.prepare --data DATA --out training/cache

For each set: `crops.npy` (N x 256 x 256 x 3 uint8), `points.npy` (N x 162 x 2 float32, crop pixels, NaN where none),
`codes.npy` (N x 128 float32, SFace), `labels.npy` (N x 256 x 256 uint8, CelebA-HQ only), `names.json`. Only the sets' own splits are used.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from refacex_core import recognisers
from refacex_core.faces import align
from refacex_core.faces.detect import YuNet
from refacex_core.recognisers import Recogniser

SETS = ("portraits-cc0", "celebahq256-val", "lfw-val", "celebahq256-train", "lfw-train", "london-ccby")


def main() -> None:
    """Prepare every set that is there and not yet prepared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("training/cache"))
    parser.add_argument("--sets", nargs="*", default=SETS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    landmarks = np.load(args.data / "landmarks.npz")
    detector, recogniser = YuNet(), recognisers.sface()
    for name in args.sets:
        target = args.out / name
        if not (target / "names.json").exists():
            target.mkdir(parents=True, exist_ok=True)
            prepare(args.data / f"{name}.tar", target, detector, recogniser, landmarks)


def prepare(
    archive: Path, target: Path, detector: YuNet, recogniser: Recogniser, landmarks: np.lib.npyio.NpzFile
) -> None:
    """One set: the face nearest to the centre of each image."""
    key = next(
        (k[: -len("/names")] for k in landmarks.files if k.endswith("/names") and k.startswith(archive.stem)), None
    )
    known = {}
    if key:
        known = {str(n): i for i, n in enumerate(landmarks[f"{key}/names"])}
        marks = landmarks[f"{key}/points"]
    names, crops, points, labels = [], [], [], []
    with tarfile.open(archive) as tar:
        members = {m.name: m for m in tar.getmembers() if m.isfile()}
        for member in sorted(members):
            if member.endswith(".mask.png") or not member.lower().endswith((".jpg", ".webp", ".png")):
                continue
            image = np.asarray(Image.open(io.BytesIO(_read(tar, members[member]))).convert("RGB"))
            found = detector(image)
            if not found:
                continue
            middle = np.array(image.shape[1::-1]) / 2
            face = min(found, key=lambda d: float(np.linalg.norm(d.points.mean(0) - middle)))
            matrix = align.similarity(face.points)
            names.append(member)
            crops.append(align.crop(image, matrix))
            row = np.full((162, 2), np.nan, np.float32)
            if member in known:
                raw = marks[known[member]].astype(np.float32) / 64
                if raw[0, 0] >= 0:
                    row = align.apply(matrix, raw).astype(np.float32)
            points.append(row)
            mask = members.get(member.rsplit(".", 1)[0] + ".mask.png")
            if mask is not None:
                label = np.asarray(Image.open(io.BytesIO(_read(tar, mask))))
                labels.append(cv2.warpAffine(label, matrix, (256, 256), flags=cv2.INTER_NEAREST))
    np.save(target / "crops.npy", np.stack(crops))
    np.save(target / "points.npy", np.stack(points))
    np.save(
        target / "codes.npy",
        np.concatenate([recogniser(np.stack(crops[i : i + 32])) for i in range(0, len(crops), 32)]),
    )
    if labels:
        np.save(target / "labels.npy", np.stack(labels))
    (target / "names.json").write_text(json.dumps(names))
    print(
        f"{archive.stem}: {len(names)} crops, {int(np.isfinite(np.stack(points)[:, 0, 0]).sum())} with landmarks",
        flush=True,
    )


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(member)
    assert handle is not None
    return handle.read()


if __name__ == "__main__":
    main()
