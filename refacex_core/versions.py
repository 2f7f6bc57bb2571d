"""Model versions: which weights each is made of, and what their cards say. Loads no network.

A model version is the networks that must outlive every file made with them: the stego channel, the recovery network, and
what takes the channel's noise out again. A new version adds a line to `MODELS` and its weights; nothing is ever taken away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Version:
    """The names of a version's weights, and whether its `archive` releases use the learned channel for their header.

    `unembedder` None: what the channel added to the picture stays in it.
    """

    channel: str
    recovery: str
    archive_by_channel: bool = False
    unembedder: str | None = None


#: Model id in a released header -> what reads it.
MODELS: Mapping[int, Version] = {
    1: Version("channel-1", "recovery-1", archive_by_channel=True),
    2: Version("channel-2", "recovery-1"),
    3: Version("channel-2", "recovery-2"),
    4: Version("channel-2", "recovery-3", unembedder="unembedder-1"),
}
CURRENT = max(MODELS)


def version_name(model_id: int) -> str:
    """What a model version is called where its number alone would say too little."""
    return f"refacex-{model_id}"


def card(name: str, folder: Path | None = None) -> dict[str, Any]:
    """How the weights `name` were made and what they reach."""
    result: dict[str, Any] = json.loads(((folder or _FOLDER) / f"{name}.json").read_text())
    return result


@cache
def weights_of(model_version: str) -> tuple[Mapping[str, Any], ...]:
    """The weights that this program releases with under a model version: name, SHA-256 and card of each.

    None for a version that this program does not know.
    """
    for model_id, version in MODELS.items():
        if version_name(model_id) == model_version:
            ours = (
                "anonymiser",
                "landmarks",
                "donors",
                "presentation",
                "age",
                version.channel,
                version.unembedder,
                version.recovery,
            )
            names = [name for name in ours if name is not None]
            return tuple({"name": name, "sha256": _sha256(name), "card": card(name)} for name in names)
    return ()


def _sha256(name: str) -> str:
    with (_FOLDER / f"{name}.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
