"""Key officers' orders as the gateway sees them: draft, give, show. Whoever orders signs on their own machine.

What is checked here is checked again by the custodian, against its roster, its ledger and its clock; here it is checked
so that people learn early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Select, exists, func, insert, select
from sqlalchemy.orm import Session, aliased

from schemas.audit import AuditEvent
from schemas.contexts import LAYOUT_FACE
from schemas.messages import QUEUE_OF, Broker, TaskName, task_args
from schemas.orders import OrderTerms, order_message
from schemas.states import KeyState, OrderKind, OrderState, RecoveryState, RequestState
from schemas.tables import CustodyOrder, Item, Outbox, Recovery, RecoveryRequest, RequestFace, SealedKey, Ticket
from workers.audit import append
from workers.custody import scope
from workers.custody.errors import CustodyError, NotHeld, StillReleasing, TargetUnknown
from workers.custody.holds import Hold, Holds, Target
from workers.custody.judge import verifies
from workers.custody.roster import KEY_OFFICER
from workers.recoveries.errors import SignatureInvalid
from workers.recoveries.people import acting
from workers.recoveries.service import DRAFT_LIFE


class OrderUnknown(CustodyError):
    """There is no such order: see `refacex order list`."""

    code = "order_unknown"


class OrderIncomplete(CustodyError):
    """An order needs a reason."""

    code = "order_incomplete"


class OrderStale(CustodyError):
    """The order was drafted too long ago: draft it again and sign it at once."""

    code = "order_stale"


@dataclass(frozen=True)
class KeyCount:
    """The keys of a target: those that live or were set aside, layout keys among them, and those that were shredded."""

    left: int
    layout: int
    gone: int


@dataclass(frozen=True)
class Survey:
    """What a shred order would do, as far as the database knows; `holds` forbid it, and so does `running`."""

    tenant: str
    items: int
    keys: KeyCount
    requests: int
    recoveries: int
    holds: set[Target]
    running: bool


def survey(session: Session, target: Target) -> Survey:
    """What shredding the target would mean. Nothing is written. Raises TargetUnknown."""
    tenant = scope.tenant_of(session, target)
    portions = scope.portions_of(session, target)
    try:
        scope.check_ended(session, target)
        running = False
    except StillReleasing:
        running = True
    return Survey(
        tenant=tenant,
        items=len(portions),
        keys=_count_keys(session, target),
        requests=_count_requests(session, target),
        recoveries=_count_recoveries(session, target),
        holds=known_holds(session).covering(portions),
        running=running,
    )


def draft_order(session: Session, kind: OrderKind, target: Target, *, ordered_by: str, reason: str) -> OrderTerms:
    """The terms of an order. Nothing is written: the key officer signs `order_message(terms)`, and `give_order` takes
    both.

    Raises TargetUnknown, PersonUnknown, OrderIncomplete, StillReleasing, NotHeld.
    """
    tenant = scope.tenant_of(session, target)
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    terms = OrderTerms(uuid4(), tenant, kind, target.scope, target.id, target.face, reason, ordered_by, now)
    _check(session, terms)
    return terms


def check_officer(session: Session, terms: OrderTerms, ed25519_public: bytes) -> None:
    """That an order of theirs with this key could be given, before anybody is asked to sign it. Raises PersonUnknown, SignatureInvalid."""
    if acting(session, terms.ordered_by, terms.tenant, KEY_OFFICER).ed25519_public != ed25519_public:
        raise SignatureInvalid


def give_order(session: Session, terms: OrderTerms, signature: bytes) -> None:
    """Puts the order that was drafted before the custodian, with its officer's signature, in the caller's transaction.

    Raises what `draft_order` does, and OrderStale, SignatureInvalid.
    """
    _check(session, terms)
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    if not now - DRAFT_LIFE <= terms.created_at <= now:
        raise OrderStale
    officer = acting(session, terms.ordered_by, terms.tenant, KEY_OFFICER)
    if not verifies(bytes(officer.ed25519_public), signature, order_message(terms)):
        raise SignatureInvalid
    _insert(session, terms, signature)
    queue, args = QUEUE_OF[TaskName.CARRY_OUT], task_args(TaskName.CARRY_OUT, [terms.id])
    message = {"broker": Broker.PRIVILEGED.value, "queue": queue.value, "task": TaskName.CARRY_OUT.value, "args": args}
    session.execute(insert(Outbox).values(message))
    append(
        session,
        AuditEvent.ORDER_GIVEN,
        actor=terms.ordered_by,
        request_hash=terms.sha256(),
        detail={
            "order": terms.id,
            "kind": terms.kind.value,
            "scope": terms.scope.value,
            "face": terms.face,
            "signature": signature.hex(),
        },
        **Target.of(terms).field,
    )


def standing_holds(session: Session) -> Sequence[CustodyOrder]:
    """The orders whose holds stand, the oldest first, as far as the database knows: what counts is the custodian's ledger."""
    lift = aliased(CustodyOrder)
    lifted = exists().where(
        lift.kind == OrderKind.LIFT,
        lift.state == OrderState.DONE,
        lift.tenant == CustodyOrder.tenant,
        lift.scope == CustodyOrder.scope,
        lift.target == CustodyOrder.target,
        lift.face.is_not_distinct_from(CustodyOrder.face),
        lift.created_at >= CustodyOrder.created_at,
    )
    query = select(CustodyOrder).where(CustodyOrder.kind == OrderKind.HOLD, CustodyOrder.state == OrderState.DONE)
    return session.execute(query.where(~lifted).order_by(CustodyOrder.created_at)).scalars().all()


