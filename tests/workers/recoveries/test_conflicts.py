"""Who had a part in a request has no say in it from another chair: its requester, its submitter, who reviews it."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, update

from schemas.policies import Policy
from schemas.requests import RequestTerms, review_message
from schemas.states import Decision, RequestState, Urgency
from schemas.tables import Approval, Review
from tests.governance import POLICY, Member, World
from workers.custody.judge import Refusal, Signed
from workers.custody.policies import write_policies
from workers.custody.roster import add_person
from workers.recoveries import decisions, reviews
from workers.recoveries import people as people_of
from workers.recoveries.errors import OwnRequest, SubmitterMayNotApprove
from workers.recoveries.policies import set_policy


def joins(world: World, who: str, *roles: str) -> Member:
    """One more person, in the service and on the custodian's roster."""
    member = world.people[who] = Member(who, roles)
    add_person(world.roster, member.on_roster())
    with world.as_("gateway").begin() as session:
        people_of.add(session, member.on_roster(), "root")
    return member


def allow(world: World, policy: Policy) -> None:
    write_policies(world.policies, [policy])
    with world.as_("gateway").begin() as session:
        set_policy(session, policy, "root")


def close(world: World, terms: RequestTerms, who: str) -> None:
    signature = world.people[who].signing.sign(review_message(terms.sha256(), "all was well"))
    with world.as_("gateway").begin() as session:
        reviews.close_review(session, terms.id, who, "all was well", signature)


def test_a_review_is_not_closed_by_an_auditor_who_asked_or_approved(world: World) -> None:
    for who in ("pat", "quinn", "rose"):
        joins(world, who, "requester", "approver", "auditor")
    allow(world, Policy("acme", POLICY, break_glass_quorum=1))
    terms = world.request(urgency=Urgency.BREAK_GLASS, requester="pat")
    assert world.approve(terms, "quinn") is RequestState.APPROVED
    assert world.custodian().open(terms.id).recovery is not None
    for who in ("pat", "quinn"):
        with pytest.raises(OwnRequest, match="neither asked nor decided"):
            close(world, terms, who)
    assert world.one(select(Review.closed_at)) is None
    close(world, terms, "rose")
    assert world.one(select(Review.closed_by)) == "rose"
    assert [each["event"] for each in world.events()].count("review:closed") == 1


@pytest.mark.parametrize("who", ["pat", "quinn"])
def test_the_custodian_takes_no_review_from_who_had_a_part_in_it(world: World, who: str) -> None:
    """Signed in order, and written past the gateway, the guard switched off."""
    for each in ("pat", "quinn", "rose"):
        joins(world, each, "requester", "approver", "auditor")
    allow(world, Policy("acme", POLICY, break_glass_quorum=1))

    def broken() -> RequestTerms:
        terms = world.request(urgency=Urgency.BREAK_GLASS, requester="pat")
        assert world.approve(terms, "quinn") is RequestState.APPROVED
        return terms

    first = broken()
    assert world.custodian().open(first.id).recovery is not None
    world.owner("ALTER TABLE reviews DISABLE TRIGGER USER")
    closed(world, first, who)
    assert world.custodian().open(broken().id).refusal is Refusal.REVIEW
    closed(world, first, "rose")
    assert world.custodian().open(broken().id).recovery is not None


def closed(world: World, terms: RequestTerms, who: str) -> None:
    signature = world.people[who].signing.sign(review_message(terms.sha256(), "all was well"))
    values = {"closed_at": func.now(), "closed_by": who, "conclusion": "all was well", "signature": signature}
    with world.as_("gateway").begin() as session:
        session.execute(update(Review).where(Review.request_id == terms.id).values(values))


def decide(world: World, terms: RequestTerms, who: str, decision: Decision) -> RequestState:
    does = {Decision.APPROVE: decisions.approve, Decision.DENY: decisions.deny}[decision]
    with world.as_("gateway").begin() as session:
        return does(session, terms.id, who, Signed(world.people[who].sign(terms, decision)))


@pytest.mark.parametrize("decision", Decision)
def test_the_gateway_takes_no_decision_from_who_asked_or_submitted(world: World, decision: Decision) -> None:
    world.owner(
        "ALTER TABLE releases DISABLE TRIGGER USER",
        "UPDATE releases SET submitted_by = 'carol'",
        "ALTER TABLE releases ENABLE TRIGGER USER",
    )
    terms = world.request()
    events = world.events()
    for who, error in (("carol", SubmitterMayNotApprove), ("alice", OwnRequest)):
        public = world.people[who].on_roster().ed25519_public
        with world.as_("gateway")() as session, pytest.raises(error):
            decisions.check_decider(session, terms, who, public)
        with pytest.raises(error):
            decide(world, terms, who, decision)
    assert (world.events(), world.one(select(func.count()).select_from(Approval))) == (events, 0)
    allow(world, Policy("acme", POLICY, submitter_may_approve=True))
    with pytest.raises(OwnRequest):
        decide(world, terms, "alice", decision)
    decide(world, terms, "carol", decision)
    assert world.one(select(Approval.decision)) is decision
