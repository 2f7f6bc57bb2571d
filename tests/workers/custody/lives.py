"""What tests of the custodian's ledger share: a life that leaves every kind of line in it."""

# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import rfc8785
from sqlalchemy import select

from schemas.orders import order_message
from schemas.states import OrderKind, OrderScope
from schemas.tables import Item
from tests import governance
from tests.governance import POLICY, World
from tests.workers.audit.harness import disarm, fetched, rearm
from tests.workers.audit.lives import finished
from workers.custody import ordering
from workers.custody.holds import Target
from workers.custody.ledger import Ledger
from workers.custody.orders import carry_out
from workers.custody.recall import catch_up
from workers.releases import lifecycle
from workers.releases import service as releases
from workers.releases.sources import Source

SHRED, HOLD, LIFT = OrderKind
#: What the owner takes away so that an event may hold any bytes.
UNREADABLE = ("DROP INDEX audit.events_release", "ALTER TABLE audit.events DROP CONSTRAINT events_check")


def path_of(world: World) -> Path:
    return world.folder / "tombstones.json"


def give(world: World, kind: OrderKind, item: int = 0) -> UUID:
    with world.as_("gateway")() as session:
        about = Target(OrderScope.ITEM, world.items[item])
        terms = ordering.draft_order(session, kind, about, ordered_by="kim", reason="a case")
    with world.as_("gateway").begin() as session:
        ordering.give_order(session, terms, world.people["kim"].signing.sign(order_message(terms)))
    return terms.id


def lived(world: World) -> None:
    """A ticket, a shredded item, a hold that was lifted, a hold that stands."""
    fetched(world)
    for kind, item in ((HOLD, 0), (LIFT, 0), (SHRED, 0), (HOLD, 1)):
        carry_out(world.custodian(), give(world, kind, item))


def caught_up(world: World, ledger: Ledger | None = None) -> int:
    return catch_up(world.as_("custodian"), ledger or world.ledger, world.custodian().tickets.events)


def ended(world: World) -> World:
    """The world with its release finished, as its worker finishes it; its events count from after that."""
    finished(world)
    return replace(world, seeded=world.seeded + 1)


def age_rows(world: World, days: int) -> None:
    """The owner takes the releases back in time, and the trail tells of another one."""
    moved = f"created_at = created_at - interval '{days} days', finished_at = finished_at - interval '{days} days'"
    world.owner(
        "ALTER TABLE releases DISABLE TRIGGER USER",
        f"UPDATE releases SET {moved}",
        "ALTER TABLE releases ENABLE TRIGGER USER",
    )


def age(world: World, days: int) -> None:
    """Days go by: everything is of so long ago, the trail with it. For before anything was anchored."""
    age_rows(world, days)
    world.owner(disarm())
    with psycopg.connect(world.database.owner_url.replace("+psycopg", "")) as connection:
        for seq, canonical in connection.execute("SELECT seq, canonical FROM audit.events").fetchall():
            event = json.loads(canonical)
            at = datetime.fromisoformat(event["at"]) - timedelta(days=days)
            changed = rfc8785.dumps(event | {"at": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")})
            leaf = hashlib.sha256(b"\0" + changed).digest()
            command = "UPDATE audit.events SET at = %s, canonical = %s, leaf = %s WHERE seq = %s"
            connection.execute(command, (at, changed, leaf, seq))
    world.owner(rearm())


def released(world: World, *references: str | None) -> World:
    """A release as the service submits it, an image for each reference; with keys; finished."""
    with world.as_("gateway").begin() as session:
        sources = [Source(f"file:///{n}.png", f"{n}.png", each) for n, each in enumerate(references)]
        options = releases.ReleaseOptions(policy_name=POLICY)
        release = releases.submit(session, tenant="acme", actor="sam", name="s", sources=sources, options=options)
    with world.as_("gateway")() as session:
        items = list(session.scalars(select(Item.id).where(Item.release_id == release).order_by(Item.position)))
    other = replace(world, release=release, items=items, attempts={}, secrets={}, files={})
    for item in items:
        governance._release_item(other, item)
    with world.as_("release").begin() as session:
        assert lifecycle.finish_releases(session, [release]) == [release]
    return other
