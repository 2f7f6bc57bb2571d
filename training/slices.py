"""Is anybody protected worse? Holds and likeness by sex, age and measured skin tone, over the CC0 portraits.

    python -m training.slices --data DATA

Sex and age are those of the prompt that made each portrait, skin tone is measured (individual typology angle under the mask).
The portraits face the camera and the donors come from half of them, so compare the slices with one another and not with the
figures on photographs of people. Countries are too many for the number of portraits (145 for 200) to be compared.
Writes `training/results/slices.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from refacex_core import images, recognisers
from refacex_core.faces import align
from refacex_core.faces.detect import YuNet
from refacex_core.faces.landmarks import Landmarks, oval_mask
from refacex_core.gates import MOST_SIMILARITY
from refacex_core.pipeline import Core
from refacex_core.types import Held, ItemInput, ItemOptions, Released, SealContext
from training.about import about_run
from training.common import to_tensor
from training.evaluate import Keys
from training.metrics import interval

#: Degrees: light above the first, dark below the second (Chardon et al., *Skin colour typology*, 1991, in three groups).
TONES = (28.0, 10.0)


def tone(crop: NDArray[np.uint8], mask: NDArray[np.float32]) -> float:
    """The individual typology angle of the skin inside a mask, in degrees: 90 is white, -90 black."""
    lab = cv2.cvtColor((crop / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[mask > 0.9]
    light, yellow = float(np.median(lab[:, 0])), float(np.median(lab[:, 2]))
    return float(np.degrees(np.arctan2(light - 50, yellow)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10**6)
    parser.add_argument("--results", type=Path, default=Path("training/results"))
    args = parser.parse_args()
    core = Core.load(judges=[recognisers.dlib()])
    detector, landmarks, keys = YuNet(), Landmarks(), Keys()
    context = SealContext("slices", "", "", core.model_version, "default")
    with (args.data / "portraits-cc0.csv").open() as file:
        people = list(csv.DictReader(file))[: args.images]
    slices: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tarfile.open(args.data / "portraits-cc0.tar") as tar:
        for person in people:
            handle = tar.extractfile(person["name"])
            assert handle is not None
            data = handle.read()
            rgb = images.decode(data).rgb
            found = detector(rgb)
            outcome = core.anonymise([ItemInput(data, keys.item(), context, ItemOptions())])[0]
            row = {"held": float(isinstance(outcome, Held)), "failed": float(not isinstance(outcome, Held | Released))}
            if isinstance(outcome, Released):
                face = outcome.faces[0]
                row |= {"sface": float(face.audit_similarity or 0), "dlib": face.judged["dlib"]}
                row["donors_tried"] = face.donors_tried
            age = int(person["age"])
            names = ["all", person["sex"], "under 30" if age < 30 else "30 to 49" if age < 50 else "50 and over"]
            if found:
                crop = align.crop(rgb, align.similarity(found[0].points))
                angle = tone(crop, oval_mask(landmarks(to_tensor(crop[None])).numpy()[0]))
                names.append("light skin" if angle > TONES[0] else "dark skin" if angle < TONES[1] else "medium skin")
            for name in names:
                slices[name].append(row)
    result: dict[str, Any] = {"model_version": core.model_version, "gate": MOST_SIMILARITY, **about_run()}
    for name, rows in sorted(slices.items()):
        measures = ("held", "failed", "sface", "dlib", "donors_tried")
        result[name] = {m: interval([row[m] for row in rows if m in row]) for m in measures}
        print(name, len(rows), {m: result[name][m].get("mean") for m in measures}, flush=True)
    (args.results / "slices.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
