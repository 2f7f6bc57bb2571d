"""Events that a stolen role fills with what it likes: each is named, and whatever else is wrong with its kind is found beside it."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest
import rfc8785
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from schemas.audit import EVENT_ROLES, AuditEvent, Role
from schemas.tables import Ticket
from tests.governance import World, copied
from tests.workers.audit.harness import as_superuser, disarm, fetched, new_notary, rearm, verified
from tests.workers.audit.test_evidence import holds, take
from workers.audit import append
from workers.audit.acknowledged import settle
from workers.audit.acknowledging import acknowledge, acknowledge_message
from workers.audit.checking import check_bundle
from workers.audit.errors import NotInTrail
from workers.audit.evidence import About, pack
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.ledgered import check_ledger
from workers.audit.matters import matter_of
from workers.audit.receipts import receipt_for
from workers.audit.shredded import ShreddedHistory
from workers.audit.verify import Problem, Verification


@dataclass(frozen=True)
class Bad:
    """Who writes it, what it says (besides ids that fit), and how it is named; what the owner changes meanwhile, and how that
    is; and where the first is told of, if not at the event.
    """

    role: str
    event: AuditEvent
    fields: dict[str, Any]
    words: str
    change: str
    beside: str
    place: str = "event"


SUBMITTED = "UPDATE releases SET submitted_by = 'mallory'", "submitted by somebody else"
QUORUM = "UPDATE recovery_requests SET quorum = 1", "its quorum is not the one"
FACES = "DELETE FROM recovered_faces WHERE face = 1", "another number of recovered faces"
SHREDDED = "UPDATE sealed_keys SET wrapped = NULL, state = 'shredded'", "shredded, and the trail does not say so"
UNFETCHED = "UPDATE recoveries SET state = 'recovered'", "the trail says otherwise of its fetching"
ROLES = "UPDATE people SET roles = '{key-officer}' WHERE id = 'bob'", "their roles are not those"
POLICY = "UPDATE policies SET body = '{}'", "it is not the policy that was set"
KEY = "INSERT INTO custody_keys (id, suite, created_at, rotating) VALUES ('k', 's', now(), true)"
BAD: dict[str, Bad] = {
    "items as words": Bad(
        "gateway", AuditEvent.RELEASE_SUBMITTED, {"detail": {"items": "two"}}, "its items is no integer", *SUBMITTED
    ),
    "items as a list": Bad(
        "gateway", AuditEvent.RELEASE_SUBMITTED, {"detail": {"items": [2]}}, "its items is no integer", *SUBMITTED
    ),
    "a quorum of nothing": Bad(
        "gateway", AuditEvent.REQUEST_OPENED, {"detail": {"quorum": ""}}, "its quorum is no integer", *QUORUM
    ),
    "a quorum too large": Bad(
        "gateway", AuditEvent.REQUEST_OPENED, {"detail": {"quorum": "9" * 40}}, "its quorum is no integer", *QUORUM
    ),
    "many faces": Bad(
        "recovery", AuditEvent.RECOVERY_RECOVERED, {"detail": {"faces": "many"}}, "its faces is no integer", *FACES
    ),
    "a recovery without detail": Bad(
        "recovery", AuditEvent.RECOVERY_RECOVERED, {"detail": "faces"}, "its detail is no object", *FACES
    ),
    "faces of no number": Bad(
        "custodian",
        AuditEvent.KEY_SHREDDED,
        {"detail": {"faces": [0, "x", {}]}},
        "its faces is no list of integers",
        *SHREDDED,
    ),
    "one face and no list": Bad(
        "custodian", AuditEvent.KEY_SHREDDED, {"detail": {"faces": 0}}, "its faces is no list of integers", *SHREDDED
    ),
    "perhaps the layout": Bad(
        "custodian",
        AuditEvent.KEY_SHREDDED,
        {"detail": {"layout": "perhaps"}},
        "its layout is no true or false",
        *SHREDDED,
    ),
    "an item of no id": Bad(
        "custodian",
        AuditEvent.KEY_SHREDDED,
        {"item": "all of them", "detail": {"faces": [1]}},
        "its row is gone",
        *SHREDDED,
        "key of face 1 of item all of them",
    ),
    "recoveries as words": Bad(
        "custodian",
        AuditEvent.KEY_SHREDDED,
        {"detail": {"recoveries": "all"}},
        "its recoveries is no list",
        *UNFETCHED,
    ),
    "a role and no list": Bad(
        "gateway",
        AuditEvent.PERSON_ADDED,
        {"subject": "mallory", "detail": {"roles": "approver"}},
        "its roles is no list",
        *ROLES,
    ),
    "a version of no number": Bad(
        "gateway",
        AuditEvent.POLICY_SET,
        {"detail": {"version": {"of": 1}}},
        "its version is no integer",
        *POLICY,
    ),
    "subjects as words": Bad(
        "gateway",
        AuditEvent.RELEASE_SUBMITTED,
        {"detail": {"subjects": "two"}},
        "its subjects is no integer",
        *SUBMITTED,
    ),
    "a key made soon": Bad(
        "custodian",
        AuditEvent.KEY_CREATED,
        {"detail": {"key": "k", "suite": "s", "created_at": "soon"}},
        "its suite or its beginning is not the one",
        KEY,
        "otherwise of the rotation to it",
        "custody key k",
    ),
    "keys wrapped again as words": Bad(
        "custodian",
        AuditEvent.KEY_REWRAPPED,
        {"detail": {"to": "k", "count": "all"}},
        "its count is no integer",
        KEY,
        "otherwise of the rotation to it",
    ),
    "a list for a detail": Bad(
        "gateway", AuditEvent.POLICY_SET, {"detail": ["version"]}, "its detail is no object", *POLICY
    ),
}


@pytest.fixture(scope="module")
def whole_life(_first_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, dict[str, str]]]:
    with copied(_first_world.database) as fresh:
        world = _first_world.moved(fresh, tmp_path_factory.mktemp("life") / "custody")
        terms, recovery = fetched(world)
        ids = {"release": world.release, "item": world.items[0], "request": terms.id, "recovery": recovery}
        yield world, {name: str(value) for name, value in ids.items()}


def about(world: World) -> list[tuple[About, UUID]]:
    return [(About.RELEASE, world.release), (About.TICKET, world.one(select(Ticket.id)))]


@pytest.mark.parametrize("bad", BAD)
def test_an_event_of_a_wrong_type_hides_nothing(
    whole_life: tuple[World, dict[str, str]], anchors: Anchors, signer: HeadSigner, bad: str
) -> None:
    world, ids = whole_life
    one = BAD[bad]
    with copied(world.database) as fresh:
        stolen = replace(world, database=fresh)
        fields = json.dumps({"actor": "mallory"} | ids | one.fields)
        with stolen.as_(one.role).begin() as session:
            append_ = text("SELECT audit.append(:event, CAST(:fields AS jsonb))")
            seq = session.execute(append_, {"event": one.event.value, "fields": fields}).scalar_one()
        as_superuser(stolen, one.change)
        found = verified(fresh, anchors, signer).findings
        new_notary(fresh, anchors, signer).anchor()
        for data in (pack(take(stolen, anchors, signer, *each)) for each in about(world)):
            for custodian in (None, world.custodian_keys()):
                assert check_bundle(data, signer.verifier, custodian).facts
    named = [each for each in found if one.words in each.words]
    assert named, found
    assert named[0].where == f"event {seq}" or named[0].where.startswith(one.place), found
    assert [each for each in found if one.beside in each.words and each.where != f"event {seq}"], found
    assert not [each for each in found if "could not be held" in each.words]


#: What stands where ids, numbers and words belong.
ANYTHING: tuple[Any, ...] = (
    None,
    True,
    0,
    -5,
    2**53 - 1,
    "",
    "x",
    "é",
    "ab" * 32,
    "a\nb",
    "9" * 40,
    "infinity",
    "2026-01-01",
    "294276-12-31",
    2**31 - 1,
    1 - 2**53,
    str(2**63 - 1),
    str(-(2**63)),
)
ANYTHING += ([], [1], [[1]], {}, {"a": 1}, ["a", 1], [{"id": 1, "public": "00"}], [{"id": "c", "public": "30"}], [None])
IDS = ("actor", "item", "recovery", "release", "request", "request_hash", "subject", "ticket")
WORDS: tuple[str, ...] = (
    "after",
    "assertion",
    "before",
    "conclusion",
    "count",
    "created_at",
    "custodian",
    "ed25519",
    "expires_at",
    "face",
)
WORDS += ("faces", "file", "issuer", "items", "key", "kind", "layout", "name", "passkeys", "policy")
WORDS += (
    "quorum",
    "reason",
    "recoveries",
    "refusal",
    "retain_days",
    "roles",
    "scope",
    "sha256",
    "signature",
    "subjects",
)
WORDS += ("suite", "tenant", "to", "version", "x25519")


def anything(draw: random.Random, ids: dict[str, str]) -> dict[str, Any]:
    """The fields of an event that is likely to be of the matter, and of which anything else may be wrong."""
    said = {name: ids.get(name, "bob") if draw.random() < 0.7 else draw.choice(ANYTHING) for name in IDS}
    detail = {
        name: draw.choice((*ANYTHING, "acme", "bob", "shred", "retention"))
        for name in draw.sample(WORDS, draw.randint(0, 20))
    }
    kept = {name: value for name, value in said.items() if draw.random() < 0.8}
    return {"actor": "w"} | kept | {"detail": detail if draw.random() < 0.9 else draw.choice(ANYTHING)}


@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_stolen_roles_write_breaks_what_reads_it(
    whole_life: tuple[World, dict[str, str]], anchors: Anchors, signer: HeadSigner, seed: int
) -> None:
    """Verification, whose matter each finding is, receipts, evidence and its check: all of them come to an end in words."""
    world, ids = whole_life
    draw = random.Random(seed)
    ticket = world.one(select(Ticket.id))
    with copied(world.database) as fresh:
        stolen = replace(world, database=fresh)
        for event, roles in EVENT_ROLES.items():
            for role in set(roles) - {Role.OWNER}:
                fields = json.dumps(anything(draw, ids | {"ticket": str(ticket)}))
                with stolen.as_(role.value)() as session, suppress(DBAPIError):  # the database refuses some
                    append_ = text("SELECT audit.append(:event, CAST(:fields AS jsonb))")
                    session.execute(append_, {"event": event.value, "fields": fields})
                    session.commit()
        found = verified(fresh, anchors, signer, custodian=world.custodian_keys()).findings
        assert found
        assert not [each for each in found if "could not be held" in each.words]
        new_notary(fresh, anchors, signer).anchor()
        with stolen.as_("gateway")() as session:
            for finding in found:
                matter_of(session, finding)
            with suppress(NotInTrail):
                receipt_for(session, world.release, UUID(ids["request"]), "bob")
        for data in (pack(take(stolen, anchors, signer, *each)) for each in about(world)):
            for custodian in (None, world.custodian_keys()):
                assert not holds(data, signer.verifier, custodian)


def set_by_a_thief(world: World, canonical: bytes, body: Any = None) -> None:
    """Version 1 of a policy `x` of the tenant zzz's, row and event, by a stolen gateway."""
    sha256 = hashlib.sha256(canonical)
    row = (
        "INSERT INTO policies (tenant, name, version, body, canonical, canonical_sha256, set_by) "
        "VALUES ('zzz', 'x', 1, CAST(:b AS jsonb), :c, :s, 'root')"
    )
    with world.as_("gateway").begin() as session:
        session.execute(text(row), {"b": json.dumps(body or {}), "c": canonical, "s": sha256.digest()})
        detail = {"tenant": "zzz", "name": "x", "version": 1, "sha256": sha256.hexdigest()}
        append(session, AuditEvent.POLICY_SET, actor="root", detail=detail)


