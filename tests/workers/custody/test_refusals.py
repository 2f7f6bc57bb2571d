"""More that the custodian refuses: what lies outside the request's release, who is gone, what nobody may ask for; and how
long the tickets live that it does issue.
"""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from schemas.policies import Hours, Policy
from schemas.requests import FaceRef, RequestTerms
from schemas.states import RequestState, Urgency
from schemas.tables import Ticket
from tests.governance import POLICY, World
from tests.workers.custody.test_custodian import refused, set_policies
from workers.custody.judge import LONGEST_LIFE, Refusal
from workers.custody.roster import remove_person


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_an_item_of_another_release_is_refused(world: World, tenant: str) -> None:
    """The request names one release, its face lies in another, be it of the same tenant; all signatures are in order."""
    other = world.another_release(tenant)
    refused(world, world.smuggled(FaceRef(other.items[0], 0)).id, Refusal.ITEM)
    mixed = world.smuggled(FaceRef(world.items[0], 0), FaceRef(other.items[1], 0))
    refused(world, mixed.id, Refusal.ITEM)


def test_a_requester_who_left_after_the_approvals_is_refused(world: World) -> None:
    terms = world.approved()
    assert remove_person(world.roster, "alice")
    refused(world, terms.id, Refusal.REQUESTER)


def test_a_request_that_is_open_for_too_long_is_refused(world: World) -> None:
    face = FaceRef(world.items[0], 0)
    refused(world, world.smuggled(face, life=LONGEST_LIFE + timedelta(days=1)).id, Refusal.LIFE)
    assert world.custodian().open(world.smuggled(face, life=LONGEST_LIFE).id).recovery is not None


def test_a_key_that_somebody_deleted_is_missing(world: World) -> None:
    terms = world.approved((0, 0))
    world.owner(
        "ALTER TABLE sealed_keys DISABLE TRIGGER USER",
        f"DELETE FROM sealed_keys WHERE item_id = '{world.items[0]}' AND face = 0",
    )
    refused(world, terms.id, Refusal.KEY_MISSING)


# --- how long a ticket lives


def life_of_its_ticket(world: World, terms: RequestTerms) -> tuple[datetime, datetime]:
    """From when to when the ticket of this request says that it counts, and its row too."""
    assert world.custodian().open(terms.id).recovery is not None
    ticket = world.one(select(Ticket).where(Ticket.request_id == terms.id))
    said = json.loads(ticket.canonical)
    issued, expires = (datetime.fromisoformat(said[name]) for name in ("issued_at", "expires_at"))
    assert ticket.expires_at == expires
    return issued, expires


def test_a_ticket_lives_as_long_as_the_pinned_policy_says(world: World) -> None:
    """Whatever the database says of the policy."""
    set_policies(world, Policy("acme", POLICY, ticket_minutes=7), database=Policy("acme", POLICY, ticket_minutes=1440))
    issued, expires = life_of_its_ticket(world, world.approved())
    assert expires - issued == timedelta(minutes=7)


def test_no_ticket_outlives_its_request(world: World) -> None:
    terms = world.approved(life=timedelta(minutes=3))
    _, expires = life_of_its_ticket(world, terms)
    assert expires == terms.expires_at


def test_a_broken_glass_does_not_wait_for_the_hours(world: World) -> None:
    never = Hours("00:00", "00:01", days=((datetime.now(UTC) + timedelta(days=3)).isoweekday(),))
    set_policies(world, Policy("acme", POLICY, hours=never, break_glass_quorum=1))
    waiting, urgent = world.approved(), world.request(urgency=Urgency.BREAK_GLASS)
    assert world.approve(urgent, "bob") is RequestState.APPROVED
    assert world.custodian().open(waiting.id).refusal is Refusal.HOURS
    assert world.custodian().open(urgent.id).recovery is not None
