"""Appending to the trail, in the transaction of what it tells."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from sqlalchemy import text

from schemas.audit import AuditEvent
from workers.audit.errors import AuditFieldError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

Id = UUID | str
SIGNER = "refacex_event_signer"  # in a session's `info`: what signs each event that is appended in it


class Signer(Protocol):
    """Signs events in its process's own name."""

    def signed(self, event: AuditEvent, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields with their signature."""


_APPEND = text("SELECT audit.append(:event, CAST(:fields AS jsonb))")


def append(
    session: Session,
    event: AuditEvent,
    *,
    actor: str,
    release: Id | None = None,
    item: Id | None = None,
    request: Id | None = None,
    ticket: Id | None = None,
    recovery: Id | None = None,
    subject: str | None = None,
    model_version: str | None = None,
    request_hash: bytes | str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> int:
    """Appends one event to the trail in the caller's transaction and gives its sequence number.

    Call it as the last statement of the transaction whose change it tells: from here to the commit every other appender
    waits. If it raises, nothing of that transaction may stay (no event, no change). `actor` is a person's or process's
    id, `subject` a pseudonym; never pass a key, a face or somebody's file name. `detail` takes what JSON takes; a
    float becomes a string of six significant digits, because the trail's JSON holds integers only.

    In a session that has a signer (`workers.audit.attested.attesting`) the event carries its signature.

    Raises AuditFieldError for a value that the trail does not take; sqlalchemy.exc.DBAPIError (insufficient
    privilege) when this role may not write that event.
    """
    fields = {
        "actor": actor,
        "release": _text(release),
        "item": _text(item),
        "request": _text(request),
        "ticket": _text(ticket),
        "recovery": _text(recovery),
        "subject": subject,
        "model_version": model_version,
        "request_hash": request_hash.hex() if isinstance(request_hash, bytes) else request_hash,
        "detail": _plain(dict(detail)) if detail else None,
    }
    session.flush()
    present = {name: value for name, value in fields.items() if value is not None}
    signer: Signer | None = session.info.get(SIGNER)
    if signer is not None:
        try:
            present = signer.signed(AuditEvent(event), present)
        except ValueError as error:  # as a surrogate without its other half, in what a stranger wrote
            raise AuditFieldError("text or a number that has no canonical form") from error
    return int(session.execute(_APPEND, {"event": AuditEvent(event).value, "fields": json.dumps(present)}).scalar_one())


def _text(value: Id | None) -> str | None:
    return None if value is None else str(value)


def _plain(value: Any) -> Any:
    """`value` with floats as short strings and ids as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        if "\x00" in value:
            raise AuditFieldError("text with a zero byte")
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise AuditFieldError("a number that is not finite")
        return f"{value:.6g}"
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    raise AuditFieldError(type(value).__name__)
