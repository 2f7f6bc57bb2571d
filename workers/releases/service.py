"""What people do with releases: submit one, cancel it, list them, wait for one, read its report. No Celery in here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session, sessionmaker

from refacex_core.types import DonorPolicy, Profile
from schemas.audit import AuditEvent
from schemas.messages import TaskName, outbox_row
from schemas.policies import Policy
from schemas.states import ItemState, ReleaseState
from schemas.submissions import VOUCHES, SubmissionTerms, subjects_sha256, submission_message
from schemas.tables import Item, Outbox, Release
from workers import audit
from workers.custody.judge import verifies
from workers.custody.roster import SUBMITTER
from workers.recoveries.people import acting
from workers.recoveries.policies import load_policy
from workers.releases.errors import (
    NothingToSubmit,
    OptionsInvalid,
    ReleaseEnded,
    ReleaseUnknown,
    SubmissionInvalid,
    SubmissionUnsigned,
)
from workers.releases.sources import Source
from workers.releases.subjects import pseudonyms

FORMATS = ("png", "jpeg", "webp")
DEFAULT_CHUNK = 8


@dataclass(frozen=True)
class ReleaseOptions:
    """How a release is to be made; the defaults are the safe ones."""

    profile: Profile = Profile.ROBUST
    format: str = "png"
    quality: int | None = None
    donor_policy: DonorPolicy = DonorPolicy.RANDOM
    on_no_face: str = "hold"  # or "release"
    policy_name: str = "default"

    def check(self, sources: Sequence[Source] = ()) -> None:
        """Raises OptionsInvalid with what to change, also where they do not go with these sources."""
        if self.format not in FORMATS:
            raise OptionsInvalid(f"the format is one of {', '.join(FORMATS)}")
        if self.profile is Profile.ARCHIVE and self.format != "png":
            raise OptionsInvalid("the archive profile is PNG only")
        if self.quality is not None and (self.format == "png" or not 1 <= self.quality <= 100):
            raise OptionsInvalid("a quality of 1 to 100 goes with jpeg or webp")
        if self.donor_policy is DonorPolicy.STABLE and any(source.subject is None for source in sources):
            raise OptionsInvalid("stable donors need a subject for each image: give a manifest with the column subject")
        if self.on_no_face not in ("hold", "release"):
            raise OptionsInvalid("an image without a face is held or released")


@dataclass(frozen=True)
class Progress:
    """How far a release is. `items` counts them by state."""

    id: UUID
    tenant: str
    name: str
    state: ReleaseState
    profile: str
    format: str
    quality: int | None
    donor_policy: str
    submitted_by: str
    created_at: datetime
    finished_at: datetime | None
    items: dict[ItemState, int]

    @property
    def total(self) -> int:
        return sum(self.items.values())

    @property
    def ended(self) -> int:
        """Items with nothing left to do."""
        left = (ItemState.PENDING, ItemState.CLAIMED, ItemState.COMMITTED)
        return sum(count for state, count in self.items.items() if state not in left)


@dataclass(frozen=True)
class Submission:
    """What a submitter signed, and their signature over `submission_message(terms)`."""

    terms: SubmissionTerms
    signature: bytes


def check(
    session: Session, tenant: str, options: ReleaseOptions, sources: Sequence[Source], submitter: str | None = None
) -> Policy:
    """The policy that such a release would go by. `submitter`: who is going to sign it, None where nobody is.

    Raises NothingToSubmit, OptionsInvalid, PolicyUnknown, SubmissionUnsigned; PersonUnknown for somebody who is no submitter.
    """
    if not sources:
        raise NothingToSubmit
    options.check(sources)
    rules = load_policy(session, tenant, options.policy_name)
    if submitter is not None:
        acting(session, submitter, tenant, SUBMITTER)
    elif rules.signed_submissions:
        raise SubmissionUnsigned
    return rules


def draft(
    tenant: str, submitter: str, options: ReleaseOptions, sources: Sequence[Source], release_id: UUID | None = None
) -> SubmissionTerms:
    """What the submitter signs, with fresh ids for the items; `submit` takes it with the signature. Nothing is written."""
    items, names = [uuid4() for _ in sources], [source.relative_name for source in sources]
    salt = secrets.token_bytes(32)
    return SubmissionTerms(release_id or uuid4(), tenant, options.policy_name, submitter, items, names, salt)


def submit(
    session: Session,
    *,
    tenant: str,
    actor: str,
    name: str,
    sources: Sequence[Source],
    options: ReleaseOptions | None = None,
    chunk: int = DEFAULT_CHUNK,
    release_id: UUID | None = None,
    signed: Submission | None = None,
) -> UUID:
    """Record a release, its items and the messages that start it, in the caller's one transaction; gives its id.

    `release_id` is given by who uploaded copies under it; `signed` by a submitter, who is the `actor` then. Raises what `check`
    does, and SubmissionInvalid, SubjectsChanged.
    """
    options = options or ReleaseOptions()
    rules = check(session, tenant, options, sources, actor if signed else None)
    terms = draft(tenant, actor, options, sources, release_id or (signed.terms.release if signed else None))
    if signed is not None:
        terms = replace(terms, items=signed.terms.items, salt=signed.terms.salt)
        _check_signed(session, signed, terms)
    release_id = terms.release
    session.execute(
        insert(Release).values(
            id=release_id,
            tenant=tenant,
            name=name,
            profile=options.profile.value,
            format=options.format,
            quality=options.quality,
            donor_policy=options.donor_policy.value,
            policy={"name": options.policy_name, "sha256": rules.sha256().hex()},
            on_no_face=options.on_no_face,
            state=ReleaseState.OPEN,
            submitted_by=actor,
            signature=signed.signature if signed else None,
            names_salt=terms.salt,
        )
    )
    shown = pseudonyms(session, tenant, {source.subject for source in sources if source.subject is not None})
    session.execute(
        insert(Item),
        [
            {
                "id": item_id,
                "release_id": release_id,
                "position": position,
                "source_uri": source.uri,
                "relative_name": source.relative_name,
                "subject_id": shown[source.subject] if source.subject is not None else None,
            }
            for position, (item_id, source) in enumerate(zip(terms.items, sources, strict=True))
        ],
    )
    chunks = range(0, len(terms.items), chunk)
    session.execute(insert(Outbox), [chunk_message(terms.items[at : at + chunk]) for at in chunks])
    detail: dict[str, Any] = {
        "tenant": tenant,
        "items": len(terms.items),
        "profile": options.profile.value,
        "format": options.format,
        "donors": options.donor_policy.value,
        "policy": options.policy_name,
        "policy_sha256": rules.sha256().hex(),
        "subjects": len(shown),
        "pseudonyms": VOUCHES,
        "names_sha256": terms.names_sha256(),
        "subjects_sha256": subjects_sha256(
            (item, shown[source.subject] if source.subject is not None else None)
            for item, source in zip(terms.items, sources, strict=True)
        ),
    }
    said = terms.sha256() if signed else None
    detail |= {"signature": signed.signature.hex()} if signed else {}
    audit.append(
        session, AuditEvent.RELEASE_SUBMITTED, actor=actor, release=release_id, request_hash=said, detail=detail
    )
    return release_id


def _check_signed(session: Session, signed: Submission, submitted: SubmissionTerms) -> None:
    """The signature is the submitter's, over what is being submitted. Raises SubmissionInvalid."""
    person = acting(session, submitted.submitted_by, submitted.tenant, SUBMITTER)
    if submitted.salt is None or len(submitted.items) != len(submitted.names):
        raise SubmissionInvalid
    if not verifies(bytes(person.ed25519_public), signed.signature, submission_message(submitted)):
        raise SubmissionInvalid


