"""The life of an item in the database: pending, claimed, committed, and then done, held, failed or quarantined.

Each function is one step inside the caller's transaction, and each step after the claim carries the claim's fencing
token: it counts only while nobody else has claimed the item since. A step whose COMMIT was cut off may be run again;
it then finds its own work and leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists, func, insert, or_, select, tuple_, update
from sqlalchemy.orm import Session

from refacex_core.types import DonorPolicy, ItemOptions, Profile, SealContext
from schemas.audit import AuditEvent
from schemas.messages import TaskName, outbox_row
from schemas.states import AttemptState, ItemState, KeyKind, ReleaseState
from schemas.tables import Attempt, Item, Outbox, Release, SealedKey
from workers import audit
from workers.releases.errors import Superseded
from workers.releases.subjects import donor_seed

MAX_ATTEMPTS = 3
ACTOR = "release-worker"
UNFINISHED = (ItemState.PENDING, ItemState.CLAIMED, ItemState.COMMITTED)
CANCELLED = "cancelled"  # the error code of an item whose release was cancelled before it ended


@dataclass(frozen=True)
class Resumable:
    """An attempt that was committed by a worker that is gone: finished if its object is whole, else abandoned."""

    attempt_id: UUID
    object_key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Claim:
    """The right to work on one item until somebody else takes a higher fence."""

    item_id: UUID
    release_id: UUID
    fence: int
    attempts: int
    tenant: str
    policy: str
    options: ItemOptions
    source_uri: str = field(repr=False)
    resumable: Resumable | None = None
    subject: UUID | None = None

    def context(self, model_version: str) -> SealContext:
        """What this item's payloads and keys are bound to."""
        return SealContext(self.tenant, str(self.release_id), str(self.item_id), model_version, self.policy)

    @property
    def last(self) -> bool:
        """Whether the attempts are used up, so that nothing may be made any more, only finished."""
        return self.attempts > MAX_ATTEMPTS


@dataclass(frozen=True)
class Sealed:
    """One key of an attempt, sealed to the custody key. `face` is -1 for the layout key."""

    kind: KeyKind
    face: int
    suite: str
    custody_key_id: str
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True)
class Made:
    """A stego file that is about to be published, without its bytes."""

    attempt_id: UUID
    object_key: str
    sha256: str
    size_bytes: int
    locator: bytes
    model_version: str
    width: int
    height: int
    faces: int
    stego_psnr: float
    report: Mapping[str, Any]


def claim(session: Session, item_ids: Sequence[UUID], *, seconds: float, fresh: bool) -> list[Claim]:
    """Claim what can be claimed of these items: never tried ones if `fresh`, else those that were tried before.

    The attempt is counted here, before the networks see the image. An item that used up its attempts is quarantined,
    unless a committed attempt of it may still be finished.
    """
    over = or_(Item.claim_expires_at.is_(None), Item.claim_expires_at < func.now())
    lost = and_(Item.state.in_([ItemState.CLAIMED, ItemState.COMMITTED]), over)
    rows = session.execute(
        select(Item, Release)
        .join(Release, Release.id == Item.release_id)
        .where(Item.id.in_(item_ids), or_(Item.state == ItemState.PENDING, lost))
        .where(Item.attempts == 0 if fresh else Item.attempts > 0)
        .where(Release.state.in_([ReleaseState.OPEN, ReleaseState.RUNNING]))
        .order_by(Item.release_id, Item.position)
        .with_for_update(of=Item, skip_locked=True)
    ).all()
    claims: list[Claim] = []
    exhausted: list[Item] = []
    for item, release in rows:
        resumable = _resumable(session, item)
        if item.attempts >= MAX_ATTEMPTS and resumable is None:
            exhausted.append(item)
            continue
        claims.append(_claim_of(item, release, resumable))
        _take(session, claims[-1], seconds)
    releases = {each.release_id for each in claims}
    if releases:
        running = update(Release).where(Release.id.in_(releases), Release.state == ReleaseState.OPEN)
        session.execute(running.values(state=ReleaseState.RUNNING))
    for item in exhausted:
        _quarantine(session, item.id, item.release_id, item.fence, item.reason)
    for each in claims:
        audit.append(
            session,
            AuditEvent.ITEM_CLAIMED,
            actor=ACTOR,
            release=each.release_id,
            item=each.item_id,
            subject=str(each.subject) if each.subject else None,
            detail={"attempt": each.attempts, "fence": each.fence},
        )
    return claims


