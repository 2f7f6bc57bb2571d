"""The custodian: the one process that unwraps. It opens one request at a time, and hands on the approved faces' keys
only.

A message tells it a request's id and nothing else counts. In one transaction it judges the request, issues and
spends the ticket, binds the one recovery row to it, seals the keys to the recovery worker, and writes the events; so
a crash leaves all or nothing, and a message that comes twice finds the ticket spent. Only the ledger, a file, is
written after it; each later message of the request writes it where a crash left it out. Bundles of keys are good for
minutes; while a recovery waits, such messages bring it fresh ones, as long as no key was shredded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session, sessionmaker, undefer

from schemas.audit import AuditEvent
from schemas.contexts import LAYOUT_FACE
from schemas.messages import TaskName, outbox_row
from schemas.policies import Policy
from schemas.requests import WHAT_TICKET, BundleItem, KeyBundle, RequestTerms, TicketTerms, bundle_info, review_message
from schemas.states import AttemptState, ItemState, KeyState, RecoveryState, RequestState, Urgency
from schemas.tables import (
    Approval,
    Attempt,
    Item,
    Outbox,
    Recovery,
    RecoveryRequest,
    Release,
    RequestFace,
    Review,
    SealedKey,
    Ticket,
)
from workers.alerts import AlertKind, raise_alert
from workers.audit import append
from workers.audit.attested import attesting
from workers.custody.binding import change_bound, end_bound
from workers.custody.clock import agreed_now
from workers.custody.errors import KeyUnknown, Unwrappable
from workers.custody.judge import Case, Refusal, Refused, judge, terms_of, verifies
from workers.custody.keys import KeyType, key_id
from workers.custody.ledger import Ledger
from workers.custody.pinned import PinnedFile
from workers.custody.policies import PolicyBook, load_policies
from workers.custody.proof import item_names, names_hold
from workers.custody.providers import Unwrapper
from workers.custody.roster import AUDITOR, Roster, load_roster
from workers.custody.rows import unwrap_row
from workers.custody.sealing import PublicKey, seal
from workers.custody.tickets import RECOVERY_LIFE, RENEW_AFTER, TicketSigner, in_hand_lock
from workers.strangers import read_json

ACTOR = "custodian"


@dataclass(frozen=True)
class Opened:
    """What became of a message: the recovery it is bound to, or why there is none. `again`: it had been opened
    before.
    """

    recovery: UUID | None
    refusal: Refusal | None = None
    again: bool = False


@dataclass(frozen=True)
class _Bound:
    """A ticket and the recovery bound to it: ids, and the ticket's signed bytes with their signature."""

    ticket: UUID
    recovery: UUID
    canonical: bytes
    signature: bytes


