"""Rotating the custody key: a new one is made, and everything that older ones hold is wrapped again under it.

It can be killed at any step and run again: what is done is on the key ring, in the register, and in each row's
`custody_key_id`. A key is written to disk before anything is sealed to it, and each row is opened again under the new
key before the old wrapping is given up.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker, undefer

from schemas.states import KeyState
from schemas.tables import Attempt, CustodyKey, Item, Release, SealedKey
from workers.audit.attested import EventSigner, attesting
from workers.custody import keys, register
from workers.custody.errors import (
    CustodyError,
    KeyRingBusy,
    KeyRingMissing,
    KeyUnknown,
    PassphraseNeeded,
    ServiceNotConfigured,
    ServiceUnknown,
    Unwrappable,
)
from workers.custody.ledger import Ledger
from workers.custody.providers import Sealer, Unwrapper
from workers.custody.providers.sealers import ToPublicKey
from workers.custody.providers.services import Held, services
from workers.custody.register import KnownKey
from workers.custody.rows import context_of, unwrap_row
from workers.custody.sealing import DEFAULT_SUITE, PublicKey
from workers.words import number_of

# Where the fault tests kill a rotation and a retirement.
ROTATION_STEPS = (
    "after-registered",
    "after-ring-written",
    "after-public-written",
    "after-started",
    "within-batch",
    "after-batch",
    "before-finished",
    "after-finished",
)
RETIREMENT_STEPS = ("after-closed", "after-ring-shortened", "after-retired")
BATCH = 500  # rows in one transaction
_NIL = UUID(int=0)


class RotationUnfinished(CustodyError):
    """A rotation to another key was begun and not finished: run it to its end first."""

    code = "rotation_unfinished"


class KeyInUse(CustodyError):
    """This custody key is still needed: `refacex keys rotate` to another one first, and see `refacex keys check`."""

    code = "custody_key_in_use"


class Joined(NamedTuple):
    """A sealed key with what it is bound to."""

    sealed: SealedKey
    attempt: Attempt
    release: Release
    subject: UUID | None


@dataclass(frozen=True)
class Failure:
    """A sealed key that does not open. `face` is -1 for the layout key; `code`: the error's."""

    item: UUID
    face: int
    custody_key_id: str
    code: str


@dataclass
class Tally:
    """What came of a walk over the rows. `buried`: keys with a tombstone that a restored backup brought back."""

    opened: int = 0
    buried: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Rotated:
    """What came of a rotation. `rewrapped` counts all of its runs, also those that were killed."""

    to: str
    rewrapped: int
    tally: Tally


@dataclass(frozen=True)
class Listed:
    """One custody key of the list; `created_at` None: never registered, so not one of ours."""

    id: str
    suite: str
    created_at: datetime | None
    state: str
    wrapped: int


