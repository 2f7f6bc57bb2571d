"""Celery as we use it: one set of habits for every worker.

Delivery is at least once and the effect exactly once: a message carries ids only, is acknowledged after the work, and
goes back to the queue when its worker is lost. Attempts are counted in Postgres, never here, because Celery's counters
do not see a killed worker.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry
from celery.signals import setup_logging, task_unknown
from kombu.entity import Exchange, Queue
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import sessionmaker

from schemas.audit import AuditEvent
from workers.alerts import AlertKind, raise_alert
from workers.audit import append
from workers.errors import Away, DatabaseAway, MessageInvalid, WorkerError
from workers.logs import configure_logs, get_logger

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

log = get_logger(__name__)

# For a task that hangs. A chunk of large images on a busy CPU may rightly take many minutes.
HARD_LIMIT_SECONDS = 3600
SOFT_LIMIT_SECONDS = 3540
# A visibility timeout below the task's length runs the task twice; it is the last resort only, the reconciler is
# quicker.
VISIBILITY_SECONDS = 2 * HARD_LIMIT_SECONDS + 60
PAUSE_SECONDS = 2.0  # before a message whose engine is away goes back to its queue


def away(error: BaseException) -> bool:
    """Whether an error says that an engine could not be reached, so that the same step may pass a little later."""
    if isinstance(error, Away):
        return True
    if not isinstance(error, DBAPIError) or isinstance(error, DataError):  # a value that nobody can read stays that
        return False
    # 08: connection; 57: shutdown, crash, starting, cut short; 53: out of memory or connections; 40: serialisation,
    # deadlock; 55P03: a lock was not to be had in time
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or not state or state[:2] in {"08", "57", "53", "40"} or state == "55P03"


class RefacexApp(Celery):  # type: ignore[misc]  # Celery has no types
    """A Celery app that can be told which database its tasks work on."""

    database_url: str | None = None
    #: Makes sessions sign what they append, where this process signs its events.
    attest: Callable[[sessionmaker[Session]], sessionmaker[Session]] = staticmethod(lambda sessions: sessions)
    _sessions: sessionmaker[Session] | None = None

    @property
    def sessions(self) -> sessionmaker[Session]:
        """Sessions on this process's database role; the pool is made after the fork, on first use."""
        if self._sessions is None:
            if self.database_url is None:
                raise DatabaseAway("this app was made without a database")
            from workers.db import session_factory

            self._sessions = self.attest(session_factory(self.database_url))
        return self._sessions


