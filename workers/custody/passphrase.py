"""Secrets under a passphrase: Argon2id (RFC 9106, its second recommended parameters), then AES-256-GCM.

`{"kdf": "argon2id", "memory_kib", "iterations", "lanes", "salt", "nonce", "sealed"}`, bytes as base64. The parameters lie
in the file, so that they can be raised later, and are bounded when read: a file cannot make its reader work for hours.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from workers.custody.errors import PassphraseFileLoose, PassphraseNeeded, PassphraseWrong

KDF = "argon2id"
DEFAULTS = {"memory_kib": 64 * 1024, "iterations": 3, "lanes": 4}
BOUNDS = {"memory_kib": range(8 * 1024, 1024 * 1024 + 1), "iterations": range(1, 17), "lanes": range(1, 17)}
SALT_BYTES = 16
NONCE_BYTES = 12

Envelope = dict[str, Any]


def protect(secret: bytes, passphrase: bytes, bound_to: bytes) -> Envelope:
    """`secret` under a passphrase, bound to `bound_to`. Raises PassphraseNeeded for an empty one."""
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    parameters: Envelope = {"kdf": KDF, **DEFAULTS, "salt": _b64(salt), "nonce": _b64(nonce)}
    sealed = AESGCM(_derive(parameters, passphrase)).encrypt(nonce, secret, bound_to)
    return parameters | {"sealed": _b64(sealed)}


def reveal(envelope: Envelope, passphrase: bytes, bound_to: bytes) -> bytes:
    """What `protect` was given.

    Raises PassphraseWrong; ValueError, KeyError or TypeError for an envelope that is none, or out of bounds.
    """
    nonce, sealed = _bytes(envelope["nonce"]), _bytes(envelope["sealed"])
    key = _derive(envelope, passphrase)
    try:
        return AESGCM(key).decrypt(nonce, sealed, bound_to)
    except InvalidTag as error:
        raise PassphraseWrong from error


def from_file(path: Path | str) -> bytes:
    """The passphrase in a file that only its owner may read, without the line break at its end.

    Raises PassphraseNeeded where there is none, PassphraseFileLoose where group or others may read it.
    """
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            passphrase = file.read().rstrip(b"\r\n")
    except OSError as error:
        raise PassphraseNeeded(f"its file cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise PassphraseFileLoose
    return passphrase


def _derive(parameters: Envelope, passphrase: bytes) -> bytes:
    if not passphrase:
        raise PassphraseNeeded("an empty one protects nothing")
    numbers = {name: parameters[name] for name in BOUNDS}
    salt = _bytes(parameters["salt"])
    inside = all(type(numbers[name]) is int and numbers[name] in bounds for name, bounds in BOUNDS.items())
    if parameters["kdf"] != KDF or not inside or not SALT_BYTES <= len(salt) <= 64:
        raise ValueError("key derivation out of bounds")
    return Argon2id(
        salt=salt,
        length=32,
        iterations=numbers["iterations"],
        lanes=numbers["lanes"],
        memory_cost=numbers["memory_kib"],
    ).derive(passphrase)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
