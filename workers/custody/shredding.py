"""Shredding: what the custodian does to the rows of keys whose tombstones stand in its ledger.

The ledger comes first. A crash after it leaves rows that open nothing, and the next message takes them away; the other
way round, a backup would bring back keys that nobody remembers as shredded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from schemas.audit import AuditEvent
from schemas.contexts import LAYOUT_FACE
from schemas.policies import Policy
from schemas.states import KeyState, RecoveryState
from schemas.tables import Item, RecoveredFace, Recovery, RequestFace, SealedKey, Subject, Ticket
from workers.alerts import AlertKind, raise_alert
from workers.audit import append
from workers.custody import scope
from workers.custody.binding import end_bound
from workers.custody.errors import KeyShredded
from workers.custody.holds import Portion, Target
from workers.custody.judge import Refusal
from workers.custody.ledger import Answered, Ledger
from workers.custody.proof import live_keys
from workers.custody.providers import Unwrapper
from workers.custody.service import ACTOR

_SYNC = {"synchronize_session": False}
KEY_FOREIGN = Refusal.KEY_FOREIGN.value
_MOST_NAMED = 1000  # an event has room for so many faces; `keys` counts all of them
_MOST_ENDED = 100  # recoveries that one event names; others follow in events of their own
_CHUNK = 500
SLICE = timedelta(seconds=20)


class Shredder(Protocol):
    """What shredding takes of the custodian. It unwraps to prove whose a key is, and hands nothing on."""

    @property
    def sessions(self) -> sessionmaker[Session]: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def unwrapper(self) -> Unwrapper: ...


class Reason(StrEnum):
    """Why keys were shredded. The words stand in the audit trail."""

    ORDER = "order"
    RETENTION = "retention"
    TOMBSTONE = "tombstone"  # a row came back, as from a backup, whose key had been shredded before


@dataclass(frozen=True)
class Because:
    """Why keys are shredded, and by which order, or which policy as the custodian has it."""

    reason: Reason
    order: Answered | None = None
    policy: Policy | None = None

    @property
    def request_hash(self) -> str | None:
        """The order's SHA-256, as the trail names it."""
        return self.order.sha256 if self.order else None

    @property
    def why(self) -> dict[str, Any]:
        """What trail and ledger say of it."""
        if self.policy is not None:
            return {"policy_sha256": self.policy.sha256().hex(), "retain_days": self.policy.retain_days}
        return {} if self.order is None else {"order": str(self.order.id)}


def shred(custodian: Shredder, portion: Portion, because: Because) -> int:
    """Shreds the keys of one item that have their tombstones, and what was opened with them, in one transaction with its
    event; gives how many keys that were. Does nothing where there is no tombstone, or nothing left. A key that does not open as what
    its rows say stays, with an alert: somebody put it there.
    """
    if custodian.ledger.tombstone(portion) is None:
        return 0
    with custodian.sessions.begin() as session:
        faces, strange = _shred_keys(session, custodian.unwrapper, portion, because.reason)
        recoveries = _end_recoveries(session, custodian.ledger, portion)
        if strange:
            refuse_strangers(session, {portion.item}, portion.release)
        if faces or recoveries:
            _record(session, custodian.ledger, portion, because, faces, recoveries[:_MOST_ENDED])
        for at in range(_MOST_ENDED, len(recoveries), _MOST_ENDED):
            _record(session, custodian.ledger, portion, because, [], recoveries[at : at + _MOST_ENDED])
    return len(faces)


def shred_some(custodian: Shredder, portions: Sequence[Portion], target: Target, because: Because) -> tuple[int, bool]:
    """Shreds those of the target's portions whose keys still stand, for `SLICE` at the most; gives how many keys that were,
    and whether none is left. Whoever waits in the custodian's queue does not wait for a whole archive.

    What a recovery was opened for comes first, however long that takes, and also where its keys are gone already.
    """
    until = time.monotonic() + SLICE.total_seconds()
    with custodian.sessions() as session:
        opened, left = scope.items_opened(session, target), scope.items_left(session, target)
    first = [portion for portion in portions if portion.item in opened]
    todo = first + [portion for portion in portions if portion.item in left - opened]
    keys = 0
    for done, portion in enumerate(todo, start=1):
        keys += shred(custodian, portion, because)
        if done >= len(first) and time.monotonic() >= until:
            return keys, done == len(todo)
    return keys, True


def shred_again(custodian: Shredder) -> int:
    """Shreds what came back: rows whose keys have tombstones, references of subjects that were shredded.

    For after a restore from a backup; what came back opens nothing in the meantime. Gives how many keys that were.
    """
    buried = custodian.ledger.buried()
    keys = sum(
        shred(custodian, portion, Because(Reason.TOMBSTONE))
        for items in _chunks(list(buried))
        for portion in _came_back(custodian, items, buried)
    )
    for subject in custodian.ledger.erased():
        with custodian.sessions.begin() as session:
            erase_subject(session, subject, Because(Reason.TOMBSTONE))
    return keys


def erase_subject(session: Session, subject: UUID, because: Because) -> None:
    """Takes away who a pseudonym stands for, with its event; nothing where that is gone already."""
    erased = update(Subject).where(Subject.id == subject, Subject.reference.is_not(None))
    erased = erased.values(reference=None, salt=None, erased_at=func.clock_timestamp())
    if session.execute(erased.returning(Subject.id), execution_options=_SYNC).first() is not None:
        detail = {"reason": because.reason.value}
        about = {"subject": str(subject), "request_hash": because.request_hash}
        append(session, AuditEvent.SUBJECT_ERASED, actor=ACTOR, detail=detail, **about)


