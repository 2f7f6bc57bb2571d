"""The states of everything that lives in a table. The CHECK constraints of migration 0001 name the same words."""

from __future__ import annotations

from enum import StrEnum


class ReleaseState(StrEnum):
    """A release: open until its items are published to the broker, finished when no item is left to do."""

    OPEN = "open"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class ItemState(StrEnum):
    """An item. `done`, `held`, `failed` and `quarantined` are final."""

    PENDING = "pending"
    CLAIMED = "claimed"
    COMMITTED = "committed"
    DONE = "done"
    HELD = "held"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class AttemptState(StrEnum):
    """An attempt: its keys are durable when committed; one a item is published, the others are abandoned."""

    COMMITTED = "committed"
    PUBLISHED = "published"
    ABANDONED = "abandoned"


class KeyKind(StrEnum):
    """What a sealed key opens."""

    LAYOUT = "layout"
    FACE = "face"


class KeyState(StrEnum):
    """A sealed key. A shredded one has no wrapped bytes left."""

    LIVE = "live"
    SUPERSEDED = "superseded"
    SHREDDED = "shredded"


class RequestState(StrEnum):
    """A recovery request."""

    OPEN = "open"
    APPROVED = "approved"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    RECOVERING = "recovering"
    DONE = "done"
    FAILED = "failed"


class Urgency(StrEnum):
    """How a request comes: the usual way, or through the broken glass (fewer approvals, and a review afterwards)."""

    NORMAL = "normal"
    BREAK_GLASS = "break_glass"


class Decision(StrEnum):
    """What an approver said."""

    APPROVE = "approve"
    DENY = "deny"


class RecoveryState(StrEnum):
    """The one recovery that a ticket pays for."""

    BOUND = "bound"
    RECOVERED = "recovered"
    FETCHED = "fetched"
    FAILED = "failed"
    EXPIRED = "expired"


class ExportState(StrEnum):
    """An export."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class OrderKind(StrEnum):
    """What a key officer orders the custodian to do."""

    SHRED = "shred"
    HOLD = "hold"
    LIFT = "lift"


class OrderScope(StrEnum):
    """What an order is about."""

    FACE = "face"
    ITEM = "item"
    RELEASE = "release"
    SUBJECT = "subject"


class OrderState(StrEnum):
    """An order: given until the custodian has carried it out or refused it."""

    GIVEN = "given"
    DONE = "done"
    REFUSED = "refused"
