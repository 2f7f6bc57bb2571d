"""Times that PostgreSQL holds and Python cannot: infinity, the year 20000, those before Christ. The database takes none from a service;
its owner may have let one in, and verification comes to its end all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Text, and_, case, cast, not_, null, or_, select
from sqlalchemy.orm import Session

from schemas.base import Base
from schemas.tables import Outbox

FIRST, LAST = (
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(9999, 1, 1, tzinfo=UTC),
)  # the second no more: as `readable_time` of revision 0010


def readable(model: type[Base]) -> ColumnElement[bool]:
    """Whether each time in a row can be read: for who reads such rows as objects."""
    times = [column for column in model.__table__.columns if isinstance(column.type, DateTime)]
    return and_(True, *(or_(column.is_(None), _within(column)) for column in times))


def time_of(column: ColumnElement[datetime]) -> ColumnElement[Any]:
    """A column's time; NULL where it cannot be read."""
    return case((_within(column), column), else_=null())


def _within(column: ColumnElement[datetime]) -> ColumnElement[bool]:
    return and_(column >= FIRST, column < LAST)


def unreadable(session: Session, at_most: int) -> Iterator[tuple[str, str]]:
    """Each row with a time that cannot be read, as `(where, words)`, at most so many of a table. Not those of the trail's own tables,
    which `verify` reads, nor messages, which the gateway may not read.
    """
    models = {str(mapper.local_table): mapper.class_ for mapper in Base.registry.mappers}
    for name, model in sorted(models.items()):
        if model is Outbox or "." in name:
            continue
        key = [cast(column, Text) for column in model.__table__.primary_key]
        rows = session.execute(select(*key).where(not_(readable(model))).order_by(*key).limit(at_most)).all()
        for row in rows:
            yield f"{name} {' '.join(row)}", "a time in it cannot be read"
        if len(rows) == at_most:
            yield name, f"only the first {at_most} rows with such times are shown"
