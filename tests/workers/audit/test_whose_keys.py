"""An order takes what it names and nothing else, whatever the owner of the database shows the custodian, and when."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import hashlib
import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import rfc8785
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.event import listen, remove
from sqlalchemy.exc import IntegrityError

from schemas.audit import AuditEvent
from schemas.states import OrderKind, OrderScope, OrderState
from schemas.submissions import VOUCHES, subjects_sha256
from schemas.tables import CustodyOrder, Item, Release, Subject
from tests.governance import POLICY, World
from tests.workers.audit.harness import as_owner, as_superuser, disarm, rearm
from tests.workers.audit.test_left_out import live
from tests.workers.audit.test_shredded import Verify, keep, words
from tests.workers.audit.test_shredded import verify as verify
from tests.workers.custody.lives import age, released
from tests.workers.custody.test_proof import at_rows, done, give
from tests.workers.custody.test_proof import world as world
from workers.audit import append
from workers.audit.verify import Problem
from workers.custody import retention
from workers.custody.holds import Target
from workers.custody.orders import carry_out
from workers.custody.shredding import shred_again
from workers.releases import subjects
from workers.releases.errors import SubjectsChanged, SubjectUnknown

SHRED, HOLD, LIFT = OrderKind
FACE, ITEM, RELEASE, SUBJECT = OrderScope


def subject_of(world: World, item: int = 0) -> UUID:
    subject: UUID = world.one(select(Item.subject_id).where(Item.id == world.items[item]))
    return subject


def show(world: World, subject: UUID | None) -> None:
    value = f"'{subject}'" if subject else "NULL"
    at_rows(world, f"UPDATE items SET subject_id = {value} WHERE release_id = '{world.release}'")


def hide(world: World, condition: str) -> None:
    """Rows of images are out of the custodian's sight where it holds."""
    policy = f"CREATE POLICY p ON items TO refacex_custodian USING (NOT ({condition}))"
    as_owner(world.database, "ALTER TABLE items ENABLE ROW LEVEL SECURITY", policy)


def show_again(world: World) -> None:
    as_owner(world.database, "DROP POLICY p ON items", "ALTER TABLE items DISABLE ROW LEVEL SECURITY")


DECIDED = "current_setting('transaction_isolation') <> 'repeatable read'"  # what comes after the decision


def say_otherwise(world: World, sha256: str) -> None:
    """The release's `release:submitted` as if it had been submitted with others."""
    as_owner(world.database, disarm())
    with psycopg.connect(world.database.owner_url.replace("+psycopg", "")) as connection:
        asked = "FROM audit.events WHERE event = 'release:submitted' AND audit.release_of(canonical) = %s"
        row = connection.execute(f"SELECT seq, canonical {asked}", (str(world.release),)).fetchone()
        assert row is not None
        event = json.loads(row[1])
        event["fields"]["detail"]["subjects_sha256"] = sha256
        said = rfc8785.dumps(event)
        leaf = hashlib.sha256(b"\0" + said).digest()
        connection.execute("UPDATE audit.events SET canonical = %s, leaf = %s WHERE seq = %s", (said, leaf, row[0]))
    as_owner(world.database, rearm())


@pytest.mark.parametrize("reference", [None, "victor"])
@pytest.mark.parametrize("meanwhile", ["nothing else", "their events are away", "their submission says so too"])
def test_an_order_for_somebody_takes_nobody_elses_keys(
    world: World, verify: Verify, reference: str | None, meanwhile: str
) -> None:
    """Their images show her while it is carried out, and the trail is made to fit."""
    victim, anna = released(world, reference), released(world, "anna")
    who, before = subject_of(anna), subject_of(victim)
    terms = give(world, SHRED, Target(SUBJECT, who))
    show(victim, who)
    among = f"event LIKE 'item:%' AND audit.release_of(canonical) = '{victim.release}'"
    if meanwhile == "their events are away":
        taken = f"CREATE TABLE away AS SELECT * FROM audit.events WHERE {among}"
        as_owner(world.database, disarm(), taken, f"DELETE FROM audit.events WHERE {among}", rearm())
    elif meanwhile == "their submission says so too":
        say_otherwise(victim, subjects_sha256([(victim.items[0], who)]))
    hide(world, f"release_id = '{victim.release}' AND {DECIDED}")
    carried = carry_out(world.custodian(), terms.id)
    show_again(world)
    if meanwhile == "their events are away":
        as_owner(world.database, disarm(), "INSERT INTO audit.events SELECT * FROM away", "DROP TABLE away", rearm())
    elif meanwhile == "their submission says so too":
        say_otherwise(victim, subjects_sha256([(victim.items[0], before)]))
    show(victim, before)
    assert carried.refusal == "key_does_not_open"
    shred_again(world.custodian())  # what the custodian does when it starts
    assert (live(victim), live(anna)) == (3, 3)
    assert words(verify()) == []
    done(world, SHRED, Target(SUBJECT, who))
    assert (live(victim), live(anna)) == (3, 0)
    assert words(verify()) == []


