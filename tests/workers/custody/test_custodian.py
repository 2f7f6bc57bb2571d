"""The custodian: what it opens, and everything that it must refuse."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import sleep
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import undefer

from schemas.policies import Hours, Policy
from schemas.requests import FaceRef, KeyBundle, RequestTerms, bundle_info, request_message, review_message
from schemas.states import Decision, KeyState, RecoveryState, RequestState, Urgency
from schemas.tables import Alert, Approval, Outbox, Recovery, RecoveryRequest, RequestFace, Review, SealedKey, Ticket
from tests.governance import MODEL, POLICY, SHORT, Member, World
from workers.custody import clock, keys
from workers.custody.errors import ClocksApart, LedgerInvalid, RosterInvalid, Unwrappable
from workers.custody.holds import Portion
from workers.custody.judge import Refusal, Signed
from workers.custody.ledger import Ledger
from workers.custody.opening import open_sealed
from workers.custody.policies import write_policies
from workers.custody.roster import write_roster
from workers.db import session_factory
from workers.recoveries import decisions, reviews, service
from workers.recoveries.errors import PersonUnknown, PolicyForbids, RequestClosed, ReviewOpen, SignatureInvalid
from workers.recoveries.policies import set_policy

UNGUARD = [f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in ("approvals", "recovery_requests", "request_faces")]


def state_of(world: World, request: UUID) -> RequestState:
    return world.one(select(RecoveryRequest.state).where(RecoveryRequest.id == request))  # type: ignore[no-any-return]


def refused(world: World, request: UUID, refusal: Refusal) -> None:
    """The custodian refuses, says why in the trail and in an alert, and leaves no ticket and no recovery behind."""
    before = world.one(select(func.count()).select_from(Ticket))
    opened = world.custodian().open(request)
    assert (opened.recovery, opened.refusal) == (None, refusal)
    last = world.events()[-1]
    assert (last["event"], last["role"]) == ("ticket:refused", "refacex_custodian")
    assert last["fields"]["detail"] == {"refusal": refusal.value}
    told = world.one(select(Alert).order_by(Alert.id.desc()).limit(1))
    assert (told.kind, told.detail) == ("ticket_refused", {"request": str(request), "refusal": refusal.value})
    assert world.one(select(func.count()).select_from(Ticket)) == before


def sealed_bundle(world: World, recovery: UUID) -> tuple[bytes, UUID]:
    with world.as_("recovery")() as session:
        row = session.get_one(Recovery, recovery, options=[undefer(Recovery.key_bundle)])
        assert row.key_bundle is not None
        return row.key_bundle, row.ticket_id


def bundle_of(world: World, recovery: UUID) -> KeyBundle:
    sealed, ticket = sealed_bundle(world, recovery)
    return KeyBundle.loads(open_sealed(world.recovery_key().secret(), sealed, bundle_info(recovery, ticket)))


def test_it_hands_on_the_approved_faces_keys_and_no_other(world: World) -> None:
    terms = world.approved((0, 1), (1, 0))
    opened = world.custodian().open(terms.id)
    assert opened.recovery is not None
    bundle = bundle_of(world, opened.recovery)
    assert (bundle.request, bundle.requester, bundle.tenant) == (terms.id, "alice", "acme")
    assert bundle.recipient_public == world.people["alice"].on_roster().x25519_public
    found = {item.item: item for item in bundle.items}
    first, second = world.items
    assert found.keys() == {first, second}
    assert found[first].face_keys == {1: world.secrets[first, 1]}
    assert found[second].face_keys == {0: world.secrets[second, 0]}
    for item in bundle.items:
        assert item.layout_key == world.secrets[item.item, -1]
        assert (item.model_version, item.policy) == (MODEL, POLICY)
        assert item.object_key in world.files
    assert state_of(world, terms.id) is RequestState.RECOVERING
    messages = world.one(select(Outbox.args).where(Outbox.queue == "recovery"), role="relay")
    assert messages == [str(opened.recovery)]
    events = [(each["event"], each["fields"].get("request_hash")) for each in world.events()][-2:]
    assert events == [("ticket:issued", terms.sha256().hex()), ("ticket:spent", terms.sha256().hex())]


def test_the_bundle_opens_with_the_recovery_workers_key_for_its_own_row_only(world: World) -> None:
    recovery = world.custodian().open(world.approved().id).recovery
    assert recovery is not None
    sealed, ticket = sealed_bundle(world, recovery)
    others = [member.receiving.private_bytes_raw() for member in world.people.values()]
    others.append(keys.load(world.folder / "custody.json", keys.FileKind.CUSTODY).keys[0].secret())
    for other in others:
        with pytest.raises(Unwrappable):
            open_sealed(other, sealed, bundle_info(recovery, ticket))
    with pytest.raises(Unwrappable):
        open_sealed(world.recovery_key().secret(), sealed, bundle_info(uuid4(), ticket))
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(Unwrappable):
            open_sealed(world.recovery_key().secret(), bytes(changed), bundle_info(recovery, ticket))


def test_a_message_that_comes_twice_opens_once(world: World) -> None:
    terms = world.approved()
    first, again = world.custodian().open(terms.id), world.custodian().open(terms.id)
    assert (first.recovery, again.again) == (again.recovery, True)
    assert world.one(select(func.count()).select_from(Recovery.__table__)) == 1
    assert [each["event"] for each in world.events()].count("ticket:spent") == 1


ENDS = [RecoveryState.RECOVERED, RecoveryState.FETCHED, RecoveryState.FAILED, RecoveryState.EXPIRED]


def end(world: World, recovery: UUID, state: RecoveryState) -> None:
    """Puts a recovery into this state, by the way that leads there."""
    role = "gateway" if state is RecoveryState.EXPIRED else "recovery"
    steps = [RecoveryState.RECOVERED, state] if state is RecoveryState.FETCHED else [state]
    with world.as_(role).begin() as session:
        for step in steps:
            session.execute(update(Recovery).where(Recovery.id == recovery).values(state=step, key_bundle=None))


@pytest.mark.parametrize("state", ENDS)
def test_a_message_that_comes_after_the_recovery_changes_nothing(world: World, state: RecoveryState) -> None:
    terms = world.approved()
    recovery = world.custodian().open(terms.id).recovery
    assert recovery is not None
    end(world, recovery, state)
    events = world.events()
    opened = world.custodian().open(terms.id)
    assert (opened.recovery, opened.refusal, opened.again) == (recovery, None, True)
    assert world.events() == events, "nothing was refused, for nothing was asked for anew"


@pytest.mark.parametrize("state", [RecoveryState.BOUND, *ENDS])
def test_a_crash_before_the_ledger_is_made_good_by_the_next_message(world: World, state: RecoveryState) -> None:
    """The custodian dies between its commit and its ledger; the message comes again, be it after the recovery."""

    class Killed(Ledger):
        def record_spent(self, request: UUID, ticket: UUID, recovery: UUID) -> None:
            raise KeyboardInterrupt

    terms = world.approved()
    with pytest.raises(KeyboardInterrupt):
        replace(world.custodian(), ledger=Killed(world.folder / "tombstones.json")).open(terms.id)
    assert not world.ledger.spent(terms.id)
    recovery = world.one(select(Recovery.id))
    if state is not RecoveryState.BOUND:
        end(world, recovery, state)
    again = world.custodian().open(terms.id)
    assert (again.recovery, again.again) == (recovery, True)
    assert world.ledger.spent(terms.id)
    assert "ticket:refused" not in [each["event"] for each in world.events()]


def test_a_spent_ticket_is_not_spent_again(world: World) -> None:
    """Approved anew by the owner's hand, or for one face more by a stolen gateway's."""
    terms = world.approved((0, 0))
    assert world.custodian().open(terms.id).recovery is not None
    before = world.one(select(func.count()).select_from(Recovery.__table__))
    with world.as_("gateway").begin() as session:
        session.execute(insert(RequestFace).values(request_id=terms.id, item_id=world.items[0], face=1))
    refused(world, terms.id, Refusal.SPENT)
    other = world.approved((1, 0))
    recovery = world.custodian().open(other.id).recovery
    assert recovery is not None
    end(world, recovery, RecoveryState.FAILED)
    world.owner(*UNGUARD, f"UPDATE recovery_requests SET state = 'approved' WHERE id = '{other.id}'")
    refused(world, other.id, Refusal.SPENT)
    assert state_of(world, other.id) is RequestState.FAILED
    assert world.one(select(func.count()).select_from(Recovery.__table__)) == before + 1


def test_a_database_taken_back_does_not_give_the_ticket_back(world: World) -> None:
    terms = world.approved()
    assert world.custodian().open(terms.id).recovery is not None
    tables = ("recoveries", "tickets", "recovery_requests")
    world.owner(
        *(f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in tables),
        "DELETE FROM recoveries",
        "DELETE FROM tickets",
        "UPDATE recovery_requests SET state = 'approved'",
        *(f"ALTER TABLE {table} ENABLE TRIGGER USER" for table in tables),
    )
    refused(world, terms.id, Refusal.SPENT)
    assert state_of(world, terms.id) is RequestState.FAILED


def test_a_message_put_straight_into_the_queue_does_nothing(world: World) -> None:
    refused(world, uuid4(), Refusal.UNKNOWN)
    terms = world.request()
    refused(world, terms.id, Refusal.NOT_APPROVED)
    world.approve(terms, "bob")
    refused(world, terms.id, Refusal.NOT_APPROVED)
    assert state_of(world, terms.id) is RequestState.OPEN, "an attack must not close somebody's request"


def test_one_approval_and_a_forced_state_are_not_enough(world: World) -> None:
    terms = world.request()
    world.approve(terms, "bob")
    world.owner("UPDATE recovery_requests SET state = 'approved'")
    refused(world, terms.id, Refusal.QUORUM)


def test_the_rosters_least_quorum_stands_above_the_database(world: World) -> None:
    write_roster(world.roster, [member.on_roster() for member in world.people.values()], least_quorum=3)
    refused(world, world.approved().id, Refusal.QUORUM)
    assert world.custodian().open(approved_by_three(world, quorum=3).id).recovery is not None


def test_a_request_below_the_rosters_least_quorum_is_refused_however_many_approved(world: World) -> None:
    write_roster(world.roster, [member.on_roster() for member in world.people.values()], least_quorum=3)
    refused(world, approved_by_three(world).id, Refusal.QUORUM)


def set_policies(world: World, *pinned: Policy, database: Policy | None = None) -> None:
    """Other policies, in the custodian's file and in the database."""
    write_policies(world.policies, pinned)
    for policy in [database] if database else pinned:
        with world.as_("gateway").begin() as session:
            set_policy(session, policy, "root")


