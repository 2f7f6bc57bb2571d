"""What submitters and administrators signed: the trail vouches for it, and what is done behind its back is found."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import func, update

from schemas.administration import add_message, policy_message, remove_message
from schemas.audit import AuditEvent
from schemas.policies import Policy
from schemas.submissions import submission_message
from schemas.tables import Person
from tests.governance import POLICY, Member, World
from tests.workers.audit import independent_checker
from tests.workers.audit.harness import as_superuser, new_notary, verified, write
from tests.workers.custody.test_passkeys import Authenticator, spelt
from workers.audit import append
from workers.audit.checking import check_bundle
from workers.audit.evidence import About, gather, pack
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.verify import Problem
from workers.custody.passkeys import Passkey
from workers.custody.roster import RosterPerson, add_person, load_roster, remove_person
from workers.recoveries import people
from workers.recoveries.errors import PersonExists
from workers.recoveries.policies import next_version, set_policy
from workers.releases import service as releases
from workers.releases.sources import Source

OPTIONS = releases.ReleaseOptions(policy_name=POLICY)
SOURCES = [Source("file:///a.png", "a.png"), Source("file:///b.png", "b.png")]


def enter(world: World, member: Member) -> Member:
    world.people[member.id] = member
    with world.as_("gateway").begin() as session:
        people.add(session, member.on_roster(), "root")
    return member


def hand_in(world: World, who: str | None = "sid") -> Any:
    """A release, signed; by the account `svc` where `who` is None."""
    given = None
    if who is not None:
        terms = releases.draft("acme", who, OPTIONS, SOURCES)
        given = releases.Submission(terms, world.people[who].signing.sign(submission_message(terms)))
    with world.as_("gateway").begin() as session:
        about: dict[str, Any] = {"tenant": "acme", "name": "s", "sources": SOURCES, "options": OPTIONS}
        return releases.submit(session, actor=who or "svc", signed=given, **about)


@pytest.fixture
def world(world: World) -> World:
    world.people = dict(world.people)
    enter(world, Member("sid", ("submitter",)))
    enter(world, Member("sally", ("submitter", "approver")))
    return world


def test_a_signed_submission_verifies_and_an_unsigned_one_is_no_fault(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """Also after signing began."""
    world.request((0, 0))
    hand_in(world, "sid")
    hand_in(world, None)
    result = verified(world.database, anchors, signer)
    assert (result.findings, result.notes, result.signatures) == ([], [], 2)


ATTACKS = {
    "rename the submitter": "UPDATE releases SET submitted_by = 'sally' WHERE id = '{0}'",
    "take the signature away": "UPDATE releases SET signature = NULL WHERE id = '{0}'",
    "copy another release's signature": "UPDATE releases AS r SET signature = o.signature FROM releases AS o "
    "WHERE r.id = '{0}' AND o.id = '{1}'",
    "add an item": "INSERT INTO items (id, release_id, position, source_uri, relative_name) VALUES (gen_random_uuid(), '{0}', 7, 'x', 'x')",
    "exchange an item": "UPDATE items SET id = gen_random_uuid() WHERE release_id = '{0}' AND position = 0",
    "move it to another tenant": "UPDATE releases SET tenant = 'other' WHERE id = '{0}'",
    "give it a policy of no form": "ALTER TABLE releases DROP CONSTRAINT releases_policy_check; "
    "UPDATE releases SET policy = '[1]' WHERE id = '{0}'",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_done_to_a_signed_submission_is_found(
    world: World, anchors: Anchors, signer: HeadSigner, attack: str
) -> None:
    release, other = hand_in(world), hand_in(world, "sally")
    as_superuser(world, ATTACKS[attack].format(release, other))
    found = verified(world.database, anchors, signer).findings
    assert {each.where for each in found if each.problem is not Problem.GUARD} == {f"release {release}"}, found


def test_a_forged_submission_is_found(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """A stolen gateway writes row and event in somebody's name: by another's key, or by who has not the role."""
    wrong = {"sid": "the key that sid was added with", "bob": "bob is no submitter", "svc": "no person:added"}
    for who, words in wrong.items():
        terms = releases.draft("acme", who, OPTIONS, SOURCES)
        forged = world.people["sally"].signing.sign(submission_message(terms)).hex()
        with world.as_("gateway").begin() as session:
            detail = {"items": 2, "signature": forged}
            about = {"release": terms.release, "request_hash": terms.sha256()}
            append(session, AuditEvent.RELEASE_SUBMITTED, actor=who, detail=detail, **about)
        found = [each.words for each in verified(world.database, anchors, signer).findings]
        assert [each for each in found if words in each], found


def test_an_unsigned_submission_under_a_policy_that_takes_none_is_found(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    policy = Policy("acme", POLICY, signed_submissions=True)
    with world.as_("gateway").begin() as session:
        set_policy(session, policy, "root")
    hand_in(world)
    assert verified(world.database, anchors, signer).findings == []
    detail = {"items": 0, "subjects": 0, "policy": POLICY, "policy_sha256": policy.sha256().hex()}
    release = "11111111-1111-4111-8111-111111111111"
    as_superuser(
        world,
        "INSERT INTO releases (id, tenant, name, profile, format, donor_policy, policy, submitted_by) "
        f"VALUES ('{release}', 'acme', 's', 'robust', 'png', 'random', '{{\"name\": \"{POLICY}\"}}', 'svc')",
    )
    write(world, "release:submitted", {"actor": "svc", "release": release, "detail": detail}, "refacex_gateway")
    (found,) = verified(world.database, anchors, signer).findings
    assert (found.problem, found.where) == (Problem.ROW, f"release {release}")
    assert "takes signed submissions alone" in found.words


@pytest.mark.parametrize("who", ["sid", None])
def test_evidence_shows_who_signed_the_submission(
    world: World, anchors: Anchors, signer: HeadSigner, who: str | None
) -> None:
    release = hand_in(world, who)
    new_notary(world.database, anchors, signer).anchor()
    with world.as_("gateway")() as session:
        data = pack(gather(session, anchors, signer.verifier, About.RELEASE, release))
    independent_checker.check(data, signer.verifier.public)
    checked = check_bundle(data, signer.verifier)
    assert checked.ok, checked.problems
    assert f"{'1 signature' if who else '0 signatures'} of people verified" in checked.facts


# --- administrators


def word(world: World, by: str, person: RosterPerson, message: Callable[[bytes], bytes] = add_message) -> people.Word:
    return people.Word(by, world.people[by].signing.sign(message(people.terms_of(person).sha256())))


def administered(world: World) -> None:
    """An administrator, whom somebody added as before; two people whom she added, and one of whom she removed; a policy of hers."""
    enter(world, Member("ada", ("administrator",)))
    for name in ("new", "old"):
        world.people[name] = Member(name, ("approver", "submitter"))
        person = world.people[name].on_roster()
        with world.as_("gateway").begin() as session:
            people.add(session, person, "root", word(world, "ada", person))
    with world.as_("gateway").begin() as session:
        person = world.people["old"].on_roster()
        people.remove(session, "old", "root", word(world, "ada", person, remove_message))
    policy = Policy("acme", POLICY, quorum=3)
    with world.as_("gateway").begin() as session:
        message = policy_message(policy.sha256(), next_version(session, policy))
        set_policy(session, policy, "root", people.Word("ada", world.people["ada"].signing.sign(message)))


def told(world: World, tag: str) -> dict[str, Any]:
    return next(each["fields"] for each in reversed(world.events()) if each["event"] == tag)  # type: ignore[no-any-return]


def test_what_an_administrator_signs_verifies(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    administered(world)
    for tag in ("person:added", "person:removed", "policy:set"):
        assert told(world, tag)["actor"] == "ada"
        assert len(told(world, tag)["detail"]["signature"]) == 128
    result = verified(world.database, anchors, signer)
    assert (result.findings, result.notes, result.signatures) == ([], [], 4)


def forge(world: World, name: str, **fields: Any) -> dict[str, Any]:
    """What a `person:added` of somebody new would say; row and event are then a stolen gateway's."""
    person = Member(name, ("approver",)).on_roster()
    with world.as_("gateway").begin() as session:
        session.add(
            Person(
                id=name,
                tenant="acme",
                roles=["approver"],
                ed25519_public=person.ed25519_public,
                x25519_public=person.x25519_public,
            )
        )
    keys = {"ed25519": person.ed25519_public.hex(), "x25519": person.x25519_public.hex()}
    detail = {"tenant": "acme", "roles": ["approver"], **keys} | fields
    return {"actor": "ada", "subject": name, "detail": detail, "request_hash": people.terms_of(person).sha256()}


