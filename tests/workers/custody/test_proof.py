"""Whoever owns the database moves rows and puts them back: nothing is shredded that is not proven to be what was meant."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select

from schemas.contexts import LAYOUT_FACE
from schemas.orders import OrderTerms, order_message
from schemas.policies import Policy
from schemas.states import OrderKind, OrderScope, OrderState
from schemas.tables import Alert, Release, SealedKey
from tests.governance import POLICY, Member, World
from tests.kills import kill_before, run_killed
from tests.workers.audit.harness import as_superuser, write
from tests.workers.custody.lives import age, age_rows, ended
from workers.custody import ordering, proof, retention, shredding
from workers.custody.holds import Target
from workers.custody.orders import Carried, OrderRefusal, carry_out
from workers.custody.policies import write_policies
from workers.custody.roster import write_roster
from workers.recoveries import people as people_of

SHRED, HOLD, LIFT = OrderKind
FACE, ITEM, RELEASE, SUBJECT = OrderScope
GHOST = UUID("99999999-9999-4999-8999-999999999999")


@pytest.fixture
def world(world: World) -> World:
    """The release is finished, its keys are kept for a month, and another tenant has a key officer of its own."""
    world = ended(world)
    world.people = {**world.people, "kay": Member("kay", ("key-officer",))}
    kay = world.people["kay"].on_roster("globex")
    write_roster(world.roster, [*(world.people[name].on_roster() for name in world.people if name != "kay"), kay])
    with world.as_("gateway").begin() as session:
        people_of.add(session, kay, "root")
    write_policies(world.policies, [Policy(tenant, POLICY, retain_days=30) for tenant in ("acme", "globex")])
    world.custodian().load_roster()
    world.custodian().load_policies()
    return replace(world, seeded=world.seeded + len(world.events()))


def give(world: World, kind: OrderKind, about: Target, who: str = "kim") -> OrderTerms:
    with world.as_("gateway").begin() as session:
        terms = ordering.draft_order(session, kind, about, ordered_by=who, reason="a case")
        ordering.give_order(session, terms, world.people[who].signing.sign(order_message(terms)))
    return terms


def order(world: World, kind: OrderKind, about: Target, who: str = "kim") -> Carried:
    return carry_out(world.custodian(), give(world, kind, about, who).id)


def done(world: World, kind: OrderKind, about: Target, who: str = "kim") -> None:
    assert order(world, kind, about, who).state is OrderState.DONE


def refused(world: World, carried: Carried, refusal: OrderRefusal) -> None:
    assert (carried.state, carried.refusal) == (OrderState.REFUSED, refusal.value)
    assert world.one(select(Alert.kind).order_by(Alert.id.desc()).limit(1)) == "order_refused"


def unharmed(world: World) -> None:
    """Every key is there, and opens for who may have it."""
    with world.as_("custodian")() as session:
        assert session.execute(select(func.count()).where(SealedKey.wrapped.is_not(None))).scalar_one() == 6
    assert world.ledger.buried() == {}
    assert world.custodian().open(world.approved((0, 0), (0, 1), (1, 0), (1, 1)).id).recovery is not None


def at_rows(world: World, *statements: str) -> None:
    """The owner changes rows, and every guard is as it was afterwards."""
    tables = ("releases", "items", "subjects")
    off, on = ([f"ALTER TABLE {table} {verb} TRIGGER USER" for table in tables] for verb in ("DISABLE", "ENABLE"))
    world.owner(*off, *statements, *on)


def move_to_a_ghost(world: World, item: UUID) -> None:
    """The item lies in a release that ended two years ago, and that nobody ever made."""
    columns = [column.name for column in Release.__table__.columns]
    long_ago = {"id": f"'{GHOST}'::uuid", "created_at": "now() - interval '800 days'"}
    long_ago |= {"finished_at": "now() - interval '790 days'", "name": "'ghost'"}
    copied = ", ".join(long_ago.get(column, column) for column in columns)
    at_rows(
        world,
        f"INSERT INTO releases ({', '.join(columns)}) SELECT {copied} FROM releases WHERE id = '{world.release}'",
        f"UPDATE items SET release_id = '{GHOST}' WHERE id = '{item}'",
    )


def put_back(world: World) -> None:
    at_rows(
        world,
        f"UPDATE items SET release_id = '{world.release}' WHERE release_id = '{GHOST}'",
        f"DELETE FROM releases WHERE id = '{GHOST}'",
    )


def told(world: World) -> list[tuple[str, str | None]]:
    return [(each["event"], each["fields"].get("detail", {}).get("refusal")) for each in world.events()]


def alerts(world: World) -> list[str]:
    with world.as_("gateway")() as session:
        return list(session.scalars(select(Alert.kind).order_by(Alert.id)))


# --- retention


def test_an_item_moved_into_an_old_release_is_not_retired(world: World) -> None:
    """The trail does not know that release; and where the owner writes that it ended long ago, its keys know theirs."""
    done(world, HOLD, Target(RELEASE, world.release))
    world = replace(world, seeded=world.seeded + len(world.events()))
    move_to_a_ghost(world, world.items[0])
    assert retention.retain(world.custodian(), GHOST) == retention.Retention(due=False)
    assert (told(world), alerts(world)) == ([("message:refused", None)], ["message_refused"])
    for event, role in (("release:submitted", "refacex_gateway"), ("release:finished", "refacex_relay")):
        write(world, event, {"actor": "sam", "release": str(GHOST), "detail": {"items": 1}}, role=role)
    age(world, 800)
    assert retention.retain(world.custodian(), GHOST) == retention.Retention(due=True, strange=1)
    assert told(world)[-1] == ("message:refused", "key_does_not_open")
    assert alerts(world)[-1] == "key_refused"
    put_back(world)
    age(world, -800)
    unharmed(world)


def test_a_refusal_does_not_mind_what_others_write_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*_: object) -> None:
        write(world, "item:claimed", {"actor": "release-worker"}, role="refacex_release")

    monkeypatch.setattr(proof, "ended_at", meanwhile)
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=False)
    assert [name for name, _ in told(world)] == ["item:claimed", "message:refused"]


def test_without_a_hold_as_well(world: World) -> None:
    move_to_a_ghost(world, world.items[0])
    retention.retain(world.custodian(), GHOST)
    put_back(world)
    unharmed(world)


def test_retention_goes_by_the_trails_own_times(world: World) -> None:
    age_rows(world, 800)
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=False)
    age_rows(world, -800)
    unharmed(world)
    age(world, 31)
    assert retention.retain(world.custodian(), world.release).keys == 6
    (shredded, _) = [each["fields"]["detail"] for each in world.events() if each["event"] == "key:shredded"]
    assert (shredded["retain_days"], shredded["policy_sha256"]) == (30, _strict().sha256().hex())


def _strict() -> Policy:
    return Policy("acme", POLICY, retain_days=30)


@pytest.mark.parametrize("column", ["tenant = 'globex'", 'policy = \'{"name": "default"}\''])
def test_a_release_under_another_name_is_not_retired_by_that_ones_policy(world: World, column: str) -> None:
    age(world, 10)
    write_policies(world.policies, [_strict(), Policy("globex", POLICY, retain_days=1), Policy("acme", retain_days=1)])
    at_rows(world, f"UPDATE releases SET {column}")
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, strange=2)
    at_rows(world, "UPDATE releases SET tenant = 'acme', policy = '{\"name\": \"strict\"}'")
    unharmed(world)


def test_keys_put_out_of_sight_are_not_buried(world: World) -> None:
    """An item whose keys somebody hid proves nothing: neither its time nor an order of its new release takes them."""
    hidden, shown = uuid4(), world.items[0]
    at_rows(
        world,
        "INSERT INTO items (id, release_id, position, source_uri, relative_name) "
        f"VALUES ('{hidden}', '{world.release}', 9, 'x', 'x')",
    )
    as_superuser(world, f"UPDATE sealed_keys SET item_id = '{hidden}' WHERE item_id = '{shown}'")
    move_to_a_ghost(world, shown)
    for event, role in (("release:submitted", "refacex_gateway"), ("release:finished", "refacex_relay")):
        write(world, event, {"actor": "sam", "release": str(GHOST)}, role=role)
    age(world, 800)
    assert retention.retain(world.custodian(), GHOST) == retention.Retention(due=True)
    age(world, -800)
    refused(world, order(world, SHRED, Target(RELEASE, GHOST)), OrderRefusal.FOREIGN)
    put_back(world)
    as_superuser(world, f"UPDATE sealed_keys SET item_id = '{shown}' WHERE item_id = '{hidden}'")
    as_superuser(world, f"DELETE FROM items WHERE id = '{hidden}'")
    unharmed(world)


# --- orders


def test_an_order_for_what_the_owner_moved_is_refused(world: World) -> None:
    move_to_a_ghost(world, world.items[0])
    refused(world, order(world, SHRED, Target(RELEASE, GHOST)), OrderRefusal.FOREIGN)
    refused(world, order(world, SHRED, Target(ITEM, world.items[0])), OrderRefusal.FOREIGN)
    put_back(world)
    unharmed(world)


@pytest.mark.parametrize("face", [0, 1])
def test_an_order_for_one_face_does_not_take_another(world: World, face: int) -> None:
    swap = (
        "UPDATE sealed_keys AS k SET wrapped = (SELECT o.wrapped FROM sealed_keys AS o WHERE o.item_id = k.item_id "
        "AND o.face = 1 - k.face) WHERE k.face >= 0"
    )
    as_superuser(world, swap)
    refused(world, order(world, SHRED, Target(FACE, world.items[0], face)), OrderRefusal.FOREIGN)
    as_superuser(world, swap)
    unharmed(world)


def test_a_key_exchanged_between_the_ledger_and_the_rows_stays(world: World) -> None:
    """The tombstones stand for the right item; what somebody put into its rows since is not destroyed with it."""
    shredded, other = world.items
    terms = give(world, SHRED, Target(ITEM, shredded))
    run_killed(kill_before(shredding, "shred", 1), lambda: carry_out(world.custodian(), terms.id))
    swap = (
        "UPDATE sealed_keys AS k SET wrapped = (SELECT o.wrapped FROM sealed_keys AS o WHERE o.face = k.face AND o.item_id <> k.item_id) "
        f"WHERE k.face = {LAYOUT_FACE}"
    )
    as_superuser(world, swap)
    assert carry_out(world.custodian(), terms.id) == Carried(OrderState.DONE, keys=2)
    assert ("message:refused", "key_does_not_open") in told(world)
    assert "key_refused" in alerts(world)
    as_superuser(world, swap)
    assert world.custodian().open(world.approved((1, 0), (1, 1)).id).recovery is not None
    assert shredding.shred_again(world.custodian()) == 1, "and the right one goes when it is back"
    assert world.ledger.buried() == {shredded: None}
    assert other not in world.ledger.buried()


def test_a_damaged_key_is_not_shredded_by_an_order(world: World) -> None:
    as_superuser(world, "UPDATE sealed_keys SET wrapped = sha256(wrapped) WHERE face = 1")
    refused(world, order(world, SHRED, Target(ITEM, world.items[0])), OrderRefusal.FOREIGN)
    done(world, SHRED, Target(FACE, world.items[0], 0))


def test_what_never_had_a_key_is_known_by_the_trail(world: World) -> None:
    """And what was shredded before is passed over."""
    done(world, SHRED, Target(ITEM, world.items[0]))
    assert order(world, SHRED, Target(RELEASE, world.release)) == Carried(OrderState.DONE, keys=3)
    assert order(world, SHRED, Target(RELEASE, world.release)) == Carried(OrderState.DONE)
    assert world.ledger.buried() == dict.fromkeys(world.items)
