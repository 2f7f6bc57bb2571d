"""Do releases look like photographs? Faces of releases and of originals, mixed, for somebody who does not know which is which.

    python -m training.blind out/evaluation/lfw out/evaluation/celebahq --out out/blind
    python -m training.blind --out out/blind --wrong "4 7 12"

The first writes numbered sheets, and a key that whoever judges must not see. The judge names the numbers of all faces with which something
is wrong: smeared, patchy, of another skin than ears and neck, uncanny. The second prints how many of each kind passed, with 95 % intervals:
of originals nearly all should, or the judge saw too much.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from refacex_core import images
from refacex_core.faces import align
from refacex_core.faces.detect import YuNet
from training.metrics import interval

COLUMNS, ROWS, FACE, LINE = 5, 4, 290, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", type=Path, nargs="*", help="what training.evaluate wrote: NAME.original and NAME.png"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--releases", type=int, default=40, help="the first so many of each folder")
    parser.add_argument("--originals", type=int, default=20, help="and so many originals of others")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wrong", help="the numbers that the judge named")
    args = parser.parse_args()
    if args.wrong is None and not args.folders:
        parser.error("name the folders of training.evaluate, or with --wrong what the judge said")
    if args.wrong is None:
        count = sheets(args.folders, args.out, args.releases, args.originals, args.seed)
        print(f"{count} faces: show {args.out}/sheet_*.png to somebody, and not {args.out}/key.json")
    else:
        for kind, passed in score(args.out, {int(number) for number in args.wrong.split()}).items():
            print(kind, json.dumps(passed))


def sheets(folders: list[Path], out: Path, releases: int, originals: int, seed: int) -> int:
    """Writes the sheets and the key; how many faces are on them."""
    find = YuNet()
    faces: list[tuple[str, str, NDArray[np.uint8]]] = []
    for folder in folders:
        names = sorted(folder.glob("*.original"))
        released, others = names[:releases], names[releases : releases + originals]
        faces += [(f"{folder.name} released", n.stem, _face(n, n.with_suffix(".png"), find)) for n in released]
        faces += [(f"{folder.name} original", n.stem, _face(n, n, find)) for n in others]
    order = np.random.default_rng(seed).permutation(len(faces))
    out.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(faces), COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * (FACE + 10), ROWS * (FACE + LINE)), "white")
        for place, which in enumerate(order[start : start + COLUMNS * ROWS]):
            x, y = place % COLUMNS * (FACE + 10), place // COLUMNS * (FACE + LINE)
            ImageDraw.Draw(sheet).text((x + 8, y + 6), str(start + place + 1), fill="black")
            shown = Image.fromarray(faces[which][2]).resize((FACE, FACE), Image.Resampling.LANCZOS)
            sheet.paste(shown, (x + 5, y + LINE))
        sheet.save(out / f"sheet_{start // (COLUMNS * ROWS) + 1}.png")
    key = [{"number": i + 1, "kind": faces[which][0], "name": faces[which][1]} for i, which in enumerate(order)]
    (out / "key.json").write_text(json.dumps(key, indent=1) + "\n")
    return len(faces)


def score(out: Path, wrong: set[int]) -> dict[str, dict[str, float]]:
    """Of each kind, the share that passed."""
    passed: dict[str, list[float]] = {}
    for each in json.loads((out / "key.json").read_text()):
        passed.setdefault(each["kind"], []).append(float(each["number"] not in wrong))
    return {kind: interval(values) for kind, values in sorted(passed.items())}


def _face(original: Path, shown: Path, find: YuNet) -> NDArray[np.uint8]:
    """The crop of `shown` where the original has its face, the one in the middle."""
    before = images.decode(original.read_bytes()).rgb
    middle = np.array(before.shape[1::-1]) / 2
    points = min((d.points for d in find(before)), key=lambda p: float(np.linalg.norm(p.mean(0) - middle)))
    return align.crop(images.decode(shown.read_bytes()).rgb, align.similarity(points))


if __name__ == "__main__":
    main()
