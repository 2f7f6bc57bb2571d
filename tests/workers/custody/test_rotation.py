"""Rotation of the custody key: what it wraps again, what it leaves, and what is left after a kill at every step."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import undefer

from schemas.contexts import KeyContext
from schemas.requests import KeyBundle, bundle_info
from schemas.tables import CustodyKey, Recovery, SealedKey
from tests.governance import World
from workers.audit.attested import EventSigner
from workers.custody import keys, rotation
from workers.custody.errors import (
    CustodyKeyUnknown,
    KeyRingBusy,
    KeyRingMissing,
    KeyUnknown,
    KmsAway,
    ServiceNotConfigured,
    ServiceUnknown,
)
from workers.custody.holds import Portion
from workers.custody.opening import open_sealed
from workers.custody.providers import WrappedKey
from workers.custody.providers.kms import KmsClients, KmsSealer, KmsUnwrapper
from workers.custody.providers.services import Held
from workers.custody.providers.unwrappers import BySuite, KeyRing
from workers.custody.rotation import KeyInUse, KeyOffice, RotationUnfinished
from workers.custody.sealing import DEFAULT_SUITE, PublicKey, SealSuite, seal_key
from workers.settings import KmsSettings

ROOT = Path(__file__).parents[3]
ROWS = 6  # two images: a layout key and two faces' keys each
KMS = SealSuite.AWS_KMS.value


def office(world: World, **more: Any) -> KeyOffice:
    made = KeyOffice(
        sessions=world.as_("custodian"),
        unwrapper=KeyRing(world.folder / "custody.json"),
        ledger=world.ledger,
        events=EventSigner(world.ticket_key().secret()),
        actor="root",
        ring=world.folder / "custody.json",
        public=world.folder / "custody.public.json",
        batch=2,
    )
    return replace(made, **more)


def ring_of(world: World) -> keys.KeyFile:
    return keys.load(world.folder / "custody.json", keys.FileKind.CUSTODY)


def rows_of(world: World) -> list[SealedKey]:
    with world.as_("custodian")() as session:
        query = select(SealedKey).options(undefer(SealedKey.wrapped)).order_by(SealedKey.item_id, SealedKey.face)
        return list(session.scalars(query))


def all_open(world: World) -> bool:
    """Every key that was ever sealed is there and opens as what it was."""
    ring, found = KeyRing(world.folder / "custody.json"), {}
    for row in rows_of(world):
        assert row.wrapped is not None
        sealed = WrappedKey(row.suite, row.custody_key_id, row.wrapped)
        found[row.item_id, row.face] = ring.unwrap(sealed, world.context(row.item_id, row.face))
    return found == world.secrets


def told(world: World) -> list[tuple[str, dict[str, Any]]]:
    """The events about custody keys."""
    return [
        (each["event"], each["fields"]["detail"])
        for each in world.events()
        if each["event"].startswith("key:") and each["role"] == "refacex_custodian"
    ]


def balanced(world: World) -> list[tuple[str, int]]:
    """The rotations that the trail tells, as (to, how many keys); each begun and ended once, its batches adding up."""
    done, under_way, summed, created = [], None, 0, []
    for event, detail in told(world):
        if event == "key:created":
            created.append(detail["key"])
        elif event == "key:rotation_started":
            assert under_way is None
            under_way, summed = detail["to"], 0
        elif event == "key:rewrapped":
            assert detail["to"] == under_way != detail["from"]
            summed += detail["count"]
        elif event == "key:rotation_finished":
            assert (detail["to"], detail["rewrapped"]) == (under_way, summed)
            done.append((detail["to"], summed))
            under_way = None
    assert under_way is None
    assert len(created) == len(set(created))
    return done


def seal_as_release_worker(world: World, face: int, to: PublicKey, item: int = 0) -> bytes:
    """One more face's key, sealed to this custody key."""
    key = secrets.token_bytes(32)
    world.secrets[world.items[item], face] = key
    with world.as_("release").begin() as session:
        session.execute(insert(SealedKey).values(sealed_row(world, face, to, key, item)))
    return key


