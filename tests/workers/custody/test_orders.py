"""Key officers' orders: what is shredded and stays shredded, what holds forbid, and whose word counts."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import undefer

from schemas.contexts import LAYOUT_FACE
from schemas.orders import OrderTerms, order_message
from schemas.policies import Policy
from schemas.requests import FaceRef, KeyBundle, bundle_info
from schemas.states import KeyState, OrderKind, OrderScope, OrderState, RecoveryState, RequestState
from schemas.tables import (
    Alert,
    CustodyOrder,
    Outbox,
    RecoveredFace,
    Recovery,
    RecoveryRequest,
    Release,
    SealedKey,
    Subject,
)
from schemas.tables import Policy as PolicyRow
from tests.governance import POLICY, Member, World, copied
from tests.kills import kill_before, run_killed
from tests.workers.custody.lives import age, age_rows, ended
from workers.custody import keys, ordering, orders, retained, retention, shredding
from workers.custody.errors import (
    Held,
    LedgerInvalid,
    NotHeld,
    StillReleasing,
    TargetUnknown,
)
from workers.custody.holds import Portion, Target
from workers.custody.judge import Refusal
from workers.custody.ledger import Ledger
from workers.custody.opening import open_sealed
from workers.custody.ordering import OrderIncomplete, OrderStale
from workers.custody.orders import Carried, OrderRefusal, carry_out
from workers.custody.policies import write_policies
from workers.errors import PolicyUnknown
from workers.outbox.reconciler import Reconciler
from workers.recoveries.errors import FaceShredded, NothingToFetch, PersonUnknown, SignatureInvalid
from workers.recoveries.policies import load_policy, set_policy
from workers.settings import RelaySettings

SHRED, HOLD, LIFT = OrderKind
FACE, ITEM, RELEASE, SUBJECT = OrderScope
KEYS_OF = {FACE: 1, ITEM: 3, RELEASE: 6, SUBJECT: 3}  # of the first item's face 0, of it, of both, of whom it shows


@pytest.fixture
def world(world: World) -> World:
    """The release is finished; its first item shows a subject."""
    return ended(world)


def target(world: World, scope: OrderScope) -> Target:
    if scope is RELEASE:
        return Target(scope, world.release)
    if scope is SUBJECT:
        return Target(scope, world.one(select(Subject.id)))
    return Target(scope, world.items[0], 0 if scope is FACE else None)


def draft(
    world: World, kind: OrderKind, about: Target, who: str = "kim", reason: str = "a court's order"
) -> OrderTerms:
    with world.as_("gateway")() as session:
        return ordering.draft_order(session, kind, about, ordered_by=who, reason=reason)


def sign(world: World, terms: OrderTerms, who: str = "kim") -> bytes:
    return world.people[who].signing.sign(order_message(terms))


def give(world: World, kind: OrderKind, about: Target) -> OrderTerms:
    terms = draft(world, kind, about)
    with world.as_("gateway").begin() as session:
        ordering.give_order(session, terms, sign(world, terms))
    return terms


def smuggle(world: World, terms: OrderTerms, signature: bytes) -> Carried:
    """What a stolen gateway can do: write the row itself. The custodian carries it out, or not."""
    with world.as_("gateway").begin() as session:
        ordering._insert(session, terms, signature)
    return carry_out(world.custodian(), terms.id)


def order(world: World, kind: OrderKind, about: Target) -> Carried:
    return carry_out(world.custodian(), give(world, kind, about).id)


def done(world: World, kind: OrderKind, about: Target) -> Carried:
    carried = order(world, kind, about)
    assert carried.state is OrderState.DONE
    return carried


def refused(world: World, carried: Carried, refusal: OrderRefusal) -> None:
    """Said in the row, the trail and an alert; and nothing was shredded."""
    assert (carried.state, carried.refusal) == (OrderState.REFUSED, refusal.value)
    last = world.events()[-1]
    assert (last["event"], last["role"], last["fields"]["detail"]["refusal"]) == (
        "order:refused",
        "refacex_custodian",
        refusal.value,
    )
    assert world.one(select(Alert.kind).order_by(Alert.id.desc()).limit(1)) == "order_refused"
    row = select(CustodyOrder.outcome).where(CustodyOrder.id == UUID(last["fields"]["detail"]["order"]))
    assert world.one(row) == refusal.value


def live(world: World) -> set[tuple[UUID, int]]:
    with world.as_("custodian")() as session:
        rows = session.execute(select(SealedKey.item_id, SealedKey.face).where(SealedKey.wrapped.is_not(None)))
        return {(row.item_id, row.face) for row in rows}


def names(world: World) -> list[str]:
    return [each["event"] for each in world.events()]


def opened(world: World, *faces: tuple[int, int]) -> tuple[Any, UUID]:
    terms = world.approved(*faces)
    recovery = world.custodian().open(terms.id).recovery
    assert recovery is not None
    return terms, recovery


def keys_in(world: World, recovery: UUID) -> set[bytes]:
    with world.as_("recovery")() as session:
        row = session.get_one(Recovery, recovery, options=[undefer(Recovery.key_bundle)])
        info = bundle_info(recovery, row.ticket_id)
        bundle = KeyBundle.loads(open_sealed(world.recovery_key().secret(), row.key_bundle or b"", info))
    return {key for item in bundle.items for key in item.face_keys.values()}


def assert_gone(world: World, *faces: tuple[int, int]) -> None:
    """No way leads to these faces any more: not the early one, and not past the gateway."""
    for face in faces:
        with pytest.raises(FaceShredded):
            world.draft(face)
        assert past_the_gateway(world, face) is Refusal.KEY_SHREDDED


def past_the_gateway(world: World, face: tuple[int, int]) -> Refusal | None:
    """What the custodian says to a request for it that the gateway was not asked about."""
    return world.custodian().open(world.smuggled(FaceRef(world.items[face[0]], face[1])).id).refusal


# --- shredding


def test_one_face_is_shredded_and_the_bystanders_still_recover(world: World) -> None:
    request, recovery = opened(world, (0, 0), (1, 0))
    terms = give(world, SHRED, target(world, FACE))
    carried = carry_out(world.custodian(), terms.id)
    assert carried == Carried(OrderState.DONE, keys=1)
    everything = {(item, face) for item in world.items for face in (LAYOUT_FACE, 0, 1)}
    assert live(world) == everything - {(world.items[0], 0)}
    assert world.ledger.shredded(world.items[0], 0)
    assert not world.ledger.shredded(world.items[0], LAYOUT_FACE)
    with world.as_("custodian")() as session:
        row = session.get_one(Recovery, recovery, options=[undefer(Recovery.key_bundle)])
        assert (row.state, row.key_bundle, row.error_code) == (RecoveryState.FAILED, None, "key_shredded")
        assert session.get_one(RecoveryRequest, request.id).state is RequestState.FAILED
    given, shredded, ended = world.events()[-3:]
    signature = given["fields"]["detail"]["signature"]
    assert (given["event"], given["fields"]["actor"]) == ("order:given", "kim")
    world.people["kim"].signing.public_key().verify(bytes.fromhex(signature), order_message(terms))
    assert shredded["event"] == "key:shredded"
    assert shredded["fields"]["detail"] == {
        "reason": "order",
        "order": str(terms.id),
        "faces": [0],
        "layout": False,
        "keys": 1,
        "recoveries": [str(recovery)],
        "tombstone": world.ledger.tombstone(Portion(world.items[0], world.release, None, (0,))),
    }
    assert (ended["event"], ended["fields"]["detail"]["keys"]) == ("order:done", 1)
    assert {each["fields"]["request_hash"] for each in (given, shredded, ended)} == {terms.sha256().hex()}
    assert "a court's order" not in str(world.events()), "free text stays outside the tree"
    assert_gone(world, (0, 0))
    _, neighbour = opened(world, (0, 1))
    assert keys_in(world, neighbour) == {world.secrets[world.items[0], 1]}


@pytest.mark.parametrize("scope", [ITEM, RELEASE, SUBJECT])
def test_an_item_a_release_or_a_subject_goes_with_its_layout_keys(world: World, scope: OrderScope) -> None:
    about = target(world, scope)
    assert done(world, SHRED, about).keys == KEYS_OF[scope]
    items = world.items if scope is RELEASE else world.items[:1]
    assert live(world) == {(item, face) for item in world.items if item not in items for face in (LAYOUT_FACE, 0, 1)}
    assert_gone(world, *((number, face) for number in range(len(items)) for face in (0, 1)))
    events = [each for each in world.events() if each["event"] == "key:shredded"]
    assert {UUID(each["fields"]["item"]) for each in events} == set(items)
    assert all(each["fields"]["detail"]["layout"] and each["fields"]["detail"]["keys"] == 3 for each in events)
    lines = (world.folder / "tombstones.json").read_bytes().splitlines()
    hashes = [hashlib.sha256(line).hexdigest() for line in lines]
    assert all(each["fields"]["detail"]["tombstone"] in hashes for each in events), "the proof is in the ledger"


def test_a_subject_is_forgotten_with_its_keys(world: World) -> None:
    about = target(world, SUBJECT)
    done(world, SHRED, about)
    with world.as_("gateway")() as session:
        subject = session.get_one(Subject, about.id)
        assert (subject.reference, subject.erased_at is not None) == (None, True)
    assert names(world) == ["order:given", "key:shredded", "subject:erased", "order:done"]
    erased = world.events()[-2]
    assert erased["fields"]["subject"] == str(about.id)
    assert "patient 17" not in str(world.events())


def test_every_attempts_keys_go(world: World) -> None:
    """A loser's keys were set aside, not shredded: an order takes them too."""
    with world.as_("relay").begin() as session:
        session.execute(update(SealedKey).where(SealedKey.face == 0).values(state=KeyState.SUPERSEDED))
    done(world, SHRED, target(world, FACE))
    assert (world.items[0], 0) not in live(world)


