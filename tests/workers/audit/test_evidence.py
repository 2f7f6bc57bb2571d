"""Evidence bundles: what they hold, that two checkers which share no code agree on them, and that no byte of one can be changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from schemas.audit import AuditEvent
from schemas.tables import Approval, Ticket
from tests.governance import GROUNDS, World
from tests.workers.audit import independent_checker
from tests.workers.audit.harness import fetched, new_notary
from workers.audit import append
from workers.audit.checking import Checked, check_bundle
from workers.audit.errors import EvidenceUnreadable, NotAnchoredYet, NotInTrail
from workers.audit.evidence import About, Evidence, gather, pack, pack_members, unpack
from workers.audit.heads import Anchors, HeadSigner, HeadVerifier
from workers.audit.summary import summarise

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Bundles:
    """Two good bundles of one world, and who can check them."""

    release: bytes
    ticket: bytes
    verifier: HeadVerifier
    world: World


@pytest.fixture
def bundles(_bundles: dict[str, Bundles], world: World, anchors: Anchors, signer: HeadSigner) -> Bundles:
    """Made once for the module: they are bytes and need no database any more."""
    if "made" not in _bundles:
        notary = new_notary(world.database, anchors, signer)
        notary.anchor()
        fetched(world)
        world.request((0, 1))
        notary.anchor()
        ticket = world.one(select(Ticket.id))
        made = [
            pack(take(world, anchors, signer, *each))
            for each in ((About.RELEASE, world.release), (About.TICKET, ticket))
        ]
        _bundles["made"] = Bundles(*made, signer.verifier, world)
    return _bundles["made"]


@pytest.fixture(scope="module")
def _bundles() -> dict[str, Bundles]:
    return {}


def take(world: World, anchors: Anchors, signer: HeadSigner, about: About, wanted: UUID) -> Evidence:
    with world.as_("gateway")() as session:
        return gather(session, anchors, signer.verifier, about, wanted)


def ours(data: bytes, verifier: HeadVerifier, custodian: dict[str, bytes] | None = None) -> Checked | None:
    """What our checker says; None where it is no bundle to it."""
    try:
        return check_bundle(data, verifier, custodian)
    except EvidenceUnreadable:
        return None


def holds(data: bytes, verifier: HeadVerifier, custodian: dict[str, bytes] | None = None) -> bool:
    """Whether the bundle holds; both checkers must say the same."""
    checked = ours(data, verifier, custodian)
    try:
        independent_checker.check(data, verifier.public, *(custodian or {}).values())
        theirs = True
    except Exception:
        theirs = False
    assert (checked is not None and checked.ok) == theirs, checked and checked.problems
    return theirs


def members(data: bytes) -> tuple[dict[str, Any], str]:
    evidence, summary = unpack(data)
    return json.loads(evidence.canonical(summary)), summary


def repacked(fields: dict[str, Any]) -> bytes:
    """A bundle of these fields whose summary and its hash fit, as far as they can be made to: what a careful forger does."""
    summary = ""
    try:
        draft = pack_members(rfc8785.dumps(fields), b"")
        summary = unpack(draft)[0].summary()
        fields = fields | {"summary": hashlib.sha256(summary.encode()).hexdigest()}
    except (EvidenceUnreadable, ValueError, KeyError, TypeError, IndexError, AttributeError):
        pass
    return pack_members(rfc8785.dumps(fields), summary.encode())


def test_both_checkers_accept_a_release_and_a_ticket(bundles: Bundles) -> None:
    for data, signatures in ((bundles.release, 5), (bundles.ticket, 4)):
        assert holds(data, bundles.verifier)
        assert f"{signatures} signatures of people verified" in check_bundle(data, bundles.verifier).facts
        checked = check_bundle(data, bundles.verifier)
        for key, file in bundles.world.files.items():
            item = checked.item_of(file)
            assert item is not None
            assert key.startswith(item)
        assert checked.item_of(b"another file") is None
        assert any("may have been left out" in words for words in checked.limits)


def test_the_custodians_events_are_checked_with_its_key(bundles: Bundles) -> None:
    custodian = bundles.world.custodian_keys()
    for data in (bundles.release, bundles.ticket):
        assert holds(data, bundles.verifier, custodian)
        checked = check_bundle(data, bundles.verifier, custodian)
        assert "2 signatures of the custodian verified" in checked.facts
        assert not any("--custodian-key" in words for words in checked.limits)
        assert any("--custodian-key" in words for words in check_bundle(data, bundles.verifier).limits)
        (name,) = custodian
        assert not holds(data, bundles.verifier, {name: bytes(32)})


def test_a_ticket_that_a_stolen_role_wrote_shows_in_the_evidence(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """Everything of it is there but the custodian's signature, and the notary signed over it."""
    fetched(world)
    copied = next(each["fields"] for each in world.events(marks=True) if each["event"] == "ticket:issued")
    with world.as_("custodian").begin() as session:
        about = {name: copied[name] for name in ("release", "request", "request_hash")}
        detail = copied["detail"] | {"faces": 99}
        append(session, AuditEvent.TICKET_ISSUED, actor="custodian", ticket=uuid4(), detail=detail, **about)
    new_notary(world.database, anchors, signer).anchor()
    data = pack(take(world, anchors, signer, About.RELEASE, world.release))
    assert holds(data, signer.verifier), "its quorum is there, and nobody asked who wrote it"
    assert not holds(data, signer.verifier, world.custodian_keys())
    (problem,) = check_bundle(data, signer.verifier, world.custodian_keys()).problems
    assert "the signature is not the custodian's over these fields" in problem


