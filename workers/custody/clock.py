"""The time that the custodian judges by: the database's, as long as its own clock agrees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from workers.custody.errors import ClocksApart

MOST_APART = timedelta(seconds=60)


def agreed_now(session: Session) -> datetime:
    """The database's time. Raises ClocksApart where it is more than a minute from this machine's: whoever owns the database
    could make an expired request young again.
    """
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    if abs(now - datetime.now(UTC)) > MOST_APART:
        raise ClocksApart
    return now
