"""A ledger that is missing or older than what the custodian signed: it refuses to work, and only who says so begins another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
from click.testing import Result
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from gateway.cli import keys as commands
from gateway.engines.process import ProcessId
from gateway.processes import process_json
from gateway.provision import Home
from schemas.tables import CustodyOrder, Ticket
from tests.governance import World, sessions
from tests.kills import Arm, kill_after, kill_before, run_killed
from tests.workers.audit.harness import disarm, rearm, write
from tests.workers.custody.lives import HOLD, SHRED, UNREADABLE, caught_up, ended, give, lived, path_of
from workers.alerts import newest
from workers.audit.attested import fault_of, is_custodians
from workers.audit.ledgered import check_ledger
from workers.audit.verify import Verification
from workers.custody import keys, retention
from workers.custody import recall as recalling
from workers.custody.errors import LedgerBehind, LedgerInvalid, LedgerMissing
from workers.custody.judge import Refusal
from workers.custody.ledger import Ledger
from workers.custody.orders import carry_out

ROOT = Path(__file__).parents[3]
Refacex = Callable[..., Result]


@pytest.fixture
def world(world: World) -> World:
    return ended(world)


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


def test_a_damaged_line_makes_it_forget_nothing(world: World) -> None:
    """Were it to, an older copy in the damaged one's place would be taken for the ledger."""
    lived(world)
    whole = path_of(world).read_bytes()
    running = world.ledger
    standing = running.holds().standing()
    path_of(world).write_bytes(whole + b'{"damaged":1}\n')
    with pytest.raises(LedgerInvalid, match="line"):
        running.holds()
    path_of(world).write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(LedgerInvalid, match="changed or gone"):
        running.holds()
    path_of(world).write_bytes(whole)
    assert running.holds().standing() == standing != {}
    running.record_spent(uuid4(), uuid4(), uuid4())
    assert world.ledger.holds().standing() == standing


def test_a_custodian_that_saw_damage_holds_its_ledger_against_the_trail_again(
    world: World, environment: dict[str, str]
) -> None:
    lived(world)
    code = """
import sys
from pathlib import Path
from workers.custody import app
from workers.custody.errors import LedgerInvalid

path, message = Path(sys.argv[1]), lambda: app.retain_release(sys.argv[2])
whole = path.read_bytes()
older = b"".join(whole.splitlines(keepends=True)[:-1])
message()
first = app.custodian()
for content in (whole + b"damaged\\n", older, older):
    path.write_bytes(content)
    try:
        message()
    except LedgerInvalid:
        continue
    raise SystemExit("it worked without what its ledger had told it")
path.write_bytes(whole)
message()
assert app.custodian() is not first, "it was held against the trail again"
"""
    command = [sys.executable, "-c", code, str(path_of(world)), str(world.release)]
    done = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with world.as_("gateway")() as session:
        told = [(each.kind, each.detail) for each in newest(session, 10) if each.kind == "ledger_refused"]
    assert told == [("ledger_refused", {"code": "ledger_invalid"})], "once, however many messages were refused"


def test_keys_are_looked_after_with_the_newest_ledger_alone(world: World, refacex: Refacex) -> None:
    lived(world)
    whole = path_of(world).read_bytes()
    path_of(world).write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    for command in (("check",), ("rotate",), ("retire", "0" * 16, "--yes")):
        assert "restore its newest copy" in refacex("keys", *command, ok=False).stderr


def test_tickets_that_a_crash_or_an_older_copy_left_out_are_spent(world: World) -> None:
    requests = [world.approved((0, 0)).id, world.approved((1, 1)).id]
    begun = path_of(world).read_bytes()
    assert all(world.custodian().open(request).recovery for request in requests)
    path_of(world).write_bytes(begun)
    assert caught_up(world) == 2
    assert all(world.ledger.spent(request) for request in requests)
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
    said = refacex("keys", "ledger", "begin", "--accept-loss", ok=False).stderr
    assert "already" in said and str(path_of(world)) in said and "REFACEX_" not in said
    path_of(world).unlink()
    assert "restore it from your copy" in refacex("keys", "ledger", "begin", ok=False).stderr
    assert not path_of(world).exists()
    said = refacex("keys", "ledger", "begin", "--accept-loss").stderr
    assert "1 spent ticket, 1 item with shredded keys, 4 orders" in said
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


