"""Errors of the audit trail. The docstring is the message shown to people."""

from __future__ import annotations

from workers.errors import WorkerError


class AuditError(WorkerError):
    """The audit trail cannot be used as asked."""

    code = "audit_error"


class AuditFieldError(AuditError):
    """An audit event may hold short text, integers, true, false, lists and objects of these, and no bytes: convert
    the field.
    """

    code = "audit_field"


class AuditFork(AuditError):
    """The trail in the database is not the one that was anchored: stop the service and run `refacex audit verify`. Where a whole
    backup was restored on purpose, the administrator says so with `refacex audit accept-fork`.
    """

    code = "audit_fork"


class AuditShort(AuditError):
    """The trail holds fewer events than asked for."""

    code = "audit_short"


class ForkUnfounded(AuditError):
    """There is no fork to accept: the trail is the one that was anchored."""

    code = "fork_unfounded"


class ForkUnsigned(AuditError):
    """Accepting a fork takes a person's id and a reason's code: lower-case letters, digits and . _ @ -, at most 64."""

    code = "fork_unsigned"


class NotInTrail(AuditError):
    """The trail knows no release, request or ticket of that id."""

    code = "not_in_trail"


class ReceiptInvalid(AuditError):
    """This is no receipt: it is a number, a colon and 64 hexadecimal digits, as `refacex request approve` or `deny` printed it."""

    code = "receipt_invalid"


class NotAnchoredYet(AuditError):
    """No anchored head covers these events yet: wait for the notary's next one, within a minute."""

    code = "not_anchored_yet"


class EvidenceUnreadable(AuditError):
    """This is no evidence bundle of version 1, or it was changed."""

    code = "evidence_unreadable"