def test_a_policy_lowered_in_the_database_alone_lowers_nothing(world: World) -> None:
    write_roster(world.roster, [member.on_roster() for member in world.people.values()], least_quorum=1)
    set_policies(world, Policy("acme", POLICY), database=Policy("acme", POLICY, quorum=1))
    terms = world.request()
    assert (terms.quorum, world.approve(terms, "bob")) == (1, RequestState.APPROVED)
    refused(world, terms.id, Refusal.QUORUM)


def test_what_the_pinned_policy_does_not_allow_is_refused(world: World) -> None:
    loose = Policy("acme", POLICY, submitter_may_approve=True)
    cases = [
        (Policy("acme", POLICY, purposes=("another",)), Refusal.PURPOSE),
        (Policy("acme", POLICY, max_items=1), Refusal.TOO_MANY),
        (Policy("acme", POLICY, quorum=3), Refusal.QUORUM),
        (Policy("acme", "another"), Refusal.POLICY),
        (Policy("other", POLICY), Refusal.POLICY),
    ]
    for policy, refusal in cases:
        set_policies(world, policy, database=loose)
        refused(world, world.approved((0, 0), (1, 0)).id, refusal)


def test_the_submitter_does_not_approve_unless_the_policy_says_so(world: World) -> None:
    world.owner("ALTER TABLE releases DISABLE TRIGGER USER", "UPDATE releases SET submitted_by = 'carol'")
    loose = Policy("acme", POLICY, submitter_may_approve=True)
    set_policies(world, Policy("acme", POLICY), database=loose)
    refused(world, world.approved().id, Refusal.SUBMITTER)
    set_policies(world, loose)
    assert world.custodian().open(world.approved().id).recovery is not None


