"""Cancelling a release: nothing more of it is released from that moment on, and nothing is left half done."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from gateway.cli import releases as commands
from schemas.states import AttemptState, ItemState, ReleaseState
from schemas.tables import Attempt, Item, Release, SealedKey
from tests.workers.releases.harness import Service
from workers.exports import service as exports
from workers.outbox.reconciler import Reconciler
from workers.releases import lifecycle
from workers.releases import service as releases
from workers.releases.errors import ReleaseCancelled, ReleaseEnded, ReleaseUnknown, Superseded
from workers.releases.reporting import Reporter
from workers.releases.runner import Runner


def cancel(service: Service, release_id: UUID) -> None:
    with service.gateway.begin() as session:
        releases.cancel(session, release_id, "tester")


def items(service: Service, release_id: UUID) -> list[Item]:
    with service.sessions() as session:
        return list(session.scalars(select(Item).where(Item.release_id == release_id).order_by(Item.position)))


def test_what_waits_is_ended_and_what_was_released_stays(
    service: Service, runner: Runner, reconciler: Reconciler, reporter: Reporter
) -> None:
    release_id = service.submit({f"{n}.png": b"photograph %d" % n for n in range(4)})
    ids = [item.id for item in items(service, release_id)]
    runner.run(ids[:2])
    cancel(service, release_id)
    runner.run(ids)  # its messages still come, and find nothing to do
    assert [item.state.value for item in items(service, release_id)] == ["done", "done", "pending", "pending"]
    assert reporter.run(release_id) is None
    reconciler.end_cancelled()
    ended = items(service, release_id)
    assert [item.state.value for item in ended] == ["done", "done", "failed", "failed"]
    assert {item.error_code for item in ended[2:]} == {"cancelled"}
    reconciler.bring_back(queue_is_empty=True)
    assert reporter.run(release_id)
    assert service.check(release_id, cancelled=True) == {ItemState.DONE: 2, ItemState.FAILED: 2}
    with service.gateway() as session:
        assert releases.progress(session, release_id).finished_at is not None
        with pytest.raises(ReleaseCancelled):
            exports.export_release(session, release_id, "tester")


@pytest.mark.parametrize("after_reconciler", [False, True])
@pytest.mark.parametrize("step", ["commit", "upload"])
def test_what_a_worker_has_in_hand_is_not_released(
    step: str,
    after_reconciler: bool,
    service: Service,
    runner: Runner,
    reconciler: Reconciler,
    reporter: Reporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cancelled just before the attempt is committed, or before its file is uploaded."""
    release_id = service.submit({"a.png": b"a"})
    (item,) = items(service, release_id)
    owner, name = (lifecycle, "commit_attempt") if step == "commit" else (runner, "_upload")
    original = getattr(owner, name)

    def interrupted(*arguments: Any) -> Any:
        cancel(service, release_id)
        if after_reconciler:
            reconciler.end_cancelled()
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        runner.run([item.id])
    assert items(service, release_id)[0].state is not ItemState.DONE
    reconciler.end_cancelled()
    with service.sessions() as session:
        states = set(session.scalars(select(Attempt.state).where(Attempt.item_id == item.id)))
    assert states <= {AttemptState.ABANDONED}
    reporter.run(release_id)
    object.__setattr__(reconciler._settings, "orphan_seconds", 0.0)
    reconciler.sweep()
    reconciler.sweep_store()
    assert service.check(release_id, cancelled=True) == {ItemState.FAILED: 1}


def test_whoever_cancels_waits_for_an_item_that_is_just_being_published(service: Service, runner: Runner) -> None:
    """Either the item's release is in the trail before the cancellation, or it is not released."""
    release_id = service.submit({"a.png": b"a"})
    (item,) = items(service, release_id)
    with service.worker.begin() as session:
        lifecycle._not_cancelled(session, release_id)  # what `finish` does before it tells the trail
        thread = threading.Thread(target=cancel, args=(service, release_id))
        thread.start()
        time.sleep(0.5)
        with service.sessions() as other:
            assert other.get_one(Release, release_id).state is ReleaseState.OPEN
    thread.join(timeout=10)
    with service.worker.begin() as session, pytest.raises(Superseded):
        lifecycle._not_cancelled(session, release_id)
    assert item.state is ItemState.PENDING


