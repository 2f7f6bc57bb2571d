"""The register of custody keys: each change is a row and its event in one transaction, so that the trail tells each
key's period: created, rotated to, retired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.tables import CustodyKey, SealedKey
from workers.audit import append
from workers.custody.errors import CustodyKeyUnknown


@dataclass(frozen=True)
class KnownKey:
    """A custody key that this custodian can unwrap with. `created_at` is None where only its provider knows."""

    id: str
    suite: str
    created_at: datetime | None


def enter(session: Session, key: KnownKey, actor: str) -> bool:
    """Puts a key on the register, with `key:created`; False where it is on it already."""
    row = {"id": key.id, "suite": key.suite, "created_at": key.created_at or func.now()}
    entered = session.execute(insert(CustodyKey).values(row).on_conflict_do_nothing().returning(CustodyKey.created_at))
    created_at = entered.scalar_one_or_none()
    if created_at is None:
        return False
    detail = {"key": key.id, "suite": key.suite, "created_at": created_at.isoformat()}
    append(session, AuditEvent.KEY_CREATED, actor=actor, detail=detail)
    return True


def rotating_to(session: Session) -> str | None:
    """The key of the rotation that was begun and not finished."""
    return session.execute(select(CustodyKey.id).where(CustodyKey.rotating)).scalar_one_or_none()


def start(session: Session, key: KnownKey, actor: str) -> None:
    """Begins a rotation to a key, unless that is what is under way."""
    # Before any event's lock, for it counts every row. A taken-over release worker may have written any ids into them.
    held = [{"key": each[:200], "holds": n} for each, n in wrapped_under(session).items() if each != key.id][:20]
    enter(session, key, actor)
    change = update(CustodyKey).where(CustodyKey.id == key.id, ~CustodyKey.rotating).values(rotating=True, rewrapped=0)
    if session.execute(change.returning(CustodyKey.id)).scalar_one_or_none() is not None:
        append(session, AuditEvent.KEY_ROTATION_STARTED, actor=actor, detail={"to": key.id, "from": held})


def count(session: Session, to: str, origin: str, rewrapped: int, actor: str) -> None:
    """Notes one batch of a rotation, in the transaction that wrapped it again."""
    more = {"rewrapped": CustodyKey.rewrapped + rewrapped}
    session.execute(update(CustodyKey).where(CustodyKey.id == to).values(more))
    append(session, AuditEvent.KEY_REWRAPPED, actor=actor, detail={"count": rewrapped, "from": origin, "to": to})


def finish(session: Session, to: str, left: int, actor: str) -> int:
    """Ends a rotation; gives how many keys it wrapped again, over all of its runs. `left`: those that do not open."""
    done = update(CustodyKey).where(CustodyKey.id == to, CustodyKey.rotating).values(rotating=False)
    rewrapped = session.execute(done.returning(CustodyKey.rewrapped)).scalar_one_or_none()
    if rewrapped is None:  # somebody else finished it meanwhile
        return session.execute(select(CustodyKey.rewrapped).where(CustodyKey.id == to)).scalar_one()
    detail = {"to": to, "rewrapped": rewrapped, "left": left}
    append(session, AuditEvent.KEY_ROTATION_FINISHED, actor=actor, detail=detail)
    return rewrapped


def close(session: Session, key: str) -> None:
    """Forbids that anything is sealed to a key from here on; waits for the seals that are under way.

    Raises CustodyKeyUnknown.
    """
    row = session.get(CustodyKey, key, with_for_update=True)
    if row is None or row.retired_at is not None:
        raise CustodyKeyUnknown(key[:200])
    if row.closed_at is None:
        row.closed_at = session.execute(select(func.clock_timestamp())).scalar_one()
        session.flush()


def retire(session: Session, key: str, actor: str) -> None:
    """Notes that the private half of a closed key is gone."""
    gone = update(CustodyKey).where(CustodyKey.id == key, CustodyKey.retired_at.is_(None))
    done = gone.values(retired_at=func.clock_timestamp()).returning(CustodyKey.id)
    if session.execute(done).scalar_one_or_none() is not None:
        append(session, AuditEvent.KEY_RETIRED, actor=actor, detail={"key": key})


def wrapped_under(session: Session) -> Mapping[str, int]:
    """How many keys each custody key holds, those of abandoned attempts among them."""
    query = select(SealedKey.custody_key_id, func.count()).where(SealedKey.wrapped.is_not(None))
    rows = session.execute(query.group_by(SealedKey.custody_key_id).order_by(SealedKey.custody_key_id))
    return {row[0]: row[1] for row in rows}
