"""What people and the custodian sign keeps its bytes for ever: known answers, made once with a key of nobody's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.administration import PersonTerms, add_message, policy_message, remove_message
from schemas.orders import OrderTerms, order_message
from schemas.policies import Hours, Policy
from schemas.requests import (
    FaceRef,
    RequestTerms,
    TicketTerms,
    decision_message,
    fetch_message,
    request_message,
    review_message,
    withdraw_message,
)
from schemas.states import Decision, OrderKind, OrderScope, Urgency
from schemas.submissions import SubmissionTerms, subjects_sha256, submission_message

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
IDS = [UUID(int=number) for number in range(1, 9)]
FACES = (FaceRef(IDS[4], 1), FaceRef(IDS[4], 0), FaceRef(IDS[3], 7))

REQUEST = RequestTerms(
    id=IDS[0],
    tenant="acme",
    release=IDS[1],
    requester="alice",
    reason="Gericht fragt: wer ist's? ✓",
    legal_basis="GDPR Art. 6(1)(c)",
    case_reference="17",
    purpose="a witness",
    recipient_public=bytes(range(32)),
    policy="strict",
    urgency=Urgency.BREAK_GLASS,
    quorum=2,
    faces=FACES,
    created_at=AT,
    expires_at=AT + timedelta(days=7),
)
TICKET = TicketTerms(
    id=IDS[2],
    request=REQUEST.id,
    request_sha256=REQUEST.sha256(),
    recovery=IDS[5],
    release=REQUEST.release,
    faces=FACES,
    purpose=REQUEST.purpose,
    recipient="0123456789abcdef",
    worker="fedcba9876543210",
    issued_at=AT,
    expires_at=AT + timedelta(hours=1),
)
ORDER = OrderTerms(IDS[6], "acme", OrderKind.SHRED, OrderScope.FACE, IDS[4], 1, "erasure asked", "kim", AT)
POLICY = Policy("acme", "strict", 3, 1, purposes=("a witness",), hours=Hours("08:00", "18:00"), retain_days=30)
SUBMISSION = SubmissionTerms(REQUEST.release, "acme", "strict", "sid", (IDS[4], IDS[3]))
NAMED_SUBMISSION = replace(SUBMISSION, names=("b.jpg", "zoë.jpg"), salt=bytes(range(32)))
NAMED_REQUEST = replace(REQUEST, names={IDS[4]: "b.jpg", IDS[3]: "zoë.jpg"})
PERSON = PersonTerms(
    "zoë", "acme", ("submitter", "approver"), bytes(range(32)), bytes(32), (("cred_1", b"\x30\x2a"), ("a", b"\x00"))
)

CANONICAL = {
    "request": REQUEST,
    "ticket": TICKET,
    "order": ORDER,
    "policy": POLICY,
    "signed_submissions": Policy("acme", "strict", signed_submissions=True),
    "submission": SUBMISSION,
    "named_request": NAMED_REQUEST,
    "named_submission": NAMED_SUBMISSION,
    "person": PERSON,
}
MESSAGES = {
    "open": request_message(REQUEST.sha256()),
    "approve": decision_message(Decision.APPROVE, REQUEST.sha256()),
    "deny": decision_message(Decision.DENY, REQUEST.sha256()),
    "withdraw": withdraw_message(REQUEST.sha256()),
    "fetch": fetch_message(REQUEST.sha256(), TICKET.recovery),
    "review": review_message(REQUEST.sha256(), "in order"),
    "order": order_message(ORDER),
    "submit": submission_message(SUBMISSION),
    "add": add_message(PERSON.sha256()),
    "remove": remove_message(PERSON.sha256()),
    "set": policy_message(POLICY.sha256(), 7),
}


@pytest.mark.parametrize("name", CANONICAL)
def test_canonical_forms_keep_their_bytes(name: str) -> None:
    assert CANONICAL[name].canonical().decode() == VECTORS["canonical"][name]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", MESSAGES)
def test_signatures_are_over_these_bytes(name: str) -> None:
    assert MESSAGES[name].decode() == VECTORS["messages"][name]["message"]
    assert KEY.sign(MESSAGES[name]).hex() == VECTORS["messages"][name]["signature"]


def test_no_two_things_that_people_sign_are_alike() -> None:
    assert len(set(MESSAGES.values())) == len(MESSAGES)


def test_who_is_shown_is_said_by_ids_alone() -> None:
    shown = hashlib.sha256(IDS[4].bytes + IDS[0].bytes + IDS[3].bytes + bytes(16)).hexdigest()
    assert subjects_sha256([(IDS[4], IDS[0]), (IDS[3], None)]) == shown


def test_an_order_names_a_face_where_it_means_one() -> None:
    for scope, face in ((OrderScope.FACE, None), (OrderScope.FACE, -1), (OrderScope.ITEM, 0)):
        with pytest.raises(ValueError, match="face"):
            OrderTerms(IDS[6], "acme", OrderKind.HOLD, scope, IDS[4], face, "r", "kim", AT)


def test_a_policy_reads_as_it_was_written() -> None:
    assert Policy.of(json.loads(POLICY.canonical())) == POLICY
    assert Policy.of({"tenant": "acme"}) == Policy("acme")


@pytest.mark.parametrize(
    "wrong",
    [
        {"quorum": 0},
        {"break_glass_quorum": 3},
        {"max_items": 0},
        {"ticket_minutes": 0},
        {"retain_days": -1},
        {"purposes": [" "]},
        {"name": "No Name"},
        {"tenant": ""},
        {"quorum": "many"},
        {"quorum": 1.5},
        {"quorum": True},
        {"submitter_may_approve": "false"},
        {"purposes": [7]},
        {"approvals": 2},
        {"hours": {"start": "18:00", "end": "08:00"}},
        {"hours": {"start": "8", "end": "18:00"}},
        {"hours": {"start": "08:00", "end": "18:00", "days": [0]}},
        {"hours": {"start": "08:00", "end": "18:00", "time_zone": "Mars/Olympus"}},
        {"hours": {"from": "08:00"}},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Policy.of({"tenant": "acme"} | wrong)


def test_hours_are_local_and_end_before_their_end() -> None:
    hours = Hours("08:00", "18:00", days=(1,), time_zone="Europe/Berlin")
    monday = datetime(2026, 7, 6, 6, 0, tzinfo=UTC)  # 08:00 in Berlin, in summer
    assert [hours.include(monday + timedelta(minutes=m)) for m in (-1, 0, 599, 600)] == [False, True, True, False]
    assert not hours.include(monday + timedelta(days=1))
