"""Reviews of broken glasses: mandatory, and open until an auditor closes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.requests import review_message
from schemas.tables import Approval, RecoveryRequest, Review
from workers.audit import append
from workers.custody.judge import verifies
from workers.custody.roster import AUDITOR
from workers.recoveries.errors import OwnRequest, RequestClosed, RequestIncomplete, RequestUnknown, SignatureInvalid
from workers.recoveries.people import acting


def all_reviews(session: Session) -> Sequence[Review]:
    """Every review of a broken glass, the oldest first."""
    return session.execute(select(Review).order_by(Review.opened_at)).scalars().all()


def open_reviews(session: Session, *, requester: str | None = None) -> Sequence[Review]:
    """The reviews of broken glasses that nobody has closed yet, the oldest first."""
    query = select(Review).where(Review.closed_at.is_(None)).order_by(Review.opened_at)
    if requester is not None:
        query = query.join(RecoveryRequest, RecoveryRequest.id == Review.request_id)
        query = query.where(RecoveryRequest.requester == requester)
    return session.execute(query).scalars().all()


def close_review(session: Session, request_id: UUID, reviewer: str, conclusion: str, signature: bytes) -> None:
    """Closes the review of a broken glass with a conclusion, signed over `review_message`.

    By an auditor who neither asked nor decided. Raises RequestUnknown, RequestClosed, RequestIncomplete, PersonUnknown,
    OwnRequest, SignatureInvalid.
    """
    review = session.get(Review, request_id, with_for_update=True)
    request = session.get(RecoveryRequest, request_id)
    if review is None or request is None:
        raise RequestUnknown
    if review.closed_at is not None:
        raise RequestClosed("the review is closed")
    if not conclusion.strip():
        raise RequestIncomplete("the conclusion is empty")
    person = acting(session, reviewer, request.tenant, AUDITOR)
    if reviewer == request.requester or session.get(Approval, (request_id, reviewer)) is not None:
        raise OwnRequest("the review is for somebody who neither asked nor decided")
    message = review_message(bytes(request.canonical_sha256), conclusion)
    if not verifies(bytes(person.ed25519_public), signature, message):
        raise SignatureInvalid
    closed = {"closed_at": func.clock_timestamp(), "closed_by": reviewer, "conclusion": conclusion}
    session.execute(update(Review).where(Review.request_id == request_id).values(signature=signature, **closed))
    said = hashlib.sha256(conclusion.encode()).hexdigest()
    append(
        session,
        AuditEvent.REVIEW_CLOSED,
        actor=reviewer,
        release=request.release_id,
        request=request.id,
        request_hash=bytes(request.canonical_sha256),
        detail={"conclusion": said, "signature": signature.hex()},
    )
