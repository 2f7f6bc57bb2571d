"""Receipts: what somebody who signed takes home, so that they can tell whether the trail still says so.

What no head covers yet, the database's owner could take away again without a trace. A receipt is the number of an event and the hash
of its bytes; it proves nothing to a third party, and shows its holder a history that was changed behind their back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from schemas.audit_tables import Event
from workers.audit.canonical import fields_of
from workers.audit.errors import NotInTrail, ReceiptInvalid
from workers.audit.findings import Problem, Verification

_WRITTEN = re.compile(r"(\d{1,18}):([0-9a-f]{64})")
_NEWEST = 100  # of a release's events, in which what was done just now is looked for


@dataclass(frozen=True)
class Receipt:
    """An event's number, and the hash of its leaf (32 bytes)."""

    seq: int
    leaf: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.leaf.hex()}"

    @classmethod
    def of(cls, written: str) -> Receipt:
        """The receipt that was printed. Raises ReceiptInvalid."""
        found = _WRITTEN.fullmatch(written.strip().lower())
        if found is None:
            raise ReceiptInvalid(written[:40])
        return cls(int(found[1]), bytes.fromhex(found[2]))


def receipt_for(session: Session, release: UUID, request: UUID, actor: str) -> Receipt:
    """For the newest thing that they did about a request. Raises NotInTrail."""
    query = select(Event.seq, Event.leaf, Event.canonical).where(func.audit.release_of(Event.canonical) == str(release))
    for row in session.execute(query.order_by(Event.seq.desc()).limit(_NEWEST)):
        fields = fields_of(row.canonical)
        if (fields.get("request"), fields.get("actor")) == (str(request), actor):
            return Receipt(row.seq, bytes(row.leaf))
    raise NotInTrail


def check_receipts(session: Session, receipts: Iterable[Receipt], result: Verification) -> None:
    """Adds a finding for each that the trail does not bear out. What the leaves are of, `verify` has derived before."""
    for receipt in receipts:
        leaf = session.execute(select(Event.leaf).where(Event.seq == receipt.seq)).scalar_one_or_none()
        if leaf is None or bytes(leaf) != receipt.leaf:
            words = "it is not there" if leaf is None else "another event stands there"
            result.found(Problem.RECEIPT, f"event {receipt.seq}", f"a receipt was given for it, and {words}")