def test_what_was_retired_too_early_is_found_whenever_it_goes(world: World, verify: Verify) -> None:
    """The trail's times are others while the custodian decides, and the rows are out of its sight when it would write an event of it: they
    go when it starts again, as what came back.
    """
    keep(world, 30)
    victim = released(world, None)
    hide(world, DECIDED)
    age(world, 31)
    retention.retain(world.custodian(), victim.release)
    age(world, -31)
    show_again(world)
    assert live(victim) == 3
    shred_again(world.custodian())
    assert live(victim) == 0
    told = [each["fields"]["detail"] for each in world.events() if each["event"] == "key:shredded"][-1]
    assert (told["reason"], told["retain_days"]) == ("tombstone", 30)
    assert words(verify()) == [(Problem.ROW, "key:shredded before its time was over")]


def test_what_an_order_buried_and_did_not_shred_goes_by_it_later(world: World, verify: Verify) -> None:
    """With the order's name, so that verification asks whether it was meant."""
    anna = released(world, "anna")
    terms = give(world, SHRED, Target(SUBJECT, subject_of(anna)))
    hide(world, DECIDED)
    assert carry_out(world.custodian(), terms.id).state is OrderState.DONE
    show_again(world)
    assert live(anna) == 3
    shred_again(world.custodian())
    told = [each["fields"] for each in world.events() if each["event"] == "key:shredded"][-1]
    assert (told["detail"]["reason"], told["detail"]["order"]) == ("tombstone", str(terms.id))
    assert told["request_hash"] == terms.sha256().hex()
    assert live(anna) == 0 and words(verify()) == []


def test_what_several_orders_took_and_came_back_goes_by_each_of_them(world: World, verify: Verify) -> None:
    """Two faces of one image by an order each, and the rows are there again, as from a backup."""
    as_superuser(world, "CREATE TABLE kept AS SELECT * FROM sealed_keys")
    orders = [done(world, SHRED, Target(FACE, world.items[0], face)) for face in (0, 1)]
    back = "UPDATE sealed_keys AS s SET wrapped = k.wrapped, state = k.state FROM kept AS k WHERE k.id = s.id"
    as_superuser(world, back, "DROP TABLE kept")
    assert shred_again(world.custodian()) == len(orders)
    assert live(world) == 1 and words(verify()) == []


def shredded(world: World, victim: World, **more: Any) -> None:
    """A custodian that signs what it should not: keys go, and an event of it."""
    detail = {"faces": [0, 1], "layout": True, "keys": 3, "tombstone": "0" * 64} | more.pop("detail")
    as_superuser(
        world, f"UPDATE sealed_keys SET wrapped = NULL, state = 'shredded' WHERE item_id = '{victim.items[0]}'"
    )
    with world.custodian().sessions.begin() as session:
        about = {"release": victim.release, "item": victim.items[0], "subject": more.pop("subject", None)}
        append(session, AuditEvent.KEY_SHREDDED, actor="custodian", **about, **more, detail=detail)


@pytest.mark.parametrize("reason", ["order", "tombstone"])
def test_keys_that_went_by_an_order_for_something_else_are_found(world: World, verify: Verify, reason: str) -> None:
    victim, anna = released(world, "victor"), released(world, "anna")
    about = {
        "by an order for something else": Target(SUBJECT, subject_of(anna)),
        "by an order for another face": Target(FACE, victim.items[0], 1),
    }
    for said, target in about.items():
        terms = give(world, HOLD, target)  # which order it was is all that counts here
        detail = {"reason": reason, "order": str(terms.id), "faces": [0]}
        by = {"subject": str(subject_of(victim)), "request_hash": terms.sha256().hex()}
        shredded(world, victim, detail=detail, **by)
        assert f"key:shredded {said}" in [each for _, each in words(verify())]
    shredded(world, victim, detail={"reason": reason, "order": str(uuid4())}, request_hash="0" * 64)
    unknown = "key:shredded by an order that the trail does not know before it"
    assert unknown in [each for _, each in words(verify())]


def test_what_came_back_had_gone_before(world: World, verify: Verify) -> None:
    victim = released(world, None)
    shredded(world, victim, detail={"reason": "tombstone"})
    said = "key:shredded as what came back, and the trail does not say that it was shredded before"
    assert said in [each for _, each in words(verify())]