def _resumable(session: Session, item: Item) -> Resumable | None:
    if item.state is not ItemState.COMMITTED:
        return None
    found = session.execute(
        select(Attempt).where(Attempt.item_id == item.id, Attempt.state == AttemptState.COMMITTED)
    ).scalar_one_or_none()
    return Resumable(found.id, found.object_key, found.sha256, found.size_bytes) if found else None


def _claim_of(item: Item, release: Release, resumable: Resumable | None) -> Claim:
    policy = DonorPolicy(release.donor_policy)
    subject = item.subject_id if policy is DonorPolicy.STABLE else None
    options = ItemOptions(
        profile=Profile(release.profile),
        format=release.format,
        quality=release.quality,
        donor_policy=policy,
        donor_seed=donor_seed(release.tenant, subject) if subject else None,
        release_without_face=release.on_no_face == "release",
    )
    return Claim(
        item.id,
        release.id,
        item.fence + 1,
        item.attempts + 1,
        release.tenant,
        release.policy_name,
        options,
        item.source_uri,
        resumable,
        item.subject_id,
    )


def _take(session: Session, claim: Claim, seconds: float) -> None:
    session.execute(
        update(Item)
        .where(Item.id == claim.item_id)
        .values(
            state=ItemState.CLAIMED if claim.resumable is None else ItemState.COMMITTED,
            attempts=claim.attempts,
            fence=claim.fence,
            claimed_at=func.now(),
            claim_expires_at=func.now() + timedelta(seconds=seconds),
            updated_at=func.now(),
        )
    )


def renew(session: Session, held: Sequence[tuple[UUID, int]], seconds: float) -> None:
    """Push out the end of these claims (item id, fence), as long as they hold."""
    session.execute(
        update(Item)
        .where(tuple_(Item.id, Item.fence).in_(held), Item.state.in_([ItemState.CLAIMED, ItemState.COMMITTED]))
        .values(claim_expires_at=func.now() + timedelta(seconds=seconds))
    )


def commit_attempt(session: Session, claim: Claim, made: Made, keys: Sequence[Sealed]) -> None:
    """Make the keys and the hash of a finished file durable, before the file exists anywhere. Raises Superseded, also where the release
    was cancelled meanwhile: what was ordered shredded since would come back.
    """
    again = session.get(Attempt, made.attempt_id)
    if again is not None:
        return
    _move(
        session,
        claim,
        ItemState.CLAIMED,
        state=ItemState.COMMITTED,
        width=made.width,
        height=made.height,
        faces=made.faces,
        stego_psnr=made.stego_psnr,
        report=dict(made.report),
    )
    _not_cancelled(session, claim.release_id)
    session.add(
        Attempt(
            id=made.attempt_id,
            item_id=claim.item_id,
            fence=claim.fence,
            state=AttemptState.COMMITTED,
            object_key=made.object_key,
            sha256=made.sha256,
            size_bytes=made.size_bytes,
            locator=made.locator,
            model_version=made.model_version,
        )
    )
    session.flush()
    session.add_all(
        SealedKey(
            attempt_id=made.attempt_id,
            item_id=claim.item_id,
            kind=key.kind,
            face=key.face,
            suite=key.suite,
            custody_key_id=key.custody_key_id,
            wrapped=key.wrapped,
        )
        for key in keys
    )
    session.flush()
    detail = {"attempt": str(made.attempt_id), "sha256": made.sha256, "keys": len(keys)}
    _record(session, AuditEvent.ITEM_COMMITTED, claim, detail, made.model_version)


