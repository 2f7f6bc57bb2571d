"""Opening what was sealed. Only the custodian, the recovery worker and a person's own command line import this."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from schemas.contexts import KeyContext
from workers.custody.errors import KeyUnknown, Unwrappable
from workers.custody.sealing import KEY_BYTES, SealSuite


def open_sealed(
    private: bytes, sealed: bytes, info: bytes, suite: SealSuite = SealSuite.HPKE_X25519_SHA256_AES256GCM
) -> bytes:
    """What was sealed to this raw X25519 private key and bound to `info`. Raises Unwrappable for anything else."""
    try:
        return bytes(suite.hpke.decrypt(sealed, X25519PrivateKey.from_private_bytes(private), info=info))
    except (InvalidTag, ValueError) as error:
        raise Unwrappable from error


def unwrap(keys: Mapping[str, bytes], key_id: str, suite: str, wrapped: bytes, context: KeyContext) -> bytes:
    """A layout or face key out of its row. `keys` is the custody key ring: raw private keys by id.

    Raises KeyUnknown where the ring lacks that key, Unwrappable where the row does not belong to `context`.
    """
    if key_id not in keys:
        raise KeyUnknown(key_id)
    try:
        known = SealSuite(suite)
    except ValueError as error:
        raise Unwrappable(f"suite {suite[:40]}") from error
    key = open_sealed(keys[key_id], wrapped, context.canonical(), known)
    if len(key) != KEY_BYTES:
        raise Unwrappable("wrong length")
    return key
