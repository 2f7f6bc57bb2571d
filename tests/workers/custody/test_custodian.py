"""The custodian: what it opens, and everything that it must refuse."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import undefer

from schemas.requests import KeyBundle, RequestTerms, bundle_info
from schemas.states import Decision, KeyState, RecoveryState, RequestState
from schemas.tables import Approval, Outbox, Recovery, RecoveryRequest, RequestFace, SealedKey, Ticket
from tests.governance import MODEL, POLICY, SHORT, Member, World
from workers.custody import keys
from workers.custody.errors import LedgerInvalid, RosterInvalid, Unwrappable
from workers.custody.judge import Refusal
from workers.custody.ledger import Ledger
from workers.custody.opening import open_sealed
from workers.custody.roster import write_roster

UNGUARD = [f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in ("approvals", "recovery_requests", "request_faces")]


def state_of(world: World, request: UUID) -> RequestState:
    return world.one(select(RecoveryRequest.state).where(RecoveryRequest.id == request))  # type: ignore[no-any-return]


def refused(world: World, request: UUID, refusal: Refusal) -> None:
    """The custodian refuses, says why in the trail, and leaves no ticket and no recovery behind."""
    before = world.one(select(func.count()).select_from(Ticket))
    opened = world.custodian().open(request)
    assert (opened.recovery, opened.refusal) == (None, refusal)
    last = world.events()[-1]
    assert (last["event"], last["role"]) == ("ticket:refused", "refacex_custodian")
    assert last["fields"]["detail"] == {"refusal": refusal.value}
    assert world.one(select(func.count()).select_from(Ticket)) == before


def sealed_bundle(world: World, recovery: UUID) -> tuple[bytes, UUID]:
    with world.as_("recovery")() as session:
        row = session.get_one(Recovery, recovery, options=[undefer(Recovery.key_bundle)])
        assert row.key_bundle is not None
        return row.key_bundle, row.ticket_id


def bundle_of(world: World, recovery: UUID) -> KeyBundle:
    sealed, ticket = sealed_bundle(world, recovery)
    return KeyBundle.loads(open_sealed(world.recovery_secret(), sealed, bundle_info(recovery, ticket)))


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
        open_sealed(world.recovery_secret(), sealed, bundle_info(uuid4(), ticket))
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(Unwrappable):
            open_sealed(world.recovery_secret(), bytes(changed), bundle_info(recovery, ticket))


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


def test_one_approval_is_not_enough_for_a_roster_that_says_nothing(world: World) -> None:
    """A policy that asks for one approval, which whoever owns the database can write."""
    world.owner("ALTER TABLE releases DISABLE TRIGGER USER", "UPDATE releases SET policy = policy || '{\"quorum\": 1}'")
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
        mallory.sign(another.canonical()),
        good(another.canonical()),  # of another request
        b"\x01" + good(another.canonical())[1:],
    ):
        terms = world.request()
        world.approve(terms, "bob")
        forge(world, terms, "carol", signature)
        refused(world, terms.id, Refusal.FORGED)
        assert state_of(world, terms.id) is RequestState.FAILED


def test_a_denial_is_not_an_approval(world: World) -> None:
    terms = world.request()
    world.approve(terms, "bob")
    forge(world, terms, "carol", world.people["carol"].sign(terms.canonical(), Decision.DENY))
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
    forge(world, terms, "mallory", mallory.sign(terms.canonical()))
    refused(world, terms.id, Refusal.APPROVER)
    terms = world.request()
    world.approve(terms, "bob")
    forge(world, terms, "eve", world.people["eve"].sign(terms.canonical()))  # on it, as requester only
    refused(world, terms.id, Refusal.APPROVER)


def test_a_replaced_public_key_does_not_count(world: World) -> None:
    mallory = Member("carol", ("approver",))
    public = mallory.on_roster().ed25519_public.hex()
    world.owner(f"UPDATE people SET ed25519_public = '\\x{public}' WHERE id = 'carol'")
    terms = world.request()
    world.approve(terms, "bob")
    with world.as_("gateway").begin() as session:
        from workers.recoveries import service

        service.approve(session, terms.id, "carol", mallory.sign(terms.canonical()))
    refused(world, terms.id, Refusal.FORGED)


def test_a_requester_never_approves_not_even_by_the_owners_hand(world: World) -> None:
    terms = world.request()
    world.approve(terms, "bob")
    row = {"request_id": terms.id, "approver": "alice", "requester": "alice", "decision": Decision.APPROVE}
    signature = world.people["alice"].sign(terms.canonical())
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
    """The owner changes a face, the canonical form and its hash all together."""
    terms = world.approved((0, 0))
    world.owner(*UNGUARD, "UPDATE request_faces SET face = 1")
    from schemas.requests import FaceRef

    forged = replace(terms, faces=(FaceRef(world.items[0], 1),)).canonical().hex()
    world.owner(f"UPDATE recovery_requests SET canonical = '\\x{forged}', canonical_sha256 = sha256('\\x{forged}')")
    refused(world, terms.id, Refusal.FORGED)


def test_a_recipient_who_is_not_the_requester_is_refused(world: World) -> None:
    """Approvals that are all in order, over a request that would be sealed to somebody else."""
    mallory = Member("alice", ("requester",)).on_roster().x25519_public.hex()
    world.owner(f"UPDATE people SET x25519_public = '\\x{mallory}' WHERE id = 'alice'")
    refused(world, world.approved().id, Refusal.RECIPIENT)


def test_expired_is_refused(world: World) -> None:
    from time import sleep

    terms = world.approved(life=SHORT * 8)
    sleep((SHORT * 8).total_seconds())
    refused(world, terms.id, Refusal.EXPIRED)
    assert state_of(world, terms.id) is RequestState.EXPIRED


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
    terms = world.approved((0, 0))
    world.ledger.record_shredded(item, 0)  # the tombstone alone: a backup brought the row back
    refused(world, terms.id, Refusal.KEY_SHREDDED)
    with world.as_("custodian").begin() as session:
        row = session.execute(select(SealedKey).where(SealedKey.item_id == item, SealedKey.face == 1)).scalar_one()
        row.state, row.wrapped = KeyState.SHREDDED, None
    refused(world, world.approved((0, 1)).id, Refusal.KEY_SHREDDED)
    assert world.custodian().open(world.approved((1, 0)).id).recovery is not None


def test_without_its_roster_or_ledger_it_opens_nothing(world: World) -> None:
    terms = world.approved()
    good = world.roster.read_text()
    for damaged in (good.replace("bob", "rob"), good[:-20], ""):
        world.roster.write_text(damaged)
        with pytest.raises(RosterInvalid):
            world.custodian().open(terms.id)
    world.roster.write_text(good)
    (world.folder / "tombstones.json").write_bytes(b'{"kind":"spent"}\n')
    with pytest.raises(LedgerInvalid):
        world.custodian().open(terms.id)
    assert state_of(world, terms.id) is RequestState.APPROVED
    (world.folder / "tombstones.json").unlink()
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
    with world.as_("custodian")() as session, pytest.raises(IntegrityError, match="quorum"):
        session.execute(insert(Ticket).values(request_id=terms.id, expires_at=soon))
    world.approve(terms, "carol")
    with world.as_("custodian").begin() as session:
        session.execute(insert(Ticket).values(request_id=terms.id, expires_at=soon))
    with world.as_("custodian")() as session, pytest.raises(IntegrityError, match="spent ticket"):
        ticket = session.execute(select(Ticket.id)).scalar_one()
        session.execute(insert(Recovery).values(ticket_id=ticket, key_bundle=b"x", expires_at=soon))
    with world.as_("custodian").begin() as session:
        session.execute(update(Ticket).values(spent_at=func.now()))
    with world.as_("custodian")() as session, pytest.raises(DBAPIError, match="spent once"):
        session.execute(update(Ticket).values(spent_at=func.now()))
    with world.as_("custodian")() as session, pytest.raises(IntegrityError, match="tickets_request_id_key"):
        session.execute(insert(Ticket).values(request_id=terms.id, expires_at=soon))


def test_the_custodian_knows_no_torch_and_no_image_decoder() -> None:
    code = (
        "import sys, workers.custody.service, workers.custody.judge, workers.app, workers.settings, workers.db\n"
        "print([name for name in ('torch', 'PIL', 'cv2', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