def test_older_pseudonyms_are_those_that_older_releases_show(world: World, verify: Verify) -> None:
    """Two random ones, which say nothing of whom they stand for, are put there before anybody of those names was submitted."""
    as_superuser(
        world,
        *(
            f"INSERT INTO subjects (id, tenant, reference) VALUES ('{uuid4()}', 'acme', '{who}')"
            for who in ("anna", "bert")
        ),
    )
    made = "its pseudonym was not made for the reference that it has"
    assert words(verify()) == [(Problem.ROW, made), (Problem.ROW, "no image shows it")] * 2
    for who in ("anna", "bert"):
        with pytest.raises(SubjectsChanged):
            released(world, who)
        with world.as_("gateway")() as session, pytest.raises(SubjectsChanged):
            subjects.named(session, who)


def invented(world: World, detail: dict[str, Any], then: str | None = None) -> None:
    """A release of one image and of such an event; and `then`, where there is something, an image more."""
    release = uuid4()
    with world.as_("gateway").begin() as session:
        made = {"tenant": "acme", "name": "x", "profile": "robust", "format": "png", "donor_policy": "random"}
        signed = {"policy": {"name": POLICY}, "submitted_by": "sam", "names_salt": b"x" * 32}
        session.execute(insert(Release).values(id=release, **made, **signed))
        image = {"release_id": release, "source_uri": "file:///gone.png", "relative_name": "gone.png"}
        session.execute(insert(Item).values(id=uuid4(), position=0, **image))
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="sam", release=release, detail=detail)
        if then is not None:
            session.execute(text(then))
            session.execute(insert(Item).values(id=uuid4(), position=1, **image))


@pytest.mark.parametrize("then", ["SELECT", "SET CONSTRAINTS ALL DEFERRED"])
def test_nobody_adds_an_image_behind_the_event(world: World, then: str) -> None:
    """Who had the release's guard look early would have one that never was as the trail says."""
    with pytest.raises(IntegrityError, match="none is added to it later"):
        invented(world, {"tenant": "acme"}, then)


def test_nobody_makes_a_release_that_never_was_as_it_says(world: World) -> None:
    """It would be refused for ever, and each order for a subject of the tenant with it: a stolen gateway cannot begin it."""
    detail = {
        "tenant": "acme",
        "items": 1,
        "pseudonyms": VOUCHES,
        "names_sha256": "00" * 32,
        "subjects_sha256": "00" * 32,
    }
    for lie in (detail, {"tenant": "acme", "items": 1}, {}):
        with pytest.raises(IntegrityError, match="begins with its items and the event"):
            invented(world, lie)
    assert world.one(select(Release.id)) == world.release


@pytest.mark.parametrize("kind", ["item:held", "item:committed"])
def test_an_event_about_no_item_stops_no_order(world: World, kind: str) -> None:
    """Where an image has no key, the trail is asked for it: whatever somebody wrote there."""
    other = released(world, None, None)
    unkeyed = f"item_id = '{other.items[1]}'"
    as_superuser(
        world,
        f"DELETE FROM sealed_keys WHERE {unkeyed}",
        f"UPDATE items SET state = 'held', faces = 0 WHERE id = '{other.items[1]}'",
    )
    said = {"actor": "release-worker", "release": str(other.release), "item": []}
    with psycopg.connect(world.database.url_for("release").replace("+psycopg", "")) as connection:
        connection.execute("SELECT audit.append(%s, %s)", (kind, json.dumps(said)))
    terms = give(world, SHRED, Target(RELEASE, other.release))
    assert carry_out(world.custodian(), terms.id).state is OrderState.DONE
    assert world.one(select(CustodyOrder.state).where(CustodyOrder.id == terms.id)) is OrderState.DONE
    assert live(other) == 0


def test_somebody_may_be_erased_while_an_image_of_theirs_is_handed_in(world: World, verify: Verify) -> None:
    """Between two statements of the submission: they are somebody new then."""
    anna = released(world, "anna")
    terms = give(world, SHRED, Target(SUBJECT, subject_of(anna)))
    carried = []

    def meanwhile(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO subjects") and not carried:
            carried.append(carry_out(world.custodian(), terms.id).state)

    listen(Engine, "after_cursor_execute", meanwhile)
    try:
        again = released(world, "anna")
    finally:
        remove(Engine, "after_cursor_execute", meanwhile)
    assert carried == [OrderState.DONE]
    assert subject_of(again) != subject_of(anna)
    assert words(verify()) == []


def test_a_word_that_no_manifest_can_have_is_nobodys(world: World) -> None:
    with world.as_("gateway")() as session:
        assert subjects.named(session, "\udcff") is None
        with pytest.raises(SubjectUnknown):
            subjects.find(session, "acme", "\udcff")


def test_one_row_of_a_stolen_gateway_stops_no_look_up(world: World) -> None:
    """The database computes a pseudonym itself."""
    with world.as_("gateway").begin() as session, pytest.raises(IntegrityError, match="made from its tenant"):
        session.execute(insert(Subject).values(id=uuid4(), tenant="acme", reference="x", salt=b"x" * 32))
