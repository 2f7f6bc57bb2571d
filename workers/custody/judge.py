"""Whether a request may be opened: read from the database, judged by what lies outside it.

Nothing here trusts a row for what it says about people: the terms are put together again from the rows, and every
approval's signature over them is checked against the roster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from schemas.requests import FaceRef, RequestTerms, decision_message
from schemas.states import Decision, RequestState
from schemas.tables import Approval, RecoveryRequest, RequestFace
from workers.custody.errors import TicketRefused
from workers.custody.roster import APPROVER, REQUESTER, Roster


class Refusal(StrEnum):
    """Why there is no ticket. The words stand in the audit trail."""

    UNKNOWN = "request_unknown"
    NOT_APPROVED = "not_approved"
    EXPIRED = "request_expired"
    SPENT = "ticket_spent"
    CHANGED = "request_changed"
    REQUESTER = "requester_not_on_roster"
    RECIPIENT = "recipient_not_the_requesters_key"
    FORGED = "signature_does_not_verify"
    APPROVER = "approver_not_on_roster"
    OWN_REQUEST = "approved_by_requester"
    DENIED = "denied"
    QUORUM = "quorum_not_reached"
    ITEM = "item_not_released"
    KEY_MISSING = "key_missing"
    KEY_SHREDDED = "key_shredded"
    KEY_FOREIGN = "key_does_not_open"


class Refused(TicketRefused):
    """The custodian made no ticket."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@dataclass(frozen=True)
class Case:
    """A request as the database has it. `now` is the database's clock."""

    request: RecoveryRequest
    faces: Sequence[RequestFace]
    approvals: Sequence[Approval]
    now: datetime


def terms_of(request: RecoveryRequest, faces: Sequence[RequestFace]) -> RequestTerms:
    """The terms put together from the rows, whatever `canonical` says."""
    return RequestTerms(
        id=request.id,
        tenant=request.tenant,
        release=request.release_id,
        requester=request.requester,
        reason=request.reason,
        legal_basis=request.legal_basis,
        case_reference=request.case_reference,
        purpose=request.purpose,
        recipient_public=bytes(request.recipient_public),
        quorum=request.quorum,
        faces=tuple(FaceRef(each.item_id, each.face) for each in faces),
        created_at=request.created_at,
        expires_at=request.expires_at,
    )


def judge(case: Case, roster: Roster) -> RequestTerms:
    """The terms, if every rule holds. Raises Refused."""
    request = case.request
    if request.state is not RequestState.APPROVED:
        raise Refused(Refusal.NOT_APPROVED)
    if request.expires_at <= case.now:
        raise Refused(Refusal.EXPIRED)
    terms = terms_of(request, case.faces)
    if not terms.faces or terms.canonical() != bytes(request.canonical):
        raise Refused(Refusal.CHANGED)
    requester = roster.find(request.requester, request.tenant, REQUESTER)
    if requester is None:
        raise Refused(Refusal.REQUESTER)
    if requester.x25519_public != terms.recipient_public:
        raise Refused(Refusal.RECIPIENT)
    for approval in case.approvals:
        _judge_approval(approval, terms, roster)
    # A request that asks for too few is refused however many approved it: who signed it signed too low a bar.
    if terms.quorum < roster.least_quorum or len({each.approver for each in case.approvals}) < terms.quorum:
        raise Refused(Refusal.QUORUM)
    return terms


def _judge_approval(approval: Approval, terms: RequestTerms, roster: Roster) -> None:
    """One approval. A single bad one refuses the whole: somebody is at work who should not be."""
    if approval.decision is not Decision.APPROVE:
        raise Refused(Refusal.DENIED)
    if approval.approver == terms.requester:
        raise Refused(Refusal.OWN_REQUEST)
    approver = roster.find(approval.approver, terms.tenant, APPROVER)
    if approver is None:
        raise Refused(Refusal.APPROVER)
    if not signature_verifies(approver.ed25519_public, bytes(approval.signature), approval.decision, terms.canonical()):
        raise Refused(Refusal.FORGED)


def signature_verifies(public: bytes, signature: bytes, decision: Decision, canonical: bytes) -> bool:
    """Whether this raw Ed25519 key signed this decision over these terms."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, decision_message(decision, canonical))
    except (InvalidSignature, ValueError):
        return False
    return True
