"""A provider as somebody else would write one: this file alone, put into `workers.custody.providers`. Its service is a file of keys."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.contexts import KeyContext
from workers.custody.errors import KeyUnknown, Unwrappable
from workers.custody.providers import Sealer, Unwrapper, WrappedKey
from workers.settings import CustodianSettings, ReleaseSettings

SUITE = "safe"


class Safe:
    def __init__(self, path: Path) -> None:
        self.keys: dict[str, str] = json.loads(path.read_text())

    def seal(self, key: bytes, context: KeyContext) -> WrappedKey:
        name, nonce = next(iter(self.keys)), os.urandom(12)
        sealed = AESGCM(bytes.fromhex(self.keys[name])).encrypt(nonce, key, context.canonical())
        return WrappedKey(SUITE, name, nonce + sealed)

    def unwrap(self, sealed: WrappedKey, context: KeyContext) -> bytes:
        if sealed.custody_key_id not in self.keys:
            raise KeyUnknown(sealed.custody_key_id)
        key = AESGCM(bytes.fromhex(self.keys[sealed.custody_key_id]))
        try:
            return key.decrypt(sealed.wrapped[:12], sealed.wrapped[12:], context.canonical())
        except (InvalidTag, ValueError):
            raise Unwrappable from None


class Service:
    suite = SUITE

    def sealer(self, settings: ReleaseSettings) -> Sealer | None:
        return self._safe()

    def unwrapper(self, settings: CustodianSettings) -> Unwrapper | None:
        return self._safe()

    def custody_keys(self, settings: CustodianSettings) -> list[str]:
        safe = self._safe()
        return list(safe.keys) if safe is not None else []

    def target(self, settings: CustodianSettings) -> Sealer | None:
        return self._safe()

    def _safe(self) -> Safe | None:
        path = os.environ.get("SAFE_OF_A_TEST")
        return Safe(Path(path)) if path else None
