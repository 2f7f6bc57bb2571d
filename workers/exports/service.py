"""What people do with exports: ask for one, list them. No Celery in here."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.messages import TaskName, outbox_row
from schemas.states import ExportState, ReleaseState
from schemas.tables import Export, Outbox, Release
from workers import audit
from workers.exports.errors import ExportUnknown
from workers.logs import get_logger
from workers.releases.errors import ReleaseCancelled, ReleaseUnfinished, ReleaseUnknown

log = get_logger(__name__)


def export_release(session: Session, release_id: UUID, actor: str) -> UUID:
    """Ask for the export of a finished release; the one that is there already, if there is one, tried again if it
    failed.

    Each time somebody asks is an event. Raises ReleaseUnknown, ReleaseUnfinished, ReleaseCancelled.
    """
    release = session.get(Release, release_id)
    if release is None:
        raise ReleaseUnknown
    if release.state is ReleaseState.CANCELLED:
        raise ReleaseCancelled
    if release.state is not ReleaseState.FINISHED:
        raise ReleaseUnfinished
    export_id = uuid4()
    made = session.scalar(
        upsert(Export)
        .values(id=export_id, release_id=release_id, state=ExportState.PENDING, object_prefix=f"{export_id}/")
        .on_conflict_do_nothing(index_elements=[Export.release_id], index_where=Export.schedule_id.is_(None))
        .returning(Export.id)
    )
    wanted = made is not None
    if made is None:
        made = session.scalars(
            select(Export.id).where(Export.release_id == release_id, Export.schedule_id.is_(None))
        ).one()
        again = session.scalar(
            update(Export)
            .where(Export.id == made, Export.state == ExportState.FAILED)
            .values(state=ExportState.PENDING)
            .returning(Export.id)
        )
        wanted = again is not None
    if wanted:
        session.execute(insert(Outbox).values(**export_message(made)))
        log.info("export_asked_for", export=str(made), release=str(release_id), actor=actor)
    detail = {"export": str(made)}
    audit.append(session, AuditEvent.EXPORT_ASKED, actor=actor, release=release_id, detail=detail)
    return made


def export_message(export_id: UUID) -> dict[str, Any]:
    """The outbox row that asks for this export to be written."""
    return outbox_row(TaskName.EXPORT, [export_id])


def exports(session: Session, *, limit: int = 50) -> list[Export]:
    """The newest exports first."""
    return list(session.scalars(select(Export).order_by(Export.created_at.desc()).limit(limit)))


def export(session: Session, export_id: UUID) -> Export:
    """One export as it is now. Raises ExportUnknown."""
    found = session.get(Export, export_id, populate_existing=True)
    if found is None:
        raise ExportUnknown
    return found