def test_outside_its_hours_a_request_waits(world: World) -> None:
    now = datetime.now(UTC)
    never = Hours("00:00", "00:01", days=((now + timedelta(days=3)).isoweekday(),))
    set_policies(world, Policy("acme", POLICY, hours=never))
    world.custodian().load_policies()
    terms, before = world.approved(), len(world.events())
    assert world.custodian().open(terms.id).refusal is Refusal.HOURS
    assert state_of(world, terms.id) is RequestState.APPROVED
    assert len(world.events()) == before
    set_policies(world, Policy("acme", POLICY, hours=Hours("00:00", "23:59", days=tuple(range(1, 8)))))
    assert world.custodian().open(terms.id).recovery is not None or now.strftime("%H:%M") >= "23:58"


def test_a_broken_glass_needs_fewer_and_leaves_a_review(world: World) -> None:
    set_policies(world, Policy("acme", POLICY))
    with pytest.raises(PolicyForbids):
        world.draft(urgency=Urgency.BREAK_GLASS)
    set_policies(world, Policy("acme", POLICY), database=Policy("acme", POLICY, break_glass_quorum=1))
    terms = world.request(urgency=Urgency.BREAK_GLASS)
    assert world.approve(terms, "bob") is RequestState.APPROVED
    refused(world, terms.id, Refusal.GLASS)
    set_policies(world, Policy("acme", POLICY, break_glass_quorum=1))
    terms = world.request(urgency=Urgency.BREAK_GLASS)
    world.approve(terms, "bob")
    assert world.custodian().open(terms.id).recovery is not None
    assert world.events()[-1]["event"] == "review:opened"
    with world.as_("gateway")() as session:
        kinds = session.execute(select(Alert.kind).order_by(Alert.id)).scalars().all()
    assert kinds[-2:] == ["glass_broken", "glass_broken"]  # asked, and opened
    with pytest.raises(ReviewOpen):
        world.request(urgency=Urgency.BREAK_GLASS)
    assert world.request().urgency is Urgency.NORMAL
    for who, error in (("bob", PersonUnknown), ("alice", PersonUnknown), ("mallory", PersonUnknown)):
        with pytest.raises(error):
            close(world, terms, who)
    close(world, terms, "olga")
    assert world.events()[-1]["event"] == "review:closed"
    with pytest.raises(RequestClosed):
        close(world, terms, "olga")
    assert world.request(urgency=Urgency.BREAK_GLASS).urgency is Urgency.BREAK_GLASS


