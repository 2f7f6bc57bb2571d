"""Signed submissions: who submitted is known by their key, whatever a row or an account says; and each way round it, tried."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from schemas.policies import Policy
from schemas.states import RequestState
from schemas.submissions import SubmissionTerms, submission_message
from schemas.tables import Release
from tests.governance import POLICY, Member, World, _release_item
from workers.custody.judge import Refusal, Signed
from workers.custody.policies import write_policies
from workers.custody.roster import add_person, load_roster, remove_person
from workers.recoveries import decisions, people
from workers.recoveries.errors import NamesChanged, PersonUnknown, PolicyForbids, SubmitterMayNotApprove
from workers.recoveries.policies import set_policy
from workers.releases import service as releases
from workers.releases.errors import SubmissionInvalid, SubmissionUnsigned
from workers.releases.sources import Source

SIGNED = Policy("acme", POLICY, signed_submissions=True)
OPTIONS = releases.ReleaseOptions(policy_name=POLICY)
SOURCES = [Source(f"file:///{name}", name) for name in ("0.png", "1.png")]
SUBMITTERS = {"sally": ("submitter", "approver"), "sid": ("submitter",), "apollo": ("approver",)}


def enter(world: World, member: Member, tenant: str = "acme") -> None:
    world.people[member.id] = member
    add_person(world.roster, member.on_roster(tenant))
    with world.as_("gateway").begin() as session:
        people.add(session, member.on_roster(tenant), "root")


def pin(world: World, policy: Policy) -> None:
    write_policies(world.policies, [policy])
    with world.as_("gateway").begin() as session:
        set_policy(session, policy, "root")


@pytest.fixture
def world(world: World) -> World:
    """With people who submit, and a policy that takes signed submissions alone."""
    world.people = dict(world.people)
    for name, roles in SUBMITTERS.items():
        enter(world, Member(name, roles))
    pin(world, SIGNED)
    return world


def signed(world: World, who: str, terms: SubmissionTerms) -> releases.Submission:
    return releases.Submission(terms, world.people[who].signing.sign(submission_message(terms)))


def hand_in(world: World, who: str, given: releases.Submission | None = None, tenant: str = "acme") -> UUID:
    if given is None:
        given = signed(world, who, releases.draft(tenant, who, OPTIONS, SOURCES))
    with world.as_("gateway").begin() as session:
        return releases.submit(
            session, tenant=tenant, actor=who, name="s", sources=SOURCES, options=OPTIONS, signed=given
        )


def submitted(world: World, who: str = "sally") -> World:
    """The world with a release that `who` signed, and that was released, in the place of its own."""
    terms = releases.draft("acme", who, OPTIONS, SOURCES)
    hand_in(world, who, signed(world, who, terms))
    world = replace(world, release=terms.release, items=list(terms.items))
    for item in world.items:
        _release_item(world, item)
    return world


def forced(world: World, *approvers: str) -> UUID:
    """A request that was approved behind the service's back: the database's owner has the early answers out of the way."""
    terms = world.request()
    for approver in approvers:
        signature = world.people[approver].sign(terms)
        world.owner(
            "INSERT INTO approvals (request_id, approver, requester, decision, signature) VALUES "
            f"('{terms.id}', '{approver}', 'alice', 'approve', '\\x{signature.hex()}')"
        )
    world.owner(f"UPDATE recovery_requests SET state = 'approved' WHERE id = '{terms.id}'")
    return terms.id


def as_owner(world: World, change: str) -> None:
    world.owner(
        "ALTER TABLE releases DISABLE TRIGGER USER",
        f"UPDATE releases SET {change} WHERE id = '{world.release}'",
        "ALTER TABLE releases ENABLE TRIGGER USER",
    )


def refused(world: World, request: UUID, refusal: Refusal) -> None:
    opened = world.custodian().open(request)
    assert (opened.recovery, opened.refusal) == (None, refusal)
    assert world.events()[-1]["fields"]["detail"] == {"refusal": refusal.value}


def test_a_signed_submission_is_recovered_and_stands_in_the_trail(world: World) -> None:
    world = submitted(world)
    told = next(each["fields"] for each in world.events() if each["event"] == "release:submitted")
    with world.as_("gateway")() as session:
        row = session.get_one(Release, world.release)
    names = [source.relative_name for source in SOURCES]
    terms = SubmissionTerms(world.release, "acme", POLICY, "sally", world.items, names, row.names_salt)
    assert terms.names_sha256() == told["detail"]["names_sha256"]
    assert (told["actor"], told["request_hash"]) == ("sally", terms.sha256().hex())
    assert told["detail"]["signature"] == bytes(row.signature or b"").hex()
    assert world.custodian().open(world.approved().id).recovery is not None


def test_who_signed_a_submission_does_not_approve_its_recovery(world: World) -> None:
    """Not by the service, and not by the owner's hand; with the policy's leave they do."""
    world = submitted(world)
    terms = world.request()
    with pytest.raises(SubmitterMayNotApprove), world.as_("gateway").begin() as session:
        decisions.approve(session, terms.id, "sally", Signed(world.people["sally"].sign(terms)))
    refused(world, forced(world, "bob", "sally"), Refusal.SUBMITTER)
    pin(world, replace(SIGNED, submitter_may_approve=True))
    terms = world.request()
    assert world.approve(terms, "bob", "sally") is RequestState.APPROVED
    assert world.custodian().open(terms.id).recovery is not None


@pytest.mark.parametrize("name", ["sid", "sam", "apollo", "svc"])
def test_an_owner_who_renames_the_submitter_gets_no_key(world: World, name: str) -> None:
    """So that who submitted could approve: to another submitter, to whoever, to an approver, to an account."""
    world = submitted(world)
    as_owner(world, f"submitted_by = '{name}'")
    refused(world, forced(world, "bob", "sally"), Refusal.SUBMISSION)


def test_an_owner_who_takes_the_signature_away_gets_no_key(world: World) -> None:
    world = submitted(world)
    request = forced(world, "bob", "sally")
    as_owner(world, "submitted_by = 'svc', signature = NULL")
    refused(world, request, Refusal.SUBMISSION)
    with pytest.raises(PolicyForbids, match="nobody signed"):
        world.request()


def test_a_signature_of_another_release_does_not_count(world: World) -> None:
    """Of another submitter's own release, copied; and the whole submission moved to other items."""
    other = hand_in(world, "sid")
    world = submitted(world)
    as_owner(world, f"submitted_by = 'sid', signature = (SELECT o.signature FROM releases AS o WHERE o.id = '{other}')")
    refused(world, forced(world, "bob", "sally"), Refusal.SUBMISSION)
    again = submitted(world, "sid")
    request = forced(again, "bob", "carol")
    again.owner(
        "ALTER TABLE items DISABLE TRIGGER USER",
        "INSERT INTO items (id, release_id, position, source_uri, relative_name) "
        f"VALUES ('{uuid4()}', '{again.release}', 7, 'x', 'x')",
    )
    refused(again, request, Refusal.SUBMISSION)
    with pytest.raises(NamesChanged):
        again.request()