def sealed_row(world: World, face: int, to: PublicKey, key: bytes, item: int = 0) -> dict[str, Any]:
    item_id = world.items[item]
    context = world.context(item_id, face)
    return {
        "attempt_id": world.attempts[item_id],
        "item_id": item_id,
        "kind": context.kind,
        "face": face,
        "suite": DEFAULT_SUITE.value,
        "custody_key_id": to.id,
        "wrapped": seal_key(to, key, context),
    }


def public_of(key: keys.Key) -> PublicKey:
    return PublicKey(key.id, key.public)


@pytest.fixture
def world(world: World) -> World:
    world.owner("ALTER TABLE sealed_keys DISABLE TRIGGER guard_late")  # keys are added to its attempts
    return replace(world, secrets=dict(world.secrets))


# --- what a rotation does


def test_after_a_rotation_an_old_release_still_recovers(world: World) -> None:
    old = ring_of(world).active
    running = world.custodian()  # as one that was started long before
    before = world.approved((0, 1))
    opened = running.open(before.id)
    done = office(world).rotate()
    ring = ring_of(world)
    assert (done.rewrapped, done.to, done.tally.failures) == (ROWS, ring.active, [])
    assert [key.id for key in ring.keys] == [old, ring.active] and old != ring.active
    assert {row.custody_key_id for row in rows_of(world)} == {ring.active}
    assert all_open(world)
    assert keys.load_public(world.folder / "custody.public.json") == public_of(ring.keys[1])
    after = running.open(world.approved((0, 1)).id)
    for each in (opened, after):
        assert each.recovery is not None, each.refusal
        with world.as_("recovery")() as session:
            row = session.get_one(Recovery, each.recovery, options=[undefer(Recovery.key_bundle)])
        sealed, info = bytes(row.key_bundle or b""), bundle_info(row.id, row.ticket_id)
        bundle = KeyBundle.loads(open_sealed(world.recovery_key().secret(), sealed, info))
        assert bundle.items[0].face_keys == {1: world.secrets[world.items[0], 1]}


def test_the_trail_tells_both_keys_periods(world: World) -> None:
    old = ring_of(world).active
    office(world).rotate()
    office(world).retire(old)
    new = ring_of(world).active
    events = told(world)
    assert [event for event, _ in events] == [
        "key:created",
        "key:created",
        "key:rotation_started",
        *["key:rewrapped"] * 3,
        "key:rotation_finished",
        "key:retired",
    ]
    assert [events[0][1]["key"], events[1][1]["key"], events[-1][1]["key"]] == [old, new, old]
    assert events[2][1] == {"from": [{"key": old, "holds": ROWS}], "to": new}
    assert all(detail == {"count": 2, "from": old, "to": new} for event, detail in events if event == "key:rewrapped")
    assert events[-2][1] == {"to": new, "rewrapped": ROWS, "left": 0}
    assert {each["fields"]["actor"] for each in world.events() if each["event"].startswith("key:ro")} == {"root"}
    listed = {key.id: (key.state, key.wrapped) for key in office(world).overview()}
    assert listed == {old: ("retired", 0), new: ("active", ROWS)}
    assert world.unsigned() == []


def test_looking_at_the_keys_tells_the_trail_of_the_first_one_once(world: World) -> None:
    for _ in range(2):
        assert [(key.state, key.wrapped) for key in office(world).overview()] == [("active", ROWS)]
    assert [(event, detail["key"]) for event, detail in told(world)] == [("key:created", ring_of(world).active)]


def test_a_rotation_after_a_rotation(world: World) -> None:
    to = [office(world).rotate().to for _ in range(3)]
    assert balanced(world) == [(key, ROWS) for key in to]
    assert all_open(world)
    assert len(set(to)) == 3


