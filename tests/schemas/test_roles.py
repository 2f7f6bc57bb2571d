"""What each process's role may not do, tried with that role's own credentials."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import undefer

from schemas.audit import AuditEvent
from schemas.messages import TaskName, outbox_row
from schemas.states import KeyKind
from schemas.submissions import pseudonym_of, subjects_sha256
from schemas.tables import (
    Alert,
    Approval,
    Attempt,
    Item,
    Outbox,
    Recovery,
    RecoveryRequest,
    Release,
    SealedKey,
    Subject,
)
from tests.conftest import Database
from tests.governance import World, build, copied
from workers.audit import append
from workers.releases import lifecycle
from workers.releases import service as releases
from workers.releases.sources import Source

DENIED = "42501"

# Statements that must be refused, by role.
REFUSED: dict[str, list[str]] = {
    "release": [
        "SELECT wrapped FROM sealed_keys",
        "SELECT * FROM sealed_keys",
        "UPDATE sealed_keys SET state = 'superseded'",
        "UPDATE sealed_keys SET wrapped = NULL",
        "DELETE FROM sealed_keys",
        "DELETE FROM items",
        "INSERT INTO items SELECT * FROM items",
        "UPDATE items SET source_uri = 'x'",
        "UPDATE releases SET policy = '{}'",
        "UPDATE attempts SET sha256 = 'x'",
        "SELECT * FROM approvals",
        "SELECT * FROM recovery_requests",
        "SELECT * FROM request_faces",
        "SELECT * FROM tickets",
        "SELECT * FROM recoveries",
        "SELECT * FROM recovered_faces",
        "SELECT * FROM people",
        "SELECT args FROM outbox",
        "DELETE FROM outbox",
        "SELECT * FROM audit.events",
        "INSERT INTO tickets (id, request_id, expires_at) VALUES (gen_random_uuid(), gen_random_uuid(), now())",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('privileged', 'custody', 'custody.open', '[]')",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('privileged', 'recovery', 'recoveries.recover', '[]')",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('release', 'release', 'custody.retain', '[]')",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('release', 'release', 'releases.anonymise', '[]')",
    ],
    "custodian": [
        "UPDATE approvals SET decision = 'approve'",
        "INSERT INTO approvals SELECT * FROM approvals",
        "UPDATE recovery_requests SET quorum = 1",
        "INSERT INTO recovery_requests SELECT * FROM recovery_requests",
        "INSERT INTO request_faces SELECT * FROM request_faces",
        "UPDATE items SET state = 'done'",
        "SELECT * FROM recovered_faces",
        "SELECT * FROM people",
        "UPDATE recoveries SET ticket_id = gen_random_uuid()",
        "SELECT sealed FROM recovered_faces",
        "UPDATE custody_orders SET signature = ''",
        "INSERT INTO custody_orders SELECT * FROM custody_orders",
        "UPDATE reviews SET closed_by = 'x'",
        "DELETE FROM tickets",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('release', 'release', 'releases.anonymise', '[]')",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('privileged', 'custody', 'custody.open', '[]')",
    ],
    "recovery": [
        "SELECT id FROM sealed_keys",
        "SELECT * FROM approvals",
        "SELECT canonical FROM recovery_requests",
        "SELECT recipient_public FROM recovery_requests",
        "SELECT * FROM people",
        "SELECT sealed FROM recovered_faces",
        "INSERT INTO recoveries (id, ticket_id, expires_at) VALUES (gen_random_uuid(), gen_random_uuid(), now())",
        "INSERT INTO tickets (id, request_id, expires_at) VALUES (gen_random_uuid(), gen_random_uuid(), now())",
        "UPDATE recoveries SET ticket_id = gen_random_uuid()",
        "UPDATE items SET state = 'done'",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('privileged', 'custody', 'custody.open', '[]')",
    ],
    "relay": [
        "SELECT wrapped FROM sealed_keys",
        "SELECT key_bundle FROM recoveries",
        "SELECT sealed FROM recovered_faces",
        "SELECT reason FROM recovery_requests",
        "SELECT * FROM approvals",
        "SELECT * FROM people",
        "UPDATE outbox SET args = '[]'",
        "UPDATE outbox SET task = 'custody.open'",
        "UPDATE items SET object_key = 'x'",
        "INSERT INTO items SELECT * FROM items",
        "UPDATE releases SET report_sha256 = repeat('a', 64)",
        "UPDATE alerts SET detail = '{}'",
        "DELETE FROM alerts",
        "SELECT * FROM subjects",
    ],
    "notary": [
        "SELECT * FROM items",
        "SELECT id FROM sealed_keys",
        "SELECT * FROM recovery_requests",
        "SELECT * FROM people",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('release', 'release', 'x', '[]')",
        "UPDATE audit.tree_heads SET size = 1",
        "DELETE FROM audit.nodes",
    ],
    "gateway": [
        "SELECT wrapped FROM sealed_keys",
        "SELECT key_bundle FROM recoveries",
        "INSERT INTO sealed_keys SELECT * FROM sealed_keys",
        "UPDATE approvals SET decision = 'approve'",
        "DELETE FROM approvals",
        "UPDATE recovery_requests SET quorum = 1",
        "UPDATE request_faces SET face = 1",
        "UPDATE people SET ed25519_public = decode(repeat('00', 32), 'hex')",
        "DELETE FROM people",
        "INSERT INTO tickets (id, request_id, expires_at) VALUES (gen_random_uuid(), gen_random_uuid(), now())",
        "INSERT INTO recoveries (id, ticket_id, expires_at) VALUES (gen_random_uuid(), gen_random_uuid(), now())",
        "INSERT INTO recovered_faces SELECT * FROM recovered_faces",
        "UPDATE items SET state = 'done'",
        "UPDATE items SET subject_id = NULL",
        "UPDATE releases SET report_sha256 = repeat('a', 64)",
        "UPDATE releases SET submitted_by = 'x'",
        "UPDATE subjects SET reference = 'x'",
        "UPDATE alerts SET delivered_at = now()",
        "SELECT args FROM outbox",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('privileged', 'recovery', 'recoveries.recover', '[]')",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('release', 'exports', 'releases.report', '[]')",
        "INSERT INTO outbox (broker, queue, task, args) VALUES ('release', 'nowhere', 'x', '[]')",
    ],
}
CASES = [(role, statement) for role, statements in REFUSED.items() for statement in statements]


@pytest.fixture(scope="module")
def world(database: Database, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with a recovery on its way, so that every table has rows."""
    world = build(database, tmp_path_factory.mktemp("world"))
    assert world.custodian().open(world.approved().id).recovery is not None
    return world


