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
    """The trail in the database is not the one that was anchored: stop the service and run `refacex audit verify`."""

    code = "audit_fork"


class AuditShort(AuditError):
    """The trail holds fewer events than asked for."""

    code = "audit_short"
