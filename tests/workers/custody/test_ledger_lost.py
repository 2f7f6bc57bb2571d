"""A ledger that is missing or older than what the custodian signed: it refuses to work, and only who says so begins another."""

# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import rfc8785
import typer
from click.testing import Result
from sqlalchemy import func, insert, select, update
from typer.testing import CliRunner

from gateway.cli import keys as commands
from schemas.audit import AuditEvent
from schemas.orders import order_message
from schemas.states import OrderKind, OrderScope
from schemas.tables import CustodyOrder, Release, Ticket
from tests.governance import World, sessions
from tests.workers.audit.harness import as_superuser, disarm, fetched, rearm, write
from workers.audit import append
from workers.audit.attested import event_message
from workers.audit.ledgered import check_ledger
from workers.audit.verify import Verification
from workers.custody import keys, ordering, retention
from workers.custody.errors import LedgerBehind, LedgerInvalid, LedgerMissing
from workers.custody.holds import Target
from workers.custody.judge import Refusal
from workers.custody.ledger import Ledger
from workers.custody.orders import carry_out
from workers.custody.recall import catch_up, recall

SHRED, HOLD, LIFT = OrderKind
ROOT = Path(__file__).parents[3]
Refacex = Callable[..., Result]
#: What the owner takes away so that an event may hold any bytes.
UNREADABLE = ("DROP INDEX audit.events_release", "ALTER TABLE audit.events DROP CONSTRAINT events_check")


@pytest.fixture
def world(world: World) -> World:
    with world.as_("release").begin() as session:
        session.execute(update(Release).values(state="finished", finished_at=func.now()))
    return world


@pytest.fixture
def environment(world: World) -> dict[str, str]:
    """The custodian's settings."""
    ring = keys.load(world.folder / "recovery.json", keys.FileKind.KEYPAIR)
    keys.write_public(world.folder / "recovery.public.json", ring.public_json())
    files = {"CUSTODY_KEYRING": "custody", "TICKET_SIGNING_KEY": "ticket", "ROSTER": "roster", "POLICIES": "policies"}
    files |= {"TOMBSTONES": "tombstones", "RECOVERY_PUBLIC_KEY": "recovery.public"}
    variables = {f"REFACEX_{name}": str(world.folder / f"{file}.json") for name, file in files.items()}
    urls = {"REFACEX_DATABASE_URL": world.database.url_for("custodian"), "REFACEX_BROKER_URL": "redis://127.0.0.1:9"}
    return variables | urls


@pytest.fixture
def refacex(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Refacex:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    app = typer.Typer()
    commands.register(app)

    def run(*arguments: str, ok: bool = True) -> Result:
        result = CliRunner().invoke(app, [*arguments, "--home", str(tmp_path / "home")])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) is ok, result.output
        return result

    return run


def path_of(world: World) -> Path:
    return world.folder / "tombstones.json"


def give(world: World, kind: OrderKind, item: int) -> UUID:
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
    with world.custodian().sessions() as session:
        return catch_up(session, ledger or world.ledger, world.custodian().tickets.events)


@pytest.mark.parametrize(
    "lose", [Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b'{"v":')]
)
def test_without_a_ledger_nothing_is_opened_shredded_or_forgotten(world: World, lose: Callable[[Path], Any]) -> None:
    request, order = world.approved((0, 0)).id, give(world, HOLD, 0)
    begun, before = path_of(world).read_bytes(), len(world.events())
    lose(path_of(world))
    for work in (
        lambda: world.custodian().open(request),
        lambda: carry_out(world.custodian(), order),
        lambda: world.ledger.record_spent(uuid4(), uuid4(), uuid4()),
        lambda: world.ledger.buried(),
        lambda: caught_up(world),
    ):
        with pytest.raises(LedgerMissing, match="restore it from your copy"):
            work()
    assert (len(world.events()), world.one(select(func.count()).select_from(Ticket))) == (before, 0)
    path_of(world).write_bytes(begun)
    assert world.custodian().open(request).recovery is not None


def test_the_custodians_process_ends_without_a_ledger(world: World, environment: dict[str, str]) -> None:
    path_of(world).unlink()
    command = [sys.executable, "-m", "celery", "-A", "workers.custody.app:app", "worker", "-c", "1", "-Q", "custody"]
    ended = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert "restore it from your copy" in ended.stderr, ended.stderr
    assert not path_of(world).exists()


def test_an_older_ledger_is_refused(world: World) -> None:
    """A copy from before each line: the custodian's own events say what is missing."""
    lived(world)
    whole = path_of(world).read_bytes().splitlines(keepends=True)
    assert caught_up(world) == 0
    assert {json.loads(line)["kind"] for line in whole} >= {"spent", "shredded", "shred", "hold", "lifted"}
    for kept in range(1, len(whole)):
        path_of(world).write_bytes(b"".join(whole[:kept]))
        with pytest.raises(LedgerBehind, match="restore its newest copy"):
            caught_up(world)


def test_tickets_that_a_crash_or_an_older_copy_left_out_are_spent(world: World) -> None:
    requests = [world.approved((0, 0)).id, world.approved((1, 1)).id]
    begun = path_of(world).read_bytes()
    assert all(world.custodian().open(request).recovery for request in requests)
    path_of(world).write_bytes(begun)
    assert caught_up(world) == 2
    assert all(world.ledger.spent(request) for request in requests)
    assert caught_up(world) == 0


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