def test_no_second_glass_is_opened_before_the_first_was_looked_into(world: World) -> None:
    """A stolen gateway writes requests side by side, and then a review of its own making."""
    set_policies(world, Policy("acme", POLICY, break_glass_quorum=1))
    with pytest.raises(ReviewOpen):
        for _ in range(2):
            world.request(urgency=Urgency.BREAK_GLASS)
    asked = []
    for _ in range(3):
        terms = world.draft(urgency=Urgency.BREAK_GLASS)
        with world.as_("gateway").begin() as session:
            signature = world.people["alice"].signing.sign(request_message(terms.sha256()))
            service._insert_request(session, terms, signature)
        world.approve(terms, "bob")
        asked.append(terms)
    assert world.custodian().open(asked[0].id).recovery is not None
    refused(world, asked[1].id, Refusal.REVIEW)
    forged = {"closed_at": func.now(), "closed_by": "olga", "conclusion": "fine", "signature": bytes(64)}
    with world.as_("gateway").begin() as session:
        session.execute(update(Review).values(forged))
    refused(world, asked[2].id, Refusal.REVIEW)


def test_the_owners_own_functions_do_not_set_the_custodians_clock(world: World) -> None:
    """A schema before PostgreSQL's own, for every connection to the database."""
    terms = world.approved(life=SHORT * 8)
    world.owner(
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '2020-01-01'::timestamptz $$",
        "GRANT USAGE ON SCHEMA evil TO PUBLIC",
        f'ALTER DATABASE "{world.database.name}" SET search_path = evil, pg_catalog, public',
    )
    sleep((SHORT * 8).total_seconds())
    custodian = replace(world.custodian(), sessions=session_factory(world.database.url_for("custodian")))
    try:
        assert custodian.open(terms.id).refusal is Refusal.EXPIRED
    finally:
        custodian.sessions.kw["bind"].dispose()