@pytest.fixture
def broken(world: World, tmp_path: Path) -> Iterator[World]:
    with copied(world.database) as fresh:
        yield world.moved(fresh, tmp_path / "copy")


@pytest.mark.parametrize(("role", "statement"), CASES)
def test_refused(world: World, role: str, statement: str) -> None:
    with world.as_(role)() as session, pytest.raises(DBAPIError) as caught:
        session.execute(text(statement))
    assert caught.value.orig.sqlstate == DENIED  # type: ignore[union-attr]


def test_roles_read_their_rows_as_objects(world: World) -> None:
    """The models leave out what a role may not read, so loading one does not ask for too much."""
    allowed = {
        "release": [Release, Item, SealedKey],
        "custodian": [RecoveryRequest, Approval, Recovery, SealedKey],
        "recovery": [Recovery, Item],
        "gateway": [RecoveryRequest, Approval, Recovery, SealedKey, Item],
        "relay": [Outbox, Item, Release],
    }
    for role, models in allowed.items():
        with world.as_(role)() as session:
            for model in models:
                assert session.execute(select(model)).scalars().all()
    with world.as_("release")() as session, pytest.raises(DBAPIError, match="permission denied"):
        session.execute(select(SealedKey).options(undefer(SealedKey.wrapped)))


GUARDED = [
    ("DELETE FROM tickets", "append-only"),
    ("UPDATE recovery_requests SET reason = 'x'", "cannot be changed"),
    ("UPDATE recovery_requests SET state = 'open'", "cannot go from recovering to open"),
    ("DELETE FROM approvals", "append-only"),
    ("UPDATE approvals SET decision = 'deny'", "append-only"),
    ("TRUNCATE approvals", "append-only"),
    ("UPDATE request_faces SET face = 1", "append-only"),
    ("UPDATE tickets SET spent_at = NULL", "spent once"),
    ("UPDATE tickets SET expires_at = now() + interval '9 days'", "spent once"),
    ("DELETE FROM recoveries", "append-only"),
    ("UPDATE recoveries SET state = 'fetched', key_bundle = NULL", "cannot go from bound to fetched"),
    ("UPDATE recoveries SET expires_at = now() + interval '9 days'", "cannot be changed"),
    ("UPDATE recoveries SET key_bundle = 'x'", "cannot be changed"),
    ("UPDATE recoveries SET sealed_at = now() + interval '1 day'", "cannot be changed"),
    (
        "UPDATE sealed_keys SET item_id = (SELECT id FROM items ORDER BY position LIMIT 1), face = 7",
        "stays with its face",
    ),
    ("DELETE FROM sealed_keys", "append-only"),
    ("UPDATE items SET sha256 = 'x'", "released item"),
    ("UPDATE items SET state = 'pending'", "released item"),
    ("UPDATE attempts SET state = 'abandoned'", "published or abandoned once"),
    ("UPDATE attempts SET object_key = 'x'", "never changed"),
]