def test_a_forged_addition_is_found(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Unsigned; with an administrator's signature for somebody else; signed by who is none; by oneself; with one of another tenant."""
    administered(world)
    copied = told(world, "person:added")["detail"]["signature"]
    with world.as_("gateway").begin() as session:
        people.add(session, Member("tess", ("administrator",)).on_roster("other"), "root")
    cases: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
        ("mal1", {}, {}, "acme has an administrator, and none signed it"),
        ("mal2", {"signature": copied}, {}, "the signature is not one by the key that ada was added with"),
        ("mal3", {"signature": "00" * 64}, {"actor": "bob"}, "bob is no administrator"),
        ("mal4", {"signature": "00" * 64}, {"actor": "mal4"}, "no person:added before it gives the public key of mal4"),
        ("mal5", {"issuer": "https://id", "roles": ["administrator"]}, {}, "none signed it"),
        ("mal6", {"signature": "00" * 64}, {"actor": "tess"}, "tess is of another tenant than acme"),
    ]
    for name, detail, fields, words in cases:
        with world.as_("gateway").begin() as session:
            append(session, AuditEvent.PERSON_ADDED, **(forge(world, name, **detail) | fields))
        found = [each.words for each in verified(world.database, anchors, signer).findings]
        assert [each for each in found if words in each], (name, found)


