"""The relay: publishes outbox rows to the brokers, at least once.

A row is locked, published, marked and committed, in this order: a relay that dies between publishing and committing
publishes again, which the tasks bear. Two relays share the work through SKIP LOCKED. A broker that is away leaves
its rows where they are, and does not hold up the other's. A row that no part of the system writes is set aside, and an
alert tells of it: it counts as published, no time at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from kombu.exceptions import KombuError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from schemas.messages import Broker, TaskName, outbox_row
from schemas.tables import Outbox
from workers.alerts import AlertKind, raise_alert
from workers.app import RefacexApp
from workers.errors import BrokerAway, MessageInvalid
from workers.logs import get_logger
from workers.releases.faults import Faults

log = get_logger(__name__)

BATCH = 50


class Relay:
    """Publishes from one database to the brokers that it was given an app for."""

    def __init__(
        self, sessions: sessionmaker[Session], apps: Mapping[Broker, RefacexApp], faults: Faults | None = None
    ) -> None:
        self._sessions = sessions
        self._apps = apps
        self._faults = faults or Faults()

    def publish_waiting(self, broker: Broker) -> int:
        """Publish up to 50 waiting rows of one broker, oldest first; gives how many, with those that it set aside.

        Raises BrokerAway after keeping what was published before the broker went; the driver's error where the
        database is away.
        """
        published: list[int] = []
        refused: list[int] = []
        away: BrokerAway | None = None
        with self._sessions.begin() as session:
            waiting = session.execute(
                select(Outbox.id, Outbox.broker, Outbox.queue, Outbox.task, Outbox.args)
                .where(Outbox.published_at.is_(None), Outbox.broker == broker.value)
                .order_by(Outbox.id)
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            ).all()
            for row in waiting:
                self._faults.reach("before-publish")
                try:
                    publish(self._apps[broker], _checked(row))
                except BrokerAway as error:
                    away = error
                    break
                except MessageInvalid:
                    raise_alert(session, AlertKind.MESSAGE_REFUSED, worker="relay", task=row.task[:100], message=row.id)
                    refused.append(row.id)
                    continue
                self._faults.reach("after-publish")
                published.append(row.id)
            if published:
                session.execute(
                    update(Outbox)
                    .where(Outbox.id.in_(published))
                    .values(published_at=func.now(), publish_count=Outbox.publish_count + 1)
                )
            if refused:
                session.execute(update(Outbox).where(Outbox.id.in_(refused)).values(published_at=func.now()))
        if published:
            log.info("messages_published", broker=broker.value, messages=len(published))
        if away is not None:
            raise away
        return len(published) + len(refused)


def _checked(row: Any) -> dict[str, Any]:
    """The row's message, where it is just what `outbox_row` makes of its ids. Raises MessageInvalid."""
    message = {name: getattr(row, name) for name in ("broker", "queue", "task", "args")}
    try:
        task = TaskName(row.task)
        ids = row.args[0] if task is TaskName.ANONYMISE else row.args
        made = outbox_row(task, [UUID(each) for each in ids])
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise MessageInvalid(type(error).__name__) from None
    if message != made:
        raise MessageInvalid("it is another one than its ids make")
    return message


def publish(app: RefacexApp, message: Mapping[str, Any]) -> None:
    """Send one message. Raises BrokerAway."""
    try:
        app.send_task(message["task"], args=message["args"], queue=message["queue"], retry=False, ignore_result=True)
    except (BrokerError, KombuError, RedisError, OSError) as error:
        raise BrokerAway(type(error).__name__) from error
