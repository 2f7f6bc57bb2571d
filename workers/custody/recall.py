"""What the custodian signed in the database, held against its ledger: an older copy of the ledger is refused, and what a lost one
held is recalled as far as the custodian's own word goes.

Only rows and events with the custodian's own signature count, so nobody who writes to the database can make it refuse or forget. A
tombstone and an answered order stand in the ledger before they stand in the trail: one that is missing was lost. A ticket's line
comes after its commit: one that is missing is written now, whether a crash or an older copy left it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import LargeBinary, func, literal, select
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session, sessionmaker

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.contexts import LAYOUT_FACE
from schemas.orders import OrderTerms
from schemas.requests import WHAT_TICKET
from schemas.states import OrderKind
from schemas.tables import CustodyOrder, Ticket
from workers.audit import append
from workers.audit.attested import MARK, EventSigner, Fields, attesting, fault_of
from workers.custody import scope
from workers.custody.errors import LedgerBehind, LedgerExists, LedgerMissing, LossNotAccepted
from workers.custody.holds import Outcome, Portion
from workers.custody.judge import verifies
from workers.custody.ledger import Ledger, Opening, Recalled
from workers.custody.rows import order_terms
from workers.strangers import read_json

Said = TypeVar("Said", bound=tuple[Any, ...])
ACTOR = "custodian"
_CHUNK = 1_000  # rows that are fetched at a time
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
OUTCOMES = {OrderKind.SHRED: Outcome.SHRED, OrderKind.HOLD: Outcome.HOLD, OrderKind.LIFT: Outcome.LIFTED}
#: Once the trail tells of one of these, there was a ledger.
WORK = (AuditEvent.TICKET_SPENT, AuditEvent.KEY_SHREDDED, AuditEvent.ORDER_DONE, AuditEvent.LEDGER_BEGUN)


def tells_of_work(session: Session) -> bool:
    """Whether the trail tells of anything that a ledger remembers, whoever wrote it."""
    query = select(Event.seq).where(Event.event.in_([kind.value for kind in WORK])).limit(1)
    return session.execute(query).first() is not None


def catch_up(sessions: sessionmaker[Session], ledger: Ledger, signer: EventSigner) -> int:
    """Writes the lines of tickets that the ledger has not got; gives how many. Raises LedgerBehind where it is older than the trail,
    LedgerMissing, LedgerInvalid; database errors pass through.

    Looks at everything that was signed, however much others wrote since, and checks the signature of what the ledger has not got.
    A ledger that was begun after a loss, and that the trail was never told of, is told of.
    """
    with sessions() as session:
        _refuse_behind(session, ledger, signer)
        openings = _openings(session, signer, lambda opening: ledger.spent(opening.request))
        lacking = {opening.request: opening for opening in openings}  # somebody may have copied a row
        untold = ledger.recalled >= 0 and not _told_of(session, ledger, signer)
    if untold:  # a crash came between the file and its event
        with attesting(sessions, signer).begin() as session:
            append(session, AuditEvent.LEDGER_BEGUN, actor=ACTOR, detail={"ledger": ledger.id, "lost": True})
    ledger.record_openings(list(lacking.values()))
    return len(lacking)


def _refuse_behind(session: Session, ledger: Ledger, signer: EventSigner) -> None:
    buried = _signed(
        session, AuditEvent.KEY_SHREDDED, signer, _buried, ledger.recalled, lambda said: said.known(ledger)
    )
    for said, nonce in buried:
        if not _stood_before(session, ledger.recalled, nonce):
            raise LedgerBehind(f"the tombstones of item {said.item} are not in it")
    answered = _signed(session, AuditEvent.ORDER_DONE, signer, _done, ledger.recalled, lambda said: said.known(ledger))
    for done, nonce in answered:
        if not _stood_before(session, ledger.recalled, nonce):
            raise LedgerBehind(f"order {done.order} is not in it")


def _told_of(session: Session, ledger: Ledger, signer: EventSigner) -> bool:
    """Whether the custodian's own word for this ledger's beginning stands in the trail."""
    begun = _signed(session, AuditEvent.LEDGER_BEGUN, signer, _begun, ledger.recalled)
    return any(said == (ledger.id,) for said, _ in begun)


def recall(session: Session, signer: EventSigner) -> Recalled:
    """Everything that the custodian's own signatures in the database still say."""
    trail = session.execute(select(func.coalesce(func.max(Event.seq), -1))).scalar_one()
    faces: dict[UUID, set[int]] = {}
    about: dict[UUID, UUID] = {}
    for said, _ in _signed(session, AuditEvent.KEY_SHREDDED, signer, _buried):
        faces.setdefault(said.item, set()).update(said.faces)
        about[said.item] = said.release
    portions = [Portion(item, about[item], None, tuple(sorted(buried))) for item, buried in faces.items() if buried]
    hashes = [done.sha256 for done, _ in _signed(session, AuditEvent.ORDER_DONE, signer, _done)]
    openings = sorted(_openings(session, signer), key=lambda each: str(each.request))
    return Recalled(trail, tuple(openings), tuple(portions), tuple(_answers(session, reversed(hashes))))


