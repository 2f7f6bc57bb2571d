"""The relay and the reconciler, one step at a time, on the real engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from schemas.messages import Broker, Queue, TaskName, outbox_row
from schemas.states import AttemptState, ItemState, ReleaseState
from schemas.tables import Alert, Attempt, Item, Outbox, Release
from tests.workers.releases.harness import Service
from workers.app import make_app
from workers.db import session_factory
from workers.errors import BrokerAway
from workers.outbox.__main__ import Rounds, broker_apps, waiting
from workers.outbox.reconciler import Reconciler
from workers.outbox.relay import Relay
from workers.storage import Storage


@pytest.fixture
def service(tmp_path: Path, database: Any, buckets: Any, brokers: Any) -> Iterator[Service]:
    made = Service(tmp_path, database, buckets, brokers)
    with made.sessions.begin() as session:  # what an earlier test left would be published by this one
        session.execute(text("UPDATE outbox SET published_at = now() WHERE published_at IS NULL"))
        session.execute(text("UPDATE items SET state = 'failed' WHERE state IN ('pending', 'claimed', 'committed')"))
    yield made
    made.stop()


@pytest.fixture
def relay(service: Service) -> Iterator[Relay]:
    settings = service.relay_settings
    sessions = session_factory(settings.database_url)
    yield Relay(sessions, broker_apps(settings))
    sessions.kw["bind"].dispose()


@pytest.fixture
def reconciler(service: Service) -> Iterator[Reconciler]:
    settings = service.relay_settings
    sessions = session_factory(settings.database_url)
    yield Reconciler(settings, sessions, Storage(settings))
    sessions.kw["bind"].dispose()


def _messages(url: str, queue: str) -> list[Any]:
    with redis.Redis.from_url(url) as client:
        return [json.loads(raw) for raw in client.lrange(queue, 0, -1)]  # type: ignore[union-attr]


def test_a_message_is_published_once_and_carries_ids_only(service: Service, relay: Relay, brokers: Any) -> None:
    release_id = service.submit({f"anna{n}.png": b"x" for n in range(3)}, chunk=2)
    assert relay.publish_waiting(Broker.RELEASE) == 2
    assert relay.publish_waiting(Broker.RELEASE) == 0
    assert relay.publish_waiting(Broker.PRIVILEGED) == 0
    messages = _messages(brokers.release, "release")
    assert [message["headers"]["task"] for message in messages] == ["releases.anonymise"] * 2
    assert waiting(brokers.release, Queue.RELEASE) == 2
    assert not any("anna" in json.dumps(message) for message in messages)
    with service.sessions() as session:
        assert session.scalars(select(func.count()).where(Item.release_id == release_id)).one() == 3


def test_two_relays_share_the_work(service: Service, relay: Relay) -> None:
    service.submit({f"{n}.png": b"x" for n in range(4)}, chunk=2)
    with service.sessions.begin() as other:  # another relay holds the oldest row
        other.execute(
            select(Outbox.id).where(Outbox.published_at.is_(None)).order_by(Outbox.id).limit(1).with_for_update()
        )
        assert relay.publish_waiting(Broker.RELEASE) == 1
    assert relay.publish_waiting(Broker.RELEASE) == 1


def test_a_broker_that_is_away_keeps_its_messages_waiting(service: Service, relay: Relay, engines: Any) -> None:
    service.submit({"a.png": b"x"})
    engines.kill("release_broker")
    try:
        with pytest.raises(BrokerAway):
            relay.publish_waiting(Broker.RELEASE)
        with pytest.raises(BrokerAway):
            waiting(service.relay_settings.broker_url, Queue.RELEASE)
        assert relay.publish_waiting(Broker.PRIVILEGED) == 0
    finally:
        engines.restart("release_broker")
    assert relay.publish_waiting(Broker.RELEASE) == 1


@pytest.fixture
def unchecked(service: Service) -> Iterator[Service]:
    """The owner took away what keeps rows out that are no messages."""
    with service.sessions.begin() as session:
        session.execute(delete(Outbox))
        session.execute(text("ALTER TABLE outbox DROP CONSTRAINT outbox_message"))
    yield service
    with service.sessions.begin() as session:
        session.execute(delete(Outbox))
        check = "ADD CONSTRAINT outbox_message CHECK (is_message(broker, queue, task, args))"
        session.execute(text(f"ALTER TABLE outbox {check}"))


def test_a_row_that_is_no_message_is_set_aside_and_holds_up_none_behind_it(
    unchecked: Service, relay: Relay, brokers: Any
) -> None:
    deep = "[" * 1500 + "]" * 1500
    rows = [
        ("nowhere", "x", "[]"),
        ("release", "releases.anonymise", deep),
        ("release", "", "[]"),
        ("exports", "x", "[7]"),
    ]
    rows += [("nowhere", "exports.run", f'["{uuid4()}"]'), ("exports", "releases.report", f'["{uuid4()}", 1]')]
    row = "INSERT INTO outbox (broker, queue, task, args) VALUES ('release', :queue, :task, CAST(:args AS jsonb))"
    with unchecked.sessions.begin() as session:
        for queue, task, args in rows:
            session.execute(text(row), {"queue": queue, "task": task, "args": args})
        session.execute(insert(Outbox).values(outbox_row(TaskName.EXPORT, [uuid4()])))
    assert relay.publish_waiting(Broker.RELEASE) == len(rows) + 1
    assert relay.publish_waiting(Broker.RELEASE) == 0
    with unchecked.sessions() as session:
        tried = session.scalars(select(Outbox.publish_count).order_by(Outbox.id)).all()
        told = session.scalars(select(Alert.kind)).all()
    assert tried == [0] * len(rows) + [1], "what is set aside counts as published, and was never sent"
    assert told == ["message_refused"] * len(rows)
    assert [each["headers"]["task"] for each in _messages(brokers.release, "exports")] == ["exports.run"]


def _age(session: Session, release_id: UUID, **values: Any) -> None:
    then = func.now() - timedelta(hours=1)
    session.execute(update(Item).where(Item.release_id == release_id).values(updated_at=then, **values))


def test_waiting_items_come_back_only_when_their_queue_is_empty(
    service: Service, relay: Relay, reconciler: Reconciler
) -> None:
    release_id = service.submit({f"{n}.png": b"x" for n in range(3)})
    with service.sessions.begin() as session:
        _age(session, release_id)
    assert reconciler.bring_back(queue_is_empty=True) == 0  # their first message still waits in the outbox
    relay.publish_waiting(Broker.RELEASE)
    assert reconciler.bring_back(queue_is_empty=False) == 0  # they stand in a queue
    assert reconciler.bring_back(queue_is_empty=True) == 1  # the broker lost it
    assert reconciler.bring_back(queue_is_empty=True) == 0


def test_items_of_a_lost_worker_come_back_one_by_one(service: Service, relay: Relay, reconciler: Reconciler) -> None:
    release_id = service.submit({f"{n}.png": b"x" for n in range(3)})
    relay.publish_waiting(Broker.RELEASE)
    soon, past = func.now() + timedelta(minutes=1), func.now() - timedelta(seconds=1)
    with service.sessions.begin() as session:
        _age(session, release_id, state=ItemState.CLAIMED, attempts=1, fence=1, claim_expires_at=soon)
    assert reconciler.bring_back(queue_is_empty=False) == 0
    with service.sessions.begin() as session:
        _age(session, release_id, claim_expires_at=past)
    assert reconciler.bring_back(queue_is_empty=False) == 3
    assert reconciler.bring_back(queue_is_empty=False) == 0


def test_objects_without_a_row_are_swept_and_others_stay(service: Service, reconciler: Reconciler) -> None:
    release_id = service.submit({"a.png": b"x"})
    storage, bucket = service.storage, service.release_settings.bucket_releases
    keys = {state: f"{release_id}/x/{state.value}.png" for state in AttemptState}
    with service.sessions.begin() as session:
        item_id = session.scalars(select(Item.id).where(Item.release_id == release_id)).one()
        session.execute(text("ALTER TABLE attempts DISABLE TRIGGER USER"))
        for fence, (state, key) in enumerate(keys.items()):
            session.add(
                Attempt(
                    item_id=item_id,
                    fence=fence,
                    state=state,
                    object_key=key,
                    sha256="",
                    size_bytes=1,
                    locator=b"",
                    model_version="m",
                )
            )
        session.flush()
        session.execute(text("ALTER TABLE attempts ENABLE TRIGGER USER"))
    for key in (*keys.values(), f"{release_id}/x/nobodys.png"):
        storage.put(bucket, key, b"x")
    object.__setattr__(reconciler._settings, "orphan_seconds", 3600.0)
    assert reconciler.sweep_store().objects == 1  # a stranger may still be young
    object.__setattr__(reconciler._settings, "orphan_seconds", 0.0)
    service.eventually(lambda: reconciler.sweep_store().objects == 1)
    left = {each.key for each in storage.list(bucket, f"{release_id}/")}
    assert left == {keys[AttemptState.COMMITTED], keys[AttemptState.PUBLISHED]}


def test_uploads_of_ended_items_are_swept(service: Service, reconciler: Reconciler) -> None:
    storage, bucket = service.storage, service.release_settings.bucket_input
    release_id = service.submit({"a.png": b"x", "b.png": b"x"})
    with service.sessions.begin() as session:
        for position, name in enumerate(("wanted", "ended")):
            state = ItemState.PENDING if name == "wanted" else ItemState.FAILED
            session.execute(
                update(Item)
                .where(Item.release_id == release_id, Item.position == position)
                .values(source_uri=f"s3://{bucket}/{release_id}/{name}", state=state)
            )
    for key in (f"{release_id}/wanted", f"{release_id}/ended", f"{uuid4()}/not-yet-submitted"):
        storage.put(bucket, key, b"x")
    assert reconciler.sweep_store().inputs == 1
    assert {each.key.rsplit("/")[-1] for each in storage.list(bucket)} == {"wanted", "not-yet-submitted"}


def test_a_release_whose_worker_died_last_is_finished(service: Service, reconciler: Reconciler) -> None:
    release_id = service.submit({"a.png": b"x"})
    reconciler.finish_releases()
    with service.sessions.begin() as session:
        assert session.get_one(Release, release_id).state is ReleaseState.OPEN
        session.execute(update(Item).where(Item.release_id == release_id).values(state=ItemState.HELD))
    reconciler.finish_releases()
    with service.sessions() as session:
        assert session.get_one(Release, release_id).state is ReleaseState.FINISHED


def test_the_privileged_side_takes_no_remote_control() -> None:
    release, privileged = (
        make_app("r", "redis://x", ["release"]),
        make_app("p", "redis://x", ["custody"], privileged=True),
    )
    assert release.conf.worker_enable_remote_control and not privileged.conf.worker_enable_remote_control
    options = privileged.conf.broker_transport_options
    assert options["unacked_key"] == "custody.unacked" and options["priority_steps"] == [0]
    assert options["visibility_timeout"] > 2 * privileged.conf.task_time_limit
    assert privileged.conf.accept_content == ["json"] and privileged.conf.task_acks_late


def test_a_round_asks_for_what_is_due_and_one_trouble_keeps_nothing_else_waiting(
    service: Service, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention goes by the schedule of the relay's own process: nobody else asks the custodian for it."""

    def broken() -> None:
        raise ValueError("one step")

    monkeypatch.setattr(reconciler, "end_cancelled", broken)
    done: list[str] = []
    for name in ("bring_back", "finish_releases", "record_exports", "expire", "sweep", "purge", "retain"):
        kept = getattr(reconciler, name)

        def step(*given: object, name: str = name, kept: Any = kept, **more: object) -> object:
            done.append(name)
            return kept(*given, **more)

        monkeypatch.setattr(reconciler, name, step)
    Rounds(service.relay_settings, reconciler)()
    assert done == ["bring_back", "finish_releases", "record_exports", "expire", "sweep", "purge", "retain"]
