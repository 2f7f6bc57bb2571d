"""The notary: signs the tree's head and anchors it in a bucket under Object Lock, and does nothing else.

`python -m workers.audit.notary` looks every few seconds, anchors what is new within `anchor_seconds`, and once more at
shutdown; `--once` anchors now and ends.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import Field
from sqlalchemy import func, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from schemas.audit import AuditEvent
from schemas.audit_tables import Event, TreeHead
from workers.alerts import AlertKind, raise_alert
from workers.audit.append import append
from workers.audit.errors import AuditFork, AuditShort
from workers.audit.forks import load_forks, lost_by
from workers.audit.heads import MOST_UNANCHORED, Anchored, Anchors, HeadInvalid, HeadSigner, SignedHead
from workers.audit.merkle import root_at
from workers.audit.store import StoredNodes, extend_nodes, trail_size
from workers.errors import Away, ObjectExists, WorkerError
from workers.settings import NotarySettings
from workers.stopping import stop_on_signals

log = structlog.get_logger(__name__)


class NotaryOptions(NotarySettings):
    """How often and for how long: at least every 60 s; ten years under Object Lock in COMPLIANCE mode."""

    anchor_seconds: float = Field(default=30.0, gt=0, le=60)
    anchor_days: int = Field(default=3653, ge=1)


class Notary:
    """One notary on one trail and one bucket."""

    def __init__(
        self, sessions: sessionmaker[Session], anchors: Anchors, signer: HeadSigner, keep: timedelta = timedelta(3653)
    ) -> None:
        self._sessions = sessions
        self._anchors = anchors
        self._signer = signer
        self._keep = keep
        self._adopted = False
        self._epoch = 0
        self._newest: SignedHead | None = None

    def tell(self, code: str) -> bool:
        """Alerts people that no head can be anchored, and why; False where not even that could be written."""
        try:
            with self._sessions.begin() as session:
                raise_alert(session, AlertKind.TRAIL_UNANCHORED, code=code)
        except SQLAlchemyError:
            return False
        return True

    def anchor(self) -> SignedHead | None:
        """Signs, anchors and records a head over everything so far; None where only the notary's own events are new.

        Raises AuditFork where the trail is not the one that was anchored before, and Away errors where an engine is away.
        """
        adopted, self._adopted = self._adopted, False  # after a failure the bucket is looked at anew
        with self._sessions() as session, session.begin():
            if not adopted:
                self._adopt(session)
            last = last_head_size(session)
            size = trail_size(session)
            self._check_history(session, last, size)
            head = self._put(self._signed(session, last, size)) if _news(session, last, size) else None
            if head is not None:
                self._record(session, head)
        self._newest = head or self._newest
        self._adopted = True
        return head

    def _check_history(self, session: Session, last: int, size: int) -> None:
        """Refuses a database that was taken back, also one that was taken back and has grown while we ran."""
        if size < last:
            raise AuditFork(f"anchored to {last}, holds {size}")
        newest = self._newest
        if newest is None:
            return
        if last < newest.size:
            raise AuditFork(f"anchored to {newest.size}, recorded to {last}")
        if root_at(newest.size, StoredNodes(session)) != newest.root:
            raise AuditFork(f"another tree of size {newest.size} is anchored")

    def _signed(self, session: Session, last: int, size: int) -> SignedHead:
        return self._signer.sign(size, extend_nodes(session, last, size).root(), self._epoch)

    def _put(self, head: SignedHead) -> SignedHead:
        """Anchors the head; where one of that size is anchored already (a crash before the commit), takes that one."""
        try:
            self._anchors.put(head, self._keep)
        except ObjectExists:
            older = self._read(self._anchors.find(self._anchors.name(head.size, head.epoch)))
            if older.root != head.root:
                raise AuditFork(f"another tree of size {head.size} is anchored") from None
            return older
        return head

    def _adopt(self, session: Session) -> None:
        """Records anchored heads whose row is missing because the notary died in between; refuses another trail's.

        Heads that an accepted fork gave up are left alone; one that the bucket's owner hid is not.
        """
        recorded = set(session.execute(select(TreeHead.anchor_object)).scalars())
        forks = load_forks(self._anchors, self._signer.verifier)
        self._epoch = len(forks)
        places = [(each, self._anchors.place(each.name)) for each in self._anchors.heads() if each.versions]
        living = [each for each, place in places if place is None or lost_by(*place, forks) is None]
        for each in living:
            if each.markers or len(each.versions) > 1:
                log.warning("anchor hidden or written over", name=each.name)
            if each.name in recorded:
                continue
            head = self._read(each)
            last = last_head_size(session)
            try:
                same = (
                    root_at(head.size, StoredNodes(session)) if head.size <= last else self._extend(session, last, head)
                )
            except AuditShort as error:
                raise AuditFork(f"anchored to {head.size}, holds less") from error
            if same != head.root:
                raise AuditFork(f"another tree of size {head.size} is anchored")
            self._record(session, head)
        self._newest = self._read(living[-1]) if living else None

    def _read(self, anchored: Anchored) -> SignedHead:
        return self._anchors.read(anchored, self._signer.verifier)

    def _extend(self, session: Session, last: int, head: SignedHead) -> bytes:
        return extend_nodes(session, last, head.size).root()

    def _record(self, session: Session, head: SignedHead) -> None:
        row = {
            "size": head.size,
            "root": head.root,
            "at": head.at,
            "body": head.body,
            "signature": head.signature,
            "key_id": head.key_id,
            "anchored_at": datetime.now(UTC),
            "anchor_object": self._anchors.name(head.size, head.epoch),
        }
        session.execute(insert(TreeHead).values(row))
        append(
            session,
            AuditEvent.HEAD_ANCHORED,
            actor="notary",
            detail={"size": head.size, "root": head.root.hex(), "key": head.key_id},
        )


def last_head_size(session: Session) -> int:
    """The size of the newest recorded head; 0 where there is none."""
    return int(session.execute(select(func.coalesce(func.max(TreeHead.size), 0))).scalar_one())


def _news(session: Session, last: int, size: int) -> bool:
    """Whether something besides the notary's own events came after `last`; or else it would anchor itself for ever."""
    query = select(Event.seq).where(Event.seq >= last, Event.seq < size, Event.event != AuditEvent.HEAD_ANCHORED.value)
    return session.execute(query.limit(1)).first() is not None


