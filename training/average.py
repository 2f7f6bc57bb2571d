"""One network out of runs that began from the same checkpoint: the mean of their averaged weights, measured and exported.

    python -m training.average --runs training/runs/gpu-A training/runs/gpu-B --export anonymiser

After Wortsman et al., *Model soups* (2022): runs under other loss weights end in one basin, and between them lies what neither has.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from refacex_core import weights
from refacex_core.anonymiser import Anonymiser
from training.about import about_run
from training.common import RIGHTS
from training.shards import Faces
from training.stages.anonymiser import TRAIN, VAL, evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--export", required=True)
    parser.add_argument("--limit", type=int, default=400, help="images of each set to measure on")
    args = parser.parse_args()
    states = [torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True) for run in args.runs]
    averages = [state["averages"]["unet"] for state in states]
    faces = {name: Faces.from_cache(args.cache, [name], "cpu", args.limit) for name in VAL}
    net = Anonymiser()

    def measured(weights_of: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
        net.unet.load_state_dict(weights_of)
        return {name: evaluate(net, of_set) for name, of_set in faces.items()}

    alone = [measured(average) for average in averages]
    figures = measured({k: torch.stack([a[k].float() for a in averages]).mean(0) for k in averages[0]})
    for run, each in zip([*args.runs, "mean"], [*alone, figures], strict=True):
        print(run, each)
    card = {
        "trained": [
            {
                "steps": s["step"],
                "images": s["seen"],
                "minutes": round(s["seconds"] / 60, 1),
                "calls": s["history"],
                "figures": each,
            }
            for s, each in zip(states, alone, strict=True)
        ],
        "device": "one NVIDIA H200, both runs at once",
        "data": [*TRAIN, "portraits-cc0"],
        "rights": RIGHTS,
        "figures": figures,
        **about_run(),
    }
    weights.save(net.unet, args.export, card)


if __name__ == "__main__":
    main()