def test_a_database_whose_clock_is_wrong_opens_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = world.approved()
    with monkeypatch.context() as patch:
        patch.setattr(clock, "MOST_APART", timedelta(seconds=-1))
        with pytest.raises(ClocksApart):
            world.custodian().open(terms.id)
    assert state_of(world, terms.id) is RequestState.APPROVED
    assert world.custodian().open(terms.id).recovery is not None


def close(world: World, terms: RequestTerms, who: str) -> None:
    said = "the witness was in danger; looked at with the police"
    member = world.people.get(who, world.people["olga"])
    signature = member.signing.sign(review_message(terms.sha256(), said))
    with world.as_("gateway").begin() as session:
        reviews.close_review(session, terms.id, who, said, signature)


def test_the_database_itself_keeps_reviews_honest(world: World) -> None:
    set_policies(world, Policy("acme", POLICY, break_glass_quorum=1))
    terms = world.request(urgency=Urgency.BREAK_GLASS)
    world.approve(terms, "bob")
    assert world.custodian().open(terms.id).recovery is not None
    for who in ("alice", "bob"):
        values = {"closed_at": func.now(), "closed_by": who, "conclusion": "fine", "signature": bytes(64)}
        with world.as_("gateway")() as session, pytest.raises(DBAPIError, match="asked or decided"):
            session.execute(update(Review).values(values))
    with world.as_("custodian")() as session, pytest.raises(DBAPIError, match="permission denied"):
        session.execute(update(Review).values(closed_by="olga"))
    again = world.draft(urgency=Urgency.BREAK_GLASS)
    with world.as_("gateway")() as session, pytest.raises(DBAPIError, match="review of it is still open"):
        service._insert_request(session, again, bytes(64))


def test_a_request_that_its_requester_did_not_sign_is_refused(world: World) -> None:
    """A stolen gateway asks in alice's name."""
    for signature in (bytes(64), world.people["bob"].signing.sign(b"x")):
        terms = world.draft()
        with world.as_("gateway")() as session, pytest.raises(SignatureInvalid):
            service.open_request(session, terms, signature)
        with world.as_("gateway").begin() as session:
            service._insert_request(session, terms, signature)
        world.approve(terms, "bob", "carol")
        refused(world, terms.id, Refusal.UNSIGNED)


def test_one_approval_is_not_enough_for_a_roster_that_says_nothing(world: World) -> None:
    """A policy that asks for one approval, with the custodian as well."""
    set_policies(world, Policy("acme", POLICY, quorum=1))
    terms = world.request()
    assert (terms.quorum, world.approve(terms, "bob")) == (1, RequestState.APPROVED)
    refused(world, terms.id, Refusal.QUORUM)


