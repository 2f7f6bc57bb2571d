"""What an order is about, as the database has it: whose it is, which items, and whether keys of it are still being made."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from schemas.orders import OrderTerms
from schemas.states import ItemState, KeyState, OrderScope, RecoveryState, ReleaseState
from schemas.tables import CustodyOrder, Item, Recovery, Release, RequestFace, SealedKey, Subject, Ticket
from workers.custody.errors import StillReleasing, TargetUnknown
from workers.custody.holds import Holds, Portion, Target
from workers.strangers import read_json

_ENDED = (ItemState.DONE, ItemState.HELD, ItemState.FAILED, ItemState.QUARANTINED)
_RUNNING = (ReleaseState.OPEN, ReleaseState.RUNNING)


def tenant_of(session: Session, target: Target) -> str:
    """Whose the target is. Raises TargetUnknown, also where one of its items is another tenant's."""
    if target.scope is OrderScope.SUBJECT:
        query = select(Subject.tenant).where(Subject.id == target.id)
    elif target.scope is OrderScope.RELEASE:
        query = select(Release.tenant).where(Release.id == target.id)
    else:
        query = select(Release.tenant).join(Item, Item.release_id == Release.id).where(Item.id == target.id)
        if target.face is not None:
            query = query.where(Item.faces > target.face)
    tenant = session.execute(query).scalar_one_or_none()
    items = select(Item.id).join(Release, Release.id == Item.release_id).where(within(target))
    if tenant is None or session.execute(items.where(Release.tenant != tenant).limit(1)).first() is not None:
        raise TargetUnknown
    return tenant


def portions_of(session: Session, target: Target) -> list[Portion]:
    """The keys of every item that the target has: a single face's, or all of them."""
    query = select(Item.id, Item.release_id, Item.subject_id).where(within(target)).order_by(Item.id)
    faces = None if target.face is None else (target.face,)
    return [Portion(row.id, row.release_id, row.subject_id, faces) for row in session.execute(query)]


def items_held(session: Session, terms: OrderTerms) -> list[UUID]:
    """The items that a hold on a release or a subject is for; none for the other scopes, which name theirs."""
    if terms.scope not in (OrderScope.RELEASE, OrderScope.SUBJECT):
        return []
    return [portion.item for portion in portions_of(session, Target.of(terms))]


def held_for_another(session: Session, holds: Holds, terms: OrderTerms) -> bool:
    """Whether a hold on the order's target, of before the ledger said whose, is another tenant's by the order of its SHA-256, whose
    row may be gone.
    """
    wanted = [bytes.fromhex(hold.sha256) for hold in holds.on(Target.of(terms)) if hold.tenant is None]
    rows = session.execute(
        select(CustodyOrder.canonical).where(func.pg_catalog.sha256(CustodyOrder.canonical).in_(wanted))
    )
    return any(read_json(bytes(canonical))["tenant"] != terms.tenant for (canonical,) in rows)


def items_left(session: Session, target: Target) -> set[UUID]:
    """The items of the target that still have a key of it."""
    query = select(SealedKey.item_id).join(Item, Item.id == SealedKey.item_id)
    query = query.where(within(target), SealedKey.wrapped.is_not(None))
    if target.face is not None:
        query = query.where(SealedKey.face == target.face)
    return set(session.execute(query.distinct()).scalars())


def items_opened(session: Session, target: Target) -> set[UUID]:
    """The items of the target that a recovery was opened for and is not over."""
    query = (
        select(RequestFace.item_id)
        .join(Item, Item.id == RequestFace.item_id)
        .join(Ticket, Ticket.request_id == RequestFace.request_id)
        .join(Recovery, Recovery.ticket_id == Ticket.id)
        .where(within(target), Recovery.state.in_([RecoveryState.BOUND, RecoveryState.RECOVERED]))
    )
    if target.face is not None:
        query = query.where(RequestFace.face == target.face)
    return set(session.execute(query.distinct()).scalars())


def check_ended(session: Session, target: Target) -> None:
    """Raises StillReleasing while keys of the target are still being made."""
    running = select(Release.id).where(Release.id == target.id, Release.state.in_(_RUNNING))
    unfinished = select(Item.id).where(
        within(target), Item.state.not_in(_ENDED)
    )  # of a cancelled one, until the reconciler has ended them
    if any(session.execute(query.limit(1)).first() is not None for query in (running, unfinished)):
        raise StillReleasing


def count_gone(session: Session, target: Target) -> int:
    """How many keys of the target were shredded."""
    query = select(func.count()).select_from(SealedKey).join(Item, Item.id == SealedKey.item_id)
    if target.face is not None:
        query = query.where(SealedKey.face == target.face)
    return session.execute(query.where(within(target), SealedKey.state == KeyState.SHREDDED)).scalar_one()


def within(target: Target) -> ColumnElement[bool]:
    column = {OrderScope.SUBJECT: Item.subject_id, OrderScope.RELEASE: Item.release_id}.get(target.scope, Item.id)
    return column == target.id
