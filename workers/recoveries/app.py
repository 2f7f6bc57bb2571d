"""The recovery worker: `celery -A workers.recoveries.app:app worker -c 1 -Q recovery`, on the privileged broker."""

from __future__ import annotations

from functools import cache
from typing import Any
from uuid import UUID

from celery.signals import worker_process_init

from schemas.messages import Queue, TaskName
from workers.app import log_as, make_app
from workers.core import load_core
from workers.custody import keys
from workers.logs import get_logger
from workers.recoveries.worker import Recoverer
from workers.settings import RecoverySettings
from workers.storage import Storage

log = get_logger(__name__)

settings = RecoverySettings.load()
log_as("recovery", settings.log_format, settings.log_level)
app = make_app("recovery", settings.broker_url, [Queue.RECOVERY.value], privileged=True)
app.database_url = settings.database_url


@cache
def recoverer() -> Recoverer:
    """What recovers in this process; its key is read once, after the fork, and the networks load on first use."""
    pair = keys.load(settings.recovery_private_key, keys.FileKind.KEYPAIR)
    storage = Storage(settings)
    return Recoverer(
        sessions=app.sessions,
        key=pair.of(keys.KeyType.X25519),
        ticket_publics=tuple(keys.load_verifiers(settings.ticket_public_key).values()),
        read=lambda key: storage.get(settings.bucket_releases, key),
        core=lambda: load_core(settings),
    )


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _warm_up(**_: Any) -> None:
    try:
        load_core(settings)
    except Exception as error:  # the first task tries again, and tells
        log.error("core_not_loaded", exc_info=error)


@app.task(name=TaskName.RECOVER.value)  # type: ignore[untyped-decorator]
def recover(recovery_id: str) -> None:
    """Do one recovery, unless it is done."""
    state = recoverer().recover(UUID(recovery_id))
    log.info("recovery_ended", recovery=recovery_id, state=state.value if state is not None else "unknown")
