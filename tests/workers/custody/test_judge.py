"""The judge by itself: of whatever was signed, no byte may be another one. Nothing is in a database here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.policies import Policy
from schemas.requests import FaceRef, RequestTerms, request_message
from schemas.states import Decision, RequestState, Urgency
from schemas.tables import Approval, RecoveryRequest, Release, RequestFace
from tests.governance import POLICY, Member
from workers.custody.judge import LONGEST_LIFE, Case, Refusal, Refused, judge
from workers.custody.policies import PolicyBook
from workers.custody.roster import Roster

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
PEOPLE = {who: Member(who, ("requester", "approver")) for who in ("alice", "bob", "carol")}
ROSTER = Roster({who: member.on_roster() for who, member in PEOPLE.items()}, least_quorum=2)
POLICIES = PolicyBook({("acme", POLICY): Policy("acme", POLICY)})

faces = st.builds(FaceRef, st.uuids(), st.integers(0, 40))
unnamed = st.builds(
    RequestTerms,
    id=st.uuids(),
    tenant=st.just("acme"),
    release=st.uuids(),
    requester=st.just("alice"),
    reason=st.text(),
    legal_basis=st.text(),
    case_reference=st.text(),
    purpose=st.text(),
    recipient_public=st.just(PEOPLE["alice"].on_roster().x25519_public),
    policy=st.just(POLICY),
    urgency=st.just(Urgency.NORMAL),
    quorum=st.just(2),
    faces=st.lists(faces, min_size=1, max_size=5, unique=True).map(tuple),
    created_at=st.just(NOW - timedelta(minutes=1)),
    expires_at=st.timedeltas(timedelta(seconds=1), LONGEST_LIFE - timedelta(minutes=1)).map(lambda life: NOW + life),
)
requests = st.tuples(unnamed, st.text(), st.booleans()).map(
    lambda given: replace(given[0], names={each.item: given[1] for each in given[0].faces} if given[2] else None)
)
any_byte = st.tuples(st.integers(0), st.integers(1, 255))
checked = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def case_of(terms: RequestTerms) -> Case:
    """What the database says of a request that alice signed and bob and carol approved."""
    columns = {name: value for name, value in vars(terms).items() if name not in ("release", "faces", "names")}
    signature = PEOPLE["alice"].signing.sign(request_message(terms.sha256()))
    request = RecoveryRequest(
        **columns,
        release_id=terms.release,
        signs_names=terms.names is not None,
        canonical=terms.canonical(),
        signature=signature,
        state=RequestState.APPROVED,
    )
    approvals = [
        Approval(approver=who, decision=Decision.APPROVE, signature=PEOPLE[who].sign(terms)) for who in ("bob", "carol")
    ]
    rows = [RequestFace(item_id=each.item, face=each.face) for each in terms.faces]
    release = Release(id=terms.release, tenant="acme", submitted_by="sam", policy={"name": POLICY})
    return Case(request, release, rows, approvals, NOW, terms.names or {}, named=True)


def changed(data: bytes, change: tuple[int, int]) -> bytes:
    place, bits = change[0] % len(data), change[1]
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def refusal_of(case: Case) -> Refusal | None:
    try:
        judge(case, ROSTER, POLICIES)
    except Refused as refused:
        return refused.refusal
    return None


@checked
@given(requests)
def test_what_was_signed_is_what_is_judged(terms: RequestTerms) -> None:
    assert judge(case_of(terms), ROSTER, POLICIES) == (terms, Policy("acme", POLICY))


@checked
@given(requests, any_byte)
def test_no_byte_of_the_canonical_request_may_change(terms: RequestTerms, change: tuple[int, int]) -> None:
    case = case_of(terms)
    case.request.canonical = changed(case.request.canonical, change)
    assert refusal_of(case) is Refusal.CHANGED


@checked
@given(requests, any_byte, st.sampled_from(["alice", "bob", "carol"]))
def test_no_byte_of_any_signature_may_change(terms: RequestTerms, change: tuple[int, int], who: str) -> None:
    case = case_of(terms)
    signed: Any = next((each for each in case.approvals if each.approver == who), case.request)
    signed.signature = changed(signed.signature, change)
    assert refusal_of(case) is (Refusal.UNSIGNED if who == "alice" else Refusal.FORGED)


def others(terms: RequestTerms) -> Iterator[RequestTerms]:
    """The same request with one thing another."""
    another = UUID(int=terms.id.int ^ 1)
    yield replace(terms, id=another)
    yield replace(terms, release=another)
    for text in ("reason", "legal_basis", "case_reference", "purpose"):
        yield replace(terms, **{text: getattr(terms, text) + "."})
    yield replace(terms, quorum=terms.quorum + 1)
    if terms.names:
        yield replace(terms, names=terms.names | {terms.faces[0].item: "another.jpg"})
        yield replace(terms, names=None)
    more = None if terms.names is None else terms.names | {another: "another.jpg"}
    yield replace(terms, faces=(*terms.faces, FaceRef(another, 41)), names=more)
    yield replace(terms, faces=(replace(terms.faces[0], face=41), *terms.faces[1:]))
    yield replace(terms, created_at=terms.created_at + timedelta(microseconds=1))
    yield replace(terms, expires_at=terms.expires_at + timedelta(microseconds=1))


@settings(checked, max_examples=40)
@given(requests)
def test_signatures_of_one_request_do_not_serve_another(terms: RequestTerms) -> None:
    """Rows and canonical form agree, be it that alice helps and signs the other one."""
    signed = case_of(terms)
    for other in others(terms):
        case = case_of(other)
        case = replace(case, approvals=signed.approvals)
        assert refusal_of(case) is Refusal.FORGED
        case.request.signature = signed.request.signature
        assert refusal_of(case) is Refusal.UNSIGNED
