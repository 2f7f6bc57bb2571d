"""Key files: JSON with a checksum, mode 0600 where they hold a secret.

`{"format": "refacex-key", "version": 1, "kind": ..., "keys": [{"id", "type", "public", "private"?, "created_at"}],
"active": ID, "checksum": SHA-256 of the RFC 8785 form of all else}`; keys as base64. A key's id is the first 16 hex
digits of the SHA-256 of its type, a colon and its public bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from workers.custody.errors import KeyFileCorrupt, KeyFileExists, KeyFileLoose, KeyFileMissing
from workers.custody.sealing import PublicKey

FORMAT = "refacex-key"
VERSION = 1
PublicJson = dict[str, Any]


class FileKind(StrEnum):
    """What a key file is for; a file of one kind is refused where another is asked for."""

    CUSTODY = "custody-keyring"
    KEYPAIR = "keypair"
    SIGNING = "signing-key"
    PERSON = "person"
    PUBLIC = "public"


class KeyType(StrEnum):
    """What a key does: X25519 opens what was sealed to it, Ed25519 signs."""

    X25519 = "x25519"
    ED25519 = "ed25519"


@dataclass(frozen=True)
class Key:
    """One key, raw bytes; `private` is None in a public file."""

    id: str
    type: KeyType
    public: bytes
    private: bytes | None = field(repr=False)
    created_at: str

    def secret(self) -> bytes:
        """The private bytes. Raises KeyFileCorrupt where the file has none."""
        if self.private is None:
            raise KeyFileCorrupt("no private key in it")
        return self.private

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 key's signature, 64 bytes. Raises KeyFileCorrupt where the file has no private half."""
        return Ed25519PrivateKey.from_private_bytes(self.secret()).sign(message)


@dataclass(frozen=True)
class KeyFile:
    """A key file as read. `active` is the key to use for what is new."""

    kind: FileKind
    keys: tuple[Key, ...]
    active: str

    def of(self, kind: KeyType) -> Key:
        """The active key where it is of this type, else the file's first one. Raises KeyFileCorrupt where there is
        none.
        """
        fitting = [key for key in self.keys if key.type is kind]
        if not fitting:
            raise KeyFileCorrupt(f"no {kind} key in it")
        return next((key for key in fitting if key.id == self.active), fitting[0])

    def public_json(self) -> PublicJson:
        """The same without secrets, as a file of kind `public`."""
        return _document(FileKind.PUBLIC, self.keys, self.active, secret=False)


def key_id(kind: KeyType, public: bytes) -> str:
    """A key's id: 16 hex digits."""
    return hashlib.sha256(f"{kind}:".encode() + public).hexdigest()[:16]


def create_custody_keyring(path: Path | str) -> PublicJson:
    """Makes the custodian's key ring with one X25519 key; gives its public half. Raises KeyFileExists."""
    return _create(Path(path), FileKind.CUSTODY, [KeyType.X25519])


def create_keypair(path: Path | str) -> PublicJson:
    """Makes an X25519 key file, such as the recovery worker's; gives its public half. Raises KeyFileExists."""
    return _create(Path(path), FileKind.KEYPAIR, [KeyType.X25519])


def create_signing_key(path: Path | str) -> PublicJson:
    """Makes an Ed25519 key file, such as the notary's; gives its public half. Raises KeyFileExists."""
    return _create(Path(path), FileKind.SIGNING, [KeyType.ED25519])


def create_person_key(path: Path | str) -> PublicJson:
    """Makes a person's key file: Ed25519 to decide with, X25519 to receive with. Raises KeyFileExists."""
    return _create(Path(path), FileKind.PERSON, [KeyType.ED25519, KeyType.X25519])


def write_public(path: Path | str, public: PublicJson) -> None:
    """Writes a public half for others to read, over an older one if there is one."""
    _write(Path(path), public, 0o644, overwrite=True)


def load(path: Path | str, kind: FileKind) -> KeyFile:
    """Reads a key file of that kind.

    Raises KeyFileMissing; KeyFileLoose where it holds secrets and group or others may read it; KeyFileCorrupt where
    a byte of it is off, or it is of another kind.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise KeyFileMissing from error
    except OSError as error:
        raise KeyFileMissing(f"it cannot be read: {error.strerror}") from error
    try:
        parsed = _parse(json.loads(raw))
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise KeyFileCorrupt from error
    if parsed.kind is not kind:
        raise KeyFileCorrupt(f"it is a {parsed.kind} file, and a {kind} file is needed here")
    if kind is not FileKind.PUBLIC and stat.S_IMODE(mode) & 0o077:
        raise KeyFileLoose
    return parsed


def load_public(path: Path | str) -> PublicKey:
    """The active X25519 key of a public file: what release workers seal to, and the custodian seals bundles to."""
    key = load(path, FileKind.PUBLIC).of(KeyType.X25519)
    return PublicKey(key.id, key.public)


def load_verifier(path: Path | str) -> Key:
    """The active Ed25519 key of a public file."""
    return load(path, FileKind.PUBLIC).of(KeyType.ED25519)


def _create(path: Path, kind: FileKind, types: list[KeyType]) -> PublicJson:
    keys = tuple(_generate(each) for each in types)
    made = KeyFile(kind, keys, keys[0].id)
    _write(path, _document(kind, keys, made.active, secret=True), 0o600, overwrite=False)
    return made.public_json()


def _generate(kind: KeyType) -> Key:
    secret = X25519PrivateKey.generate() if kind is KeyType.X25519 else Ed25519PrivateKey.generate()
    public = secret.public_key().public_bytes_raw()
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Key(key_id(kind, public), kind, public, secret.private_bytes_raw(), created)


def _document(kind: FileKind, keys: tuple[Key, ...], active: str, *, secret: bool) -> PublicJson:
    entries = []
    for key in keys:
        entry = {"id": key.id, "type": key.type.value, "public": _b64(key.public), "created_at": key.created_at}
        if secret:
            entry["private"] = _b64(key.secret())
        entries.append(entry)
    body: PublicJson = {"format": FORMAT, "version": VERSION, "kind": kind.value, "keys": entries, "active": active}
    return body | {"checksum": _checksum(body)}


def _parse(document: PublicJson) -> KeyFile:
    body = {name: value for name, value in document.items() if name != "checksum"}
    if body["format"] != FORMAT or body["version"] != VERSION or document["checksum"] != _checksum(body):
        raise ValueError("format, version or checksum")
    keys = tuple(_parse_key(entry) for entry in body["keys"])
    if body["active"] not in {key.id for key in keys}:
        raise ValueError("active key not in it")
    return KeyFile(FileKind(body["kind"]), keys, body["active"])


def _parse_key(entry: dict[str, str]) -> Key:
    kind = KeyType(entry["type"])
    public = base64.b64decode(entry["public"], validate=True)
    private = base64.b64decode(entry["private"], validate=True) if "private" in entry else None
    if (private is not None and _public_of(kind, private) != public) or entry["id"] != key_id(kind, public):
        raise ValueError("id, public and private do not belong together")
    return Key(entry["id"], kind, public, private, entry["created_at"])


def _public_of(kind: KeyType, private: bytes) -> bytes:
    if kind is KeyType.X25519:
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _checksum(body: PublicJson) -> str:
    return hashlib.sha256(rfc8785.dumps(body)).hexdigest()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _write(path: Path, document: PublicJson, mode: int, *, overwrite: bool) -> None:
    """Writes whole or not at all; `overwrite` False never replaces a file, also when two writers race."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    except FileExistsError as error:
        raise KeyFileExists from error
    finally:
        temporary.unlink(missing_ok=True)
