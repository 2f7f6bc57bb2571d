"""Whoever owns the database takes an image out of what is held, ordered or due, for a minute: nothing goes that way, and nothing stays."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import func, select

from schemas.audit import AuditEvent
from schemas.states import OrderKind, OrderScope
from schemas.tables import Item, SealedKey
from tests.governance import World
from tests.workers.audit.harness import as_owner, disarm, rearm
from tests.workers.audit.test_shredded import Verify, keep, words
from tests.workers.audit.test_shredded import gullible as gullible
from tests.workers.audit.test_shredded import verify as verify
from tests.workers.custody.lives import age
from tests.workers.custody.test_holds import without
from tests.workers.custody.test_proof import (
    GHOST,
    alerts,
    at_rows,
    done,
    move_to_a_ghost,
    order,
    put_back,
    refused,
    told,
)
from tests.workers.custody.test_proof import world as world
from workers.audit import append
from workers.audit.verify import Problem
from workers.custody import retention
from workers.custody.holds import Target
from workers.custody.orders import OrderRefusal

SHRED, HOLD, LIFT = OrderKind
FACE, ITEM, RELEASE, SUBJECT = OrderScope


def unlink(world: World) -> None:
    """The first image shows nobody."""
    at_rows(world, f"UPDATE items SET subject_id = NULL WHERE id = '{world.items[0]}'")


def link(world: World) -> None:
    at_rows(world, f"UPDATE items SET subject_id = '{world.subject}' WHERE id = '{world.items[0]}'")


def shown(world: World) -> Target:
    assert world.subject is not None
    return Target(SUBJECT, world.subject)


def live(world: World, item: int = 0) -> int:
    keys = select(func.count()).where(SealedKey.item_id == world.items[item], SealedKey.wrapped.is_not(None))
    return int(world.one(keys, "custodian"))


def substitute(world: World) -> None:
    """An image of the release lies elsewhere, and one that nobody made in its place, which the trail seems to know."""
    invented, columns = uuid4(), [column.name for column in Item.__table__.columns]
    with world.as_("release").begin() as session:
        append(session, AuditEvent.ITEM_COMMITTED, actor="release-worker", release=world.release, item=invented)
    nothing = dict.fromkeys(("object_key", "sha256", "locator", "subject_id"), "NULL")
    other = {"id": f"'{invented}'::uuid", "position": "7", "state": "'failed'"} | nothing
    copied = ", ".join(other.get(column, column) for column in columns)
    at_rows(world, f"INSERT INTO items ({', '.join(columns)}) SELECT {copied} FROM items WHERE id = '{world.items[0]}'")
    move_to_a_ghost(world, world.items[0])


def restore(world: World) -> None:
    at_rows(world, f"DELETE FROM items WHERE id NOT IN ('{world.items[0]}', '{world.items[1]}')")
    put_back(world)


@pytest.mark.parametrize("scope", [FACE, ITEM, RELEASE])
def test_what_is_held_by_its_subject_does_not_go_while_it_shows_nobody(
    world: World, verify: Verify, scope: OrderScope
) -> None:
    """Nor where it showed nobody when the hold was given."""
    unlink(world)
    refused(world, order(world, HOLD, shown(world)), OrderRefusal.SHOWN)
    link(world)
    done(world, HOLD, shown(world))
    unlink(world)
    about = {
        FACE: Target(FACE, world.items[0], 0),
        ITEM: Target(ITEM, world.items[0]),
        RELEASE: Target(RELEASE, world.release),
    }
    refused(world, order(world, SHRED, about[scope]), OrderRefusal.FOREIGN)  # by its key
    link(world)
    assert live(world) == 3
    assert words(verify()) == []


def test_nor_does_its_time_end_meanwhile(world: World, verify: Verify) -> None:
    """Of a release that came under the hold after it was given."""
    keep(world, 30)
    done(world, HOLD, shown(world))
    age(world, 31)
    unlink(world)
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=False)
    assert (told(world)[-1][0], alerts(world)[-1]) == ("message:refused", "message_refused")
    link(world)
    assert (live(world), live(world, 1)) == (3, 3)
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, keys=3, held=1)
    assert words(verify()) == []


def test_nothing_is_left_out_of_an_order_for_a_subject(world: World, verify: Verify) -> None:
    unlink(world)
    refused(world, order(world, SHRED, shown(world)), OrderRefusal.SHOWN)
    link(world)
    move_to_a_ghost(world, world.items[0])
    refused(world, order(world, SHRED, shown(world)), OrderRefusal.FOREIGN)
    put_back(world)
    at_rows(world, f"DELETE FROM releases WHERE id = '{GHOST}'")
    done(world, SHRED, shown(world))
    assert (live(world), live(world, 1)) == (0, 3)
    assert words(verify()) == []


def test_nothing_is_left_out_of_an_order_for_a_release(world: World, verify: Verify) -> None:
    substitute(world)
    refused(world, order(world, SHRED, Target(RELEASE, world.release)), OrderRefusal.SHOWN)
    restore(world)
    assert live(world) == 3
    (found,) = words(verify())
    assert found == (Problem.ROW, "item:committed, and there is no such attempt")
    done(world, SHRED, Target(RELEASE, world.release))
    assert live(world) == 0


def test_what_a_custodian_left_out_is_found(world: World, gullible: None, verify: Verify) -> None:
    """One that believed the rows: an order for a subject, and one for a release, were done without the first image."""
    unlink(world)
    done(world, SHRED, shown(world))
    link(world)
    there = "its keys were shredded by the order:done of event "
    assert [each for each in words(verify()) if each[1].startswith(there)] != []


def test_and_of_a_release(world: World, gullible: None, verify: Verify) -> None:
    substitute(world)
    done(world, SHRED, Target(RELEASE, world.release))
    restore(world)
    there = "its keys were shredded by the order:done of event "
    assert [each for each in words(verify()) if each[1].startswith(there)] != []


def test_what_a_custodian_shredded_under_a_hold_is_found(world: World, gullible: None, verify: Verify) -> None:
    """In its own ledger, by whom the image shows, although the event says nobody."""
    done(world, HOLD, shown(world))
    without(world, "items")
    unlink(world)
    done(world, SHRED, Target(ITEM, world.items[0]))
    link(world)
    found = words(verify())
    assert (
        Problem.LEDGER,
        f"keys of item {world.items[0]} were shredded while a hold on {shown(world)} stood",
    ) in found
    assert (Problem.ROW, "it shows another subject than when its keys were shredded") in found


def test_an_end_that_is_told_again_puts_nothing_off(world: World, verify: Verify) -> None:
    """By a stolen release worker, month after month."""
    keep(world, 30)
    age(world, 31)
    for event in (AuditEvent.RELEASE_FINISHED, AuditEvent.RELEASE_FINISHED):
        with world.as_("release").begin() as session:
            append(session, event, actor="release-worker", release=world.release)
    assert retention.retain(world.custodian(), world.release).keys == 6
    (found,) = {each[1] for each in words(verify()) if "stands in the trail" in each[1]}
    assert found.startswith("release:finished stands in the trail 3 times")


def test_a_release_that_nobody_made_stops_no_order(world: World, verify: Verify) -> None:
    """Told of by a stolen gateway, as the tenant's, with images that never were."""
    with world.as_("gateway").begin() as session:
        detail = {"tenant": "acme", "items": 1, "names_sha256": "00" * 32, "subjects_sha256": "00" * 32}
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="sam", release=uuid4(), detail=detail)
    for kind in (HOLD, LIFT, SHRED):
        done(world, kind, shown(world))
    assert words(verify()) == [(Problem.ROW, "release:submitted, and the release is gone")]


def test_without_its_submission_nothing_goes_by_a_release(world: World) -> None:
    """The owner takes the event itself away for a minute."""
    as_owner(world.database, disarm(), "DELETE FROM audit.events WHERE event = 'release:submitted'", rearm())
    for kind in (HOLD, SHRED):
        for about in (Target(ITEM, world.items[0]), Target(RELEASE, world.release), shown(world)):
            refused(world, order(world, kind, about), OrderRefusal.SHOWN)
    assert (live(world), live(world, 1)) == (3, 3)


def test_a_submission_that_is_told_again_stops_nothing(world: World, verify: Verify) -> None:
    """By a stolen gateway: what was asked and ordered of the release goes on, by what it was submitted with."""
    with world.as_("gateway").begin() as session:
        detail = {"tenant": "globex", "items": 9, "names_sha256": "00" * 32, "subjects_sha256": "00" * 32}
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="sam", release=world.release, detail=detail)
    assert world.custodian().open(world.approved().id).recovery is not None
    for kind in (HOLD, LIFT, SHRED):
        done(world, kind, shown(world))
    assert live(world) == 0
    assert any("stands in the trail 2 times" in each[1] for each in words(verify()))