@pytest.mark.parametrize(("statement", "words"), GUARDED)
def test_the_guards_hold_for_the_owner_too(world: World, statement: str, words: str) -> None:
    import psycopg

    with pytest.raises(psycopg.Error, match=words):
        world.owner(statement)


def test_a_decision_comes_in_time_or_not_at_all(broken: World) -> None:
    """Once a request is being recovered the database takes no more decisions on it."""
    insert = "INSERT INTO approvals (request_id, approver, requester, decision, signature) SELECT id, 'dave', requester, 'approve', "
    with broken.as_("gateway")() as session, pytest.raises(DBAPIError, match="not open for decisions"):
        session.execute(text(insert + "decode(repeat('00', 64), 'hex') FROM recovery_requests"))


# What a stolen gateway writes beside the request that is there, with times of its own.
REQUEST = (
    "INSERT INTO recovery_requests (id, tenant, release_id, requester, reason, legal_basis, case_reference, purpose, recipient_public, "
    "quorum, canonical, canonical_sha256, signature, signs_names, created_at, expires_at) SELECT gen_random_uuid(), tenant, release_id, "
    "requester, reason, legal_basis, case_reference, purpose, recipient_public, quorum, canonical, canonical_sha256, signature, "
    "signs_names, {}, {} FROM recovery_requests"
)


@pytest.mark.parametrize(
    ("role", "statement", "words"),
    [
        ("release", "UPDATE releases SET finished_at = 'infinity'", "finished once"),
        ("release", "UPDATE releases SET finished_at = created_at - interval '1 day'", "finished once"),
        ("release", "UPDATE items SET claim_expires_at = 'infinity'", "items_check|released item"),
        ("gateway", "UPDATE reviews SET closed_at = 'infinity'", None),
        ("gateway", "UPDATE people SET removed_at = '20000-01-01' WHERE id = 'dave'", "people_times"),
        ("gateway", REQUEST.format("created_at", "timestamptz '20000-01-01'"), "recovery_requests_times"),
        ("gateway", REQUEST.format("timestamptz '0044-03-15 BC'", "expires_at"), "recovery_requests_times"),
    ],
)
def test_no_role_writes_a_time_that_stops_the_others(
    world: World, role: str, statement: str, words: str | None
) -> None:
    with world.as_(role)() as session:
        if words is None:  # there is none to change
            session.execute(text(statement))
            return
        with pytest.raises(DBAPIError, match=words):
            session.execute(text(statement))


