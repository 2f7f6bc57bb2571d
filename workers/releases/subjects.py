"""Subjects: whom an item shows, as a pseudonym a tenant. The submitter's own word for them stays in one table, until
it is erased there; everything else, the trail included, knows the pseudonym alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Text, any_, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from schemas.tables import Item, Release, Subject
from workers.releases.errors import SubjectUnknown


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
    """The tenant's pseudonym for each reference: the one it has, or a new one, in the caller's transaction."""
    wanted = sorted(set(references))  # in one order everywhere, so that two submissions never wait for each other
    if not wanted:
        return {}
    fresh = [{"id": uuid4(), "tenant": tenant, "reference": reference} for reference in wanted]
    session.execute(insert(Subject).on_conflict_do_nothing(index_elements=[Subject.tenant, Subject.reference]), fresh)
    among = Subject.reference == any_(cast(wanted, ARRAY(Text)))
    query = select(Subject.reference, Subject.id).where(Subject.tenant == tenant, among)
    return {str(reference): pseudonym for reference, pseudonym in session.execute(query)}


def find(session: Session, tenant: str, reference: str) -> tuple[UUID, list[Shown]]:
    """A subject's pseudonym and the items that show it, the newest release first. Raises SubjectUnknown."""
    query = select(Subject.id).where(Subject.tenant == tenant, Subject.reference == reference)
    pseudonym = session.scalars(query).one_or_none()
    if pseudonym is None:
        raise SubjectUnknown
    rows = session.execute(
        select(Item.release_id, Item.id, Item.position, Item.state)
        .join(Release, Release.id == Item.release_id)
        .where(Item.subject_id == pseudonym)
        .order_by(Release.created_at.desc(), Item.release_id, Item.position)
    )
    return pseudonym, [Shown(row.release_id, row.id, row.position, row.state.value) for row in rows]


def subjects(session: Session, tenant: str, limit: int) -> list[Known]:
    """The tenant's newest subjects first."""
    items = select(func.count()).where(Item.subject_id == Subject.id).scalar_subquery()
    query = select(Subject, items).where(Subject.tenant == tenant).order_by(Subject.created_at.desc(), Subject.id)
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
