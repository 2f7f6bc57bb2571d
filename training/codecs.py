"""The payload codec beside AVIF, JPEG XL and WebP, at equal bytes, on the same faces.

    pip install pillow-jxl-plugin      # for JPEG XL; no dependency of ours
    python -m training.codecs --loss-networks WEIGHTS --images 60

Each codec gets the window that the payload codes (208 x 192 pixels, what is outside of the mask smoothed) and gives the best file of at
most so many bytes; the face that comes back is laid into the original crop. A container is counted, but for the row that says that it
is not: 275 bytes of an AVIF file, which ours does not send. Nothing is hidden in a picture here and no network helps: this is the codec
alone. Writes `training/results/codecs.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from refacex_core.errors import PayloadUnreadable
from refacex_core.faces.landmarks import Landmarks, oval_mask
from refacex_core.payload import codec
from refacex_core.types import RGB
from training.about import about_run
from training.common import Crops, to_tensor
from training.identities import Judges
from training.metrics import interval, psnr, ssim

SETS = ("lfw-val", "celebahq256-val")
BUDGETS = (500, 800, 1200, 2000)
CONTAINER = 275  # bytes of an AVIF file of one window before its AV1 data

Coded = tuple[int, RGB]  # bytes and what comes back


def _file(view: RGB, name: str, **options: Any) -> Coded:
    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, name, **options)
    return len(buffer.getvalue()), np.asarray(Image.open(buffer).convert("RGB"))


def _search(view: RGB, budget: int, code: Callable[[RGB, int], Coded]) -> RGB | None:
    """What comes back from the best quality (0..100) whose bytes fit."""
    low, high, best = 0, 100, None
    while low <= high:
        quality = (low + high) // 2
        size, back = code(view, quality)
        if size <= budget:
            best, low = back, quality + 1
        else:
            high = quality - 1
    return best


def _pillow(name: str, uncounted: int = 0, **options: Any) -> Callable[[RGB, int], Coded]:
    def code(view: RGB, quality: int) -> Coded:
        size, back = _file(view, name, quality=quality, **options)
        return size - uncounted, back

    return code


def codecs() -> dict[str, Callable[[RGB, int], Coded]]:
    """Those that are measured beside ours."""
    found = {
        "AVIF, Pillow's settings": _pillow("avif"),
        "the same, container not counted": _pillow("avif", CONTAINER),
        "WebP": _pillow("webp", method=6),
    }
    if importlib.util.find_spec("pillow_jxl") is not None:
        importlib.import_module("pillow_jxl")
        found["JPEG XL"] = _pillow("jxl", effort=7, use_container=False)
    return found


def _ours(crop: RGB, mask: np.ndarray, budget: int) -> RGB | None:
    try:
        payload = codec.encode(crop, mask, budget)
    except PayloadUnreadable:
        return None
    assert len(payload) <= budget
    return codec.decode(payload)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--loss-networks", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60, help="of each set")
    parser.add_argument("--results", type=Path, default=Path("training/results"))
    args = parser.parse_args()
    judges = Judges(args.loss_networks)
    result: dict[str, Any] = {**about_run(), "window": [208, 192]}
    for name in SETS:
        result[name] = measure(Crops(args.cache, [name], args.images), judges)
        print(
            name,
            {b: {c: v["fits"]["mean"] for c, v in by.items()} for b, by in result[name].items()},
            flush=True,
        )
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "codecs.json").write_text(json.dumps(result, indent=2) + "\n")


def measure(data: Crops, judges: Judges) -> dict[str, dict[str, dict[str, Any]]]:
    """By budget and codec: how many faces fit, and how good those are that come back."""
    landmarks, others = Landmarks(), codecs()
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for i in range(len(data)):
        crop = data.image(i)
        mask = oval_mask(landmarks(to_tensor(crop[None])).numpy()[0])
        view = codec.window_of(codec.extend(crop, mask))
        for budget in BUDGETS:
            back = {"ours": _ours(crop, mask, budget)}
            back |= {name: _search(view, budget, code) for name, code in others.items()}
            for name, decoded in back.items():
                row = values[str(budget), name]
                row["fits"].append(float(decoded is not None))
                if decoded is None:
                    continue
                laid = codec.with_window(crop, decoded).astype(np.float32)
                whole = (crop + (laid - crop) * mask[..., None]).round().astype(np.uint8)
                row["psnr_in_mask"].append(psnr(crop, whole, mask))
                row["ssim"].append(ssim(crop, whole))
                with torch.no_grad():
                    row["lpips"].append(float(judges.lpips(to_tensor(crop[None]), to_tensor(whole[None]))))
                a, b = judges.sface(np.stack([crop, whole]))
                row["cosine_sface"].append(float(a @ b))
    figures: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for (budget_, name), row in values.items():
        figures[budget_][name] = {key: interval(each) for key, each in row.items()}
    return dict(figures)


if __name__ == "__main__":
    main()