def chunk_message(item_ids: Sequence[UUID]) -> dict[str, Any]:
    """The outbox row that asks for these items to be worked on."""
    return outbox_row(TaskName.ANONYMISE, item_ids)


def cancel(session: Session, release_id: UUID, actor: str) -> None:
    """Cancel a release that has not ended, in the caller's transaction: from its commit on nothing more is released.

    What waits is not worked on any more, and what a worker has in hand is abandoned by it; the reconciler then ends the
    items, sweeps what they left in the store, and asks for the risk report. What was released before stays released, and
    recoverable. Raises ReleaseUnknown, ReleaseEnded.
    """
    cancelled = session.scalar(
        update(Release)
        .where(Release.id == release_id, Release.state.in_([ReleaseState.OPEN, ReleaseState.RUNNING]))
        .values(state=ReleaseState.CANCELLED, finished_at=func.now())
        .returning(Release.id)
    )
    if cancelled is None:
        raise ReleaseUnknown if session.get(Release, release_id) is None else ReleaseEnded
    audit.append(session, AuditEvent.RELEASE_CANCELLED, actor=actor, release=release_id)


def releases(session: Session, *, tenant: str | None = None, limit: int = 50) -> list[Progress]:
    """The newest releases first."""
    query = select(Release).order_by(Release.created_at.desc()).limit(limit)
    if tenant is not None:
        query = query.where(Release.tenant == tenant)
    return [_progress(session, release) for release in session.execute(query).scalars()]


def progress(session: Session, release_id: UUID) -> Progress:
    """How far a release is. Raises ReleaseUnknown."""
    release = session.get(Release, release_id, populate_existing=True)
    if release is None:
        raise ReleaseUnknown
    return _progress(session, release)


def wait(sessions: sessionmaker[Session], release_id: UUID, *, timeout: float, poll: float = 0.5) -> Iterator[Progress]:
    """Progress after progress until the release is finished; stops at `timeout` seconds at the latest."""
    deadline = time.monotonic() + timeout
    while True:
        with sessions() as session:
            now = progress(session, release_id)
        yield now
        if now.state in (ReleaseState.FINISHED, ReleaseState.CANCELLED) or time.monotonic() > deadline:
            return
        time.sleep(poll)


def report(session: Session, release_id: UUID) -> Iterator[dict[str, Any]]:
    """One entry an item, in order, with what became of it and its faces. The name is the submitter's own."""
    if session.get(Release, release_id) is None:
        raise ReleaseUnknown
    for item in session.execute(select(Item).where(Item.release_id == release_id).order_by(Item.position)).scalars():
        yield {
            "item": str(item.id),
            "position": item.position,
            "name": item.relative_name,
            "state": item.state.value,
            "reason": item.reason,
            "error_code": item.error_code,
            "attempts": item.attempts,
            "subject": str(item.subject_id) if item.subject_id else None,
            "locator": item.locator.hex() if item.locator else None,
            "sha256": item.sha256,
            "size_bytes": item.size_bytes,
            "width": item.width,
            "height": item.height,
            "stego_psnr": item.stego_psnr,
            **(item.report or {"faces": []}),
        }


def _progress(session: Session, release: Release) -> Progress:
    query = select(Item.state, func.count()).where(Item.release_id == release.id).group_by(Item.state)
    return Progress(
        id=release.id,
        tenant=release.tenant,
        name=release.name,
        state=release.state,
        profile=release.profile,
        format=release.format,
        quality=release.quality,
        donor_policy=release.donor_policy,
        submitted_by=release.submitted_by,
        created_at=release.created_at,
        finished_at=release.finished_at,
        items=dict(session.execute(query).all()),
    )