def test_abandoned_attempts_keys_are_wrapped_again_too_and_shredded_ones_stay_gone(world: World) -> None:
    first, second = rows_of(world)[:2]
    with world.as_("custodian").begin() as session:
        session.execute(update(SealedKey).where(SealedKey.id == first.id).values(state="superseded"))
        session.execute(update(SealedKey).where(SealedKey.id == second.id).values(state="shredded", wrapped=None))
    old = ring_of(world).active
    assert office(world).rotate().rewrapped == ROWS - 1
    rows = {row.id: row for row in rows_of(world)}
    assert rows[first.id].custody_key_id == ring_of(world).active
    assert (rows[second.id].wrapped, rows[second.id].custody_key_id) == (None, old)
    office(world).retire(old)


def test_a_row_that_does_not_open_is_told_and_left_and_can_be_taken_up_later(world: World) -> None:
    broken = rows_of(world)[1]
    old = ring_of(world).active
    good = bytes(broken.wrapped or b"")
    with world.as_("custodian").begin() as session:
        session.execute(update(SealedKey).where(SealedKey.id == broken.id).values(wrapped=good[:-1] + b"?"))
    done = office(world).rotate()
    assert done.rewrapped == ROWS - 1
    assert [(each.item, each.face, each.custody_key_id) for each in done.tally.failures] == [
        (broken.item_id, broken.face, old)
    ]
    assert told(world)[-1] == ("key:rotation_finished", {"to": done.to, "rewrapped": ROWS - 1, "left": 1})
    assert office(world).check().failures == done.tally.failures
    with pytest.raises(KeyInUse, match="1 sealed key"):
        office(world).retire(old)
    with world.as_("custodian").begin() as session:
        left = session.get_one(SealedKey, broken.id, options=[undefer(SealedKey.wrapped)])
        assert (left.custody_key_id, left.wrapped) == (old, good[:-1] + b"?"), "left as it was"
        left.wrapped = good
    assert office(world).rotate(new_key=False).rewrapped == 1
    assert all_open(world)
    assert [to for to, _ in balanced(world)] == [done.to, done.to]


def test_a_shredded_key_that_a_backup_brought_back_is_not_kept_alive(world: World) -> None:
    item = world.items[0]
    world.ledger.record_shredded([Portion(item, world.release, None, (1,))])
    old = ring_of(world).active
    done = office(world).rotate()
    assert (done.rewrapped, done.tally.buried) == (ROWS - 1, 1)
    left = [row for row in rows_of(world) if row.custody_key_id == old]
    assert [(row.item_id, row.face) for row in left] == [(item, 1)]
    office(world).retire(old)
    with pytest.raises(KeyUnknown):
        KeyRing(world.folder / "custody.json").unwrap(
            WrappedKey(left[0].suite, old, bytes(left[0].wrapped or b"")), world.context(item, 1)
        )


# --- keys sealed meanwhile


def test_a_key_sealed_to_the_old_key_during_a_rotation_is_found_by_the_same_rotation(world: World) -> None:
    old, late = public_of(ring_of(world).keys[0]), iter(range(2, 5))

    def step(name: str) -> None:
        if name == "after-batch" and (face := next(late, None)) is not None:
            seal_as_release_worker(world, face, old)

    assert office(world, reach=step).rotate().rewrapped == ROWS + 3
    assert {row.custody_key_id for row in rows_of(world)} == {ring_of(world).active}
    assert all_open(world)
    balanced(world)


def test_one_sealed_at_the_very_end_opens_and_is_found_by_the_next_run(world: World) -> None:
    old = public_of(ring_of(world).keys[0])

    def late(step: str) -> None:
        if step == "before-finished":
            seal_as_release_worker(world, 2, old)

    assert office(world, reach=late).rotate().rewrapped == ROWS
    assert [row.face for row in rows_of(world) if row.custody_key_id == old.id] == [2]
    assert all_open(world)
    with pytest.raises(KeyInUse):
        office(world).retire(old.id)
    assert office(world).rotate(new_key=False).rewrapped == 1
    office(world).retire(old.id)
    assert all_open(world)


