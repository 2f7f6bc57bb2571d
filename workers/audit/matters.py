"""Whose matter an event is that is found fault with: the tenants that it concerns, and who took part in it.

Its own fields say what it is about, and anybody who stole a role may have written them. So each id in it counts, and where they lead to
more than one tenant, it is the matter of each. But nobody took part because such an event names them, nor is there a tenant because it
says so: people took part where they signed, or where a row says so, and a tenant is one that has people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, defer

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.tables import (
    Approval,
    CustodyOrder,
    Item,
    Person,
    Recovery,
    RecoveryRequest,
    Release,
    Review,
    Subject,
    Ticket,
)
from workers.audit.findings import Finding
from workers.audit.signed import signed_by
from workers.strangers import read_json

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
    """The tenants that a finding concerns, none where it is no tenant's; and the ids of the people who took part."""

    tenants: set[str] = field(default_factory=set)
    people: set[str] = field(default_factory=set)


def matter_of(session: Session, finding: Finding) -> Matter:
    """Whose matter it is, by the event that it is about, the rows that this names, and what the trail says of those. Of what is no event:
    nobody's.
    """
    matter = Matter()
    event = _event(session.scalar(select(Event.canonical).where(Event.seq == finding.event)))
    said = _texts(event["fields"])
    matter.tenants |= _tenant(event)
    releases, requests = _add_rows(session, said, matter)
    _add_trail(session, releases, requests, matter)
    _add_signer(session, event, matter)
    matter.tenants |= _tenant_of(session, said.get("subject"))
    matter.tenants &= set(session.scalars(select(Person.tenant).where(Person.tenant.in_(matter.tenants))))
    if not matter.tenants:
        matter.tenants |= _tenant_of(session, said.get("actor"))
    return matter


def _event(canonical: bytes | None) -> dict[str, Any]:
    """The JSON object that was hashed; without fields where they cannot be read, of which `verify` tells."""
    nothing = {"event": "", "fields": {}}
    try:
        event = read_json(bytes(canonical or b"{}"))
    except ValueError:
        return nothing
    readable = isinstance(event, dict) and isinstance(event.get("event"), str)
    return event if readable and isinstance(event.get("fields"), dict) else nothing


def _texts(fields: dict[str, Any]) -> dict[str, str]:
    """Those of the fields that are texts, as the database takes them."""
    return {name: value for name, value in fields.items() if _is_text(value)}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and value.encode(errors="replace").decode() == value


def _tenant(event: dict[str, Any]) -> set[str]:
    """The one that an event names in its detail."""
    detail = event["fields"].get("detail")
    tenant = detail.get("tenant") if isinstance(detail, dict) else None
    return {str(tenant)} if _is_text(tenant) else set()


def _add_rows(session: Session, said: dict[str, str], matter: Matter) -> tuple[set[str], set[str]]:
    """The releases and the requests that these ids lead to."""
    ids = {name: wanted for name, value in said.items() if (wanted := _id(value)) is not None}
    releases = {said["release"]} if "release" in said else set()
    tickets = {ids.get("ticket"), session.scalar(select(Recovery.ticket_id).where(Recovery.id == ids.get("recovery")))}
    spent = session.scalars(select(Ticket.request_id).where(Ticket.id.in_(tickets - {None})))
    requests = {ids.get("request"), *spent} - {None}
    asked = select(RecoveryRequest.release_id, RecoveryRequest.tenant, RecoveryRequest.requester)
    for request in session.execute(asked.where(RecoveryRequest.id.in_(requests))):
        releases.add(str(request.release_id))
        matter.tenants.add(request.tenant)
        matter.people.add(request.requester)
    matter.people.update(session.scalars(select(Approval.approver).where(Approval.request_id.in_(requests))))
    reviewers = session.scalars(select(Review.closed_by).where(Review.request_id.in_(requests)))
    matter.people.update(who for who in reviewers if who is not None)
    releases |= set(map(str, session.scalars(select(Item.release_id).where(Item.id == ids.get("item")))))
    orders = or_(CustodyOrder.id == ids.get("order"), CustodyOrder.canonical_sha256 == _hex(said.get("request_hash")))
    for order in session.execute(select(CustodyOrder.tenant, CustodyOrder.ordered_by).where(orders)):
        matter.tenants.add(order.tenant)
        matter.people.add(order.ordered_by)
    matter.tenants.update(session.scalars(select(Subject.tenant).where(Subject.id == ids.get("subject"))))
    return releases, set(map(str, requests))


def _add_trail(session: Session, releases: Iterable[str], requests: set[str], matter: Matter) -> None:
    """Whose these releases are, by their rows as by the first that the trail says of each; and who signed what is said of them."""
    for release in releases:
        rows = select(Release.tenant, Release.submitted_by).where(Release.id == _id(release))
        for row in session.execute(rows):
            matter.tenants.add(row.tenant)
            matter.people.add(row.submitted_by)
        told = list(_told(session, release))
        submitted = [event for event in told if event["event"] == AuditEvent.RELEASE_SUBMITTED]
        matter.tenants |= _tenant(submitted[0]) if submitted else set()
        for event in told:
            if event in submitted or _texts(event["fields"]).get("request") in requests:
                _add_signer(session, event, matter)


def _told(session: Session, release: str) -> Iterator[dict[str, Any]]:
    """What people did about a release, by the trail, in its order."""
    of_release = select(Event.canonical).where(func.audit.release_of(Event.canonical) == release)
    kinds = [event.value for event in _BY_PEOPLE]
    for canonical in session.scalars(of_release.where(Event.event.in_(kinds)).order_by(Event.seq)):
        yield _event(canonical)


def _add_signer(session: Session, event: dict[str, Any], matter: Matter) -> None:
    actor = _texts(event["fields"]).get("actor")
    no_times = defer(Person.created_at), defer(Person.removed_at)  # nobody can read those that their owner made so
    person = session.get(Person, actor, options=no_times) if actor is not None else None
    if person is not None and signed_by(event, person):
        matter.people.add(person.id)


def _tenant_of(session: Session, who: str | None) -> set[str]:
    return set(session.scalars(select(Person.tenant).where(Person.id == who)))


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
