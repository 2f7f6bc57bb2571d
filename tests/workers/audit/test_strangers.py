"""What a stolen role or the database's owner nests deeply, or writes as no id, is found or left out: nothing that reads it breaks."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from schemas.audit import AuditEvent
from schemas.tables import Approval, Ticket
from tests.governance import Member, World
from tests.workers.audit.harness import as_superuser, fetched, new_notary, verified, write_deep
from tests.workers.audit.test_evidence import holds, take
from tests.workers.custody.test_custodian import refused
from tests.workers.custody.test_passkeys import Authenticator, enrol
from workers.audit import append
from workers.audit.checking import check_bundle
from workers.audit.evidence import About, pack
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.receipts import receipt_for
from workers.audit.verify import Problem
from workers.custody.judge import Refusal
from workers.db import session_factory
from workers.strangers import DEEPEST, column_json, read_json

DEEP = base64.urlsafe_b64encode(b"[" * 5_000).rstrip(b"=").decode()
ASSERTIONS: dict[str, Any] = {
    "deep client data": {"credential": "cHJpdmF0ZQ", "authenticator_data": "AAAA", "client_data": DEEP},
    "long client data": {"credential": "cHJpdmF0ZQ", "authenticator_data": "AAAA", "client_data": "A" * 9_000},
    "long data": {"credential": "cHJpdmF0ZQ", "authenticator_data": "A" * 9_000, "client_data": "e30"},
    "a long credential": {"credential": "A" * 9_000, "authenticator_data": "AAAA", "client_data": "e30"},
    "no text": {"credential": ["x"], "authenticator_data": {"a": 1}, "client_data": 5},
}


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def answered(world: World, assertion: str) -> None:
    """Carol's approval is, from now on, by a passkey that answered this."""
    change = f"SET assertion = '{assertion}', method = 'webauthn', signature = sha256('x') || sha256('y')"
    as_superuser(world, f"UPDATE approvals {change} WHERE approver = 'carol'")


@pytest.mark.parametrize("levels", [DEEPEST, DEEPEST + 1, 900, 5_000, 200_000])
def test_what_is_nested_deeply_is_no_json(levels: int) -> None:
    for data in (nested(levels), nested(levels).encode(), '{"a":' * levels + "1" + "}" * levels):
        if levels <= DEEPEST:
            assert read_json(data)
            continue
        with pytest.raises(ValueError, match="deeply"):
            read_json(data)
        assert column_json(data) is None
    assert read_json("[" + nested(50) + ",[]" * 1_000 + "]"), "wide is not deep"


@pytest.mark.parametrize("said", ASSERTIONS)
def test_a_passkeys_answer_that_nobody_can_read_is_a_finding_and_a_refusal(
    world: World, anchors: Anchors, signer: HeadSigner, said: str
) -> None:
    """A stolen gateway writes it as an event and as an approval."""
    enrol(world, "carol", Authenticator().passkey)
    terms = world.approved((0, 0))
    der = Authenticator().passkey.public.hex()
    person = Member("pat", ("approver",)).on_roster()
    detail = {"tenant": "acme", "roles": ["approver"], "ed25519": person.ed25519_public.hex()}
    detail |= {"x25519": person.x25519_public.hex(), "passkeys": [{"id": "cHJpdmF0ZQ", "public": der}]}
    about: dict[str, Any] = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
    with world.as_("gateway").begin() as session:
        append(session, AuditEvent.PERSON_ADDED, actor="root", subject="pat", detail=detail)
        forged = {"signature": "00" * 64, "assertion": ASSERTIONS[said]}
        seq = append(session, AuditEvent.REQUEST_APPROVED, actor="pat", detail=forged, **about)
    found = verified(world.database, anchors, signer).findings
    assert [each for each in found if each.where == f"event {seq}" and each.problem is Problem.SIGNATURE], found
    answered(world, json.dumps(ASSERTIONS[said]))
    refused(world, terms.id, Refusal.FORGED)


def test_an_assertion_that_is_nested_deeply_is_refused(world: World) -> None:
    enrol(world, "carol", Authenticator().passkey)
    terms = world.approved((0, 0))
    answered(world, nested(3_000))
    refused(world, terms.id, Refusal.FORGED)


