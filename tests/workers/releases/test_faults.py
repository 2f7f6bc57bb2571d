"""Kills: the release worker and the relay at every step, and each engine in the middle of a job, all with SIGKILL.

Afterwards every item is done exactly once, no object is without its row and no row without its object, and the trail is dense.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from schemas.states import ItemState
from schemas.tables import Attempt, Item
from tests.workers.releases.harness import Service
from workers.errors import SettingsInvalid
from workers.releases.faults import POINTS
from workers.settings import ReleaseSettings

RELAY_POINTS = ("before-publish", "after-publish")
WORKER_POINTS = tuple(point for point in POINTS if point not in RELAY_POINTS)


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_release_worker_killed_at(point: str, service: Service) -> None:
    # A reconciler in a hurry may finish the release itself, and then the worker never comes to its last point.
    service.start_relay(**({"RECONCILE_SECONDS": "30"} if point == "after-release-finished" else {}))
    release_id = service.submit({f"{n}.png": b"photograph %d" % n for n in range(4)})
    victim = service.start_worker(FAULT=point)
    assert victim.wait(timeout=60) == -signal.SIGKILL, service.log("release")
    service.start_worker()
    service.await_finished(release_id)
    assert service.check(release_id) == {ItemState.DONE: 4}


def test_an_uploaded_file_is_finished_and_not_made_again(service: Service) -> None:
    service.start_relay()
    release_id = service.submit({"one.png": b"photograph"})
    assert service.start_worker(FAULT="after-upload").wait(timeout=60) == -signal.SIGKILL
    service.start_worker()
    service.await_finished(release_id)
    assert service.check(release_id) == {ItemState.DONE: 1}
    assert _attempts(service, release_id) == ["published"]


@pytest.mark.parametrize("point", ["after-anonymise", "after-commit", "after-upload"])
def test_a_worker_that_hung_finds_itself_superseded(point: str, service: Service) -> None:
    service.start_relay()
    release_id = service.submit({"one.png": b"photograph"})
    hung = service.start_worker(FAULT=f"{point}:stop")
    os.waitid(os.P_PID, hung.pid, os.WSTOPPED)
    service.start_worker()
    service.await_finished(release_id)
    os.killpg(hung.pid, signal.SIGCONT)
    service.eventually(lambda: "item_superseded" in service.log("release") or point == "after-upload")
    time.sleep(1)
    assert service.check(release_id) == {ItemState.DONE: 1}
    expected = {"after-anonymise": ["published"], "after-commit": ["abandoned", "published"]}
    assert _attempts(service, release_id) == expected.get(point, ["published"])


@pytest.mark.parametrize("point", RELAY_POINTS)
def test_a_relay_killed_at(point: str, service: Service) -> None:
    release_id = service.submit({f"{n}.png": b"photograph %d" % n for n in range(4)}, chunk=2)
    victim = service.start_relay(FAULT=point)
    assert victim.wait(timeout=60) == -signal.SIGKILL, service.log("relay")
    service.start_relay()
    service.start_worker()
    service.await_finished(release_id)
    assert service.check(release_id) == {ItemState.DONE: 4}


@pytest.mark.parametrize("engine", ["release_broker", "postgres", "s3"])
def test_an_engine_killed_in_the_middle(engine: str, service: Service, engines: Any) -> None:
    service.start_relay()
    service.start_worker()
    release_id = service.submit({f"{n}.png": b"SLOW %d" % n for n in range(8)}, chunk=2)
    service.eventually(lambda: 2 <= _done(service, release_id) < 7)
    engines.kill(engine)
    time.sleep(3)
    engines.restart(engine)
    service.await_finished(release_id, 90)
    assert service.check(release_id) == {ItemState.DONE: 8}


def test_engines_away_at_the_start(service: Service, engines: Any) -> None:
    release_id = service.submit({f"{n}.png": b"photograph %d" % n for n in range(2)})
    away = ("release_broker", "postgres", "s3")
    for engine in away:
        engines.kill(engine)
    relay, worker = service.start_relay(), service.start_worker()
    time.sleep(8)
    assert relay.poll() is None and worker.poll() is None
    for engine in away:
        engines.restart(engine)
    service.await_finished(release_id, 90)
    assert service.check(release_id) == {ItemState.DONE: 2}


def test_faults_are_refused_outside_tests(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    environment = service.environment("release", FAULT="after-commit") | {"REFACEX_ALLOW_FAULTS": "0"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid):
        ReleaseSettings.load()


def _done(service: Service, release_id: UUID) -> int:
    with service.sessions() as session:
        query = select(func.count()).where(Item.release_id == release_id, Item.state == ItemState.DONE)
        return session.scalars(query).one()


def _attempts(service: Service, release_id: UUID) -> list[str]:
    with service.sessions() as session:
        query = select(Attempt.state).join(Item, Item.id == Attempt.item_id).where(Item.release_id == release_id)
        return sorted(state.value for state in session.scalars(query))
