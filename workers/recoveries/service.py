"""Recovery requests as the gateway sees them: draft, open, withdraw, fetch once. Whoever acts signs; `decisions` are by others.

Each function works in the caller's transaction and appends its event last: commit soon after. What is checked here
is checked again by the database's constraints and, against the roster, by the custodian; here it is checked so that
people learn early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import cast, func, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, undefer

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.contexts import LAYOUT_FACE
from schemas.policies import Policy
from schemas.requests import (
    FaceRef,
    RequestTerms,
    fetch_message,
    request_message,
    withdraw_message,
)
from schemas.states import ItemState, KeyState, RecoveryState, RequestState, Urgency
from schemas.tables import (
    Item,
    RecoveredFace,
    Recovery,
    RecoveryRequest,
    Release,
    RequestFace,
    SealedKey,
    Ticket,
)
from workers.alerts import AlertKind, raise_alert
from workers.audit import append
from workers.custody.judge import LONGEST_LIFE, terms_of, verifies
from workers.custody.proof import item_names, names_hold
from workers.custody.roster import REQUESTER
from workers.recoveries.errors import (
    FaceNotReleased,
    FaceShredded,
    NamesChanged,
    NothingToFetch,
    NotTheRequester,
    PolicyForbids,
    QuorumTooSmall,
    RequestClosed,
    RequestIncomplete,
    RequestStale,
    RequestUnknown,
    ReviewOpen,
    SignatureInvalid,
)
from workers.recoveries.people import acting
from workers.recoveries.policies import load_policy
from workers.recoveries.reviews import open_reviews

REQUEST_LIFE = timedelta(days=7)
DRAFT_LIFE = timedelta(minutes=10)  # from the draft to the signature
_DECIDABLE = (RequestState.OPEN, RequestState.APPROVED)


@dataclass(frozen=True)
class Grounds:
    """Why faces are wanted back. Free text; it stands in the request and never in the audit trail."""

    reason: str
    legal_basis: str
    case_reference: str
    purpose: str


@dataclass(frozen=True)
class SealedFace:
    """A recovered face, sealed to the requester; opens with `schemas.requests.face_info(recovery, item, face)`."""

    recovery: UUID
    item: UUID
    face: int
    sealed: bytes = field(repr=False)


def draft_request(
    session: Session,
    *,
    release_id: UUID,
    requester: str,
    grounds: Grounds,
    faces: Sequence[FaceRef],
    quorum: int | None = None,
    life: timedelta = REQUEST_LIFE,
    urgency: Urgency = Urgency.NORMAL,
) -> RequestTerms:
    """The terms of a request for these faces of one release, sealed to the requester's own key. Nothing is written: the
    requester signs `request_message(terms.sha256())`, and `open_request` takes both.

    `quorum` None means what the policy says. Raises PersonUnknown, RequestIncomplete, FaceNotReleased, FaceShredded, NamesChanged,
    QuorumTooSmall, PolicyForbids, PolicyUnknown.
    """
    release = session.get(Release, release_id)
    if release is None:
        raise FaceNotReleased
    person = acting(session, requester, release.tenant, REQUESTER)
    policy = load_policy(session, release.tenant, release.policy_name)
    if policy.signed_submissions and release.signature is None:
        raise PolicyForbids("nobody signed this release's submission")
    least, names = policy.quorum_for(break_glass=urgency is Urgency.BREAK_GLASS), item_names(session, release_id)
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
        policy=policy.name,
        urgency=urgency,
        quorum=quorum if quorum is not None else max(least, 1),
        faces=tuple(sorted(set(faces))),
        names={item: names[item] for item in {each.item for each in faces} & names.keys()},
        created_at=now.astimezone(UTC),
        expires_at=(now + life).astimezone(UTC),
    )
    _check_terms(session, terms, policy)
    return terms


def open_request(session: Session, terms: RequestTerms, signature: bytes) -> None:
    """Opens the request that was drafted, with its requester's signature over `request_message`.

    Raises what `draft_request` does, and SignatureInvalid, RequestStale, ReviewOpen.
    """
    release = session.get(Release, terms.release)
    if release is None or (release.tenant, release.policy_name) != (terms.tenant, terms.policy):
        raise FaceNotReleased
    person = acting(session, terms.requester, terms.tenant, REQUESTER)
    _check_terms(session, terms, load_policy(session, terms.tenant, terms.policy))
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    if not now - DRAFT_LIFE <= terms.created_at <= now or terms.expires_at - terms.created_at > LONGEST_LIFE:
        raise RequestStale
    same_key = terms.recipient_public == bytes(person.x25519_public)
    if not same_key or not verifies(bytes(person.ed25519_public), signature, request_message(terms.sha256())):
        raise SignatureInvalid
    if terms.urgency is Urgency.BREAK_GLASS:
        waiting = select(RecoveryRequest.id).where(
            RecoveryRequest.requester == terms.requester,
            RecoveryRequest.urgency == Urgency.BREAK_GLASS,
            RecoveryRequest.state.in_(_DECIDABLE),
            RecoveryRequest.expires_at > now,
        )
        if open_reviews(session, requester=terms.requester) or session.execute(waiting.limit(1)).first():
            raise ReviewOpen
        raise_alert(session, AlertKind.GLASS_BROKEN, request=terms.id, requester=terms.requester, step="asked")
    _insert_request(session, terms, signature)
    append(
        session,
        AuditEvent.REQUEST_OPENED,
        actor=terms.requester,
        release=terms.release,
        request=terms.id,
        request_hash=terms.sha256(),
        detail={
            "faces": len(terms.faces),
            "quorum": terms.quorum,
            "policy": terms.policy,
            "urgency": terms.urgency.value,
            "expires_at": terms.expires_at.isoformat(),
            "signature": signature.hex(),
        },
    )


def withdraw(session: Session, request_id: UUID, actor: str, signature: bytes) -> RequestState:
    """The requester takes the request back, signed over `withdraw_message`. Raises RequestUnknown, RequestClosed,
    NotTheRequester, SignatureInvalid.
    """
    request = decidable(session, request_id)
    _check_requester(session, request, actor, signature, withdraw_message(bytes(request.canonical_sha256)))
    set_state(session, request_id, RequestState.WITHDRAWN)
    record_event(session, AuditEvent.REQUEST_WITHDRAWN, request, actor, signature=signature.hex())
    return RequestState.WITHDRAWN


def fetch(session: Session, recovery_id: UUID, actor: str, signature: bytes) -> list[SealedFace]:
    """The recovered faces, sealed to the requester; once, signed over `fetch_message`. The commit takes the only other
    copy away: have them on disk before it, and hand them out only after it.

    Raises NothingToFetch, NotTheRequester, SignatureInvalid.
    """
    recovery = session.get(Recovery, recovery_id, with_for_update=True)
    if recovery is None:
        raise NothingToFetch
    query = select(RecoveryRequest).join(Ticket, Ticket.request_id == RecoveryRequest.id)
    request = session.execute(query.where(Ticket.id == recovery.ticket_id)).scalar_one()
    message = fetch_message(bytes(request.canonical_sha256), recovery_id)
    _check_requester(session, request, actor, signature, message)
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
        detail={"faces": len(faces), "signature": signature.hex()},
    )
    return faces


def find_recovery(session: Session, request_id: UUID) -> Recovery | None:
    """The recovery of a request, once there is one."""
    query = select(Recovery).join(Ticket, Ticket.id == Recovery.ticket_id).where(Ticket.request_id == request_id)
    return session.execute(query).scalar_one_or_none()


def failure_of(session: Session, request_id: UUID) -> str | None:
    """The code of what its recovery failed by, wholly or in part, or of why the custodian made no ticket; None where neither is so."""
    recovery = find_recovery(session, request_id)
    if recovery is not None:
        return recovery.error_code
    state = session.execute(select(RecoveryRequest.state).where(RecoveryRequest.id == request_id)).scalar_one()
    if state not in (RequestState.FAILED, RequestState.EXPIRED):
        return None
    said = cast(func.convert_from(Event.canonical, "UTF8"), JSONB)["fields"]
    refused = select(said["detail"]["refusal"].as_string()).order_by(Event.seq.desc()).limit(1)
    refused = refused.where(
        Event.event == AuditEvent.TICKET_REFUSED.value, said["request"].as_string() == str(request_id)
    )
    return session.execute(refused).scalar_one_or_none()


def load_terms(session: Session, request_id: UUID) -> RequestTerms:
    """The terms as the rows have them: what an approver reads and signs. Raises RequestUnknown."""
    request = session.get(RecoveryRequest, request_id)
    if request is None:
        raise RequestUnknown
    faces = session.execute(select(RequestFace).where(RequestFace.request_id == request_id)).scalars().all()
    return terms_of(request, faces, item_names(session, request.release_id))


def _insert_request(session: Session, terms: RequestTerms, signature: bytes) -> None:
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
            policy=terms.policy,
            urgency=terms.urgency,
            quorum=terms.quorum,
            signs_names=terms.names is not None,
            signature=signature,
            canonical=terms.canonical(),
            canonical_sha256=terms.sha256(),
            expires_at=terms.expires_at,
            created_at=terms.created_at,
        )
    )
    session.flush()
    session.add_all(RequestFace(request_id=terms.id, item_id=each.item, face=each.face) for each in terms.faces)
    session.flush()


def _check_terms(session: Session, terms: RequestTerms, policy: Policy) -> None:
    """What the custodian will ask as well, asked here so that people learn early."""
    texts = (terms.reason, terms.legal_basis, terms.case_reference, terms.purpose)
    if not all(text.strip() for text in texts) or not terms.faces:
        raise RequestIncomplete
    least = policy.quorum_for(break_glass=terms.urgency is Urgency.BREAK_GLASS)
    if least == 0:
        raise PolicyForbids("the glass cannot be broken")
    if terms.quorum < least:
        raise QuorumTooSmall(f"{least} are needed")
    if policy.purposes and terms.purpose not in policy.purposes:
        raise PolicyForbids(f"the purpose is one of: {'; '.join(policy.purposes)}")
    if len({each.item for each in terms.faces}) > policy.max_items:
        raise PolicyForbids(f"at most {policy.max_items} items a request")
    check_faces(session, terms.release, terms.faces)
    check_names(session, terms)


def _check_requester(session: Session, request: RecoveryRequest, actor: str, signature: bytes, message: bytes) -> None:
    if actor != request.requester:
        raise NotTheRequester
    person = acting(session, actor, request.tenant, REQUESTER)
    if not verifies(bytes(person.ed25519_public), signature, message):
        raise SignatureInvalid


def check_faces(session: Session, release_id: UUID, faces: Sequence[FaceRef]) -> None:
    """Whether these faces could be recovered today. Raises FaceNotReleased, FaceShredded."""
    query = select(Item.id, Item.faces).where(
        Item.release_id == release_id, Item.state == ItemState.DONE, Item.id.in_({each.item for each in faces})
    )
    known = {row.id: row.faces or 0 for row in session.execute(query)}
    if any(not 0 <= each.face < known.get(each.item, 0) for each in faces):
        raise FaceNotReleased
    gone = select(SealedKey.item_id, SealedKey.face).where(SealedKey.state == KeyState.SHREDDED)
    shredded = {(row.item_id, row.face) for row in session.execute(gone.where(SealedKey.item_id.in_(known)))}
    if any((each.item, key) in shredded for each in faces for key in (LAYOUT_FACE, each.face)):
        raise FaceShredded


def check_names(session: Session, terms: RequestTerms) -> None:
    """That the file names that are shown are those of the items, as they were submitted. Raises NamesChanged."""
    items, release = item_names(session, terms.release), session.get_one(Release, terms.release)
    shown = {each.item: items.get(each.item) for each in terms.faces}
    older = terms.names is None and release.names_salt is None
    if (terms.names != shown and not older) or not names_hold(session, release, items):
        raise NamesChanged


def decidable(session: Session, request_id: UUID) -> RecoveryRequest:
    """The request, locked, if it can still be decided on."""
    request = session.get(RecoveryRequest, request_id, with_for_update=True, populate_existing=True)
    if request is None:
        raise RequestUnknown
    check_open(session, request)
    return request


def check_open(session: Session, request: RecoveryRequest) -> None:
    """That a request can still be decided on. Raises RequestClosed."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    if request.state not in _DECIDABLE or request.expires_at <= now:
        raise RequestClosed(request.state.value if request.state not in _DECIDABLE else "expired")


def set_state(session: Session, request_id: UUID, state: RequestState) -> None:
    session.execute(update(RecoveryRequest).where(RecoveryRequest.id == request_id).values(state=state))


def record_event(session: Session, event: AuditEvent, request: RecoveryRequest, actor: str, **detail: Any) -> None:
    append(
        session,
        event,
        actor=actor,
        release=request.release_id,
        request=request.id,
        request_hash=bytes(request.canonical_sha256),
        detail=detail,
    )
