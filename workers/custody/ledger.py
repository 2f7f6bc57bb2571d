"""The custodian's ledger, a file outside Postgres: which requests were opened, which keys were shredded, what is held.

Whoever takes the database back to yesterday brings back an unspent ticket, a shredded key or a lifted hold; the ledger
does not forget. One JSON object a line; each carries the SHA-256 of the line before it, so that a cut or changed line
is seen. A last line without its line break is a write that a crash cut short, and is taken away.

A tombstone is a line `shredded` for one item: `face` or `faces` name what was shredded, `faces: null` means every key
that the item has or will have, and the `order` or `policy_sha256` and `retain_days` why.
The lines `shred`, `hold`, `lifted` and `refused` say what became of a key officer's
order, of which tenant; `shred` comes after the order's tombstones, in the same write: where it stands, all of them do. `hold` names
the items that a release or subject had then: whoever moves rows later takes none of them out of it.

The first line is `begun`, with a random id, so that a file that is not there can be told from one that says nothing yet. Where
a ledger was lost, `recalled` in it is the number of the trail's newest event then, and what the custodian had signed up to it
follows (`workers.custody.recall`). Ledgers of before that line are read as they are. A line `pinned` says which version of the
roster or the policies the trail was told of last.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import rfc8785

from schemas.orders import OrderTerms
from schemas.states import OrderScope
from workers.custody.errors import Held, LedgerExists, LedgerInvalid, LedgerLoose, LedgerMissing
from workers.custody.guarded import looseness
from workers.custody.holds import Holds, Outcome, Portion, Target
from workers.custody.pinned import PinnedFile
from workers.strangers import read_json

BEGUN = "begun"
PINNED = "pinned"
SPENT = "spent"
SHREDDED = "shredded"
_START = "0" * 64
_REASONS = ("order", "policy_sha256", "retain_days")
_Entry = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """An order that the custodian has answered, as it was signed. `line` is the hash of the ledger's line about it."""

    id: UUID
    outcome: Outcome
    target: Target
    sha256: str
    refusal: str | None
    line: str


@dataclass(frozen=True)
class Opening:
    """A request that was opened, with its ticket and the recovery that it was spent on."""

    request: UUID
    ticket: UUID
    recovery: UUID

    def entry(self) -> _Entry:
        return {"kind": SPENT, "request": str(self.request), "ticket": str(self.ticket), "recovery": str(self.recovery)}


@dataclass(frozen=True)
class Recalled:
    """What the custodian's own signatures up to event `trail` (-1: of none) still say of a ledger that was lost."""

    trail: int
    openings: tuple[Opening, ...] = ()
    portions: tuple[Portion, ...] = ()
    answers: tuple[tuple[OrderTerms, Outcome, tuple[UUID, ...]], ...] = ()


@dataclass(frozen=True)
class Line:
    """One line as it stands in the file: its number from 1, when it was written, and what it says."""

    number: int
    at: datetime
    entry: dict[str, Any]


@dataclass
class _Known:
    last: str = _START
    lines: int = 0
    id: UUID | None = None
    recalled: int = -1
    pinned: dict[str, str] = field(default_factory=dict)
    spent: dict[UUID, tuple[UUID, UUID]] = field(default_factory=dict)
    whole: dict[UUID, str] = field(default_factory=dict)
    faces: dict[UUID, dict[int, str]] = field(default_factory=dict)
    why: dict[str, _Entry] = field(default_factory=dict)
    reasons: dict[tuple[Any, ...], _Entry] = field(default_factory=dict)  # what many lines say is kept once
    orders: dict[UUID, Answered] = field(default_factory=dict)
    holds: Holds = field(default_factory=Holds)

    def tombstone(self, item: UUID, face: int) -> str | None:
        return self.whole.get(item) or self.faces.get(item, {}).get(face)


@dataclass
class _Reading:
    """What was read: so many bytes of this SHA-256; and the file's inode, size and time of change, as they were then."""

    known: _Known = field(default_factory=_Known)
    size: int = 0
    digest: bytes = hashlib.sha256().digest()
    version: tuple[int, int, int] | None = None