def test_a_ticket_without_any_signature_of_the_custodian_is_a_fault(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """A stolen role writes ticket:issued and ticket:spent with no mark at all, and the bundle holds no signed one beside them."""
    terms, ticket = world.approved((0, 0)), uuid4()
    about: dict[str, Any] = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
    about |= {"actor": "custodian", "ticket": ticket}
    with world.as_("custodian").begin() as session:
        append(session, AuditEvent.TICKET_ISSUED, detail={"faces": 1}, **about)
    with world.as_("custodian").begin() as session:
        append(session, AuditEvent.TICKET_SPENT, recovery=uuid4(), **about)
    new_notary(world.database, anchors, signer).anchor()
    data = pack(take(world, anchors, signer, About.TICKET, ticket))
    assert holds(data, signer.verifier), "nobody asked who wrote it"
    custodian = world.custodian_keys()
    assert not holds(data, signer.verifier, custodian)
    found = check_bundle(data, signer.verifier, custodian).problems
    assert [each.split(": ", 1)[1] for each in found] == [
        "ticket:issued: the custodian did not sign it",
        "ticket:spent: the custodian did not sign it",
    ]
    (public,) = custodian.values()
    independent_checker.check(data, signer.verifier.public, public, before=True)
    checked = check_bundle(data, signer.verifier, custodian, before_signatures=True)
    assert checked.ok
    assert any("wrote 2 events without a signature: you say" in words for words in checked.limits)


def test_a_bundle_says_who_did_what_and_no_free_text(bundles: Bundles) -> None:
    _, page = unpack(bundles.ticket)
    for words in (
        "| alice | asked for 2 faces back",
        "| bob | approved the request",
        "spent the ticket",
        "2 images submitted; 2 released",
        "Every event in this bundle is in the audit trail, letter for letter and under the number that it has here.",
    ):
        assert words in page, page
    for data in (bundles.release, bundles.ticket):
        text = data.decode("utf-8", "replace")
        assert not [words for words in (*vars(GROUNDS).values(), "0.png", "1.png") if words in text]
    about_release, _ = unpack(bundles.release)
    about_ticket, _ = unpack(bundles.ticket)
    tags = [[each.body()["event"] for each in evidence.events] for evidence in (about_release, about_ticket)]
    assert tags[0].count("request:opened") == 2
    assert tags[1].count("request:opened") == 1, "another request of the same release is another matter"
    one = dict(about_ticket.events[-1].body(), event="ticket:issued", fields={"detail": {"faces": 1}})
    assert "issued a ticket for 1 face |" in summarise("ticket", "x", [one], [json.loads(about_ticket.heads[-1].body)])
    people = {
        each.body()["fields"]["subject"] for each in about_ticket.events if each.body()["event"] == "person:added"
    }
    assert people == {"alice", "bob", "carol"}


def test_the_same_evidence_gives_the_same_bytes(bundles: Bundles) -> None:
    for data in (bundles.release, bundles.ticket):
        assert pack(unpack(data)[0]) == data


def test_two_heads_and_what_is_too_young(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    with pytest.raises(NotAnchoredYet):
        take(world, anchors, signer, About.RELEASE, world.release)
    notary = new_notary(world.database, anchors, signer)
    notary.anchor()
    alone = take(world, anchors, signer, About.RELEASE, world.release)
    assert (len(alone.heads), alone.consistency) == (1, ())
    assert holds(pack(alone), signer.verifier)
    world.request((0, 0))
    young = take(world, anchors, signer, About.RELEASE, world.release)
    assert young.left_out == 1, "the request is; who asked was added before"
    assert holds(pack(young), signer.verifier)
    notary.anchor()
    both = take(world, anchors, signer, About.RELEASE, world.release)
    assert (len(both.heads), bool(both.consistency), both.left_out) == (2, True, 0)
    assert holds(pack(both), signer.verifier)
    with pytest.raises(NotInTrail):
        take(world, anchors, signer, About.TICKET, world.release)


def test_another_notarys_key_and_another_summary_are_refused(bundles: Bundles) -> None:
    other = HeadSigner(bundles.verifier.key_id, bytes(32)).verifier
    assert not holds(bundles.release, other)
    fields, summary = members(bundles.ticket)
    changed = summary.replace("bob", "eve").encode()
    assert not holds(pack_members(rfc8785.dumps(fields), changed), bundles.verifier)
    fitting = fields | {"summary": hashlib.sha256(changed).hexdigest()}
    (problem,) = check_bundle(pack_members(rfc8785.dumps(fitting), changed), bundles.verifier).problems
    assert problem == "summary.md does not say what the events say, in the words of this version"


@QUICK
@given(data=st.data())
def test_no_byte_of_the_file_can_be_changed(bundles: Bundles, data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([bundles.release, bundles.ticket]))
    at = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.integers(1, 255))
    assert not holds(good[:at] + bytes([good[at] ^ change]) + good[at + 1 :], bundles.verifier)


@QUICK
@given(data=st.data())
def test_no_byte_of_the_json_can_be_changed_by_who_packs_it_again(bundles: Bundles, data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([bundles.release, bundles.ticket]))
    evidence, summary = unpack(good)
    raw = bytearray(evidence.canonical(summary))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert not holds(pack_members(bytes(raw), summary.encode()), bundles.verifier)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in some JSON that is no object or list."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, (*path, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from leaves(each, (*path, number))
    else:
        yield path


def changed(value: Any, data: st.DataObject) -> Any:
    if isinstance(value, int):
        return data.draw(st.integers(0, 2**53 - 1).filter(lambda number: number != value))
    at = data.draw(st.integers(0, len(value) - 1))
    letter = data.draw(st.sampled_from('0123456789abcdef"{}:,z é').filter(lambda each: each != value[at]))
    return value[:at] + letter + value[at + 1 :]


@QUICK
@given(data=st.data())
def test_no_field_can_be_changed_by_a_careful_forger(bundles: Bundles, data: st.DataObject) -> None:
    fields, _ = members(data.draw(st.sampled_from([bundles.release, bundles.ticket])))
    path = data.draw(st.sampled_from([each for each in leaves(fields) if each != ("summary",)]))
    place: Any = fields
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = changed(place[path[-1]], data)
    assert not holds(repacked(fields), bundles.verifier)


@QUICK
@given(data=st.data())
def test_a_hash_or_head_cannot_be_left_out_doubled_or_moved(bundles: Bundles, data: st.DataObject) -> None:
    fields, _ = members(data.draw(st.sampled_from([bundles.release, bundles.ticket])))
    lists = [fields["heads"], fields["consistency"], *(each["path"] for each in fields["events"])]
    entries = data.draw(st.sampled_from([each for each in lists if each]))
    at = data.draw(st.integers(0, len(entries) - 1))
    match data.draw(st.sampled_from(["drop", "double", "swap"])):
        case "drop" if entries is not fields["heads"]:
            del entries[at]
        case "swap" if entries[at] != entries[at - 1]:
            entries[at], entries[at - 1] = entries[at - 1], entries[at]
        case _:
            entries.insert(at, entries[at])
    assert not holds(repacked(fields), bundles.verifier)


@QUICK
@given(release=st.booleans(), drawn=st.lists(st.integers(0, 99), min_size=1, max_size=3))
def test_leaving_events_out_is_found_or_stated(bundles: Bundles, release: bool, drawn: list[int]) -> None:
    """An event that another one needs is missed by both checkers; any other may be gone, and the bundle says so of itself."""
    fields, _ = members(bundles.release if release else bundles.ticket)
    gone = {number % len(fields["events"]) for number in drawn}
    tags = [json.loads(each["canonical"])["event"] for number, each in enumerate(fields["events"]) if number in gone]
    fields["events"] = [each for number, each in enumerate(fields["events"]) if number not in gone]
    forged = repacked(fields)
    if holds(forged, bundles.verifier):
        assert any("may have been left out" in words for words in check_bundle(forged, bundles.verifier).limits)
        # An approval is needed by its ticket: with both gone, the bundle tells of a request that was never opened.
        assert "request:approved" not in tags or {"ticket:issued", "ticket:spent"} <= set(tags)


def test_events_cannot_change_places_or_come_from_elsewhere(bundles: Bundles) -> None:
    fields, _ = members(bundles.ticket)
    fields["events"][0], fields["events"][1] = fields["events"][1], fields["events"][0]
    assert not holds(repacked(fields), bundles.verifier)
    fields, _ = members(bundles.ticket)
    strange, _ = members(bundles.release)
    own = {each["canonical"] for each in fields["events"]}
    more = [each for each in strange["events"] if each["canonical"] not in own]
    assert more, "the other request of the release"
    fields["events"] = sorted([*fields["events"], *more], key=lambda each: json.loads(each["canonical"])["seq"])
    assert not holds(repacked(fields), bundles.verifier)


def test_a_forged_approval_shows_in_the_evidence(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """A stolen gateway role wrote row and event, and the notary signed over them: the evidence says whose signature it is not."""
    terms = world.request((0, 0))
    forged = world.people["eve"].sign(terms)
    with world.as_("gateway").begin() as session:
        row = {"approver": "bob", "requester": "alice", "decision": "approve", "signature": forged}
        session.add(Approval(request_id=terms.id, **row))
        about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
        append(session, AuditEvent.REQUEST_APPROVED, actor="bob", detail={"signature": forged.hex()}, **about)
    new_notary(world.database, anchors, signer).anchor()
    data = pack(take(world, anchors, signer, About.RELEASE, world.release))
    assert not holds(data, signer.verifier)
    (problem,) = check_bundle(data, signer.verifier).problems
    assert "not one by the key that bob was added with" in problem


@pytest.mark.parametrize("data", [b"", b"PK", b"{}", bytes(100)])
def test_what_is_no_bundle(signer: HeadSigner, data: bytes) -> None:
    with pytest.raises(EvidenceUnreadable):
        check_bundle(data, signer.verifier)
    assert not holds(pack_members(b"{}", b""), signer.verifier)
