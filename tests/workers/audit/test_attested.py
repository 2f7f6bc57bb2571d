"""The custodian's signature on its own events: what is written in its name without its key file is found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, text

from schemas.audit import AuditEvent
from schemas.requests import TicketTerms
from schemas.tables import Recovery, Ticket
from tests.governance import World
from tests.workers.audit.harness import as_superuser, disarm, fetched, rearm, verified, write
from workers.audit import append
from workers.audit.attested import MARK, EventSigner, attesting
from workers.audit.errors import AuditFieldError
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.verify import Problem, Verification
from workers.custody.holds import Portion
from workers.custody.shredding import Because, Reason, shred


def checked(world: World, anchors: Anchors, signer: HeadSigner) -> Verification:
    return verified(world.database, anchors, signer, custodian=world.custodian_keys())


def words(result: Verification) -> list[str]:
    assert {each.problem for each in result.findings} <= {Problem.CUSTODIAN}, result.findings
    return [each.words for each in result.findings]


def test_every_event_of_a_custodian_is_signed(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    fetched(world)
    custodian = world.custodian()
    custodian.open(uuid4())
    portion = Portion(world.items[1], world.release, None)
    world.ledger.record_shredded([portion])
    shred(custodian, portion, Because(Reason.ORDER))
    result = checked(world, anchors, signer)
    own = [each for each in world.events(marks=True) if each["role"] == "refacex_custodian"]
    assert (words(result), result.notes, result.attested) == ([], [], 2 + len(own)), "two are of the custodian's start"
    assert {each["event"] for each in own} >= {"ticket:issued", "ticket:spent", "ticket:refused", "key:shredded"}
    assert len({each["fields"]["detail"][MARK]["nonce"] for each in own}) == len(own)


def test_a_key_destroyed_with_an_invented_shredding_beside_it_is_found(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """Rows and trail agree, and the notary would sign it: only the custodian's word is missing."""
    fetched(world)
    item = world.items[0]
    gone = "UPDATE sealed_keys SET wrapped = NULL, state = 'shredded'"
    as_superuser(world, f"{gone} WHERE item_id = '{item}' AND face = 1")
    about = {"actor": "custodian", "release": str(world.release), "item": str(item), "subject": str(world.subject)}
    detail = {"reason": "order", "faces": [1], "layout": False, "keys": 1, "tombstone": "0" * 64}
    write(world, "key:shredded", about | {"detail": detail})
    assert verified(world.database, anchors, signer).findings == []
    assert words(checked(world, anchors, signer)) == ["key:shredded: the custodian did not sign it"]


def test_a_stolen_custodian_role_without_its_key_file_issues_no_ticket(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """It writes the rows and the events of an approved request as the custodian would, and signs with a key of its own."""
    fetched(world)
    terms = world.approved((0, 0))
    now = datetime.now(UTC)
    ticket = TicketTerms(
        uuid4(),
        terms.id,
        terms.sha256(),
        uuid4(),
        terms.release,
        terms.faces,
        terms.purpose,
        "",
        "",
        now,
        terms.expires_at,
    )
    with world.as_("custodian").begin() as session:
        row = {"canonical": ticket.canonical(), "signature": bytes(64), "expires_at": now + timedelta(hours=1)}
        session.execute(insert(Ticket).values(id=ticket.id, request_id=terms.id, **row))
        session.execute(text("UPDATE tickets SET spent_at = clock_timestamp() WHERE spent_at IS NULL"))
        bound = {
            "id": ticket.recovery,
            "ticket_id": ticket.id,
            "key_bundle": b"x",
            "expires_at": now + timedelta(hours=1),
        }
        session.execute(insert(Recovery).values(bound))
        session.execute(text("UPDATE recovery_requests SET state = 'recovering' WHERE state = 'approved'"))
    about: dict[str, Any] = {"request": terms.id, "ticket": ticket.id, "request_hash": terms.sha256()}
    with attesting(world.as_("custodian"), EventSigner(bytes(32))).begin() as session:
        append(session, AuditEvent.TICKET_ISSUED, actor="custodian", **about)
    with world.as_("custodian").begin() as session:
        append(session, AuditEvent.TICKET_SPENT, actor="custodian", recovery=ticket.recovery, **about)
    assert verified(world.database, anchors, signer).findings == []
    assert [each.words for each in checked(world, anchors, signer).findings] == [
        "its signature is not the custodian's",
        "ticket:issued: it is signed with a key that is not the custodian's",
        "ticket:spent: the custodian did not sign it",
    ]


def test_a_signature_that_stands_twice_or_with_other_fields_is_found(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    """A refusal may come again and again, so only the custodian's signature tells a copy."""
    custodian, nobody = world.custodian(), uuid4()
    custodian.open(nobody)
    custodian.open(nobody)
    assert words(checked(world, anchors, signer)) == []
    (refused, _) = (each["fields"] for each in world.events(marks=True) if each["event"] == "ticket:refused")
    write(world, "ticket:refused", refused)
    louder = refused["detail"][MARK] | {"signature": refused["detail"][MARK]["signature"].upper()}
    write(world, "ticket:refused", refused | {"detail": refused["detail"] | {MARK: louder}})
    write(world, "ticket:refused", refused | {"request": str(uuid4())})
    write(world, "message:refused", refused)
    write(world, "message:refused", refused, role="refacex_release")  # no event of the custodian's, whatever it holds
    assert [each.split(": ", 1)[1] for each in words(checked(world, anchors, signer))] == [
        *["the custodian signed it once, and it stands in the trail again"] * 2,
        *["the signature is not the custodian's over these fields"] * 2,
    ]


@pytest.mark.parametrize(
    "detail", ["x", {MARK: 1}, {MARK: {}}, {MARK: {"signature": "zz"}}, {MARK: {"key": ["x"], "signature": "00"}}]
)
def test_what_is_no_signature_is_told_and_stops_nothing(
    world: World, anchors: Anchors, signer: HeadSigner, detail: Any
) -> None:
    world.custodian().open(uuid4())
    write(world, "ticket:refused", {"actor": "custodian", "detail": detail})
    (found,) = [each for each in checked(world, anchors, signer).findings if each.problem is Problem.CUSTODIAN]
    assert "custodian" in found.words


def test_events_of_before_its_signatures_are_a_note_and_none_after(
    world: World, anchors: Anchors, signer: HeadSigner
) -> None:
    world.owner(  # a trail of before this: without what the custodian told at its start
        disarm(),
        "DELETE FROM audit.events WHERE event = 'pinned:changed'",
        rearm(),
        "UPDATE audit.tail SET size = (SELECT count(*) FROM audit.events)",
    )

    def unsigned() -> None:
        with world.as_("custodian").begin() as session:
            append(session, AuditEvent.TICKET_REFUSED, actor="custodian", request=uuid4(), detail={"refusal": "x"})

    unsigned()
    result = checked(world, anchors, signer)
    assert (words(result), result.attested) == ([], 0)
    assert "before the custodian signed its events: 1 event of its own" in result.notes[0]
    world.custodian().open(uuid4())
    unsigned()
    assert words(checked(world, anchors, signer)) == ["ticket:refused: the custodian did not sign it"]


def test_text_that_cannot_be_signed_is_refused_before_anything_is_written(world: World) -> None:
    before = world.events()
    with pytest.raises(AuditFieldError), world.custodian().sessions.begin() as session:
        append(session, AuditEvent.MESSAGE_REFUSED, actor="custodian", detail={"task": "\ud800"})
    assert world.events() == before
