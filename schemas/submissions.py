"""A submission in canonical form: what a submitter signs when they hand photographs in; and what the trail says of its items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import rfc8785

from schemas.requests import signed_message

WHAT_SUBMISSION = "refacex submission"
NOBODY = UUID(int=0)
VOUCHES = 8  # the version of a UUID that says what it was made from (RFC 9562, 5.8); pseudonyms of before revision 0009 are random


@dataclass(frozen=True)
class SubmissionTerms:
    """Who submits which release. `items`: the ids of its items, in their order; they stand in it by their number and one hash.

    `names`: the items' file names, in the same order; they stand in it by one hash, salted with `salt` (32 bytes), so that nobody can
    guess them. Submissions of before revision 0007 have no salt, and say nothing of names.
    """

    release: UUID
    tenant: str
    policy: str
    submitted_by: str
    items: Sequence[UUID]
    names: Sequence[str] = field(default=(), repr=False)
    salt: bytes | None = field(default=None, repr=False)

    def canonical(self) -> bytes:
        """The RFC 8785 bytes."""
        named = self.names_sha256()
        fields: dict[str, Any] = {
            "v": 1 if named is None else 2,
            "what": WHAT_SUBMISSION,
            "release": str(self.release),
            "tenant": self.tenant,
            "policy": self.policy,
            "submitted_by": self.submitted_by,
            "items": len(self.items),
            "items_sha256": hashlib.sha256(b"".join(item.bytes for item in self.items)).hexdigest(),
        }
        return rfc8785.dumps(fields if named is None else fields | {"names_sha256": named})

    def sha256(self) -> bytes:
        """The canonical form's SHA-256: how the audit trail names the submission."""
        return hashlib.sha256(self.canonical()).digest()

    def names_sha256(self) -> str | None:
        """SHA-256 (hex) of the salt, and of each item's id and its name's own SHA-256; None where there is no salt."""
        if self.salt is None:
            return None
        pairs = zip(self.items, self.names, strict=True)
        return _sha256(self.salt, *(item.bytes + hashlib.sha256(name.encode()).digest() for item, name in pairs))


def subjects_sha256(shown: Iterable[tuple[UUID, UUID | None]]) -> str:
    """SHA-256 (hex) over who is shown: each item's id and its subject's pseudonym, zeros where it has none."""
    return _sha256(*(item.bytes + (subject or NOBODY).bytes for item, subject in shown))


def pseudonym_of(tenant: str, reference: str, salt: bytes) -> UUID:
    """The pseudonym that this reference has with this salt (32 bytes): the first 128 bits of their SHA-256, as a UUID of version 8.

    Whoever knows a pseudonym, from the trail, a key or what an officer signed, knows by it whom it stands for as long as reference and
    salt exist, and nothing once they are erased.
    """
    octets = bytearray(
        hashlib.sha256(salt + hashlib.sha256(tenant.encode()).digest() + reference.encode()).digest()[:16]
    )
    octets[6], octets[8] = octets[6] & 0x0F | VOUCHES << 4, octets[8] & 0x3F | 0x80
    return UUID(bytes=bytes(octets))


def submission_message(terms: SubmissionTerms) -> bytes:
    """What the submitter signs."""
    return signed_message("submit release", terms.sha256())


def _sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