@pytest.mark.parametrize("canonical", [b"\xff\x00", b"[" * 20_000 + b"]" * 20_000], ids=["no text", "without end"])
def test_a_policy_of_no_json_hides_no_other(
    world: World, anchors: Anchors, signer: HeadSigner, canonical: bytes
) -> None:
    """Row and event agree, and what they agree on is not even text; or nested deeper than PostgreSQL follows."""
    set_by_a_thief(world, canonical)
    as_superuser(world, "UPDATE policies SET body = '{}' WHERE name <> 'x'")
    found = verified(world.database, anchors, signer).findings
    assert {(each.problem, each.where) for each in found} == {
        (Problem.ROW, "policy x version 1"),
        (Problem.ROW, "policy strict version 1"),
    }


@pytest.mark.parametrize("days", [2**31 - 1, 2**53 - 1, 1 - 2**53, 10**30, "9" * 99, "NaN", [30]], ids=str)
def test_days_without_end_hide_no_key_that_went_too_early(
    world: World, anchors: Anchors, signer: HeadSigner, days: Any
) -> None:
    """A policy that keeps keys for so long, and a shredding that says nothing of its days, as custodians wrote it once."""
    set_by_a_thief(world, rfc8785.dumps({"retain_days": 1}), {"retain_days": days})
    fake = uuid4()
    with world.as_("gateway").begin() as session:
        about = {"actor": "sam", "release": fake, "detail": {"tenant": "zzz", "policy": "x", "items": 1}}
        append(session, AuditEvent.RELEASE_SUBMITTED, **about)
    for release in (fake, world.release):
        with world.as_("release").begin() as session:
            append(session, AuditEvent.RELEASE_FINISHED, actor="w", release=release)
    for release, said in ((fake, {}), (world.release, {"retain_days": 30})):
        with world.as_("custodian").begin() as session:
            detail = {"reason": "retention", "faces": [], "layout": False} | said
            seq = append(session, AuditEvent.KEY_SHREDDED, actor="c", release=release, item=uuid4(), detail=detail)
    found = verified(world.database, anchors, signer).findings
    early = {each.where for each in found if each.words == "key:shredded before its time was over"}
    for_long = isinstance(days, str) or (isinstance(days, int) and days > 0)
    assert early == {f"event {seq - 1}" if for_long else f"event {seq}", f"event {seq}"}
    assert not [each for each in found if "could not be held" in each.words]