@dataclass(frozen=True)
class Custodian:
    """The custodian with all that it holds: what it unwraps with, roster, policies, ledger, the key that it signs tickets
    and its events with, and whom it hands on to.
    """

    sessions: sessionmaker[Session]
    unwrapper: Unwrapper
    roster: Path
    policies: Path
    ledger: Ledger
    recovery_public: PublicKey
    tickets: TicketSigner

    def __post_init__(self) -> None:
        # Here, so that no event of a custodian can be forgotten.
        object.__setattr__(self, "sessions", attesting(self.sessions, self.tickets.events))

    def load_roster(self) -> Roster:
        """The roster as it is now; a version that is new stands in the trail before it counts. Raises RosterInvalid,
        LedgerInvalid; database errors pass through.
        """
        roster = load_roster(self.roster)
        self._announce(PinnedFile.ROSTER, roster.sha256)
        return roster

    def load_policies(self) -> PolicyBook:
        """The policies, as `load_roster` does it. Raises PoliciesInvalid, LedgerInvalid; database errors pass through."""
        policies = load_policies(self.policies)
        self._announce(PinnedFile.POLICIES, policies.sha256)
        return policies

    def _announce(self, file: PinnedFile, sha256: str) -> None:
        """In a transaction of its own, so that it stands although what follows is refused. The ledger remembers what was told: were
        it the database, its owner could make us forget.
        """
        before = self.ledger.pinned(file)
        if before == sha256:
            return
        detail = {"file": file.value, "before": before, "after": sha256, "ledger": self.ledger.id}
        with self.sessions.begin() as session:
            append(session, AuditEvent.PINNED_CHANGED, actor=ACTOR, detail=detail)
        self.ledger.record_pinned(file, sha256)

    def open(self, request_id: UUID) -> Opened:
        """Opens an approved request, once. Refusals are events and no exceptions.

        A request that comes outside its policy's hours waits: it is asked for again until they come, or it expires.
        Raises RosterInvalid, PoliciesInvalid or LedgerInvalid where its own files cannot be trusted, and what its
        unwrapper raises where that cannot be asked; database errors pass through.
        """
        try:
            with self.sessions.begin() as session:
                opened, spent = self._open(session, request_id)
        except Refused as refused:
            if refused.refusal is not Refusal.HOURS:
                with self.sessions.begin() as session:
                    _record_refusal(session, request_id, refused.refusal)
            return Opened(None, refused.refusal)
        # After the commit: were it before, a crash between the two would leave an approved request that nobody can
        # open. The message comes again after a crash here, finds the ticket spent, and gets to this line, however far
        # the recovery has got meanwhile.
        self.ledger.record_spent(request_id, *spent)
        if opened.refusal is not None and not opened.again:
            with self.sessions.begin() as session:
                _record_refusal(session, request_id, opened.refusal)
        return opened

    def _open(self, session: Session, request_id: UUID) -> tuple[Opened, tuple[UUID, UUID]]:
        """The transaction: what became of it, and the ticket and recovery that the ledger must know. Raises Refused;
        nothing of it stays then.
        """
        request = session.get(RecoveryRequest, request_id, with_for_update=True)
        if request is None:
            raise Refused(Refusal.UNKNOWN)
        now = agreed_now(session)
        bound = _bound_recovery(session, request_id)
        if bound is not None:
            known = (bound.ticket_id, bound.id)
            case = _load_case(session, request, now)
            if _is_replay(case):
                return Opened(None, Refusal.SPENT), known
            if bound.state is RecoveryState.BOUND and bound.sealed_at + RENEW_AFTER <= now:
                return self._renew(session, case, bound), known
            return Opened(bound.id, again=True), known
        if self.ledger.spent(request_id):
            raise Refused(Refusal.SPENT)
        case = _load_case(session, request, now)
        roster = self.load_roster()
        terms, policy = judge(case, roster, self.load_policies())
        if terms.urgency is Urgency.BREAK_GLASS:
            _check_reviews(session, terms, roster)
        items = [self._item_keys(session, terms, item) for item in sorted({each.item for each in terms.faces})]
        ticket = self._ticket(terms, policy, roster, now)
        signature = self.tickets.sign(ticket)
        bundle = self._seal_bundle(terms, _Bound(ticket.id, ticket.recovery, ticket.canonical(), signature), items, now)
        _spend(session, terms, ticket, signature, bundle, now)
        _record_opening(session, terms, ticket)
        return Opened(ticket.recovery), (ticket.id, ticket.recovery)

    def _renew(self, session: Session, case: Case, recovery: Recovery) -> Opened:
        """Seals the keys of a recovery that still waits once more, unless a worker has it in hand; where there are no keys
        for it any more, ends it.

        Nothing is judged again: the ticket, which is signed and names these terms by their hash, says that they were.
        """
        lock = select(func.pg_try_advisory_xact_lock(in_hand_lock(recovery.id)))
        if not session.execute(lock).scalar_one():
            return Opened(recovery.id, again=True)
        terms, row = terms_of(case.request, case.faces, case.items), session.get_one(Ticket, recovery.ticket_id)
        bound = _Bound(row.id, recovery.id, bytes(row.canonical or b""), bytes(row.signature or b""))
        try:
            self._check_own(bound, terms, case.now)
            items = [self._item_keys(session, terms, item) for item in sorted({each.item for each in terms.faces})]
        except Refused as refused:
            end_bound(session, bound.recovery, refused.refusal.value)
            _record_refusal(session, terms.id, refused.refusal, bound.recovery)
            return Opened(None, refused.refusal, again=True)
        sealed = self._seal_bundle(terms, bound, items, case.now)
        if change_bound(session, bound.recovery, key_bundle=sealed, sealed_at=case.now):
            about: dict[str, Any] = {"release": terms.release, "request": terms.id, "ticket": bound.ticket}
            about |= {"recovery": bound.recovery, "request_hash": terms.sha256()}
            append(session, AuditEvent.TICKET_RENEWED, actor=ACTOR, **about)
        return Opened(recovery.id, again=True)

    def _check_own(self, bound: _Bound, terms: RequestTerms, now: datetime) -> None:
        """The ticket is this custodian's, for these terms, for the worker that it seals to, and not of yesterday. Raises Refused.

        A key that was replaced may have been stolen: what it signed counts where the ledger has this very ticket, and so
        it was issued here.
        """
        known = self.ledger.spent_on(terms.id) == (bound.ticket, bound.recovery)
        ours = self.tickets.publics if known else (self.tickets.public,)
        if not any(verifies(public, bound.signature, bound.canonical) for public in ours):
            raise Refused(Refusal.TICKET)
        meant = (WHAT_TICKET, str(bound.ticket), str(bound.recovery), terms.sha256().hex(), self.recovery_public.id)
        try:
            fields = read_json(bound.canonical)
            said = tuple(fields[name] for name in ("what", "id", "recovery", "request_sha256", "worker"))
            ends = datetime.fromisoformat(fields["issued_at"]) + RECOVERY_LIFE
        except (ValueError, KeyError, TypeError) as error:  # the same key signs events
            raise Refused(Refusal.TICKET) from error
        if said != meant:
            raise Refused(Refusal.TICKET)
        if ends <= now:
            raise Refused(Refusal.EXPIRED)

    def _ticket(self, terms: RequestTerms, policy: Policy, roster: Roster, now: datetime) -> TicketTerms:
        return TicketTerms(
            id=uuid4(),
            request=terms.id,
            request_sha256=terms.sha256(),
            recovery=uuid4(),
            release=terms.release,
            faces=terms.faces,
            purpose=terms.purpose,
            recipient=key_id(KeyType.X25519, terms.recipient_public),
            worker=self.recovery_public.id,
            issued_at=now,
            expires_at=min(now + timedelta(minutes=policy.ticket_minutes), terms.expires_at),
            policy_sha256=policy.sha256().hex(),
            roster_sha256=roster.sha256,
        )

    def _item_keys(self, session: Session, terms: RequestTerms, item_id: UUID) -> BundleItem:
        """The layout key of one item and the keys of its approved faces. Raises Refused."""
        query = (
            select(Item, Release, Attempt)
            .join(Release, Release.id == Item.release_id)
            .join(Attempt, Attempt.item_id == Item.id)
            .where(Item.id == item_id, Item.state == ItemState.DONE, Attempt.state == AttemptState.PUBLISHED)
        )
        row = session.execute(query).one_or_none()
        if row is None or row.Release.tenant != terms.tenant or row.Release.id != terms.release:
            raise Refused(Refusal.ITEM)
        wanted = [LAYOUT_FACE, *sorted(each.face for each in terms.faces if each.item == item_id)]
        keys = {face: self._unwrap(session, row.Release, row.Attempt, row.Item.subject_id, face) for face in wanted}
        return BundleItem(
            item=item_id,
            object_key=row.Attempt.object_key,
            sha256=row.Attempt.sha256,
            model_version=row.Attempt.model_version,
            policy=row.Release.policy_name,
            layout_key=keys.pop(LAYOUT_FACE),
            face_keys=keys,
        )

    def _unwrap(self, session: Session, release: Release, attempt: Attempt, subject: UUID | None, face: int) -> bytes:
        if self.ledger.shredded(attempt.item_id, face):
            raise Refused(Refusal.KEY_SHREDDED)
        query = select(SealedKey).where(SealedKey.attempt_id == attempt.id, SealedKey.face == face)
        row = session.execute(query.options(undefer(SealedKey.wrapped))).scalar_one_or_none()
        if row is None:
            raise Refused(Refusal.KEY_MISSING)
        if row.state is KeyState.SHREDDED or row.wrapped is None:
            raise Refused(Refusal.KEY_SHREDDED)
        try:
            return unwrap_row(self.unwrapper, row, attempt, release, subject)
        except (Unwrappable, KeyUnknown) as error:
            raise Refused(Refusal.KEY_FOREIGN) from error

    def _seal_bundle(self, terms: RequestTerms, bound: _Bound, items: list[BundleItem], now: datetime) -> bytes:
        bundle = KeyBundle(
            recovery=bound.recovery,
            ticket=bound.ticket,
            request=terms.id,
            request_sha256=terms.sha256().hex(),
            tenant=terms.tenant,
            release=terms.release,
            requester=terms.requester,
            purpose=terms.purpose,
            recipient_public=terms.recipient_public,
            ticket_canonical=bound.canonical,
            ticket_signature=bound.signature,
            items=tuple(items),
            sealed_at=now,
        )
        return seal(self.recovery_public.raw, bundle.dumps(), bundle_info(bound.recovery, bound.ticket))


