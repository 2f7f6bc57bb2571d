"""The way into the networks: the only module of the workers that imports `refacex_core.pipeline`, and only when asked
to."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

from refacex_core.types import RGB, ItemInput, Outcome, RecoveredFace, RecoveryKeys, SealContext


class Core(Protocol):
    """What the workers need of the core; `refacex_core.pipeline.Core` has it."""

    @property
    def model_version(self) -> str: ...

    def anonymise(self, items: Sequence[ItemInput]) -> list[Outcome]:
        """One outcome an item, in order; never raises for one item."""
        ...

    def inspect(self, data: bytes) -> Any:
        """The public header of a released file. Raises PayloadMissing or BadImage."""
        ...

    def recover(self, data: bytes, keys: RecoveryKeys, context: SealContext) -> list[RecoveredFace]:
        """The approved faces of a released file. Raises the typed errors of `refacex_core.errors`."""
        ...

    def mark(self, crop: RGB, ticket: bytes) -> RGB:
        """A recovered face (256 x 256 x 3) with its ticket's 16 bytes embedded."""
        ...

    def restore(self, data: bytes, faces: Sequence[RecoveredFace]) -> RGB:
        """The released image with the recovered faces laid back."""
        ...


class HasCore(Protocol):
    """The part of a worker's settings that says where the networks run."""

    @property
    def device(self) -> str: ...
    @property
    def core_factory(self) -> str: ...
    @property
    def allow_faults(self) -> bool: ...


_loaded: Core | None = None


def load_core(settings: HasCore, *, judges: Sequence[str] | None = ()) -> Core:
    """The process's core, loaded on the first call. Heavy: reads the weights and starts torch.

    `judges`: recognisers that say of each released face how like its original it is, None for all that can be loaded.
    `core_factory` ("module:function") puts another in its place; settings refuse it outside the fault tests.
    """
    global _loaded
    if _loaded is None:
        if settings.core_factory and settings.allow_faults:
            module, _, function = settings.core_factory.partition(":")
            _loaded = cast(Core, getattr(importlib.import_module(module), function)())
        else:
            pipeline = importlib.import_module("refacex_core.pipeline")
            loaded = importlib.import_module("refacex_core.recognisers").judges(judges)
            _loaded = cast(Core, pipeline.Core.load(device=settings.device, judges=loaded))
    return _loaded
