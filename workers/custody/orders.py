"""What the custodian does with a key officer's order: shred, hold, lift.

The row is only a letter: the order is put together again from it, and its officer's signature over it is checked against
the pinned roster. What was answered stands in the ledger before it stands in the database, and an order is answered
once: whoever brings its row back gets the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.messages import TaskName, outbox_row
from schemas.orders import OrderTerms, order_message
from schemas.states import OrderKind, OrderScope, OrderState
from schemas.submissions import pseudonym_of
from schemas.tables import CustodyOrder, Outbox, Subject
from workers.alerts import AlertKind, raise_alert
from workers.audit import append
from workers.custody import proof, scope
from workers.custody.clock import agreed_now
from workers.custody.errors import CustodyError, Held, NotHeld, StillReleasing, TargetUnknown
from workers.custody.holds import Outcome, Portion, Target
from workers.custody.judge import Refusal, verifies
from workers.custody.ledger import Answered
from workers.custody.proof import ONE_SNAPSHOT
from workers.custody.roster import KEY_OFFICER, Roster
from workers.custody.rows import order_terms
from workers.custody.service import ACTOR, Custodian
from workers.custody.shredding import Because, Reason, erase_subject, shred_some

ORDER_LIFE = timedelta(days=7)  # from the signature until the custodian meets it for the first time


class OrderRefusal(StrEnum):
    """Why an order is not carried out. The words stand in the audit trail."""

    CHANGED = "order_changed"
    OFFICER = "officer_not_on_roster"
    FORGED = "signature_does_not_verify"
    STALE = "order_stale"
    TARGET = TargetUnknown.code
    UNFINISHED = StillReleasing.code
    HELD = Held.code
    NOT_HELD = NotHeld.code
    FOREIGN = Refusal.KEY_FOREIGN.value
    SHOWN = "items_changed"


class OrderRefused(CustodyError):
    """The custodian does not carry out this order; `detail` says why."""

    code = "order_refused"

    def __init__(self, refusal: OrderRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@dataclass(frozen=True)
class Carried:
    """What became of an order's message: its state, None where there is no such order; and how many keys it shredded. `GIVEN`: not
    all of them yet.
    """

    state: OrderState | None
    refusal: str | None = None
    keys: int = 0


def carry_out(custodian: Custodian, order_id: UUID) -> Carried:
    """Carries out an order, or what a crash left of it. Refusals are events and alerts, and no exceptions.

    Raises RosterInvalid or LedgerInvalid where the custodian's own files cannot be trusted; database errors pass through.
    """
    with custodian.sessions() as session:
        order = session.get(CustodyOrder, order_id)
    if order is None:
        _refuse_message(custodian, order_id)
        return Carried(None)
    if order.state is not OrderState.GIVEN:
        return Carried(order.state, order.outcome if order.state is OrderState.REFUSED else None)
    try:
        answered = custodian.ledger.answer(order_id) or _answer(custodian, order)
    except OrderRefused as refused:  # not the officer's word: nothing for the ledger to remember
        return _close_refused(custodian, order_id, refused.refusal.value, bytes(order.canonical_sha256).hex())
    if answered.refusal is not None:
        return _close_refused(custodian, order_id, answered.refusal, answered.sha256)
    return _carry_out(custodian, answered)


def _answer(custodian: Custodian, order: CustodyOrder) -> Answered:
    """Decides on an order and writes that into the ledger. Raises OrderRefused where it is not the officer's own word."""
    terms = _judge(order, custodian.load_roster())
    try:
        _decide(custodian, terms)
    except (TargetUnknown, StillReleasing, Held, NotHeld) as error:
        custodian.ledger.record_refused(terms, error.code)
    except OrderRefused as refused:
        custodian.ledger.record_refused(terms, refused.refusal.value)
    answered = custodian.ledger.answer(terms.id)
    assert answered is not None
    return answered


def _judge(order: CustodyOrder, roster: Roster) -> OrderTerms:
    """The terms, if an officer of the tenant signed just these. Raises OrderRefused."""
    try:
        terms = order_terms(order)
    except ValueError:  # a face where none belongs
        raise OrderRefused(OrderRefusal.CHANGED) from None
    if terms.canonical() != bytes(order.canonical):
        raise OrderRefused(OrderRefusal.CHANGED)
    officer = roster.find(terms.ordered_by, terms.tenant, KEY_OFFICER)
    if officer is None:
        raise OrderRefused(OrderRefusal.OFFICER)
    if not verifies(officer.ed25519_public, bytes(order.signature), order_message(terms)):
        raise OrderRefused(OrderRefusal.FORGED)
    return terms


