"""Evidence beyond the plain case: a passkey, a broken glass, a shredding, a trail that was forked. Both checkers agree on each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from schemas.audit import AuditEvent
from schemas.requests import RequestTerms, decision_message, review_message, signed_message
from schemas.states import Decision, OrderKind, OrderScope, OrderState
from schemas.tables import Ticket
from tests.governance import Member, World, copied
from tests.workers.audit.harness import fetched, new_notary
from tests.workers.audit.lives import broken_glass, finished, give, review
from tests.workers.audit.test_evidence import QUICK, changed, holds, leaves, members, repacked, take
from tests.workers.custody.test_passkeys import CONSOLE, Authenticator, approve, spelt
from workers.audit import append
from workers.audit.checking import check_bundle
from workers.audit.evidence import About, pack
from workers.audit.forks import accept_fork
from workers.audit.heads import Anchors, HeadSigner
from workers.custody.holds import Portion, Target
from workers.custody.judge import Signed
from workers.custody.orders import carry_out
from workers.custody.passkeys import Passkey
from workers.custody.roster import write_roster
from workers.recoveries import decisions, people

AUTHENTICATOR = Authenticator()


@dataclass(frozen=True)
class Lived:
    """A life's bundles, its events, and the keys that they are checked with."""

    bundles: tuple[bytes, ...]
    events: list[dict[str, Any]]
    custodian: dict[str, bytes]
    tombstone: str | None


def join(world: World, who: str, *roles: str, passkey: Passkey | None = None) -> None:
    """Somebody new, in the service and on the custodian's roster."""
    member = Member(who, roles)
    added = replace(member.on_roster(), passkeys=(passkey,) if passkey else ())
    write_roster(world.roster, [*(each.on_roster() for each in world.people.values()), added], relying_party=CONSOLE)
    with world.as_("gateway").begin() as session:
        people.add(session, added, "root")
    world.people = world.people | {who: member}


def passkey(world: World) -> None:
    join(world, "pia", "approver", passkey=AUTHENTICATOR.passkey)
    terms = world.request((0, 0))
    world.approve(terms, "bob")
    approve(world, terms, "pia", AUTHENTICATOR)
    assert world.custodian().open(terms.id).recovery is not None


def glass(world: World) -> None:
    terms, _ = broken_glass(world, (0, 0))
    review(world, terms)


def shredding(world: World) -> None:
    fetched(world)
    finished(world)
    order = give(world, OrderKind.SHRED, Target(OrderScope.ITEM, world.items[0]))
    assert carry_out(world.custodian(), order).state is OrderState.DONE


LIVES: dict[str, Callable[[World], Any]] = {
    "passkey": passkey,
    "broken glass": glass,
    "shredding": shredding,
    "fork": fetched,
}
EVENTS = {
    "passkey": {"request:approved", "ticket:issued"},
    "broken glass": {"review:opened", "review:closed", "ticket:issued"},
    "shredding": {"key:shredded", "recovery:fetched"},
    "fork": {"recovery:fetched"},
}


@pytest.fixture(scope="module")
def _lives() -> dict[str, Lived]:
    return {}


@pytest.fixture(params=LIVES)
def lived(
    request: pytest.FixtureRequest, _lives: dict[str, Lived], world: World, anchors: Anchors, signer: HeadSigner
) -> Lived:
    """Made once for the module, as bytes."""
    name: str = request.param
    if name not in _lives:
        new_notary(world.database, anchors, signer).anchor()
        if name == "fork":
            lose_a_head(world, anchors, signer)
        LIVES[name](world)
        new_notary(world.database, anchors, signer).anchor()
        ticket = world.one(select(Ticket.id))
        wanted = ((About.RELEASE, world.release), (About.TICKET, ticket))
        bundles = tuple(pack(take(world, anchors, signer, *each)) for each in wanted)
        tombstone = world.ledger.tombstone(Portion(world.items[0], world.release, None))
        _lives[name] = Lived(bundles, world.events(marks=True), world.custodian_keys(), tombstone)
    return _lives[name]