def test_release_workers_that_go_on_sealing_while_it_rotates(world: World) -> None:
    old, stop, sealed = public_of(ring_of(world).keys[0]), threading.Event(), []

    def work() -> None:
        for face in range(2, 60):
            if stop.is_set():
                return
            seal_as_release_worker(world, face, old, item=1)
            sealed.append(face)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(2):
            office(world).rotate()
    finally:
        stop.set()
        worker.join()
    assert sealed
    assert all_open(world)
    office(world).rotate()
    assert {row.custody_key_id for row in rows_of(world)} == {ring_of(world).active}
    assert all_open(world)
    balanced(world)


# --- retirement


def test_only_a_key_that_nothing_needs_can_be_retired(world: World) -> None:
    keeper, old = office(world), ring_of(world).active
    with pytest.raises(KeyInUse, match="sealed to now"):
        keeper.retire(old)
    with pytest.raises(CustodyKeyUnknown):
        keeper.retire("no such key")
    stolen = rows_of(world)[0]
    keeper.rotate()
    keeper.retire(old)
    with pytest.raises(CustodyKeyUnknown):
        keeper.retire(old)
    assert [key.id for key in ring_of(world).keys] == [ring_of(world).active]
    raw = (world.folder / "custody.json").read_text()
    assert old not in raw
    with pytest.raises(KeyUnknown):  # what a stolen backup of the database still holds
        KeyRing(world.folder / "custody.json").unwrap(
            WrappedKey(stolen.suite, stolen.custody_key_id, bytes(stolen.wrapped or b"")),
            world.context(stolen.item_id, stolen.face),
        )
    assert all_open(world)


def test_a_rotation_tells_how_far_it_is(world: World) -> None:
    told: list[int] = []
    office(world, told=told.append).rotate()
    assert len(told) > 1 and sum(told) == ROWS


def test_without_the_trail_no_key_is_retired(world: World) -> None:
    """Its private half is still there: what no event tells of has not happened."""
    keeper = office(world)
    old = ring_of(world).active
    keeper.rotate()
    roles = "refacex_custodian"
    world.owner(f"REVOKE EXECUTE ON FUNCTION audit.append(text, jsonb) FROM {roles}")
    with pytest.raises(DBAPIError):
        keeper.retire(old)
    assert old in {key.id for key in ring_of(world).keys}
    world.owner(f"GRANT EXECUTE ON FUNCTION audit.append(text, jsonb) TO {roles}")
    keeper.retire(old)
    assert old not in {key.id for key in ring_of(world).keys}


def test_nothing_is_sealed_to_a_retired_key(world: World) -> None:
    old = public_of(ring_of(world).keys[0])
    office(world).rotate()
    office(world).retire(old.id)
    with pytest.raises(DBAPIError, match="is retired: give the release worker"):
        seal_as_release_worker(world, 5, old)


def test_retiring_waits_for_a_seal_that_is_under_way(world: World) -> None:
    """A release worker has put its row and not committed it: the key must not go away beneath it."""
    old = public_of(ring_of(world).keys[0])
    office(world).rotate()
    outcome: list[BaseException | None] = []

    def retire() -> None:
        try:
            office(world).retire(old.id)
            outcome.append(None)
        except KeyInUse as error:
            outcome.append(error)

    with world.as_("release").begin() as session:
        world.secrets[world.items[0], 7] = key = secrets.token_bytes(32)
        session.execute(insert(SealedKey).values(sealed_row(world, 7, old, key)))
        retiring = threading.Thread(target=retire)
        retiring.start()
        retiring.join(1.0)
        assert retiring.is_alive() and not outcome, "it waits"
    retiring.join(20)
    assert isinstance(outcome[0], KeyInUse)
    assert all_open(world)
    assert office(world).rotate(new_key=False).rewrapped == 1, "a refused retirement leaves the key open"


