"""Files released by every format and model version so far stay recoverable for ever.

`golden/NAME.{jpg,png}` is a released file of the public-domain astronaut, `golden/NAME.json` its keys (of nobody's secret) and context, and
`golden/NAME.face.png` what was recovered from it when it was made. A new version adds files; none is ever changed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refacex_core import images
from refacex_core.pipeline import Core
from refacex_core.release import psnr
from refacex_core.types import Profile, RecoveryKeys, SealContext
from refacex_core.versions import MODELS

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("card", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_golden_files_stay_recoverable(core: Core, card: Path) -> None:
    about = json.loads(card.read_text())
    keys = RecoveryKeys(bytes.fromhex(about["layout_key"]), {0: bytes.fromhex(about["face_key"])})
    data = (GOLDEN / about["file"]).read_bytes()
    header = core.inspect(data)
    assert (header.format_version, header.model_id) == (about["format_version"], about["model_id"])
    assert core.reader.bears(images.decode(data).rgb), "and is not released again"
    (face,) = core.recover(data, keys, SealContext(**about["context"]))
    then = images.decode((GOLDEN / f"{card.stem}.face.png").read_bytes()).rgb
    assert psnr(face.crop, then) > 45  # other processors round the networks a little differently


def test_every_model_has_a_golden_file_of_each_profile() -> None:
    cards = [json.loads(path.read_text()) for path in GOLDEN.glob("*.json")]
    have = {
        (card["model_id"], path.stem.split("-")[1]) for card, path in zip(cards, GOLDEN.glob("*.json"), strict=True)
    }
    assert have == {(model, profile.value) for model in MODELS for profile in Profile}
