"""Whose matter a finding is: the tenants that it concerns, and who took part in it.

Where an event is found fault with, its own fields say what it is about, and anybody who stole a role may have written them. So each id
in it counts, and where they lead to more than one tenant, it is the matter of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.tables import CustodyOrder, Item, Person, Recovery, RecoveryRequest, Release, Subject, Ticket
from workers.audit.canonical import fields_of
from workers.audit.findings import Finding

_PLACE = re.compile(
    r"(?:review of |approval of )?(event|release|item|request|ticket|recovery|order|person) (\S+?)(?: by .*)?"
)
_BY_PEOPLE = (
    AuditEvent.RELEASE_SUBMITTED,
    AuditEvent.REQUEST_OPENED,
    AuditEvent.REQUEST_APPROVED,
    AuditEvent.REQUEST_DENIED,
    AuditEvent.REQUEST_WITHDRAWN,
    AuditEvent.RECOVERY_FETCHED,
    AuditEvent.REVIEW_CLOSED,
)


@dataclass
class Matter:
    """The tenants that a finding concerns, none where it is no tenant's; and the ids of the people, and processes, who took part."""

    tenants: set[str] = field(default_factory=set)
    people: set[str] = field(default_factory=set)


def place_of(finding: Finding) -> tuple[str, str] | None:
    """What kind of thing the finding is about (`event`, `item`, ...), and which one; None where it is about something else."""
    found = _PLACE.fullmatch(finding.where)
    return (found[1], found[2]) if found else None


def matter_of(session: Session, finding: Finding) -> Matter:
    """Whose matter it is, by the event or the row that it is about, the rows that this names, and what the trail says of those."""
    kind, name = place_of(finding) or ("", "")
    fields = _event(session, int(name)) if kind == "event" else {kind: name}
    said = {each: str(value) for each, value in fields.items() if isinstance(value, str)}
    matter = Matter(_tenant(fields))
    releases, requests = _add_rows(session, said, matter)
    _add_trail(session, releases, requests, matter)
    for each in ("person", "subject", "actor"):
        _add_person(session, said.get(each), matter, tenant=each != "actor" or not matter.tenants)
    return matter


def _event(session: Session, seq: int) -> dict[str, Any]:
    return fields_of(session.execute(select(Event.canonical).where(Event.seq == seq)).scalar_one_or_none())


def _tenant(fields: dict[str, Any]) -> set[str]:
    """The one that an event names in its detail."""
    detail = fields.get("detail")
    return {str(detail["tenant"])} if isinstance(detail, dict) and "tenant" in detail else set()


def _add_rows(session: Session, said: dict[str, str], matter: Matter) -> tuple[set[str], set[str]]:
    """The releases and the requests that these ids lead to."""
    ids = {name: wanted for name, value in said.items() if (wanted := _id(value)) is not None}
    releases = {said["release"]} if "release" in said else set()
    tickets = {ids.get("ticket"), session.scalar(select(Recovery.ticket_id).where(Recovery.id == ids.get("recovery")))}
    spent = session.scalars(select(Ticket.request_id).where(Ticket.id.in_(tickets - {None})))
    requests = {ids.get("request"), *spent} - {None}
    for request in session.scalars(select(RecoveryRequest).where(RecoveryRequest.id.in_(requests))):
        releases.add(str(request.release_id))
        matter.tenants.add(request.tenant)
        matter.people.add(request.requester)
    releases |= set(map(str, session.scalars(select(Item.release_id).where(Item.id == ids.get("item")))))
    orders = or_(CustodyOrder.id == ids.get("order"), CustodyOrder.canonical_sha256 == _hex(said.get("request_hash")))
    for order in session.scalars(select(CustodyOrder).where(orders)):
        matter.tenants.add(order.tenant)
        matter.people.add(order.ordered_by)
    matter.tenants.update(session.scalars(select(Subject.tenant).where(Subject.id == ids.get("subject"))))
    return releases, set(map(str, requests))


def _add_trail(session: Session, releases: Iterable[str], requests: set[str], matter: Matter) -> None:
    kinds = [event.value for event in _BY_PEOPLE]
    for release in releases:
        if (wanted := _id(release)) is not None:
            matter.tenants.update(session.scalars(select(Release.tenant).where(Release.id == wanted)))
        of_release = select(Event.event, Event.canonical).where(func.audit.release_of(Event.canonical) == release)
        for event, canonical in session.execute(of_release.where(Event.event.in_(kinds))):
            fields = fields_of(canonical)
            submitted = event == AuditEvent.RELEASE_SUBMITTED
            matter.tenants |= _tenant(fields) if submitted else set()
            if submitted or str(fields.get("request")) in requests:
                matter.people.add(str(fields.get("actor")))


def _add_person(session: Session, who: str | None, matter: Matter, *, tenant: bool) -> None:
    if who is None:
        return
    matter.people.add(who)
    person = session.get(Person, who)
    if person is not None and tenant:
        matter.tenants.add(person.tenant)


def _id(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


def _hex(value: str | None) -> bytes | None:
    try:
        return bytes.fromhex(value or "") or None
    except ValueError:
        return None
