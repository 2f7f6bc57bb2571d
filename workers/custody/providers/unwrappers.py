"""The unwrapping half: what the custodian's settings choose. Only the custodian and `refacex keys` import this."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from schemas.contexts import KeyContext
from workers.custody import keys, passphrase
from workers.custody.errors import Unwrappable
from workers.custody.opening import unwrap
from workers.custody.providers import Unwrapper, WrappedKey
from workers.custody.providers.services import services
from workers.custody.sealing import DEFAULT_SUITE
from workers.custody.watched import Watched
from workers.errors import SettingsInvalid
from workers.settings import CustodianSettings


class KeyRing:
    """Unwraps with the private keys of the custodian's ring, and follows when a rotation replaces it."""

    def __init__(self, path: Path, ask: keys.Ask | None = None) -> None:
        self._file = Watched(path, lambda where: _secrets(where, ask))

    def read(self) -> None:
        """Reads the ring now, so that one that is missing or damaged is told at the start. Raises as `keys.load` does."""
        self._file.current()

    def unwrap(self, sealed: WrappedKey, context: KeyContext) -> bytes:
        """See Unwrapper. Raises what `keys.load` raises where the ring itself cannot be read."""
        return unwrap(self._file.current(), sealed.custody_key_id, sealed.suite, sealed.wrapped, context)


class BySuite:
    """Takes each row to the provider that it was sealed by."""

    def __init__(self, providers: Mapping[str, Unwrapper]) -> None:
        self._providers = providers

    def unwrap(self, sealed: WrappedKey, context: KeyContext) -> bytes:
        """See Unwrapper."""
        provider = self._providers.get(sealed.suite)
        if provider is None:
            raise Unwrappable(f"no provider here for suite {sealed.suite[:40]}")
        return provider.unwrap(sealed, context)


def unwrapper_of(settings: CustodianSettings, ask: keys.Ask | None = None) -> Unwrapper:
    """Everything that the settings name, side by side; `ask` gives the ring's passphrase where no file of it is named.

    Raises SettingsInvalid where they name nothing, and what `keys.load` raises where the ring cannot be read.
    """
    providers: dict[str, Unwrapper] = {}
    if settings.custody_keyring is not None:
        ring = KeyRing(settings.custody_keyring, passphrase_of(settings) or ask)
        ring.read()
        providers[DEFAULT_SUITE.value] = ring
    for service in services():
        remote = service.unwrapper(settings)
        if remote is not None:
            providers[service.suite] = remote
    if not providers:
        raise SettingsInvalid("REFACEX_CUSTODY_KEYRING or REFACEX_CUSTODY_KMS_KEYS")
    return BySuite(providers)


def passphrase_of(settings: CustodianSettings) -> keys.Ask | None:
    """How the key ring's passphrase is got from the settings; None where they name no file of it."""
    path = settings.custody_passphrase_file
    return None if path is None else lambda: passphrase.from_file(path)


def _secrets(path: Path, ask: keys.Ask | None) -> dict[str, bytes]:
    ring = keys.load(path, keys.FileKind.CUSTODY, ask)
    return {key.id: key.secret() for key in ring.keys}