def approved_by_three(world: World, **options: Any) -> RequestTerms:
    terms = world.request(**options)
    world.approve(terms, "bob", "carol", "dave")
    return terms


def forge(world: World, terms: Any, approver: str, signature: bytes, decision: Decision = Decision.APPROVE) -> None:
    """What a stolen gateway can do: write an approval row itself."""
    row = {"request_id": terms.id, "approver": approver, "requester": "alice", "decision": decision}
    with world.as_("gateway").begin() as session:
        session.execute(insert(Approval).values(signature=signature, **row))
        session.get_one(RecoveryRequest, terms.id).state = RequestState.APPROVED


def test_forged_signatures_are_refused(world: World) -> None:
    good = world.people["carol"].sign
    mallory = Member("mallory", ("approver",))
    another = world.request((1, 1))
    for signature in (
        bytes(64),
        mallory.sign(another),
        good(another),  # of another request
        b"\x01" + good(another)[1:],
    ):
        terms = world.request()
        world.approve(terms, "bob")
        forge(world, terms, "carol", signature)
        refused(world, terms.id, Refusal.FORGED)
        assert state_of(world, terms.id) is RequestState.FAILED


def test_a_denial_is_not_an_approval(world: World) -> None:
    terms = world.request()
    world.approve(terms, "bob")
    forge(world, terms, "carol", world.people["carol"].sign(terms, Decision.DENY))
    refused(world, terms.id, Refusal.FORGED)
    terms = world.request()
    world.approve(terms, "bob", "carol")
    world.owner("ALTER TABLE approvals DISABLE TRIGGER USER")
    world.owner(f"UPDATE approvals SET decision = 'deny' WHERE approver = 'carol' AND request_id = '{terms.id}'")
    refused(world, terms.id, Refusal.DENIED)


def test_somebody_who_is_not_on_the_roster_does_not_count(world: World) -> None:
    """The database owner makes a new approver, with a key and all."""
    mallory = Member("mallory", ("approver",))
    terms = world.request()
    world.approve(terms, "bob")
    forge(world, terms, "mallory", mallory.sign(terms))
    refused(world, terms.id, Refusal.APPROVER)
    terms = world.request()
    world.approve(terms, "bob")
    forge(world, terms, "eve", world.people["eve"].sign(terms))  # on it, as requester only
    refused(world, terms.id, Refusal.APPROVER)


def test_a_replaced_public_key_does_not_count(world: World) -> None:
    mallory = Member("carol", ("approver",))
    public = mallory.on_roster().ed25519_public.hex()
    world.owner("ALTER TABLE people DISABLE TRIGGER USER")
    world.owner(f"UPDATE people SET ed25519_public = '\\x{public}' WHERE id = 'carol'")
    terms = world.request()
    world.approve(terms, "bob")
    with world.as_("gateway").begin() as session:
        decisions.approve(session, terms.id, "carol", Signed(mallory.sign(terms)))
    refused(world, terms.id, Refusal.FORGED)


def test_a_requester_never_approves_not_even_by_the_owners_hand(world: World) -> None:
    terms = world.request()
    world.approve(terms, "bob")
    row = {"request_id": terms.id, "approver": "alice", "requester": "alice", "decision": Decision.APPROVE}
    signature = world.people["alice"].sign(terms)
    with world.as_("gateway")() as session, pytest.raises(IntegrityError, match="approvals_not_by_requester_check"):
        session.execute(insert(Approval).values(signature=signature, **row))
    with world.as_("gateway")() as session, pytest.raises(IntegrityError, match="foreign key"):
        session.execute(insert(Approval).values(signature=signature, **(row | {"requester": "bob"})))
        session.commit()
    world.owner("ALTER TABLE approvals DROP CONSTRAINT approvals_not_by_requester_check")
    forge(world, terms, "alice", signature)
    refused(world, terms.id, Refusal.OWN_REQUEST)


