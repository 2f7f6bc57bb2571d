"""The real core, loaded once, and the photographs that the project ships."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refacex_core.pipeline import Core
from refacex_core.types import ItemInput, ItemKeys, ItemOptions, RecoveryKeys, Released, SealContext

PHOTOGRAPHS = Path(__file__).parents[2] / "gateway" / "demo_images"


class Vault:
    """Random keys by locator, as a release worker draws them, and what they are bound to."""

    def __init__(self, core: Core) -> None:
        self._keys: dict[tuple[bytes, int], bytes] = {}
        self.context = SealContext("tenant", "release", "item", core.model_version, "default")

    def _key(self, locator: bytes, face: int) -> bytes:
        return self._keys.setdefault((locator, face), os.urandom(32))

    def item(self, data: bytes, options: ItemOptions | None = None) -> ItemInput:
        """An image to release."""
        keys = ItemKeys(lambda locator: self._key(locator, -1), self._key)
        return ItemInput(data, keys, self.context, options or ItemOptions())

    def opened(self, released: Released) -> RecoveryKeys:
        """The keys of all faces of a release."""
        faces = {face.index: self._key(released.locator, face.index) for face in released.faces}
        return RecoveryKeys(self._key(released.locator, -1), faces)


@pytest.fixture(scope="session")
def core() -> Core:
    return Core.load("cpu")


@pytest.fixture(scope="session")
def vault(core: Core) -> Vault:
    return Vault(core)


@pytest.fixture(scope="session")
def photographs() -> dict[str, bytes]:
    """The public-domain photographs, by name."""
    return {path.stem: path.read_bytes() for path in sorted(PHOTOGRAPHS.glob("*.*")) if path.suffix in {".png", ".jpg"}}