def test_two_people_with_one_key_that_signs_are_found(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Whoever wrote `person:added`; also when the first one is gone. One person with a key in two places is one person."""
    bob, own = world.people["bob"].on_roster(), Member("own", ("approver",)).on_roster()
    as_passkey = Passkey("a2V5", spelt(Ed25519PublicKey.from_public_bytes(own.ed25519_public)))
    with world.as_("gateway").begin() as session:
        people.add(session, replace(own, passkeys=(as_passkey,)), "root")
        people.remove(session, "own", "root")
    assert verified(world.database, anchors, signer).findings == []
    cases = {
        "one": forge(world, "one", ed25519=bob.ed25519_public.hex()),
        "two": forge(world, "two", ed25519=own.ed25519_public.hex()),
        "three": forge(world, "three", passkeys=[{"id": "x", "public": as_passkey.public.hex()}]),
        "four": forge(world, "four", passkeys=[{"id": "x", "public": "00"}]),  # verifies nothing, and is no fault here
    }
    with world.as_("gateway").begin() as session:
        for fields in cases.values():
            append(session, AuditEvent.PERSON_ADDED, **(fields | {"request_hash": None, "actor": "root"}))
    result = verified(world.database, anchors, signer)
    found = [each.words for each in result.findings if each.problem is Problem.SIGNATURE]
    assert found == [
        f"person:added: {who} signs with a key of {whose}: one person as two"
        for who, whose in (("one", "bob"), ("two", "own"), ("three", "own"))
    ]


def test_a_key_that_needs_no_secret_is_found(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Two spellings of one, as two people; and as a passkey. No constant under it is a signature."""
    neutral, again = (y.to_bytes(32, "little") for y in (1, 2**255 - 18))
    passkey = spelt(Ed25519PublicKey.from_public_bytes(neutral)).hex()
    terms, constant = world.request((0, 0)), neutral + bytes(32)
    with world.as_("gateway").begin() as session:
        for name, weak in (
            ("one", {"ed25519": neutral.hex()}),
            ("two", {"ed25519": again.hex()}),
            ("three", {"passkeys": [{"id": "x", "public": passkey}]}),
        ):
            fields = forge(world, name, **weak) | {"request_hash": None, "actor": "root"}
            append(session, AuditEvent.PERSON_ADDED, **fields)
        about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
        detail = {"signature": constant.hex()}
        append(session, AuditEvent.REQUEST_APPROVED, actor="two", detail=detail, **about)
    result = verified(world.database, anchors, signer)
    words = "signs with a key of small order, or not canonical: anybody may sign as them"
    assert [each.words for each in result.findings if each.problem is Problem.SIGNATURE] == [
        *(f"person:added: {who} {words}" for who in ("one", "two", "three")),
        "request:approved: the signature is not one by the key that two was added with",
    ]


def test_two_people_are_not_added_with_one_passkey_at_once(world: World) -> None:
    """The second waits for the first, and is told."""
    authenticator = Authenticator()
    pia, patty = (replace(Member(name, ("approver",)).on_roster(), passkeys=(key,)) for name, key in (
        ("pia", authenticator.passkey), ("patty", Passkey("cGF0dHk", spelt(authenticator.key.public_key(), compressed=True)))
    ))  # fmt: skip

    def add_patty() -> None:
        with world.as_("gateway").begin() as session:
            people.add(session, patty, "root")

    with ThreadPoolExecutor(1) as pool:
        with world.as_("gateway").begin() as session:
            people.add(session, pia, "root")
            second = pool.submit(add_patty)
            assert wait([second], timeout=1).not_done
        with pytest.raises(PersonExists):
            second.result(timeout=30)


def test_a_signature_for_another_person_removal_or_policy_is_found(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """A good signature of hers, with its hash, moved to an event that says something else."""
    administered(world)
    added, removed, policy = (told(world, tag) for tag in ("person:added", "person:removed", "policy:set"))
    other = forge(world, "mallory")
    with world.as_("gateway").begin() as session:
        session.execute(update(Person).where(Person.id.in_(["bob", "carol"])).values(removed_at=func.now()))
        mallory = other["detail"] | {"signature": added["detail"]["signature"]}
        moved = other | {"detail": mallory, "request_hash": added["request_hash"]}
        append(session, AuditEvent.PERSON_ADDED, **moved)
        append(session, AuditEvent.PERSON_REMOVED, **(removed | {"subject": "bob"}))
        append(session, AuditEvent.PERSON_REMOVED, actor="ada", subject="carol")
        for version in (3, 2):
            detail = policy["detail"] | {"version": version, "sha256": Policy("acme", POLICY).sha256().hex()}
            append(session, AuditEvent.POLICY_SET, **(policy | {"detail": detail}))
    result = verified(world.database, anchors, signer)
    found = [each.words for each in result.findings if each.problem is Problem.SIGNATURE]
    moved_words = "what was signed is something else than it says"
    assert [words.split(": ", 1) for words in found] == [
        ["person:added", moved_words],
        ["person:removed", moved_words],
        ["person:removed", "acme has an administrator, and none signed it"],
        ["policy:set", "the signature is not one by the key that ada was added with"],
        ["policy:set", moved_words],
        ["policy:set", moved_words],
    ]


def test_an_enrolment_in_a_tenant_with_an_administrator_is_a_note(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    administered(world)
    with world.as_("gateway").begin() as session:
        people.add(session, Member("gus", ("approver",)).on_roster(), "gus", issuer="https://id", identity="7")
    result = verified(world.database, anchors, signer)
    assert (result.findings, len(result.notes)) == ([], 1)
    assert "identity provider's word alone: 1 enrolment," in result.notes[0]


def test_evidence_holds_the_administrator_who_signed_for_a_signer(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    administered(world)
    release = hand_in(world, "new")
    new_notary(world.database, anchors, signer).anchor()
    with world.as_("gateway")() as session:
        evidence = gather(session, anchors, signer.verifier, About.RELEASE, release)
    data = pack(evidence)
    independent_checker.check(data, signer.verifier.public)
    checked = check_bundle(data, signer.verifier)
    assert checked.ok, checked.problems
    assert "2 signatures of people verified" in checked.facts
    tags = [(body["event"], body["fields"].get("subject")) for body in (each.body() for each in evidence.events)]
    assert tags == [("person:added", "ada"), ("person:added", "new"), ("release:submitted", None)]
    without = pack(replace(evidence, events=evidence.events[1:]))
    assert "gives the public key of ada" in str(check_bundle(without, signer.verifier).problems)
    with pytest.raises(independent_checker.Wrong):
        independent_checker.check(without, signer.verifier.public)


def test_who_left_may_stay_on_the_roster_for_what_they_submitted(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """And for nothing else."""
    for name in ("sid", "sally"):
        add_person(world.roster, world.people[name].on_roster())
    with world.as_("gateway").begin() as session:
        people.remove(session, "sally", "root")

    def found() -> list[str]:
        return [each.where for each in verified(world.database, anchors, signer, load_roster(world.roster)).findings]

    assert found() == ["person sally"]
    remove_person(world.roster, "sally", keep_submitter=True)
    assert load_roster(world.roster).people["sally"].roles == ("submitter",)
    assert found() == []
