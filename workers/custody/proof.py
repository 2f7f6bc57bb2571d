"""Whose a key is, proven before it is shredded for ever: by the key itself, and by the trail where none is left to ask.

The rows say which item, release and tenant a key belongs to, and whoever owns the database can say otherwise for a minute. A sealed
key opens with the very context that it was sealed with and with no other, so what opens as the rows have it is what they say it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, func, literal, select
from sqlalchemy.orm import Session, undefer

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.submissions import subjects_sha256
from schemas.tables import Attempt, Item, Release, SealedKey
from workers.custody.errors import KeyUnknown, Unwrappable
from workers.custody.holds import Portion
from workers.custody.judge import submission_of
from workers.custody.providers import Unwrapper
from workers.custody.rows import unwrap_row
from workers.strangers import read_json

ENDS = (AuditEvent.RELEASE_FINISHED, AuditEvent.RELEASE_CANCELLED)
_OF_ITEMS = (
    AuditEvent.ITEM_COMMITTED,
    AuditEvent.ITEM_RELEASED,
    AuditEvent.ITEM_HELD,
    AuditEvent.ITEM_FAILED,
    AuditEvent.ITEM_QUARANTINED,
)
_CHUNK = 500
#: What is proven must be what was read before: nobody changes rows in between.
ONE_SNAPSHOT = {"isolation_level": "REPEATABLE READ"}


@dataclass(frozen=True)
class Opened:
    """A live key's row: whether it opens as the row, its item, its release and its subject claim; None: nobody here has what it was
    sealed to.
    """

    key: UUID
    item: UUID
    face: int
    release: UUID
    subject: UUID | None
    proven: bool | None


def strangers(session: Session, unwrapper: Unwrapper, portions: Sequence[Portion]) -> set[UUID]:
    """The items of these portions that are not proven to be what the rows say: a key of theirs does not open so, or there is none and
    the trail does not know them in that release and tenant. Where the wanted face has no key, the item's others speak for it.

    Raises what an unwrapper does where it cannot be asked; database errors pass through.
    """
    found, silent = set(), []
    for at in range(0, len(portions), _CHUNK):
        chunk = portions[at : at + _CHUNK]
        rows = defaultdict(list)
        for row in live_keys(session, unwrapper, [portion.item for portion in chunk]):
            rows[row.item].append(row)
        for portion in chunk:
            of_item = rows[portion.item]
            wanted = [row for row in of_item if portion.faces is None or row.face in portion.faces] or of_item
            if not all(row.proven and row.release == portion.release for row in wanted):
                found.add(portion.item)
            elif not wanted:
                silent.append(portion)
    return found | _unknown(session, silent)


def live_keys(session: Session, unwrapper: Unwrapper, items: Iterable[UUID], *, lock: bool = False) -> Iterator[Opened]:
    """Every key of these items that was not shredded, of every attempt, tried; `lock`ed until the transaction ends. Raises what an
    unwrapper does where it cannot be asked.
    """
    query = select(SealedKey, Attempt, Release, Item.subject_id).join(Attempt, Attempt.id == SealedKey.attempt_id)
    query = query.join(Item, Item.id == Attempt.item_id).join(Release, Release.id == Item.release_id)
    query = query.where(SealedKey.item_id.in_(items), SealedKey.wrapped.is_not(None)).order_by(SealedKey.id)
    query = query.options(undefer(SealedKey.wrapped)).execution_options(populate_existing=True)
    for sealed, attempt, release, subject in session.execute(query.with_for_update(of=SealedKey) if lock else query):
        proven: bool | None = attempt.item_id == sealed.item_id
        try:
            unwrap_row(unwrapper, sealed, attempt, release, subject)
        except (Unwrappable, KeyUnknown) as error:
            proven = None if isinstance(error, KeyUnknown) else False
        yield Opened(sealed.id, sealed.item_id, sealed.face, release.id, subject, proven)


def ended_at(session: Session, release: UUID) -> datetime | None:
    """When a release ended first by the trail's own time, and never before it was submitted; None where the trail does not say both.

    Who stole a service's role may write that it ended once more, and would put its end off for ever.
    """
    submitted, ended = (_times(session, release, kinds) for kinds in ((AuditEvent.RELEASE_SUBMITTED,), ENDS))
    return max(min(submitted), min(ended)) if submitted and ended else None


def item_names(session: Session, release: UUID) -> dict[UUID, str]:
    """The file names of a release's items, in their order, as the rows have them now."""
    rows = session.execute(
        select(Item.id, Item.relative_name).where(Item.release_id == release).order_by(Item.position)
    )
    return {row.id: row.relative_name for row in rows}


