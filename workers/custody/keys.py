"""Key files: JSON with a checksum, mode 0600 where they hold a secret.

`{"format": "refacex-key", "version": 1, "kind": ..., "keys": [{"id", "type", "public", "private"?, "created_at"}],
"active": ID, "checksum": SHA-256 of the RFC 8785 form of all else}`; keys as base64. A key's id is the first 16 hex
digits of the SHA-256 of its type, a colon and its public bytes.

Version 2 is a file with a passphrase: no key has its "private", and "protected" holds all of them, in order, as
`workers.custody.passphrase` seals them, bound to the rest of the file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from workers.custody import passphrase as passphrases
from workers.custody.errors import (
    KeyFileCorrupt,
    KeyFileExists,
    KeyFileLoose,
    KeyFileMissing,
    PassphraseNeeded,
    PublicKeyMissing,
)
from workers.custody.guarded import looseness
from workers.custody.sealing import PublicKey
from workers.strangers import read_json

FORMAT = "refacex-key"
VERSION = 1
PROTECTED_VERSION = 2
SECRET_BYTES = 32  # of either type of key
PublicJson = dict[str, Any]
Ask = Callable[[], bytes]  # gives the passphrase, when a file turns out to have one


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
    """A key file as read. `active` is the key to use for what is new; `protected`: the file has a passphrase."""

    kind: FileKind
    keys: tuple[Key, ...]
    active: str
    protected: bool = False

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
        return _document(replace(self, kind=FileKind.PUBLIC), secret=False)

    def with_new(self, kind: KeyType) -> KeyFile:
        """The same with a fresh key, which is the active one."""
        key = _generate(kind)
        return replace(self, keys=(*self.keys, key), active=key.id)

    def without(self, gone: str) -> KeyFile:
        """The same without a key that is not the active one."""
        return replace(self, keys=tuple(key for key in self.keys if key.id != gone))


def key_id(kind: KeyType, public: bytes) -> str:
    """A key's id: 16 hex digits."""
    return hashlib.sha256(f"{kind}:".encode() + public).hexdigest()[:16]


def create_custody_keyring(path: Path | str, passphrase: bytes | None = None) -> PublicJson:
    """Makes the custodian's key ring with one X25519 key; gives its public half. Raises KeyFileExists."""
    return _create(Path(path), FileKind.CUSTODY, [KeyType.X25519], passphrase)


def create_keypair(path: Path | str) -> PublicJson:
    """Makes an X25519 key file, such as the recovery worker's; gives its public half. Raises KeyFileExists."""
    return _create(Path(path), FileKind.KEYPAIR, [KeyType.X25519])


def create_signing_key(path: Path | str) -> PublicJson:
    """Makes an Ed25519 key file, such as the notary's; gives its public half. Raises KeyFileExists."""
    return _create(Path(path), FileKind.SIGNING, [KeyType.ED25519])


def create_person_key(path: Path | str, passphrase: bytes | None = None) -> PublicJson:
    """Makes a person's key file: Ed25519 to decide with, X25519 to receive with. Raises KeyFileExists."""
    return _create(Path(path), FileKind.PERSON, [KeyType.ED25519, KeyType.X25519], passphrase)


def rewrite(path: Path | str, keys: KeyFile, passphrase: bytes | None = None) -> None:
    """Writes a key file over the one that is there, in one step; on disk when it returns."""
    _write(Path(path), _document(keys, secret=True, passphrase=passphrase), 0o600, overwrite=True)


def write_public(path: Path | str, public: PublicJson) -> None:
    """Writes a public half for others to read, over an older one if there is one."""
    _write(Path(path), public, 0o644, overwrite=True)


def load(path: Path | str, kind: FileKind, ask: Ask | None = None) -> KeyFile:
    """Reads a key file of that kind; `ask` gives its passphrase, if it has one.

    Raises KeyFileMissing, for a public one PublicKeyMissing; KeyFileLoose where it holds secrets and others may read or
    write it; KeyFileCorrupt where a byte of it is off, or it is of another kind; PassphraseNeeded and PassphraseWrong.
    """
    return _load(Path(path), kind, lambda document: _parse(document, ask))


def load_public_half(path: Path | str, kind: FileKind) -> PublicJson:
    """The public half of a key file, for which no passphrase is needed. Raises as `load` does."""
    return _load(Path(path), kind, _parse_public).public_json()


def _load(path: Path, kind: FileKind, parse: Callable[[PublicJson], KeyFile]) -> KeyFile:
    try:
        with path.open("rb") as file:
            loose = looseness(path, os.fstat(file.fileno()), secret=True)
            raw = file.read()
    except OSError as error:
        missing = PublicKeyMissing if kind is FileKind.PUBLIC else KeyFileMissing
        plain = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        raise missing(f"{path}" if plain else f"{path} cannot be read: {error.strerror}") from error
    try:
        document = read_json(raw)
        found = FileKind(document["kind"])
        if found is not kind:
            raise KeyFileCorrupt(f"it is a {found} file, and a {kind} file is needed here")
        if kind is not FileKind.PUBLIC and loose is not None:
            raise KeyFileLoose(loose)
        return parse(document)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise KeyFileCorrupt from error