def finish(session: Session, claim: Claim, attempt_id: UUID) -> None:
    """The object is there: publish the attempt. Item and audit event, or neither.

    Raises Superseded, also where the release was cancelled meanwhile: from then on nothing more of it is released.
    """
    attempt = session.get(Attempt, attempt_id)
    if attempt is None or attempt.state is AttemptState.ABANDONED:
        raise Superseded
    if attempt.state is AttemptState.PUBLISHED:
        return
    _move(
        session,
        claim,
        ItemState.COMMITTED,
        state=ItemState.DONE,
        object_key=attempt.object_key,
        sha256=attempt.sha256,
        size_bytes=attempt.size_bytes,
        locator=attempt.locator,
        claim_expires_at=None,
        reason=None,
        error_code=None,
    )
    attempt.state = AttemptState.PUBLISHED
    session.flush()
    _not_cancelled(session, claim.release_id)
    detail = {"attempt": str(attempt_id), "sha256": attempt.sha256, "bytes": attempt.size_bytes}
    _record(session, AuditEvent.ITEM_RELEASED, claim, detail, attempt.model_version)


def abandon(session: Session, claim: Claim) -> None:
    """Give up the committed attempt of a lost worker; its object, should it turn up, is the reconciler's to sweep.

    Raises Superseded.
    """
    if _is(session, claim, ItemState.CLAIMED):
        return
    _move(session, claim, ItemState.COMMITTED, state=ItemState.CLAIMED)
    _abandon_attempts(session, claim.item_id)


def hold(session: Session, claim: Claim, reason: str, report: Mapping[str, Any]) -> None:
    """The image must not be released. Raises Superseded."""
    if _is(session, claim, ItemState.HELD):
        return
    faces = len(report.get("faces", ()))
    _end(session, claim, ItemState.HELD, reason=reason, report=dict(report), faces=faces)
    _record(session, AuditEvent.ITEM_HELD, claim, {"reason": reason})


def fail(session: Session, claim: Claim, code: str) -> None:
    """The image cannot be worked on, and trying again would not help. Raises Superseded."""
    if _is(session, claim, ItemState.FAILED):
        return
    _end(session, claim, ItemState.FAILED, reason=code, error_code=code)
    _record(session, AuditEvent.ITEM_FAILED, claim, {"code": code})


def give_back(session: Session, claim: Claim, code: str, *, counts: bool) -> None:
    """Let the item go for another try. The third try that counts ends in quarantine.

    `counts` False: an engine was away, and the attempt is not held against the item; one that was committed already
    stays so, and the next claim finishes it. Raises Superseded.
    """
    if counts and claim.attempts >= MAX_ATTEMPTS:
        _quarantine(session, claim.item_id, claim.release_id, claim.fence, code)
        return
    attempts = claim.attempts - (0 if counts else 1)
    # A fence that nobody holds: a renewal that is on its way must not bring the claim back to life.
    known = {"attempts": attempts, "fence": claim.fence + 1, "reason": code, "error_code": code}
    if _is(session, claim, ItemState.COMMITTED):
        _move(session, claim, ItemState.COMMITTED, claim_expires_at=func.now(), **known)
    else:
        _move(session, claim, ItemState.CLAIMED, state=ItemState.PENDING, claim_expires_at=None, **known)


def quarantine(session: Session, claim: Claim, code: str) -> None:
    """Set an item aside for people to look at."""
    _quarantine(session, claim.item_id, claim.release_id, claim.fence, code)


def finish_releases(session: Session, release_ids: Sequence[UUID], *, actor: str = ACTOR) -> list[UUID]:
    """Finish those of these releases that have nothing left to do, and ask for their risk reports; gives the ids of
    those that it finished.
    """
    left = exists().where(Item.release_id == Release.id, Item.state.in_(UNFINISHED))
    finished = session.scalars(
        update(Release)
        .where(Release.id.in_(release_ids), ~left)
        .where(Release.state.in_([ReleaseState.OPEN, ReleaseState.RUNNING]))
        .values(state=ReleaseState.FINISHED, finished_at=func.now())
        .returning(Release.id)
    ).all()
    counted = {release_id: _count(session, release_id) for release_id in finished}
    if finished:
        session.execute(insert(Outbox), [outbox_row(TaskName.REPORT, [release_id]) for release_id in finished])
    for release_id, detail in counted.items():
        audit.append(session, AuditEvent.RELEASE_FINISHED, actor=actor, release=release_id, detail=detail)
    return list(finished)


