"""What the custodian takes from the database about its own ledger: its own word alone, all of it, whoever else writes there."""

# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
import rfc8785
from sqlalchemy import func, insert, select, update

from schemas.audit import AuditEvent
from schemas.tables import Release, Ticket
from tests.governance import World
from tests.workers.audit.harness import as_superuser
from tests.workers.custody.lives import UNREADABLE, caught_up, lived, path_of
from workers.audit import append
from workers.audit.attested import event_message
from workers.custody.errors import LedgerBehind
from workers.custody.ledger import Ledger
from workers.custody.recall import recall


@pytest.fixture
def world(world: World) -> World:
    with world.as_("release").begin() as session:
        session.execute(update(Release).values(state="finished", finished_at=func.now()))
    return world


def test_nobody_elses_rows_and_events_make_it_refuse(world: World) -> None:
    """A stolen role and the database's owner: without the custodian's key nothing that they write counts."""
    lived(world)
    terms = world.approved((1, 0))
    with world.as_("custodian").begin() as session:
        forged = {"canonical": b"{}", "signature": bytes(64), "expires_at": terms.expires_at}
        session.execute(insert(Ticket).values(id=uuid4(), request_id=terms.id, **forged))
        about = {"actor": "custodian", "release": world.release}
        append(session, AuditEvent.KEY_SHREDDED, **about, item=world.items[1], detail={"faces": [0], "layout": True})
        append(session, AuditEvent.KEY_SHREDDED, **about, detail={"custodian": ["x"]})
        append(session, AuditEvent.ORDER_DONE, **about, detail={"order": uuid4(), "kind": "hold"})
    assert caught_up(world) == 0
    assert not world.ledger.spent(terms.id)


def test_what_the_custodian_signed_counts_as_that_alone(world: World) -> None:
    """One key signs tickets and events: an event in a ticket's row, or under another's tag, is neither, and stops nothing."""
    lived(world)
    event = next(each for each in world.events(marks=True) if each["event"] == "ticket:spent")
    fields, mark = event["fields"], event["fields"]["detail"]["custodian"]
    unsigned = {name: value for name, value in mark.items() if name != "signature"}
    said = fields | {"detail": fields["detail"] | {"custodian": unsigned}}
    terms = world.approved((1, 0))
    ticket, before = world.one(select(Ticket.id)), path_of(world).read_bytes()
    with world.as_("custodian").begin() as session:
        row = {"canonical": event_message("ticket:spent", said), "signature": bytes.fromhex(mark["signature"])}
        session.execute(insert(Ticket).values(id=uuid4(), request_id=terms.id, expires_at=terms.expires_at, **row))
    written = json.dumps(event).replace("'", "''")
    deep = "'" + "[" * 200_000 + "'"
    world.owner(*UNREADABLE)
    for tag in ("key:shredded", "order:done", "ledger:begun"):
        for content in (f"'{written}'", deep, "'\\x00ff'::bytea"):
            canonical = content if "bytea" in content else f"convert_to({content}, 'UTF8')"
            world.owner(
                "INSERT INTO audit.events (seq, at, role, event, canonical, leaf) SELECT max(seq) + 1, now(), "
                f"'refacex_custodian', '{tag}', {canonical}, sha256('') FROM audit.events"
            )
    assert caught_up(world) == 0
    assert path_of(world).read_bytes() == before
    with world.as_("custodian")() as session:
        recalled = recall(session, world.custodian().tickets.events)
    assert [each.ticket for each in recalled.openings] == [ticket]
    assert (len(recalled.portions), len(recalled.answers)) == (1, 4)


def test_however_much_others_write_an_older_ledger_is_refused(world: World) -> None:
    """A stolen role buries what the custodian signed under events that it did not, and under copies of one that it did."""
    lived(world)
    whole = path_of(world).read_bytes().splitlines(keepends=True)
    copied = next(each["fields"] for each in world.events(marks=True) if each["event"] == "order:done")
    with world.as_("custodian").begin() as session:
        for number in range(1_200):
            detail = copied["detail"] if number % 2 else {"order": str(uuid4()), "kind": "hold"}
            append(session, AuditEvent.ORDER_DONE, actor="custodian", detail=detail, **about_of(copied))
    assert caught_up(world) == 0
    path_of(world).write_bytes(b"".join(whole[:-1]))
    with pytest.raises(LedgerBehind):
        caught_up(world)


def about_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("actor", "detail")}


def test_every_ticket_that_an_older_ledger_lacks_is_caught_up_with(world: World) -> None:
    """Also where the newest thousand are all lacking, as after a copy from long ago."""
    requests, key, rows = [uuid4() for _ in range(1_100)], world.ticket_key(), []
    for request in requests:
        said = {"what": "refacex ticket", "id": str(uuid4()), "request": str(request), "recovery": str(uuid4())}
        canonical = rfc8785.dumps(said)
        row = f"('{said['id']}', '{request}', now(), '\\x{canonical.hex()}', '\\x{key.sign(canonical).hex()}')"
        rows.append(row)
    as_superuser(
        world, "INSERT INTO tickets (id, request_id, expires_at, canonical, signature) VALUES " + ", ".join(rows)
    )
    assert caught_up(world) == len(requests)
    assert all(map(world.ledger.spent, requests))
    assert caught_up(world) == 0


def test_somebody_elses_word_for_a_ledger_is_none(world: World) -> None:
    lived(world)
    path_of(world).unlink()
    with world.as_("custodian")() as session:
        Ledger.begin(path_of(world), recall(session, world.custodian().tickets.events))
    with world.as_("custodian").begin() as session:
        append(session, AuditEvent.LEDGER_BEGUN, actor="custodian", detail={"ledger": world.ledger.id, "lost": True})
    caught_up(world)
    assert world.unsigned() == ["the custodian did not sign it"], "the forged one"
    assert len([each for each in world.events() if each["event"] == "ledger:begun"]) == 2


@pytest.mark.parametrize("strange", ["kind = 'burn'", "created_at = 'infinity'", "face = 3"])
def test_an_order_whose_row_cannot_be_read_stops_no_other(world: World, strange: str) -> None:
    lived(world)
    as_superuser(
        world,
        "DO $$ DECLARE name text; BEGIN FOR name IN SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = "
        "'custody_orders'::regclass LOOP EXECUTE format('ALTER TABLE custody_orders DROP CONSTRAINT %I', name); END LOOP; END $$",
        f"UPDATE custody_orders SET {strange} WHERE kind = 'lift'",
    )
    with world.as_("custodian")() as session:
        recalled = recall(session, world.custodian().tickets.events)
    assert [outcome.value for _, outcome, _ in recalled.answers] == ["hold", "shred", "hold"]
    assert caught_up(world) == 0
