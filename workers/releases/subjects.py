"""Subjects: whom an item shows, as a pseudonym a tenant. The submitter's own word for them stays in one table, until
it is erased there; everything else, the trail included, knows the pseudonym alone.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import ColumnElement, Text, any_, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.tables import Item, Release, Subject
from workers.custody.proof import events_of, tenants_items_hold
from workers.releases.errors import SubjectAmbiguous, SubjectsChanged, SubjectUnknown

_VOUCHES = 8  # the version of a UUID that says what it was made from (RFC 9562, 5.8); older pseudonyms are random


@dataclass(frozen=True)
class Known:
    """A subject and in how many items it is shown. `reference` None: it was erased."""

    id: UUID
    tenant: str
    reference: str | None = field(repr=False)
    created_at: datetime
    items: int


@dataclass(frozen=True)
class Shown:
    """An item that shows a subject."""

    release: UUID
    item: UUID
    position: int
    state: str


def pseudonyms(session: Session, tenant: str, references: Collection[str]) -> dict[str, UUID]:
    """The tenant's pseudonym for each reference: the one it has, or a new one, in the caller's transaction. Raises SubjectsChanged where
    the one it has was made for another.
    """
    wanted = sorted(set(references))  # in one order everywhere, so that two submissions never wait for each other
    if not wanted:
        return {}
    fresh = [_new(tenant, reference) for reference in wanted]
    session.execute(insert(Subject).on_conflict_do_nothing(index_elements=[Subject.tenant, Subject.reference]), fresh)
    among = Subject.reference == any_(cast(wanted, ARRAY(Text)))
    rows = session.scalars(select(Subject).where(Subject.tenant == tenant, among)).all()
    if len(rows) != len(wanted) or not all(map(_holds, rows)):
        raise SubjectsChanged
    return {str(row.reference): row.id for row in rows}


def pseudonym_of(tenant: str, reference: str, salt: bytes) -> UUID:
    """The pseudonym that this reference has with this salt (32 bytes): the first 128 bits of their SHA-256, as a UUID of version 8.

    Whoever knows a pseudonym, from the trail or from what an officer signed, knows by it whom it stands for as long as reference and
    salt exist, and nothing once they are erased.
    """
    digest = hashlib.sha256(salt + hashlib.sha256(tenant.encode()).digest() + reference.encode()).digest()
    octets = bytearray(digest[:16])
    octets[6] = octets[6] & 0x0F | _VOUCHES << 4
    octets[8] = octets[8] & 0x3F | 0x80
    return UUID(bytes=bytes(octets))


def check(session: Session, tenant: str) -> None:
    """That every pseudonym of the tenant stands for whom it always did, and that its images show whom they did when they were handed in.

    Who owns the database could have two exchange their references, or hide one and put another in its place, while somebody reads.
    Raises SubjectsChanged.
    """
    rows = session.execute(select(Subject).where(Subject.tenant == tenant)).scalars().all()
    erased = {event["fields"].get("subject") for event in events_of(session, (AuditEvent.SUBJECT_ERASED,))}
    shown = select(Item.subject_id).join(Release, Release.id == Item.release_id).where(Release.tenant == tenant)
    missing = set(session.scalars(shown.where(Item.subject_id.is_not(None)).distinct())) - {row.id for row in rows}
    if missing or not all(_holds(row, erased) for row in rows) or not tenants_items_hold(session, tenant):
        raise SubjectsChanged


def find(session: Session, tenant: str, reference: str) -> tuple[UUID, list[Shown]]:
    """A subject's pseudonym and the items that show it, the newest release first. Raises SubjectUnknown, SubjectsChanged."""
    check(session, tenant)
    query = select(Subject.id).where(Subject.tenant == tenant, Subject.reference == reference)
    known = session.scalars(query).all()
    if not known:
        raise SubjectUnknown
    if len(known) > 1:
        raise SubjectsChanged
    (pseudonym,) = known
    rows = session.execute(
        select(Item.release_id, Item.id, Item.position, Item.state)
        .join(Release, Release.id == Item.release_id)
        .where(Item.subject_id == pseudonym)
        .order_by(Release.created_at.desc(), Item.release_id, Item.position)
    )
    return pseudonym, [Shown(row.release_id, row.id, row.position, row.state.value) for row in rows]


def named(session: Session, reference: str, other: UUID | None = None) -> Known | None:
    """The one subject of that reference, of whatever tenant, or else the one of the pseudonym `other`; None where there is neither.

    Raises SubjectAmbiguous where that could be more than one, and SubjectsChanged.
    """
    query = select(Subject.id, Subject.tenant).where((Subject.reference == reference) | (Subject.id == other))
    known = session.execute(query).all()
    if not known:
        return None
    if len(known) > 1:
        raise SubjectAmbiguous
    check(session, known[0].tenant)
    (subject,) = _known(session, Subject.id == known[0].id)
    return subject


def subjects(session: Session, tenant: str, limit: int) -> list[Known]:
    """The tenant's newest subjects first. Raises SubjectsChanged."""
    check(session, tenant)
    return _known(session, Subject.tenant == tenant, limit)


def _known(session: Session, which: ColumnElement[bool], limit: int = 1) -> list[Known]:
    items = select(func.count()).where(Item.subject_id == Subject.id).scalar_subquery()
    query = select(Subject, items).where(which).order_by(Subject.created_at.desc(), Subject.id)
    return [
        Known(subject.id, subject.tenant, subject.reference, subject.created_at, count)
        for subject, count in session.execute(query.limit(limit))
    ]


def donor_seed(tenant: str, pseudonym: UUID) -> bytes:
    """32 bytes that choose a subject's donor under the policy `stable`: HKDF-SHA256 of its pseudonym, salted by tenant.

    The pseudonym is random, one a tenant, and never leaves the service with a release: two tenants' releases of one
    person have unrelated donors, and nobody outside can tell which donor a subject gets.
    """
    derive = HKDF(algorithm=SHA256(), length=32, salt=tenant.encode(), info=b"refacex stable donor v1")
    return derive.derive(pseudonym.bytes)


def _new(tenant: str, reference: str) -> dict[str, object]:
    salt = secrets.token_bytes(32)
    return {"id": pseudonym_of(tenant, reference, salt), "tenant": tenant, "reference": reference, "salt": salt}


def _holds(row: Subject, erased: Collection[str] = ()) -> bool:
    """Whether a pseudonym stands for whom it always did, or the trail says that nobody is to know any more. One of before revision 0009
    says nothing of whom it stands for.
    """
    if row.reference is None:
        return str(row.id) in erased
    if row.salt is None:
        return row.id.version != _VOUCHES
    return row.id == pseudonym_of(row.tenant, row.reference, bytes(row.salt))
