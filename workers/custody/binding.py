"""A recovery that waits for its worker: changed and ended where it still waits, left alone where it does not."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from schemas.states import RecoveryState, RequestState
from schemas.tables import Recovery, RecoveryRequest, Ticket

_SYNC = {"synchronize_session": False}


def change_bound(session: Session, recovery: UUID, **values: Any) -> bool:
    """Changes a recovery that still waits; False where it does not any more."""
    change = update(Recovery).where(Recovery.id == recovery, Recovery.state == RecoveryState.BOUND).values(values)
    return session.execute(change.returning(Recovery.id), execution_options=_SYNC).first() is not None


def end_bound(session: Session, recovery: UUID, code: str) -> None:
    """A recovery that gets no keys any more has failed for this error's code, and so has its request: nobody waits for it
    for a day.
    """
    if change_bound(session, recovery, state=RecoveryState.FAILED, key_bundle=None, error_code=code):
        request = select(Ticket.request_id).join(Recovery, Recovery.ticket_id == Ticket.id)
        request = request.where(Recovery.id == recovery)
        waiting = update(RecoveryRequest).where(RecoveryRequest.id == request.scalar_subquery())
        waiting = waiting.where(RecoveryRequest.state == RequestState.RECOVERING).values(state=RequestState.FAILED)
        session.execute(waiting, execution_options=_SYNC)