CHANGES = {
    "reason": "reason = 'another'",
    "purpose": "purpose = 'another'",
    "quorum": "quorum = 1",
    "expiry": "expires_at = expires_at + interval '1 year'",
    "case": "case_reference = 'CASE-18'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_changed_after_the_approvals_is_refused(world: World, change: str) -> None:
    terms = world.approved()
    world.owner(*UNGUARD, f"UPDATE recovery_requests SET {CHANGES[change]} WHERE id = '{terms.id}'")
    refused(world, terms.id, Refusal.CHANGED)


def test_a_face_added_after_the_approvals_is_refused(world: World) -> None:
    terms = world.approved((0, 0))
    with world.as_("gateway").begin() as session:
        session.execute(insert(RequestFace).values(request_id=terms.id, item_id=world.items[0], face=1))
    refused(world, terms.id, Refusal.CHANGED)


def test_a_rewritten_request_with_its_hash_is_refused_by_the_signatures(world: World) -> None:
    """The owner changes a face, the canonical form and its hash all together; then the requester helps and signs it."""
    forged = [world.approved((0, 0)), world.approved((0, 0))]
    world.owner(*UNGUARD, "UPDATE request_faces SET face = 1")
    for terms, refusal in zip(forged, (Refusal.UNSIGNED, Refusal.FORGED), strict=True):
        other = replace(terms, faces=(FaceRef(world.items[0], 1),))
        body = f"canonical = '\\x{other.canonical().hex()}', canonical_sha256 = '\\x{other.sha256().hex()}'"
        if refusal is Refusal.FORGED:
            signed = world.people["alice"].signing.sign(request_message(other.sha256()))
            body += f", signature = '\\x{signed.hex()}'"
        world.owner(f"UPDATE recovery_requests SET {body} WHERE id = '{terms.id}'")
        refused(world, terms.id, refusal)


def test_a_recipient_who_is_not_the_requester_is_refused(world: World) -> None:
    """Approvals that are all in order, over a request that would be sealed to somebody else."""
    mallory = Member("alice", ("requester",)).on_roster().x25519_public.hex()
    world.owner("ALTER TABLE people DISABLE TRIGGER USER")
    world.owner(f"UPDATE people SET x25519_public = '\\x{mallory}' WHERE id = 'alice'")
    refused(world, world.approved().id, Refusal.RECIPIENT)


def test_expired_is_refused(world: World) -> None:
    terms = world.approved(life=SHORT * 8)
    sleep((SHORT * 8).total_seconds())
    refused(world, terms.id, Refusal.EXPIRED)
    assert state_of(world, terms.id) is RequestState.EXPIRED
    expired, last = world.events()[-2:]
    assert (expired["event"], expired["role"], last["event"]) == (
        "request:expired",
        "refacex_custodian",
        "ticket:refused",
    )
    assert expired["fields"]["request_hash"] == last["fields"]["request_hash"] == terms.sha256().hex()
    refused(world, terms.id, Refusal.NOT_APPROVED)
    assert [each["event"] for each in world.events()].count("request:expired") == 1
    assert world.unsigned() == []


def test_another_faces_key_in_the_row_is_refused(world: World) -> None:
    """The owner puts a bystander's wrapped key into the approved face's row."""
    for source in (
        f"attempt_id = '{world.attempts[world.items[0]]}' AND face = 1",
        f"item_id = '{world.items[1]}' AND face = 0",
    ):
        terms = world.approved((0, 0))
        world.owner(
            f"UPDATE sealed_keys SET wrapped = (SELECT wrapped FROM sealed_keys WHERE {source}) "
            f"WHERE item_id = '{world.items[0]}' AND face = 0"
        )
        refused(world, terms.id, Refusal.KEY_FOREIGN)


def test_shredded_keys_stay_shredded(world: World) -> None:
    item = world.items[0]
    terms, neighbour = world.approved((0, 0)), world.approved((0, 1))
    world.ledger.record_shredded(
        [Portion(item, world.release, None, (0,))]
    )  # the tombstone alone: a backup brought the row back
    refused(world, terms.id, Refusal.KEY_SHREDDED)
    with world.as_("custodian").begin() as session:
        row = session.execute(select(SealedKey).where(SealedKey.item_id == item, SealedKey.face == 1)).scalar_one()
        row.state, row.wrapped = KeyState.SHREDDED, None
    refused(world, neighbour.id, Refusal.KEY_SHREDDED)
    assert world.custodian().open(world.approved((1, 0)).id).recovery is not None


def test_without_its_roster_or_ledger_it_opens_nothing(world: World) -> None:
    terms = world.approved()
    good = world.roster.read_text()
    for damaged in (good.replace("bob", "rob"), good[:-20], ""):
        world.roster.write_text(damaged)
        with pytest.raises(RosterInvalid):
            world.custodian().open(terms.id)
    world.roster.write_text(good)
    path = world.folder / "tombstones.json"
    good = path.read_text()
    path.write_bytes(b'{"kind":"spent"}\n')
    with pytest.raises(LedgerInvalid):
        world.custodian().open(terms.id)
    assert state_of(world, terms.id) is RequestState.APPROVED
    path.write_text(good)
    assert world.custodian().open(terms.id).recovery is not None


def test_no_event_no_ticket(world: World) -> None:
    """The trail is taken away: nothing is opened, and nothing of the attempt stays."""
    terms = world.approved()
    world.owner("REVOKE EXECUTE ON FUNCTION audit.append(text, jsonb) FROM refacex_custodian")
    with pytest.raises(DBAPIError):
        world.custodian().open(terms.id)
    assert world.one(select(func.count()).select_from(Ticket)) == 0
    assert state_of(world, terms.id) is RequestState.APPROVED
    world.owner("GRANT EXECUTE ON FUNCTION audit.append(text, jsonb) TO refacex_custodian")
    assert world.custodian().open(terms.id).recovery is not None


def test_the_database_itself_refuses_a_ticket_without_quorum_and_a_second_spend(world: World) -> None:
    terms = world.request()
    world.approve(terms, "bob")
    world.owner("UPDATE recovery_requests SET state = 'approved'")
    soon = text("now() + interval '1 minute'")
    unsigned = {"request_id": terms.id, "expires_at": soon}
    ticket = unsigned | {"canonical": b"x", "signature": bytes(64)}
    with world.as_("custodian")() as session, pytest.raises(IntegrityError, match="quorum"):
        session.execute(insert(Ticket).values(ticket))
    world.approve(terms, "carol")
    with world.as_("custodian")() as session, pytest.raises(IntegrityError, match="signature"):
        session.execute(insert(Ticket).values(unsigned))
    with world.as_("custodian").begin() as session:
        session.execute(insert(Ticket).values(ticket))
    with world.as_("custodian")() as session, pytest.raises(IntegrityError, match="spent ticket"):
        issued = session.execute(select(Ticket.id)).scalar_one()
        session.execute(insert(Recovery).values(ticket_id=issued, key_bundle=b"x", expires_at=soon))
    with world.as_("custodian").begin() as session:
        session.execute(update(Ticket).values(spent_at=func.now()))
    with world.as_("custodian")() as session, pytest.raises(DBAPIError, match="spent once"):
        session.execute(update(Ticket).values(spent_at=func.now()))
    with world.as_("custodian")() as session, pytest.raises(IntegrityError, match="tickets_request_id_key"):
        session.execute(insert(Ticket).values(ticket))


def test_the_custodian_knows_no_torch_and_no_image_decoder() -> None:
    code = (
        "import sys, workers.custody.service, workers.custody.judge, workers.app, workers.settings, workers.db\n"
        "print([name for name in ('torch', 'PIL', 'cv2', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
