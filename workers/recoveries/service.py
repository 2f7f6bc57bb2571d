"""Recovery requests as the gateway sees them: open, decide, withdraw, fetch once.

Each function works in the caller's transaction and appends its event last: commit soon after. What is checked here
is checked again by the database's constraints and, against the roster, by the custodian; here it is checked so that
people learn early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session, undefer

from schemas.audit import AuditEvent
from schemas.messages import QUEUE_OF, Broker, TaskName, task_args
from schemas.requests import FaceRef, RequestTerms
from schemas.states import Decision, ItemState, RecoveryState, RequestState
from schemas.tables import (
    Approval,
    Item,
    Outbox,
    Person,
    RecoveredFace,
    Recovery,
    RecoveryRequest,
    Release,
    RequestFace,
    Ticket,
)
from workers.audit import append
from workers.custody.judge import signature_verifies, terms_of
from workers.custody.roster import APPROVER, REQUESTER
from workers.recoveries.errors import (
    AlreadyDecided,
    FaceNotReleased,
    NothingToFetch,
    NotTheRequester,
    OwnRequest,
    PersonUnknown,
    QuorumTooSmall,
    RequestClosed,
    RequestIncomplete,
    RequestUnknown,
    SignatureInvalid,
)

REQUEST_LIFE = timedelta(days=7)
DEFAULT_QUORUM = 2
_DECIDABLE = (RequestState.OPEN, RequestState.APPROVED)


@dataclass(frozen=True)
class Grounds:
    """Why faces are wanted back. Free text; it stands in the request and never in the audit trail."""

    reason: str
    legal_basis: str
    case_reference: str
    purpose: str

    def complete(self) -> bool:
        """Whether nothing is left empty."""
        return all(text.strip() for text in (self.reason, self.legal_basis, self.case_reference, self.purpose))


@dataclass(frozen=True)
class SealedFace:
    """A recovered face, sealed to the requester; opens with `schemas.requests.face_info(recovery, item, face)`."""

    recovery: UUID
    item: UUID
    face: int
    sealed: bytes = field(repr=False)


def open_request(
    session: Session,
    *,
    release_id: UUID,
    requester: str,
    grounds: Grounds,
    faces: Sequence[FaceRef],
    quorum: int | None = None,
    life: timedelta = REQUEST_LIFE,
) -> RequestTerms:
    """Opens a request for these faces of one release, to be sealed to the requester's own key; gives its terms.

    `quorum` None means what the release's policy says (`policy["quorum"]`, 2 where it says nothing). Raises
    PersonUnknown, RequestIncomplete, FaceNotReleased, QuorumTooSmall.
    """
    release = session.get(Release, release_id)
    if release is None:
        raise FaceNotReleased
    person = _person(session, requester, release.tenant, REQUESTER)
    if not grounds.complete() or not faces:
        raise RequestIncomplete
    least = int(release.policy.get("quorum", DEFAULT_QUORUM))
    if (quorum if quorum is not None else least) < max(1, least):
        raise QuorumTooSmall(f"{least} are needed")
    _check_faces(session, release_id, faces)
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    terms = RequestTerms(
        id=uuid4(),
        tenant=release.tenant,
        release=release_id,
        requester=requester,
        reason=grounds.reason,
        legal_basis=grounds.legal_basis,
        case_reference=grounds.case_reference,
        purpose=grounds.purpose,
        recipient_public=bytes(person.x25519_public),
        quorum=quorum if quorum is not None else least,
        faces=tuple(sorted(set(faces))),
        created_at=now.astimezone(UTC),
        expires_at=(now + life).astimezone(UTC),
    )
    _insert_request(session, terms)
    append(
        session,
        AuditEvent.REQUEST_OPENED,
        actor=requester,
        release=release_id,
        request=terms.id,
        request_hash=terms.sha256(),
        detail={"faces": len(terms.faces), "quorum": terms.quorum, "expires_at": terms.expires_at.isoformat()},
    )
    return terms


def approve(session: Session, request_id: UUID, approver: str, signature: bytes) -> RequestState:
    """Records an approval, signed over `decision_message(Decision.APPROVE, canonical)`; gives the state that follows.

    The one that reaches the quorum puts the request before the custodian. Raises RequestUnknown, RequestClosed,
    OwnRequest, PersonUnknown, AlreadyDecided, SignatureInvalid.
    """
    request = _decide(session, request_id, approver, Decision.APPROVE, signature)
    state = request.state
    approvals = session.execute(
        select(func.count())
        .select_from(Approval)
        .where(Approval.request_id == request_id, Approval.decision == Decision.APPROVE)
    ).scalar_one()
    if state is RequestState.OPEN and approvals >= request.quorum:
        state = RequestState.APPROVED
        _set_state(session, request_id, state)
        queue = QUEUE_OF[TaskName.OPEN]
        message = {"broker": Broker.PRIVILEGED.value, "queue": queue.value, "task": TaskName.OPEN.value}
        session.execute(insert(Outbox).values(args=task_args(TaskName.OPEN, [request_id]), **message))
    _record(session, AuditEvent.REQUEST_APPROVED, request, approver, approvals=approvals, quorum=request.quorum)
    return state


def check_decider(session: Session, terms: RequestTerms, who: str, ed25519_public: bytes) -> None:
    """Whether a decision of theirs with this key could be recorded, before anybody is asked to make it.

    Raises OwnRequest, PersonUnknown, SignatureInvalid.
    """
    if who == terms.requester:
        raise OwnRequest
    if ed25519_public != _person(session, who, terms.tenant, APPROVER).ed25519_public:
        raise SignatureInvalid


def deny(session: Session, request_id: UUID, approver: str, signature: bytes) -> RequestState:
    """Records a denial, signed over `decision_message(Decision.DENY, canonical)`; one closes the request. Raises as
    `approve`.
    """
    request = _decide(session, request_id, approver, Decision.DENY, signature)
    _set_state(session, request_id, RequestState.DENIED)
    _record(session, AuditEvent.REQUEST_DENIED, request, approver)
    return RequestState.DENIED


def withdraw(session: Session, request_id: UUID, actor: str) -> RequestState:
    """The requester takes the request back. Raises RequestUnknown, RequestClosed, NotTheRequester."""
    request = _decidable(session, request_id)
    if actor != request.requester:
        raise NotTheRequester
    _set_state(session, request_id, RequestState.WITHDRAWN)
    _record(session, AuditEvent.REQUEST_WITHDRAWN, request, actor)
    return RequestState.WITHDRAWN


def fetch(session: Session, recovery_id: UUID, actor: str) -> list[SealedFace]:
    """The recovered faces, sealed to the requester; once. The commit takes the only other copy away: have them on disk
    before it, and hand them out only after it.

    Raises NothingToFetch, NotTheRequester.
    """
    recovery = session.get(Recovery, recovery_id, with_for_update=True)
    if recovery is None:
        raise NothingToFetch
    query = select(RecoveryRequest).join(Ticket, Ticket.request_id == RecoveryRequest.id)
    request = session.execute(query.where(Ticket.id == recovery.ticket_id)).scalar_one()
    if actor != request.requester:
        raise NotTheRequester
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    if recovery.state is not RecoveryState.RECOVERED or recovery.expires_at <= now:
        raise NothingToFetch(recovery.state.value)
    rows = select(RecoveredFace).where(RecoveredFace.recovery_id == recovery_id).options(undefer(RecoveredFace.sealed))
    faces = [
        SealedFace(recovery_id, row.item_id, row.face, bytes(row.sealed))
        for row in session.execute(rows.order_by(RecoveredFace.item_id, RecoveredFace.face)).scalars()
        if row.sealed is not None
    ]
    taken = update(RecoveredFace).where(RecoveredFace.recovery_id == recovery_id)
    session.execute(taken.values(sealed=None, fetched_at=func.clock_timestamp()))
    session.execute(update(Recovery).where(Recovery.id == recovery_id).values(state=RecoveryState.FETCHED))
    append(
        session,
        AuditEvent.RECOVERY_FETCHED,
        actor=actor,
        release=request.release_id,
        request=request.id,
        ticket=recovery.ticket_id,
        recovery=recovery_id,
        request_hash=bytes(request.canonical_sha256),
        detail={"faces": len(faces)},
    )
    return faces


def find_recovery(session: Session, request_id: UUID) -> Recovery | None:
    """The recovery of a request, once there is one."""
    query = select(Recovery).join(Ticket, Ticket.id == Recovery.ticket_id).where(Ticket.request_id == request_id)
    return session.execute(query).scalar_one_or_none()


def load_terms(session: Session, request_id: UUID) -> RequestTerms:
    """The terms as the rows have them: what an approver reads and signs. Raises RequestUnknown."""
    request = session.get(RecoveryRequest, request_id)
    if request is None:
        raise RequestUnknown
    faces = session.execute(select(RequestFace).where(RequestFace.request_id == request_id)).scalars().all()
    return terms_of(request, faces)


def _insert_request(session: Session, terms: RequestTerms) -> None:
    session.add(
        RecoveryRequest(
            id=terms.id,
            tenant=terms.tenant,
            release_id=terms.release,
            requester=terms.requester,
            reason=terms.reason,
            legal_basis=terms.legal_basis,
            case_reference=terms.case_reference,
            purpose=terms.purpose,
            recipient_public=terms.recipient_public,
            quorum=terms.quorum,
            canonical=terms.canonical(),
            canonical_sha256=terms.sha256(),
            expires_at=terms.expires_at,
            created_at=terms.created_at,
        )
    )
    session.flush()
    session.add_all(RequestFace(request_id=terms.id, item_id=each.item, face=each.face) for each in terms.faces)
    session.flush()


def _check_faces(session: Session, release_id: UUID, faces: Sequence[FaceRef]) -> None:
    query = select(Item.id, Item.faces).where(
        Item.release_id == release_id, Item.state == ItemState.DONE, Item.id.in_({each.item for each in faces})
    )
    known = {row.id: row.faces or 0 for row in session.execute(query)}
    if any(not 0 <= each.face < known.get(each.item, 0) for each in faces):
        raise FaceNotReleased


def _person(session: Session, person_id: str, tenant: str, role: str) -> Person:
    person = session.get(Person, person_id)
    if person is None or person.tenant != tenant or role not in person.roles:
        raise PersonUnknown(f"{person_id} as {role}")
    return person


def _decidable(session: Session, request_id: UUID) -> RecoveryRequest:
    """The request, locked, if it can still be decided on."""
    request = session.get(RecoveryRequest, request_id, with_for_update=True, populate_existing=True)
    if request is None:
        raise RequestUnknown
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    if request.state not in _DECIDABLE or request.expires_at <= now:
        raise RequestClosed(request.state.value if request.state not in _DECIDABLE else "expired")
    return request


def _decide(session: Session, request_id: UUID, approver: str, decision: Decision, signature: bytes) -> RecoveryRequest:
    request = _decidable(session, request_id)
    if approver == request.requester:
        raise OwnRequest
    person = _person(session, approver, request.tenant, APPROVER)
    if session.get(Approval, (request_id, approver)) is not None:
        raise AlreadyDecided
    terms = load_terms(session, request_id)
    if not signature_verifies(bytes(person.ed25519_public), signature, decision, terms.canonical()):
        raise SignatureInvalid
    session.add(
        Approval(
            request_id=request_id,
            approver=approver,
            requester=request.requester,
            decision=decision,
            signature=signature,
        )
    )
    session.flush()
    return request


def _set_state(session: Session, request_id: UUID, state: RequestState) -> None:
    session.execute(update(RecoveryRequest).where(RecoveryRequest.id == request_id).values(state=state))


def _record(session: Session, event: AuditEvent, request: RecoveryRequest, actor: str, **detail: int) -> None:
    append(
        session,
        event,
        actor=actor,
        release=request.release_id,
        request=request.id,
        request_hash=bytes(request.canonical_sha256),
        detail=detail,
    )
