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
    RELEASE_REPORTED = "release:reported"
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
    REVIEW_OPENED = "review:opened"
    REVIEW_CLOSED = "review:closed"
    TICKET_ISSUED = "ticket:issued"
    TICKET_SPENT = "ticket:spent"
    TICKET_RENEWED = "ticket:renewed"
    TICKET_REFUSED = "ticket:refused"
    MESSAGE_REFUSED = "message:refused"
    RECOVERY_RECOVERED = "recovery:recovered"
    RECOVERY_FETCHED = "recovery:fetched"
    RECOVERY_FAILED = "recovery:failed"
    RECOVERY_EXPIRED = "recovery:expired"
    RECOVERY_REFUSED = "recovery:refused"
    ORDER_GIVEN = "order:given"
    ORDER_DONE = "order:done"
    ORDER_REFUSED = "order:refused"
    EXPORT_ASKED = "export:asked"
    EXPORT_STARTED = "export:started"
    EXPORT_FINISHED = "export:finished"
    EXPORT_FAILED = "export:failed"
    SCHEDULE_SET = "schedule:set"
    PERSON_ADDED = "person:added"
    PERSON_REMOVED = "person:removed"
    POLICY_SET = "policy:set"
    SUBJECT_ERASED = "subject:erased"
    FINDING_ACKNOWLEDGED = "finding:acknowledged"
    HEAD_ANCHORED = "head:anchored"
    TRAIL_FORKED = "trail:forked"
    KEY_CREATED = "key:created"
    KEY_ROTATION_STARTED = "key:rotation_started"
    KEY_REWRAPPED = "key:rewrapped"
    KEY_ROTATION_FINISHED = "key:rotation_finished"
    KEY_RETIRED = "key:retired"
    KEY_SHREDDED = "key:shredded"
    LEDGER_BEGUN = "ledger:begun"
    PINNED_CHANGED = "pinned:changed"
    RECONCILER_SWEPT = "reconciler:swept"


# Who may write what. `audit.append` reads this from the table `audit.grants`; `audit verify` compares the two.
EVENT_ROLES: dict[AuditEvent, tuple[Role, ...]] = {
    AuditEvent.RELEASE_SUBMITTED: (Role.GATEWAY,),
    AuditEvent.RELEASE_FINISHED: (Role.RELEASE, Role.RELAY),
    AuditEvent.RELEASE_CANCELLED: (Role.GATEWAY,),
    AuditEvent.RELEASE_REPORTED: (Role.RELEASE,),
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
    AuditEvent.REVIEW_OPENED: (Role.CUSTODIAN,),
    AuditEvent.REVIEW_CLOSED: (Role.GATEWAY,),
    AuditEvent.TICKET_ISSUED: (Role.CUSTODIAN,),
    AuditEvent.TICKET_SPENT: (Role.CUSTODIAN,),
    AuditEvent.TICKET_RENEWED: (Role.CUSTODIAN,),
    AuditEvent.TICKET_REFUSED: (Role.CUSTODIAN,),
    AuditEvent.MESSAGE_REFUSED: (Role.CUSTODIAN, Role.RECOVERY, Role.RELEASE),
    AuditEvent.RECOVERY_RECOVERED: (Role.RECOVERY,),
    AuditEvent.RECOVERY_FETCHED: (Role.GATEWAY,),
    AuditEvent.RECOVERY_FAILED: (Role.RECOVERY,),
    AuditEvent.RECOVERY_EXPIRED: (Role.GATEWAY, Role.RELAY, Role.RECOVERY),
    AuditEvent.RECOVERY_REFUSED: (Role.RECOVERY,),
    AuditEvent.ORDER_GIVEN: (Role.GATEWAY,),
    AuditEvent.ORDER_DONE: (Role.CUSTODIAN,),
    AuditEvent.ORDER_REFUSED: (Role.CUSTODIAN,),
    AuditEvent.EXPORT_ASKED: (Role.GATEWAY,),
    AuditEvent.EXPORT_STARTED: (Role.RELEASE, Role.GATEWAY),
    AuditEvent.EXPORT_FINISHED: (Role.RELEASE, Role.GATEWAY),
    AuditEvent.EXPORT_FAILED: (Role.RELEASE, Role.GATEWAY),
    AuditEvent.SCHEDULE_SET: (Role.GATEWAY,),
    AuditEvent.PERSON_ADDED: (Role.OWNER, Role.GATEWAY),
    AuditEvent.PERSON_REMOVED: (Role.OWNER, Role.GATEWAY),
    AuditEvent.POLICY_SET: (Role.OWNER, Role.GATEWAY),
    AuditEvent.SUBJECT_ERASED: (Role.CUSTODIAN,),
    AuditEvent.FINDING_ACKNOWLEDGED: (Role.GATEWAY,),
    AuditEvent.HEAD_ANCHORED: (Role.NOTARY,),
    AuditEvent.TRAIL_FORKED: (Role.NOTARY,),
    AuditEvent.KEY_CREATED: (Role.OWNER, Role.CUSTODIAN),
    AuditEvent.KEY_ROTATION_STARTED: (Role.CUSTODIAN,),
    AuditEvent.KEY_REWRAPPED: (Role.CUSTODIAN,),
    AuditEvent.KEY_ROTATION_FINISHED: (Role.CUSTODIAN,),
    AuditEvent.KEY_RETIRED: (Role.CUSTODIAN,),
    AuditEvent.KEY_SHREDDED: (Role.CUSTODIAN,),
    AuditEvent.LEDGER_BEGUN: (Role.CUSTODIAN,),
    AuditEvent.PINNED_CHANGED: (Role.CUSTODIAN,),
    AuditEvent.RECONCILER_SWEPT: (Role.RELAY,),
}
