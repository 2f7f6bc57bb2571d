"""What retention will take, as far as the tables say: for who asks the custodian, and for people. The custodian judges by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, cast, func, literal, select
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.orm import Session

from schemas.messages import TaskName
from schemas.policies import DEFAULT_POLICY
from schemas.states import KeyState
from schemas.tables import Item, Outbox, Release, SealedKey
from workers.custody.retention import ENDED, ask
from workers.recoveries.rules import policies

ASK_EVERY = timedelta(days=1)


@dataclass(frozen=True)
class Retained:
    """A release that has ended with keys left, and when its policy, as the database has it, says that they go."""

    release: UUID
    tenant: str
    name: str
    policy: str
    due_at: datetime
    is_due: bool


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
            Release.state.in_(ENDED),
            Release.finished_at.is_not(None),
            Release.tenant == policy.tenant,
            func.coalesce(Release.policy["name"].astext, DEFAULT_POLICY) == policy.name,
            left.exists(),
        )
        rows = session.execute(query)
        found += [Retained(row.id, policy.tenant, row.name, policy.name, row.due_at, row.is_due) for row in rows]
    return sorted(found, key=lambda each: each.due_at)


def ask_for_due(session: Session) -> int:
    """Asks for every release that is due and was not asked for within the last day; for the relay's role."""
    query = select(Outbox.args[0].astext).where(Outbox.task == TaskName.RETAIN.value)
    asked = set(session.scalars(query.where(Outbox.created_at > func.now() - ASK_EVERY)))
    due = [each.release for each in retained(session) if each.is_due]
    return ask(session, [release for release in due if str(release) not in asked])


def _ended_at() -> ColumnElement[datetime]:
    """From when on keys are kept for so many days. Never before the release was submitted: services may set its end, and
    what it was submitted with stands.
    """
    return func.greatest(Release.finished_at, Release.created_at)