def end_cancelled(session: Session, *, actor: str, limit: int) -> int:
    """End up to `limit` items that a cancelled release left undone; gives how many.

    Whoever has one of them in hand finds itself superseded: its attempt is abandoned, and what it uploads is swept.
    """
    undone = (
        select(Item.id, Item.release_id)
        .join(Release, Release.id == Item.release_id)
        .where(Release.state == ReleaseState.CANCELLED, Item.state.in_(UNFINISHED))
        .order_by(Item.release_id, Item.position)
        .limit(limit)
        .with_for_update(of=Item, skip_locked=True)
    )
    rows = session.execute(undone).all()
    ids = [row.id for row in rows]
    ended = {
        "state": ItemState.FAILED,
        "reason": CANCELLED,
        "error_code": CANCELLED,
        "claim_expires_at": None,
        "updated_at": func.now(),
    }
    session.execute(update(Item).where(Item.id.in_(ids)).values(**ended))
    session.execute(
        update(Attempt)
        .where(Attempt.item_id.in_(ids), Attempt.state == AttemptState.COMMITTED)
        .values(state=AttemptState.ABANDONED)
    )
    for row in rows:
        detail = {"code": CANCELLED}
        audit.append(session, AuditEvent.ITEM_FAILED, actor=actor, release=row.release_id, item=row.id, detail=detail)
    return len(rows)


def releases_of(session: Session, item_ids: Sequence[UUID]) -> list[UUID]:
    """The releases that these items belong to."""
    return list(session.scalars(select(Item.release_id).where(Item.id.in_(item_ids)).distinct()))


def _count(session: Session, release_id: UUID) -> dict[str, int]:
    query = select(Item.state, func.count()).where(Item.release_id == release_id).group_by(Item.state)
    return {state.value: count for state, count in session.execute(query)}


def _not_cancelled(session: Session, release_id: UUID) -> None:
    """The shared lock makes whoever cancels wait for the end of this transaction, or this one see it cancelled."""
    query = select(Release.state).where(Release.id == release_id).with_for_update(read=True)
    if session.execute(query).scalar_one() is ReleaseState.CANCELLED:
        raise Superseded("the release was cancelled")


def _move(session: Session, claim: Claim, origin: ItemState, **values: Any) -> None:
    moved = session.execute(
        update(Item)
        .where(Item.id == claim.item_id, Item.fence == claim.fence, Item.state == origin)
        .values(updated_at=func.now(), **values)
        .returning(Item.id)
    ).scalar_one_or_none()
    if moved is None:
        raise Superseded


def _end(session: Session, claim: Claim, state: ItemState, **values: Any) -> None:
    _move(session, claim, ItemState.CLAIMED, state=state, claim_expires_at=None, **values)


def _is(session: Session, claim: Claim, state: ItemState) -> bool:
    found = session.execute(select(Item.fence, Item.state).where(Item.id == claim.item_id)).one()
    return bool(found.fence == claim.fence and found.state is state)


def _quarantine(session: Session, item_id: UUID, release_id: UUID, fence: int, code: str | None) -> None:
    reason = code or "worker_lost"
    moved = session.execute(
        update(Item)
        .where(Item.id == item_id, Item.fence == fence, Item.state.in_(UNFINISHED))
        .values(
            state=ItemState.QUARANTINED,
            reason=f"attempts_used_up: {reason}",
            error_code=reason,
            claim_expires_at=None,
            updated_at=func.now(),
        )
        .returning(Item.attempts)
    ).scalar_one_or_none()
    if moved is None:
        raise Superseded
    _abandon_attempts(session, item_id)
    detail = {"code": reason, "attempts": moved}
    audit.append(session, AuditEvent.ITEM_QUARANTINED, actor=ACTOR, release=release_id, item=item_id, detail=detail)


def _abandon_attempts(session: Session, item_id: UUID) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.item_id == item_id, Attempt.state == AttemptState.COMMITTED)
        .values(state=AttemptState.ABANDONED)
    )


def _record(
    session: Session, event: AuditEvent, claim: Claim, detail: dict[str, Any], model_version: str | None = None
) -> None:
    audit.append(
        session,
        event,
        actor=ACTOR,
        release=claim.release_id,
        item=claim.item_id,
        model_version=model_version,
        detail=detail,
    )