def begun(world: World) -> list[str]:
    signed = [each for each in world.events(marks=True) if each["event"] == "ledger:begun"]
    assert [fault_of(each, world.custodian_keys()) for each in signed] == [None] * len(signed)
    return [each["fields"]["detail"]["ledger"] for each in signed]


@pytest.mark.parametrize(
    "arm", [kill_after(Ledger, "begin"), kill_before(recalling, "append"), kill_after(recalling, "append")]
)
def test_a_ledger_whose_beginning_was_cut_short_is_told_of(world: World, refacex: Refacex, arm: Arm) -> None:
    """Killed between the file and its event: the custodian tells, once, and in no ledger that somebody else told of."""
    lived(world)
    path_of(world).unlink()
    run_killed(arm, lambda: refacex("keys", "ledger", "begin", "--accept-loss"))
    assert (begun(world), world.ledger.recalled >= 0) == ([], True)
    assert caught_up(world) == 0
    assert caught_up(world) == 0
    assert begun(world) == [str(world.ledger.id)]
    result = Verification()
    with sessions(world.database.url_for("gateway"))() as session:
        check_ledger(session, world.ledger, result)
    assert result.findings == []


@pytest.mark.parametrize("stands", [True, False])
def test_a_commit_whose_answer_was_lost_leaves_ledger_and_event(
    world: World, refacex: Refacex, monkeypatch: pytest.MonkeyPatch, stands: bool
) -> None:
    lived(world)
    path_of(world).unlink()
    real = Session.commit

    def lost(session: Session) -> None:
        if stands:
            real(session)
        raise OperationalError("COMMIT", {}, Exception("the connection went away"))

    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", lost)
        refacex("keys", "ledger", "begin", "--accept-loss", ok=False)
    assert begun(world) == ([str(world.ledger.id)] if stands else [])
    assert caught_up(world) == 0
    assert begun(world) == [str(world.ledger.id)]


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
    assert "forgot what the trail tells of in 4 events" in result.notes[0]
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


def test_the_custodians_signing_key_is_replaced_and_what_it_signed_stands(
    world: World, refacex: Refacex, tmp_path: Path
) -> None:
    """As docs/governance.md says it: afterwards an older ledger is still refused, and a lost one recalled, by either key's word."""
    lived(world)
    old = world.ticket_key()
    home, own = Home(tmp_path / "home"), ProcessId.of(os.getpid())
    assert own is not None
    home.run.mkdir(parents=True)
    (home.run / "processes.json").write_text(process_json({"custodian": own}))
    assert "stop `refacex up` first" in refacex("keys", "replace-signing", ok=False).stderr
    assert world.ticket_key().id == old.id
    (home.run / "processes.json").write_text(process_json({}))
    assert "back up" in refacex("keys", "replace-signing").stderr
    public = keys.load(world.folder / "ticket.public.json", keys.FileKind.PUBLIC)
    keys.write_public(world.folder / "keys" / "ticket.public.json", public.public_json())
    assert (world.ticket_key().id, len(world.custodian_keys())) == (public.active, 2)
    assert public.active != old.id
    assert caught_up(world) == 0

    request = world.approved((1, 0)).id
    assert world.custodian().open(request).recovery is not None
    assert world.unsigned() == [], "either key's signatures verify"
    used = {each["fields"]["detail"]["custodian"]["key"] for each in world.events(marks=True) if is_custodians(each)}
    assert used == {old.id, public.active}
    whole = path_of(world).read_bytes()
    path_of(world).write_bytes(b"".join(whole.splitlines(keepends=True)[:-2]))
    with pytest.raises(LedgerBehind):
        caught_up(world)
    path_of(world).unlink()
    said = refacex("keys", "ledger", "begin", "--accept-loss").stderr
    assert "2 spent tickets, 1 item with shredded keys, 4 orders" in said
    assert begun(world) == [str(world.ledger.id)]
