"""Subjects: whom an item shows, as a pseudonym a tenant. The submitter's own word for them stays in one table, until
it is erased there; everything else, the trail included, knows the pseudonym alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import ColumnElement, Text, any_, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.submissions import VOUCHES, pseudonym_of
from schemas.tables import Item, Release, Subject
from workers.custody.proof import events_of, tenants_items_hold
from workers.releases.errors import SubjectAmbiguous, SubjectsChanged, SubjectUnknown

_TRIES = 3


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
    among = Subject.reference == any_(cast(wanted, ARRAY(Text)))
    query = select(Subject).where(Subject.tenant == tenant, among).execution_options(populate_existing=True)
    fresh = [_new(tenant, reference) for reference in wanted]
    for _ in range(_TRIES):  # the custodian may erase one in between
        put = insert(Subject).on_conflict_do_nothing(index_elements=[Subject.tenant, Subject.reference])
        session.execute(put, fresh)
        rows = session.scalars(query).all()
        if len(rows) == len(wanted):
            break
        fresh = [_new(tenant, each) for each in sorted(set(wanted) - {row.reference for row in rows})]
    if len(rows) != len(wanted) or not _hold(session, rows):
        raise SubjectsChanged
    return {str(row.reference): row.id for row in rows}


def check(session: Session, tenant: str) -> None:
    """That every pseudonym of the tenant stands for whom it always did, and that its images show whom they did when they were handed in.

    Who owns the database could have two exchange their references, or hide one and put another in its place, while somebody reads.
    Raises SubjectsChanged.
    """
    rows = session.execute(select(Subject).where(Subject.tenant == tenant)).scalars().all()
    told = events_of(session, (AuditEvent.SUBJECT_ERASED,))
    erased = {str(event["fields"].get("subject")) for event in told}
    shown = select(Item.subject_id).join(Release, Release.id == Item.release_id).where(Release.tenant == tenant)
    missing = set(session.scalars(shown.where(Item.subject_id.is_not(None)).distinct())) - {row.id for row in rows}
    named = [row for row in rows if row.reference is not None]
    gone = {str(row.id) for row in rows} - {str(row.id) for row in named} - erased
    if missing or gone or not _hold(session, named) or not tenants_items_hold(session, tenant):
        raise SubjectsChanged


def find(session: Session, tenant: str, reference: str) -> tuple[UUID, list[Shown]]:
    """A subject's pseudonym and the items that show it, the newest release first. Raises SubjectUnknown, SubjectsChanged."""
    if not reference.isprintable():  # no manifest has such a word, and not every one can be asked for
        raise SubjectUnknown
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
    if not reference.isprintable():
        return None
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

    Nobody can guess a pseudonym, and it never leaves the service with a release: two tenants' releases of one person have unrelated
    donors, and nobody outside can tell which donor a subject gets.
    """
    derive = HKDF(algorithm=SHA256(), length=32, salt=tenant.encode(), info=b"refacex stable donor v1")
    return derive.derive(pseudonym.bytes)


def _new(tenant: str, reference: str) -> dict[str, object]:
    salt = secrets.token_bytes(32)
    return {"id": pseudonym_of(tenant, reference, salt), "tenant": tenant, "reference": reference, "salt": salt}


def _hold(session: Session, rows: Sequence[Subject]) -> bool:
    """Whether each pseudonym was made for the reference that it has. One of before revision 0009 says nothing of it, and is taken where
    a release of before shows it: nobody makes such a one any more.
    """
    older = {row.id for row in rows if row.salt is None and row.id.version != VOUCHES}
    made = (row for row in rows if row.id not in older)
    return all(
        row.salt and row.id == pseudonym_of(row.tenant, row.reference or "", bytes(row.salt)) for row in made
    ) and older <= (_shown_before(session) if older else set())


def _shown_before(session: Session) -> set[UUID]:
    """Whom the releases show that were submitted before any said how its pseudonyms were made."""
    before = set()
    for event in events_of(session, (AuditEvent.RELEASE_SUBMITTED,)):
        if "pseudonyms" in event["fields"].get("detail", {}):
            break
        before.add(str(event["fields"].get("release")))
    query = select(Item.release_id, Item.subject_id).where(Item.subject_id.is_not(None)).distinct()
    return {row.subject_id for row in session.execute(query) if str(row.release_id) in before}
