"""What the audit trail may say: the event tags, and which role may write which of them.

The rules for the bytes of an event are in `docs/audit-format.md`.
"""

from __future__ import annotations

from enum import StrEnum

FORMAT_VERSION = 1


class Role(StrEnum):
    """The database roles of the services. `OWNER` stands for whichever role owns the schema."""

    OWNER = "@owner"
    RELEASE = "refacex_release"
    CUSTODIAN = "refacex_custodian"
    RECOVERY = "refacex_recovery"
    RELAY = "refacex_relay"
    NOTARY = "refacex_notary"
    GATEWAY = "refacex_gateway"


SERVICE_ROLES: tuple[Role, ...] = tuple(role for role in Role if role is not Role.OWNER)


class AuditEvent(StrEnum):
    """Every event of the trail, as `object:what happened to it`."""

    RELEASE_SUBMITTED = "release:submitted"
    RELEASE_FINISHED = "release:finished"
    RELEASE_CANCELLED = "release:cancelled"
    ITEM_CLAIMED = "item:claimed"
    ITEM_COMMITTED = "item:committed"
    ITEM_RELEASED = "item:released"
    ITEM_HELD = "item:held"
    ITEM_FAILED = "item:failed"
    ITEM_QUARANTINED = "item:quarantined"
    REQUEST_OPENED = "request:opened"
    REQUEST_APPROVED = "request:approved"
    REQUEST_DENIED = "request:denied"
    REQUEST_WITHDRAWN = "request:withdrawn"
    REQUEST_EXPIRED = "request:expired"
    TICKET_ISSUED = "ticket:issued"
    TICKET_SPENT = "ticket:spent"
    TICKET_REFUSED = "ticket:refused"
    RECOVERY_RECOVERED = "recovery:recovered"
    RECOVERY_FETCHED = "recovery:fetched"
    RECOVERY_FAILED = "recovery:failed"
    RECOVERY_EXPIRED = "recovery:expired"
    EXPORT_STARTED = "export:started"
    EXPORT_FINISHED = "export:finished"
    EXPORT_FAILED = "export:failed"
    PERSON_ADDED = "person:added"
    HEAD_ANCHORED = "head:anchored"
    KEY_CREATED = "key:created"
    RECONCILER_SWEPT = "reconciler:swept"


# Who may write what. `audit.append` reads this from the table `audit.grants`; `audit verify` compares the two.
EVENT_ROLES: dict[AuditEvent, tuple[Role, ...]] = {
    AuditEvent.RELEASE_SUBMITTED: (Role.GATEWAY,),
    AuditEvent.RELEASE_FINISHED: (Role.RELEASE, Role.RELAY),
    AuditEvent.RELEASE_CANCELLED: (Role.GATEWAY,),
    AuditEvent.ITEM_CLAIMED: (Role.RELEASE,),
    AuditEvent.ITEM_COMMITTED: (Role.RELEASE,),
    AuditEvent.ITEM_RELEASED: (Role.RELEASE,),
    AuditEvent.ITEM_HELD: (Role.RELEASE,),
    AuditEvent.ITEM_FAILED: (Role.RELEASE, Role.RELAY),
    AuditEvent.ITEM_QUARANTINED: (Role.RELEASE, Role.RELAY),
    AuditEvent.REQUEST_OPENED: (Role.GATEWAY,),
    AuditEvent.REQUEST_APPROVED: (Role.GATEWAY,),
    AuditEvent.REQUEST_DENIED: (Role.GATEWAY,),
    AuditEvent.REQUEST_WITHDRAWN: (Role.GATEWAY,),
    AuditEvent.REQUEST_EXPIRED: (Role.GATEWAY, Role.RELAY, Role.CUSTODIAN),
    AuditEvent.TICKET_ISSUED: (Role.CUSTODIAN,),
    AuditEvent.TICKET_SPENT: (Role.CUSTODIAN,),
    AuditEvent.TICKET_REFUSED: (Role.CUSTODIAN,),
    AuditEvent.RECOVERY_RECOVERED: (Role.RECOVERY,),
    AuditEvent.RECOVERY_FETCHED: (Role.GATEWAY,),
    AuditEvent.RECOVERY_FAILED: (Role.RECOVERY,),
    AuditEvent.RECOVERY_EXPIRED: (Role.GATEWAY, Role.RELAY, Role.RECOVERY),
    AuditEvent.EXPORT_STARTED: (Role.RELEASE, Role.GATEWAY),
    AuditEvent.EXPORT_FINISHED: (Role.RELEASE, Role.GATEWAY),
    AuditEvent.EXPORT_FAILED: (Role.RELEASE, Role.GATEWAY),
    AuditEvent.PERSON_ADDED: (Role.OWNER, Role.GATEWAY),
    AuditEvent.HEAD_ANCHORED: (Role.NOTARY,),
    AuditEvent.KEY_CREATED: (Role.OWNER, Role.CUSTODIAN),
    AuditEvent.RECONCILER_SWEPT: (Role.RELAY,),
}
