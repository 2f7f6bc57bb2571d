"""Retention: keys live for as long as their release's policy says, and are shredded then.

The reconciler asks by the database's copy of the policies; the custodian goes by its own. What is held stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, cast, func, insert, literal, select
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.messages import QUEUE_OF, Broker, TaskName, task_args
from schemas.policies import DEFAULT_POLICY
from schemas.states import KeyState, OrderScope, ReleaseState
from schemas.tables import Item, Outbox, Release, SealedKey
from workers.alerts import AlertKind, raise_alert
from workers.audit import append
from workers.custody import scope
from workers.custody.holds import Target
from workers.custody.service import ACTOR, Custodian
from workers.custody.shredding import Because, Reason, shred_some
from workers.recoveries.rules import policies

ASK_EVERY = timedelta(days=1)
_ENDED = (ReleaseState.FINISHED, ReleaseState.CANCELLED)


@dataclass(frozen=True)
class Retained:
    """A release that has ended with keys left, and when its policy, as the database has it, says that they go."""

    release: UUID
    tenant: str
    name: str
    policy: str
    due_at: datetime
    is_due: bool


@dataclass(frozen=True)
class Retention:
    """What the custodian did when it was asked: how many keys it shredded, how many items a hold keeps; `due` False: it
    was not time yet, or the keys have no end.
    """

    due: bool
    keys: int = 0
    held: int = 0


def retained(session: Session) -> list[Retained]:
    """Every ended release whose keys have an end and have not met it, the soonest first."""
    found = []
    left = select(SealedKey.id).join(Item, Item.id == SealedKey.item_id)
    left = left.where(Item.release_id == Release.id, SealedKey.state != KeyState.SHREDDED)
    for policy, _ in policies(session):
        if policy.retain_days is None:
            continue
        due_at = _ended_at() + cast(literal(timedelta(days=policy.retain_days)), INTERVAL)
        query = select(Release.id, Release.name, due_at.label("due_at"), (due_at <= func.now()).label("is_due")).where(
            Release.state.in_(_ENDED),
            Release.finished_at.is_not(None),
            Release.tenant == policy.tenant,
            func.coalesce(Release.policy["name"].astext, DEFAULT_POLICY) == policy.name,
            left.exists(),
        )
        rows = session.execute(query)
        found += [Retained(row.id, policy.tenant, row.name, policy.name, row.due_at, row.is_due) for row in rows]
    return sorted(found, key=lambda each: each.due_at)


def ask(session: Session, releases: Iterable[UUID]) -> int:
    """Asks the custodian to shred what these releases have no right to any more; gives how many messages that took."""
    queue, task = QUEUE_OF[TaskName.RETAIN], TaskName.RETAIN
    message = {"broker": Broker.PRIVILEGED.value, "queue": queue.value, "task": task.value}
    messages = [message | {"args": task_args(task, [release])} for release in releases]
    if messages:
        session.execute(insert(Outbox), messages)
    return len(messages)


def ask_for_due(session: Session) -> int:
    """Asks for every release that is due and was not asked for within the last day; for the relay's role."""
    query = select(Outbox.args).where(Outbox.task == TaskName.RETAIN.value, Outbox.created_at > func.now() - ASK_EVERY)
    asked = {args[0] for args in session.scalars(query)}
    due = [each.release for each in retained(session) if each.is_due]
    return ask(session, [release for release in due if str(release) not in asked])


def retain(custodian: Custodian, release_id: UUID) -> Retention:
    """Shreds a release's keys if the pinned policy says that their time is over, but for items that a hold touches.

    Raises PoliciesInvalid or LedgerInvalid where the custodian's own files cannot be trusted, Held where a hold came
    between; database errors pass through.
    """
    target = Target(OrderScope.RELEASE, release_id)
    with custodian.sessions() as session:
        release = session.get(Release, release_id)
        if release is None:
            return _refuse_message(session, release_id)
        policy = custodian.load_policies().find(release.tenant, release.policy_name)
        days = policy.retain_days if policy is not None else None
        if release.state not in _ENDED or days is None or not _is_over(session, release_id, days):
            return Retention(due=False)
        portions = scope.portions_of(session, target)
    holds = custodian.ledger.holds()
    free = [portion for portion in portions if not holds.covering([portion])]
    custodian.ledger.record_shredded(free)
    keys, finished = shred_some(custodian, free, target, Because(Reason.RETENTION))
    if not finished:
        with custodian.sessions.begin() as session:
            ask(session, [release_id])
    return Retention(due=True, keys=keys, held=len(portions) - len(free))


def _is_over(session: Session, release_id: UUID, days: int) -> bool:
    over = _ended_at() + timedelta(days=days) <= func.clock_timestamp()
    query = select(Release.id).where(Release.id == release_id, Release.finished_at.is_not(None), over)
    return session.execute(query).first() is not None


def _ended_at() -> ColumnElement[datetime]:
    """From when on keys are kept for so many days. Never before the release was submitted: services may set its end, and
    what it was submitted with stands.
    """
    return func.greatest(Release.finished_at, Release.created_at)


def _refuse_message(session: Session, release_id: UUID) -> Retention:
    """A message for a release that there is none of: somebody else wrote to this queue."""
    raise_alert(session, AlertKind.MESSAGE_REFUSED, release=release_id)
    append(session, AuditEvent.MESSAGE_REFUSED, actor=ACTOR, release=release_id)
    session.commit()
    return Retention(due=False)
