"""The key ring of the service-free mode: one 32-byte secret in a file, from which the keys of every face follow.

A face's key is HKDF-SHA256(secret, salt=locator, info=face): the released file names its locator, so that file and key
ring are all that recovery needs. The file is JSON in one fixed spelling with a checksum over all of it, and belongs to
its owner alone (mode 0600). Who has it recovers every face released with it; who loses it recovers none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from refacex_core.errors import KeyRingCorrupt, KeyRingError, KeyRingMissing
from refacex_core.types import ItemKeys, RecoveryKeys, SealContext

VERSION = 1
SECRET_BYTES = 32
_WORDS = b"refacex_key_ring", b"secret", b"sha256"  # of a ring that one byte may be off, one is there
_MAX_FILE_BYTES = 4096

#: What payloads of the service-free mode are bound to: nothing but their own header, since a file may be renamed and moved.
CONTEXT = SealContext(tenant="service-free", release="", item="", model_version="", policy="")


@dataclass(frozen=True)
class KeyRing:
    """A secret that was read from, or has just been written to, a file."""

    secret: bytes = field(repr=False)

    @classmethod
    def create(cls, path: Path) -> KeyRing:
        """Draws a secret and writes it to a new file with mode 0600, durably.

        KeyRingError when the file exists (a key ring is never overwritten) or the folder cannot be written.
        """
        ring = cls(secrets.token_bytes(SECRET_BYTES))
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise KeyRingError("it exists already, and key rings are never overwritten") from None
        except OSError as error:
            raise KeyRingError(f"it cannot be written: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(_spell(ring.secret))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise KeyRingError(f"it cannot be written: {error.strerror}") from None
        return ring

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """Reads a key ring. KeyRingMissing; KeyRingCorrupt for a single byte off or an empty file; KeyRingError for another file, or one
        that others may read.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            raise KeyRingMissing from None
        except OSError as error:
            raise KeyRingError(f"it cannot be read: {error.strerror}") from None
        if not data:
            raise KeyRingCorrupt
        if not any(word in data for word in _WORDS):
            raise KeyRingError("it is none: name the file that `refacex keys new` wrote")
        if stat.S_IMODE(mode) & 0o077:
            raise KeyRingError("other users may read it: `chmod 600` it, and think about who did")
        return cls(_read(data))

    def layout_key(self, locator: bytes) -> bytes:
        """The 32-byte layout key of the attempt that `locator` (8 bytes) names."""
        return self._derive(locator, "layout")

    def face_key(self, locator: bytes, face: int) -> bytes:
        """The 32-byte data key of one face of that attempt."""
        return self._derive(locator, f"face {face}")

    def donor_seed(self, pseudonym: str) -> bytes:
        """32 bytes that choose the donor of a subject under the policy `stable`: a PRF of its pseudonym."""
        return self._derive(b"", f"donor {pseudonym}")

    def item_keys(self) -> ItemKeys:
        """The keys for an image that is about to be released."""
        return ItemKeys(layout_key=self.layout_key, face_key=self.face_key)

    def keys(self, locator: bytes, faces: int) -> RecoveryKeys:
        """The keys of all `faces` of a released image."""
        return RecoveryKeys(self.layout_key(locator), {i: self.face_key(locator, i) for i in range(faces)})

    def _derive(self, locator: bytes, label: str) -> bytes:
        info = f"refacex key ring v{VERSION} {label}".encode()
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=locator, info=info).derive(self.secret)


def _spell(secret: bytes) -> bytes:
    """The one spelling of a key ring, checksum included."""
    fields = {"refacex_key_ring": VERSION, "secret": secret.hex()}
    checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**fields, "sha256": checksum}, indent=1) + "\n").encode()


def _read(data: bytes) -> bytes:
    """The secret in a key ring file whose every byte is as `_spell` writes it."""
    try:
        fields = json.loads(data)
        version, secret, checksum = fields["refacex_key_ring"], fields["secret"], fields["sha256"]
        body = json.dumps({"refacex_key_ring": version, "secret": secret}, sort_keys=True)
        sound = hashlib.sha256(body.encode()).hexdigest() == checksum
        raw = bytes.fromhex(secret)
    except (ValueError, KeyError, TypeError):
        raise KeyRingCorrupt from None
    if not sound:
        raise KeyRingCorrupt
    if version != VERSION:
        raise KeyRingError("it was written by a later version: upgrade refacex")
    if len(raw) != SECRET_BYTES or data != _spell(raw):
        raise KeyRingCorrupt
    return raw