def test_only_a_release_that_has_not_ended_is_cancelled(service: Service, runner: Runner) -> None:
    release_id = service.submit({"a.png": b"a"})
    runner.run([item.id for item in items(service, release_id)])
    with pytest.raises(ReleaseEnded):
        cancel(service, release_id)
    with pytest.raises(ReleaseUnknown):
        cancel(service, uuid4())
    again = service.submit({"a.png": b"a"})
    cancel(service, again)
    with pytest.raises(ReleaseEnded):
        cancel(service, again)
    with service.worker.begin() as session:
        assert lifecycle.finish_releases(session, [again]) == []


def test_no_event_no_cancellation(service: Service) -> None:
    release_id = service.submit({"a.png": b"a"})
    with service.sessions.begin() as session:
        session.execute(text("DELETE FROM audit.grants WHERE event = 'release:cancelled'"))
    try:
        with pytest.raises(DBAPIError, match="may not write"):
            cancel(service, release_id)
    finally:
        with service.sessions.begin() as session:
            session.execute(text("INSERT INTO audit.grants VALUES ('release:cancelled', 'refacex_gateway')"))
    with service.sessions() as session:
        assert session.get_one(Release, release_id).state is ReleaseState.OPEN


def test_a_cancelled_release_leaves_no_upload(service: Service, reconciler: Reconciler) -> None:
    bucket = service.release_settings.bucket_input
    release_id = service.submit({"a.png": b"a"})
    with service.sessions.begin() as session:
        uri = f"s3://{bucket}/{release_id}/copy"
        session.execute(
            text("UPDATE items SET source_uri = :uri WHERE release_id = :id"), {"uri": uri, "id": release_id}
        )
    service.storage.put(bucket, f"{release_id}/copy", b"a")
    cancel(service, release_id)
    reconciler.end_cancelled()
    reconciler.sweep_store()
    assert not list(service.storage.list(bucket, f"{release_id}/"))


def test_the_command_cancels_while_workers_run(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service.environment("gateway").items():
        monkeypatch.setenv(name, value)
    service.start_relay()
    service.start_worker(CHUNK="1")
    release_id = service.submit({f"{n}.png": b"SLOW %d" % n for n in range(8)}, chunk=2)
    service.eventually(lambda: any(item.state is ItemState.DONE for item in items(service, release_id)))
    ran = CliRunner().invoke(commands.release_app, ["cancel", str(release_id)])
    assert ran.exit_code == 0, ran.output
    counts = service.check(release_id, cancelled=True)
    assert counts[ItemState.DONE] >= 1 and counts[ItemState.FAILED] >= 1 and sum(counts.values()) == 8
    waited = CliRunner().invoke(commands.release_app, ["wait", str(release_id)])
    assert waited.exit_code == 1 and "was cancelled" in waited.output
    with service.sessions() as session:
        told = [name for name, fields in service._events(session) if fields.get("release") == str(release_id)]
    assert "item:released" not in told[told.index("release:cancelled") :]


def test_a_file_that_somebody_else_needs_stays(service: Service, runner: Runner, reconciler: Reconciler) -> None:
    """An abandoned attempt names the file of an image that was released, as a stolen worker's role would write it."""
    release_id = service.submit({"a.png": b"a", "b.png": b"b"})
    first, second = items(service, release_id)
    runner.run([first.id])
    with service.sessions() as session:
        key = session.execute(select(Attempt.object_key).where(Attempt.item_id == first.id)).scalar_one()
    made = {"object_key": key, "sha256": "0" * 64, "locator": bytes(8), "model_version": "m", "size_bytes": 1}
    attempt = uuid4()
    with service.worker.begin() as session:
        session.execute(update(Item).where(Item.id == second.id).values(state="committed", fence=1))
        session.execute(insert(Attempt).values(made | {"id": attempt, "item_id": second.id, "fence": 1}))
        sealed = {"suite": "s", "custody_key_id": "k", "wrapped": b"x", "kind": "face", "face": 0}
        session.execute(insert(SealedKey).values(sealed | {"attempt_id": attempt, "item_id": second.id}))
        session.execute(update(Attempt).where(Attempt.id == attempt).values(state="abandoned"))
    object.__setattr__(reconciler._settings, "orphan_seconds", 0.0)
    reconciler.sweep()
    reconciler.sweep_store()
    assert service.storage.get(service.release_settings.bucket_releases, key)
