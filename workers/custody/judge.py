"""Whether a request may be opened: read from the database, judged by what lies outside it.

Nothing here trusts a row for what it says about people: the terms are put together again from the rows, and every
approval's signature over them is checked against the roster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from schemas.policies import Policy
from schemas.requests import FaceRef, RequestTerms, decision_message, request_message
from schemas.states import Decision, RequestState, Urgency
from schemas.submissions import SubmissionTerms, submission_message
from schemas.tables import Approval, RecoveryRequest, Release, RequestFace
from workers.custody.errors import TicketRefused
from workers.custody.passkeys import Assertion, RelyingParty, fault
from workers.custody.policies import PolicyBook
from workers.custody.publickeys import usable_ed25519
from workers.custody.roster import APPROVER, REQUESTER, SUBMITTER, Roster, RosterPerson

LONGEST_LIFE = timedelta(days=90)  # of a request


class Refusal(StrEnum):
    """Why there is no ticket. The words stand in the audit trail."""

    UNKNOWN = "request_unknown"
    NOT_APPROVED = "not_approved"
    EXPIRED = "request_expired"
    SPENT = "ticket_spent"
    CHANGED = "request_changed"
    REQUESTER = "requester_not_on_roster"
    UNSIGNED = "request_not_signed_by_requester"
    RECIPIENT = "recipient_not_the_requesters_key"
    FORGED = "signature_does_not_verify"
    APPROVER = "approver_not_on_roster"
    OWN_REQUEST = "approved_by_requester"
    SUBMITTER = "approved_by_submitter"
    SUBMISSION = "submission_not_signed_by_submitter"
    NAMES = "names_changed"
    DENIED = "denied"
    QUORUM = "quorum_not_reached"
    POLICY = "policy_unknown"
    PURPOSE = "purpose_not_allowed"
    TOO_MANY = "too_many_items"
    HOURS = "outside_allowed_hours"
    GLASS = "glass_cannot_be_broken"
    REVIEW = "review_still_open"
    LIFE = "open_for_too_long"
    ITEM = "item_not_released"
    TICKET = "ticket_not_of_this_request"
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
    """A request as the database has it. `now` is the database's clock. `items`: the names of the whole release's, in their order;
    `named`: whether they are those that the trail vouches for.
    """

    request: RecoveryRequest
    release: Release
    faces: Sequence[RequestFace]
    approvals: Sequence[Approval]
    now: datetime
    items: Mapping[UUID, str]
    named: bool


def terms_of(request: RecoveryRequest, faces: Sequence[RequestFace], items: Mapping[UUID, str]) -> RequestTerms:
    """The terms put together from the rows, whatever `canonical` says; `items`: the names that they have now."""
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
        policy=request.policy,
        urgency=request.urgency,
        quorum=request.quorum,
        faces=tuple(FaceRef(each.item_id, each.face) for each in faces),
        created_at=request.created_at,
        expires_at=request.expires_at,
        names={each.item_id: items.get(each.item_id, "") for each in faces} if request.signs_names else None,
    )


def submission_of(release: Release, items: Mapping[UUID, str]) -> SubmissionTerms:
    """What was submitted, put together from the rows; `items`: their names, in their order."""
    names, who = list(items.values()), release.submitted_by
    return SubmissionTerms(release.id, release.tenant, release.policy_name, who, list(items), names, release.names_salt)


def judge(case: Case, roster: Roster, policies: PolicyBook) -> tuple[RequestTerms, Policy]:
    """The terms and the policy that they meet, if every rule holds. Raises Refused."""
    request = case.request
    if request.state is not RequestState.APPROVED:
        raise Refused(Refusal.NOT_APPROVED)
    if request.expires_at <= case.now:
        raise Refused(Refusal.EXPIRED)
    terms = terms_of(request, case.faces, case.items)
    if not terms.faces or terms.canonical() != bytes(request.canonical):
        raise Refused(Refusal.CHANGED)
    _judge_requester(request, terms, roster)
    policy = policies.find(case.release.tenant, case.release.policy_name)
    if policy is None or (terms.tenant, terms.policy) != (policy.tenant, policy.name):
        raise Refused(Refusal.POLICY)
    _judge_by_policy(terms, policy, roster)
    if policy.signed_submissions:
        _judge_submission(case, roster)
    if not case.named or (terms.names is None and case.release.names_salt is not None):
        raise Refused(Refusal.NAMES)
    for approval in case.approvals:
        _judge_approval(approval, terms, roster)
        if approval.approver == case.release.submitted_by and not policy.submitter_may_approve:
            raise Refused(Refusal.SUBMITTER)
    if len({each.approver for each in case.approvals}) < terms.quorum:
        raise Refused(Refusal.QUORUM)
    if policy.hours is not None and terms.urgency is Urgency.NORMAL and not policy.hours.include(case.now):
        raise Refused(Refusal.HOURS)  # the last question: whoever waits for the hour has met all the others
    return terms, policy


def _judge_requester(request: RecoveryRequest, terms: RequestTerms, roster: Roster) -> None:
    requester = roster.find(terms.requester, terms.tenant, REQUESTER)
    if requester is None:
        raise Refused(Refusal.REQUESTER)
    if requester.x25519_public != terms.recipient_public:
        raise Refused(Refusal.RECIPIENT)
    if not verifies(requester.ed25519_public, bytes(request.signature or b""), request_message(terms.sha256())):
        raise Refused(Refusal.UNSIGNED)


def _judge_submission(case: Case, roster: Roster) -> None:
    """Whoever the row names as submitter signed just this release: else who submitted could hide behind another's name."""
    release = case.release
    submitter = roster.find(release.submitted_by, release.tenant, SUBMITTER)
    message = submission_message(submission_of(release, case.items))
    if submitter is None or not verifies(submitter.ed25519_public, bytes(release.signature or b""), message):
        raise Refused(Refusal.SUBMISSION)