def _decide(custodian: Custodian, terms: OrderTerms) -> None:
    target = Target.of(terms)
    with custodian.sessions() as session:
        session.connection(execution_options=ONE_SNAPSHOT)
        now = agreed_now(session)
        if not now - ORDER_LIFE <= terms.created_at <= now:
            raise OrderRefused(OrderRefusal.STALE)
        if scope.tenant_of(session, target) != terms.tenant:
            raise TargetUnknown
        portions = scope.portions_of(session, target)
        if terms.kind is OrderKind.SHRED:
            scope.check_ended(session, target)
            if proof.strangers(session, custodian.unwrapper, portions):
                raise OrderRefused(OrderRefusal.FOREIGN)
        if terms.kind is not OrderKind.LIFT and not _as_submitted(session, target, terms.tenant, portions):
            raise OrderRefused(OrderRefusal.SHOWN)
        held = scope.items_held(session, terms) if terms.kind is OrderKind.HOLD else []
        if terms.kind is OrderKind.LIFT and scope.held_for_another(session, custodian.ledger.holds(), terms):
            raise NotHeld
    if terms.kind is OrderKind.SHRED:
        custodian.ledger.record_shredded(portions, terms)
    elif terms.kind is OrderKind.HOLD:
        custodian.ledger.record_hold(terms, held)
    elif not custodian.ledger.record_lifted(terms):
        raise NotHeld


def _as_submitted(session: Session, target: Target, tenant: str, portions: Sequence[Portion]) -> bool:
    """Whether what the order is about is the tenant's, has the items, and these show whom, that the trail says: who owns the rows could
    leave some out.
    """
    releases = {portion.release for portion in portions}
    if target.scope is OrderScope.SUBJECT:
        subject = session.get_one(Subject, target.id)
        if subject.salt and subject.id != pseudonym_of(tenant, subject.reference or "", bytes(subject.salt)):
            return False
        if not proof.tenants_items_hold(session, tenant):
            return False
    elif target.scope is OrderScope.RELEASE:
        releases.add(target.id)
    return all(proof.items_hold(session, release) for release in releases)


def _carry_out(custodian: Custodian, answered: Answered) -> Carried:
    """What the ledger's answer means for the database. Every step may be repeated; what is not finished in one go is asked for
    again, behind whatever waits.
    """
    because = Because(Reason.ORDER, answered)
    shredding = answered.outcome is Outcome.SHRED
    keys = 0
    if shredding:
        with custodian.sessions() as session:
            portions = scope.portions_of(session, answered.target)
        keys, finished = shred_some(custodian, portions, answered.target, because)
        if not finished:
            with custodian.sessions.begin() as session:
                session.execute(insert(Outbox).values(outbox_row(TaskName.CARRY_OUT, [answered.id])))
            return Carried(OrderState.GIVEN, keys=keys)
    with custodian.sessions.begin() as session:
        order = _given(session, answered.id)
        if order is None:
            return Carried(OrderState.DONE, keys=keys)
        detail = _named(order) | {"ledger": answered.line}
        if shredding:
            detail |= {"items": len(portions), "keys": scope.count_gone(session, answered.target)}
            order.outcome = str(detail["keys"])
        order.state = OrderState.DONE
        session.flush()
        if shredding and answered.target.scope is OrderScope.SUBJECT:
            erase_subject(session, answered.target.id, because)
        _record(session, AuditEvent.ORDER_DONE, order, answered.sha256, detail)
    return Carried(OrderState.DONE, keys=keys)


def _close_refused(custodian: Custodian, order_id: UUID, refusal: str, sha256: str) -> Carried:
    with custodian.sessions.begin() as session:
        order = _given(session, order_id)
        if order is not None:
            order.state, order.outcome = OrderState.REFUSED, refusal
            raise_alert(session, AlertKind.ORDER_REFUSED, order=order_id, refusal=refusal)
            _record(session, AuditEvent.ORDER_REFUSED, order, sha256, _named(order) | {"refusal": refusal})
    return Carried(OrderState.REFUSED, refusal)


def _refuse_message(custodian: Custodian, order_id: UUID) -> None:
    """A message for an order that nobody gave: somebody else wrote to this queue."""
    with custodian.sessions.begin() as session:
        raise_alert(session, AlertKind.MESSAGE_REFUSED, order=order_id)
        append(session, AuditEvent.MESSAGE_REFUSED, actor=ACTOR, detail={"order": order_id})


def _given(session: Session, order_id: UUID) -> CustodyOrder | None:
    """The order, locked, if nobody has closed it."""
    order = session.get(CustodyOrder, order_id, with_for_update=True)
    return order if order is not None and order.state is OrderState.GIVEN else None


def _named(order: CustodyOrder) -> dict[str, Any]:
    return {"order": order.id, "kind": order.kind.value, "scope": order.scope.value, "face": order.face}


def _record(session: Session, event: AuditEvent, order: CustodyOrder, sha256: str, detail: dict[str, Any]) -> None:
    append(session, event, actor=ACTOR, request_hash=sha256, detail=detail, **Target.of(order).field)
