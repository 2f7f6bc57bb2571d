"""The audit trail: appending, the Merkle tree over it, signed and anchored heads, verification."""

from schemas.audit import AuditEvent
from workers.audit.append import append

__all__ = ["AuditEvent", "append"]
