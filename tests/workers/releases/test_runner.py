"""A chunk in this process, with the stand-in core: engines that stay away, attempts that run out, a trail that refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from schemas.contexts import KeyContext
from schemas.states import ItemState
from schemas.tables import Attempt, CustodyKey, Item
from tests.workers.releases.harness import Service
from workers.app import away
from workers.custody import keys as custody_keys
from workers.custody.errors import CustodyKeyRetired, KmsAway, KmsRefused
from workers.custody.providers import WrappedKey
from workers.errors import DatabaseAway, StorageError, WorkerError
from workers.releases import lifecycle
from workers.releases.errors import Superseded
from workers.releases.keys import Sealer
from workers.releases.runner import Runner
from workers.storage import Storage


def _ids(service: Service, release_id: UUID) -> list[UUID]:
    with service.sessions() as session:
        return list(session.scalars(select(Item.id).where(Item.release_id == release_id).order_by(Item.position)))


def _items(service: Service, release_id: UUID) -> list[Item]:
    with service.sessions() as session:
        return list(session.scalars(select(Item).where(Item.release_id == release_id).order_by(Item.position)))


def _attempts(service: Service, item_id: UUID) -> list[str]:
    with service.sessions() as session:
        query = select(Attempt.state).where(Attempt.item_id == item_id).order_by(Attempt.fence)
        return [state.value for state in session.scalars(query)]


def test_a_store_that_stays_away_costs_no_attempt(service: Service, runner: Runner, engines: Any) -> None:
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    engines.kill("s3")
    try:
        for _ in range(4):  # more often than an item may be tried
            with pytest.raises(Exception, match="store") as raised:
                runner.run(ids)
            assert away(raised.value)
            assert [(item.state, item.attempts) for item in _items(service, release_id)] == [(ItemState.COMMITTED, 0)]
    finally:
        engines.restart("s3")
    runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.DONE
    assert _attempts(service, ids[0]) == ["abandoned", "published"]


def test_a_database_that_stays_away_raises_what_brings_the_message_back(
    service: Service, runner: Runner, engines: Any
) -> None:
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    engines.kill("postgres")
    try:
        with pytest.raises(DBAPIError) as raised:
            runner.run(ids)
        assert away(raised.value)
    finally:
        engines.restart("postgres")
    runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.DONE


def _committed(service: Service, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> tuple[UUID, list[UUID]]:
    """A release of one item whose file is in the store, and whose worker was lost before it could say so."""
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)

    def lost(*_: Any) -> None:
        raise DatabaseAway

    with monkeypatch.context() as patched, pytest.raises(DatabaseAway):
        patched.setattr(runner, "_finish", lost)
        runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.COMMITTED
    return release_id, ids


@contextmanager
def _refused(runner: Runner, refusal: str) -> Iterator[None]:
    """The store refuses this worker everything: its bucket is not there, or its secret is wrong."""
    settings, storage = runner._settings, runner._storage
    unusable = {"bucket_releases": "no-such-bucket"} if refusal == "NoSuchBucket" else {"s3_secret_key": "x" * 40}
    runner._settings = settings.model_copy(update=unusable)
    runner._storage = Storage(runner._settings)
    try:
        yield
    finally:
        runner._settings, runner._storage = settings, storage


@pytest.mark.parametrize("refusal", ["NoSuchBucket", "AccessDenied"])
def test_a_store_that_refuses_costs_no_good_attempt(
    refusal: str, service: Service, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id, ids = _committed(service, runner, monkeypatch)
    with _refused(runner, refusal):
        for _ in range(4):  # more often than an item may be tried
            with pytest.raises(StorageError):
                runner.run(ids)
            assert [(item.state, item.attempts) for item in _items(service, release_id)] == [(ItemState.COMMITTED, 0)]
            assert _attempts(service, ids[0]) == ["committed"]
    runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.DONE
    assert _attempts(service, ids[0]) == ["published"]


@pytest.mark.parametrize("refusal", ["NoSuchBucket", "AccessDenied"])
def test_an_upload_that_is_refused_costs_no_attempt(refusal: str, service: Service, runner: Runner) -> None:
    """The administrator's mistake is not the image's."""
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    with _refused(runner, refusal):
        for _ in range(4):  # more often than an item may be tried
            with pytest.raises(StorageError):
                runner.run(ids)
            assert _items(service, release_id)[0].attempts == 0
    runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.DONE


@pytest.mark.parametrize("error", [KmsRefused, KmsAway])
def test_a_custody_provider_that_refuses_or_is_away_costs_no_attempt(
    error: type[WorkerError], service: Service, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def seal(self, key: bytes, context: KeyContext) -> WrappedKey:
            raise error

    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    with monkeypatch.context() as patched:
        patched.setattr(runner, "_sealer", Sealer(Refusing()))
        for _ in range(4):  # more often than an item may be tried
            with pytest.raises(error) as raised:
                runner.run(ids)
            assert away(raised.value) == (error is KmsAway)
            assert _items(service, release_id)[0].attempts == 0
    runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.DONE


def test_nothing_is_released_that_was_sealed_to_a_retired_key(service: Service, runner: Runner) -> None:
    """Nobody could ever recover it; with the new public key in its place, the work goes on by itself."""
    public = service.folder / "custody.public.json"
    retired = custody_keys.load_public(public)
    with service.sessions.begin() as session:
        now = func.now()
        gone = {"suite": "x", "created_at": now, "closed_at": now, "retired_at": now}
        session.execute(insert(CustodyKey).values(id=retired.id, **gone))
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    for _ in range(4):  # more often than an item may be tried
        with pytest.raises(CustodyKeyRetired):
            runner.run(ids)
        assert _items(service, release_id)[0].attempts == 0
        assert _attempts(service, ids[0]) == []
    custody_keys.write_public(public, custody_keys.create_custody_keyring(service.folder / "new.json"))
    runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.DONE


def test_an_object_that_the_store_never_takes_ends_in_quarantine(
    service: Service, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused for one object's sake would be refused for ever."""

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("EntityTooLarge")

    release_id = service.submit({"a.png": b"a"})
    monkeypatch.setattr(runner._storage, "put", refuse)
    for _ in range(4):
        with suppress(StorageError):
            runner.run(_ids(service, release_id))
    assert _items(service, release_id)[0].state is ItemState.QUARANTINED


