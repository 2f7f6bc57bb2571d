"""The sealing half: what a release worker's settings choose. Nothing here can unwrap, nor imports what can."""

from __future__ import annotations

from pathlib import Path

from schemas.contexts import KeyContext
from workers.custody import keys
from workers.custody.errors import CustodyError
from workers.custody.providers import Sealer, WrappedKey
from workers.custody.providers.services import services
from workers.custody.sealing import DEFAULT_SUITE, PublicKey, seal_key
from workers.custody.watched import Watched
from workers.errors import SettingsInvalid
from workers.logs import get_logger
from workers.settings import ReleaseSettings

log = get_logger(__name__)


class ToPublicKey:
    """Seals to one X25519 public key (HPKE)."""

    def __init__(self, public: PublicKey) -> None:
        self._public = public

    def seal(self, key: bytes, context: KeyContext) -> WrappedKey:
        """See Sealer."""
        return WrappedKey(DEFAULT_SUITE.value, self._public.id, seal_key(self._public, key, context))


class ToPublicFile:
    """Seals to the active key of the custodian's public file, and follows when a rotation replaces it."""

    def __init__(self, path: Path) -> None:
        self._file = Watched(path, keys.load_public)
        self._last = self._file.current()

    def seal(self, key: bytes, context: KeyContext) -> WrappedKey:
        """See Sealer. A file that cannot be read any more leaves the last key in use: the custodian still opens it."""
        try:
            self._last = self._file.current()
        except CustodyError as error:
            log.error("custody_public_key_unreadable", still=self._last.id, exc_info=error)
        return ToPublicKey(self._last).seal(key, context)


def sealer_of(settings: ReleaseSettings) -> Sealer:
    """The sealer that the settings name. Raises KeyFileMissing and KeyFileCorrupt for the public file."""
    for service in services():
        remote = service.sealer(settings)
        if remote is not None:
            return remote
    if settings.custody_public_key is None:
        raise SettingsInvalid("REFACEX_CUSTODY_PUBLIC_KEY or REFACEX_CUSTODY_KMS_KEY")
    return ToPublicFile(settings.custody_public_key)