def known_holds(session: Session) -> Holds:
    """The same, to be asked what they forbid."""
    holds = Holds()
    for order in standing_holds(session):
        hold = Hold(order.tenant, order.created_at, bytes(order.canonical_sha256).hex())
        holds.put(Target.of(order), hold)
    return holds


def _count_keys(session: Session, target: Target) -> KeyCount:
    """How many keys there are."""
    left = SealedKey.state != KeyState.SHREDDED
    query = select(
        func.count().filter(left).label("left"),
        func.count().filter(left, SealedKey.face == LAYOUT_FACE).label("layout"),
        func.count().filter(~left).label("gone"),
    ).join(Item, Item.id == SealedKey.item_id)
    if target.face is not None:
        query = query.where(SealedKey.face == target.face)
    row = session.execute(query.where(scope.within(target))).one()
    return KeyCount(row.left, row.layout, row.gone)


def _count_requests(session: Session, target: Target) -> int:
    """How many requests for faces of the target wait for approvals or the custodian, and would be in vain without its keys."""
    waiting = RecoveryRequest.state.in_([RequestState.OPEN, RequestState.APPROVED])
    query = select(func.count()).select_from(RecoveryRequest).where(waiting, RecoveryRequest.expires_at > func.now())
    return session.execute(query.where(RecoveryRequest.id.in_(_requests(target)))).scalar_one()


def _count_recoveries(session: Session, target: Target) -> int:
    """How many recoveries of faces of the target have not been fetched, and would end with its keys."""
    query = select(func.count()).select_from(Recovery).join(Ticket, Ticket.id == Recovery.ticket_id)
    waiting = Recovery.state.in_([RecoveryState.BOUND, RecoveryState.RECOVERED])
    return session.execute(query.where(Ticket.request_id.in_(_requests(target)), waiting)).scalar_one()


def _requests(target: Target) -> Select[Any]:
    """The requests that name a face of the target."""
    query = select(RequestFace.request_id).join(Item, Item.id == RequestFace.item_id).where(scope.within(target))
    return query if target.face is None else query.where(RequestFace.face == target.face)


def _check(session: Session, terms: OrderTerms) -> None:
    target = Target.of(terms)
    if not terms.reason.strip():
        raise OrderIncomplete
    if scope.tenant_of(session, target) != terms.tenant:
        raise TargetUnknown
    acting(session, terms.ordered_by, terms.tenant, KEY_OFFICER)
    if terms.kind is OrderKind.SHRED:
        scope.check_ended(session, target)
    if terms.kind is OrderKind.LIFT and terms.tenant not in {hold.tenant for hold in known_holds(session).on(target)}:
        raise NotHeld


def _insert(session: Session, terms: OrderTerms, signature: bytes) -> None:
    session.add(
        CustodyOrder(
            id=terms.id,
            tenant=terms.tenant,
            kind=terms.kind,
            scope=terms.scope,
            target=terms.target,
            face=terms.face,
            reason=terms.reason,
            ordered_by=terms.ordered_by,
            canonical=terms.canonical(),
            canonical_sha256=terms.sha256(),
            signature=signature,
            created_at=terms.created_at,
        )
    )
    session.flush()
