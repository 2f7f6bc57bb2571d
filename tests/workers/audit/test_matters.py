"""Whose matter a finding is: by its event or its row, by the rows that this leads to, and by the trail."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from schemas.audit import AuditEvent
from schemas.states import OrderKind, OrderScope
from schemas.tables import CustodyOrder, Ticket
from tests.governance import Member, World
from tests.workers.audit.harness import as_superuser, fetched, write
from tests.workers.audit.lives import broken_glass, give, review, shredded_subject
from workers.audit import append
from workers.audit.acknowledging import acknowledge_message
from workers.audit.findings import Finding, Problem
from workers.audit.matters import matter_of
from workers.custody.holds import Target
from workers.recoveries import people

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
    for fields in ({"recovery": recovery}, {"ticket": ticket}, {"request": terms.id}):
        where = told(world, "custodian", AuditEvent.TICKET_REFUSED, actor="custodian", **fields)
        assert matter(world, where) == ({"acme"}, ASKED)
    as_superuser(world, "DELETE FROM approvals")
    assert matter(world, where) == ({"acme"}, ASKED), "by what they signed"


def test_who_reviews_has_a_part_in_it(world: World) -> None:
    terms, _ = broken_glass(world, (0, 0))
    review(world, terms)
    where = told(world, "relay", AuditEvent.REQUEST_EXPIRED, actor="reconciler", request=terms.id)
    assert matter(world, where) == ({"acme"}, {"sam", "alice", "bob", "olga"})


def test_an_item_is_of_who_submitted(world: World) -> None:
    where = told(world, "release", AuditEvent.ITEM_HELD, actor="worker", item=world.items[0])
    assert matter(world, where) == ({"acme"}, {"sam"})


def test_an_order_is_of_its_officer(world: World) -> None:
    """Whomever else an event names for it that they did not sign."""
    give(world, OrderKind.HOLD, Target(OrderScope.RELEASE, world.release))
    sha256 = world.one(select(CustodyOrder.canonical_sha256))
    where = told(world, "gateway", AuditEvent.ORDER_GIVEN, actor="olga", request_hash=bytes(sha256))
    assert matter(world, where) == ({"acme"}, {"kim"})


def test_a_subject_and_a_person_are_of_their_tenant(world: World) -> None:
    pseudonym = shredded_subject(world)
    where = told(world, "custodian", AuditEvent.SUBJECT_ERASED, actor="custodian", subject=str(pseudonym))
    assert matter(world, where)[0] == {"acme"}
    where = told(world, "gateway", AuditEvent.PERSON_REMOVED, actor="root", subject="bob")
    assert matter(world, where) == ({"acme"}, set())


def test_what_names_no_tenants_thing_is_of_its_actors_tenant_or_of_none(world: World) -> None:
    about = {"request_hash": bytes(32), "detail": {"reason": "x", "signature": "00"}}
    where = told(world, "gateway", AuditEvent.FINDING_ACKNOWLEDGED, actor="olga", **about)
    assert matter(world, where) == ({"acme"}, set())
    where = told(world, "custodian", AuditEvent.KEY_RETIRED, actor="custodian", detail={"key": "k"})
    assert matter(world, where) == (set(), set())


def test_a_tenant_is_one_that_has_people(world: World) -> None:
    with world.as_("gateway").begin() as session:
        people.add(session, Member("bea", ("auditor",)).on_roster("beta"), "root")
    for tenant, found in (("beta", {"beta"}), ("nowhere", set()), ({"x": 1}, set()), (["beta"], set())):
        where = told(world, "gateway", AuditEvent.POLICY_SET, actor="root", detail={"tenant": tenant})
        assert matter(world, where) == (found, set())


def test_who_signed_took_part_and_who_is_named_did_not(world: World) -> None:
    finding = Finding(Problem.ROW, "event 1", "x")
    signed = world.people["olga"].signing.sign(acknowledge_message(finding, "x")).hex()
    for signature, took_part in ((signed, {"olga"}), ("00" * 64, set()), ([], set())):
        detail = {"reason": "x", "signature": signature}
        about = {"request_hash": finding.sha256(), "detail": detail}
        where = told(world, "gateway", AuditEvent.FINDING_ACKNOWLEDGED, actor="olga", **about)
        assert matter(world, where)[1] == took_part


def test_ids_that_are_none_lead_nowhere(world: World) -> None:
    for where in ("item 7", "event 999999", "releases"):
        assert matter(world, where) == (set(), set())
    write(world, "item:held", {"item": "7", "release": "x", "request": 5, "request_hash": "zz", "detail": []})
    assert matter(world, f"event {world.seeded}") == (set(), set())