def load_public(path: Path | str) -> PublicKey:
    """The active X25519 key of a public file: what release workers seal to, and the custodian seals bundles to."""
    key = load(path, FileKind.PUBLIC).of(KeyType.X25519)
    return PublicKey(key.id, key.public)


def load_verifier(path: Path | str) -> Key:
    """The active Ed25519 key of a public file."""
    return load(path, FileKind.PUBLIC).of(KeyType.ED25519)


def load_verifiers(path: Path | str) -> dict[str, bytes]:
    """Every Ed25519 key of a public file, raw, by its id."""
    return {key.id: key.public for key in load(path, FileKind.PUBLIC).keys if key.type is KeyType.ED25519}


def _create(path: Path, kind: FileKind, types: list[KeyType], passphrase: bytes | None = None) -> PublicJson:
    keys = tuple(_generate(each) for each in types)
    made = KeyFile(kind, keys, keys[0].id)
    _write(path, _document(made, secret=True, passphrase=passphrase), 0o600, overwrite=False)
    return made.public_json()


def _generate(kind: KeyType) -> Key:
    secret = X25519PrivateKey.generate() if kind is KeyType.X25519 else Ed25519PrivateKey.generate()
    public = secret.public_key().public_bytes_raw()
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Key(key_id(kind, public), kind, public, secret.private_bytes_raw(), created)


def _document(file: KeyFile, *, secret: bool, passphrase: bytes | None = None) -> PublicJson:
    entries = []
    for key in file.keys:
        entry = {"id": key.id, "type": key.type.value, "public": _b64(key.public), "created_at": key.created_at}
        if secret and passphrase is None:
            entry["private"] = _b64(key.secret())
        entries.append(entry)
    version = VERSION if passphrase is None else PROTECTED_VERSION
    body: PublicJson = {"format": FORMAT, "version": version, "kind": file.kind.value}
    body |= {"keys": entries, "active": file.active}
    if passphrase is not None:
        secrets = b"".join(key.secret() for key in file.keys)
        body["protected"] = passphrases.protect(secrets, passphrase, rfc8785.dumps(body))
    return body | {"checksum": _checksum(body)}


def _parse(document: PublicJson, ask: Ask | None) -> KeyFile:
    public = _parse_public(document)
    if not public.protected:
        return public
    if ask is None:
        raise PassphraseNeeded
    bound_to = {name: value for name, value in document.items() if name not in ("protected", "checksum")}
    secrets = passphrases.reveal(document["protected"], ask(), rfc8785.dumps(bound_to))
    if len(secrets) != SECRET_BYTES * len(public.keys):
        raise ValueError("not as many secrets as keys")
    pieces = [secrets[start : start + SECRET_BYTES] for start in range(0, len(secrets), SECRET_BYTES)]
    keys = tuple(replace(key, private=piece) for key, piece in zip(public.keys, pieces, strict=True))
    for key in keys:
        _check_halves(key)
    return replace(public, keys=keys)


def _parse_public(document: PublicJson) -> KeyFile:
    """All that can be read and checked without a passphrase: of an unprotected file everything."""
    body = {name: value for name, value in document.items() if name != "checksum"}
    known = body["version"] in (VERSION, PROTECTED_VERSION)
    if body["format"] != FORMAT or not known or document["checksum"] != _checksum(body):
        raise ValueError("format, version or checksum")
    protected = body["version"] == PROTECTED_VERSION
    keys = tuple(_parse_key(entry) for entry in body["keys"])
    if body["active"] not in {key.id for key in keys}:
        raise ValueError("active key not in it")
    if protected != ("protected" in body) or (protected and any(key.private is not None for key in keys)):
        raise ValueError("a secret beside the protected ones")
    return KeyFile(FileKind(body["kind"]), keys, body["active"], protected)


def _parse_key(entry: dict[str, str]) -> Key:
    kind = KeyType(entry["type"])
    public = base64.b64decode(entry["public"], validate=True)
    private = base64.b64decode(entry["private"], validate=True) if "private" in entry else None
    key = Key(entry["id"], kind, public, private, entry["created_at"])
    _check_halves(key)
    return key


def _check_halves(key: Key) -> None:
    private_fits = key.private is None or _public_of(key.type, key.private) == key.public
    if not private_fits or key.id != key_id(key.type, key.public):
        raise ValueError("id, public and private do not belong together")


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
        _sync_folder(path.parent)  # a key that seals before its file is safe could be lost with a power cut
    except FileExistsError as error:
        raise KeyFileExists from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