def test_an_alert_comes_now_and_undelivered(world: World) -> None:
    with world.as_("release").begin() as session:
        session.execute(text("INSERT INTO alerts (kind, at, delivered_at) VALUES ('x', 'infinity', now())"))
    with world.as_("gateway")() as session:
        row = session.execute(select(Alert)).scalar_one()
    assert abs(row.at - datetime.now(UTC)) < timedelta(minutes=5)
    assert row.delivered_at is None


FAR = datetime(9998, 1, 1, tzinfo=UTC)


def test_a_row_was_made_when_the_database_says(broken: World) -> None:
    made = {"tenant": "acme", "name": "x", "profile": "robust", "format": "png", "donor_policy": "random"}
    with broken.as_("gateway").begin() as session:
        subject = {"id": pseudonym_of("acme", "x", bytes(32)), "tenant": "acme", "reference": "x", "salt": bytes(32)}
        session.execute(insert(Subject).values(subject | {"created_at": FAR}))
        release = uuid4()
        session.execute(insert(Release).values(made | {"id": release, "submitted_by": "sam", "created_at": FAR}))
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="sam", release=release, detail={"tenant": "acme"})
    with broken.as_("gateway")() as session:
        times = [*session.scalars(select(Subject.created_at)), *session.scalars(select(Release.created_at))]
    assert all(abs(each - datetime.now(UTC)) < timedelta(minutes=5) for each in times)


def test_a_message_comes_now_and_unpublished(broken: World) -> None:
    message = outbox_row(TaskName.OPEN, [uuid4()]) | {"created_at": FAR, "published_at": FAR, "publish_count": 9}
    with broken.as_("gateway").begin() as session:
        session.execute(insert(Outbox).values(message))
    with broken.as_("relay")() as session:
        row = session.scalars(select(Outbox).order_by(Outbox.id.desc()).limit(1)).one()
    assert (row.published_at, row.publish_count) == (None, 0)
    assert abs(row.created_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_release_starts_open(world: World) -> None:
    made = {"tenant": "acme", "name": "x", "profile": "robust", "format": "png", "donor_policy": "random"}
    for more in ({"state": "finished"}, {"finished_at": FAR}, {"report_sha256": "0" * 64}):
        with world.as_("gateway")() as session, pytest.raises(DBAPIError, match="starts open"):
            session.execute(insert(Release).values(made | {"id": uuid4(), "submitted_by": "sam"} | more))


def test_items_come_with_their_release_alone(broken: World) -> None:
    """In savepoints as well; not later, nor after an update that makes the release's row this transaction's."""
    made = {"tenant": "acme", "name": "x", "profile": "robust", "format": "png", "donor_policy": "random"}
    item = {"source_uri": "x", "relative_name": "x"}
    release, items = uuid4(), [uuid4(), uuid4()]
    with broken.as_("gateway").begin() as session:
        with session.begin_nested():
            session.execute(insert(Release).values(made | {"id": release, "submitted_by": "sam"}))
        session.execute(insert(Item).values(item | {"id": items[0], "release_id": release, "position": 0}))
        with session.begin_nested():
            session.execute(insert(Item).values(item | {"id": items[1], "release_id": release, "position": 1}))
        detail = {"tenant": "acme", "subjects_sha256": subjects_sha256((each, None) for each in items)}
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="sam", release=release, detail=detail)
    for into in (release, broken.release):
        with broken.as_("gateway")() as session, pytest.raises(DBAPIError, match="come with their release"):
            session.execute(update(Release).where(Release.id == into).values(state=Release.state))
            session.execute(insert(Item).values(item | {"id": uuid4(), "release_id": into, "position": 2}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("state = 'committed'", "is not worked on again"),
        ("fence = fence + 3", "go up step by step"),
        ("fence = 9223372036854775807", "go up step by step"),
        ("fence = fence - 1", "go up step by step"),
        ("claim_expires_at = '9998-01-01'", "for a day at the most"),
        ("attempts = attempts + 2", "go up step by step"),
    ],
)
def test_nobody_takes_an_image_for_ever(broken: World, change: str, words: str) -> None:
    """A stolen release worker's role neither works on what has ended, nor claims for years, nor so that nobody can claim after it."""
    with broken.as_("gateway").begin() as session:
        release = releases.submit(
            session, tenant="acme", actor="sam", name="s", sources=[Source("file:///a", "a", None)]
        )
    state = "held" if "state" in change else "claimed"
    with broken.as_("release").begin() as session:
        session.execute(update(Item).where(Item.release_id == release).values(state=state, fence=1))
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match=words):
        session.execute(text(f"UPDATE items SET {change} WHERE release_id = '{release}'"))  # noqa: S608  this file's own words


