"""`python -m workers.outbox`: the relay and the reconciler, until SIGTERM."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from redis import Redis
from redis.exceptions import RedisError

from schemas.messages import BROKER_OF, QUEUE_OF, Broker, Queue, TaskName
from workers.app import RefacexApp, away, make_app
from workers.db import session_factory
from workers.errors import BrokerAway
from workers.logs import configure_logs, get_logger
from workers.outbox.alerts import AlertDelivery
from workers.outbox.reconciler import Reconciler
from workers.outbox.relay import Relay
from workers.releases.faults import Faults
from workers.settings import RelaySettings
from workers.stopping import stop_on_signals
from workers.storage import Storage

log = get_logger(__name__)

LONGEST_PAUSE_SECONDS = 5.0


def main() -> None:
    """Run a loop for each broker and one for the alerts, so that none waits for another, and the reconciler's in the main
    thread.
    """
    settings = RelaySettings.load()
    configure_logs("relay", settings.log_format, settings.log_level)
    stop = stop_on_signals()
    sessions = session_factory(settings.database_url)
    relay = Relay(sessions, broker_apps(settings), Faults(settings))
    loops = [
        threading.Thread(
            target=keep_going,
            args=(f"relay-{broker.value}", partial(relay.publish_waiting, broker), stop, settings.relay_poll_seconds),
            daemon=True,
        )
        for broker in Broker
    ]
    alerts = AlertDelivery(settings, sessions)
    loops.append(
        threading.Thread(
            target=keep_going, args=("alerts", alerts.deliver, stop, settings.relay_poll_seconds), daemon=True
        )
    )
    for loop in loops:
        loop.start()
    reconcile = Rounds(settings, Reconciler(settings, sessions, Storage(settings)))
    log.info("relay_started")
    keep_going("reconciler", reconcile, stop, settings.reconcile_seconds)
    for loop in loops:
        loop.join(timeout=10)
    log.info("relay_stopped")


def broker_apps(settings: RelaySettings) -> dict[Broker, RefacexApp]:
    """An app for each broker, that only publishes, and answers quickly when its broker is away."""
    urls = {Broker.RELEASE: settings.broker_url, Broker.PRIVILEGED: settings.privileged_broker_url}
    apps = {}
    for broker, url in urls.items():
        queues = [queue.value for queue in Queue if BROKER_OF[queue] is broker]
        app = make_app(f"relay-{broker.value}", url, queues, privileged=broker is Broker.PRIVILEGED)
        quick = {"socket_timeout": 5, "max_retries": 1, "interval_start": 0, "interval_step": 0}
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, **quick}
        apps[broker] = app
    return apps


class Rounds:
    """One round of the reconciler after another; what needs an engine that is away does not keep the rest from its
    turn.
    """

    def __init__(self, settings: RelaySettings, reconciler: Reconciler) -> None:
        self._settings = settings
        self._reconciler = reconciler
        self._next_store_sweep = 0.0

    def __call__(self) -> int:
        steps: list[Callable[[], object]] = [
            self._reconciler.end_cancelled,
            self._bring_back,
            self._reconciler.finish_releases,
            self._reconciler.record_exports,
            self._reconciler.expire,
            self._reconciler.sweep,
        ]
        if time.monotonic() >= self._next_store_sweep:
            steps += [self._sweep_store, self._reconciler.purge, self._reconciler.retain]
        trouble: Exception | None = None
        for step in steps:
            try:
                step()
            except Exception as error:
                if not away(error):
                    log.error("reconciler_step_failed", exc_info=error)
                trouble = trouble or error
        if trouble is not None and away(trouble):
            raise trouble
        return 0

    def _bring_back(self) -> None:
        try:
            empty = waiting(self._settings.broker_url, QUEUE_OF[TaskName.ANONYMISE]) == 0
        except BrokerAway:
            empty = False
        self._reconciler.bring_back(queue_is_empty=empty)

    def _sweep_store(self) -> None:
        self._reconciler.sweep_store()
        self._next_store_sweep = time.monotonic() + self._settings.sweep_seconds


def waiting(broker_url: str, queue: Queue) -> int:
    """How many messages wait on a queue. Raises BrokerAway."""
    try:
        with Redis.from_url(broker_url, socket_connect_timeout=3, socket_timeout=5) as client:
            return int(client.llen(queue.value))
    except (RedisError, OSError) as error:
        raise BrokerAway(type(error).__name__) from error


def keep_going(name: str, step: Callable[[], int], stop: threading.Event, pause: float) -> None:
    """Repeat a step until told to stop: at once while it finds work, after `pause` when not, later when an engine is
    away.
    """
    wait, down = 0.0, False
    while not stop.wait(wait):
        try:
            wait = 0.0 if step() else pause
            if down:
                log.info("engine_back", loop=name)
            down = False
        except Exception as error:
            if not down or not away(error):
                log.warning("loop_waits", loop=name, exc_info=error)
            down, wait = True, min(max(wait, pause / 2, 0.25) * 2, max(LONGEST_PAUSE_SECONDS, pause))


if __name__ == "__main__":
    main()
