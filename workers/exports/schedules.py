"""Schedules: which export windows have come up. One export a window, by a unique key and not by a lock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter
from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.states import ExportState, ReleaseState
from schemas.tables import Export, ExportSchedule, Outbox, Release
from workers import audit
from workers.exports.errors import ScheduleInvalid, ScheduleUnknown
from workers.exports.service import export_message
from workers.logs import get_logger

log = get_logger(__name__)

AT_ONCE = 100  # windows of one schedule in one transaction; what is left comes with the next


@dataclass(frozen=True)
class Window:
    """Releases that finished in [start, end) belong to the export that is due at `end`; both with their time zone."""

    start: datetime
    end: datetime


def latest_window(cron: str, time_zone: str, now: datetime) -> Window:
    """The window that closed last, at `now` or before. Across a change of the clocks it follows the wall clock.

    Raises ScheduleInvalid for a cron line or time zone that there is not.
    """
    try:
        if len(cron.split()) != 5:
            raise ScheduleInvalid
        local = now.astimezone(ZoneInfo(time_zone))
        ends = croniter(cron, local)
        at_once = croniter.match(cron, local.replace(second=0, microsecond=0))
        end = local.replace(second=0, microsecond=0) if at_once else ends.get_prev(datetime)
        start = croniter(cron, end).get_prev(datetime)
    except (CroniterError, ZoneInfoNotFoundError, ValueError) as error:
        raise ScheduleInvalid from error
    return Window(start.astimezone(UTC), end.astimezone(UTC))


def windows_after(start: datetime, cron: str, time_zone: str, now: datetime) -> Iterator[Window]:
    """The windows that closed after the one that began at `start`, the oldest first, each beginning where the last
    ended.

    Raises ScheduleInvalid as `latest_window` does.
    """
    try:
        zone = ZoneInfo(time_zone)
        following = croniter(cron, start.astimezone(zone)).get_next(datetime)
        while (end := croniter(cron, following).get_next(datetime)).astimezone(UTC) <= now:
            yield Window(following.astimezone(UTC), end.astimezone(UTC))
            following = end
    except (CroniterError, ZoneInfoNotFoundError, ValueError) as error:
        raise ScheduleInvalid from error


def set_schedule(
    session: Session,
    *,
    tenant: str,
    name: str,
    cron: str,
    time_zone: str,
    actor: str,
    only: dict[str, Any] | None = None,
) -> UUID:
    """Make a schedule, or change the tenant's one of that name; gives its id.

    `only` may hold `profile`, `format` or `name` (exact). Raises ScheduleInvalid.
    """
    latest_window(cron, time_zone, datetime.now(UTC))
    if set(only or {}) - {"profile", "format", "name"}:
        raise ScheduleInvalid("a filter takes profile, format and name")
    values = {"cron": cron, "time_zone": time_zone, "release_filter": only or {}, "enabled": True}
    schedule_id: UUID | None = session.scalar(
        upsert(ExportSchedule)
        .values(id=uuid4(), tenant=tenant, name=name, **values)
        .on_conflict_do_update(index_elements=[ExportSchedule.name], set_=values, where=ExportSchedule.tenant == tenant)
        .returning(ExportSchedule.id)
    )
    if schedule_id is None:
        raise ScheduleInvalid("another tenant has one of that name")
    detail = {"schedule": str(schedule_id), "cron": cron, "time_zone": time_zone, "enabled": True}
    audit.append(session, AuditEvent.SCHEDULE_SET, actor=actor, detail=detail)
    return schedule_id


def end_schedule(session: Session, *, tenant: str, name: str, actor: str) -> UUID:
    """Switch a schedule off: no window after this one is exported; gives its id. Raises ScheduleUnknown."""
    schedule_id: UUID | None = session.scalar(
        update(ExportSchedule)
        .where(ExportSchedule.tenant == tenant, ExportSchedule.name == name, ExportSchedule.enabled)
        .values(enabled=False)
        .returning(ExportSchedule.id)
    )
    if schedule_id is None:
        raise ScheduleUnknown
    detail = {"schedule": str(schedule_id), "enabled": False}
    audit.append(session, AuditEvent.SCHEDULE_SET, actor=actor, detail=detail)
    return schedule_id


def record_due(session: Session, now: datetime | None = None) -> list[UUID]:
    """Record and start the export of every window that closed since each enabled schedule's last one; gives their ids.

    A new schedule begins with its latest window. Windows missed while nothing ran are made up for one by one, the
    oldest first and at most AT_ONCE of a schedule in one call. Whoever else records them at the same time meets the
    unique key.
    """
    moment = now or datetime.now(UTC)
    made: list[UUID] = []
    for schedule in session.scalars(select(ExportSchedule).where(ExportSchedule.enabled).order_by(ExportSchedule.id)):
        try:
            windows = _due(session, schedule, moment)
        except ScheduleInvalid as error:  # the others' exports do not wait until it is put right
            log.error("schedule_invalid", schedule=str(schedule.id), exc_info=error)
            continue
        made += [export_id for window in windows if (export_id := _record(session, schedule, window)) is not None]
    return made


def _due(session: Session, schedule: ExportSchedule, now: datetime) -> list[Window]:
    last = session.scalar(select(func.max(Export.window_start)).where(Export.schedule_id == schedule.id))
    if last is None:
        return [latest_window(schedule.cron, schedule.time_zone, now)]
    return list(islice(windows_after(last, schedule.cron, schedule.time_zone, now), AT_ONCE))


def _record(session: Session, schedule: ExportSchedule, window: Window) -> UUID | None:
    export_id = uuid4()
    recorded = session.scalar(
        upsert(Export)
        .values(
            id=export_id,
            schedule_id=schedule.id,
            window_start=window.start,
            state=ExportState.PENDING,
            object_prefix=f"{export_id}/",
        )
        .on_conflict_do_nothing(index_elements=[Export.schedule_id, Export.window_start])
        .returning(Export.id)
    )
    if recorded is not None:
        session.execute(insert(Outbox).values(**export_message(recorded)))
    return recorded


def releases_of(session: Session, schedule: ExportSchedule, window: Window) -> list[UUID]:
    """The finished releases of a schedule's window, in the order in which they finished."""
    query = (
        select(Release.id)
        .where(Release.tenant == schedule.tenant, Release.state == ReleaseState.FINISHED)
        .where(Release.finished_at >= window.start, Release.finished_at < window.end)
        .order_by(Release.finished_at, Release.id)
    )
    for column in ("profile", "format", "name"):
        if column in schedule.release_filter:
            query = query.where(getattr(Release, column) == schedule.release_filter[column])
    return list(session.scalars(query))
