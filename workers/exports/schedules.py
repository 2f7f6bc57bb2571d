"""Schedules: which export windows have come up. One export a window, by a unique key and not by a lock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter
from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from schemas.states import ExportState, ReleaseState
from schemas.tables import Export, ExportSchedule, Outbox, Release
from workers.errors import ScheduleInvalid
from workers.exports.service import export_message


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


def add_schedule(
    session: Session, *, tenant: str, name: str, cron: str, time_zone: str, only: dict[str, Any] | None = None
) -> UUID:
    """Add a schedule. `only` may hold `profile`, `format` or `name` (exact). Raises ScheduleInvalid."""
    latest_window(cron, time_zone, datetime.now(UTC))
    if set(only or {}) - {"profile", "format", "name"}:
        raise ScheduleInvalid("a filter takes profile, format and name")
    schedule_id = uuid4()
    values = {"tenant": tenant, "name": name, "cron": cron, "time_zone": time_zone, "release_filter": only or {}}
    session.execute(insert(ExportSchedule).values(id=schedule_id, **values))
    return schedule_id


def record_due(session: Session, now: datetime | None = None) -> list[UUID]:
    """Record and start each enabled schedule's latest window that no export was made for; gives the new exports' ids.

    Windows before the latest, missed while nothing ran, are not made up for one by one.
    """
    moment = now or datetime.now(UTC)
    made: list[UUID] = []
    for schedule in session.scalars(select(ExportSchedule).where(ExportSchedule.enabled)):
        window = latest_window(schedule.cron, schedule.time_zone, moment)
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
            made.append(recorded)
    return made


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
