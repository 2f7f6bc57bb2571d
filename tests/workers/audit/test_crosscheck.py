"""The tables held against the trail: a whole life agrees, and each change behind the trail's back is found and named."""

# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, text, update

from schemas.audit import AuditEvent
from schemas.states import OrderKind, OrderScope
from schemas.tables import Attempt, Item
from tests.governance import Member, World, sessions
from tests.workers.audit.harness import as_owner, as_superuser, disarm, fetched, new_notary, rearm, verified
from tests.workers.custody.test_passkeys import Authenticator
from workers.audit import append
from workers.audit.crosscheck import crosscheck
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.matters import matter_of
from workers.audit.verify import Problem, verify
from workers.custody.holds import Portion
from workers.custody.judge import Refusal
from workers.custody.passkeys import Passkey
from workers.custody.roster import add_person, load_roster
from workers.recoveries import people
from workers.releases import service as releases
from workers.releases.sources import Source

# What a database owner does behind the trail's back, and how it is reported: where it begins with, and a part of the words.
ATTACKS: dict[str, tuple[str, str, str]] = {
    "replace an approver's public key": (
        "UPDATE people SET ed25519_public = sha256('mallory') WHERE id = 'bob'",
        "person bob",
        "public key is not the one",
    ),
    "replace the key that somebody receives with": (
        "UPDATE people SET x25519_public = sha256('mallory') WHERE id = 'alice'",
        "person alice",
        "key that they receive with",
    ),
    "give a passkey": (
        'UPDATE people SET passkeys = \'[{"id": "x", "public": "00"}]\' WHERE id = \'bob\'',
        "person bob",
        "passkeys are not those",
    ),
    "give a role": ("UPDATE people SET roles = roles || '{key-officer}' WHERE id = 'bob'", "person bob", "roles"),
    "add a person": (
        "INSERT INTO people (id, tenant, roles, ed25519_public, x25519_public) "
        "VALUES ('mallory', 'acme', '{approver}', sha256('a'), sha256('b'))",
        "person mallory",
        "no person:added",
    ),
    "remove a person": (
        "UPDATE people SET removed_at = now() WHERE id = 'dave'",
        "person dave",
        "the trail does not say so",
    ),
    "delete an approval": ("DELETE FROM approvals WHERE approver = 'bob'", "approval", "request:approved by bob"),
    "turn an approval": (
        "UPDATE approvals SET decision = 'deny' WHERE approver = 'bob'",
        "approval",
        "request:approved",
    ),
    "replace a signature": (
        "UPDATE approvals SET signature = sha256('x') || sha256('y') WHERE approver = 'bob'",
        "approval",
        "signature is not the one in the trail",
    ),
    "insert an approval": (
        "INSERT INTO approvals (request_id, approver, requester, decision, signature) SELECT id, 'dave', requester, 'approve', "
        "sha256('x') || sha256('y') FROM recovery_requests",
        "approval",
        "no event of it",
    ),
    "take a state back": ("UPDATE recovery_requests SET state = 'approved'", "request", "by the trail it is not"),
    "lower a quorum": ("UPDATE recovery_requests SET quorum = 1", "request", "quorum"),
    "change the reason": (
        "UPDATE recovery_requests SET reason = 'another'",
        "request",
        "not the terms that were signed",
    ),
    "widen the faces": (
        "INSERT INTO request_faces SELECT request_id, item_id, 1 - face FROM request_faces",
        "request",
        "not the terms that were signed",
    ),
    "delete a request": (
        "DELETE FROM recovery_requests",
        "request",
        "request:opened, and the request is gone",
    ),
    "unspend a ticket": ("UPDATE tickets SET spent_at = NULL", "ticket", "ticket:spent, and no row says so"),
    "rewrite a ticket": ("UPDATE tickets SET canonical = '\\x7b7d'", "ticket", "bytes are not those"),
    "unfetch a recovery": ("UPDATE recoveries SET state = 'recovered'", "recovery", "fetching"),
    "drop a recovered face": ("DELETE FROM recovered_faces WHERE face = 1", "recovery", "number of recovered faces"),
    "swap a released file": ("UPDATE items SET sha256 = repeat('0', 64) WHERE position = 0", "item", "SHA-256"),
    "release by hand": (
        "INSERT INTO items (id, release_id, position, source_uri, relative_name, state, object_key, sha256, locator, faces) "
        "SELECT gen_random_uuid(), release_id, 9, 'x', 'x', 'done', 'x', sha256, locator, 1 FROM items LIMIT 1",
        "item",
        "no item:released",
    ),
    "unhold by hand": ("UPDATE items SET state = 'held' WHERE position = 1", "item", "the trail does not say so"),
    "change who submitted": ("UPDATE releases SET submitted_by = 'mallory'", "release", "submitted by somebody else"),
    "change the policy of a release": ('UPDATE releases SET policy = \'{"name": "lax"}\'', "release", "another policy"),
    "finish by hand": ("UPDATE releases SET state = 'finished'", "release", "the trail does not say so"),
    "change a policy": (
        "UPDATE policies SET body = jsonb_set(body, '{quorum}', '1')",
        "policy",
        "not the policy that was set",
    ),
    "slip in a policy": (
        "INSERT INTO policies SELECT tenant, name, 2, body, canonical, canonical_sha256, set_by FROM policies",
        "policy",
        "no policy:set",
    ),
}


