"""Whose matter a finding is: by its event or its row, by the rows that this leads to, and by the trail."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from schemas.audit import AuditEvent
from schemas.states import OrderKind, OrderScope
from schemas.tables import CustodyOrder, Ticket
from tests.governance import World
from tests.workers.audit.harness import fetched, write
from tests.workers.audit.lives import give, shredded_subject
from workers.audit import append
from workers.audit.findings import Finding, Problem
from workers.audit.matters import matter_of
from workers.custody.holds import Target

ASKED = {"sam", "alice", "bob", "carol"}


def matter(world: World, where: str) -> tuple[set[str], set[str]]:
    with world.as_("gateway")() as session:
        found = matter_of(session, Finding(Problem.ROW, where, "x"))
    return found.tenants, found.people


def told(world: World, role: str, event: AuditEvent, **fields: Any) -> str:
    """Where an event is that a stolen role wrote."""
    with world.as_(role).begin() as session:
        return f"event {append(session, event, **fields)}"


def test_a_request_and_all_that_comes_of_it_are_of_those_who_asked_and_decided(world: World) -> None:
    terms, recovery = fetched(world)
    ticket = world.one(select(Ticket.id))
    places = [f"request {terms.id}", f"review of request {terms.id}", f"approval of request {terms.id} by bob"]
    for where in [*places, f"recovery {recovery}", f"ticket {ticket}"]:
        assert matter(world, where) == ({"acme"}, ASKED)
    for fields in ({"recovery": recovery}, {"ticket": ticket}, {"request": terms.id}):
        where = told(world, "custodian", AuditEvent.TICKET_REFUSED, actor="custodian", **fields)
        assert matter(world, where) == ({"acme"}, ASKED | {"custodian"})


def test_a_release_and_its_items_are_of_who_submitted(world: World) -> None:
    for where in (f"release {world.release}", f"item {world.items[0]}"):
        assert matter(world, where) == ({"acme"}, {"sam"})


def test_an_order_is_of_its_officer(world: World) -> None:
    """Also where an event names somebody else for it."""
    order = give(world, OrderKind.HOLD, Target(OrderScope.RELEASE, world.release))
    sha256 = world.one(select(CustodyOrder.canonical_sha256))
    assert matter(world, f"order {order}") == ({"acme"}, {"kim"})
    where = told(world, "gateway", AuditEvent.ORDER_GIVEN, actor="olga", request_hash=bytes(sha256))
    assert matter(world, where) == ({"acme"}, {"kim", "olga"})


def test_a_subject_and_a_person_are_of_their_tenant(world: World) -> None:
    pseudonym = shredded_subject(world)
    where = told(world, "custodian", AuditEvent.SUBJECT_ERASED, actor="custodian", subject=str(pseudonym))
    assert matter(world, where)[0] == {"acme"}
    assert matter(world, "person bob") == ({"acme"}, {"bob"})
    where = told(world, "gateway", AuditEvent.PERSON_REMOVED, actor="root", subject="bob")
    assert matter(world, where) == ({"acme"}, {"bob", "root"})


def test_what_names_no_tenants_thing_is_of_its_actors_tenant_or_of_none(world: World) -> None:
    about = {"request_hash": bytes(32), "detail": {"reason": "x", "signature": "00"}}
    where = told(world, "gateway", AuditEvent.FINDING_ACKNOWLEDGED, actor="olga", **about)
    assert matter(world, where) == ({"acme"}, {"olga"})
    where = told(world, "custodian", AuditEvent.KEY_RETIRED, actor="custodian", detail={"key": "k"})
    assert matter(world, where) == (set(), {"custodian"})
    where = told(world, "gateway", AuditEvent.POLICY_SET, actor="root", detail={"tenant": "beta"})
    assert matter(world, where) == ({"beta"}, {"root"})


def test_ids_that_are_none_lead_nowhere(world: World) -> None:
    for where in ("recovery nothing", "item 7", "event 999999", "releases"):
        assert matter(world, where) == (set(), set())
    write(world, "item:held", {"item": "7", "release": "x", "request": 5, "request_hash": "zz", "detail": []})
    assert matter(world, f"event {world.seeded}") == (set(), set())