@pytest.mark.parametrize("left", [None, b"half"])
def test_an_attempt_whose_file_is_missing_or_not_whole_is_made_again(
    left: bytes | None, service: Service, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id, ids = _committed(service, runner, monkeypatch)
    bucket = service.release_settings.bucket_releases
    with service.sessions() as session:
        key = session.scalars(select(Attempt.object_key).where(Attempt.item_id == ids[0])).one()
    if left is None:
        service.storage.delete(bucket, key)
    else:
        service.storage.put(bucket, key, left, if_none_match=False)
    runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.DONE
    assert _attempts(service, ids[0]) == ["abandoned", "published"]


@pytest.mark.parametrize("event", ["item:claimed", "item:committed", "item:released"])
def test_no_audit_event_no_release(event: str, service: Service, runner: Runner) -> None:
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    with service.sessions.begin() as session:
        session.execute(text("DELETE FROM audit.grants WHERE event = :event"), {"event": event})
    try:
        with pytest.raises(DBAPIError, match="may not write"):
            runner.run(ids)
        assert _items(service, release_id)[0].state is not ItemState.DONE
        if event != "item:released":  # nothing reached the store without its event
            assert not service._objects(release_id)
    finally:
        with service.sessions.begin() as session:
            values = {"event": event, "role": "refacex_release"}
            session.execute(text("INSERT INTO audit.grants (event, role) VALUES (:event, :role)"), values)
    _expire(service, release_id)
    runner.run(ids)
    assert _items(service, release_id)[0].state is ItemState.DONE


def test_an_item_that_kills_its_workers_is_quarantined_at_the_third(service: Service, runner: Runner) -> None:
    release_id = service.submit({"a.png": b"a", "b.png": b"b"})
    ids = _ids(service, release_id)
    for attempt in range(1, 4):
        with service.worker.begin() as session:
            claims = lifecycle.claim(session, ids[:1], seconds=60, fresh=attempt == 1)
            assert [claim.attempts for claim in claims] == [attempt]
        _expire(service, release_id)
    runner.run(ids)
    first, second = _items(service, release_id)
    assert (first.state, first.attempts) == (ItemState.QUARANTINED, 3) and second.state is ItemState.DONE


def test_an_item_in_other_hands_is_left_alone(service: Service, runner: Runner) -> None:
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    with service.worker.begin() as session:
        (claim,) = lifecycle.claim(session, ids, seconds=60, fresh=True)
    runner.run(ids)
    item = _items(service, release_id)[0]
    assert (item.state, item.fence) == (ItemState.CLAIMED, claim.fence)


Step = Callable[[Any, lifecycle.Claim], None]


@pytest.mark.parametrize(
    "step",
    [
        lambda session, claim: lifecycle.hold(session, claim, "no_face", {}),
        lambda session, claim: lifecycle.fail(session, claim, "bad_image"),
        lambda session, claim: lifecycle.give_back(session, claim, "x", counts=True),
        lambda session, claim: lifecycle.quarantine(session, claim, "x"),
        lambda session, claim: lifecycle.abandon(session, claim),
    ],
    ids=["hold", "fail", "give_back", "quarantine", "abandon"],
)
def test_no_step_counts_under_an_old_fence(step: Step, service: Service) -> None:
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    with service.worker.begin() as session:
        (old,) = lifecycle.claim(session, ids, seconds=60, fresh=True)
    _expire(service, release_id)
    with service.worker.begin() as session:
        (new,) = lifecycle.claim(session, ids, seconds=60, fresh=False)
    assert new.fence > old.fence
    with service.worker() as session, pytest.raises(Superseded):
        step(session, old)
    assert _items(service, release_id)[0].state is ItemState.CLAIMED


def _expire(service: Service, release_id: UUID) -> None:
    with service.sessions.begin() as session:
        session.execute(
            update(Item)
            .where(Item.release_id == release_id, Item.claim_expires_at.is_not(None))
            .where(Item.state.in_([ItemState.CLAIMED, ItemState.COMMITTED]))
            .values(claim_expires_at=func.now())
        )


def test_a_late_renewal_does_not_bring_a_claim_back(service: Service) -> None:
    release_id = service.submit({"a.png": b"a"})
    ids = _ids(service, release_id)
    with service.worker.begin() as session:
        (claim,) = lifecycle.claim(session, ids, seconds=60, fresh=True)
    with service.worker.begin() as session:
        lifecycle.give_back(session, claim, "storage_away", counts=False)
    with service.worker.begin() as session:
        (again,) = lifecycle.claim(session, ids, seconds=0, fresh=True)
    with service.worker.begin() as session:
        lifecycle.renew(session, [(claim.item_id, claim.fence)], 60)
    with service.worker.begin() as session:
        assert again.fence > claim.fence
        assert lifecycle.claim(session, ids, seconds=60, fresh=False)