def _bound_recovery(session: Session, request_id: UUID) -> Recovery | None:
    query = select(Recovery).join(Ticket, Ticket.id == Recovery.ticket_id).where(Ticket.request_id == request_id)
    return session.execute(query).scalar_one_or_none()


def _is_replay(case: Case) -> bool:
    """Whether somebody wants more of a spent ticket: the request approved anew, or for other faces or grounds.

    A message that only comes twice is none, and finds the request as the opening left it or further on.
    """
    request = case.request
    terms = terms_of(request, case.faces, case.items)
    return request.state is RequestState.APPROVED or terms.canonical() != bytes(request.canonical)


def _check_reviews(session: Session, terms: RequestTerms, roster: Roster) -> None:
    """Every broken glass of this requester was looked into, by the signature of an auditor who had no part in it. Raises
    Refused.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(terms.requester, 0))))  # one after another
    query = (
        select(Review, RecoveryRequest.canonical_sha256)
        .join(RecoveryRequest, RecoveryRequest.id == Review.request_id)
        .where(RecoveryRequest.requester == terms.requester, RecoveryRequest.tenant == terms.tenant)
    )
    for review, sha256 in session.execute(query):
        who = review.closed_by or ""
        auditor = roster.find(who, terms.tenant, AUDITOR)
        message = review_message(bytes(sha256), review.conclusion or "")
        took_part = who == terms.requester or session.get(Approval, (review.request_id, who)) is not None
        if (
            auditor is None
            or took_part
            or not verifies(auditor.ed25519_public, bytes(review.signature or b""), message)
        ):
            raise Refused(Refusal.REVIEW)


def _load_case(session: Session, request: RecoveryRequest, now: datetime) -> Case:
    release = session.get_one(Release, request.release_id)
    faces = session.execute(select(RequestFace).where(RequestFace.request_id == request.id)).scalars().all()
    approvals = session.execute(select(Approval).where(Approval.request_id == request.id)).scalars().all()
    items = item_names(session, release.id)
    return Case(request, release, faces, approvals, now, items, names_hold(session, release, items))


def _spend(
    session: Session, terms: RequestTerms, ticket: TicketTerms, signature: bytes, bundle: bytes, now: datetime
) -> None:
    """Issues the ticket, spends it, binds the recovery to it, and queues that; opens the review of a broken glass."""
    issued = {"canonical": ticket.canonical(), "signature": signature, "expires_at": ticket.expires_at}
    session.execute(insert(Ticket).values(id=ticket.id, request_id=terms.id, **issued))
    session.execute(update(Ticket).where(Ticket.id == ticket.id).values(spent_at=func.clock_timestamp()))
    bound = {"id": ticket.recovery, "ticket_id": ticket.id, "key_bundle": bundle, "sealed_at": now}
    session.execute(insert(Recovery).values(bound | {"expires_at": now + RECOVERY_LIFE}))
    session.execute(update(RecoveryRequest).where(RecoveryRequest.id == terms.id).values(state=RequestState.RECOVERING))
    session.execute(insert(Outbox).values(outbox_row(TaskName.RECOVER, [ticket.recovery])))
    if terms.urgency is Urgency.BREAK_GLASS:
        session.execute(insert(Review).values(request_id=terms.id))
        raise_alert(session, AlertKind.GLASS_BROKEN, request=terms.id, requester=terms.requester, step="opened")


def _record_opening(session: Session, terms: RequestTerms, ticket: TicketTerms) -> None:
    faces = [{"item": str(each.item), "face": each.face} for each in sorted(terms.faces)]
    about: dict[str, Any] = {
        "release": terms.release,
        "request": terms.id,
        "ticket": ticket.id,
        "request_hash": terms.sha256(),
    }
    detail = {
        "faces": len(faces),
        "expires_at": ticket.expires_at.isoformat(),
        "requester": terms.requester,
        "worker": ticket.worker,
        "sha256": hashlib.sha256(ticket.canonical()).hexdigest(),
        "policy_sha256": ticket.policy_sha256,
        "roster_sha256": ticket.roster_sha256,
    }
    append(session, AuditEvent.TICKET_ISSUED, actor=ACTOR, detail=detail, **about)
    spent = {"faces": faces[:100]}
    append(session, AuditEvent.TICKET_SPENT, actor=ACTOR, recovery=ticket.recovery, detail=spent, **about)
    if terms.urgency is Urgency.BREAK_GLASS:
        append(session, AuditEvent.REVIEW_OPENED, actor=ACTOR, **about)


def _record_refusal(session: Session, request_id: UUID, refusal: Refusal, recovery: UUID | None = None) -> None:
    """The event; and an approved request that cannot be opened any more says so. `recovery`: the one that this ended."""
    request = session.get(RecoveryRequest, request_id, with_for_update=True)
    request_hash, expires = None, False
    if request is not None:
        request_hash = bytes(request.canonical_sha256)
        expires = request.state is RequestState.APPROVED and refusal is Refusal.EXPIRED
        if request.state is RequestState.APPROVED:
            request.state = RequestState.EXPIRED if expires else RequestState.FAILED
    raise_alert(session, AlertKind.TICKET_REFUSED, request=request_id, refusal=refusal.value)
    if expires:  # told as where the relay meets it first
        append(session, AuditEvent.REQUEST_EXPIRED, actor=ACTOR, request=request_id, request_hash=request_hash)
    append(
        session,
        AuditEvent.TICKET_REFUSED,
        actor=ACTOR,
        request=request_id,
        recovery=recovery,
        request_hash=request_hash,
        detail={"refusal": refusal.value},
    )