@pytest.mark.parametrize("spelt", [str, str.upper])
def test_a_copy_of_what_was_forgotten_refuses_nothing_however_it_is_spelt(
    world: World, refacex: Refacex, spelt: Callable[[str], str]
) -> None:
    """Its signature's hexadecimal digits may be, its nonce may not; and an unreadable event stops no search."""
    lived(world)
    events = world.events(marks=True)
    path_of(world).unlink()
    world.owner(
        "ALTER TABLE custody_orders DISABLE TRIGGER USER",
        "DELETE FROM custody_orders",
        *UNREADABLE,
        disarm(),
        "UPDATE audit.events SET canonical = '\\x00ff' WHERE event = 'ticket:spent'",
        rearm(),
    )
    refacex("keys", "ledger", "begin", "--accept-loss")
    done = [each["fields"] for each in events if each["event"] == "order:done"][-1]
    mark = done["detail"]["custodian"]
    mark |= {"signature": spelt(mark["signature"])}
    write(world, "order:done", done | {"detail": done["detail"] | {"custodian": mark}})
    assert caught_up(world) == 0


def test_a_lost_ledger_is_begun_again_only_by_who_accepts_the_loss(world: World, refacex: Refacex) -> None:
    lived(world)
    lost = path_of(world).read_bytes()
    assert "already" in refacex("keys", "ledger", "begin", "--accept-loss", ok=False).stderr
    path_of(world).unlink()
    assert "restore it from your copy" in refacex("keys", "ledger", "begin", ok=False).stderr
    assert not path_of(world).exists()
    said = refacex("keys", "ledger", "begin", "--accept-loss").stderr
    assert "1 spent tickets, 1 items with shredded keys, 4 orders" in said
    event = world.events()[-1]
    assert (event["event"], event["role"]) == ("ledger:begun", "refacex_custodian")
    assert event["fields"]["detail"] == {
        "ledger": str(world.ledger.id),
        "lost": True,
        "spent": 1,
        "items": 1,
        "orders": 4,
    }

    known, old = world.ledger, Ledger(world.folder / "old.json")
    (world.folder / "old.json").write_bytes(lost)
    assert known.holds().standing() == old.holds().standing() != {}
    assert known.buried() == {world.items[0]: (-1, 0, 1)}
    assert caught_up(world) == 0
    request = world.one(select(Ticket.request_id))
    assert known.spent(request)
    refused = carry_out(world.custodian(), give(world, SHRED, 1))
    assert refused.refusal == "held"
    assert world.custodian().open(world.request((1, 0)).id).refusal is Refusal.NOT_APPROVED

    def held(ledger: Ledger) -> list[str]:
        result = Verification()
        with sessions(world.database.url_for("gateway"))() as session:
            check_ledger(session, ledger, result)
        return [each.words for each in result.findings]

    assert held(known) == []
    assert "another ledger than this one was begun here" in held(old)


def test_what_cannot_be_recalled_is_forgotten_and_said(world: World, refacex: Refacex) -> None:
    """The row of an order is gone, so the hold is, too: the loss was accepted, and verification tells of it."""
    lived(world)
    path_of(world).unlink()
    world.owner("ALTER TABLE custody_orders DISABLE TRIGGER USER", "DELETE FROM custody_orders")
    refacex("keys", "ledger", "begin", "--accept-loss")
    assert world.ledger.holds().standing() == {}
    assert caught_up(world) == 0, "and it works on"
    result = Verification()
    with sessions(world.database.url_for("gateway"))() as session:
        check_ledger(session, world.ledger, result)
    assert (result.findings, len(result.notes)) == ([], 1)
    assert "forgot what 4 events tell of" in result.notes[0]
    done = [each["fields"] for each in world.events(marks=True) if each["event"] == "order:done"]
    write(world, "order:done", done[-1])
    assert caught_up(world) == 0, "a copy of what was forgotten makes it refuse nothing"


def test_a_ledger_begun_behind_the_trails_back_is_found(world: World, refacex: Refacex) -> None:
    lived(world)
    path_of(world).unlink()
    world.owner("REVOKE EXECUTE ON FUNCTION audit.append(text, jsonb) FROM refacex_custodian")
    assert "refused" in refacex("keys", "ledger", "begin", "--accept-loss", ok=False).stderr
    assert not path_of(world).exists(), "without its event there is no ledger"
    Ledger.begin(path_of(world))
    result = Verification()
    with sessions(world.database.url_for("gateway"))() as session:
        check_ledger(session, world.ledger, result)
    assert len(result.findings) == 5, "four orders, an item's keys"
    with pytest.raises(LedgerBehind):
        caught_up(world)


def test_a_new_installation_begins_one_by_hand_where_none_is(world: World, refacex: Refacex) -> None:
    path_of(world).unlink()
    refacex("keys", "ledger", "begin")
    assert world.events()[-1]["fields"]["detail"] == {"ledger": str(world.ledger.id), "lost": False}
    assert world.one(select(func.count()).select_from(CustodyOrder)) == 0
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=False)
    with pytest.raises(LedgerInvalid):
        path_of(world).write_bytes(path_of(world).read_bytes() * 2)
        world.ledger.holds()
