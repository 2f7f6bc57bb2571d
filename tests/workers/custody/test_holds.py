"""A hold keeps what it was given for, and is lifted by whose it is alone, whatever rows say meanwhile."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import rfc8785
from sqlalchemy import select

from schemas.states import OrderKind, OrderScope
from schemas.tables import Subject
from tests.governance import REFERENCE, World, seal_as_before
from tests.workers.custody.lives import age, path_of
from tests.workers.custody.test_proof import alerts, at_rows, done, move_to_a_ghost, order, put_back, refused, unharmed
from tests.workers.custody.test_proof import world as world
from workers.custody import proof, recall, retention
from workers.custody.errors import NotHeld
from workers.custody.holds import Target
from workers.custody.ledger import Ledger
from workers.custody.orders import OrderRefusal

SHRED, HOLD, LIFT = OrderKind
FACE, ITEM, RELEASE, SUBJECT = OrderScope


@pytest.fixture
def older(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release is of before the trail, or its keys, said whom its items show."""
    monkeypatch.setattr(proof, "items_hold", lambda *_: True)
    seal_as_before(world)


def shown(world: World) -> Target:
    """Whom the first item shows."""
    assert world.subject is not None
    return Target(SUBJECT, world.subject)


def tenant(world: World, name: str) -> None:
    at_rows(world, f"UPDATE releases SET tenant = '{name}'", f"UPDATE subjects SET tenant = '{name}'")


def lines(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path_of(world).read_bytes().splitlines()]


def without(world: World, *names: str) -> None:
    """The ledger as it was written before its lines said these."""
    before, made = "0" * 64, []
    for line in lines(world):
        kept = {name: value for name, value in line.items() if name not in names}
        made.append(rfc8785.dumps(kept | {"before": before}))
        before = hashlib.sha256(made[-1]).hexdigest()
    path_of(world).write_bytes(b"\n".join(made) + b"\n")


# --- what a hold covers


@pytest.mark.parametrize("scope", [RELEASE, SUBJECT])
def test_a_hold_names_the_items_that_it_was_given_for(world: World, scope: OrderScope) -> None:
    about = shown(world) if scope is SUBJECT else Target(RELEASE, world.release)
    done(world, HOLD, about)
    items = world.items[:1] if scope is SUBJECT else world.items
    assert (lines(world)[-1]["tenant"], lines(world)[-1]["items"]) == ("acme", sorted(map(str, items)))
    done(world, LIFT, about)
    assert world.ledger.holds().covering([]) == world.ledger.holds().standing().keys() == set()
    done(world, SHRED, Target(ITEM, world.items[0]))


def test_an_image_that_shows_somebody_else_for_a_minute_stays_held(world: World, older: None) -> None:
    about = shown(world)
    done(world, HOLD, about)
    at_rows(world, f"UPDATE items SET subject_id = NULL WHERE id = '{world.items[0]}'")
    age(world, 31)
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, keys=3, held=1)
    refused(world, order(world, SHRED, Target(ITEM, world.items[0])), OrderRefusal.HELD)
    at_rows(world, f"UPDATE items SET subject_id = '{about.id}' WHERE id = '{world.items[0]}'")
    refused(world, order(world, SHRED, about), OrderRefusal.HELD)
    done(world, LIFT, about)
    done(world, SHRED, about)


def test_what_comes_under_a_hold_later_is_covered_too(world: World, older: None) -> None:
    about = shown(world)
    done(world, HOLD, about)
    at_rows(world, f"UPDATE items SET subject_id = '{about.id}' WHERE id = '{world.items[1]}'")
    refused(world, order(world, SHRED, Target(ITEM, world.items[1])), OrderRefusal.HELD)
    unharmed(world)


def test_by_its_key_an_image_shows_whom_it_always_showed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the rows say, and the trail with them: neither is it shredded for somebody else, nor retired meanwhile."""
    monkeypatch.setattr(proof, "items_hold", lambda *_: True)
    monkeypatch.setattr(proof, "tenants_items_hold", lambda *_: True)
    at_rows(world, f"UPDATE items SET subject_id = '{world.subject}'")
    refused(world, order(world, SHRED, shown(world)), OrderRefusal.FOREIGN)
    at_rows(world, "UPDATE items SET subject_id = NULL")
    for about in (Target(ITEM, world.items[0]), Target(RELEASE, world.release)):
        refused(world, order(world, SHRED, about), OrderRefusal.FOREIGN)
    age(world, 31)
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, keys=3, strange=1)
    at_rows(world, f"UPDATE items SET subject_id = '{world.subject}' WHERE id = '{world.items[0]}'")
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, keys=3)


@pytest.mark.parametrize("kind", [SHRED, HOLD])
def test_an_order_for_a_subject_is_for_the_images_that_showed_it(world: World, kind: OrderKind) -> None:
    """Two images of a release exchange whom they show, or one shows somebody else besides: neither goes, nor is the hold on another."""
    about = shown(world)
    for showing in (f"CASE WHEN subject_id IS NULL THEN '{about.id}'::uuid END", f"'{about.id}'"):
        at_rows(world, f"UPDATE items SET subject_id = {showing}")
        refused(world, order(world, kind, about), OrderRefusal.FOREIGN if kind is SHRED else OrderRefusal.SHOWN)
    at_rows(world, f"UPDATE items SET subject_id = NULL WHERE id <> '{world.items[0]}'")
    unharmed(world)
    done(world, kind, about)


def test_a_held_item_in_another_release_stays_held(world: World) -> None:
    """By its own line in the ledger, whatever the key's proof says."""
    done(world, HOLD, Target(RELEASE, world.release))
    move_to_a_ghost(world, world.items[0])
    with world.as_("custodian")() as session:
        portions = recall.scope.portions_of(session, Target(ITEM, world.items[0]))
    assert world.ledger.holds().covering(portions) == {Target(RELEASE, world.release)}
    put_back(world)


