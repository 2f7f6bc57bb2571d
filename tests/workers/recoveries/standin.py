"""A core that needs no networks, for processes that are killed in a test: it says when it starts, and can be held up."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from refacex_core.types import RGB, RecoveredFace, RecoveryKeys, SealContext


class Core:
    """Gives each face back as a grey square. While `hold` is in its folder it does not come to an end.

    A file that holds the bytes of `poison` kills the process, as a fault in a native library would.
    """

    model_version = "test-model-1"

    def __init__(self) -> None:
        self.folder = Path(os.environ["STANDIN_FOLDER"])

    def recover(self, data: bytes, keys: RecoveryKeys, context: SealContext) -> list[RecoveredFace]:
        (self.folder / f"started-{os.getpid()}").touch()
        poison = self.folder / "poison"
        if poison.exists() and poison.read_bytes() in data:
            with (self.folder / "killed").open("a") as told:
                told.write(f"{os.getpid()}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        while (self.folder / "hold").exists():
            time.sleep(0.05)
        return [RecoveredFace(face, np.full((256, 256, 3), 99, np.uint8), np.eye(2, 3)) for face in keys.face_keys]

    def mark(self, crop: RGB, ticket: bytes) -> RGB:
        return crop


def load() -> Any:
    """For REFACEX_CORE_FACTORY."""
    return Core()
