"""kill -9 at every step between the request and the fetch: what comes next makes it whole, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.orm import undefer

from schemas.requests import RequestTerms, face_info, request_message
from schemas.states import Decision, RecoveryState, RequestState
from schemas.tables import Approval, Recovery, RecoveryRequest
from tests.governance import World
from tests.kills import Arm, kill_after, kill_before, run_killed
from tests.workers.recoveries.test_recovery import KeyedCore, recoverer
from workers.custody import ledger
from workers.custody import service as custodian
from workers.custody.judge import Refusal, Signed
from workers.custody.opening import open_sealed
from workers.recoveries import decisions, service, worker
from workers.recoveries.errors import RequestClosed

Stage = Callable[[World, RequestTerms], Any]


def ask(world: World, terms: RequestTerms) -> None:
    with world.as_("gateway").begin() as session:
        if session.get(RecoveryRequest, terms.id) is None:
            service.open_request(session, terms, world.people["alice"].signing.sign(request_message(terms.sha256())))


def approve(world: World, terms: RequestTerms) -> None:
    for who in ("bob", "carol"):
        with world.as_("gateway")() as session:
            known = session.get(Approval, (terms.id, who))
        if known is None:
            world.approve(terms, who)


def open_(world: World, terms: RequestTerms) -> None:
    assert world.custodian().open(terms.id).recovery is not None


def recover(world: World, terms: RequestTerms) -> None:
    recovery = world.one(select(Recovery.id))
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED


def fetch(world: World, terms: RequestTerms) -> list[service.SealedFace]:
    return world.fetch(terms, world.one(select(Recovery.id)))


STAGES: dict[str, Stage] = {
    "ask": ask,
    "approve": approve,
    "open": open_,
    "recover": recover,
    "fetch": fetch,
}
COMMIT = (psycopg.Connection, "commit")
STEPS: dict[str, tuple[str, Arm]] = {
    "ask: before the event": ("ask", kill_before(service, "append")),
    "ask: before the commit": ("ask", kill_before(*COMMIT)),
    "ask: after the commit": ("ask", kill_after(*COMMIT)),
    "approve: before the second event": ("approve", kill_before(service, "append", 2)),
    "approve: before the second commit": ("approve", kill_before(*COMMIT, 2)),
    "approve: after the second commit": ("approve", kill_after(*COMMIT, 2)),
    "open: before it judges": ("open", kill_before(custodian, "judge")),
    "open: before the bundle is sealed": ("open", kill_before(custodian, "seal")),
    "open: before the ticket": ("open", kill_before(custodian, "_spend")),
    "open: between the events": ("open", kill_before(custodian, "append", 2)),
    "open: before the commit": ("open", kill_before(*COMMIT)),
    "open: after the commit": ("open", kill_after(*COMMIT)),
    "open: before the ledger is on disk": ("open", kill_before(ledger.os, "fsync")),
    "open: after the ledger": ("open", kill_after(ledger.Ledger, "record_spent")),
    "recover: before it is counted": ("recover", kill_before(worker.Recoverer, "_count")),
    "recover: after it is counted": ("recover", kill_after(worker.Recoverer, "_count")),
    "recover: before the networks": ("recover", kill_before(KeyedCore, "recover")),
    "recover: before the second face is sealed": ("recover", kill_before(worker, "seal", 2)),
    "recover: before the event": ("recover", kill_before(worker, "append")),
    "recover: after the last commit": ("recover", kill_after(worker.Recoverer, "_store")),
    "fetch: before the event": ("fetch", kill_before(service, "append")),
    "fetch: before the commit": ("fetch", kill_before(*COMMIT)),
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_comes_to_one_end(world: World, step: str, nothing_found: Callable[[], None]) -> None:
    terms = world.draft((0, 0), (1, 1))
    killed, arm = STEPS[step]
    faces: list[service.SealedFace] = []
    for name, stage in STAGES.items():
        if name == killed:
            run_killed(arm, lambda stage=stage: stage(world, terms))
        faces = stage(world, terms) or []
    assert [(each.item, each.face) for each in faces] == sorted([(world.items[0], 0), (world.items[1], 1)])
    secret = world.people["alice"].receiving.private_bytes_raw()
    for face in faces:
        assert open_sealed(secret, face.sealed, face_info(face.recovery, face.item, face.face)).startswith(b"\x89PNG")
    assert Counter(each["event"] for each in world.events()) == {
        "request:opened": 1,
        "request:approved": 2,
        "ticket:issued": 1,
        "ticket:spent": 1,
        "recovery:recovered": 1,
        "recovery:fetched": 1,
    }
    assert world.ledger.spent(terms.id)
    nothing_found()


def test_killed_after_the_fetch_was_committed_nobody_fetches_again(
    world: World, nothing_found: Callable[[], None]
) -> None:
    """That is why a fetch has its faces on disk before the commit: see `gateway.cli.receiving`."""
    terms = world.draft((0, 0))
    for name, stage in STAGES.items():
        if name == "fetch":
            run_killed(kill_after(*COMMIT), lambda: fetch(world, terms))
            with pytest.raises(service.NothingToFetch):
                fetch(world, terms)
        else:
            stage(world, terms)
    assert [each["event"] for each in world.events()].count("recovery:fetched") == 1
    nothing_found()


BEFORE_OR_AFTER = [(kill_before(*COMMIT), False), (kill_after(*COMMIT), True)]


def counted(world: World) -> Counter[str]:
    return Counter(each["event"] for each in world.events())


@pytest.mark.parametrize(("arm", "done"), BEFORE_OR_AFTER, ids=["before the commit", "after the commit"])
def test_killed_when_it_renews_there_are_fresh_keys_with_their_event_or_neither(
    world: World, arm: Arm, done: bool, monkeypatch: pytest.MonkeyPatch, nothing_found: Callable[[], None]
) -> None:
    monkeypatch.setattr(custodian, "RENEW_AFTER", timedelta(0))
    terms = world.approved((0, 0))
    open_(world, terms)
    recovery = world.one(select(Recovery.id))
    before = sealed_of(world, recovery)
    run_killed(arm, lambda: open_(world, terms))
    assert (sealed_of(world, recovery) != before, counted(world)["ticket:renewed"]) == (done, done)
    open_(world, terms)
    assert counted(world)["ticket:renewed"] == done + 1
    recover(world, terms)
    assert len(fetch(world, terms)) == 1
    assert (counted(world)["ticket:issued"], counted(world)["ticket:spent"]) == (1, 1)
    nothing_found()


def sealed_of(world: World, recovery: UUID) -> bytes:
    with world.as_("recovery")() as session:
        row = session.get_one(Recovery, recovery, options=[undefer(Recovery.key_bundle)])
        assert row.key_bundle is not None
        return row.key_bundle


def deny(world: World, terms: RequestTerms) -> RequestState:
    signature = world.people["carol"].sign(terms, Decision.DENY)
    with world.as_("gateway").begin() as session:
        return decisions.deny(session, terms.id, "carol", Signed(signature))


def withdraw(world: World, terms: RequestTerms) -> RequestState:
    return world.withdraw(terms)


CLOSINGS: dict[RequestState, Callable[[World, RequestTerms], RequestState]] = {
    RequestState.DENIED: deny,
    RequestState.WITHDRAWN: withdraw,
}


@pytest.mark.parametrize(("arm", "done"), BEFORE_OR_AFTER, ids=["before the commit", "after the commit"])
@pytest.mark.parametrize("state", CLOSINGS)
def test_killed_when_somebody_closes_it_a_request_is_closed_with_its_event_or_not_at_all(
    world: World, state: RequestState, arm: Arm, done: bool, nothing_found: Callable[[], None]
) -> None:
    close, terms = CLOSINGS[state], world.request((0, 0))
    world.approve(terms, "bob")
    run_killed(arm, lambda: close(world, terms))
    assert counted(world)[f"request:{state}"] == done
    if done:
        with pytest.raises(RequestClosed):
            close(world, terms)
    else:
        assert world.one(select(RecoveryRequest.state)) is RequestState.OPEN
        assert close(world, terms) is state
    assert world.one(select(RecoveryRequest.state)) is state
    assert counted(world)[f"request:{state}"] == 1
    assert world.custodian().open(terms.id).refusal is Refusal.NOT_APPROVED
    nothing_found()
