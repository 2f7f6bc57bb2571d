"""What administrators sign: a person in canonical form, who is added or removed, and a version of a policy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import rfc8785

from schemas.requests import signed_message

WHAT_PERSON = "refacex person"


@dataclass(frozen=True)
class PersonTerms:
    """Who somebody is here: raw public keys, and each passkey's id and public key. Everything of it stands in `person:added`."""

    id: str
    tenant: str
    roles: tuple[str, ...]
    ed25519_public: bytes
    x25519_public: bytes
    passkeys: tuple[tuple[str, bytes], ...] = ()

    def canonical(self) -> bytes:
        """The RFC 8785 bytes. Roles are sorted; passkeys stand as they were given."""
        fields: dict[str, Any] = {
            "v": 1,
            "what": WHAT_PERSON,
            "id": self.id,
            "tenant": self.tenant,
            "roles": sorted(self.roles),
            "ed25519": self.ed25519_public.hex(),
            "x25519": self.x25519_public.hex(),
            "passkeys": [{"id": credential, "public": public.hex()} for credential, public in self.passkeys],
        }
        return rfc8785.dumps(fields)

    def sha256(self) -> bytes:
        """The canonical form's SHA-256: what `person:added` and `person:removed` carry where an administrator signed."""
        return hashlib.sha256(self.canonical()).digest()


def add_message(sha256: bytes) -> bytes:
    """What an administrator signs to add the person of this canonical SHA-256."""
    return signed_message("add person", sha256)


def remove_message(sha256: bytes) -> bytes:
    """What an administrator signs to remove them."""
    return signed_message("remove person", sha256)


def policy_message(sha256: bytes, version: int) -> bytes:
    """What an administrator signs to set the policy of this canonical SHA-256. The version is in it, so that an earlier, laxer one
    cannot be set again with its old signature.
    """
    return signed_message(f"set policy {version}", sha256)
