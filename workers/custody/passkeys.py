"""Approvals signed with a passkey (WebAuthn level 3, section 7.2): the console's way, checked by the custodian.

The challenge is the SHA-256 of the very message that a key file would sign, so an assertion counts for one decision on one
request. The signature counter is not looked at: no challenge is ever asked twice.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from workers.custody.publickeys import KeyOfNobody, usable_ed25519
from workers.strangers import read_json

_USER_PRESENT, _USER_VERIFIED = 0x01, 0x04
_LONGEST = 8_192  # characters of each part as it is kept; browsers give a few hundred


@dataclass(frozen=True)
class Passkey:
    """One credential: its id (base64url) and its public key (SubjectPublicKeyInfo, DER; P-256 or Ed25519)."""

    id: str
    public: bytes


def key_of(public: bytes) -> bytes:
    """What is the same for one key however its DER is written: its kind and its raw public key.

    Raises ValueError for what is no P-256 or Ed25519 key, and KeyOfNobody for an Ed25519 key that anybody may sign with: nothing of
    it ever counts.
    """
    try:
        key = load_der_public_key(public)
    except (UnsupportedAlgorithm, ValueError) as error:
        raise ValueError("no public key in DER (SubjectPublicKeyInfo)") from error
    if isinstance(key, Ed25519PublicKey):
        if not usable_ed25519(key.public_bytes_raw()):
            raise KeyOfNobody("an Ed25519 key of small order, or not canonical, with which anybody may sign")
        return b"ed25519" + key.public_bytes_raw()
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return b"p256" + key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    raise ValueError("neither a P-256 nor an Ed25519 key")


@dataclass(frozen=True)
class RelyingParty:
    """Whom passkeys are made for: the console's domain, and the origins that it is served from."""

    id: str
    origins: tuple[str, ...]


@dataclass(frozen=True)
class Assertion:
    """What a browser gives back besides the signature."""

    credential: str
    authenticator_data: bytes
    client_data: bytes

    def as_json(self) -> dict[str, str]:
        """As the database keeps it."""
        return {
            "credential": self.credential,
            "authenticator_data": _b64url(self.authenticator_data),
            "client_data": _b64url(self.client_data),
        }

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Assertion:
        """The assertion that was kept. Raises ValueError for anything else."""
        try:
            credential, *parts = (fields[name] for name in ("credential", "authenticator_data", "client_data"))
            if not isinstance(credential, str) or max(map(len, (credential, *parts))) > _LONGEST:
                raise ValueError
            return cls(credential, *map(unb64url, parts))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError("not an assertion") from error


def challenge(message: bytes) -> str:
    """What the browser is asked to sign, base64url."""
    return _b64url(hashlib.sha256(message).digest())


def fault(
    passkeys: Sequence[Passkey],
    assertion: Assertion,
    signature: bytes,
    message: bytes,
    party: RelyingParty | None = None,
) -> str | None:
    """What is wrong with an answer of one of these passkeys to this message, in words; None where its holder, present and verified
    by their device, signed just this for this relying party.

    Without `party` nothing is asked of domain and origin: the trail says nothing of them.
    """
    public = next((each.public for each in passkeys if each.id == assertion.credential), None)
    if public is None:
        return "it is of a passkey that was not added for them"
    try:
        client = read_json(assertion.client_data)
        kind, asked, origin, crossed = (
            client["type"],
            client["challenge"],
            client["origin"],
            client.get("crossOrigin"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its client data is not a browser's"
    data, needed = assertion.authenticator_data, _USER_PRESENT | _USER_VERIFIED
    if kind != "webauthn.get" or len(data) < 37:
        return "it is not of signing with a passkey"
    if asked != challenge(message):
        return "it answers another challenge than that of this request and this decision"
    if party is not None and data[:32] != hashlib.sha256(party.id.encode()).digest():
        return f"the passkey is one for another domain than {party.id}"
    if party is not None and (origin not in party.origins or crossed):
        return f"it was given on another page than {' or '.join(party.origins)}"
    if data[32] & needed != needed:
        return "the device did not verify who holds it (by PIN, finger or face)"
    if not _verifies(public, signature, data + hashlib.sha256(assertion.client_data).digest()):
        return "its signature is not by that passkey"
    return None


def _verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        key = load_der_public_key(public)
        if isinstance(key, Ed25519PublicKey):
            if not usable_ed25519(key.public_bytes_raw()):
                return False
            key.verify(signature, message)
        elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            key.verify(signature, message, ECDSA(hashes.SHA256()))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def unb64url(text: str) -> bytes:
    """What base64url without its padding stands for. Raises ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