def test_a_whole_life_agrees_with_its_trail(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    fetched(world)
    denied, withdrawn = world.request((0, 0)), world.request((0, 1))
    world.withdraw(withdrawn)
    world.approve(denied, "bob")
    result = verified(world.database, anchors, signer, load_roster(world.roster))
    assert (result.findings, result.notes) == ([], [])
    assert result.signatures == 3 + 2 + 1 + 1 + 1, "three opened, two and one approved, one fetched, one withdrawn"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_change_behind_the_trails_back_is_found(
    world: World, anchors: Anchors, signer: HeadSigner, attack: str
) -> None:
    fetched(world)
    statement, where, words = ATTACKS[attack]
    as_superuser(world, statement)
    found = verified(world.database, anchors, signer).findings
    assert [each for each in found if each.where.startswith(where) and words in each.words], found
    assert {each.problem for each in found} <= {Problem.ROW}


def test_a_forged_approval_is_found_though_its_event_and_its_row_agree(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """With a stolen gateway role: row and event are written, and only the signature is not bob's."""
    terms = world.request((0, 0))
    forged = world.people["eve"].sign(terms)
    with world.as_("gateway").begin() as session:
        from schemas.tables import Approval

        row = {"approver": "bob", "requester": "alice", "decision": "approve", "signature": forged}
        session.add(Approval(request_id=terms.id, **row))
        about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
        detail = {"signature": forged.hex()}
        append(session, AuditEvent.REQUEST_APPROVED, actor="bob", detail=detail, **about)
    (found,) = verified(world.database, anchors, signer).findings
    assert (found.problem, "key that bob was added with" in found.words) == (Problem.SIGNATURE, True)


def test_an_event_without_its_row_or_signature_is_found(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    terms = world.request((0, 0))
    with world.as_("gateway").begin() as session:
        about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
        append(session, AuditEvent.REQUEST_APPROVED, actor="bob", **about)
    found = {(each.problem, each.words) for each in verified(world.database, anchors, signer).findings}
    assert found == {
        (Problem.ROW, "request:approved by bob, and there is no such decision"),
        (Problem.SIGNATURE, "request:approved: bob did not sign it"),
    }


def test_a_trail_of_before_signatures_gives_a_note(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Events as revision 0001 wrote them; they stand before the first signature of the trail."""
    terms = world.draft((0, 0))
    with world.as_("gateway").begin() as session:
        about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
        append(session, AuditEvent.REQUEST_OPENED, actor="alice", detail={"faces": 1, "quorum": 2}, **about)
    fields = "id, tenant, release_id, requester, reason, legal_basis, case_reference, purpose, quorum"
    values = [f"'{getattr(terms, name.replace('release_id', 'release'))}'" for name in fields.split(", ")]
    as_superuser(
        world,
        f"INSERT INTO recovery_requests ({fields}, recipient_public, canonical, canonical_sha256, expires_at, created_at) "
        f"VALUES ({', '.join(values)}, sha256('k'), '\\x{terms.canonical().hex()}', '\\x{terms.sha256().hex()}', now() + '1 day', now())",
    )
    result = verified(world.database, anchors, signer)
    assert result.findings == []
    assert "before signatures" in result.notes[0]
    world.request((0, 1))
    with world.as_("gateway").begin() as session:
        append(session, AuditEvent.REQUEST_OPENED, actor="alice", request="x", request_hash=terms.sha256())
    assert "alice did not sign it" in str(verified(world.database, anchors, signer).findings)


def test_the_roster_is_held_against_the_people(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Somebody whom the gateway added with their event, and whom the custodian never heard of; and the other way round."""
    with world.as_("gateway").begin() as session:
        person = Member("mallory", ("approver",)).on_roster()
        people.add(session, person, "root")
        people.remove(session, "dave", "root")
    assert verified(world.database, anchors, signer).findings == []
    found = verified(world.database, anchors, signer, load_roster(world.roster)).findings
    assert {(each.problem, each.where, each.words.split(",")[0]) for each in found} == {
        (Problem.ROSTER, "person mallory", "is not on the roster"),
        (Problem.ROSTER, "person dave", "is on the roster"),
    }


def test_a_passkey_is_held_against_person_added_and_the_roster(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    one, two = (Passkey(name, Authenticator().passkey.public) for name in ("one", "two"))
    added = replace(Member("pia", ("approver",)).on_roster(), passkeys=(one, two))
    with world.as_("gateway").begin() as session:
        people.add(session, added, "root")
    roster = load_roster(world.roster)
    for passkeys, told in ((added.passkeys[::-1], set()), ((one,), {"has other passkeys than on the roster"})):
        pinned = replace(roster, people=roster.people | {"pia": replace(added, passkeys=passkeys)})
        found = verified(world.database, anchors, signer, pinned).findings
        assert {each.words for each in found if each.where == "person pia"} == told
    as_superuser(world, "UPDATE people SET passkeys = '5' WHERE id = 'pia'")
    found = verified(world.database, anchors, signer, pinned).findings
    assert {each.problem for each in found} == {Problem.ROW, Problem.ROSTER}


def test_a_tickets_signature_is_the_custodians(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Bytes and event agree; but the custodian signed nothing like it, or another ticket."""
    fetched(world)
    keys = world.custodian_keys()

    def found(keys: dict[str, bytes]) -> list[tuple[Problem, str]]:
        findings = verified(world.database, anchors, signer, custodian=keys).findings
        return [(each.problem, each.words) for each in findings if each.problem is not Problem.CUSTODIAN]

    assert found(keys) == []
    forged = (Problem.SIGNATURE, "its signature is not the custodian's")
    assert found({"k": bytes(range(32))}) == [forged]
    as_superuser(world, "UPDATE tickets SET expires_at = expires_at + interval '1 day'")
    ((_, words),) = found(keys)
    assert "or ends otherwise" in words
    as_superuser(
        world, "UPDATE tickets SET expires_at = expires_at - interval '1 day', signature = sha256('x') || sha256('y')"
    )
    assert verified(world.database, anchors, signer).findings == [], "only with the custodian's public key"
    assert found(keys) == [forged]


def test_subjects_are_held_against_what_the_trail_says_of_them(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """How many a release shows, which image shows whom, and whom a shredded item showed."""
    sources = [
        Source(f"file:///{name}", name, subject) for name, subject in (("a", "anna"), ("b", "anna"), ("c", "ben"))
    ]
    with world.as_("gateway").begin() as session:
        release = releases.submit(session, tenant="acme", actor="sam", name="s", sources=sources)
        query = select(Item.id, Item.subject_id).where(Item.release_id == release).order_by(Item.position)
        (anna, _, ben) = session.execute(query).all()
    with world.as_("release").begin() as session:
        attempt = uuid4()
        made = {"object_key": "k", "sha256": "0" * 64, "locator": bytes(8), "model_version": "m", "size_bytes": 1}
        session.execute(update(Item).where(Item.id == anna.id).values(state="committed", fence=1))
        session.execute(insert(Attempt).values(id=attempt, item_id=anna.id, fence=1, **made))
        about = {"release": release, "item": anna.id, "detail": {"attempt": str(attempt), "sha256": "0" * 64}}
        append(session, AuditEvent.ITEM_COMMITTED, actor="release-worker", **about)
    with world.as_("custodian").begin() as session:
        about = {
            "release": release,
            "item": anna.id,
            "subject": str(anna.subject_id),
            "detail": {"faces": [], "layout": False},
        }
        append(session, AuditEvent.KEY_SHREDDED, actor="custodian", **about)
    assert verified(world.database, anchors, signer).findings == []
    change = f"UPDATE items SET subject_id = '{ben.subject_id}' WHERE id = '{anna.id}'"
    as_superuser(world, change)
    other = (f"release {release}", "its images show other subjects than the trail says")
    item = (f"item {anna.id}", "it shows another subject than when its keys were shredded")
    found = verified(world.database, anchors, signer).findings
    assert {(each.where, each.words) for each in found} == {item, other}
    as_superuser(world, f"UPDATE items SET subject_id = NULL WHERE subject_id = '{ben.subject_id}'")
    found = verified(world.database, anchors, signer).findings
    number = (f"release {release}", "shows another number of subjects than the trail says")
    alone = (f"subject {ben.subject_id}", "no image shows it")
    assert {(each.where, each.words) for each in found} == {item, other, number, alone}


def test_an_older_copy_of_the_roster_is_noted(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    old = load_roster(world.roster)
    assert verified(world.database, anchors, signer, old).notes == []
    add_person(world.roster, Member("fay", ("approver",)).on_roster())
    world.custodian().load_roster()
    (note,) = verified(world.database, anchors, signer, old, world.custodian_keys()).notes
    assert "not the one that the custodian told of last" in note


def test_an_event_that_cannot_be_read_does_not_stop_the_rest(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    fetched(world)
    as_owner(
        world.database,
        "DROP INDEX audit.events_release",
        "ALTER TABLE audit.events DROP CONSTRAINT events_check",
        "ALTER TABLE audit.events DISABLE TRIGGER append_only",
        "UPDATE audit.events SET canonical = '\\x00ff' WHERE event = 'ticket:spent'",
        "ALTER TABLE audit.events ENABLE ALWAYS TRIGGER append_only",
    )
    as_superuser(world, "UPDATE tickets SET canonical = '\\x7b7d'")
    found = verified(world.database, anchors, signer).findings
    assert {"event_changed", "row", "guard"} == {each.problem.value for each in found}
    assert [each for each in found if each.where == "tickets" and "cannot be read" in each.words]
    assert [each for each in found if "bytes are not those that were issued" in each.words], (
        "the rest is held all the same"
    )


# A time of a table, and the key of the row whose it is.
TIMES = {
    "recovery_requests.expires_at": "id",
    "recovery_requests.created_at": "id",
    "releases.created_at": "id",
    "people.removed_at": "id",
    "subjects.created_at": "id",
    "tickets.expires_at": "id",
    "items.updated_at": "id",
    "recovered_faces.fetched_at": "recovery_id || ' ' || item_id || ' ' || face",
}


@pytest.mark.parametrize("column", TIMES)
@pytest.mark.parametrize("moment", ["20000-01-01", "0044-03-15 BC", "infinity"])
def test_a_time_that_nobody_can_read_is_found_and_stops_nothing(
    world: World, anchors: Anchors, signer: HeadSigner, column: str, moment: str
) -> None:
    """The owner took the checks away that keep services from it, and somebody acknowledged an event about such a row."""
    terms, _ = fetched(world)
    forged = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
    with world.as_("gateway").begin() as session:
        append(session, AuditEvent.REQUEST_APPROVED, actor="bob", **forged)
    table, name = column.split(".")
    checks = (
        f"SELECT string_agg('DROP CONSTRAINT ' || conname, ', ') FROM pg_constraint WHERE conrelid = '{table}'::regclass "
        f"AND contype = 'c' AND strpos(pg_get_constraintdef(oid), '{name}') > 0"
    )
    with sessions(world.database.owner_url)() as session:
        drop = session.execute(text(checks)).scalar_one()
        row = session.execute(text(f"SELECT ctid::text, {TIMES[column]} AS key FROM {table} LIMIT 1")).one()
    as_superuser(
        world,
        f"ALTER TABLE {table} {drop}",
        f"UPDATE {table} SET {name} = '{moment}' WHERE ctid = '{row.ctid}'",
        "UPDATE items SET sha256 = repeat('0', 64) WHERE position = 0",
    )
    with sessions(world.database.url_for("gateway"))() as session:
        result = verify(session, anchors, signer.verifier)
        crosscheck(session, result, load_roster(world.roster), world.custodian_keys())
        for finding in result.findings:
            matter_of(session, finding)
    found = [(each.problem, each.where, each.words) for each in result.findings]
    assert (Problem.ROW, f"{table} {row.key}", "a time in it cannot be read") in found
    assert [words for _, _, words in found if "SHA-256" in words], "the rest is held all the same"


def test_a_time_of_the_trail_that_nobody_can_read_is_found(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    new_notary(world.database, anchors, signer).anchor()
    as_owner(
        world.database,
        disarm(),
        disarm("tree_heads"),
        "ALTER TABLE audit.tree_heads DROP CONSTRAINT tree_heads_times",
        "UPDATE audit.events SET at = 'infinity' WHERE seq = 3",
        "UPDATE audit.tree_heads SET anchored_at = '20000-01-01'",
        rearm(),
        rearm("tree_heads"),
    )
    found = [(each.problem, each.words) for each in verified(world.database, anchors, signer).findings]
    assert (Problem.EVENT_CHANGED, "its columns say something else than its bytes") in found
    assert (Problem.HEAD, "a time in its row cannot be read") in found


def test_orders_are_held_against_their_events(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    from datetime import UTC, datetime
    from uuid import uuid4

    from schemas.orders import OrderTerms, order_message
    from schemas.tables import CustodyOrder

    reason = 'a "claim" \\' + "[" * 9_000  # no levels of the JSON that it stands in
    terms = OrderTerms(
        uuid4(), "acme", OrderKind.HOLD, OrderScope.RELEASE, world.release, None, reason, "kim", datetime.now(UTC)
    )
    signature = world.people["kim"].signing.sign(order_message(terms))
    values = {name: getattr(terms, name) for name in ("id", "tenant", "kind", "scope", "target", "face", "reason")}
    with world.as_("gateway").begin() as session:
        bytes_ = {"canonical": terms.canonical(), "canonical_sha256": terms.sha256(), "signature": signature}
        session.add(CustodyOrder(**values, **bytes_, ordered_by="kim", created_at=terms.created_at))
        session.flush()
        detail = {"kind": "hold", "signature": signature.hex()}
        append(session, AuditEvent.ORDER_GIVEN, actor="kim", request_hash=terms.sha256(), detail=detail)
    assert verified(world.database, anchors, signer).findings == []
    as_superuser(world, "UPDATE custody_orders SET state = 'refused'")
    (found,) = verified(world.database, anchors, signer).findings
    assert "the trail does not say so" in found.words
    with sessions(world.database.url_for("custodian")).begin() as session:
        append(session, AuditEvent.ORDER_REFUSED, actor="custodian", request_hash=terms.sha256())
    assert verified(world.database, anchors, signer).findings == []


def test_shredded_keys_are_held_against_their_events(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Also the recovery that had been opened with them, and that ends with them."""
    terms = world.approved((0, 0))
    recovery = world.custodian().open(terms.id).recovery
    item = world.items[0]
    ended = "UPDATE recoveries SET state = 'failed', key_bundle = NULL", "UPDATE recovery_requests SET state = 'failed'"
    gone = "UPDATE sealed_keys SET wrapped = NULL, state = 'shredded' WHERE item_id = '{}' AND face = {}"
    with world.as_("custodian").begin() as session:
        for statement in (*ended, gone.format(item, 0), gone.format(item, -1)):
            session.execute(text(statement))
        detail = {"faces": [0], "layout": True, "keys": 2, "recoveries": [str(recovery)]}
        about = {"release": world.release, "item": item, "subject": str(world.subject), "detail": detail}
        append(session, AuditEvent.KEY_SHREDDED, actor="custodian", **about)
    assert verified(world.database, anchors, signer).findings == []
    as_superuser(world, gone.format(item, 1))
    (found,) = verified(world.database, anchors, signer).findings
    assert (found.where, found.words) == (f"key of face 1 of item {item}", "shredded, and the trail does not say so")
    back = "UPDATE sealed_keys SET wrapped = 'x', state = 'live' WHERE face <> 0"
    as_superuser(world, back)
    (found,) = verified(world.database, anchors, signer).findings
    assert (found.where, "has come back" in found.words) == (f"key of face -1 of item {item}", True)


def test_a_recovery_that_got_no_fresh_keys_agrees_with_the_trail(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    fetched(world)
    terms = world.approved((0, 1))
    world.custodian().open(terms.id)
    (face,) = terms.faces
    world.ledger.record_shredded([Portion(face.item, terms.release, None, (face.face,))])
    as_superuser(world, "UPDATE recoveries SET sealed_at = now() - interval '1 hour' WHERE state = 'bound'")
    assert world.custodian().open(terms.id).refusal is Refusal.KEY_SHREDDED
    assert verified(world.database, anchors, signer, custodian=world.custodian_keys()).findings == []