def test_the_register_cannot_be_turned_back(world: World) -> None:
    old = ring_of(world).active
    office(world).rotate()
    office(world).retire(old)
    for change in ({"retired_at": None}, {"closed_at": None}):
        with world.as_("custodian")() as session, pytest.raises(DBAPIError):
            session.execute(update(CustodyKey).where(CustodyKey.id == old).values(change))
    for statement in ("DELETE FROM custody_keys", "UPDATE custody_keys SET id = 'x'"):
        with world.as_("custodian")() as session, pytest.raises(DBAPIError, match="denied"):
            session.execute(text(statement))
    for role in ("release", "recovery", "relay", "notary"):
        with world.as_(role)() as session, pytest.raises(DBAPIError, match="denied"):
            session.execute(text("SELECT id FROM custody_keys"))
    with world.as_("gateway")() as session:  # it verifies the trail, which tells of the same
        assert session.scalar(select(func.count()).select_from(CustodyKey)) == 2
        with pytest.raises(DBAPIError, match="denied"):
            session.execute(text("UPDATE custody_keys SET rewrapped = 7"))


def test_rows_with_made_up_key_ids_stop_nobody(world: World) -> None:
    """What a release worker that was taken over can write: they are told, and the rest is wrapped again."""
    made_up = [PublicKey(name, bytes(range(32))) for name in ("x" * 20_000, "naïve\n[red]", *map(str, range(30)))]
    for face, to in enumerate(made_up, 2):
        seal_as_release_worker(replace(world, secrets={}), face, to)
    done = office(world).rotate()
    assert (done.rewrapped, len(done.tally.failures)) == (ROWS, len(made_up))
    assert {each.code for each in done.tally.failures} == {"custody_key_unknown"}
    assert len(balanced(world)) == 1


def test_two_rotations_at_once_are_one_too_many(world: World) -> None:
    def step(name: str) -> None:
        if name == "after-started":
            with pytest.raises(KeyRingBusy):
                office(world).rotate()
            with pytest.raises(KeyRingBusy):
                office(world).retire("x")

    office(world, reach=step).rotate()
    assert len(balanced(world)) == 1


# --- kill -9

RUN = "import sys; from gateway.cli import main; sys.argv[0] = 'refacex'; main()"


@pytest.fixture
def refacex(world: World, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`refacex ... --home H` as the custodian's machine has it."""
    home = tmp_path / "home"
    (home / "env").mkdir(parents=True)
    names = {"ROSTER": "roster", "POLICIES": "policies", "TOMBSTONES": "tombstones", "CUSTODY_KEYRING": "custody"}
    names |= {"TICKET_SIGNING_KEY": "ticket", "RECOVERY_PUBLIC_KEY": "recovery.public"}
    variables = {name: str(world.folder / f"{file}.json") for name, file in names.items()}
    variables |= {"DATABASE_URL": world.database.url_for("custodian"), "BROKER_URL": "redis://nobody"}
    lines = [f"REFACEX_{name}='{value}'\n" for name, value in variables.items()]
    (home / "env" / "custodian.env").write_text("".join(lines))

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN, *arguments, "--home", str(home)]
        more = {f"REFACEX_{name}": value for name, value in environment.items()}
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | more,
            capture_output=True,
            text=True,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    return run