def test_a_recovered_face_that_nobody_fetched_is_taken_away(world: World) -> None:
    request, recovery = opened(world, (0, 0), (0, 1))
    rows = [{"recovery_id": recovery, "item_id": world.items[0], "face": face, "sha256": "x"} for face in (0, 1)]
    with world.as_("recovery").begin() as session:
        session.execute(insert(RecoveredFace), [row | {"sealed": b"sealed"} for row in rows])
        session.execute(update(Recovery).values(state=RecoveryState.RECOVERED, key_bundle=None))
    done(world, SHRED, target(world, FACE))
    left = select(RecoveredFace.face).where(RecoveredFace.sealed.is_not(None))
    assert world.one(left) == 1
    assert world.one(select(Recovery.state)) is RecoveryState.RECOVERED
    done(world, SHRED, target(world, ITEM))
    assert world.one(select(func.count()).select_from(left.subquery())) == 0
    assert world.one(select(Recovery.state)) is RecoveryState.EXPIRED
    with pytest.raises(NothingToFetch):
        world.fetch(request, recovery)


def test_a_message_that_comes_twice_shreds_once(world: World) -> None:
    terms = give(world, SHRED, target(world, ITEM))
    assert carry_out(world.custodian(), terms.id).keys == 3
    events, ledger = world.events(), (world.folder / "tombstones.json").read_bytes()
    assert carry_out(world.custodian(), terms.id) == Carried(OrderState.DONE)
    assert (world.events(), (world.folder / "tombstones.json").read_bytes()) == (events, ledger)
    message = select(Outbox.args).where(Outbox.task == "custody.carry_out")
    assert world.one(message, role="relay") == [str(terms.id)]


