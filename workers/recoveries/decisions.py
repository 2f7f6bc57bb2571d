"""Decisions on recovery requests: approve and deny, each signed by somebody who neither asked nor, by the policy, submitted.

In the caller's transaction, the event last, as in `service`. What is checked here is checked again by the database's
constraints and, against the roster, by the custodian.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.messages import QUEUE_OF, Broker, TaskName, task_args
from schemas.requests import RequestTerms, decision_message
from schemas.states import Decision, RequestState
from schemas.tables import Approval, Outbox, RecoveryRequest, Release
from workers.custody.judge import Signed, unsigned
from workers.custody.passkeys import RelyingParty
from workers.custody.roster import APPROVER
from workers.recoveries import people
from workers.recoveries.errors import (
    AlreadyDecided,
    OwnRequest,
    PasskeyRefused,
    RequestChanged,
    SignatureInvalid,
    SubmitterMayNotApprove,
)
from workers.recoveries.people import acting
from workers.recoveries.policies import load_policy
from workers.recoveries.service import check_open, decidable, load_terms, record_event, set_state


def approve(
    session: Session, request_id: UUID, approver: str, signed: Signed, party: RelyingParty | None = None
) -> RequestState:
    """Records an approval, signed over `decision_message(Decision.APPROVE, sha256)`; gives the state that follows.

    By the approver's key file, or by a passkey of theirs that was made for `party`. The one that reaches the quorum puts the
    request before the custodian. Raises RequestUnknown, RequestClosed, RequestChanged, OwnRequest, SubmitterMayNotApprove,
    PersonUnknown, AlreadyDecided, SignatureInvalid, PasskeyRefused.
    """
    request = _decide(session, request_id, approver, Decision.APPROVE, signed, party)
    state = request.state
    approvals = session.execute(
        select(func.count())
        .select_from(Approval)
        .where(Approval.request_id == request_id, Approval.decision == Decision.APPROVE)
    ).scalar_one()
    if state is RequestState.OPEN and approvals >= request.quorum:
        state = RequestState.APPROVED
        set_state(session, request_id, state)
        queue = QUEUE_OF[TaskName.OPEN]
        message = {"broker": Broker.PRIVILEGED.value, "queue": queue.value, "task": TaskName.OPEN.value}
        session.execute(insert(Outbox).values(args=task_args(TaskName.OPEN, [request_id]), **message))
    counted = {"approvals": approvals, "quorum": request.quorum}
    record_event(session, AuditEvent.REQUEST_APPROVED, request, approver, **counted, **_told(signed))
    return state


def check_decider(session: Session, terms: RequestTerms, who: str, ed25519_public: bytes | None) -> None:
    """Whether a decision of theirs with this key (None: a passkey) could be recorded, before anybody is asked to make it.

    Raises RequestClosed, RequestChanged, OwnRequest, SubmitterMayNotApprove, PersonUnknown, AlreadyDecided, SignatureInvalid.
    """
    request = session.get_one(RecoveryRequest, terms.id)
    check_open(session, request)
    _check_unchanged(request, terms)
    if who == terms.requester:
        raise OwnRequest
    _check_submitter(session, terms, who)
    person = acting(session, who, terms.tenant, APPROVER)
    if session.get(Approval, (terms.id, who)) is not None:
        raise AlreadyDecided
    if ed25519_public is not None and ed25519_public != person.ed25519_public:
        raise SignatureInvalid


def deny(
    session: Session, request_id: UUID, approver: str, signed: Signed, party: RelyingParty | None = None
) -> RequestState:
    """Records a denial, signed over `decision_message(Decision.DENY, sha256)`; one closes the request. Raises as
    `approve`.
    """
    request = _decide(session, request_id, approver, Decision.DENY, signed, party)
    set_state(session, request_id, RequestState.DENIED)
    record_event(session, AuditEvent.REQUEST_DENIED, request, approver, **_told(signed))
    return RequestState.DENIED


def _check_unchanged(request: RecoveryRequest, terms: RequestTerms) -> None:
    """What is shown, and would be signed, is what was asked."""
    if terms.sha256() != bytes(request.canonical_sha256):
        raise RequestChanged


def _check_submitter(session: Session, terms: RequestTerms, who: str) -> None:
    if load_policy(session, terms.tenant, terms.policy).submitter_may_approve:
        return
    if session.get_one(Release, terms.release).submitted_by == who:
        raise SubmitterMayNotApprove


def _decide(
    session: Session, request_id: UUID, approver: str, decision: Decision, signed: Signed, party: RelyingParty | None
) -> RecoveryRequest:
    request = decidable(session, request_id)
    if approver == request.requester:
        raise OwnRequest
    person = acting(session, approver, request.tenant, APPROVER)
    if session.get(Approval, (request_id, approver)) is not None:
        raise AlreadyDecided
    terms = load_terms(session, request_id)
    _check_unchanged(request, terms)
    _check_submitter(session, terms, approver)
    if why := unsigned(people.as_on_roster(person), party, signed, decision_message(decision, terms.sha256())):
        raise SignatureInvalid if signed.assertion is None else PasskeyRefused(why)
    session.add(
        Approval(
            request_id=request_id,
            approver=approver,
            requester=request.requester,
            decision=decision,
            signature=signed.signature,
            method="ed25519" if signed.assertion is None else "webauthn",
            assertion=signed.assertion,
        )
    )
    session.flush()
    return request


def _told(signed: Signed) -> dict[str, Any]:
    """What the trail keeps of a signature: all that is needed to check it."""
    told: dict[str, Any] = {"signature": signed.signature.hex()}
    return told | ({"assertion": dict(signed.assertion)} if signed.assertion is not None else {})
