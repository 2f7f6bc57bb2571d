"""Sealing to a public key: HPKE (RFC 9180), DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, base mode.

Everybody may import this module; opening is in `workers.custody.opening`, for the processes that hold a private key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from schemas.contexts import KeyContext

KEY_BYTES = 32


class SealSuite(StrEnum):
    """How something is sealed; kept beside what is sealed, so that new suites can follow."""

    HPKE_X25519_SHA256_AES256GCM = "hpke-x25519-sha256-aes256gcm"
    AWS_KMS = "aws-kms"

    @property
    def overhead(self) -> int:
        """Bytes that HPKE adds: the encapsulated key (32) and the tag (16)."""
        return 48

    @property
    def hpke(self) -> Suite:
        """The HPKE suite. Raises ValueError for a suite that is none: its provider seals and opens."""
        if self is not SealSuite.HPKE_X25519_SHA256_AES256GCM:
            raise ValueError(f"{self.value} is not an HPKE suite")
        return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


DEFAULT_SUITE = SealSuite.HPKE_X25519_SHA256_AES256GCM


@dataclass(frozen=True)
class PublicKey:
    """An X25519 public key with its id (see `workers.custody.keys.key_id`)."""

    id: str
    raw: bytes


def seal(public: bytes, plaintext: bytes, info: bytes, suite: SealSuite = DEFAULT_SUITE) -> bytes:
    """`plaintext` sealed to a raw X25519 public key and bound to `info`: encapsulated key, then ciphertext and tag.

    Raises ValueError for a public key of the wrong length.
    """
    return bytes(suite.hpke.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info=info))


def seal_key(public: PublicKey, key: bytes, context: KeyContext) -> bytes:
    """A 32-byte layout or face key sealed to the custody key: what goes into `sealed_keys.wrapped`.

    Store `DEFAULT_SUITE.value` as `suite` and `public.id` as `custody_key_id` beside it. Raises ValueError for a key
    that is not 32 bytes long.
    """
    return seal(public.raw, checked(key), context.canonical())


def checked(key: bytes) -> bytes:
    """The same key. Raises ValueError where it is not 32 bytes long."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    return key