@dataclass(frozen=True)
class KeyOffice:
    """What custody keys are looked after with, on the custodian's machine.

    `events` signs them as the custodian's; `passphrase` is what the ring is written under, None for none; `services` the key
    services that a rotation may go to; `reach` is told each step's name, `told` how many rows were gone through.
    """

    sessions: sessionmaker[Session]
    unwrapper: Unwrapper
    ledger: Ledger
    events: EventSigner
    actor: str
    ring: Path | None = None
    public: Path | None = None
    ask: keys.Ask | None = None
    services: Sequence[Held] = ()
    reach: Callable[[str], None] = lambda step: None
    told: Callable[[int], None] = lambda rows: None
    batch: int = BATCH

    def __post_init__(self) -> None:
        object.__setattr__(self, "sessions", attesting(self.sessions, self.events))

    # --- what there is

    def overview(self) -> list[Listed]:
        """Every custody key that there is or was, and what each still holds."""
        ring = self._read_ring()
        self._register(ring)
        held_here = {key.id for key in self._known(ring)}
        with self.sessions() as session:
            rows = {row.id: row for row in session.scalars(select(CustodyKey).order_by(CustodyKey.created_at))}
            wrapped = register.wrapped_under(session)
        listed = [
            Listed(row.id, row.suite, row.created_at, self._state(row, ring, held_here), wrapped.get(row.id, 0))
            for row in rows.values()
        ]
        foreign = [Listed(key, "", None, "unknown", count) for key, count in wrapped.items() if key not in rows]
        return listed + foreign

    def _state(self, row: CustodyKey, ring: keys.KeyFile | None, held_here: set[str]) -> str:
        if row.retired_at is not None:
            return "retired"
        if row.id not in held_here:
            return "missing"
        if row.rotating:
            return "rotating"
        if row.closed_at is not None:
            return "closed"
        return "active" if self._is_active(row.id, ring) else "old"

    def _is_active(self, key: str, ring: keys.KeyFile | None) -> bool:
        return (ring is not None and key == ring.active) or any(key == each.keys[0] for each in self.services)

    def check(self) -> Tally:
        """Unwraps every live row, and says what does not open."""
        self._register(self._read_ring())
        tally, last = Tally(), _NIL
        while True:
            query = _rows().where(SealedKey.state == KeyState.LIVE, SealedKey.wrapped.is_not(None), SealedKey.id > last)
            with self.sessions() as session:
                rows = _joined(session, query.order_by(SealedKey.id).limit(self.batch))
            if not rows:
                return tally
            last = rows[-1].sealed.id
            for row in rows:
                self._open(row, tally)
            self.told(len(rows))

    # --- rotation

    def rotate(self, *, to: str | None = None, new_key: bool = True) -> Rotated:
        """Goes on with the rotation that is under way, or begins one: to the key service of suite `to`, or within the ring
        (`new_key` False makes no new key for it).

        Raises RotationUnfinished where one to another provider is under way, KeyRingMissing, ServiceNotConfigured, ServiceUnknown,
        KeyRingBusy; Away and the database's errors where an engine went away: running it again goes on.
        """
        with self._alone():
            target, sealer = self._ring_target(new_key) if to is None else self._service_target(to)
            with self.sessions.begin() as session:
                register.start(session, target, self.actor)
            self.reach("after-started")
            while True:  # until a walk finds nothing more: a late release worker may have sealed behind our back
                tally = Tally()
                for origin in self._origins(target.id):
                    self._rewrap_from(origin, target.id, sealer, tally)
                if not tally.opened:
                    break
            self.reach("before-finished")
            with self.sessions.begin() as session:
                rewrapped = register.finish(session, target.id, len(tally.failures), self.actor)
            self.reach("after-finished")
            return Rotated(target.id, rewrapped, tally)

    def _service_target(self, suite: str) -> tuple[KnownKey, Sealer]:
        service = next((each for each in self.services if each.suite == suite), None)
        if service is None:
            known = sorted(each.suite for each in services())
            raise ServiceNotConfigured(suite) if suite in known else ServiceUnknown(", ".join(known))
        self._register(self._read_ring())
        self._refuse_another(service.keys[0])
        self.reach("after-registered")
        return KnownKey(service.keys[0], service.suite, None), service.sealer

    def _ring_target(self, new_key: bool) -> tuple[KnownKey, Sealer]:
        ring = self._read_ring()
        if ring is None or self.ring is None:
            raise KeyRingMissing
        self._register(ring)
        self.reach("after-registered")
        under_way = self._cut_short(ring) or self._refuse_another(ring.active)
        if new_key and not under_way:
            ring = ring.with_new(keys.KeyType.X25519)
            keys.rewrite(self.ring, ring, self._passphrase(ring))
        self.reach("after-ring-written")
        if self.public is not None:
            keys.write_public(self.public, ring.public_json())
        self.reach("after-public-written")
        active = next(key for key in ring.keys if key.id == ring.active)
        return _known_key(active), ToPublicKey(PublicKey(active.id, active.public))

    def _cut_short(self, ring: keys.KeyFile) -> bool:
        """Whether a rotation was killed between the ring and its first event: its key is not on the register yet."""
        with self.sessions() as session:
            return session.get(CustodyKey, ring.active) is None

    def _refuse_another(self, target: str) -> bool:
        """Whether the rotation to `target` is under way. Raises RotationUnfinished where one to another key is."""
        with self.sessions() as session:
            under_way = register.rotating_to(session)
        if under_way is not None and under_way != target:
            to = next((f" --to {each.suite}" for each in self.services if under_way in each.keys), "")
            raise RotationUnfinished(f"refacex keys rotate{to}, to {under_way}")
        return under_way is not None

    def _origins(self, target: str) -> list[str]:
        with self.sessions() as session:
            return [key for key in register.wrapped_under(session) if key != target]

    def _rewrap_from(self, origin: str, target: str, sealer: Sealer, tally: Tally) -> None:
        last = _NIL
        while True:
            query = _rows().where(
                SealedKey.custody_key_id == origin, SealedKey.wrapped.is_not(None), SealedKey.id > last
            )
            query = query.order_by(SealedKey.id).limit(self.batch).with_for_update(of=SealedKey)
            with self.sessions.begin() as session:
                rows = _joined(session, query)
                if not rows:
                    return
                last = rows[-1].sealed.id
                changes = [change for row in rows if (change := self._rewrap(row, sealer, tally)) is not None]
                if changes:
                    session.execute(update(SealedKey), changes)
                    register.count(session, target, origin, len(changes), self.actor)
                self.reach("within-batch")
            self.told(len(rows))
            self.reach("after-batch")

    def _rewrap(self, row: Joined, sealer: Sealer, tally: Tally) -> dict[str, object] | None:
        key = self._open(row, tally)
        if key is None:
            return None
        context = context_of(*row)
        again = sealer.seal(key, context)
        if self.unwrapper.unwrap(again, context) != key:
            raise Unwrappable("what was just sealed opened as something else")
        return {
            "id": row.sealed.id,
            "suite": again.suite,
            "custody_key_id": again.custody_key_id,
            "wrapped": again.wrapped,
        }

    # --- retirement

    def retire(self, key: str) -> None:
        """Removes an old private key from the ring: what a stolen backup still holds under it never opens again.

        Raises KeyInUse where it is the active key, a rotation to it is under way or a row still needs it,
        CustodyKeyUnknown, KeyRingBusy.
        """
        with self._alone():
            ring = self._read_ring()
            self._register(ring)
            if self._is_active(key, ring):
                raise KeyInUse("it is the one that is sealed to now")
            with self.sessions.begin() as session:
                register.close(session, key)
                self._refuse_needed(session, key)
            self.reach("after-closed")
            with self.sessions.begin() as session:
                register.retire(session, key, self.actor)  # first: what the trail does not take is not done
                if ring is not None and self.ring is not None and any(each.id == key for each in ring.keys):
                    keys.rewrite(self.ring, ring.without(key), self._passphrase(ring))
                self.reach("after-ring-shortened")
            self.reach("after-retired")

    def _refuse_needed(self, session: Session, key: str) -> None:
        query = select(SealedKey.item_id, SealedKey.face).where(
            SealedKey.custody_key_id == key, SealedKey.wrapped.is_not(None)
        )
        needed = sum(not self.ledger.shredded(*row) for row in session.execute(query))
        if needed:
            raise KeyInUse(f"nothing else opens {number_of(needed, 'sealed key')}")

    def protect(self) -> None:
        """Writes the key ring under the passphrase that `ask` gives. Raises KeyRingMissing, PassphraseNeeded."""
        with self._alone():
            ring = self._read_ring()
            if ring is None or self.ring is None:
                raise KeyRingMissing
            if self.ask is None:
                raise PassphraseNeeded
            keys.rewrite(self.ring, ring, self.ask())

    # --- what they share

    def _open(self, row: Joined, tally: Tally) -> bytes | None:
        """The key of a row; None where it has a tombstone or does not open, which the tally notes."""
        sealed = row.sealed
        if self.ledger.shredded(sealed.item_id, sealed.face):
            tally.buried += 1
            return None
        try:
            key = unwrap_row(self.unwrapper, *row)
        except (Unwrappable, KeyUnknown) as error:
            tally.failures.append(Failure(sealed.item_id, sealed.face, sealed.custody_key_id, error.code))
            return None
        tally.opened += 1
        return key

    def _register(self, ring: keys.KeyFile | None) -> None:
        """Enters keys that the register has not seen yet; not the active key beside others, whose rotation enters it."""
        known = self._known(ring)
        fresh = ring.active if ring is not None and len(ring.keys) > 1 else None
        with self.sessions() as session:
            there = set(session.scalars(select(CustodyKey.id)))
        for key in known:
            if key.id not in there and key.id != fresh:
                with self.sessions.begin() as session:
                    register.enter(session, key, self.actor)

    def _known(self, ring: keys.KeyFile | None) -> list[KnownKey]:
        local = [_known_key(key) for key in ring.keys] if ring is not None else []
        return local + [KnownKey(key, each.suite, None) for each in self.services for key in each.keys]

    def _read_ring(self) -> keys.KeyFile | None:
        return None if self.ring is None else keys.load(self.ring, keys.FileKind.CUSTODY, self.ask)

    def _passphrase(self, ring: keys.KeyFile) -> bytes | None:
        return self.ask() if ring.protected and self.ask is not None else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the ring meanwhile. What a killed command left half written beside it goes away."""
        if self.ring is None:
            yield
            return
        with self.ring.with_name(f"{self.ring.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise KeyRingBusy from error
            for left in self.ring.parent.glob(f".{self.ring.name}.*.tmp"):
                left.unlink(missing_ok=True)
            yield


def _joined(session: Session, query: Any) -> list[Joined]:
    return [Joined(*row) for row in session.execute(query)]


def _rows() -> Any:  # a Select, which is written in another way for each version of SQLAlchemy
    query = select(SealedKey, Attempt, Release, Item.subject_id).join(Attempt, Attempt.id == SealedKey.attempt_id)
    query = query.join(Item, Item.id == Attempt.item_id).join(Release, Release.id == Item.release_id)
    return query.options(undefer(SealedKey.wrapped))


def _known_key(key: keys.Key) -> KnownKey:
    return KnownKey(key.id, DEFAULT_SUITE.value, datetime.fromisoformat(key.created_at))
