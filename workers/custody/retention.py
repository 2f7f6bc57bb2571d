"""Retention: keys live for as long as their release's policy says, and are shredded then.

The reconciler asks by the tables; the custodian goes by its own copy of the policies and by the trail's own times, and by neither a
release that the trail does not know nor a key that is not proven to be of it. What is held stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.messages import TaskName, outbox_row
from schemas.states import OrderScope, ReleaseState
from schemas.tables import Outbox, Release
from workers.alerts import AlertKind, raise_alert
from workers.audit import append
from workers.custody import proof, scope
from workers.custody.clock import agreed_now
from workers.custody.holds import Target
from workers.custody.service import ACTOR, Custodian
from workers.custody.shredding import Because, Reason, refuse_strangers, shred_some

ENDED = (ReleaseState.FINISHED, ReleaseState.CANCELLED)


@dataclass(frozen=True)
class Retention:
    """What the custodian did when it was asked: how many keys it shredded, how many items a hold keeps, how many are not proven to
    be of the release; `due` False: it was not time yet, or the keys have no end.
    """

    due: bool
    keys: int = 0
    held: int = 0
    strange: int = 0


def ask(session: Session, releases: Iterable[UUID]) -> int:
    """Asks the custodian to shred what these releases have no right to any more; gives how many messages that took."""
    messages = [outbox_row(TaskName.RETAIN, [release]) for release in releases]
    if messages:
        session.execute(insert(Outbox), messages)
    return len(messages)


def retain(custodian: Custodian, release_id: UUID) -> Retention:
    """Shreds a release's keys if by the trail and the pinned policy their time is over, but for items that a hold touches.

    Raises PoliciesInvalid or LedgerInvalid where the custodian's own files cannot be trusted, Held where a hold came
    between; database errors pass through.
    """
    target = Target(OrderScope.RELEASE, release_id)
    with custodian.sessions() as session:
        session.connection(execution_options=proof.ONE_SNAPSHOT)
        release = session.get(Release, release_id)
        ended = proof.ended_at(session, release_id) if release is not None and release.state in ENDED else None
        if release is None or (release.state in ENDED and ended is None):
            return _refuse_message(custodian, release_id)
        policy = custodian.load_policies().find(release.tenant, release.policy_name)
        days = policy.retain_days if policy is not None else None
        if ended is None or days is None or agreed_now(session) < ended + timedelta(days=days):
            return Retention(due=False)
        if not proof.items_hold(session, release_id):
            return _refuse_message(custodian, release_id)
        # Whose keys somebody put out of sight is not buried: there is nothing that could be proven.
        left = scope.items_left(session, target) | scope.items_opened(session, target)
        portions = [portion for portion in scope.portions_of(session, target) if portion.item in left]
        strange = proof.strangers(session, custodian.unwrapper, portions)
    holds = custodian.ledger.holds()
    ours = [portion for portion in portions if portion.item not in strange]
    free = [portion for portion in ours if not holds.covering([portion])]
    because = Because(Reason.RETENTION, policy=policy)
    custodian.ledger.record_shredded(free, policy=because.why)
    keys, finished = shred_some(custodian, free, target, because)
    with custodian.sessions.begin() as session:
        if not finished:
            ask(session, [release_id])
        elif strange:
            refuse_strangers(session, strange, release_id)
    return Retention(due=True, keys=keys, held=len(ours) - len(free), strange=len(strange))


def _refuse_message(custodian: Custodian, release_id: UUID) -> Retention:
    """A message for a release that there is none of, or whose end or items are not as the trail has them: somebody else wrote it, or to
    its rows.
    """
    with custodian.sessions.begin() as session:  # not in the snapshot, which an event that came since would refuse
        raise_alert(session, AlertKind.MESSAGE_REFUSED, release=release_id)
        append(session, AuditEvent.MESSAGE_REFUSED, actor=ACTOR, release=release_id)
    return Retention(due=False)
