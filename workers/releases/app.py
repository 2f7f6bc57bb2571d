"""The release worker: `celery -A workers.releases.app:app worker -c 1 -Q release,exports`, and beat for its exports."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any
from uuid import UUID

from celery.schedules import crontab
from celery.signals import worker_process_init

from schemas.messages import Queue, TaskName
from workers.app import RefacexTask, log_as, make_app
from workers.core import load_core
from workers.custody.providers.sealers import sealer_of
from workers.exports import schedules
from workers.exports.errors import ExportFailed
from workers.exports.runner import ExportRunner
from workers.logs import get_logger
from workers.releases.keys import Sealer
from workers.releases.reporting import Reporter
from workers.releases.runner import Runner
from workers.settings import BeatSettings, ReleaseSettings
from workers.storage import Storage

log = get_logger(__name__)

# Longer than the visibility timeout: a second delivery meets the first one's advisory lock and ends.
EXPORT_SECONDS = 6 * 3600

# Beat imports this module too and has only these two; a worker's own settings are read when its first task comes.
_settings = BeatSettings.load()
log_as("beat" if "beat" in sys.argv else "release", _settings.log_format, _settings.log_level)
app = make_app("releases", _settings.broker_url, [Queue.RELEASE.value, Queue.EXPORTS.value])
app.database_url = _settings.database_url
app.conf.beat_schedule = {
    "exports-due": {
        "task": "exports.due",
        # Each minute. The reconciler records them too, for this message runs out behind a chunk that takes longer; a
        # unique key a window makes it harmless.
        "schedule": crontab(),
        "options": {"queue": Queue.EXPORTS.value, "expires": 50},
    }
}


@cache
def settings() -> ReleaseSettings:
    """This worker's settings."""
    return ReleaseSettings.load()


@cache
def runner() -> Runner:
    """What works on chunks in this process; the first call loads the networks."""
    sealer = Sealer(sealer_of(settings()))
    core = load_core(settings(), judges=settings().judges)
    return Runner(settings(), app.sessions, Storage(settings()), core, sealer)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _warm_up(**_: Any) -> None:
    try:
        runner()
    except Exception as error:  # the first task tries again, and tells
        log.error("core_not_loaded", exc_info=error)


@app.task(name=TaskName.ANONYMISE.value)  # type: ignore[untyped-decorator]
def anonymise(item_ids: list[str]) -> None:
    """Do what is left to do of a chunk of items."""
    runner().run([UUID(item_id) for item_id in item_ids])


@app.task(  # type: ignore[untyped-decorator]
    name=TaskName.EXPORT.value, time_limit=EXPORT_SECONDS, soft_time_limit=EXPORT_SECONDS - 60
)
def export(export_id: str) -> None:
    """Write one export, unless it is written or being written."""
    try:
        ExportRunner(settings(), app.sessions, Storage(settings())).run(UUID(export_id))
    except ExportFailed as error:  # recorded with the export; running it again is for people to decide
        log.error("export_failed", export=export_id, exc_info=error)


@app.task(name=TaskName.REPORT.value)  # type: ignore[untyped-decorator]
def report(release_id: str) -> None:
    """Write the risk report of a release that has ended, unless it is written."""
    Reporter(settings(), app.sessions, Storage(settings())).run(UUID(release_id))


@app.task(name="exports.due", bind=True)  # type: ignore[untyped-decorator]
def exports_due(self: RefacexTask) -> None:
    """Record the exports whose windows have come up."""
    with self.transaction() as session:
        schedules.record_due(session)
