"""A denial that the owner takes out of the trail before any head covers it: its receipt tells."""

# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import pytest
from sqlalchemy import select

from schemas.audit_tables import AuditTail
from schemas.states import Decision
from tests.governance import World, sessions
from tests.workers.audit.harness import as_owner, disarm, new_notary, rearm, verified
from workers.audit.errors import NotInTrail, ReceiptInvalid
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.receipts import Receipt, check_receipts, receipt_for
from workers.audit.verify import Problem, Verification
from workers.custody.judge import Signed
from workers.recoveries import decisions


def checked(world: World, *receipts: Receipt) -> list[str]:
    result = Verification()
    with sessions(world.database.url_for("gateway"))() as session:
        check_receipts(session, receipts, result)
    assert all(each.problem is Problem.RECEIPT for each in result.findings)
    return [f"{each.where}: {each.words}" for each in result.findings]


@pytest.mark.parametrize("more", [0, 1])
def test_a_denial_that_was_taken_away_is_seen_by_who_gave_it(
    world: World, anchors: Anchors, signer: HeadSigner, more: int
) -> None:
    """Everything else about the trail holds; `more`: whether other events have come in its place."""
    terms = world.request((0, 0))
    new_notary(world.database, anchors, signer).anchor()
    with world.as_("gateway").begin() as session:
        decisions.deny(session, terms.id, "carol", Signed(world.people["carol"].sign(terms, Decision.DENY)))
        receipt = receipt_for(session, terms.release, terms.id, "carol")
    assert checked(world, receipt, Receipt.of(str(receipt))) == []
    size = world.one(select(AuditTail.size))
    assert receipt.seq == size - 1
    as_owner(
        world.database,
        disarm(),
        f"DELETE FROM audit.events WHERE seq = {receipt.seq}",
        rearm(),
        f"UPDATE audit.tail SET size = {receipt.seq}",
        "ALTER TABLE approvals DISABLE TRIGGER USER",
        "DELETE FROM approvals",
        "ALTER TABLE approvals ENABLE TRIGGER USER",
        "ALTER TABLE recovery_requests DISABLE TRIGGER USER",
        "UPDATE recovery_requests SET state = 'open'",
        "ALTER TABLE recovery_requests ENABLE TRIGGER USER",
    )
    if more:
        world.approve(terms, "bob", "dave")
    new_notary(world.database, anchors, signer).anchor()
    assert verified(world.database, anchors, signer).findings == []
    what = "another event stands there" if more else "it is not there"
    assert checked(world, receipt) == [f"event {receipt.seq}: a receipt was given for it, and {what}"]


def test_a_receipt_is_for_the_newest_deed_of_just_this_person(world: World) -> None:
    terms = world.request((0, 0))
    world.approve(terms, "bob", "carol")
    with world.as_("gateway")() as session:
        bob, carol = (receipt_for(session, terms.release, terms.id, who) for who in ("bob", "carol"))
        assert bob.seq + 1 == carol.seq
        with pytest.raises(NotInTrail):
            receipt_for(session, terms.release, terms.id, "dave")


@pytest.mark.parametrize("wrong", ["", "12", "12:", "x:" + "0" * 64, "12:" + "0" * 63, "12:" + "g" * 64])
def test_what_is_no_receipt_is_said_to_be_none(wrong: str) -> None:
    with pytest.raises(ReceiptInvalid):
        Receipt.of(wrong)
