"""Submissions that a submitter signed: the trail vouches for them, and what is done behind its back is found."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from typing import Any

import pytest

from schemas.audit import AuditEvent
from schemas.policies import Policy
from schemas.submissions import submission_message
from tests.governance import POLICY, Member, World
from tests.workers.audit import independent_checker
from tests.workers.audit.harness import as_superuser, new_notary, verified, write
from workers.audit import append
from workers.audit.checking import check_bundle
from workers.audit.evidence import About, gather, pack
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.verify import Problem
from workers.recoveries import people
from workers.recoveries.policies import set_policy
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
    assert f"{1 if who else 0} signatures of people verify" in checked.facts