def test_a_release_that_is_still_being_made_is_not_shredded(world: World) -> None:
    world.owner(
        "ALTER TABLE releases DISABLE TRIGGER USER", "UPDATE releases SET state = 'running', finished_at = NULL"
    )
    with pytest.raises(StillReleasing):
        draft(world, SHRED, target(world, RELEASE))
    late = replace(draft(world, HOLD, target(world, RELEASE)), kind=SHRED)
    refused(world, smuggle(world, late, sign(world, late)), OrderRefusal.UNFINISHED)
    assert len(live(world)) == 6
    assert done(world, SHRED, target(world, ITEM)).keys == 3, "an item that has ended may go before its release"
    unfinished = uuid4()
    world.owner(
        "ALTER TABLE items DISABLE TRIGGER USER",
        "INSERT INTO items (id, release_id, position, source_uri, relative_name, subject_id) "
        f"VALUES ('{unfinished}', '{world.release}', 9, 'x', 'x', '{target(world, SUBJECT).id}')",
    )
    for about in (target(world, SUBJECT), Target(ITEM, unfinished)):
        with pytest.raises(StillReleasing):
            draft(world, SHRED, about)


# --- whose word counts


def test_only_a_key_officer_orders_and_with_their_own_key(world: World) -> None:
    about = target(world, ITEM)
    for who in ("bob", "alice", "olga", "mallory"):
        with pytest.raises(PersonUnknown):
            draft(world, SHRED, about, who=who)
    for reason in ("", "  "):
        with pytest.raises(OrderIncomplete):
            draft(world, SHRED, about, reason=reason)
    for nothing in (Target(ITEM, uuid4()), Target(RELEASE, uuid4()), Target(FACE, world.items[0], 2)):
        with pytest.raises(TargetUnknown):
            draft(world, SHRED, nothing)
    terms = draft(world, SHRED, about)
    for signature in (bytes(64), sign(world, terms, "bob"), sign(world, replace(terms, kind=HOLD))):
        with world.as_("gateway")() as session, pytest.raises(SignatureInvalid):
            ordering.give_order(session, terms, signature)
    for apart in (timedelta(minutes=-11), timedelta(minutes=1)):
        other = replace(terms, created_at=terms.created_at + apart)
        with world.as_("gateway")() as session, pytest.raises(OrderStale):
            ordering.give_order(session, other, sign(world, other))
    assert world.events() == []