@pytest.mark.parametrize("step", rotation.ROTATION_STEPS)
def test_a_rotation_killed_at(
    step: str, world: World, refacex: Callable[..., Any], nothing_found: Callable[[], None]
) -> None:
    old = ring_of(world).active
    rotate = ("keys", "rotate", "--batch", "2")
    killed = refacex(*rotate, ALLOW_FAULTS="1", FAULT=step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert all_open(world), "nothing is lost, whatever the next run does"
    assert world.custodian().open(world.approved((1, 0)).id).recovery is not None
    again = refacex(*rotate)
    assert again.returncode == 0, again.stderr
    ring = ring_of(world)
    killed_too_late = step == "after-finished"  # there the second run is a rotation of its own
    assert len(ring.keys) == (3 if killed_too_late else 2)
    assert ring.keys[0].id == old
    assert {row.custody_key_id for row in rows_of(world)} == {ring.active}
    assert keys.load_public(world.folder / "custody.public.json").id == ring.active
    assert all_open(world)
    assert [number for _, number in balanced(world)] == [ROWS] * (2 if killed_too_late else 1)
    assert f"{ROWS} sealed keys wrapped again under {ring.active}" in again.stderr
    checked = refacex("keys", "check")
    assert (checked.returncode, checked.stderr.strip()) == (0, f"{ROWS} sealed keys opened")
    assert not list(world.folder.glob(".custody*.tmp"))
    world.owner("ALTER TABLE sealed_keys ENABLE TRIGGER guard_late")
    nothing_found()


@pytest.mark.parametrize("step", rotation.RETIREMENT_STEPS)
def test_a_retirement_killed_at(
    step: str, world: World, refacex: Callable[..., Any], nothing_found: Callable[[], None]
) -> None:
    old = ring_of(world).active
    office(world).rotate()
    killed = refacex("keys", "retire", old, "--yes", ALLOW_FAULTS="1", FAULT=step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert all_open(world)
    with pytest.raises(DBAPIError, match="is retired"):  # from its first step on
        seal_as_release_worker(replace(world, secrets={}), 5, PublicKey(old, bytes(range(32))))
    again = refacex("keys", "retire", old, "--yes")
    assert again.returncode == (1 if step == "after-retired" else 0), again.stderr
    assert [key.id for key in ring_of(world).keys] == [ring_of(world).active]
    assert [event for event, _ in told(world)].count("key:retired") == 1
    assert all_open(world)
    world.owner("ALTER TABLE sealed_keys ENABLE TRIGGER guard_late")
    nothing_found()


def test_the_half_written_ring_of_a_killed_command_does_not_stay(world: World) -> None:
    """It may hold the key that is being retired."""
    left = world.folder / ".custody.json.4711.tmp"
    left.write_bytes((world.folder / "custody.json").read_bytes())
    office(world).rotate()
    assert not left.exists()


# --- the command line


def test_what_the_command_line_says(world: World, refacex: Callable[..., Any]) -> None:
    old = ring_of(world).active
    listed = [json.loads(line) for line in refacex("keys", "list", "--json").stdout.splitlines()]
    assert [(each["key"], each["state"], each["holds"]) for each in listed] == [(old, "active", ROWS)]
    broken = rows_of(world)[2]
    with world.as_("custodian").begin() as session:
        session.execute(update(SealedKey).where(SealedKey.id == broken.id).values(wrapped=b"?" * 80))
    for command in (["keys", "check"], ["keys", "rotate"]):
        said = refacex(*command)
        assert said.returncode == 1
        assert f"does not open: item {broken.item_id}, face {broken.face}, under {old} (unwrappable)" in said.stderr
        assert "Traceback" not in said.stderr
    refused = refacex("keys", "retire", old, "--yes")
    assert refused.returncode == 1 and "nothing else opens 1 sealed key" in refused.stderr
    asked = refacex("keys", "retire", old)
    assert asked.returncode == 1 and "nobody answered: read above what it means, then give --yes" in asked.stderr
    assert refacex("keys", "rotate", "--to", "aws-kms").returncode == 1


def test_a_ring_with_a_passphrase_rotates_and_stays_under_it(
    world: World, refacex: Callable[..., Any], tmp_path: Path
) -> None:
    words = tmp_path / "words"
    words.write_text("of this test\n")
    words.chmod(0o600)
    named = {"CUSTODY_PASSPHRASE_FILE": str(words)}
    secret = ring_of(world).keys[0].secret()
    assert refacex("keys", "passphrase", **named).returncode == 0
    refused = refacex("keys", "rotate")
    assert refused.returncode == 1 and "has a passphrase" in refused.stderr
    assert refacex("keys", "rotate", **named).returncode == 0
    assert refacex("keys", "check", **named).returncode == 0
    (tmp_path / "wrong").write_text("another")
    (tmp_path / "wrong").chmod(0o600)
    wrong = refacex("keys", "check", CUSTODY_PASSPHRASE_FILE=str(tmp_path / "wrong"))
    assert wrong.returncode == 1 and "not the key file's passphrase" in wrong.stderr
    ring = keys.load(world.folder / "custody.json", keys.FileKind.CUSTODY, lambda: b"of this test")
    assert ring.protected and len(ring.keys) == 2 and ring.keys[0].secret() == secret


# --- from one provider to another


@contextmanager
def kms_office(world: World) -> Iterator[tuple[KeyOffice, str]]:
    with mock_aws():
        clients = KmsClients(KmsSettings(kms_access_key="x", kms_secret_key="x"))
        client = boto3.client("kms", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x")
        arn = client.create_key()["KeyMetadata"]["Arn"]
        ring = KeyRing(world.folder / "custody.json")
        both = BySuite({DEFAULT_SUITE.value: ring, KMS: KmsUnwrapper([arn], clients)})
        yield office(world, unwrapper=both, services=[Held(KMS, [arn], KmsSealer(arn, clients))]), arn


def test_to_kms_and_back(world: World) -> None:
    with kms_office(world) as (keeper, arn):
        assert (keeper.rotate(to=KMS).to, keeper.check().opened) == (arn, ROWS)
        assert {(row.custody_key_id, row.suite) for row in rows_of(world)} == {(arn, "aws-kms")}
        opened = replace(world.custodian(), unwrapper=keeper.unwrapper).open(world.approved().id)
        assert opened.recovery is not None, opened.refusal
        back = keeper.rotate()
        assert back.rewrapped == ROWS
        assert balanced(world) == [(arn, ROWS), (back.to, ROWS)]
    assert all_open(world)


def test_kms_goes_away_in_the_middle(world: World) -> None:
    with kms_office(world) as (keeper, arn):
        calls = iter(range(100))

        class Going:
            def seal(self, key: bytes, context: KeyContext) -> WrappedKey:
                if next(calls) == 3:
                    raise KmsAway
                return keeper.services[0].sealer.seal(key, context)

        with pytest.raises(KmsAway):
            replace(keeper, services=[Held(KMS, [arn], Going())]).rotate(to=KMS)
        assert {row.suite for row in rows_of(world)} == {"aws-kms", DEFAULT_SUITE.value}
        assert keeper.check().opened == ROWS
        with pytest.raises(RotationUnfinished, match=r"rotate --to aws-kms"):
            keeper.rotate()
        with pytest.raises(KeyInUse):
            keeper.retire(arn)
        assert keeper.rotate(to=KMS).rewrapped == ROWS
        assert balanced(world) == [(arn, ROWS)]


def test_what_a_custodian_without_ring_or_kms_is_told(world: World) -> None:
    with pytest.raises(ServiceNotConfigured, match=KMS):
        office(world).rotate(to=KMS)
    with pytest.raises(ServiceUnknown, match=rf"named here.*\({KMS}\)$"):
        office(world).rotate(to="vault")
    with pytest.raises(KeyRingMissing):
        office(world, ring=None).rotate()


def test_a_key_that_seals_but_does_not_open_stops_the_rotation(world: World) -> None:
    """What was sealed is opened again before the old wrapping goes: else a KMS key without a right to decrypt loses all."""
    with kms_office(world) as (keeper, _), pytest.raises(KeyUnknown):
        blind = BySuite({DEFAULT_SUITE.value: KeyRing(world.folder / "custody.json"), KMS: NoKeys()})
        replace(keeper, unwrapper=blind).rotate(to=KMS)
    assert all_open(world)


class NoKeys:
    """Unwraps nothing."""

    def unwrap(self, sealed: WrappedKey, context: KeyContext) -> bytes:
        raise KeyUnknown(sealed.custody_key_id)


def test_the_indexes_serve_the_walk(world: World) -> None:
    """Batches are found by index, so that a rotation of a million keys reads each row once."""
    with world.as_("custodian")() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(
            session.scalars(
                text(
                    "EXPLAIN SELECT id FROM sealed_keys WHERE custody_key_id = 'a' AND wrapped IS NOT NULL AND id > "
                    "'00000000-0000-0000-0000-000000000000' ORDER BY id LIMIT 500"
                )
            )
        )
        assert "sealed_keys_custody_key" in plan and "Sort" not in plan
        assert session.scalar(select(func.count()).select_from(SealedKey)) == ROWS
