"""What the custodian signed in the database, held against its ledger: an older copy of the ledger is refused, and what a lost one
held is recalled as far as the custodian's own word goes.

Only rows and events with the custodian's own signature count, so nobody who writes to the database can make it refuse or forget. A
tombstone and an answered order stand in the ledger before they stand in the trail: one that is missing was lost. A ticket's line
comes after its commit: one that is missing is written now, whether a crash or an older copy left it out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.contexts import LAYOUT_FACE
from schemas.orders import OrderTerms
from schemas.states import OrderKind
from schemas.tables import CustodyOrder, Ticket
from workers.audit import append
from workers.audit.attested import MARK, EventSigner, attesting, fault_of
from workers.custody.errors import LedgerBehind, LedgerExists, LedgerMissing, LossNotAccepted
from workers.custody.holds import Portion
from workers.custody.judge import verifies
from workers.custody.ledger import Ledger, Opening, Outcome, Recalled
from workers.custody.ordering import terms_of

NEWEST = 1_000  # events and tickets that are looked at: an older copy lacks the newest ones first
OUTCOMES = {OrderKind.SHRED: Outcome.SHRED, OrderKind.HOLD: Outcome.HOLD, OrderKind.LIFT: Outcome.LIFTED}
#: Once the trail tells of one of these, there was a ledger.
WORK = (AuditEvent.TICKET_SPENT, AuditEvent.KEY_SHREDDED, AuditEvent.ORDER_DONE, AuditEvent.LEDGER_BEGUN)


def tells_of_work(session: Session) -> bool:
    """Whether the trail tells of anything that a ledger remembers, whoever wrote it."""
    query = select(Event.seq).where(Event.event.in_([kind.value for kind in WORK])).limit(1)
    return session.execute(query).first() is not None


def catch_up(session: Session, ledger: Ledger, signer: EventSigner) -> int:
    """Writes the lines of tickets that the ledger has not got; gives how many. Raises LedgerBehind where it is older than the trail,
    LedgerMissing, LedgerInvalid.
    """
    for fields in _signed(session, AuditEvent.KEY_SHREDDED, signer, ledger.recalled):
        item = UUID(fields["item"])
        missing = not all(ledger.shredded(item, face) for face in _faces(fields))
        if missing and not _stood_before(session, ledger.recalled, fields):
            raise LedgerBehind(f"the tombstones of item {item} are not in it")
    for fields in _signed(session, AuditEvent.ORDER_DONE, signer, ledger.recalled):
        order = UUID(fields["detail"]["order"])
        if ledger.answer(order) is None and not _stood_before(session, ledger.recalled, fields):
            raise LedgerBehind(f"order {order} is not in it")
    lacking = [each for each in islice(_openings(session, signer), NEWEST) if not ledger.spent(each.request)]
    for opening in lacking:
        ledger.record_spent(opening.request, opening.ticket, opening.recovery)
    return len(lacking)


def recall(session: Session, signer: EventSigner) -> Recalled:
    """Everything that the custodian's own signatures in the database still say."""
    trail = session.execute(select(func.coalesce(func.max(Event.seq), -1))).scalar_one()
    faces: dict[UUID, set[int]] = {}
    about: dict[UUID, UUID] = {}
    for fields in _signed(session, AuditEvent.KEY_SHREDDED, signer, -1, None):
        item = UUID(fields["item"])
        faces.setdefault(item, set()).update(_faces(fields))
        about[item] = UUID(fields["release"])
    portions = [Portion(item, about[item], None, tuple(sorted(buried))) for item, buried in faces.items() if buried]
    hashes = [fields["request_hash"] for fields in _signed(session, AuditEvent.ORDER_DONE, signer, -1, None)]
    openings = sorted(_openings(session, signer), key=lambda each: str(each.request))
    return Recalled(trail, tuple(openings), tuple(portions), tuple(_answers(session, reversed(hashes))))


def begin(
    sessions: sessionmaker[Session], path: Path, signer: EventSigner, actor: str, *, accept_loss: bool
) -> Recalled | None:
    """Begins a ledger, with its event in the trail; gives what was recalled, None where there was nothing to lose.

    Raises LedgerExists, LossNotAccepted; database errors pass through, and then there is no ledger.
    """
    with suppress(LedgerMissing):
        Ledger(path).holds()
        raise LedgerExists
    with sessions() as session:
        recalled = recall(session, signer) if tells_of_work(session) else None
    if recalled is not None and not accept_loss:
        raise LossNotAccepted
    ledger = Ledger.begin(path, recalled)
    detail: dict[str, Any] = {"ledger": ledger.id, "lost": recalled is not None}
    if recalled is not None:
        numbers = {"spent": recalled.openings, "items": recalled.portions, "orders": recalled.answers}
        detail |= {name: len(found) for name, found in numbers.items()}
    try:
        with attesting(sessions, signer).begin() as session:
            append(session, AuditEvent.LEDGER_BEGUN, actor=actor, detail=detail)
    except BaseException:
        path.unlink()
        raise
    return recalled


def _signed(
    session: Session, kind: AuditEvent, signer: EventSigner, after: int, newest: int | None = NEWEST
) -> Iterator[dict[str, Any]]:
    """The fields of the events of a kind that the custodian signed, the newest first."""
    query = select(Event.canonical).where(Event.event == kind.value, Event.seq > after)
    for canonical in session.execute(query.order_by(Event.seq.desc()).limit(newest)).scalars():
        try:
            event = json.loads(bytes(canonical))
            own = fault_of(event, signer.keys) is None
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # what somebody else wrote stops nothing
        if own:
            yield event["fields"]


def _stood_before(session: Session, recalled: int, fields: dict[str, Any]) -> bool:
    """Whether this very event, which its nonce tells apart, was in the trail when a loss was accepted: a copy of it refuses nothing."""
    signature = str(fields["detail"][MARK]["signature"])
    said = func.convert_from(Event.canonical, "UTF8")
    query = select(Event.seq).where(Event.seq <= recalled, Event.event.in_([kind.value for kind in WORK]))
    return session.execute(query.where(said.contains(signature, autoescape=True)).limit(1)).first() is not None


def _faces(fields: dict[str, Any]) -> list[int]:
    return [*fields["detail"]["faces"], *([LAYOUT_FACE] if fields["detail"]["layout"] else ())]


def _openings(session: Session, signer: EventSigner) -> Iterator[Opening]:
    """The tickets that the custodian signed, the newest first."""
    (public,) = signer.keys.values()
    query = select(Ticket.canonical, Ticket.signature).where(Ticket.signature.is_not(None))
    for canonical, signature in session.execute(query.order_by(Ticket.created_at.desc(), Ticket.id)):
        if canonical and signature and verifies(public, bytes(signature), bytes(canonical)):
            said = json.loads(bytes(canonical))
            yield Opening(UUID(said["request"]), UUID(said["id"]), UUID(said["recovery"]))


def _answers(session: Session, hashes: Iterator[str]) -> Iterator[tuple[OrderTerms, Outcome]]:
    """The orders of these SHA-256, in this order, as far as their rows are still what was signed."""
    for sha256 in dict.fromkeys(hashes):
        query = select(CustodyOrder).where(CustodyOrder.canonical_sha256 == bytes.fromhex(sha256))
        for row in session.scalars(query):
            try:
                terms = terms_of(row)
            except ValueError:  # a face where none belongs: not the row that was signed
                continue
            if terms.sha256().hex() == sha256:
                yield terms, OUTCOMES[terms.kind]
