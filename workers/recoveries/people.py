"""People as the gateway knows them. Whoever counts stands on the custodian's roster as well, which no service can write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.tables import Person
from workers.audit import append
from workers.custody.passkeys import Passkey
from workers.custody.roster import RosterPerson
from workers.recoveries.errors import PersonExists, PersonUnknown


def add(session: Session, person: RosterPerson, actor: str, **vouched: str) -> bool:
    """Adds a person, in the caller's transaction; False where just this person is there already.

    `vouched`: who says so, where an identity provider does; it goes into the event.

    Raises PersonExists where the id or a key belongs to somebody else.
    """
    query = select(Person).where(
        or_(
            Person.id == person.id,
            Person.ed25519_public == person.ed25519_public,
            Person.x25519_public == person.x25519_public,
        )
    )
    known = session.execute(query).scalars().all()
    if known:
        if len(known) > 1 or known[0].removed_at is not None or not _same(known[0], person):
            raise PersonExists
        return False
    session.add(
        Person(
            id=person.id,
            tenant=person.tenant,
            roles=sorted(person.roles),
            ed25519_public=person.ed25519_public,
            x25519_public=person.x25519_public,
            passkeys=[{"id": one.id, "public": one.public.hex()} for one in person.passkeys],
        )
    )
    detail: dict[str, Any] = {
        "tenant": person.tenant,
        "roles": sorted(person.roles),
        "ed25519": person.ed25519_public.hex(),
        "x25519": person.x25519_public.hex(),
    }
    detail |= vouched
    if person.passkeys:
        detail["passkeys"] = [{"id": one.id, "public": one.public.hex()} for one in person.passkeys]
    append(session, AuditEvent.PERSON_ADDED, actor=actor, subject=person.id, detail=detail)
    return True


def remove(session: Session, person: str, actor: str) -> None:
    """Marks a person as gone, in the caller's transaction; the row stays, for what they signed. Raises PersonUnknown."""
    row = session.get(Person, person, with_for_update=True)
    if row is None or row.removed_at is not None:
        raise PersonUnknown(person[:64])
    session.execute(update(Person).where(Person.id == person).values(removed_at=func.clock_timestamp()))
    append(session, AuditEvent.PERSON_REMOVED, actor=actor, subject=person)


def as_on_roster(row: Person) -> RosterPerson:
    """A person's row as the roster would have them."""
    passkeys = tuple(Passkey(one["id"], bytes.fromhex(one["public"])) for one in row.passkeys)
    public = bytes(row.ed25519_public), bytes(row.x25519_public)
    return RosterPerson(row.id, row.tenant, tuple(sorted(row.roles)), *public, passkeys)


def acting(session: Session, person: str, tenant: str, role: str) -> Person:
    """The person, where they have this role in this tenant and are not gone. Raises PersonUnknown."""
    row = session.get(Person, person)
    if row is None or row.tenant != tenant or role not in row.roles or row.removed_at is not None:
        raise PersonUnknown(f"{person[:64]} as {role}")
    return row


def _same(row: Person, person: RosterPerson) -> bool:
    return as_on_roster(row) == replace(person, roles=tuple(sorted(person.roles)))
