"""What one tenant's people sign about another tenant's request, and a glass broken twice: found in the trail, whoever wrote it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from schemas.audit import AuditEvent
from schemas.requests import RequestTerms, decision_message, review_message
from schemas.states import Decision, Urgency
from tests.governance import Member, World
from tests.workers.audit.harness import as_owner, new_notary, verified
from tests.workers.audit.lives import broken_glass, review
from tests.workers.audit.test_evidence import holds, take
from workers.audit import append
from workers.audit.checking import check_bundle
from workers.audit.evidence import About, pack
from workers.audit.heads import Anchors, HeadSigner
from workers.recoveries import people

STRANGERS = {"app2": "approver", "aud2": "auditor"}


@pytest.fixture
def world(world: World) -> World:
    """With two people of another tenant."""
    world.people = dict(world.people)
    for who, role in STRANGERS.items():
        world.people[who] = Member(who, (role,))
        with world.as_("gateway").begin() as session:
            people.add(session, world.people[who].on_roster("beta"), "root")
    return world


def tell(world: World, event: AuditEvent, terms: RequestTerms, actor: str, **detail: object) -> None:
    """As the gateway's role can."""
    about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
    with world.as_("gateway").begin() as session:
        append(session, event, actor=actor, detail=dict(detail), **about)


def approved(world: World) -> AuditEvent:
    terms = world.request((0, 0))
    signature = world.people["app2"].sign(terms)
    tell(world, AuditEvent.REQUEST_APPROVED, terms, "app2", signature=signature.hex(), approvals=1, quorum=2)
    return AuditEvent.REQUEST_APPROVED


def denied(world: World) -> AuditEvent:
    terms = world.request((0, 0))
    signature = world.people["app2"].signing.sign(decision_message(Decision.DENY, terms.sha256()))
    tell(world, AuditEvent.REQUEST_DENIED, terms, "app2", signature=signature.hex())
    return AuditEvent.REQUEST_DENIED


def reviewed(world: World) -> AuditEvent:
    terms, _ = broken_glass(world, (0, 0))
    signature = world.people["aud2"].signing.sign(review_message(terms.sha256(), "all was well"))
    conclusion = hashlib.sha256(b"all was well").hexdigest()
    tell(world, AuditEvent.REVIEW_CLOSED, terms, "aud2", signature=signature.hex(), conclusion=conclusion)
    return AuditEvent.REVIEW_CLOSED


@pytest.mark.parametrize("deed", [approved, denied, reviewed])
def test_another_tenants_people_have_no_say(
    world: World, anchors: Anchors, signer: HeadSigner, deed: Callable[[World], AuditEvent]
) -> None:
    """By verification, and by both checkers of evidence."""
    event = deed(world)
    new_notary(world.database, anchors, signer).anchor()
    who = "aud2" if event is AuditEvent.REVIEW_CLOSED else "app2"
    words = f"{event.value}: {who} is of another tenant than alice, who asked"
    assert words in [each.words for each in verified(world.database, anchors, signer).findings]
    data = pack(take(world, anchors, signer, About.RELEASE, world.release))
    assert any(words in each for each in check_bundle(data, signer.verifier).problems)
    assert not holds(data, signer.verifier)


def test_a_glass_broken_while_its_last_review_is_open_is_found(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """The owner puts the open review aside and back again: every row is as it was, and the trail still tells."""
    first, _ = broken_glass(world, (0, 0))
    hide = (
        "CREATE TABLE aside AS SELECT * FROM reviews",
        "ALTER TABLE reviews DISABLE TRIGGER USER",
        "DELETE FROM reviews",
    )
    back = ("INSERT INTO reviews SELECT * FROM aside", "ALTER TABLE reviews ENABLE TRIGGER USER", "DROP TABLE aside")
    as_owner(world.database, *hide)
    second = world.request((1, 0), urgency=Urgency.BREAK_GLASS)
    world.approve(second, "bob")
    assert world.custodian().open(second.id).recovery is not None
    as_owner(world.database, *back)
    for terms in (first, second):
        review(world, terms)
    new_notary(world.database, anchors, signer).anchor()
    found = [each.words for each in verified(world.database, anchors, signer).findings]
    assert found == [f"review:opened: alice broke the glass while request {first.id} was not reviewed"]
    data = pack(take(world, anchors, signer, About.RELEASE, world.release))
    assert not holds(data, signer.verifier)


def test_one_broken_glass_after_another_is_no_fault(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    for face in ((0, 0), (1, 0)):
        review(world, broken_glass(world, face)[0])
    new_notary(world.database, anchors, signer).anchor()
    assert verified(world.database, anchors, signer).findings == []
    assert holds(pack(take(world, anchors, signer, About.RELEASE, world.release)), signer.verifier)