def test_nobody_but_a_submitter_on_the_roster_counts(world: World) -> None:
    """The service may say what it likes: an approver whom the owner made a submitter, one of another tenant, one off the roster."""
    world.owner(
        "ALTER TABLE people DISABLE TRIGGER USER",
        "UPDATE people SET roles = '{approver,submitter}' WHERE id = 'apollo'",
    )
    as_apollo = submitted(world, "apollo")
    refused(as_apollo, forced(as_apollo, "bob", "carol"), Refusal.SUBMISSION)
    as_sid = submitted(world, "sid")
    remove_person(world.roster, "sid")
    refused(as_sid, forced(as_sid, "bob", "carol"), Refusal.SUBMISSION)
    add_person(world.roster, world.people["sid"].on_roster("other"))
    refused(as_sid, forced(as_sid, "bob", "carol"), Refusal.SUBMISSION)


def test_an_unsigned_submission_is_neither_taken_nor_recovered(world: World) -> None:
    """An approver who submits from the account `svc` is nobody that the custodian could know."""
    with pytest.raises(SubmissionUnsigned, match="--as ID --key FILE"), world.as_("gateway").begin() as session:
        releases.submit(session, tenant="acme", actor="svc", name="s", sources=SOURCES, options=OPTIONS)
    with pytest.raises(PolicyForbids):
        world.request()  # of the release that `sam` submitted before the policy was so
    pin(world, Policy("acme", POLICY))
    terms = world.approved()
    write_policies(world.policies, [SIGNED])
    refused(world, terms.id, Refusal.SUBMISSION)


