"""The figures of the README's table, from saved files of people and images that training never saw.

    python -m training.evaluate --data DATA --loss-networks WEIGHTS --images 200

Every image goes through the whole core as a user's would: file in, released file on disk, read again, recovered from the
file alone. Beside it stands the donor-paste baseline on the same images, with one donor and with the pipeline's own gate.
Writes `training/results/robust.json` and, under `--out`, contact sheets (original | released | recovered | difference x 4) of the
first forty and of the ten that came back worst, and a page with plots. `--folder` evaluates the images of a folder instead.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from refacex_core import images
from refacex_core.errors import CoreError, PayloadMismatch, WrongKey
from refacex_core.faces import align
from refacex_core.faces.detect import CenterFace, Detection, YuNet
from refacex_core.faces.landmarks import oval_mask
from refacex_core.pipeline import Core
from refacex_core.sealing import open_layout
from refacex_core.types import Held, ItemInput, ItemKeys, ItemOptions, Profile, RecoveryKeys, Released, SealContext
from training import page
from training.about import about_run
from training.baselines import DonorPaste
from training.common import Crops, sheet, to_tensor
from training.identities import Identities, Judges
from training.metrics import frechet, interval, psnr, ssim

SETS = {"lfw": "lfw-val", "celebahq": "celebahq256-val"}
RECODE: dict[str, list[tuple[str, int]]] = {
    "png": [], "jpeg95": [("jpeg", 95)], "jpeg85": [("jpeg", 85)], "jpeg75": [("jpeg", 75)], "jpeg50": [("jpeg", 50)],
    "webp90": [("webp", 90)], "webp80": [("webp", 80)], "jpeg95_75": [("jpeg", 95), ("jpeg", 75)],
}  # fmt: skip
RECOVER = ("png", "jpeg85", "jpeg75")


class Keys:
    """Random keys, remembered by locator."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], bytes] = defaultdict(lambda: os.urandom(32))

    def item(self) -> ItemKeys:
        """For the release."""
        return ItemKeys(lambda locator: self._known[locator, -1], lambda locator, face: self._known[locator, face])

    def recovery(self, released: Released) -> RecoveryKeys:
        """For the recovery of all faces."""
        faces = {f.index: self._known[released.locator, f.index] for f in released.faces}
        return RecoveryKeys(self._known[released.locator, -1], faces)


def recode(data: bytes, how: list[tuple[str, int]]) -> bytes:
    """A file through the given codecs, one after another."""
    for name, quality in how:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").save(buffer, name, quality=quality)
        data = buffer.getvalue()
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where the archives lie")
    parser.add_argument(
        "--folder", type=Path, help="images of your own, one face in the middle of each; figures go to `--out`"
    )
    parser.add_argument("--loss-networks", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="for the donors of the baseline")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument(
        "--sets", nargs="*", default=list(SETS), choices=list(SETS), help="the others keep their figures"
    )
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="a set ends by the clock, with the images done so far"
    )
    parser.add_argument("--profile", type=Profile, default=Profile.ROBUST)
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"))
    parser.add_argument("--results", type=Path, default=Path("training/results"))
    args = parser.parse_args()
    if (args.data is None) == (args.folder is None):
        parser.error("either --data or --folder is needed")
    if args.folder is not None and not args.folder.is_dir():
        parser.error(f"{args.folder}: no such folder")
    core = Core.load()
    judges = Judges(args.loss_networks)
    result: dict[str, Any] = {
        "protocol": "files saved, read again, then measured; rank-1 in a gallery of the same originals; LFW: one image a person",
        "judged_only": ["dlib"], "gated_releases": ["sface"], "trained_the_anonymiser": ["y1", "casia"],
        "model_version": core.model_version, "profile": args.profile.value,
    }  # fmt: skip
    run = about_run()  # a set's own: two may be run side by side into one file, or apart
    results: Path = args.out if args.folder else args.results
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{args.profile.value}.json"
    sets = {args.folder.name: args.folder} if args.folder else {n: args.data / f"{SETS[n]}.tar" for n in args.sets}
    for name, images_of in sets.items():
        figures = Evaluation(core, judges, args, name).run(images_of)
        before = json.loads(path.read_text()) if path.exists() else {}
        kept = {k: before[k] for k in SETS if k in before and before.get("model_version") == core.model_version}
        path.write_text(json.dumps({**result, **kept, name: {**run, **figures}}, indent=2) + "\n")
        print(json.dumps({name: figures}, indent=2))
    print(page.write(args.out, results))


