"""Makes the golden files of the current model, once for each: python -m tests.core.make_golden. None is ever changed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from refacex_core import images
from refacex_core.pipeline import Core
from refacex_core.types import ItemInput, ItemKeys, ItemOptions, Profile, RecoveryKeys, Released, SealContext

GOLDEN = Path(__file__).parent / "golden"
PHOTOGRAPH = Path(__file__).parents[2] / "gateway" / "demo_images" / "astronaut.png"
LAYOUT_KEY, FACE_KEY = bytes(range(32)), bytes(range(32, 64))


def main() -> None:
    """One file a profile, with its keys and what is recovered from it."""
    core = Core.load("cpu")
    context = SealContext("golden", "release", "item", core.model_version, "default")
    keys = ItemKeys(lambda locator: LAYOUT_KEY, lambda locator, face: FACE_KEY)
    for options in (ItemOptions(Profile.ROBUST, "jpeg"), ItemOptions(Profile.ARCHIVE)):
        stem = f"v{core.model_id}-{options.profile.value}"
        if (GOLDEN / f"{stem}.json").exists():
            raise SystemExit(f"{stem} is there already, and is never changed")
        released = core.anonymise([ItemInput(PHOTOGRAPH.read_bytes(), keys, context, options)])[0]
        assert isinstance(released, Released), released
        name = stem + images.EXTENSIONS[options.format]
        (GOLDEN / name).write_bytes(released.data)
        (face,) = core.recover(released.data, RecoveryKeys(LAYOUT_KEY, {0: FACE_KEY}), context)
        (GOLDEN / f"{stem}.face.png").write_bytes(images.encode(face.crop, "png"))
        about = {
            "file": name,
            "layout_key": LAYOUT_KEY.hex(),
            "face_key": FACE_KEY.hex(),
            "context": asdict(context),
            "format_version": core.inspect(released.data).format_version,
            "model_id": core.model_id,
        }
        (GOLDEN / f"{stem}.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