def run(notary: Notary, every: float, stop: threading.Event, patience: timedelta = MOST_UNANCHORED) -> int:
    """Anchors every `every` seconds until `stop`, and once more then. 1 where the last head could not be anchored.

    An engine that is away is waited for; after `patience` an alert says so, once, as nothing vouches for what happens meanwhile. A
    fork ends it, and so does a head of another key in the bucket: nobody may sign on as if nothing had happened.
    """
    since, told = time.monotonic(), False
    while True:
        last_time = stop.wait(timeout=every)
        try:
            head = notary.anchor()
            if head is not None:
                log.info("head anchored", size=head.size)
            since, told = time.monotonic(), False
        except (AuditFork, HeadInvalid) as error:
            log.critical("audit fork" if isinstance(error, AuditFork) else "foreign head", detail=error.detail)
            return 1
        except (Away, SQLAlchemyError) as error:
            log.warning("could not anchor", error=type(error).__name__)
            if last_time:
                return 1
            if not told and time.monotonic() - since > patience.total_seconds():
                told = notary.tell(type(error).__name__)
        if last_time:
            return 0


def notary_from(settings: NotaryOptions) -> Notary:
    """The notary of this machine: its key, its bucket, its database role. Raises what reading the key raises."""
    from workers.db import session_factory

    anchors, signer = keeper_from(settings)
    return Notary(session_factory(settings.database_url), anchors, signer, timedelta(settings.anchor_days))


def keeper_from(settings: NotaryOptions) -> tuple[Anchors, HeadSigner]:
    """The bucket and the key of these settings. Raises what reading the key raises."""
    from workers.custody.keys import FileKind, KeyType, load
    from workers.storage import Storage

    key = load(settings.audit_signing_key, FileKind.SIGNING).of(KeyType.ED25519)
    return Anchors(Storage(settings), settings.bucket_anchors), HeadSigner(key.id, key.secret())


def main(arguments: list[str]) -> int:
    """The process."""
    stop = stop_on_signals()
    from workers.logs import configure_logs

    try:
        settings = NotaryOptions.load()
        configure_logs("notary", settings.log_format, settings.log_level)
        notary = notary_from(settings)
        if "--once" in arguments:
            notary.anchor()
            return 0
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    log.info("notary started", every=settings.anchor_seconds)
    return run(notary, settings.anchor_seconds, stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