def test_a_ledger_begun_again_knows_whose_and_what(world: World) -> None:
    about = shown(world)
    done(world, HOLD, about)
    hold = lines(world)[-1]
    with world.as_("custodian")() as session:
        recalled = recall.recall(session, world.custodian().tickets.events)
    path_of(world).unlink()
    Ledger.begin(path_of(world), recalled)
    again = lines(world)[-1]
    assert {name: again[name] for name in ("kind", "tenant", "items", "sha256")} == {
        name: hold[name] for name in ("kind", "tenant", "items", "sha256")
    }


# --- whose it is


def scopes(world: World) -> list[Target]:
    return [Target(FACE, world.items[0], 0), Target(ITEM, world.items[0]), Target(RELEASE, world.release), shown(world)]


@pytest.mark.parametrize("number", range(4), ids=["face", "item", "release", "subject"])
def test_another_tenants_officer_neither_lifts_nor_shreds(world: World, number: int) -> None:
    """The owner makes the release the other tenant's for a minute, and its officer's orders are in order."""
    about = scopes(world)[number]
    done(world, HOLD, about)
    tenant(world, "globex")
    with pytest.raises(NotHeld):
        order(world, LIFT, about, "kay")
    at_rows(world, "ALTER TABLE custody_orders DISABLE TRIGGER USER", "UPDATE custody_orders SET tenant = 'globex'")
    refused(world, order(world, LIFT, about, "kay"), OrderRefusal.NOT_HELD)
    refused(world, order(world, SHRED, about, "kay"), OrderRefusal.FOREIGN)
    if about.scope is SUBJECT:  # whose pseudonym says that it is of another tenant
        refused(world, order(world, HOLD, about, "kay"), OrderRefusal.SHOWN)
    else:
        done(world, HOLD, about, "kay")
        done(world, LIFT, about, "kay")
    tenant(world, "acme")
    assert set(world.ledger.holds().standing()) == {about}, "a hold of one's own lifts nobody else's"
    refused(world, order(world, SHRED, about), OrderRefusal.HELD)
    unharmed(world)
    assert set(alerts(world)) <= {"order_refused"}


def test_another_tenants_officer_shreds_nothing_that_nobody_holds(world: World) -> None:
    tenant(world, "globex")
    for about in (Target(RELEASE, world.release), Target(ITEM, world.items[1]), Target(FACE, world.items[0], 1)):
        refused(world, order(world, SHRED, about, "kay"), OrderRefusal.FOREIGN)
    tenant(world, "acme")
    unharmed(world)


def test_another_tenants_officer_erases_nobody(world: World) -> None:
    """The owner makes somebody the other tenant's for a minute, with no image."""
    about = shown(world)
    at_rows(world, "UPDATE items SET subject_id = NULL", "UPDATE subjects SET tenant = 'globex'")
    refused(world, order(world, SHRED, about, "kay"), OrderRefusal.SHOWN)
    at_rows(
        world,
        f"UPDATE items SET subject_id = '{about.id}' WHERE id = '{world.items[0]}'",
        "UPDATE subjects SET tenant = 'acme'",
    )
    assert world.one(select(Subject.reference)) == REFERENCE and not world.ledger.erased()
    unharmed(world)


def test_a_hold_of_before_the_ledger_said_whose_is_lifted_by_whose_order_it_was(world: World) -> None:
    about = Target(ITEM, world.items[0])
    done(world, HOLD, about)
    without(world, "tenant", "items")
    tenant(world, "globex")
    done(world, HOLD, about, "kay")
    refused(world, order(world, LIFT, about, "kay"), OrderRefusal.NOT_HELD)
    tenant(world, "acme")
    done(world, LIFT, about)
    assert [hold.tenant for hold in world.ledger.holds().on(about)] == ["globex"]


def test_and_where_that_orders_row_is_gone_as_it_always_was(world: World) -> None:
    about = Target(ITEM, world.items[0])
    done(world, HOLD, about)
    without(world, "tenant")
    world.owner("ALTER TABLE custody_orders DISABLE TRIGGER USER")
    world.owner("UPDATE custody_orders SET canonical = canonical || 'x', canonical_sha256 = sha256(canonical || 'x')")
    done(world, LIFT, about)
    assert world.ledger.holds().standing() == {}
    done(world, SHRED, about)
    without(world, "tenant")
    assert world.ledger.holds().standing() == {}, "nor do its lines of before read otherwise"
