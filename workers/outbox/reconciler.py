"""The reconciler: brings back what stalled, and sweeps up what a killed worker or a lost race left behind.

It never judges an item itself: it asks a worker to look again, and the claim's fence and the attempt's row decide
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, cast, delete, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, aliased, sessionmaker

from schemas.audit import AuditEvent
from schemas.messages import QUEUE_OF, TaskName, outbox_row, task_args
from schemas.states import (
    AttemptState,
    ExportState,
    ItemState,
    KeyState,
    OrderState,
    RecoveryState,
    ReleaseState,
    RequestState,
)
from schemas.tables import (
    Attempt,
    CustodyOrder,
    Export,
    Item,
    Outbox,
    Recovery,
    RecoveryRequest,
    Release,
    SealedKey,
    Ticket,
)
from workers import audit
from workers.custody import retained
from workers.custody.tickets import RENEW_AFTER
from workers.exports import schedules
from workers.logs import get_logger
from workers.recoveries import expiry
from workers.releases import lifecycle, reporting
from workers.releases.service import DEFAULT_CHUNK, chunk_message
from workers.settings import RelaySettings
from workers.storage import Storage, StoredObject

log = get_logger(__name__)

ACTOR = "reconciler"
BATCH = 500
KEEP_MESSAGES = timedelta(days=7)
KEEP_UNKNOWN_INPUT = timedelta(days=1)  # an upload whose submission has not been recorded yet may still be


@dataclass
class Swept:
    """What one sweep took away."""

    attempts: int = 0
    objects: int = 0
    inputs: int = 0

    @property
    def any(self) -> bool:
        return bool(self.attempts or self.objects or self.inputs)


class Reconciler:
    """Works on one database and one store with the relay's role and identity."""

    def __init__(self, settings: RelaySettings, sessions: sessionmaker[Session], storage: Storage) -> None:
        self._settings = settings
        self._sessions = sessions
        self._storage = storage
        self._stalled = timedelta(seconds=settings.stalled_seconds)

    def bring_back(self, *, queue_is_empty: bool) -> int:
        """Ask again for everything that stalled; gives how many messages that took.

        Items that only wait are asked for again when their queue is empty and nothing waits in the outbox: while a
        long queue is being worked off they have not stalled, and asking for them again and again would only make it
        longer.
        """
        with self._sessions.begin() as session:
            messages = self._lost_items(session)
            if queue_is_empty and not _outbox_waits(session):
                messages += self._waiting_items(session)
            messages += self._exports(session)
            messages += self._unasked(session, TaskName.REPORT, reporting.unreported(session, BATCH))
            messages += self._privileged(session)
            if messages:
                session.execute(insert(Outbox), messages)
        if messages:
            log.info("work_brought_back", messages=len(messages))
        return len(messages)

    def finish_releases(self) -> None:
        """Finish releases whose last worker died between its last item and this."""
        left = select(Item.id).where(Item.release_id == Release.id, Item.state.in_(lifecycle.UNFINISHED)).exists()
        with self._sessions.begin() as session:
            query = select(Release.id).where(Release.state.in_([ReleaseState.OPEN, ReleaseState.RUNNING]), ~left)
            finished = lifecycle.finish_releases(session, session.scalars(query).all(), actor=ACTOR)
        if finished:
            log.info("releases_finished", releases=[str(release) for release in finished])

    def end_cancelled(self) -> None:
        """End what cancelled releases left undone, so that nobody waits for it and its uploads are swept."""
        ended = 0
        while True:
            with self._sessions.begin() as session:
                now = lifecycle.end_cancelled(session, actor=ACTOR, limit=BATCH)
            ended += now
            if now < BATCH:
                break
        if ended:
            log.info("cancelled_items_ended", items=ended)

    def record_exports(self) -> None:
        """Record the exports whose windows have come up; here, for the exports' own worker may be busy for hours."""
        with self._sessions.begin() as session:
            made = schedules.record_due(session)
        if made:
            log.info("exports_recorded", exports=[str(export) for export in made])

    def expire(self) -> None:
        """Expire requests that nobody decided, tickets that nobody used, and faces that nobody fetched."""
        with self._sessions.begin() as session:
            expired = expiry.sweep(session, ACTOR)
        if expired:
            log.info("recoveries_expired", rows=expired)

    def retain(self) -> None:
        """Ask the custodian to shred the keys of releases whose time of retention is over."""
        with self._sessions.begin() as session:
            asked = retained.ask_for_due(session)
        if asked:
            log.info("retention_asked", releases=asked)

    def _lost_items(self, session: Session) -> list[dict[str, Any]]:
        """Items whose claim ran out: each in a message of its own, for one of them may be what killed the worker."""
        lost = and_(
            Item.state.in_([ItemState.CLAIMED, ItemState.COMMITTED]),
            or_(Item.claim_expires_at.is_(None), Item.claim_expires_at < func.now()),
            or_(Item.updated_at < Item.claim_expires_at, Item.updated_at < func.now() - self._stalled),
        )
        return [chunk_message([item_id]) for item_id, _ in self._take(session, lost)]

    def _waiting_items(self, session: Session) -> list[dict[str, Any]]:
        waiting = and_(Item.state == ItemState.PENDING, Item.updated_at < func.now() - self._stalled)
        taken = self._take(session, waiting)
        fresh = [item_id for item_id, attempts in taken if attempts == 0]
        chunks = [fresh[at : at + DEFAULT_CHUNK] for at in range(0, len(fresh), DEFAULT_CHUNK)]
        return [chunk_message(chunk) for chunk in chunks + [[item_id] for item_id, attempts in taken if attempts]]

    def _take(self, session: Session, which: ColumnElement[bool]) -> list[tuple[UUID, int]]:
        query = select(Item.id).where(which).order_by(Item.release_id, Item.position).limit(BATCH)
        ids = session.scalars(query.with_for_update(skip_locked=True)).all()
        touched = update(Item).where(Item.id.in_(ids)).values(updated_at=func.now()).returning(Item.id, Item.attempts)
        return [(item_id, attempts) for item_id, attempts in session.execute(touched)] if ids else []

    def _exports(self, session: Session) -> list[dict[str, Any]]:
        query = select(Export.id).where(Export.state.in_([ExportState.PENDING, ExportState.RUNNING]))
        return self._unasked(session, TaskName.EXPORT, session.scalars(query).all())

    def _privileged(self, session: Session) -> list[dict[str, Any]]:
        approved = select(RecoveryRequest.id).where(
            RecoveryRequest.state == RequestState.APPROVED, RecoveryRequest.expires_at > func.now()
        )
        bound = select(Recovery.id).where(Recovery.state == RecoveryState.BOUND, Recovery.expires_at > func.now())
        stale = (
            select(Ticket.request_id)
            .join(Recovery, Recovery.ticket_id == Ticket.id)
            .where(Recovery.state == RecoveryState.BOUND, Recovery.expires_at > func.now())
            .where(Recovery.sealed_at < func.now() - RENEW_AFTER)
        )
        given = select(CustodyOrder.id).where(CustodyOrder.state == OrderState.GIVEN)
        waiting = (
            (TaskName.OPEN, approved), (TaskName.OPEN, stale), (TaskName.RECOVER, bound), (TaskName.CARRY_OUT, given)
        )  # fmt: skip
        return [
            message for task, query in waiting for message in self._unasked(session, task, session.scalars(query).all())
        ]

    def _unasked(self, session: Session, task: TaskName, ids: Sequence[UUID]) -> list[dict[str, Any]]:
        """Messages for those ids that none was written for in the last while, and none waits for."""
        messages = []
        for each in ids:
            args = task_args(task, [each])
            recent = or_(Outbox.published_at.is_(None), Outbox.created_at > func.now() - self._stalled)
            query = select(Outbox.id).where(Outbox.task == task.value, Outbox.args == cast(args, JSONB), recent)
            if session.scalar(query.limit(1)) is None:
                messages.append(outbox_row(task, [each]))
        return messages

    # --- sweeping

    def sweep(self) -> Swept:
        """Delete the objects and set aside the keys of abandoned attempts, and uploaded copies whose item has ended."""
        swept = Swept(attempts=self._abandoned_attempts())
        return self._told(swept)

    def sweep_store(self) -> Swept:
        """Go through the whole store for objects that no row speaks for: a loser's upload that came after its sweep."""
        swept = Swept(objects=self._orphan_objects(), inputs=self._ended_inputs())
        return self._told(swept)

    def purge(self) -> None:
        """Forget messages that were published a week ago."""
        with self._sessions.begin() as session:
            session.execute(delete(Outbox).where(Outbox.published_at < func.now() - KEEP_MESSAGES))

    def _abandoned_attempts(self) -> int:
        live = select(SealedKey.id).where(SealedKey.attempt_id == Attempt.id, SealedKey.state == KeyState.LIVE).exists()
        # A file that an attempt which was not abandoned names as well is somebody's, whoever wrote its name into a row of theirs.
        other = aliased(Attempt)
        wanted = select(other.id).where(other.object_key == Attempt.object_key, other.state != AttemptState.ABANDONED)
        with self._sessions() as session:
            query = select(Attempt.id, Attempt.object_key, wanted.exists().label("wanted"))
            abandoned = session.execute(query.where(Attempt.state == AttemptState.ABANDONED, live).limit(BATCH)).all()
        for attempt_id, object_key, is_wanted in abandoned:
            if not is_wanted:  # no object without a key: it goes first
                self._storage.delete(self._settings.bucket_releases, object_key)
            with self._sessions.begin() as session:
                session.execute(
                    update(SealedKey)
                    .where(SealedKey.attempt_id == attempt_id, SealedKey.state == KeyState.LIVE)
                    .values(state=KeyState.SUPERSEDED)
                )
        return len(abandoned)

    def _orphan_objects(self) -> int:
        bucket, deleted = self._settings.bucket_releases, 0
        young = datetime.now(UTC) - timedelta(seconds=self._settings.orphan_seconds)
        for page in _pages(self._storage.list(bucket)):
            with self._sessions() as session:
                query = select(Attempt.object_key, Attempt.state)
                rows = session.execute(query.where(Attempt.object_key.in_([each.key for each in page])))
                # Of several attempts of one file, one that was not abandoned counts.
                known = dict(sorted(rows.all(), key=lambda row: row[1] is not AttemptState.ABANDONED))
                reports = reporting.kept(session, {each.key for each in page})
            for each in page:
                if each.key in reports:
                    continue
                state = known.get(each.key)
                if state is AttemptState.ABANDONED or (state is None and each.modified < young):
                    self._storage.delete(bucket, each.key)
                    deleted += 1
        return deleted

    def _ended_inputs(self) -> int:
        bucket, deleted = self._settings.bucket_input, 0
        old = datetime.now(UTC) - KEEP_UNKNOWN_INPUT
        for page in _pages(self._storage.list(bucket)):
            releases = {_release_of(each.key) for each in page} - {None}
            with self._sessions() as session:
                known = set(session.scalars(select(Release.id).where(Release.id.in_(releases))))
                query = select(Item.source_uri).where(Item.release_id.in_(known))
                wanted = set(session.scalars(query.where(Item.state.in_(lifecycle.UNFINISHED))))
            for each in page:
                ended = _release_of(each.key) in known and f"s3://{bucket}/{each.key}" not in wanted
                if ended or (_release_of(each.key) not in known and each.modified < old):
                    self._storage.delete(bucket, each.key)
                    deleted += 1
        return deleted

    def _told(self, swept: Swept) -> Swept:
        if swept.any:
            detail = {"attempts": swept.attempts, "objects": swept.objects, "inputs": swept.inputs}
            log.info("swept", **detail)
            with self._sessions.begin() as session:
                audit.append(session, AuditEvent.RECONCILER_SWEPT, actor=ACTOR, detail=detail)
        return swept


def _outbox_waits(session: Session) -> bool:
    queue = QUEUE_OF[TaskName.ANONYMISE].value
    query = select(Outbox.id).where(Outbox.queue == queue, Outbox.published_at.is_(None)).limit(1)
    return session.scalar(query) is not None


def _pages(objects: Any, size: int = 1000) -> Any:
    page: list[StoredObject] = []
    for each in objects:
        page.append(each)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


def _release_of(key: str) -> UUID | None:
    try:
        return UUID(key.split("/", 1)[0])
    except ValueError:
        return None
