"""What has outlived its time: requests that nobody decided, keys that nobody used, faces that nobody fetched."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.states import RecoveryState, RequestState
from schemas.tables import RecoveredFace, Recovery, RecoveryRequest, Ticket
from workers.audit import append


def sweep(session: Session, actor: str, limit: int = 100) -> int:
    """Expires what is due, in the caller's transaction, with its events; gives how many rows that were.

    May be called with the relay's or the gateway's role. Several may run at once: each skips what another has in hand.
    """
    requests = _due_requests(session, limit)
    recoveries = _due_recoveries(session, limit)
    for request in requests:
        append(session, AuditEvent.REQUEST_EXPIRED, actor=actor, request=request)
    for recovery in recoveries:
        append(session, AuditEvent.RECOVERY_EXPIRED, actor=actor, recovery=recovery)
    return len(requests) + len(recoveries)


def _due_requests(session: Session, limit: int) -> list[UUID]:
    query = (
        select(RecoveryRequest.id)
        .where(
            RecoveryRequest.state.in_([RequestState.OPEN, RequestState.APPROVED]),
            RecoveryRequest.expires_at <= func.clock_timestamp(),
        )
        .order_by(RecoveryRequest.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    due = list(session.execute(query).scalars())
    if due:
        expired = update(RecoveryRequest).where(RecoveryRequest.id.in_(due)).values(state=RequestState.EXPIRED)
        session.execute(expired, execution_options={"synchronize_session": False})
    return due


def _due_recoveries(session: Session, limit: int) -> list[UUID]:
    query = (
        select(Recovery.id)
        .where(
            Recovery.state.in_([RecoveryState.BOUND, RecoveryState.RECOVERED]),
            Recovery.expires_at <= func.clock_timestamp(),
        )
        .order_by(Recovery.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    due = list(session.execute(query).scalars())
    if due:
        options = {"synchronize_session": False}
        faces = update(RecoveredFace).where(RecoveredFace.recovery_id.in_(due)).values(sealed=None)
        session.execute(faces, execution_options=options)
        ended = update(Recovery).where(Recovery.id.in_(due)).values(state=RecoveryState.EXPIRED, key_bundle=None)
        session.execute(ended, execution_options=options)
        requests = select(Ticket.request_id).join(Recovery, Recovery.ticket_id == Ticket.id).where(Recovery.id.in_(due))
        waiting = update(RecoveryRequest).where(
            RecoveryRequest.id.in_(requests), RecoveryRequest.state == RequestState.RECOVERING
        )
        session.execute(waiting.values(state=RequestState.EXPIRED), execution_options=options)
    return due
