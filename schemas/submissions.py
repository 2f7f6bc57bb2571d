"""A submission in canonical form: what a submitter signs when they hand photographs in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import rfc8785

from schemas.requests import signed_message

WHAT_SUBMISSION = "refacex submission"


@dataclass(frozen=True)
class SubmissionTerms:
    """Who submits which release. `items`: the ids of its items, in their order; they stand in it by their number and one hash."""

    release: UUID
    tenant: str
    policy: str
    submitted_by: str
    items: Sequence[UUID]

    def canonical(self) -> bytes:
        """The RFC 8785 bytes."""
        fields: dict[str, Any] = {
            "v": 1,
            "what": WHAT_SUBMISSION,
            "release": str(self.release),
            "tenant": self.tenant,
            "policy": self.policy,
            "submitted_by": self.submitted_by,
            "items": len(self.items),
            "items_sha256": hashlib.sha256(b"".join(item.bytes for item in self.items)).hexdigest(),
        }
        return rfc8785.dumps(fields)

    def sha256(self) -> bytes:
        """The canonical form's SHA-256: how the audit trail names the submission."""
        return hashlib.sha256(self.canonical()).digest()


def submission_message(terms: SubmissionTerms) -> bytes:
    """What the submitter signs."""
    return signed_message("submit release", terms.sha256())
