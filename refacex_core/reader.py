"""Reading released files of every model version, for ever.

A model version is a pair of networks that must outlive every file made with them: the stego channel and the recovery
network. A new version adds a line to `MODELS` and its weights; nothing is ever taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from refacex_core.errors import ModelUnknown, PayloadMissing
from refacex_core.recovery import Recovery
from refacex_core.stego.channel import Channel
from refacex_core.stego.framing import Header
from refacex_core.types import RGB

#: Model id in a released header -> the names of its weights (channel, recovery).
MODELS: Mapping[int, tuple[str, str]] = {
    1: ("channel-1", "recovery-1"),
}
CURRENT = max(MODELS)


@dataclass(frozen=True)
class Model:
    """What reads the files of one model version, and, for the current one, writes them."""

    channel: Channel
    recovery: Recovery


@dataclass(frozen=True)
class Heard:
    """A received image as the model that wrote it hears it: its public header and the soft decisions behind it."""

    header: Header
    model: Model
    llr: NDArray[np.float32] = field(repr=False)


class Reader:
    """All model versions, each loaded when it is first needed."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._loaded: dict[int, Model] = {}

    def model(self, model_id: int) -> Model:
        """The networks of one version. ModelUnknown when this program has none of that number."""
        if model_id not in MODELS:
            raise ModelUnknown(f"model {model_id}")
        if model_id not in self._loaded:
            channel, recovery = MODELS[model_id]
            self._loaded[model_id] = Model(Channel(self._device, channel), Recovery(self._device, recovery))
        return self._loaded[model_id]

    def listen(self, rgb: RGB) -> Heard:
        """What a received image (H x W x 3) says without any key. PayloadMissing, ModelUnknown.

        The header is heard through the channel that wrote it, so the versions are tried in turn, the newest first.
        """
        for model_id in sorted(MODELS, reverse=True):
            model = self.model(model_id)
            llr = model.channel.listen(rgb)
            try:
                header = model.channel.read_header(llr)
            except PayloadMissing:
                continue
            if header.model_id == model_id:
                return Heard(header, model, llr)
            written_by = self.model(header.model_id)  # near relatives understand each other's headers
            return Heard(header, written_by, written_by.channel.listen(rgb))
        raise PayloadMissing