def _judge_by_policy(terms: RequestTerms, policy: Policy, roster: Roster) -> None:
    if policy.purposes and terms.purpose not in policy.purposes:
        raise Refused(Refusal.PURPOSE)
    if len({each.item for each in terms.faces}) > policy.max_items:
        raise Refused(Refusal.TOO_MANY)
    if terms.expires_at - terms.created_at > LONGEST_LIFE:
        raise Refused(Refusal.LIFE)
    # A request that asks for too few is refused however many approved it: who signed it signed too low a bar.
    if terms.urgency is Urgency.BREAK_GLASS:
        if policy.break_glass_quorum == 0:
            raise Refused(Refusal.GLASS)
        least = policy.break_glass_quorum
    else:
        least = max(policy.quorum, roster.least_quorum)
    if terms.quorum < least:
        raise Refused(Refusal.QUORUM)


def _judge_approval(approval: Approval, terms: RequestTerms, roster: Roster) -> None:
    """One approval. A single bad one refuses the whole: somebody is at work who should not be."""
    if approval.decision is not Decision.APPROVE:
        raise Refused(Refusal.DENIED)
    if approval.approver == terms.requester:
        raise Refused(Refusal.OWN_REQUEST)
    approver = roster.find(approval.approver, terms.tenant, APPROVER)
    if approver is None:
        raise Refused(Refusal.APPROVER)
    signed = Signed(bytes(approval.signature), approval.assertion)
    if unsigned(approver, roster.relying_party, signed, decision_message(approval.decision, terms.sha256())):
        raise Refused(Refusal.FORGED)


@dataclass(frozen=True)
class Signed:
    """An approver's signature: by their key file, or, with an assertion, by a passkey."""

    signature: bytes
    assertion: Mapping[str, Any] | None = None


def unsigned(person: RosterPerson, party: RelyingParty | None, signed: Signed, message: bytes) -> str | None:
    """Why this is no signature of this person over this message, in words; None where it is, by key file or by passkey."""
    if signed.assertion is None:
        return None if verifies(person.ed25519_public, signed.signature, message) else "it is not by their key"
    if party is None:
        return "no console's passkeys count"
    try:
        assertion = Assertion.of(signed.assertion)
    except ValueError as error:
        return f"it is {error}"
    return fault(person.passkeys, assertion, signed.signature, message, party)


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this raw Ed25519 key signed this message; never where signing with it may need no secret."""
    if not usable_ed25519(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