def test_who_may_hand_in(world: World) -> None:
    """With the role, in this tenant, not gone, with their own key, over just this; and nothing of it stays otherwise."""
    enter(world, Member("tom", ("submitter",)), "other")
    for who in ("apollo", "bob", "tom", "nobody"):
        world.people.setdefault(who, Member(who, ("submitter",)))
        with pytest.raises(PersonUnknown, match="as submitter"):
            hand_in(world, who)
    mine = releases.draft("acme", "sid", OPTIONS, SOURCES)
    wrong = [
        releases.Submission(mine, world.people["sally"].signing.sign(submission_message(mine))),
        signed(world, "sid", replace(mine, submitted_by="sally")),
        signed(world, "sid", replace(mine, policy="lax")),
        signed(world, "sid", replace(mine, tenant="other")),
        signed(world, "sid", replace(mine, items=mine.items[:1], names=mine.names[:1])),
        signed(world, "sid", replace(mine, names=mine.names[::-1])),
        signed(world, "sid", replace(mine, salt=None)),
        releases.Submission(replace(mine, salt=bytes(32)), signed(world, "sid", mine).signature),
        releases.Submission(replace(mine, items=mine.items[::-1]), signed(world, "sid", mine).signature),
        releases.Submission(replace(mine, release=uuid4()), signed(world, "sid", mine).signature),
    ]
    for given in wrong:
        with pytest.raises(SubmissionInvalid):
            hand_in(world, "sid", given)
    with world.as_("gateway").begin() as session:
        people.remove(session, "sid", "root")
    with pytest.raises(PersonUnknown):
        hand_in(world, "sid")
    with world.as_("gateway")() as session:
        assert session.execute(select(Release.id)).scalars().all() == [world.release]


def test_where_the_policy_does_not_ask_a_submission_may_be_signed_or_not(world: World) -> None:
    pin(world, Policy("acme", POLICY))
    unsigned = world.approved()
    assert world.custodian().open(unsigned.id).recovery is not None
    world = submitted(world)
    terms = world.request()
    with pytest.raises(SubmitterMayNotApprove), world.as_("gateway").begin() as session:
        decisions.approve(session, terms.id, "sally", Signed(world.people["sally"].sign(terms)))
    world.approve(terms, "bob", "carol")
    assert world.custodian().open(terms.id).recovery is not None


def test_a_policy_without_signed_submissions_keeps_its_bytes_and_hash(world: World, tmp_path: Path) -> None:
    """An older version of it reads the same; and one with it reads back as it was written."""
    plain = Policy("acme", POLICY)
    assert b"signed_submissions" not in plain.canonical()
    assert Policy.of(plain.body()) == plain
    assert Policy.of(SIGNED.body()) == SIGNED
    assert SIGNED.sha256() != plain.sha256()
    with pytest.raises(ValueError, match="true or false"):
        Policy.of(plain.body() | {"signed_submissions": "yes"})
    assert load_roster(world.roster).people["sally"].roles == ("approver", "submitter")