def names_hold(session: Session, release: Release, items: Mapping[UUID, str]) -> bool:
    """Whether these names are those that the trail has had since the release was submitted; before revision 0007 it had none."""
    said = _submitted(session, release.id)
    return said is not None and said.get("names_sha256") == submission_of(release, items).names_sha256()


def items_hold(session: Session, release: UUID) -> bool:
    """Whether a release has the items that it was submitted with, showing whom they did then; before revision 0007 the trail did not
    say.
    """
    said = _submitted(session, release)
    return said is not None and said.get("subjects_sha256") in (None, _shown(session, [release]).get(release))


def tenants_items_hold(session: Session, tenant: str) -> bool:
    """The same of every release that is the tenant's by the trail, or by the rows, and showed somebody; but for those of which the trail
    knows no keys: nothing was made of them, and anybody who stole the gateway's role could invent them.
    """
    first: dict[UUID, dict[str, Any]] = {}
    for event in events_of(session, (AuditEvent.RELEASE_SUBMITTED,)):
        with suppress(ValueError, TypeError, AttributeError):
            first.setdefault(UUID(event["fields"].get("release")), event["fields"].get("detail", {}))
    said = {
        release: detail["subjects_sha256"]
        for release, detail in first.items()
        if detail.get("tenant") == tenant and detail.get("subjects") != 0 and "subjects_sha256" in detail
    }
    releases = list(said)
    other = set(session.scalars(select(Release.id).where(Release.tenant == tenant))) - first.keys()
    for at in range(0, len(releases), _CHUNK):
        shown = _shown(session, releases[at : at + _CHUNK])
        other |= {release for release in releases[at : at + _CHUNK] if said[release] != shown.get(release)}
    return not any(_told(session, release, (AuditEvent.ITEM_COMMITTED,)) for release in other)


def _shown(session: Session, releases: Sequence[UUID]) -> dict[UUID, str]:
    """Whom the images of each release show, as the trail names it."""
    query = select(Item.release_id, Item.id, Item.subject_id).where(Item.release_id.in_(releases))
    rows = session.execute(query.order_by(Item.release_id, Item.position)).all()
    return {
        release: subjects_sha256((row.id, row.subject_id) for row in group)
        for release, group in groupby(rows, lambda row: row.release_id)
    }


def _submitted(session: Session, release: UUID) -> dict[str, Any] | None:
    """The detail of its first `release:submitted`, which nobody can write before it is submitted; None where there is none."""
    told = _told(session, release, (AuditEvent.RELEASE_SUBMITTED,))
    return told[0]["fields"].get("detail", {}) if told else None


def _times(session: Session, release: UUID, kinds: Sequence[AuditEvent]) -> list[datetime]:
    return [datetime.fromisoformat(event["at"]) for event in _told(session, release, kinds)]


def _unknown(session: Session, portions: Sequence[Portion]) -> set[UUID]:
    """The items that the trail does not know in these releases, or whose release it knows as another tenant's."""
    wanted: defaultdict[UUID, set[UUID]] = defaultdict(set)
    for portion in portions:
        wanted[portion.release].add(portion.item)
    unknown: set[UUID] = set()
    for release, items in wanted.items():
        tenant = session.execute(select(Release.tenant).where(Release.id == release)).scalar_one_or_none()
        said = _submitted(session, release) or {}
        known = {str(each["fields"].get("item")) for each in _told(session, release, _OF_ITEMS)}
        ours = said.get("tenant", tenant) == tenant
        unknown |= {item for item in items if not ours or str(item) not in known}
    return unknown


def _told(session: Session, release: UUID, kinds: Sequence[AuditEvent]) -> list[dict[str, Any]]:
    """The events of these kinds about a release. Bytes are searched: somebody may have made others unreadable."""
    named = func.pg_catalog.position(Event.canonical, literal(str(release).encode(), LargeBinary)) > 0
    return [each for each in events_of(session, kinds, named) if each["fields"].get("release") == str(release)]


def events_of(session: Session, kinds: Sequence[AuditEvent], *among: ColumnElement[bool]) -> Iterator[dict[str, Any]]:
    """The events of these kinds that can be read, in their order."""
    query = select(Event.canonical).where(Event.event.in_([kind.value for kind in kinds]), *among).order_by(Event.seq)
    for canonical in session.scalars(query):
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            event = read_json(bytes(canonical))
            datetime.fromisoformat(event["at"])
            if isinstance(event["fields"].get("detail", {}), dict) and event["event"] in kinds:
                yield event