@pytest.mark.parametrize("change", ["seq = 9223372036854775807", "at = '0001-01-01'", "at = '9999-12-31'"])
def test_an_event_at_the_end_of_all_numbers_hides_nothing(
    world: World, anchors: Anchors, signer: HeadSigner, change: str
) -> None:
    """The owner's: of a number, or a time, that nothing can be added to."""
    with world.as_("gateway").begin() as session:
        detail = {"signature": "00", "roles": []}
        append(session, AuditEvent.PERSON_ADDED, actor="nobody", subject="mallory", detail=detail)
    with world.as_("custodian").begin() as session:
        detail = {"reason": "retention", "faces": [], "layout": False, "retain_days": 2**53 - 1}
        about = {"release": world.release, "item": world.items[0], "detail": detail}
        append(session, AuditEvent.KEY_SHREDDED, actor="custodian", **about)
    kind = "person:added" if "seq" in change else "release:submitted"
    newest = f"(SELECT max(seq) FROM audit.events WHERE event = '{kind}')"
    world.owner(disarm(), f"UPDATE audit.events SET {change} WHERE seq = {newest}", rearm())
    as_superuser(world, "UPDATE people SET roles = '{key-officer}' WHERE id = 'bob'")
    found = [each.words for each in verified(world.database, anchors, signer).findings]
    assert "their roles are not those they were added with" in found
    assert not [words for words in found if "could not be held" in words]