class Ledger:
    """One ledger file. Each question is answered by what is on disk now; the lines that were read before are only looked
    at for changes.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._reading = _Reading()

    @classmethod
    def begin(cls, path: Path | str, recalled: Recalled | None = None) -> Ledger:
        """Begins a ledger where there is none, with what is recalled of the one that was lost; on disk when it returns.

        Raises LedgerExists, and OSError where it cannot be written.
        """
        ledger = cls(path)
        ledger._path.parent.mkdir(parents=True, exist_ok=True)
        ledger._append(lambda known: _beginning(known, recalled), begin=True)
        return ledger

    @property
    def id(self) -> UUID | None:
        """The id that it began with; None for a ledger of before there were ids. Raises LedgerInvalid, LedgerMissing."""
        return self._read().id

    @property
    def recalled(self) -> int:
        """The trail's newest event when this ledger was begun after a loss; -1 where nothing was lost. Raises LedgerInvalid."""
        return self._read().recalled

    def spent(self, request: UUID) -> bool:
        """Whether a ticket of this request was spent before. Raises LedgerInvalid."""
        return request in self._read().spent

    def spent_on(self, request: UUID) -> tuple[UUID, UUID] | None:
        """The ticket of this request that was spent, and the recovery that it was spent on. Raises LedgerInvalid."""
        return self._read().spent.get(request)

    def shredded(self, item: UUID, face: int) -> bool:
        """Whether this face's key (-1: the item's layout key) was shredded. Raises LedgerInvalid."""
        return self._read().tombstone(item, face) is not None

    def tombstone(self, portion: Portion) -> str | None:
        """The hash of the line that buried these keys, the first face's where there are several lines; None where one of
        them was not shredded. Raises LedgerInvalid.
        """
        known = self._read()
        if portion.faces is None:
            return known.whole.get(portion.item)
        found = [known.tombstone(portion.item, face) for face in portion.faces]
        return None if None in found else found[0]

    def why(self, tombstone: str) -> dict[str, Any]:
        """Why a line buried what it names: the `order`, or the `policy_sha256` and `retain_days`; nothing in lines of before it was said.
        Raises LedgerInvalid.
        """
        return self._read().why.get(tombstone, {})

    def buried(self) -> dict[UUID, tuple[int, ...] | None]:
        """Every item with a tombstone, and the faces that it names; None: all its keys. Raises LedgerInvalid."""
        known = self._read()
        return {item: tuple(sorted(faces)) for item, faces in known.faces.items()} | dict.fromkeys(known.whole)

    def holds(self) -> Holds:
        """What is held. Raises LedgerInvalid."""
        return self._read().holds

    def answer(self, order: UUID) -> Answered | None:
        """What became of an order, if it was answered. Raises LedgerInvalid."""
        return self._read().orders.get(order)

    def erased(self) -> list[UUID]:
        """The subjects that were ordered shredded. Raises LedgerInvalid."""
        orders = self._read().orders.values()
        targets = [each.target for each in orders if each.outcome is Outcome.SHRED]
        return [target.id for target in targets if target.scope is OrderScope.SUBJECT]

    def pinned(self, file: PinnedFile) -> str | None:
        """The SHA-256 (hex) of the version of a pinned file that the trail was told of last. Raises LedgerInvalid."""
        return self._read().pinned.get(file)

    def lines(self) -> list[Line]:
        """Every whole line, for who holds the ledger against something else. Raises LedgerInvalid."""
        self._read()  # their chain holds
        whole = self._path.read_bytes()[: self._reading.size] if self._reading.size else b""
        entries = [read_json(line) for line in whole.splitlines()]
        return [Line(number, datetime.fromisoformat(each["at"]), each) for number, each in enumerate(entries, 1)]

    def record_spent(self, request: UUID, ticket: UUID, recovery: UUID) -> None:
        """Writes, once, that this request was opened; on disk when it returns. Raises LedgerInvalid."""
        self.record_openings([Opening(request, ticket, recovery)])

    def record_openings(self, openings: Sequence[Opening]) -> None:
        """Writes, once and all in one write, that these requests, each named once, were opened. Raises LedgerInvalid."""
        self._append(lambda known: [each.entry() for each in openings if each.request not in known.spent])

    def record_pinned(self, file: PinnedFile, sha256: str) -> None:
        """Writes which version of a pinned file the trail was told of; on disk when it returns. Raises LedgerInvalid."""
        entry = {"kind": PINNED, "file": file.value, "sha256": sha256}
        self._append(lambda known: [] if known.pinned.get(file) == sha256 else [entry])

    def record_shredded(
        self, portions: Sequence[Portion], terms: OrderTerms | None = None, policy: _Entry | None = None
    ) -> None:
        """Writes, once, the tombstones of these keys, with the order or the policy (`Because.why`) for them; on disk when it returns.

        Raises Held, and writes nothing, where a hold forbids one of them; LedgerInvalid.
        """

        def entries(known: _Known) -> list[_Entry]:
            held = known.holds.covering(portions)
            if held:
                raise Held(", ".join(sorted(map(str, held))[:3]))
            made = [entry for portion in portions for entry in _tombstones(known, portion, terms, policy)]
            return made + _answers(known, terms, Outcome.SHRED)

        self._append(entries)

    def record_hold(self, terms: OrderTerms, items: Sequence[UUID] = ()) -> None:
        """Writes, once, what is held by this order, with the items that a release or subject has; on disk when it returns. Raises
        LedgerInvalid.
        """
        self._append(lambda known: _answers(known, terms, Outcome.HOLD, items=_texts(items)))

    def record_lifted(self, terms: OrderTerms) -> bool:
        """Writes, once, that this order lifted what its tenant held; False where nothing was. Raises LedgerInvalid."""
        held = True

        def entries(known: _Known) -> list[_Entry]:
            nonlocal held
            held = terms.id in known.orders or bool(
                known.holds.liftable(Target.of(terms), terms.created_at, terms.tenant)
            )
            return _answers(known, terms, Outcome.LIFTED) if held else []

        self._append(entries)
        return held

    def record_refused(self, terms: OrderTerms, refusal: str) -> None:
        """Writes, once, that this order was refused, so that it is not carried out later. Raises LedgerInvalid."""
        self._append(lambda known: _answers(known, terms, Outcome.REFUSED, refusal=refusal))

    def _read(self) -> _Known:
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise self._missing() from None
        with os.fdopen(descriptor, "rb") as file:
            status = self._guarded(file.fileno())
            version = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._reading.version != version:
                self._learn(file.read())
                self._reading.version = version
            if not self._reading.known.lines:
                raise LedgerMissing("the file holds no line")
            return self._reading.known

    def _guarded(self, descriptor: int) -> os.stat_result:
        """The open file's status. Raises LedgerLoose where others may write it."""
        status = os.fstat(descriptor)
        loose = looseness(self._path, status)
        if loose is not None:
            raise LedgerLoose(loose)
        return status

    def _missing(self) -> LedgerInvalid:
        return LedgerInvalid("this process read it before, and it is gone") if self._reading.size else LedgerMissing()

    def _learn(self, content: bytes) -> _Known:
        """What the whole lines say. Raises LedgerInvalid."""
        before, whole = self._reading, content[: content.rfind(b"\n") + 1]
        if hashlib.sha256(whole[: before.size]).digest() != before.digest:
            raise LedgerInvalid("lines that this process read before are changed or gone")
        try:
            _parse(before.known, whole[before.size :])
        except BaseException:  # what was read before stays known: an older copy put in its place is still seen
            known = _Known()
            _parse(known, whole[: before.size])
            self._reading = _Reading(known, before.size, before.digest)
            raise
        self._reading = _Reading(before.known, len(whole), hashlib.sha256(whole).digest())
        return before.known

    def _append(self, entries: Callable[[_Known], Iterable[_Entry]], *, begin: bool = False) -> None:
        """Writes the lines that `entries` gives for what is known, all in one write and under the file's lock."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | (os.O_CREAT if begin else 0), 0o600)
        except FileNotFoundError:
            raise self._missing() from None
        with os.fdopen(descriptor, "r+b") as file:
            self._guarded(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX)
            content = file.read()
            known = self._learn(content)
            if not known.lines and not begin:
                raise LedgerMissing("the file holds no line")
            at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            lines, before = [], known.last
            for entry in entries(known):
                lines.append(rfc8785.dumps({"v": 1, "at": at, "before": before, **entry}))
                before = hashlib.sha256(lines[-1]).hexdigest()
            if not lines:
                return
            whole = content.rfind(b"\n") + 1
            file.seek(whole)
            file.truncate()
            file.write(b"\n".join(lines) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _beginning(known: _Known, recalled: Recalled | None) -> list[_Entry]:
    if known.lines:
        raise LedgerExists
    begun: _Entry = {"kind": BEGUN, "id": str(uuid4())}
    if recalled is None:
        return [begun]
    made = [begun | {"recalled": recalled.trail}, *(opening.entry() for opening in recalled.openings)]
    made += [entry for portion in recalled.portions for entry in _tombstones(known, portion, None)]
    for terms, outcome, items in recalled.answers:
        made += _answers(known, terms, outcome, items=_texts(items))
    return made


def _tombstones(
    known: _Known, portion: Portion, terms: OrderTerms | None, policy: _Entry | None = None
) -> list[_Entry]:
    """The lines that bury what is not buried yet."""
    entry: _Entry = {"kind": SHREDDED, "item": str(portion.item), "order": str(terms.id) if terms else None}
    entry |= policy or {}
    if portion.item in known.whole:
        return []
    if portion.faces is None:
        return [entry | {"faces": None}]
    left = [face for face in portion.faces if known.tombstone(portion.item, face) is None]
    return [entry | {"faces": left}] if left else []


def _texts(items: Sequence[UUID]) -> list[str] | None:
    return sorted(map(str, items)) or None


def _answers(known: _Known, terms: OrderTerms | None, outcome: Outcome, **more: Any) -> list[_Entry]:
    if terms is None or terms.id in known.orders:
        return []
    entry: _Entry = {
        "kind": outcome.value,
        "order": str(terms.id),
        "sha256": terms.sha256().hex(),
        "tenant": terms.tenant,
        "scope": terms.scope.value,
        "target": str(terms.target),
        "face": terms.face,
        "ordered_at": terms.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
    }
    return [entry | {name: value for name, value in more.items() if value is not None}]


def _parse(known: _Known, content: bytes) -> None:
    """Adds what these lines say to what is known. Raises LedgerInvalid."""
    for line in content.splitlines():
        known.lines += 1
        try:
            entry = read_json(line)
            if entry["before"] != known.last:
                raise LedgerInvalid(f"line {known.lines} does not follow the one before it")
            known.last = hashlib.sha256(line).hexdigest()
            _learn_entry(known, entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerInvalid(f"line {known.lines}") from error


def _learn_entry(known: _Known, entry: _Entry) -> None:
    if entry["kind"] == BEGUN and known.lines == 1:
        known.id, known.recalled = UUID(entry["id"]), int(entry.get("recalled", -1))
    elif entry["kind"] == PINNED:
        known.pinned[PinnedFile(entry["file"])] = entry["sha256"]
    elif entry["kind"] == SPENT:
        known.spent[UUID(entry["request"])] = UUID(entry["ticket"]), UUID(entry["recovery"])
    elif entry["kind"] == SHREDDED:
        item, faces = UUID(entry["item"]), entry["faces"] if "faces" in entry else [entry["face"]]
        why = {name: entry[name] for name in _REASONS if entry.get(name) is not None}
        known.why[known.last] = known.reasons.setdefault(tuple(why.items()), why)
        if faces is None:
            known.whole.setdefault(item, known.last)
        else:
            buried = known.faces.setdefault(item, {})
            for face in faces:
                buried.setdefault(int(face), known.last)
    else:
        _learn_order(known, entry)


def _learn_order(known: _Known, entry: _Entry) -> None:
    outcome = Outcome(entry["kind"])  # a line of any other kind is from a later version, or from nobody of ours
    target = Target(OrderScope(entry["scope"]), UUID(entry["target"]), entry["face"])
    known.holds.follow(entry)
    order = UUID(entry["order"])
    known.orders[order] = Answered(order, outcome, target, entry["sha256"], entry.get("refusal"), known.last)