def test_an_image_is_asked_for_again_whatever_its_row_says(broken: World) -> None:
    """A claim without an end, and a change that is still to come: as a stolen role leaves them."""
    with broken.as_("gateway").begin() as session:
        release = releases.submit(
            session, tenant="acme", actor="sam", name="s", sources=[Source("file:///a", "a", None)]
        )
        item = session.execute(select(Item.id).where(Item.release_id == release)).scalar_one()
    stuck = {"state": "claimed", "fence": 1, "attempts": 1, "claim_expires_at": None, "updated_at": FAR}
    with broken.as_("release").begin() as session:
        session.execute(update(Item).where(Item.id == item).values(stuck))
    with broken.as_("release").begin() as session:
        assert session.get_one(Item, item).updated_at < datetime.now(UTC) + timedelta(minutes=1)
        assert [each.item_id for each in lifecycle.claim(session, [item], seconds=60, fresh=False)] == [item]


def test_an_image_has_one_attempt_that_waits(broken: World) -> None:
    made = {"object_key": "k", "sha256": "0" * 64, "locator": bytes(8), "model_version": "m", "size_bytes": 1}
    with broken.as_("gateway").begin() as session:
        release = releases.submit(
            session, tenant="acme", actor="sam", name="s", sources=[Source("file:///a", "a", None)]
        )
        item = session.execute(select(Item.id).where(Item.release_id == release)).scalar_one()
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match="attempts_one_committed"):
        for fence in (1, 2):
            session.execute(update(Item).where(Item.id == item).values(state="committed", fence=fence))
            session.execute(insert(Attempt).values(made | {"id": uuid4(), "item_id": item, "fence": fence}))


@pytest.mark.parametrize("role", ["release", "relay", "gateway"])
def test_nobody_ends_a_release_before_its_images_have_ended(broken: World, role: str) -> None:
    with broken.as_("gateway").begin() as session:
        release = releases.submit(
            session, tenant="acme", actor="sam", name="s", sources=[Source("file:///a", "a", None)]
        )
    over = update(Release).where(Release.id == release).values(state="finished", finished_at=func.now())
    with broken.as_(role)() as session, pytest.raises(DBAPIError, match="when all its images have ended"):
        session.execute(over)
    with broken.as_("release").begin() as session:
        session.execute(update(Item).where(Item.release_id == release).values(state="held"))
        assert lifecycle.finish_releases(session, [release]) == [release]


@pytest.mark.parametrize("role", ["release", "relay", "recovery"])
def test_no_other_event_about_a_release_keeps_it_from_being_submitted(broken: World, role: str) -> None:
    """Its id is known to some while its photographs are uploaded."""
    release = uuid4()
    event = AuditEvent.RECOVERY_FAILED if role == "recovery" else AuditEvent.RELEASE_FINISHED
    with broken.as_(role).begin() as session:
        append(session, event, actor=role, release=release)
    with broken.as_("gateway").begin() as session:
        sources = [Source("file:///a", "a", None)]
        releases.submit(session, tenant="acme", actor="sam", name="s", sources=sources, release_id=release)


def test_an_item_starts_where_nobody_has_worked_on_it(broken: World) -> None:
    made = {"tenant": "acme", "name": "x", "profile": "robust", "format": "png", "donor_policy": "random"}
    for begun in ({"fence": 2**63 - 1}, {"attempts": 9}, {"state": "done"}):
        with broken.as_("gateway")() as session, pytest.raises(DBAPIError, match="where nobody has worked on it"):
            release = uuid4()
            session.execute(insert(Release).values(made | {"id": release, "submitted_by": "sam"}))
            image = {"id": uuid4(), "release_id": release, "position": 0, "source_uri": "x", "relative_name": "x"}
            session.execute(insert(Item).values(image | begun))


