"""A key officer's order to the custodian in canonical form: shred keys, hold them, lift a hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import rfc8785

from schemas.requests import signed_message
from schemas.states import OrderKind, OrderScope

WHAT_ORDER = "refacex custody order"


@dataclass(frozen=True)
class OrderTerms:
    """What is ordered. `target` is an item, a release or a subject; `face` goes with the scope `face` alone, whose target
    is the item. `reason` is free text and never in the audit trail.
    """

    id: UUID
    tenant: str
    kind: OrderKind
    scope: OrderScope
    target: UUID
    face: int | None
    reason: str
    ordered_by: str
    created_at: datetime

    def __post_init__(self) -> None:
        if (self.face is not None) != (self.scope is OrderScope.FACE) or (self.face is not None and self.face < 0):
            raise ValueError("a face's number goes with the scope face, and with no other")

    def canonical(self) -> bytes:
        """The RFC 8785 bytes."""
        fields: dict[str, Any] = {
            "v": 1,
            "what": WHAT_ORDER,
            "id": str(self.id),
            "tenant": self.tenant,
            "kind": self.kind.value,
            "scope": self.scope.value,
            "target": str(self.target),
            "face": self.face,
            "reason": self.reason,
            "ordered_by": self.ordered_by,
            "created_at": self.created_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        return rfc8785.dumps(fields)

    def sha256(self) -> bytes:
        """The canonical form's SHA-256: how the audit trail names the order."""
        return hashlib.sha256(self.canonical()).digest()


def order_message(terms: OrderTerms) -> bytes:
    """What the key officer signs."""
    return signed_message(f"order {terms.kind.value}", terms.sha256())
