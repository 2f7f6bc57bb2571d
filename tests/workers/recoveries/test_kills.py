"""kill -9 at every step between the request and the fetch: what comes next makes it whole, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import select

from schemas.requests import RequestTerms, face_info, request_message
from schemas.states import RecoveryState
from schemas.tables import Approval, Recovery, RecoveryRequest
from tests.governance import World
from tests.kills import Arm, kill_after, kill_before, run_killed
from tests.workers.recoveries.test_recovery import KeyedCore, recoverer
from workers.custody import ledger
from workers.custody import service as custodian
from workers.custody.opening import open_sealed
from workers.recoveries import service, worker

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
def test_killed_at_any_step_it_comes_to_one_end(world: World, step: str) -> None:
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


def test_killed_after_the_fetch_was_committed_nobody_fetches_again(world: World) -> None:
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