class RefacexTask(Task):  # type: ignore[misc]  # Celery has no types
    """Base class of every task: binds the log, measures, and hands a message back when an engine is away.

    A task itself is a dozen lines: load by id, return if it is done, call the domain, record.
    """

    abstract = True
    app: RefacexApp

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One database transaction: committed at the end of the block, rolled back on any exception."""
        with self.app.sessions.begin() as session:
            yield session

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        structlog.contextvars.bind_contextvars(task=self.name, message=self.request.id)
        started = time.perf_counter()
        outcome = "done"
        try:
            self._check(args, kwargs)
            return super().__call__(*args, **kwargs)
        except MessageInvalid as error:
            outcome = "refused"
            log.warning("message_refused", exc_info=error)
            with self.transaction() as session:
                record_refusal(session, str(self.app.main), str(self.name))
            return None
        except (Reject, Retry, Ignore):
            outcome = "returned"
            raise
        except Exception as error:
            if not away(error):
                outcome = "failed"
                log.error("task_failed", exc_info=error)
                raise
            outcome = "away"
            log.warning("task_engine_away", exc_info=error)
            time.sleep(PAUSE_SECONDS)
            raise Reject(type(error).__name__, requeue=True) from None
        finally:
            elapsed = round((time.perf_counter() - started) * 1000, 1)
            log.info("task_finished", outcome=outcome, milliseconds=elapsed)
            structlog.contextvars.unbind_contextvars("task", "message")

    def _check(self, args: Any, kwargs: Any) -> None:
        """Our messages hold ids and nothing else; what holds anything else is none of ours."""
        try:
            given = inspect.signature(self.run).bind(*args, **kwargs).arguments.values()
            for value in given:
                for each in value if isinstance(value, list) else [value]:
                    UUID(each)
        except (TypeError, ValueError, AttributeError) as error:
            raise MessageInvalid(type(error).__name__) from error


def record_refusal(session: Session, worker: str, task: str) -> None:
    """The event and the alert of a message that no part of the system can have sent."""
    raise_alert(session, AlertKind.MESSAGE_REFUSED, worker=worker, task=task[:100])
    append(session, AuditEvent.MESSAGE_REFUSED, actor=worker, detail={"task": task[:100]})


def _refuse_unknown(app: RefacexApp, name: str) -> None:
    """A message for a task that this worker does not have; Celery throws it away. Runs in the worker's parent process,
    which must not keep a connection that its children would share.
    """
    engine = create_engine(app.database_url or "", poolclass=NullPool)
    try:
        with app.attest(sessionmaker(engine)).begin() as session:
            record_refusal(session, str(app.main), name)
    except (SQLAlchemyError, WorkerError) as error:
        log.critical("refusal_not_recorded", task=name[:100], exc_info=error)


def make_app(name: str, broker_url: str, queues: list[str], *, privileged: bool = False) -> RefacexApp:
    """A Celery app that consumes `queues` (or publishes to them) on one broker, with the settings that survive a kill.

    `privileged` turns remote control off, and cancels the task in hand when its broker is lost. Redis keeps
    unacknowledged messages under keys named by the first queue, so that an ACL can tell the workers of one broker
    apart.
    """
    app = RefacexApp(name, broker=broker_url, task_cls=RefacexTask, set_as_current=False)

    def refuse(name: str = "", **_: Any) -> None:
        if app.database_url is not None:
            _refuse_unknown(app, name)

    def forget_builtins(**_: Any) -> None:
        """Celery's own tasks (map, chord and others) run what a message names: nothing of ours needs them."""
        for builtin in [each for each in app.tasks if each.startswith("celery.")]:
            app.tasks.pop(builtin)

    app.on_after_finalize.connect(forget_builtins, weak=False)
    task_unknown.connect(refuse, weak=False, dispatch_uid=f"refacex-unknown-{name}")
    first = queues[0]
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "priority_steps": [0],
            "visibility_timeout": VISIBILITY_SECONDS,
            "unacked_key": f"{first}.unacked",
            "unacked_index_key": f"{first}.unacked_index",
            "unacked_mutex_key": f"{first}.unacked_mutex",
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        enable_utc=True,
        result_serializer="json",
        task_acks_late=True,
        task_create_missing_queues=False,
        task_default_exchange=first,
        task_default_queue=first,
        task_default_routing_key=first,
        task_ignore_result=True,
        task_publish_retry=False,
        task_queues=[_queue(queue) for queue in queues],
        task_reject_on_worker_lost=True,
        task_send_sent_event=False,
        task_serializer="json",
        task_soft_time_limit=SOFT_LIMIT_SECONDS,
        task_time_limit=HARD_LIMIT_SECONDS,
        timezone="UTC",
        # A release item is fenced in Postgres: cancelling it would only burn one of its three attempts.
        worker_cancel_long_running_tasks_on_connection_loss=privileged,
        worker_concurrency=1,
        worker_enable_remote_control=not privileged,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=120.0,  # loading the networks takes longer than Celery's four seconds
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_soft_shutdown_timeout=25.0,
    )
    return app


def _queue(name: str) -> Any:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]


def log_as(process: str, log_format: str, level: str = "INFO") -> None:
    """Configure this process's logs, and keep Celery from configuring its own."""
    configure_logs(process, log_format, level)

    def configure(**_: Any) -> None:
        configure_logs(process, log_format, level)

    setup_logging.connect(configure, weak=False, dispatch_uid=f"refacex-logs-{process}")
