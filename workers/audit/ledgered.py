"""Holds the custodian's ledger against the trail, either way round: `refacex audit verify --ledger FILE`.

The ledger lies outside the database and is written beside it, so a crash may leave one a step ahead of the other. What the custodian
makes good by itself is a note: the newest ticket, whose line comes right after its commit, and, for as long as they may be in hand,
orders and tombstones, which stand in the ledger before anything happens. The ledger is read after the trail, minutes later where that
is long: what it says of after the trail's snapshot is a note as well. All else is a finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.contexts import LAYOUT_FACE
from schemas.states import KeyState, OrderKind
from schemas.tables import Item, SealedKey
from workers.audit.findings import Problem, Verification, doubted_in
from workers.custody.holds import Holds, Outcome, Portion
from workers.custody.ledger import BEGUN, PINNED, SHREDDED, SPENT, Ledger, Line
from workers.custody.recall import OUTCOMES, WORK
from workers.strangers import read_json
from workers.words import number_of

IN_HAND = timedelta(days=2)  # the reconciler asks again for an order at once, for what retention ends within a day
CLOCKS = timedelta(minutes=1)  # that the custodian's clock, the database's and this machine's may be apart
# Refused because it was not the officer's own word: nothing for the ledger to remember.
_NOBODYS = ("order_changed", "officer_not_on_roster", "signature_does_not_verify")
_KINDS = (*WORK, AuditEvent.ORDER_REFUSED, AuditEvent.PINNED_CHANGED)
_CHUNK = 1_000
_NOWHERE = UUID(int=0)


@dataclass
class _Book:
    """What the ledger says, by what the trail names it with."""

    spent: dict[str, Line] = field(default_factory=dict)
    answers: dict[str, Line] = field(default_factory=dict)
    whole: dict[str, Line] = field(default_factory=dict)
    faces: dict[tuple[str, int], Line] = field(default_factory=dict)
    pinned: dict[tuple[str, str], Line] = field(default_factory=dict)
    begun: Line | None = None
    id: str | None = None
    recalled: int | None = None  # the trail's newest event when it was begun after a loss

    @classmethod
    def of(cls, ledger: Ledger) -> _Book:
        """Raises LedgerInvalid."""
        book = cls()
        for line in ledger.lines():
            book._add(line)
        return book

    def _add(self, line: Line) -> None:
        said = line.entry
        if said["kind"] == BEGUN:
            self.begun, self.id, self.recalled = line, said["id"], said.get("recalled")
        elif said["kind"] == PINNED:
            self.pinned.setdefault((said["file"], said["sha256"]), line)
        elif said["kind"] == SPENT:
            self.spent.setdefault(said["request"], line)
        elif said["kind"] in set(Outcome):
            self.answers.setdefault(said["sha256"], line)
        elif said["kind"] == SHREDDED:
            named = said["faces"] if "faces" in said else [said["face"]]
            if named is None:
                self.whole.setdefault(said["item"], line)
            for face in named or ():
                self.faces.setdefault((said["item"], face), line)

    def forgave(self, seq: int) -> bool:
        """Whether somebody accepted that it may have forgotten this event."""
        return self.recalled is not None and seq <= self.recalled

    def tombstone(self, item: str, face: int) -> Line | None:
        return self.whole.get(item) or self.faces.get((item, face))

    def items(self) -> list[UUID]:
        return [UUID(item) for item in sorted(self.whole.keys() | {item for item, _ in self.faces})]


@dataclass
class _Told:
    """What the trail told; and the newest ticket, where the ledger has not got its line yet."""

    requests: set[str] = field(default_factory=set)
    orders: set[str] = field(default_factory=set)
    newest: tuple[int, bool] = (-1, True)
    ledger: tuple[int, str] | None = None
    pinned: set[tuple[str, str]] = field(default_factory=set)
    subjects: dict[str, UUID] = field(default_factory=dict)  # whom an item showed when its keys went
    releases: defaultdict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))  # and what it was in


def check_ledger(session: Session, ledger: Ledger, result: Verification) -> None:
    """Adds to `result` what ledger, trail and sealed keys say otherwise than each other. What it has found already that the custodian did
    not sign is nothing to hold a ledger against. Raises LedgerInvalid, LedgerMissing.
    """
    book, told, forgotten, doubted = _Book.of(ledger), _Told(), 0, doubted_in(result, Problem.CUSTODIAN)
    query = select(Event.seq, Event.event, Event.canonical).where(Event.event.in_([kind.value for kind in _KINDS]))
    for seq, event, canonical in session.execute(query.order_by(Event.seq).execution_options(yield_per=_CHUNK)):
        if seq in doubted:
            continue
        try:
            faults = list(_event_faults(book, told, seq, event, read_json(bytes(canonical))["fields"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            faults = [f"it cannot be held against the ledger: {type(error).__name__}"]
        forgotten += bool(faults) and book.forgave(seq)
        for words in faults if not book.forgave(seq) else ():
            result.found(Problem.LEDGER, f"event {seq}", f"{event}: {words}")
    if forgotten:
        result.notes.append(
            f"the ledger was begun again after a loss, and forgot what the trail tells of in {number_of(forgotten, 'event')}"
        )
    seq, known = told.newest
    if not known:
        result.notes.append(
            f"event {seq}: the ledger has not got this newest ticket yet: the custodian makes that good"
        )
    taken = session.execute(
        select(func.now())
    ).scalar_one()  # when this transaction began, and so its snapshot at the earliest
    _check_lines(book, told, taken, result)
    _check_tombstones(session, book, told, result)
    _check_holds(session, ledger, told, result)


def _event_faults(book: _Book, told: _Told, seq: int, event: str, fields: Mapping[str, Any]) -> Iterator[str]:
    detail = fields.get("detail", {})
    if event == AuditEvent.TICKET_SPENT:
        yield from _ticket_faults(book, told, seq, fields)
    elif event == AuditEvent.KEY_SHREDDED:
        if "subject" in fields:
            told.subjects[fields["item"]] = UUID(fields["subject"])
        if "release" in fields:
            told.releases[fields["item"]].add(UUID(fields["release"]))
        faces = [*detail.get("faces", ()), *([LAYOUT_FACE] if detail.get("layout") else ())]
        missing = [face for face in faces if book.tombstone(fields["item"], face) is None]
        if missing:
            yield f"the ledger has no tombstone of {_named(fields['item'], missing)}"
    elif event == AuditEvent.PINNED_CHANGED:
        # Without a line of its own it is one that a crash cut off from the ledger: the custodian tells it again.
        told.pinned.add((detail["file"], detail["after"]))
    elif event == AuditEvent.LEDGER_BEGUN:
        told.ledger = (seq, str(detail["ledger"]))
    else:
        told.orders.add(fields["request_hash"])
        answer = book.answers.get(fields["request_hash"])
        if event == AuditEvent.ORDER_DONE:
            kind = detail.get("kind")
            fits = answer is not None and (kind is None or answer.entry["kind"] == OUTCOMES[OrderKind(kind)])
        else:
            fits = answer.entry["kind"] == Outcome.REFUSED if answer is not None else detail.get("refusal") in _NOBODYS
        if not fits:
            yield (
                "the ledger does not know that order"
                if answer is None
                else f"line {answer.number} of the ledger says otherwise"
            )


def _ticket_faults(book: _Book, told: _Told, seq: int, fields: Mapping[str, Any]) -> Iterator[str]:
    before, known_before = told.newest
    if not known_before:  # only the newest one's line may still be missing
        yield f"and the ledger does not know the ticket of event {before}, which came before it"
    told.requests.add(fields["request"])
    line = book.spent.get(fields["request"])
    told.newest = (seq, line is not None)
    if line is None:
        return
    if (line.entry["ticket"], line.entry["recovery"]) != (fields["ticket"], fields["recovery"]):
        yield f"line {line.number} of the ledger has another ticket or recovery of that request"


def _check_lines(book: _Book, told: _Told, taken: datetime, result: Verification) -> None:
    """What the ledger says that the trail, as it was when `taken`, does not tell of."""
    if told.ledger is not None and told.ledger[1] != book.id:
        later = book.begun if book.forgave(told.ledger[0]) else None  # that event stood already when it was begun
        if later is None or not _noted_as_younger(later, "it was begun", taken, result):
            result.found(Problem.LEDGER, f"event {told.ledger[0]}", "another ledger than this one was begun here")
    elif told.ledger is None and book.begun is not None and book.recalled is not None:
        words = "it was begun after a loss, and the trail does not say so"
        _found_or_younger(book.begun, words, taken, result)
    for request, line in book.spent.items():
        if request not in told.requests:
            words = f"request {request} was opened, and the trail has no ticket:spent of it"
            _found_or_younger(line, words, taken, result)
    for (file, sha256), line in book.pinned.items():
        if (file, sha256) not in told.pinned:
            words = f"another version of the {file} was told of, and the trail has no pinned:changed of it"
            _found_or_younger(line, words, taken, result)
    for sha256, line in book.answers.items():
        if sha256 not in told.orders:
            words = f"order {line.entry['order']} was answered ({line.entry['kind']}), and the trail does not say so"
            _found_or_in_hand(line, words, result)


def _found_or_younger(line: Line, words: str, taken: datetime, result: Verification) -> None:
    if not _noted_as_younger(line, words, taken, result):
        result.found(Problem.LEDGER, f"ledger line {line.number}", words)


def _noted_as_younger(line: Line, words: str, taken: datetime, result: Verification) -> bool:
    """Whether the line is of after the snapshot, which is then noted: its event may be as well. One of times to come is not."""
    if not taken - CLOCKS <= line.at <= datetime.now(UTC) + CLOCKS:
        return False
    result.notes.append(f"ledger line {line.number}: {words}: it is of after this began; verify again to see its event")
    return True


def _check_tombstones(session: Session, book: _Book, told: _Told, result: Verification) -> None:
    """Keys that are buried and still there: in hand, or brought back."""
    done = {line.entry["order"] for sha256, line in book.answers.items() if sha256 in told.orders}
    items = book.items()
    for at in range(0, len(items), _CHUNK):
        query = select(SealedKey.item_id, SealedKey.face).where(
            SealedKey.item_id.in_(items[at : at + _CHUNK]), SealedKey.state != KeyState.SHREDDED
        )
        for item, face in session.execute(query.distinct().order_by(SealedKey.item_id, SealedKey.face)):
            line = book.tombstone(str(item), face)
            if line is None:
                continue
            words = f"{_named(str(item), [face])} was shredded, and is still there"
            if line.entry.get("order") in done:
                result.found(Problem.LEDGER, f"ledger line {line.number}", words)
            else:
                _found_or_in_hand(line, words, result)


def _check_holds(session: Session, ledger: Ledger, told: _Told, result: Verification) -> None:
    """Nothing was buried while a hold stood on it, by the order of the ledger's lines. An item lay where its row says, which what the
    trail has of its submission vouches for, and where the custodian says that its keys went: nobody else's word counts for that.
    """
    lines = ledger.lines()
    if not any(line.entry["kind"] == Outcome.HOLD for line in lines):
        return
    rows = _rows_of(session, {line.entry["item"] for line in lines if line.entry["kind"] == SHREDDED})
    holds = Holds()
    for line in lines:
        said = line.entry
        if said["kind"] in set(Outcome):
            holds.follow(said)
        elif said["kind"] == SHREDDED:
            item, named = said["item"], said["faces"] if "faces" in said else [said["face"]]
            faces = None if named is None else tuple(named)
            release, subject = rows.get(item, (_NOWHERE, None))
            releases, subjects = {release, *told.releases[item]}, {subject, told.subjects.get(item)}
            portions = [Portion(UUID(item), each, one, faces) for each in releases for one in subjects]
            for hold in sorted(map(str, holds.covering(portions))):
                words = f"keys of item {item} were shredded while a hold on {hold} stood"
                result.found(Problem.LEDGER, f"ledger line {line.number}", words)


def _rows_of(session: Session, items: set[str]) -> dict[str, tuple[UUID, UUID | None]]:
    """The release and the subject of each item, by its row."""
    wanted = sorted(map(UUID, items))
    query = select(Item.id, Item.release_id, Item.subject_id)
    chunks = (wanted[at : at + _CHUNK] for at in range(0, len(wanted), _CHUNK))
    rows = (row for chunk in chunks for row in session.execute(query.where(Item.id.in_(chunk))))
    return {str(row.id): (row.release_id, row.subject_id) for row in rows}


def _found_or_in_hand(line: Line, words: str, result: Verification) -> None:
    if datetime.now(UTC) - line.at > IN_HAND:
        result.found(Problem.LEDGER, f"ledger line {line.number}", words)
    else:
        result.notes.append(
            f"ledger line {line.number}: {words}: in hand, or a crash came between and the custodian makes it good"
        )


def _named(item: str, faces: Sequence[int]) -> str:
    return f"the key of face {', '.join(map(str, faces[:5]))}{', ...' if len(faces) > 5 else ''} of item {item}"
