"""Stage `age`: how old a face looks, so that donors suit the hair and hands beside them. Closed form, a minute.

    python -m training.stages.age --data DATA

A ridge regression on lines and folds (`refacex_core.age`) over the CC0 portraits, whose prompts say how old everybody is: of each as it is
and several times coarser, noisy and mirrored. The figures are of portraits that were left out, a tenth at a time.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refacex_core import weights
from refacex_core.age import YEARS, Lines
from refacex_core.faces import warp
from refacex_core.payload.network import WINDOW
from training.about import about_run
from training.common import Crops

COPIES, FOLDS = 12, 10
RIDGE = 3.0  # of the mean square of a measure
RIGHTS = "Made from CC0 portraits of people who do not exist; no portrait is contained."


def ages(data: Crops, table: Path) -> Tensor:
    """Years of the portraits in `data` (N), by the set's table (`portraits-cc0.csv`)."""
    with table.open() as file:
        said = {row["name"]: float(row["age"]) for row in csv.DictReader(file)}
    return torch.tensor([said[name.removeprefix("portraits-cc0/")] for name in data.names])


def otherwise(textures: Tensor) -> Tensor:
    """Textures as poorer photographs would show them: coarser, noisy, mirrored."""
    made = []
    for one in textures.split(1):
        if torch.rand(()) < 0.7:
            small = F.interpolate(one, scale_factor=float(0.25 + 0.75 * torch.rand(())), mode="area")
            one = F.interpolate(small, size=one.shape[2:], mode="bicubic")
        one = one + 0.12 * torch.rand(()) ** 2 * torch.randn_like(one)
        made.append(one.flip(3) if torch.rand(()) < 0.5 else one)
    return torch.cat(made)


def fitted(lines: Tensor, years: Tensor) -> nn.Linear:
    """The ridge regression of years (N) on lines (C x N x F, of C copies)."""
    rows, wanted = lines.flatten(0, 1).double(), (years / YEARS).double().repeat(len(lines))
    mean, spread = rows.mean(0), rows.std(0)
    x = (rows - mean) / spread
    gram = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    slope = torch.linalg.solve(gram, x.T @ (wanted - wanted.mean()) / len(x)) / spread
    linear = nn.Linear(x.shape[1], 1)
    with torch.no_grad():
        linear.weight.copy_(slope[None])
        linear.bias.copy_(wanted.mean() - slope @ mean)
    return linear


@torch.no_grad()
def left_out(lines: Tensor, years: Tensor) -> Tensor:
    """What is read of each portrait (N) by a regression that has not seen it."""
    fold = torch.randperm(len(years)) % FOLDS
    read = torch.zeros(len(years))
    for part in range(FOLDS):
        out = fold == part
        read[out] = YEARS * fitted(lines[:, ~out], years[~out])(lines[0, out])[:, 0]
    return read


def figures(read: Tensor, years: Tensor) -> dict[str, float]:
    """The correlation of what is read with what is said (N years each), and the mean error."""
    return {
        "portraits": len(years),
        "correlation": round(float(torch.corrcoef(torch.stack([read, years]))[0, 1]), 3),
        "mean_error_years": round(float((read - years).abs().mean()), 1),
    }


def portraits(cache: Path, folder: Path) -> tuple[Tensor, Tensor]:
    """Lines of all portraits, as they are and otherwise (C x N x F), and their years (N)."""
    torch.manual_seed(1)
    data = Crops(cache, ["portraits-cc0"])
    points = torch.from_numpy(np.stack([data.mesh(i) for i in range(len(data))]))
    mean_shape = points.mean(0)  # as the donors' bank has it
    field = warp.field(mean_shape.expand(len(data), -1, -1), points, *WINDOW)
    textures = warp.sample(data.batch(list(range(len(data)))), field)
    measure = Lines(mean_shape)
    lines = torch.stack([measure(textures), *(measure(otherwise(textures)) for _ in range(COPIES))])
    return lines, ages(data, folder / "portraits-cc0.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, with portraits-cc0.csv")
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="what training.prepare wrote")
    parser.add_argument("--out", type=Path, default=Path("refacex_core/weights"))
    args = parser.parse_args()
    lines, years = portraits(args.cache, args.data)
    judged = figures(left_out(lines, years), years)
    print(json.dumps(judged))
    about = {"data": ["portraits-cc0"], "rights": RIGHTS, "figures": judged, **about_run()}
    weights.save(fitted(lines, years), "age", about, args.out)


if __name__ == "__main__":
    main()
