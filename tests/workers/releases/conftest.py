"""A service of the test's own, and what works for it in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.releases.harness import Service
from tests.workers.releases.standin import StandIn
from workers.custody.providers.sealers import sealer_of
from workers.db import session_factory
from workers.outbox.reconciler import Reconciler
from workers.releases.keys import Sealer
from workers.releases.reporting import Reporter
from workers.releases.runner import Runner
from workers.storage import Storage


@pytest.fixture
def service(tmp_path: Path, database: Any, buckets: Any, brokers: Any) -> Iterator[Service]:
    made = Service(tmp_path, database, buckets, brokers)
    yield made
    made.stop()


@pytest.fixture
def runner(service: Service) -> Iterator[Runner]:
    """Waits half a second for an engine that is away."""
    settings = service.release_settings.model_copy(update={"patience_seconds": 0.5})
    sessions = session_factory(settings.database_url)
    yield Runner(settings, sessions, service.storage, StandIn(), Sealer(sealer_of(settings)))
    sessions.kw["bind"].dispose()


@pytest.fixture
def reporter(service: Service) -> Iterator[Reporter]:
    sessions = session_factory(service.release_settings.database_url)
    yield Reporter(service.release_settings, sessions, service.storage)
    sessions.kw["bind"].dispose()


@pytest.fixture
def reconciler(service: Service) -> Iterator[Reconciler]:
    """With the relay's own role and identity."""
    settings = service.relay_settings
    sessions = session_factory(settings.database_url)
    yield Reconciler(settings, sessions, Storage(settings))
    sessions.kw["bind"].dispose()
