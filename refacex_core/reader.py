"""Reading released files of every model version, for ever.

`refacex_core.versions` says which networks a model version is made of; they outlive every file made with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from refacex_core import weights
from refacex_core.errors import ModelUnknown, PayloadMissing, PayloadUnreadable
from refacex_core.images import MAX_PIXELS
from refacex_core.payload import codec
from refacex_core.recovery import Recovery
from refacex_core.stego import channel, lsb
from refacex_core.stego.channel import Channel, Piece
from refacex_core.stego.framing import Header
from refacex_core.stego.unembed import Unembedder
from refacex_core.types import RGB, Profile
from refacex_core.versions import MODELS


class Model:
    """What writes and reads the files of one model version."""

    def __init__(self, model_id: int, channel: Channel, device: torch.device | str = "cpu") -> None:
        self.id, self._version, self.channel = model_id, MODELS[model_id], channel
        self._recovery = Recovery(device, self._version.recovery)
        self._unembedder: Unembedder | None = None
        if self._version.unembedder is not None:
            self._unembedder = Unembedder()
            weights.load_into(self._unembedder, self._version.unembedder)
            self._unembedder.to(device)

    @staticmethod
    def capacity(height: int, width: int, profile: Profile) -> int:
        """The largest sealed part, in bytes, that an image of this size carries."""
        return lsb.capacity(height, width) if profile is Profile.ARCHIVE else channel.capacity(height, width)

    def embed(self, image: RGB, header: Header, sealed: bytes, layout_key: bytes) -> RGB:
        """`image` (H x W x 3) with header and sealed part in it. ImageTooSmall when they do not fit."""
        if header.profile is Profile.ARCHIVE:
            return lsb.write(image, header, sealed, layout_key)
        return self.channel.embed(image, header, sealed, layout_key)

    def listen(self, rgb: RGB, profile: Profile = Profile.ROBUST) -> Heard:
        """What a received image (H x W x 3) of a profile says without any key, as this version hears it. PayloadMissing."""
        if profile is Profile.ARCHIVE:
            return Heard(lsb.read_header(rgb), self, rgb)
        llr = self.channel.listen(rgb)
        return Heard(self.channel.read_header(llr), self, rgb, llr)

    def unembed(
        self,
        opened: Opened,
        header: Header,
        layout_key: bytes,
        windows: Sequence[tuple[int, int, int, int]],
    ) -> RGB:
        """A received image as it was before the sealed part was written, as nearly as the file allows, in `windows` (top, left,
        bottom, right, in pixels); as received in the rest, in the `archive` profile, and of versions that cannot.
        """
        if self._unembedder is None or header.profile is Profile.ARCHIVE:
            return opened.rgb
        return self.channel.unembed(
            opened.rgb, header, opened.sealed, layout_key, windows, self._unembedder, opened.shown
        )

    def face(self, profile: Profile, released: RGB, payload: bytes) -> RGB:
        """The original crop (256 x 256 x 3) from the released one and the opened payload. PayloadUnreadable."""
        view = codec.decode(payload)
        if profile is Profile.ARCHIVE and not self._version.archive_by_channel:
            return codec.with_window(released, view)  # coded so well that a network would only take from it
        return self._recovery(released, view)


@dataclass(frozen=True)
class Opened:
    """A received image with its sealed part read. `rgb` is as large as what was released; `shown` is where in it the received image
    lies (top, left, bottom, right, in pixels), where only a piece of it was received."""

    sealed: bytes = field(repr=False)
    rgb: RGB = field(repr=False)
    shown: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Heard:
    """A received image as the model that wrote it hears it: the public header, and what the sealed part is read from."""

    header: Header
    model: Model
    rgb: RGB = field(repr=False)
    llr: NDArray[np.float32] | None = field(default=None, repr=False)  # none for an `archive` release
    piece: Piece | None = field(default=None, repr=False)  # where its grid had to be looked for to hear the header

    def open(self, layout_key: bytes, max_pixels: int = MAX_PIXELS) -> Opened:
        """The sealed part, and the image in its place, of at most `max_pixels`. WrongKey for another layout key; PayloadUnreadable when
        too much was lost.
        """
        if self.llr is None:
            return Opened(lsb.read_sealed(self.rgb, self.header, layout_key), self.rgb)
        if self.piece is not None:
            return self._put_back(self.piece, layout_key, max_pixels)
        if self.header.size in (None, self.rgb.shape[1::-1]):
            try:
                return Opened(self.model.channel.read_sealed(self.rgb, self.llr, self.header, layout_key), self.rgb)
            except PayloadUnreadable:
                if self.header.size is None:
                    raise
        # A header repeats all over a large image, and is heard a pixel beside its grid as well: where the grid lies is looked for.
        with suppress(PayloadMissing, PayloadUnreadable):
            piece = self.model.channel.register(self.rgb)
            if piece.header == self.header:
                return self._put_back(piece, layout_key, max_pixels)
        return self._put_back(Piece(self.header, self.llr, (0, 0), (0, 0)), layout_key, max_pixels)

    def _put_back(self, piece: Piece, layout_key: bytes, max_pixels: int) -> Opened:
        placed = self.model.channel.place(self.rgb, piece, layout_key, max_pixels)
        sealed = self.model.channel.read_sealed(placed.rgb, placed.llr, self.header, layout_key)
        return Opened(sealed, placed.rgb, placed.shown)


class Reader:
    """All model versions, each loaded when it is first needed."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._loaded: dict[int, Model] = {}
        self._channels: dict[str, Channel] = {}

    def model(self, model_id: int) -> Model:
        """One version. ModelUnknown when this program has none of that number."""
        if model_id not in MODELS:
            raise ModelUnknown(f"model {model_id}")
        if model_id not in self._loaded:
            self._loaded[model_id] = Model(model_id, self._channel(MODELS[model_id].channel), self._device)
        return self._loaded[model_id]

    def _channel(self, name: str) -> Channel:
        if name not in self._channels:
            self._channels[name] = Channel(self._device, name)
        return self._channels[name]

    def channels(self) -> list[Channel]:
        """The channels of all versions, each once, the newest first."""
        return [self._channel(name) for name in dict.fromkeys(MODELS[i].channel for i in sorted(MODELS, reverse=True))]

    def bears(self, rgb: RGB) -> bool:
        """Whether an image (H x W x 3) is a release, or a copy of one that was neither cut nor shifted: a quick look."""
        with suppress(PayloadMissing):
            lsb.read_header(rgb)
            return True
        return self.channels()[0].bears(rgb)  # near relatives understand each other's headers

    def listen(self, rgb: RGB) -> Heard:
        """What a received image (H x W x 3) says without any key. PayloadMissing, ModelUnknown.

        A `robust` header is heard through the channel that wrote it, so the versions are tried in turn, the newest first.
        """
        try:
            header = lsb.read_header(rgb)
        except PayloadMissing:
            pass
        else:
            return Heard(header, self.model(header.model_id), rgb)
        for receiver in self.channels():
            llr = receiver.listen(rgb)
            try:
                header = receiver.read_header(llr)
            except PayloadMissing:
                continue
            model = self.model(header.model_id)
            if model.channel is receiver:
                return Heard(header, model, rgb, llr)
            with suppress(
                PayloadMissing
            ):  # near relatives understand each other's headers, but not each other's sealed parts
                return model.listen(rgb)
        for receiver in self.channels():
            with suppress(PayloadMissing):
                piece = receiver.register(rgb)
                return Heard(piece.header, self.model(piece.header.model_id), rgb, piece.llr, piece)
        raise PayloadMissing
