"""People as the gateway knows them. Whoever counts stands on the custodian's roster as well, which no service can write."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Select, any_, func, literal, or_, select, update
from sqlalchemy.orm import Session

from schemas.administration import PersonTerms, add_message, remove_message
from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.tables import Person
from workers.audit import append
from workers.custody.judge import verifies
from workers.custody.passkeys import Passkey
from workers.custody.roster import ADMINISTRATOR, RosterPerson, signing_keys, unusable_key
from workers.recoveries.errors import (
    AdministratorNeeded,
    KeyUnusable,
    LastAdministrator,
    PersonExists,
    PersonMissing,
    PersonTold,
    PersonUnknown,
    SignatureInvalid,
)
from workers.strangers import read_json


@dataclass(frozen=True)
class Word:
    """An administrator's: who they are, and their signature."""

    by: str
    signature: bytes


def add(session: Session, person: RosterPerson, actor: str, word: Word | None = None, **vouched: str) -> bool:
    """Adds a person, in the caller's transaction; False where just this person is there already.

    `word`: an administrator's, over `add_message`; without one it is the `actor` who does it, for as long as the tenant has no
    administrator. `vouched`: who says so, where an identity provider does; it goes into the event, and is enough for anybody
    but another administrator.

    Raises PersonExists where the id or a key belongs to somebody else; PersonTold where it does by the trail alone; KeyUnusable where a
    key needs no secret, or is none; AdministratorNeeded, PersonUnknown, SignatureInvalid.
    """
    if why := unusable_key(person):
        raise KeyUnusable(why)
    session.execute(
        select(func.pg_advisory_xact_lock(func.hashtextextended("people", 0)))
    )  # no two with one key at once
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
    mine = signing_keys(person)
    raw = [key.removeprefix(b"ed25519") for key in mine if key.startswith(b"ed25519")]
    alike = or_(Person.passkeys != [], Person.ed25519_public.in_(raw))
    if any(
        mine & signing_keys(as_on_roster(other)) for other in session.execute(select(Person).where(alike)).scalars()
    ):
        raise PersonExists
    terms = terms_of(person)
    if word is not None or not vouched or ADMINISTRATOR in person.roles:
        check_word(session, person.tenant, add_message(terms.sha256()), word)
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
    seq = _record(session, AuditEvent.PERSON_ADDED, terms, actor, word, detail)
    if _is_told(session, person, seq):
        raise PersonTold
    return True


def remove(session: Session, person: str, actor: str, word: Word | None = None) -> None:
    """Marks a person as gone, in the caller's transaction; the row stays, for what they signed.

    `word`: an administrator's, over `remove_message`, as for `add`. Raises PersonMissing, LastAdministrator,
    AdministratorNeeded, PersonUnknown, SignatureInvalid.
    """
    terms = terms_of(find(session, person))
    check_word(session, terms.tenant, remove_message(terms.sha256()), word)
    if ADMINISTRATOR in terms.roles:
        others = _administrators(terms.tenant).where(Person.removed_at.is_(None)).order_by(Person.id).with_for_update()
        if session.execute(others).scalars().all() == [person]:
            raise LastAdministrator
    gone = update(Person).where(Person.id == person, Person.removed_at.is_(None)).returning(Person.id)
    if session.execute(gone.values(removed_at=func.clock_timestamp())).scalar_one_or_none() is None:
        raise PersonMissing(person[:64])
    _record(session, AuditEvent.PERSON_REMOVED, terms, actor, word, {})


def find(session: Session, person: str) -> RosterPerson:
    """Somebody who is here, as the roster would have them. Raises PersonMissing."""
    row = session.get(Person, person)
    if row is None or row.removed_at is not None:
        raise PersonMissing(person[:64])
    return as_on_roster(row)


def terms_of(person: RosterPerson) -> PersonTerms:
    """The person as an administrator signs them."""
    passkeys = tuple((one.id, one.public) for one in person.passkeys)
    keys = person.ed25519_public, person.x25519_public
    return PersonTerms(person.id, person.tenant, tuple(sorted(person.roles)), *keys, passkeys)


def check_word(session: Session, tenant: str, message: bytes, word: Word | None) -> None:
    """That an administrator of this tenant signed this; none need to where there never was one.

    Raises AdministratorNeeded, PersonUnknown, SignatureInvalid.
    """
    if word is None:
        if session.execute(_administrators(tenant).limit(1)).first() is not None:
            raise AdministratorNeeded
        return
    if not verifies(bytes(acting(session, word.by, tenant, ADMINISTRATOR).ed25519_public), word.signature, message):
        raise SignatureInvalid


def as_on_roster(row: Person) -> RosterPerson:
    """A person's row as the roster would have them."""
    passkeys = tuple(Passkey(one["id"], bytes.fromhex(one["public"])) for one in row.passkeys)
    public = bytes(row.ed25519_public), bytes(row.x25519_public)
    return RosterPerson(row.id, row.tenant, tuple(sorted(row.roles)), *public, passkeys)


def acting(session: Session, person: str, tenant: str, role: str) -> Person:
    """The person, where they have this role in this tenant and are not gone. Raises PersonUnknown."""
    row = session.get(Person, person)
    if row is None or row.tenant != tenant or role not in row.roles or row.removed_at is not None:
        raise PersonUnknown(f"{person[:64]} as {role} of {tenant[:64]}")
    return row


def _administrators(tenant: str) -> Select[str]:
    return select(Person.id).where(Person.tenant == tenant, literal(ADMINISTRATOR) == any_(Person.roles))


def _record(
    session: Session, event: AuditEvent, terms: PersonTerms, actor: str, word: Word | None, detail: dict[str, Any]
) -> int:
    if word is not None:
        detail = detail | {"signature": word.signature.hex()}
    by, signed = (word.by, terms.sha256()) if word is not None else (actor, None)
    return append(session, event, actor=by, subject=terms.id, request_hash=signed, detail=detail)


def _is_told(session: Session, person: RosterPerson, seq: int) -> bool:
    """Whether a `person:added` before event `seq`, which is theirs, is of this id, or gives this key. That one is written already, and
    appenders wait for one another: nobody comes between.
    """
    query = select(Event.canonical).where(Event.event == AuditEvent.PERSON_ADDED.value, Event.seq < seq)
    for canonical in session.execute(query).scalars():
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # what cannot be read names nobody
            fields = read_json(bytes(canonical))["fields"]
            if (
                str(fields["subject"]) == person.id
                or bytes.fromhex(fields["detail"]["ed25519"]) == person.ed25519_public
            ):
                return True
    return False


def _same(row: Person, person: RosterPerson) -> bool:
    return as_on_roster(row) == replace(person, roles=tuple(sorted(person.roles)))