def lose_a_head(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """The service goes on and anchors; then a backup of before is restored, and the fork accepted."""
    with copied(world.database) as gone:
        elsewhere = replace(world, database=gone)
        elsewhere.request((1, 0))
        new_notary(gone, anchors, signer).anchor()
    with world.as_("notary").begin() as session:
        accept_fork(session, anchors, signer, by="root", reason="disk-failure", keep=timedelta(days=1))


def test_both_checkers_accept_it(lived: Lived, signer: HeadSigner, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["lived"]
    for data in lived.bundles:
        assert holds(data, signer.verifier)
        assert holds(data, signer.verifier, lived.custodian)
        fields, _ = members(data)
        told = [json.loads(each["canonical"]) for each in fields["events"]]
        assert EVENTS[name] <= {each["event"] for each in told}
        facts = " ".join(check_bundle(data, signer.verifier).facts)
        assert ("accepted before: 1 fork" in facts) is (name == "fork")
        assert any("assertion" in each["fields"].get("detail", {}) for each in told) is (name == "passkey")
        if name == "shredding":
            (detail,) = [each["fields"]["detail"] for each in told if each["event"] == "key:shredded"]
            assert detail["tombstone"] == lived.tombstone is not None, "the custodian's ledger holds that line"


@QUICK
@given(data=st.data())
def test_no_field_of_it_can_be_changed_by_a_careful_forger(
    lived: Lived, signer: HeadSigner, data: st.DataObject
) -> None:
    fields, _ = members(data.draw(st.sampled_from(lived.bundles)))
    path = data.draw(st.sampled_from([each for each in leaves(fields) if each != ("summary",)]))
    place: Any = fields
    for name in path[:-1]:
        place = place[name]
    if place[path[-1]] in ("", None):
        return
    place[path[-1]] = changed(place[path[-1]], data)
    assert not holds(repacked(fields), signer.verifier)


# --- what a stolen role writes, and the notary signs over


def forged_passkey(changes: dict[str, Any]) -> Callable[[World], AuditEvent]:
    """An answer of pia's authenticator with something wrong about it, as the gateway would have told of it."""

    def write(world: World) -> AuditEvent:
        join(world, "pia", "approver", passkey=AUTHENTICATOR.passkey)
        terms = world.request((0, 0))
        assertion, signature = AUTHENTICATOR.sign(decision_message(Decision.APPROVE, terms.sha256()), **changes)
        detail = {"signature": signature.hex(), "assertion": assertion.as_json()}
        tell(world, AuditEvent.REQUEST_APPROVED, terms, "pia", detail)
        return AuditEvent.REQUEST_APPROVED

    return write


def tell(world: World, event: AuditEvent, terms: RequestTerms, actor: str, detail: dict[str, Any]) -> None:
    about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
    with world.as_("gateway").begin() as session:
        append(session, event, actor=actor, detail=detail, **about)


def forged_review(who: str, said: str, signed: str) -> Callable[[World], AuditEvent]:
    """A review of a broken glass that ada, an approver and auditor, let be broken: by somebody, and signed for a conclusion."""

    def write(world: World) -> AuditEvent:
        join(world, "ada", "approver", "auditor")
        terms, _ = broken_glass(world, (0, 0), approver="ada")
        signature = world.people[who].signing.sign(review_message(terms.sha256(), signed))
        detail = {"conclusion": hashlib.sha256(said.encode()).hexdigest(), "signature": signature.hex()}
        tell(world, AuditEvent.REVIEW_CLOSED, terms, who, detail)
        return AuditEvent.REVIEW_CLOSED

    return write


def over_a_denial(world: World) -> AuditEvent:
    terms = world.request((0, 0))
    world.approve(terms, "bob", "carol")
    with world.as_("gateway").begin() as session:
        decisions.deny(session, terms.id, "dave", Signed(world.people["dave"].sign(terms, Decision.DENY)))
    about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
    with world.as_("custodian").begin() as session:
        append(session, AuditEvent.TICKET_ISSUED, actor="custodian", ticket=terms.id, detail={"faces": 1}, **about)
    return AuditEvent.TICKET_ISSUED


def twin(world: World) -> AuditEvent:
    """pia's passkey is patty's too, its point written short: she approves twice."""
    join(world, "pia", "approver", passkey=AUTHENTICATOR.passkey)
    again = Passkey("cGF0dHk", spelt(AUTHENTICATOR.key.public_key(), compressed=True))
    keys = {"ed25519": "07" * 32, "x25519": "08" * 32, "passkeys": [{"id": again.id, "public": again.public.hex()}]}
    with world.as_("gateway").begin() as session:
        detail = {"tenant": "acme", "roles": ["approver"]} | keys
        append(session, AuditEvent.PERSON_ADDED, actor="root", subject="patty", detail=detail)
    terms = world.request((0, 0))
    message = decision_message(Decision.APPROVE, terms.sha256())
    for who, credential in (("pia", AUTHENTICATOR.passkey.id), ("patty", again.id)):
        assertion, signature = AUTHENTICATOR.sign(message, credential=credential)
        said = {"signature": signature.hex(), "assertion": assertion.as_json()}
        tell(world, AuditEvent.REQUEST_APPROVED, terms, who, said)
    return AuditEvent.PERSON_ADDED


def nobodys(**keys: Any) -> Callable[[World], AuditEvent]:
    """A decision of patty's, good in itself, who was added with another key besides: one that needs no secret."""

    def write(world: World) -> AuditEvent:
        member = Member("patty", ("approver",))
        mine = {"id": AUTHENTICATOR.passkey.id, "public": AUTHENTICATOR.passkey.public.hex()}
        good = {"ed25519": member.on_roster().ed25519_public.hex(), "x25519": "08" * 32, "passkeys": [mine]}
        with world.as_("gateway").begin() as session:
            detail = {"tenant": "acme", "roles": ["approver"]} | good | keys
            append(session, AuditEvent.PERSON_ADDED, actor="root", subject="patty", detail=detail)
        terms = world.request((0, 0))
        if "ed25519" in keys:
            assertion, signature = AUTHENTICATOR.sign(decision_message(Decision.APPROVE, terms.sha256()))
            said = {"signature": signature.hex(), "assertion": assertion.as_json()}
        else:
            said = {"signature": member.sign(terms).hex()}
        tell(world, AuditEvent.REQUEST_APPROVED, terms, "patty", said)
        return AuditEvent.PERSON_ADDED

    return write


def acknowledged(world: World) -> AuditEvent:
    """As if olga had looked into something about this release: bob's signature."""
    finding = hashlib.sha256(b"a finding").digest()
    signature = world.people["bob"].signing.sign(signed_message("acknowledge all-well", finding)).hex()
    about = {
        "release": world.release,
        "request_hash": finding,
        "detail": {"signature": signature, "reason": "all-well"},
    }
    with world.as_("gateway").begin() as session:
        append(session, AuditEvent.FINDING_ACKNOWLEDGED, actor="olga", **about)
    return AuditEvent.FINDING_ACKNOWLEDGED


NEUTRAL = (1).to_bytes(32, "little")
FORGERIES: dict[str, Callable[[World], AuditEvent]] = {
    "a passkey whose holder was not verified": forged_passkey({"flags": 0x01}),
    "a passkey's answer to something else": forged_passkey({"challenge": "x"}),
    "a passkey being made": forged_passkey({"type": "webauthn.create"}),
    "a passkey of nobody": forged_passkey({"credential": "b3RoZXI"}),
    "another conclusion of a review": forged_review("olga", "all well", "a scandal"),
    "a review by who decided": forged_review("ada", "all well", "all well"),
    "a ticket over a denial": over_a_denial,
    "an acknowledgement that another signed": acknowledged,
    "one passkey as two people": twin,
    "a key that needs no secret": nobodys(ed25519=NEUTRAL.hex()),
    "a passkey that needs no secret": nobodys(
        passkeys=[{"id": "x", "public": spelt(Ed25519PublicKey.from_public_bytes(NEUTRAL)).hex()}]
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_shows_in_the_evidence(world: World, anchors: Anchors, signer: HeadSigner, forgery: str) -> None:
    """All of it stands in the tree, and the head is the notary's: both checkers refuse it by what it says."""
    event = FORGERIES[forgery](world)
    new_notary(world.database, anchors, signer).anchor()
    data = pack(take(world, anchors, signer, About.RELEASE, world.release))
    assert not holds(data, signer.verifier)
    problems = check_bundle(data, signer.verifier).problems
    assert problems
    assert all(f": {event.value}: " in each for each in problems), problems


def test_a_shredding_that_the_custodian_did_not_sign_shows_in_the_evidence(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    shredding(world)
    with world.as_("custodian").begin() as session:
        detail = {"faces": [0, 1], "layout": True, "keys": 3, "tombstone": "0" * 64}
        about = {"release": world.release, "item": world.items[1]}
        append(session, AuditEvent.KEY_SHREDDED, actor="custodian", detail=detail, **about)
    new_notary(world.database, anchors, signer).anchor()
    data = pack(take(world, anchors, signer, About.RELEASE, world.release))
    assert holds(data, signer.verifier), "nobody asked who wrote it"
    assert not holds(data, signer.verifier, world.custodian_keys())
    (problem,) = check_bundle(data, signer.verifier, world.custodian_keys()).problems
    assert problem.endswith("key:shredded: the custodian did not sign it")
