"""What tests of the custodian's ledger share: a life that leaves every kind of line in it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from schemas.orders import order_message
from schemas.states import OrderKind, OrderScope
from tests.governance import World
from tests.workers.audit.harness import fetched
from workers.custody import ordering
from workers.custody.holds import Target
from workers.custody.ledger import Ledger
from workers.custody.orders import carry_out
from workers.custody.recall import catch_up

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
