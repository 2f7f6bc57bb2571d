"""The keys of a release item: drawn for one attempt, sealed to the custody key, and then forgotten.

A release worker can only seal. What it hands on is opened by the custodian alone, who holds the private half.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from refacex_core.types import ItemKeys
from schemas.contexts import LAYOUT_FACE, KeyContext
from workers.custody import providers
from workers.custody.errors import CustodyKeyRetired
from workers.custody.sealing import KEY_BYTES
from workers.releases.lifecycle import Claim, Sealed

RETIRED = "RX001"  # what the database says to a key that was sealed to a retired custody key


class DrawnKeys:
    """Fresh 32-byte keys for one attempt at one item: a layout key a locator, and a data key for each face of it."""

    def __init__(self) -> None:
        self._drawn: dict[tuple[bytes, int], bytes] = {}

    def for_core(self) -> ItemKeys:
        """The keys as the core asks for them."""
        return ItemKeys(layout_key=lambda locator: self._key(locator, LAYOUT_FACE), face_key=self._key)

    def of(self, locator: bytes) -> dict[int, bytes]:
        """What was drawn for the locator that was used; the layout key under -1."""
        return {face: key for (drawn_for, face), key in self._drawn.items() if drawn_for == locator}

    def _key(self, locator: bytes, face: int) -> bytes:
        return self._drawn.setdefault((locator, face), secrets.token_bytes(KEY_BYTES))


class Sealer:
    """Seals an attempt's keys to the custody key, each bound to what it opens."""

    def __init__(self, provider: providers.Sealer) -> None:
        self._provider = provider

    def seal(self, claim: Claim, attempt_id: UUID, model_version: str, keys: DrawnKeys, locator: bytes) -> list[Sealed]:
        """One sealed key for the layout and one for each face that was given a key under this locator.

        Raises Away where the provider cannot be reached just now.
        """
        sealed = []
        for face, key in sorted(keys.of(locator).items()):
            context = KeyContext.of(
                tenant=claim.tenant,
                release=claim.release_id,
                item=claim.item_id,
                attempt=attempt_id,
                model_version=model_version,
                policy=claim.policy,
                face=None if face == LAYOUT_FACE else face,
                subject=claim.subject,
            )
            to = self._provider.seal(key, context)
            sealed.append(Sealed(context.kind, face, to.suite, to.custody_key_id, to.wrapped))
        return sealed


@contextmanager
def retired_told() -> Iterator[None]:
    """The database's refusal of what was sealed to a retired custody key, as CustodyKeyRetired."""
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == RETIRED:
            raise CustodyKeyRetired from None
        raise
