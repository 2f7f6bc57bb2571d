"""What the recovery worker does with one recovery: opens its keys, reads the released files, seals the faces to the
requester.

The keys and the faces are in memory only while that lasts. The result is one transaction, so a crash leaves the
recovery bound, with its keys, and the next message does it again: three times at the most, counted before the first
file is read, for a file that kills its worker must not hold up everybody else's recoveries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker, undefer

from refacex_core.errors import CoreError
from refacex_core.types import RecoveryKeys, SealContext
from schemas.audit import AuditEvent
from schemas.requests import BundleItem, KeyBundle, bundle_info, face_info
from schemas.states import RecoveryState, RequestState
from schemas.tables import RecoveredFace, Recovery, RecoveryRequest, Ticket
from workers.alerts import AlertKind, raise_alert
from workers.audit import append
from workers.custody.errors import TicketInvalid, Unwrappable
from workers.custody.keys import Key
from workers.custody.opening import open_sealed
from workers.custody.sealing import seal
from workers.custody.tickets import BUNDLE_LIFE, RECOVERY_LIFE, check_ticket, in_hand_lock
from workers.errors import Away, ObjectMissing
from workers.recoveries.errors import AttemptsUsedUp, BundleUnreadable, ObjectChanged

if TYPE_CHECKING:
    from workers.core import Core

ACTOR = "recovery worker"
MAX_ATTEMPTS = 3
_SYNC = {"synchronize_session": False}


@dataclass(frozen=True)
class _Bound:
    """A recovery as it was found."""

    id: UUID
    ticket: UUID
    state: RecoveryState
    key_bundle: bytes | None = field(repr=False)
    expires_at: datetime
    attempts: int
    now: datetime


@dataclass
class _Result:
    """The faces of one recovery, sealed; and what went wrong, an error's code an item."""

    faces: list[dict[str, Any]] = field(default_factory=list, repr=False)
    failed: dict[UUID, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recoverer:
    """A recovery worker's means: its own X25519 key, and the custodian's raw Ed25519 keys that tickets are checked with.

    `read` gives a released file's bytes by its object key; `core` loads the networks.
    """

    sessions: sessionmaker[Session]
    key: Key
    ticket_publics: tuple[bytes, ...]
    read: Callable[[str], bytes]
    core: Callable[[], Core]

    def recover(self, recovery_id: UUID) -> RecoveryState | None:
        """Does one bound recovery; gives its state afterwards, None where there is none of that id.

        What is wrong with a file or a key becomes the recovery's failure, and so does a third attempt that came to no
        end. Errors of engines that are away pass through, and the recovery stays bound. One that another worker has in
        hand stays with that one.
        """
        with self._in_hand(recovery_id) as mine:
            bound = self._load(recovery_id)
            if bound is None:
                self._refuse_message(recovery_id)
            if bound is None or bound.state is not RecoveryState.BOUND or not mine:
                return bound.state if bound is not None else None
            return self._recover(bound)

    def _recover(self, bound: _Bound) -> RecoveryState:
        if bound.expires_at <= bound.now:
            return self._end(bound, RecoveryState.EXPIRED, AuditEvent.RECOVERY_EXPIRED, None)
        if bound.attempts >= MAX_ATTEMPTS:
            return self._end(bound, RecoveryState.FAILED, AuditEvent.RECOVERY_FAILED, AttemptsUsedUp.code)
        self._count(bound.id, 1)
        try:
            bundle = self._open(bound)
            self._check_ticket(bound, bundle)
            if _is_stale(bundle, bound.now):
                self._count(bound.id, -1)  # it waits for the custodian to seal its keys anew
                return RecoveryState.BOUND
        except BundleUnreadable as error:
            return self._end(bound, RecoveryState.FAILED, AuditEvent.RECOVERY_FAILED, error.code)
        except TicketInvalid as error:
            return self._end(bound, RecoveryState.FAILED, AuditEvent.RECOVERY_REFUSED, error.code)
        try:
            result = self._recover_items(bundle, bound.now)
        except Away:
            self._count(bound.id, -1)  # a store that is down is not the file's fault
            raise
        return self._store(bound, bundle, result)

    def _recover_items(self, bundle: KeyBundle, at: datetime) -> _Result:
        result = _Result()
        for item in bundle.items:
            try:
                result.faces += self._recover_item(bundle, item, at)
            except (CoreError, ObjectChanged, ObjectMissing) as error:
                result.failed[item.item] = error.code
        return result

    @contextmanager
    def _in_hand(self, recovery_id: UUID) -> Iterator[bool]:
        """Whether no other worker has this recovery: a message that comes twice must not use up its attempts.

        A session's advisory lock, on a connection of its own that is in no transaction: it goes with the process.
        """
        key = in_hand_lock(recovery_id)
        bind: Engine = self.sessions.kw["bind"]
        with bind.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.detach()  # closed and not pooled: whatever happens, the lock does not outlive this
            mine: bool = connection.execute(select(func.pg_try_advisory_lock(key))).scalar_one()
            try:
                yield mine
            finally:
                with suppress(DBAPIError):  # closing the connection gives it back as well, only a little later
                    if mine:
                        connection.execute(select(func.pg_advisory_unlock(key)))

    def _count(self, recovery_id: UUID, change: int) -> None:
        """Counts an attempt, or takes it back; committed when it returns."""
        counted = update(Recovery).where(Recovery.id == recovery_id).values(attempts=Recovery.attempts + change)
        with self.sessions.begin() as session:
            session.execute(counted, execution_options=_SYNC)

    def _load(self, recovery_id: UUID) -> _Bound | None:
        with self.sessions() as session:
            now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
            row = session.get(Recovery, recovery_id, options=[undefer(Recovery.key_bundle)])
            if row is None:
                return None
            return _Bound(row.id, row.ticket_id, row.state, row.key_bundle, row.expires_at, row.attempts, now)

    def _check_ticket(self, bound: _Bound, bundle: KeyBundle) -> None:
        """The custodian's signature; and that a worker first began before the ticket expired. One that crashed may go on
        for a day from when the ticket was issued.
        """
        life = check_ticket(self.ticket_publics, bundle, self.key.id)
        # By this machine's clock too, and whatever the row says: a bundle kept in a backup does not open years later.
        latest = max(bound.now, datetime.now(UTC))
        if (bound.attempts == 0 and life.expires_at <= bound.now) or life.issued_at + RECOVERY_LIFE <= latest:
            raise TicketInvalid("it has expired")

    def _refuse_message(self, recovery_id: UUID) -> None:
        """A message for a recovery that nobody opened: somebody else wrote to this queue."""
        with self.sessions.begin() as session:
            raise_alert(session, AlertKind.MESSAGE_REFUSED, recovery=recovery_id)
            append(session, AuditEvent.MESSAGE_REFUSED, actor=ACTOR, recovery=recovery_id)

    def _open(self, bound: _Bound) -> KeyBundle:
        try:
            plain = open_sealed(self.key.secret(), bound.key_bundle or b"", bundle_info(bound.id, bound.ticket))
            bundle = KeyBundle.loads(plain)
        except (Unwrappable, ValueError) as error:
            raise BundleUnreadable from error
        if (bundle.recovery, bundle.ticket) != (bound.id, bound.ticket):
            raise BundleUnreadable("of another recovery")
        return bundle

    def _recover_item(self, bundle: KeyBundle, item: BundleItem, at: datetime) -> list[dict[str, Any]]:
        """The approved faces of one item as rows: marked, and sealed to the recipient that the custodian named."""
        from refacex_core.images import encode
        from workers.recoveries.marking import mark

        data = self.read(item.object_key)
        if hashlib.sha256(data).hexdigest() != item.sha256:
            raise ObjectChanged
        context = SealContext(bundle.tenant, str(bundle.release), str(item.item), item.model_version, item.policy)
        rows = []
        core = self.core()
        for face in core.recover(data, RecoveryKeys(item.layout_key, item.face_keys), context):
            png = encode(mark(core, face.crop, bundle.ticket, at), "png")
            info = face_info(bundle.recovery, item.item, face.index)
            sealed = seal(bundle.recipient_public, png, info)
            rows.append(
                {
                    "recovery_id": bundle.recovery,
                    "item_id": item.item,
                    "face": face.index,
                    "sealed": sealed,
                    "sha256": hashlib.sha256(sealed).hexdigest(),
                }
            )
        return rows

    def _store(self, bound: _Bound, bundle: KeyBundle, result: _Result) -> RecoveryState:
        """The one transaction that makes the outcome visible; an item that failed does not hold back the others."""
        code = next(iter(result.failed.values()), None)
        if not result.faces:
            return self._end(bound, RecoveryState.FAILED, AuditEvent.RECOVERY_FAILED, code, bundle, result.failed)
        with self.sessions.begin() as session:
            if not _still_bound(session, bound.id):
                return _state(session, bound.id)
            session.execute(insert(RecoveredFace), result.faces)
            _close(session, bound.id, RecoveryState.RECOVERED, code)
            _set_request(session, bundle.request, RequestState.DONE)
            _record(session, AuditEvent.RECOVERY_RECOVERED, bound, bundle, len(result.faces), result.failed)
        return RecoveryState.RECOVERED

    def _end(
        self,
        bound: _Bound,
        state: RecoveryState,
        event: AuditEvent,
        code: str | None,
        bundle: KeyBundle | None = None,
        failed: dict[UUID, str] | None = None,
    ) -> RecoveryState:
        """Ends a recovery without a face; its keys are gone with it."""
        with self.sessions.begin() as session:
            if not _still_bound(session, bound.id):
                return _state(session, bound.id)
            _close(session, bound.id, state, code)
            request = bundle.request if bundle is not None else _request_of(session, bound.ticket)
            ended = RequestState.EXPIRED if state is RecoveryState.EXPIRED else RequestState.FAILED
            _set_request(session, request, ended)
            if event is AuditEvent.RECOVERY_REFUSED:
                raise_alert(session, AlertKind.RECOVERY_REFUSED, recovery=bound.id, code=code)
            _record(session, event, bound, bundle, 0, failed or {}, code)
        return state


def _is_stale(bundle: KeyBundle, now: datetime) -> bool:
    """Whether the bundle was sealed too long ago, by this machine's clock or the database's: it may be from a backup of
    before a shredding.
    """
    latest = max(now, datetime.now(UTC))
    return bundle.sealed_at is None or bundle.sealed_at + BUNDLE_LIFE <= latest


def _still_bound(session: Session, recovery_id: UUID) -> bool:
    """Locks the row: of two workers with one message, the second finds it done."""
    query = select(Recovery.state).where(Recovery.id == recovery_id).with_for_update()
    return session.execute(query).scalar_one() is RecoveryState.BOUND


def _state(session: Session, recovery_id: UUID) -> RecoveryState:
    return session.execute(select(Recovery.state).where(Recovery.id == recovery_id)).scalar_one()


def _close(session: Session, recovery_id: UUID, state: RecoveryState, code: str | None) -> None:
    change = update(Recovery).where(Recovery.id == recovery_id).values(state=state, key_bundle=None, error_code=code)
    session.execute(change, execution_options=_SYNC)


def _set_request(session: Session, request_id: UUID, state: RequestState) -> None:
    change = update(RecoveryRequest).where(RecoveryRequest.id == request_id).values(state=state)
    session.execute(change, execution_options=_SYNC)


def _request_of(session: Session, ticket: UUID) -> UUID:
    return session.execute(select(Ticket.request_id).where(Ticket.id == ticket)).scalar_one()


def _record(
    session: Session,
    event: AuditEvent,
    bound: _Bound,
    bundle: KeyBundle | None,
    faces: int,
    failed: dict[UUID, str],
    code: str | None = None,
) -> None:
    detail: dict[str, Any] = {"faces": faces}
    if failed:
        detail["failed"] = {str(item): each for item, each in list(failed.items())[:100]}
    if code:
        detail["code"] = code
    append(
        session,
        event,
        actor=ACTOR,
        release=bundle.release if bundle is not None else None,
        request=bundle.request if bundle is not None else _request_of(session, bound.ticket),
        ticket=bound.ticket,
        recovery=bound.id,
        request_hash=bundle.request_sha256 if bundle is not None else None,
        detail=detail,
    )