def test_a_worker_of_before_does_not_say_what_it_bound_a_key_to(broken: World) -> None:
    """One that still ran on while the database went to revision 0009: what it seals would open nothing, and is refused."""
    columns = "id, attempt_id, item_id, kind, face, suite, custody_key_id, wrapped"
    broken.owner("ALTER TABLE sealed_keys DISABLE TRIGGER guard_late")
    item = broken.items[0]
    values = f"gen_random_uuid(), '{broken.attempts[item]}', '{item}', 'face', 9, 's', 'k', 'x'"
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match='"context"'):
        session.execute(text(f"INSERT INTO sealed_keys ({columns}) VALUES ({values})"))  # noqa: S608  this file's own words
    broken.owner("ALTER TABLE sealed_keys ENABLE TRIGGER guard_late")
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match="bound to whom its image shows"):
        session.execute(text(f"INSERT INTO sealed_keys ({columns}, context) VALUES ({values}, 1)"))  # noqa: S608  this file's own words


def test_keys_come_with_their_attempt_alone(broken: World) -> None:
    """And an attempt is of an item in hand: what has ended is neither tried again nor given another key."""
    shown = broken.items[0]
    key = {"kind": KeyKind.FACE, "suite": "x", "custody_key_id": "k", "wrapped": b"x", "item_id": shown}
    made = {"object_key": "k", "sha256": "0" * 64, "locator": bytes(8), "model_version": "m", "size_bytes": 1}
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match="come with their attempt"):
        session.execute(update(Attempt).where(Attempt.item_id == shown).values(state=Attempt.state))
        session.execute(insert(SealedKey).values(key | {"attempt_id": broken.attempts[shown], "face": 99}))
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match="being worked on"):
        session.execute(insert(Attempt).values(made | {"id": uuid4(), "item_id": shown, "fence": 2}))
    sources = [Source("file:///a", "a", None)]
    with broken.as_("gateway").begin() as session:
        release = releases.submit(session, tenant="acme", actor="sam", name="s", sources=sources)
    attempt = uuid4()
    with broken.as_("release").begin() as session:
        fresh = session.scalars(select(Item.id).where(Item.release_id == release)).one()
        with pytest.raises(DBAPIError, match="being worked on"), session.begin_nested():
            session.execute(insert(Attempt).values(made | {"id": attempt, "item_id": fresh, "fence": 1}))
        session.execute(update(Item).where(Item.id == fresh).values(state="committed", fence=1))
        with session.begin_nested():
            session.execute(insert(Attempt).values(made | {"id": attempt, "item_id": fresh, "fence": 1}))
        with session.begin_nested():
            session.execute(insert(SealedKey).values(key | {"attempt_id": attempt, "item_id": fresh, "face": 0}))
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match="come with their attempt"):
        session.execute(insert(SealedKey).values(key | {"attempt_id": attempt, "item_id": fresh, "face": 1}))
    with broken.as_("gateway").begin() as session:
        releases.cancel(session, release, "sam")
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match="being worked on"):
        session.execute(update(Item).where(Item.id == fresh).values(fence=2))
        session.execute(insert(Attempt).values(made | {"id": uuid4(), "item_id": fresh, "fence": 2}))


def test_a_key_belongs_to_its_attempts_own_item(broken: World) -> None:
    row = {"attempt_id": broken.attempts[broken.items[0]], "item_id": broken.items[1], "kind": KeyKind.FACE, "face": 7}
    sealed = {"suite": "x", "custody_key_id": "k", "wrapped": b"x"}
    broken.owner("ALTER TABLE sealed_keys DISABLE TRIGGER guard_late")
    with broken.as_("release")() as session, pytest.raises(DBAPIError, match="foreign key"):
        session.execute(insert(SealedKey).values(row | sealed))
