"""What somebody must be told at once: a row that the relay delivers, written in the transaction of what it tells."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from schemas.tables import Alert
from workers.logs import get_logger

log = get_logger(__name__)


class AlertKind(StrEnum):
    """Why somebody is told."""

    TICKET_REFUSED = "ticket_refused"
    RECOVERY_REFUSED = "recovery_refused"
    MESSAGE_REFUSED = "message_refused"
    ORDER_REFUSED = "order_refused"
    KEY_REFUSED = "key_refused"  # a key that was to be shredded is not what its rows say
    GLASS_BROKEN = "glass_broken"
    TRAIL_FORKED = "trail_forked"
    TRAIL_UNANCHORED = "trail_unanchored"  # nothing vouches for what happens until the notary anchors again
    LEDGER_REFUSED = "ledger_refused"  # the custodian does nothing until its ledger is put right


def raise_alert(session: Session, kind: AlertKind, **detail: Any) -> None:
    """Records an alert in the caller's transaction, before its event. `detail`: ids and codes, as in the trail."""
    told = {name: str(value) for name, value in detail.items()}
    log.critical("alert", kind=kind.value, **told)
    session.execute(insert(Alert).values(kind=kind.value, detail=told).inline())  # who tells may not read


def newest(session: Session, limit: int) -> list[Alert]:
    """The newest alerts first."""
    return list(session.scalars(select(Alert).order_by(Alert.id.desc()).limit(limit)))