class Evaluation:
    """One data set."""

    def __init__(self, core: Core, judges: Judges, args: argparse.Namespace, name: str) -> None:
        self.core, self.judges, self.args, self.name = core, judges, args, name
        self.detector, self.second, self.keys = YuNet(), CenterFace(), Keys()
        self.out = args.out / name
        self.out.mkdir(parents=True, exist_ok=True)
        self.context = SealContext("evaluation", "", "", core.model_version, "default")
        self.values: dict[str, list[float]] = defaultdict(list)
        self.identities = Identities()
        self.features: dict[str, list[np.ndarray]] = defaultdict(list)
        self.rows: list[list[np.ndarray]] = []
        self.worst: list[tuple[float, list[np.ndarray]]] = []
        self.baseline = DonorPaste(Crops(args.cache, ["portraits-cc0"]), judges.sface, self._central)

    def run(self, archive: Path) -> dict[str, Any]:
        """All figures of the set: a tar, or a folder."""
        outcomes: Counter[str] = Counter()
        previous: tuple[Released, np.ndarray] | None = None
        started = time.time()
        for source, other in self._images(archive):
            if time.time() - started > 60 * self.args.minutes:
                break
            self._misses(images.decode(source).rgb)
            item = ItemInput(source, self.keys.item(), self.context, ItemOptions(profile=self.args.profile))
            outcome = self.core.anonymise([item], keep_anonymised=True)[0]
            if not isinstance(outcome, Released):
                outcomes[f"held:{outcome.reason}" if isinstance(outcome, Held) else f"failed:{outcome.code}"] += 1
                continue
            outcomes["released"] += 1
            path = self.out / f"{outcomes['released']:04d}.png"
            path.write_bytes(outcome.data)
            path.with_suffix(".original").write_bytes(source)  # for `training.geometry`
            previous = self._one(source, path.read_bytes(), outcome, previous)
            if other is not None:
                self._another_photograph(images.decode(other).rgb)
        print(f"{self.name}: {dict(outcomes)} in {time.time() - started:.0f} s", flush=True)
        for k in range(0, len(self.rows), 10):
            part = self.rows[k : k + 10]
            sheet([[row[j] for row in part] for j in range(4)], self.out / f"sheet_{k // 10:02d}.png")
        if self.worst:
            sheet([[row[j] for _, row in self.worst] for j in range(4)], self.out / "worst.png")
        return {
            "outcomes": dict(outcomes),
            **{k: interval(v) for k, v in sorted(self.values.items())},
            "frechet": {
                kind: round(frechet(self.features["original"], made), 3)
                for kind, made in self.features.items()
                if kind != "original"
            },
            "identity": self.identities.figures(),
        }

    def _images(self, archive: Path) -> list[tuple[bytes, bytes | None]]:
        """The first images by name; for LFW one a person, with another photograph of them where there is one."""
        if archive.is_dir():
            files = sorted(
                each for each in archive.iterdir() if each.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
            )
            return [(each.read_bytes(), None) for each in files[: self.args.images]]
        with tarfile.open(archive) as tar:

            def read(name: str) -> bytes:
                handle = tar.extractfile(name)
                assert handle is not None
                return handle.read()

            names = sorted(m.name for m in tar.getmembers() if m.isfile() and not m.name.endswith(".mask.png"))
            if self.name != "lfw":
                return [(read(n), None) for n in names[: self.args.images]]
            of: dict[str, list[str]] = defaultdict(list)
            for name in names:
                of[name.split("/")[0]].append(name)
            people = list(of.values())[: self.args.images]
            return [(read(mine[0]), read(mine[1]) if len(mine) > 1 else None) for mine in people]

    def _one(
        self, source: bytes, data: bytes, outcome: Released, previous: tuple[Released, np.ndarray] | None
    ) -> tuple[Released, np.ndarray]:
        original, released = images.decode(source).rgb, images.decode(data).rgb
        keys = self.keys.recovery(outcome)
        self.values["stego_psnr"].append(outcome.stego_psnr)
        assert outcome.anonymised is not None
        self.values["stego_ssim"].append(ssim(outcome.anonymised, released))
        self.values["payload_bytes"].append(float(np.mean([f.payload_bytes for f in outcome.faces])))
        self.values["faces"].append(len(outcome.faces))
        self._decode_rates(data, keys)
        self._recoveries(data, keys, original, released)
        self._refusals(data, outcome, keys, original, previous)
        self._identities(original, released)
        return outcome, released

    def _decode_rates(self, data: bytes, keys: RecoveryKeys) -> None:
        for name, how in RECODE.items():
            if self.args.profile is Profile.ARCHIVE and how:
                continue
            try:
                rgb = images.decode(recode(data, how)).rgb
                heard = self.core.reader.listen(rgb)
                sealed = heard.open(keys.layout_key).sealed
                open_layout(
                    heard.header, sealed, keys.layout_key, self.context
                )  # least significant bits always give bytes
                good = 1.0
            except CoreError:
                good = 0.0
            self.values[f"decoded_{name}"].append(good)

    def _recoveries(self, data: bytes, keys: RecoveryKeys, original: np.ndarray, released: np.ndarray) -> None:
        for name in RECOVER if self.args.profile is Profile.ROBUST else ("png",):
            try:
                faces = self.core.recover(recode(data, RECODE[name]), keys, self.context)
            except CoreError:
                self.values[f"recovered_{name}"].append(0.0)
                continue
            self.values[f"recovered_{name}"].append(1.0)
            for face in faces:
                truth = align.crop(original, face.matrix)
                points = self.core._landmarks(to_tensor(truth[None])).cpu().numpy()[0]
                self.values[f"recovery_{name}_psnr"].append(psnr(truth, face.crop))
                self.values[f"recovery_{name}_psnr_in_mask"].append(psnr(truth, face.crop, oval_mask(points)))
                self.values[f"recovery_{name}_ssim"].append(ssim(truth, face.crop))
                with torch.no_grad():
                    distance = self.judges.lpips(to_tensor(truth[None]), to_tensor(face.crop[None]))
                self.values[f"recovery_{name}_lpips"].append(float(distance))
                a, b = self.judges.sface(np.stack([truth, face.crop]))
                self.values[f"recovery_{name}_cosine_sface"].append(float(a @ b))
            if name == "jpeg85" or self.args.profile is Profile.ARCHIVE:
                face = faces[0]
                truth = align.crop(original, face.matrix)
                out = align.crop(released, face.matrix)
                difference = np.clip(np.abs(truth.astype(int) - face.crop.astype(int)) * 4, 0, 255).astype(np.uint8)
                row = [truth, out, face.crop, difference]
                if len(self.rows) < 40:
                    self.rows.append(row)
                self.worst = sorted([*self.worst, (psnr(truth, face.crop), row)], key=lambda one: one[0])[:10]

    def _refusals(
        self, data: bytes, outcome: Released, keys: RecoveryKeys, original: np.ndarray,
        previous: tuple[Released, np.ndarray] | None,
    ) -> None:  # fmt: skip
        """A wrong key, one bit wrong, and this image under the payload of the one before."""
        one_bit = {i: bytes([k[0] ^ 1]) + k[1:] for i, k in keys.face_keys.items()}
        wrong = {
            "wrong_layout_key": RecoveryKeys(os.urandom(32), keys.face_keys),
            "one_bit_wrong_face_key": RecoveryKeys(keys.layout_key, one_bit),
        }
        for name, these in wrong.items():
            self.values[f"refused_{name}"].append(float(_refuses(self.core, data, these, self.context, WrongKey)))
        if previous is None or previous[1].shape != original.shape or outcome.anonymised is None:
            return
        channel = self.core.reader.model(self.core.model_id).channel
        llr = channel.listen(previous[1])  # raw bits need no key; writing them elsewhere needs none either
        moved = channel.write(outcome.anonymised, (llr < 0).astype(np.uint8), np.ones(llr.shape, bool))
        theirs = self.keys.recovery(previous[0])
        forged = images.encode(moved, "png")
        for name, error in (("", CoreError), ("_as_mismatch", PayloadMismatch)):  # a forgery may also be unreadable
            refused = _refuses(self.core, forged, theirs, self.context, error)
            self.values[f"refused_transplanted_payload{name}"].append(float(refused))

    def _misses(self, original: np.ndarray) -> None:
        """Every image of the sets shows a face in its middle: how often does a detector, or do both, not see it?"""
        seen = [_middle(detector(original), original) is not None for detector in (self.detector, self.second)]
        for name, value in (("yunet", seen[0]), ("centerface", seen[1]), ("both", any(seen))):
            self.values[f"face_missed_by_{name}"].append(float(not value))

    def _identities(self, original: np.ndarray, released: np.ndarray) -> None:
        """Faces found afresh in both images; the baseline pastes portraits through five points."""
        there = self._central(original)
        again = self._central(released)
        self.values["face_found_again"].append(float(again is not None))
        if there is None or again is None:
            return
        pasted = self.baseline(original, there)
        crops = {
            "original": align.crop(original, align.similarity(there)),
            "released": align.crop(released, align.similarity(again)),
            "donor_paste": pasted.first,
            "donor_paste_gated": pasted.gated,
        }
        self.identities.add(list(crops), self.judges(np.stack(list(crops.values()))))
        for kind, crop in crops.items():
            self.features[kind].append(self.judges.features(crop))

    def _another_photograph(self, image: np.ndarray) -> None:
        """What the recognisers say of another photograph of whoever was released last."""
        there = self._central(image)
        if there is None or not self.values["face_found_again"][-1]:
            return
        self.identities.another(self.judges(align.crop(image, align.similarity(there))[None]))

    def _central(self, image: np.ndarray) -> np.ndarray | None:
        found = self.detector(image)
        middle = np.array(image.shape[1::-1]) / 2
        return min((d.points for d in found), key=lambda p: float(np.linalg.norm(p.mean(0) - middle)), default=None)


def _middle(found: list[Detection], image: np.ndarray) -> Detection | None:
    """The detection whose box holds the middle of the image, where the data sets have their face."""
    height, width = image.shape[:2]
    for d in found:
        x, y, w, h = d.box
        if x <= width / 2 <= x + w and y <= height / 2 <= y + h:
            return d
    return None


def _refuses(core: Core, data: bytes, keys: RecoveryKeys, context: SealContext, error: type[CoreError]) -> bool:
    try:
        core.recover(data, keys, context)
    except error:
        return True
    except CoreError:
        return False
    return False


if __name__ == "__main__":
    main()