def test_a_time_at_the_end_of_all_times_is_judged() -> None:
    history, at = ShreddedHistory(), "9999-12-31T23:59:59.000000Z"
    about = {"release": "r", "item": "i"}
    detail = {"reason": "retention", "retain_days": 2**53 - 1}
    events = [{"event": kind, "at": at, "fields": about} for kind in ("release:submitted", "item:committed")]
    events += [{"event": "release:finished", "at": at, "fields": about}]
    assert [list(history.see(event)) for event in events] == [[], [], []]
    gone = {"event": "key:shredded", "at": at, "fields": about | {"detail": detail}}
    assert list(history.see(gone)) == ["its time was not over"]


VALUES: tuple[Any, ...] = (
    None,
    True,
    5,
    "",
    "x",
    "ab" * 32,
    "9" * 40,
    [],
    [1],
    [[1]],
    {},
    {"a": 1},
    [None],
    "a\nb",
    "bob",
    "acme",
)
FIELDS = (
    "actor",
    "release",
    "item",
    "request",
    "ticket",
    "recovery",
    "subject",
    "model_version",
    "request_hash",
    "detail",
)
DETAIL = (
    "tenant",
    "signature",
    "assertion",
    "roles",
    "kind",
    "scope",
    "faces",
    "recoveries",
    "order",
    "custodian",
    "key",
    "reason",
    "to",
)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_types_verification_comes_to_its_end(
    whole_life: tuple[World, dict[str, str]], anchors: Anchors, signer: HeadSigner, seed: int
) -> None:
    """Every event with values that a stolen role made up; whose matter each finding is; and what an auditor acknowledged before."""
    world, ids = whole_life
    chance = random.Random(seed)
    with copied(world.database) as fresh:
        stolen = replace(world, database=fresh)
        with stolen.as_("release").begin() as session:
            append(session, AuditEvent.ITEM_HELD, actor="worker", item=ids["item"], release=ids["release"])

        def settled() -> Verification:
            result = verified(fresh, anchors, signer, custodian=world.custodian_keys())
            with stolen.as_("gateway")() as session:
                check_ledger(session, world.ledger, result)
                settle(session, result)
            return result

        for finding in settled().findings:
            signature = world.people["olga"].signing.sign(acknowledge_message(finding, "x"))
            with stolen.as_("gateway").begin() as session:
                acknowledge(session, finding, "olga", "x", signature)
        for event, roles in EVENT_ROLES.items():
            said = {name: chance.choice([ids.get(name, "alice"), chance.choice(VALUES)]) for name in FIELDS}
            if chance.random() < 0.8:
                said["detail"] = {name: chance.choice(VALUES) for name in DETAIL}
            role = chance.choice([each for each in roles if each is not Role.OWNER])
            with suppress(DBAPIError), stolen.as_(role.value.removeprefix("refacex_")).begin() as session:
                append_ = text("SELECT audit.append(:event, CAST(:said AS jsonb))")
                session.execute(append_, {"event": event.value, "said": json.dumps(said)})
        result = settled()
        assert len(result.acknowledged) == 1, "it is told as before"
        assert not [each for each in result.findings if "could not be held" in each.words]
        with stolen.as_("gateway")() as session:
            for finding in result.findings:
                matter_of(session, finding)