@pytest.mark.parametrize("levels", [DEEPEST, 800, 2_000])
def test_a_deep_event_is_a_finding_and_stands_in_no_evidence(
    world: World, anchors: Anchors, signer: HeadSigner, levels: int
) -> None:
    fetched(world)
    seq = write_deep(world, levels)
    new_notary(world.database, anchors, signer).anchor()
    found = verified(world.database, anchors, signer).findings
    assert [each.words for each in found if each.where == f"event {seq}"] == ["its bytes are no event: ValueError"]
    made = take(world, anchors, signer, About.RELEASE, world.release)
    assert (made.unreadable, made.left_out) == (1, 0)
    assert holds(pack(made), signer.verifier, world.custodian_keys())


#: What a stolen release worker writes of the release where ids belong.
NO_IDS: list[dict[str, Any]] = [
    {"request": 5},
    {"request": {"a": 1}},
    {"recovery": ["x"]},
    {"actor": {"a": 1}},
    {"item": [1], "actor": 7},
    {"request": None, "recovery": None},
]


@pytest.mark.parametrize("fields", NO_IDS)
def test_what_is_no_id_leaves_evidence_as_it_is(
    world: World, anchors: Anchors, signer: HeadSigner, fields: dict[str, Any]
) -> None:
    terms, _ = fetched(world)
    stolen(world, "release", AuditEvent.ITEM_CLAIMED, fields)
    new_notary(world.database, anchors, signer).anchor()
    ticket = world.one(select(Ticket.id))
    for about, wanted in ((About.RELEASE, world.release), (About.TICKET, ticket)):
        assert holds(pack(take(world, anchors, signer, about, wanted)), signer.verifier, world.custodian_keys())
    with world.as_("gateway")() as session:
        assert receipt_for(session, world.release, terms.id, "bob")


@pytest.mark.parametrize("detail", ["x", [1], 5])
def test_an_event_whose_detail_is_no_object_stands_in_no_evidence(
    world: World, anchors: Anchors, signer: HeadSigner, detail: Any
) -> None:
    fetched(world)
    stolen(world, "release", AuditEvent.ITEM_CLAIMED, {"detail": detail})
    new_notary(world.database, anchors, signer).anchor()
    made = take(world, anchors, signer, About.RELEASE, world.release)
    assert made.unreadable == 1
    assert holds(pack(made), signer.verifier, world.custodian_keys())


@pytest.mark.parametrize("fields", [{}, {"request": 5}, {"request": "x"}, {"release": "x"}, {"request": str(uuid4())}])
def test_a_ticket_issued_twice_is_for_the_checker(
    world: World, anchors: Anchors, signer: HeadSigner, fields: dict[str, Any]
) -> None:
    """Both stand in the evidence; the second one is nobody's whom the custodian's key knows."""
    terms, _ = fetched(world)
    ticket = world.one(select(Ticket.id))
    seq = stolen(
        world, "custodian", AuditEvent.TICKET_ISSUED, {"ticket": str(ticket), "request": str(terms.id)} | fields
    )
    new_notary(world.database, anchors, signer).anchor()
    data = pack(take(world, anchors, signer, About.TICKET, ticket))
    assert not holds(data, signer.verifier, world.custodian_keys())
    problems = check_bundle(data, signer.verifier, world.custodian_keys()).problems
    assert f"event {seq}: ticket:issued: the custodian did not sign it" in problems
    assert {each.split(":")[0] for each in problems} == {f"event {seq}"}, problems


def stolen(world: World, role: str, event: AuditEvent, fields: dict[str, Any]) -> int:
    """What a stolen role writes about the release."""
    said = json.dumps({"actor": "w", "release": str(world.release)} | fields)
    with world.as_(role).begin() as session:
        row = session.execute(text("SELECT audit.append(:event, CAST(:said AS jsonb))"), {"event": event, "said": said})
        return int(row.scalar_one())


def test_the_services_own_sessions_read_no_deep_column(world: World) -> None:
    world.approved((0, 0))
    answered(world, nested(3_000))
    factory = session_factory(world.database.url_for("custodian"))
    with factory() as session:
        assert set(session.execute(select(Approval.assertion)).scalars()) == {None}
    factory.kw["bind"].dispose()