def begin(
    sessions: sessionmaker[Session], path: Path, signer: EventSigner, actor: str, *, accept_loss: bool
) -> Recalled | None:
    """Begins a ledger, with its event in the trail; gives what was recalled, None where there was nothing to lose.

    Raises LedgerExists, LossNotAccepted; database errors pass through. Where the event was refused there is no ledger then; where its
    commit failed it may stand all the same, so the ledger does, too, and the custodian tells of it where need be.
    """
    with suppress(LedgerMissing):
        Ledger(path).holds()
        raise LedgerExists
    with sessions() as session:
        recalled = recall(session, signer) if tells_of_work(session) else None
    if recalled is not None and not accept_loss:
        raise LossNotAccepted
    ledger = Ledger.begin(path, recalled)
    detail: dict[str, Any] = {"ledger": ledger.id, "lost": recalled is not None}
    if recalled is not None:
        numbers = {"spent": recalled.openings, "items": recalled.portions, "orders": recalled.answers}
        detail |= {name: len(found) for name, found in numbers.items()}
    with attesting(sessions, signer)() as session:
        try:
            append(session, AuditEvent.LEDGER_BEGUN, actor=actor, detail=detail)
        except BaseException:
            path.unlink()
            raise
        session.commit()
    return recalled


class _Buried(NamedTuple):
    """What a `key:shredded` says."""

    item: UUID
    release: UUID
    faces: tuple[int, ...]

    def known(self, ledger: Ledger) -> bool:
        return all(ledger.shredded(self.item, face) for face in self.faces)


class _Done(NamedTuple):
    """What an `order:done` says."""

    order: UUID
    sha256: bytes

    def known(self, ledger: Ledger) -> bool:
        return ledger.answer(self.order) is not None


def _buried(fields: Fields) -> _Buried:
    detail = fields["detail"]
    faces = [*detail["faces"], *([LAYOUT_FACE] if detail["layout"] else ())]
    return _Buried(UUID(fields["item"]), UUID(fields["release"]), tuple(map(int, faces)))


def _done(fields: Fields) -> _Done:
    return _Done(UUID(fields["detail"]["order"]), bytes.fromhex(fields["request_hash"]))


def _begun(fields: Fields) -> tuple[UUID]:
    return (UUID(fields["detail"]["ledger"]),)


def _signed(
    session: Session,
    kind: AuditEvent,
    signer: EventSigner,
    read: Callable[[Fields], Said],
    after: int = -1,
    known: Callable[[Said], bool] = lambda _: False,
) -> Iterator[tuple[Said, str]]:
    """What the events of a kind say that the custodian signed, with the nonce of each, the newest first; `known` ones are passed over.

    What somebody else wrote, and what nobody can read, stops nothing.
    """
    keys = signer.keys
    query = select(Event.seq, Event.canonical).where(Event.event == kind.value, Event.seq > after)
    for _, canonical in _rows(session, query, Event.seq):
        try:
            event = read_json(bytes(canonical))
            said, nonce = read(event["fields"]), str(event["fields"]["detail"][MARK]["nonce"])
        except _MALFORMED:
            continue
        if not known(said) and _is_own(event, kind, keys):
            yield said, nonce


def _rows(session: Session, query: Any, key: Any) -> Iterator[Any]:
    """All rows of a query whose first column is this key, the highest first, fetched by and by."""
    page = query.order_by(key.desc()).limit(_CHUNK)
    rows = session.execute(page).all()
    while rows:
        yield from rows
        rows = session.execute(page.where(key < rows[-1][0])).all()


def _is_own(event: Fields, kind: AuditEvent, keys: Mapping[str, bytes]) -> bool:
    """Whether the custodian signed this very event: by its column alone it may be any other one of its events."""
    try:
        return event["event"] == kind.value and fault_of(event, keys) is None
    except _MALFORMED:
        return False


def _stood_before(session: Session, recalled: int, nonce: str) -> bool:
    """Whether this very event, which its nonce tells apart, was in the trail when a loss was accepted: a copy of it refuses nothing.

    The nonce is signed, so no copy spells it otherwise; and bytes are searched, because somebody may have made others unreadable.
    """
    found = func.pg_catalog.position(Event.canonical, literal(nonce.encode(), LargeBinary))
    query = select(Event.seq).where(Event.seq <= recalled, Event.event.in_([kind.value for kind in WORK]), found > 0)
    return session.execute(query.limit(1)).first() is not None


def _openings(
    session: Session, signer: EventSigner, known: Callable[[Opening], bool] = lambda _: False
) -> Iterator[Opening]:
    """The tickets that the custodian signed; `known` ones are passed over."""
    keys = signer.keys
    query = select(Ticket.id, Ticket.canonical, Ticket.signature).where(Ticket.signature.is_not(None))
    for _, canonical, signature in _rows(session, query, Ticket.id):
        try:
            content = bytes(canonical or b"")
            said = read_json(content)
            if said["what"] != WHAT_TICKET:  # the same key signs events
                continue
            opening = Opening(UUID(said["request"]), UUID(said["id"]), UUID(said["recovery"]))
        except _MALFORMED:
            continue
        if not known(opening) and any(verifies(key, bytes(signature or b""), content) for key in keys.values()):
            yield opening


def _answers(session: Session, hashes: Iterator[bytes]) -> Iterator[tuple[OrderTerms, Outcome, tuple[UUID, ...]]]:
    """The orders of these SHA-256, in this order, as far as their rows are still what was signed; and the items of what is held."""
    for sha256 in dict.fromkeys(hashes):
        for order in session.scalars(select(CustodyOrder.id).where(CustodyOrder.canonical_sha256 == sha256)).all():
            try:
                terms = order_terms(session.get_one(CustodyOrder, order))
            except (
                ValueError,
                LookupError,
                DataError,
            ):  # a face where none belongs, a word or time that there is not: not what was signed
                continue
            if terms.sha256() == sha256:
                held = scope.items_held(session, terms) if terms.kind is OrderKind.HOLD else ()
                yield terms, OUTCOMES[terms.kind], tuple(held)