def refuse_strangers(session: Session, items: set[UUID], release: UUID) -> None:
    """Says that keys of these items were to be shredded and are not proven to be what the rows say of them."""
    for item in sorted(items)[:_MOST_NAMED]:
        raise_alert(session, AlertKind.KEY_REFUSED, item=item, release=release)
    for item in sorted(items)[:_MOST_NAMED]:
        detail = {"refusal": KEY_FOREIGN}
        append(session, AuditEvent.MESSAGE_REFUSED, actor=ACTOR, release=release, item=item, detail=detail)


def _shred_keys(session: Session, unwrapper: Unwrapper, portion: Portion, why: Reason) -> tuple[list[int], bool]:
    """The face of each key that was shredded, of every attempt; -1 for a layout key. And whether one is not what the rows say.

    What a backup brought back under a custody key that was retired since opens for nobody, and goes unproven.
    """
    rows = [
        row
        for row in live_keys(session, unwrapper, [portion.item], lock=True)
        if portion.faces is None or row.face in portion.faces
    ]
    goes = (True, None) if why is Reason.TOMBSTONE else (True,)
    whose = (portion.release, portion.subject)
    ours = [row for row in rows if row.proven in goes and (row.release, row.subject) == whose]
    keys = update(SealedKey).where(SealedKey.id.in_([row.key for row in ours]))
    session.execute(keys.values(wrapped=None, state=KeyState.SHREDDED), execution_options=_SYNC)
    return sorted(row.face for row in ours), len(ours) < len(rows)


def _end_recoveries(session: Session, ledger: Ledger, portion: Portion) -> list[UUID]:
    """Takes away what was opened with these keys: the bundle of a recovery that has not begun or ended, the faces that
    wait to be fetched.
    """
    named = select(RequestFace.request_id).where(RequestFace.item_id == portion.item)
    if portion.faces is not None:
        named = named.where(RequestFace.face.in_(portion.faces))
    query = (
        select(Recovery.id, Recovery.state)
        .join(Ticket, Ticket.id == Recovery.ticket_id)
        .where(Ticket.request_id.in_(named), Recovery.state.in_([RecoveryState.BOUND, RecoveryState.RECOVERED]))
        .order_by(Recovery.id)
        .with_for_update(of=Recovery)
    )
    ended = []
    for recovery, state in session.execute(query).all():
        if state is RecoveryState.BOUND:
            end_bound(session, recovery, KeyShredded.code)
        elif not _take_faces(session, ledger, portion, recovery):
            continue
        ended.append(recovery)
    return ended


def _take_faces(session: Session, ledger: Ledger, portion: Portion, recovery: UUID) -> bool:
    """Takes the recovered faces away, and ends the recovery where none is left to fetch; whether there was one."""
    query = select(RecoveredFace.item_id, RecoveredFace.face).where(RecoveredFace.recovery_id == recovery)
    faces = [(row.item_id, row.face) for row in session.execute(query)]
    gone = [face for item, face in faces if item == portion.item and (portion.faces is None or face in portion.faces)]
    taken = update(RecoveredFace).where(RecoveredFace.recovery_id == recovery, RecoveredFace.item_id == portion.item)
    session.execute(taken.where(RecoveredFace.face.in_(gone)).values(sealed=None), execution_options=_SYNC)
    if all(ledger.shredded(item, face) for item, face in faces):
        ended = {"state": RecoveryState.EXPIRED, "error_code": KeyShredded.code}
        session.execute(update(Recovery).where(Recovery.id == recovery).values(ended), execution_options=_SYNC)
    return bool(gone)


def _record(
    session: Session, ledger: Ledger, portion: Portion, because: Because, faces: list[int], recoveries: list[UUID]
) -> None:
    tombstone = ledger.tombstone(portion) or ""
    why = because.why or ledger.why(tombstone)  # of what came back, why it was buried
    order = ledger.answer(UUID(why["order"])) if "order" in why else None
    named = sorted(set(faces) - {LAYOUT_FACE})
    detail: dict[str, Any] = {
        "reason": because.reason.value,
        "faces": named[:_MOST_NAMED],
        "layout": LAYOUT_FACE in faces,
        "keys": len(faces),
        "tombstone": tombstone,
    } | why
    if recoveries:
        detail["recoveries"] = recoveries
    append(
        session,
        AuditEvent.KEY_SHREDDED,
        actor=ACTOR,
        release=portion.release,
        item=portion.item,
        subject=None if portion.subject is None else str(portion.subject),
        request_hash=order.sha256 if order else None,
        detail=detail,
    )


def _came_back(
    custodian: Shredder, items: Sequence[UUID], buried: dict[UUID, tuple[int, ...] | None]
) -> Iterator[Portion]:
    live = select(SealedKey.item_id, SealedKey.face).where(SealedKey.item_id.in_(items), SealedKey.wrapped.is_not(None))
    with custodian.sessions() as session:
        met = {row.item_id for row in session.execute(live) if custodian.ledger.shredded(row.item_id, row.face)}
        query = select(Item.id, Item.release_id, Item.subject_id).where(Item.id.in_(met)).order_by(Item.id)
        rows = session.execute(query).all()
    for row in rows:
        named = buried[row.id]
        # A face at a time, where faces were named: each has a tombstone of its own, which says why.
        for faces in [None] if named is None else [(face,) for face in named]:
            yield Portion(row.id, row.release_id, row.subject_id, faces)


def _chunks(items: list[UUID]) -> Iterator[list[UUID]]:
    return (items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK))