def _forged(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    return terms, Member("kim", ("key-officer",)).signing.sign(order_message(terms))


def _of_another_order(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    return terms, sign(world, replace(terms, scope=FACE, face=0))


def _a_hold_made_a_shredding(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    return terms, sign(world, replace(terms, kind=HOLD))


def _by_an_approver(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    terms = replace(terms, ordered_by="bob")
    return terms, sign(world, terms, "bob")


def _by_nobody_on_the_roster(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    """The database owner makes an officer, with a key and all."""
    mallory, terms = Member("mallory", ("key-officer",)), replace(terms, ordered_by="mallory")
    keys = mallory.on_roster()
    world.owner(
        "INSERT INTO people (id, tenant, roles, ed25519_public, x25519_public) VALUES ('mallory', 'acme', "
        f"'{{key-officer}}', '\\x{keys.ed25519_public.hex()}', '\\x{keys.x25519_public.hex()}')"
    )
    return terms, mallory.signing.sign(order_message(terms))


def _for_another_tenant(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    """An officer of one tenant orders what is another's."""
    terms = replace(terms, tenant="globex")
    return terms, sign(world, terms)


def _too_old(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    terms = replace(terms, created_at=terms.created_at - timedelta(days=8))
    return terms, sign(world, terms)


def _from_the_future(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    terms = replace(terms, created_at=terms.created_at + timedelta(days=1))
    return terms, sign(world, terms)


def _of_nothing(world: World, terms: OrderTerms) -> tuple[OrderTerms, bytes]:
    terms = replace(terms, target=uuid4())
    return terms, sign(world, terms)


ATTACKS: dict[Callable[[World, OrderTerms], tuple[OrderTerms, bytes]], OrderRefusal] = {
    _forged: OrderRefusal.FORGED,
    _of_another_order: OrderRefusal.FORGED,
    _a_hold_made_a_shredding: OrderRefusal.FORGED,
    _by_an_approver: OrderRefusal.OFFICER,
    _by_nobody_on_the_roster: OrderRefusal.OFFICER,
    _for_another_tenant: OrderRefusal.OFFICER,
    _too_old: OrderRefusal.STALE,
    _from_the_future: OrderRefusal.STALE,
    _of_nothing: OrderRefusal.TARGET,
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
def test_an_order_that_is_not_an_officers_word_is_refused(
    world: World, attack: Callable[[World, OrderTerms], tuple[OrderTerms, bytes]]
) -> None:
    terms, signature = attack(world, draft(world, SHRED, target(world, ITEM)))
    refused(world, smuggle(world, terms, signature), ATTACKS[attack])
    assert len(live(world)) == 6
    assert world.ledger.buried() == {}


def test_an_officer_of_a_tenant_does_not_reach_another_tenants_release(world: World) -> None:
    """The order is in order, and the release turns out to be somebody else's."""
    terms = draft(world, SHRED, target(world, ITEM))
    world.owner("ALTER TABLE releases DISABLE TRIGGER USER", "UPDATE releases SET tenant = 'globex'")
    refused(world, smuggle(world, terms, sign(world, terms)), OrderRefusal.TARGET)
    assert len(live(world)) == 6


CHANGES = ["target = gen_random_uuid()", "scope = 'release'", "reason = 'x'", "kind = 'lift'", "ordered_by = 'kim2'"]


@pytest.mark.parametrize("change", CHANGES)
def test_an_order_changed_after_it_was_signed_is_refused(world: World, change: str) -> None:
    terms = give(world, SHRED, target(world, ITEM))
    world.owner("ALTER TABLE custody_orders DISABLE TRIGGER USER", f"UPDATE custody_orders SET {change}")
    refused(world, carry_out(world.custodian(), terms.id), OrderRefusal.CHANGED)
    assert len(live(world)) == 6


def test_a_message_for_an_order_that_nobody_gave_is_refused(world: World) -> None:
    assert carry_out(world.custodian(), uuid4()) == Carried(None)
    assert names(world) == ["message:refused"]
    assert world.one(select(Alert.kind)) == "message_refused"


def test_an_order_whose_message_was_lost_is_asked_for_again(world: World) -> None:
    terms = give(world, SHRED, target(world, ITEM))
    settings = RelaySettings.model_construct(stalled_seconds=60.0)
    reconciler = Reconciler(settings, world.as_("relay"), storage=None)  # type: ignore[arg-type]  # it asks for no object
    written = select(func.count()).select_from(Outbox).where(Outbox.task == "custody.carry_out")
    reconciler.bring_back(queue_is_empty=False)
    assert world.one(written, role="relay") == 1  # its message still waits in the outbox
    world.owner("UPDATE outbox SET published_at = now(), created_at = now() - interval '1 hour'")
    reconciler.bring_back(queue_is_empty=False)
    assert world.one(written, role="relay") == 2  # the broker lost it
    query = select(Outbox.args).where(Outbox.published_at.is_(None), Outbox.task == "custody.carry_out")
    assert world.one(query, role="relay") == [str(terms.id)]
    carry_out(world.custodian(), terms.id)
    world.owner("UPDATE outbox SET published_at = now(), created_at = now() - interval '1 hour'")
    reconciler.bring_back(queue_is_empty=False)
    assert world.one(written, role="relay") == 2


def test_a_recovery_ends_with_its_keys_also_where_somebody_took_those_before(world: World) -> None:
    _, recovery = opened(world, (0, 0))
    world.owner(
        "ALTER TABLE sealed_keys DISABLE TRIGGER USER",
        "UPDATE sealed_keys SET wrapped = NULL, state = 'shredded'",
    )
    terms = give(world, SHRED, target(world, FACE))
    assert carry_out(world.custodian(), terms.id).state is OrderState.DONE
    assert world.one(select(Recovery.state).where(Recovery.id == recovery)) is RecoveryState.FAILED


def test_a_large_order_lets_others_go_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One item a go: between two of them another request is opened, and the order is done in the end, once."""
    monkeypatch.setattr("workers.custody.shredding.SLICE", timedelta(0))
    terms = give(world, SHRED, target(world, RELEASE))
    items = len(world.items)
    assert items > 1
    waiting = select(func.count()).select_from(Outbox).where(Outbox.task == "custody.carry_out")
    for step in range(items - 1):
        assert carry_out(world.custodian(), terms.id) == Carried(OrderState.GIVEN, keys=3), step
        assert world.one(waiting, role="relay") == step + 2
    assert carry_out(world.custodian(), terms.id) == Carried(OrderState.DONE, keys=3)
    assert live(world) == set()
    assert names(world).count("key:shredded") == items
    assert names(world)[-1] == "order:done"


def test_the_custodians_process_takes_both_messages(world: World) -> None:
    """By its app and its settings, as Celery starts it; a key that came back is met by an opening and taken away."""
    ring = keys.load(world.folder / "recovery.json", keys.FileKind.KEYPAIR)
    keys.write_public(world.folder / "recovery.public.json", ring.public_json())
    files = {"CUSTODY_KEYRING": "custody", "TICKET_SIGNING_KEY": "ticket", "ROSTER": "roster", "POLICIES": "policies"}
    files |= {"TOMBSTONES": "tombstones", "RECOVERY_PUBLIC_KEY": "recovery.public"}
    variables = {f"REFACEX_{name}": str(world.folder / f"{file}.json") for name, file in files.items()}
    variables |= {
        "REFACEX_DATABASE_URL": world.database.url_for("custodian"),
        "REFACEX_BROKER_URL": "redis://127.0.0.1:9",
    }
    ordered, release = give(world, SHRED, target(world, FACE)), world.release
    keep_for(world, 1)
    age(world, 2)
    came_back = world.approved((0, 1))
    world.ledger.record_shredded([Portion(world.items[0], release, None, (1,))])
    code = (
        "from workers.custody import app\n"
        f"app.open_request('{came_back.id}')\n"
        f"app.carry_out_order('{ordered.id}')\n"
        f"app.retain_release('{release}')\n"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=os.environ | variables, cwd=Path(__file__).parents[3], check=True, timeout=120)
    events = [(each["event"], each["fields"]["detail"].get("reason")) for each in world.events()]
    ends = [each for each in events if each[0] in ("ticket:refused", "key:shredded", "order:done")]
    assert ends == [
        ("ticket:refused", None),
        ("key:shredded", "tombstone"),
        ("key:shredded", "order"),
        ("order:done", None),
        ("key:shredded", "retention"),
        ("key:shredded", "retention"),
    ]
    assert live(world) == set()


# --- holds


NESTINGS = [(held, shredded) for held in OrderScope for shredded in OrderScope]


@pytest.mark.parametrize(("held", "shredded"), NESTINGS, ids=[f"{held}-{shredded}" for held, shredded in NESTINGS])
def test_a_hold_forbids_shredding_in_every_nesting(world: World, held: OrderScope, shredded: OrderScope) -> None:
    """The first item's face 0 lies in all four: whichever is held, none of them goes, not even in part."""
    assert done(world, HOLD, target(world, held)).keys == 0
    first = give(world, SHRED, target(world, shredded))
    refused(world, carry_out(world.custodian(), first.id), OrderRefusal.HELD)
    assert (len(live(world)), world.ledger.buried()) == (6, {})
    done(world, LIFT, target(world, held))
    assert done(world, SHRED, target(world, shredded)).keys == KEYS_OF[shredded]


def test_a_hold_keeps_what_it_names_and_no_more(world: World) -> None:
    done(world, HOLD, target(world, FACE))
    assert done(world, SHRED, Target(FACE, world.items[0], 1)).keys == 1
    assert done(world, SHRED, Target(ITEM, world.items[1])).keys == 3
    with world.as_("gateway")() as session:
        (standing,) = ordering.standing_holds(session)
    assert Target.of(standing) == target(world, FACE)


def test_lifting_what_is_not_held(world: World) -> None:
    done(world, HOLD, target(world, ITEM))
    with pytest.raises(NotHeld):
        draft(world, LIFT, target(world, RELEASE))
    terms = replace(draft(world, HOLD, target(world, RELEASE)), kind=LIFT)
    refused(world, smuggle(world, terms, sign(world, terms)), OrderRefusal.NOT_HELD)


def bring_back(world: World, terms: OrderTerms) -> Carried:
    """The owner makes an order look as if it had never been answered, and sends its message again."""
    world.owner(
        "ALTER TABLE custody_orders DISABLE TRIGGER USER",
        f"UPDATE custody_orders SET state = 'given', outcome = NULL WHERE id = '{terms.id}'",
        "ALTER TABLE custody_orders ENABLE TRIGGER USER",
    )
    return carry_out(world.custodian(), terms.id)


def test_nobody_who_writes_to_the_database_lifts_a_hold(world: World) -> None:
    about = target(world, ITEM)
    done(world, HOLD, about)
    first_lift = give(world, LIFT, about)
    carry_out(world.custodian(), first_lift.id)
    kept = draft(world, HOLD, about)
    unused_lift = replace(kept, id=uuid4(), kind=LIFT)  # signed before the second hold, and never handed in
    signature = sign(world, unused_lift)
    done(world, HOLD, about)
    assert bring_back(world, first_lift).state is OrderState.DONE  # as before, and nothing of it anew
    refused(world, smuggle(world, unused_lift, signature), OrderRefusal.NOT_HELD)
    world.owner("ALTER TABLE custody_orders DISABLE TRIGGER USER", "DELETE FROM custody_orders")
    refused(world, order(world, SHRED, about), OrderRefusal.HELD)
    assert len(live(world)) == 6


def test_a_refused_order_stays_refused(world: World) -> None:
    """Once the hold is lifted, nobody brings back the shredding that it forbade: the officer orders it again, or not."""
    done(world, HOLD, target(world, FACE))
    terms = give(world, SHRED, target(world, ITEM))
    refused(world, carry_out(world.custodian(), terms.id), OrderRefusal.HELD)
    done(world, LIFT, target(world, FACE))
    refused(world, bring_back(world, terms), OrderRefusal.HELD)
    assert len(live(world)) == 6


# --- crashes, backups, and the ledger


STEPS = {
    "judged": kill_before(Ledger, "record_shredded", 1),
    "before the ledger is on disk": kill_before(os, "fsync", 1),
    "tombstones written": kill_before(shredding, "shred", 1),
    "inside the first item": kill_before(shredding, "append", 1),
    "first item done": kill_before(shredding, "shred", 2),
    "all items done": kill_before(orders, "_given", 1),
    "before the last event": kill_before(orders, "append", 1),
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_next_message_makes_it_whole(world: World, step: str) -> None:
    terms = give(world, SHRED, target(world, RELEASE))
    run_killed(STEPS[step], lambda: carry_out(world.custodian(), terms.id))
    assert world.one(select(CustodyOrder.state)) is OrderState.GIVEN
    gone = {(item, face) for item in world.items for face in (LAYOUT_FACE, 0, 1)} - live(world)
    assert all(world.ledger.shredded(item, face) for item, face in gone), "no key goes before its tombstone stands"
    carry_out(world.custodian(), terms.id)
    assert world.one(select(CustodyOrder.state)) is OrderState.DONE
    assert (live(world), world.one(select(CustodyOrder.outcome))) == (set(), "6")
    assert world.ledger.buried() == dict.fromkeys(world.items)
    assert sorted(names(world)) == ["key:shredded", "key:shredded", "order:done", "order:given"]


def test_a_write_that_was_cut_short_between_tombstones_is_finished(world: World) -> None:
    terms = give(world, SHRED, target(world, RELEASE))
    path = world.folder / "tombstones.json"
    carry_out(world.custodian(), terms.id)
    begun, first, rest = path.read_bytes().split(b"\n", 2)
    path.write_bytes(begun + b"\n" + first + b"\n" + rest[:40])
    world.owner(
        "ALTER TABLE custody_orders DISABLE TRIGGER USER", "UPDATE custody_orders SET state = 'given', outcome = NULL"
    )
    assert world.ledger.answer(terms.id) is None
    assert carry_out(world.custodian(), terms.id).state is OrderState.DONE
    assert world.ledger.buried() == dict.fromkeys(world.items)


def test_without_the_trail_nothing_is_shredded_from_the_database(world: World) -> None:
    terms = give(world, SHRED, target(world, ITEM))
    world.owner("REVOKE EXECUTE ON FUNCTION audit.append(text, jsonb) FROM refacex_custodian")
    with pytest.raises(Exception, match="permission denied"):
        carry_out(world.custodian(), terms.id)
    assert len(live(world)) == 6
    world.owner("GRANT EXECUTE ON FUNCTION audit.append(text, jsonb) TO refacex_custodian")
    assert carry_out(world.custodian(), terms.id).keys == 3


def test_yesterdays_backup_opens_nothing_that_was_shredded(world: World) -> None:
    subject = target(world, SUBJECT)
    with copied(world.database) as backup:
        done(world, SHRED, subject)
        restored = replace(world, database=backup)
        assert (world.items[0], 0) in live(restored)
        terms = restored.approved((0, 0))  # the database of yesterday knows of nothing
        opening = restored.custodian().open(terms.id)
        assert (opening.recovery, opening.refusal) == (None, Refusal.KEY_SHREDDED)
        assert shredding.shred_again(restored.custodian()) == 3
        assert live(restored) == {(world.items[1], face) for face in (LAYOUT_FACE, 0, 1)}
        assert restored.one(select(Subject.reference)) is None
        event = next(each for each in restored.events() if each["event"] == "key:shredded")
        assert event["fields"]["detail"]["reason"] == "tombstone"
        assert shredding.shred_again(restored.custodian()) == 0
        assert_gone(restored, (0, 0), (0, 1))
        assert restored.custodian().open(restored.approved((1, 0)).id).recovery is not None


def test_an_order_that_a_backup_brought_back_shreds_again(world: World) -> None:
    terms = give(world, SHRED, target(world, ITEM))
    with copied(world.database) as backup:
        carry_out(world.custodian(), terms.id)
        restored = replace(world, database=backup)
        assert carry_out(restored.custodian(), terms.id) == Carried(OrderState.DONE, keys=3)


def test_a_hold_outlives_a_backup_from_before_it(world: World) -> None:
    with copied(world.database) as backup:
        done(world, HOLD, target(world, FACE))
        restored = replace(world, database=backup)
        refused(restored, order(restored, SHRED, target(world, RELEASE)), OrderRefusal.HELD)
        done(restored, HOLD, target(world, RELEASE))


def test_ledgers_of_before_are_read_and_damage_is_seen(world: World) -> None:
    """One line a face, as it was written before orders; then an order's lines after it."""
    path, item = world.folder / "tombstones.json", world.items[0]
    old = f'{{"at":"2026-11-20T10:00:00Z","before":"{"0" * 64}","face":1,"item":"{item}","kind":"shredded","v":1}}\n'
    path.write_text(old)
    assert world.ledger.shredded(item, 1)
    done(world, HOLD, target(world, FACE))
    done(world, SHRED, Target(ITEM, world.items[1]))
    old_line, pinned, *rest = path.read_bytes().splitlines(keepends=True)
    assert (b'"pinned"' in pinned, world.ledger.id) == (True, None)
    lines = [old_line + pinned, *rest]  # the custodian tells what is pinned before it obeys
    assert len(lines) == 4
    assert world.ledger.buried() == {item: (1,), world.items[1]: None}
    unheld = lines[0] + lines[2] + lines[3]
    renamed = b"".join(lines).replace(b'"hold"', b'"lift"')
    lifted = b"".join(lines).replace(b'"kind":"hold"', b'"kind":"refused"')
    moved = b"".join(lines).replace(str(world.items[1]).encode(), str(item).encode())
    for damaged in (unheld, renamed, lifted, moved, lines[0] + lines[1] + lines[3]):
        path.write_bytes(damaged)
        for question in (lambda: world.ledger.holds(), lambda: world.ledger.shredded(item, 0)):
            with pytest.raises(LedgerInvalid):
                question()
        with pytest.raises(LedgerInvalid):
            order(world, SHRED, target(world, FACE))
    assert hashlib.sha256(old_line.rstrip(b"\n")).hexdigest() in pinned.decode()
    assert len(live(world)) == 3


def test_a_ledger_that_loses_its_end_under_a_running_custodian_is_seen(world: World) -> None:
    """A cut end alone leaves a chain that holds; who has read the end before knows better."""
    path, running = world.folder / "tombstones.json", world.ledger
    done(world, SHRED, target(world, FACE))
    done(world, HOLD, target(world, ITEM))
    assert running.holds().standing().keys() == {target(world, ITEM)}
    good = path.read_bytes()
    for damage in (lambda: path.write_bytes(good[: good.rindex(b"{")]), path.unlink):
        damage()
        with pytest.raises(LedgerInvalid):
            running.holds()
        with pytest.raises(LedgerInvalid):
            running.record_spent(uuid4(), uuid4(), uuid4())
        path.write_bytes(good)
        assert running.holds().standing().keys() == {target(world, ITEM)}


# --- retention


def keep_for(world: World, days: int | None, *, pinned: int | None = -1) -> None:
    """The policy as the database has it, and the custodian's copy, where another one is wanted."""
    policy = Policy("acme", POLICY, retain_days=days)
    write_policies(world.policies, [policy if pinned == -1 else replace(policy, retain_days=pinned)])
    with world.as_("gateway").begin() as session:
        set_policy(session, policy, "root")


def asked(world: World) -> list[Any]:
    with world.as_("relay").begin() as session:
        retained.ask_for_due(session)
        return list(session.scalars(select(Outbox.args).where(Outbox.task == "custody.retain")))


def test_a_large_release_goes_in_several_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.custody.shredding.SLICE", timedelta(0))
    keep_for(world, 30)
    age(world, 40)
    for step, _ in enumerate(world.items, start=1):
        assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, keys=3)
        assert len(asked(world)) == min(step, len(world.items) - 1)
    assert live(world) == set()


def test_nobody_feigns_that_retention_was_asked_for(world: World) -> None:
    """A release worker does not ask; whoever does asks now; and what somebody wrote past the guards stops nothing either."""
    keep_for(world, 30)
    age(world, 31)
    write = (
        "INSERT INTO outbox (broker, queue, task, args, created_at, published_at) VALUES ('{}', '{}', 'custody.retain', "
        f"'[\"{world.release}\"]', 'infinity', 'infinity')"
    )
    with world.as_("release")() as session, pytest.raises(DBAPIError, match="row-level security"):
        session.execute(text(write.format("release", "exports")))
    with world.as_("gateway").begin() as session:
        session.execute(text(write.format("privileged", "custody")))
    assert asked(world) == [[str(world.release)]]
    assert world.one(select(Outbox.published_at).where(Outbox.task == "custody.retain"), "relay") is None, "it is asked"
    row = "INSERT INTO outbox (broker, queue, task, args) VALUES ('privileged', 'custody', 'custody.retain', '{}')"
    world.owner(
        "UPDATE outbox SET created_at = created_at - interval '2 days'",
        "ALTER TABLE outbox DROP CONSTRAINT outbox_message",
        *(row.format(args) for args in ("[]", "[{}]", "[[]]", "[null, 7]")),
    )
    assert asked(world)[5:] == [[str(world.release)]]


def test_a_policy_that_nobody_can_read_ends_nobody_elses_retention(world: World) -> None:
    keep_for(world, 30)
    age(world, 31)
    strict = Policy("acme", POLICY).body()
    bodies = [{}, {"retain_days": 5}, [], 5, "x", strict | {"hours": 7}, strict | {"name": []}]
    with world.as_("gateway").begin() as session:
        for number, body in enumerate(bodies, start=7):
            for tenant, name in (("zzz", "x"), ("acme", POLICY)):
                canonical = b"%d" % number
                values = {"tenant": tenant, "name": name, "version": number, "canonical": canonical, "set_by": "root"}
                values |= {"canonical_sha256": hashlib.sha256(canonical).digest(), "body": body}
                session.execute(insert(PolicyRow).values(values))
    assert asked(world) == [[str(world.release)]]
    with world.as_("gateway")() as session:
        assert load_policy(session, "acme", POLICY).retain_days == 30
        with pytest.raises(PolicyUnknown):
            load_policy(session, "zzz", "x")


def test_keys_go_when_their_time_is_over(world: World) -> None:
    assert asked(world) == []
    keep_for(world, 30)
    with world.as_("gateway")() as session:
        (kept,) = retained.retained(session)
    assert (kept.release, kept.policy, kept.is_due) == (world.release, POLICY, False)
    assert (asked(world), retention.retain(world.custodian(), world.release).due) == ([], False)
    age(world, 31)
    assert asked(world) == [[str(world.release)]]
    assert asked(world) == [[str(world.release)]], "at most once a day"
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, keys=6)
    assert live(world) == set()
    assert_gone(world, (0, 0), (1, 1))
    events = [each["fields"] for each in world.events() if each["event"] == "key:shredded"]
    assert [(each["actor"], each["detail"]["reason"]) for each in events] == [("custodian", "retention")] * 2
    assert retention.retain(world.custodian(), world.release).keys == 0
    with world.as_("relay").begin() as session:
        session.execute(text("UPDATE outbox SET published_at = now()"))
    world.owner("UPDATE outbox SET created_at = now() - interval '2 days'")
    assert len(asked(world)) == 1, "nothing is left to ask for"


def test_the_custodian_goes_by_its_own_policy_and_by_when_it_was_submitted(world: World) -> None:
    keep_for(world, 0, pinned=None)
    assert len(asked(world)) == 1
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=False)
    keep_for(world, 0, pinned=30)
    assert not retention.retain(world.custodian(), world.release).due
    age_rows(world, 365)
    assert not retention.retain(world.custodian(), world.release).due, "the trail says when it ended, and not its row"
    with world.as_("relay")() as session, pytest.raises(DBAPIError, match="finished once"):
        session.execute(update(Release).values(finished_at=func.now() - timedelta(days=365)))
    assert not retention.retain(world.custodian(), world.release).due
    assert len(live(world)) == 6


def test_retention_keeps_what_is_held(world: World) -> None:
    keep_for(world, 1)
    age(world, 2)
    done(world, HOLD, target(world, FACE))
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, keys=3, held=1)
    assert live(world) == {(world.items[0], face) for face in (LAYOUT_FACE, 0, 1)}
    done(world, LIFT, target(world, FACE))
    done(world, HOLD, target(world, RELEASE))
    assert retention.retain(world.custodian(), world.release).keys == 0
    done(world, LIFT, target(world, RELEASE))
    assert retention.retain(world.custodian(), world.release).keys == 3


def test_retention_asked_for_a_release_that_there_is_none_of(world: World) -> None:
    assert retention.retain(world.custodian(), uuid4()) == retention.Retention(due=False)
    assert names(world) == ["message:refused"]


def test_a_hold_that_comes_between_is_kept(world: World) -> None:
    """Between the custodian's look at its holds and its ledger, another process writes one."""
    keep_for(world, 0)
    hold = give(world, HOLD, target(world, ITEM))

    class Overtaken(Ledger):
        def record_shredded(self, *arguments: Any, **named: Any) -> None:
            carry_out(world.custodian(), hold.id)
            super().record_shredded(*arguments, **named)

    overtaken = replace(world.custodian(), ledger=Overtaken(world.folder / "tombstones.json"))
    with pytest.raises(Held):
        retention.retain(overtaken, world.release)
    assert len(live(world)) == 6
