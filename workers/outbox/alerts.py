"""Delivering alerts: posted to a webhook where one is set, else written to the log. At least once, the oldest first.

The body is JSON: `v` (1), `what` ("refacex alert"), `id`, `at` (UTC), `kind`, `detail` (ids and codes, nobody's data).
With a secret, the header `X-Refacex-Signature` is `sha256=` and the hex HMAC-SHA256 of the body. Whoever receives an
`id` twice has it already.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from schemas.tables import Alert
from workers.errors import WebhookAway
from workers.logs import get_logger
from workers.settings import RelaySettings

log = get_logger(__name__)

SIGNATURE = "X-Refacex-Signature"


class _Stay(HTTPRedirectHandler):
    """An alert is not carried on to wherever an answer points: it counts as not delivered."""

    def redirect_request(self, *_: Any) -> None:
        return None


class AlertDelivery:
    """Delivers from one database with the relay's role."""

    def __init__(self, settings: RelaySettings, sessions: sessionmaker[Session]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._opener = build_opener(_Stay)

    def deliver(self) -> int:
        """Deliver what waits, or log it where there is no webhook; gives how many. One that is refused keeps none behind it from its turn.

        Raises WebhookAway where some have to be sent again.
        """
        with self._sessions() as session:
            query = select(Alert.id).where(Alert.delivered_at.is_(None)).order_by(Alert.id)
            waiting = session.scalars(query).all()
        delivered, refused = 0, ""
        for alert_id in waiting:
            try:
                delivered += self._deliver(alert_id)
            except HTTPError as error:
                refused = f"status {error.code}"
            except (OSError, HTTPException) as error:
                raise WebhookAway(type(error).__name__) from error
        if delivered and self._settings.alert_webhook:
            log.info("alerts_delivered", alerts=delivered)
        if refused:
            raise WebhookAway(refused)
        return delivered

    def _deliver(self, alert_id: int) -> int:
        """One alert, which stays locked until it is marked: another relay passes over it."""
        with self._sessions.begin() as session:
            query = select(Alert).where(Alert.id == alert_id, Alert.delivered_at.is_(None))
            alert = session.scalars(query.with_for_update(skip_locked=True)).one_or_none()
            if alert is None:
                return 0
            if self._settings.alert_webhook:
                self._post(alert)
            else:
                log.critical("alert_without_webhook", alert=alert.id, kind=alert.kind, detail=alert.detail)
            when = func.now() if self._settings.alert_webhook else Alert.at
            session.execute(update(Alert).where(Alert.id == alert_id).values(delivered_at=when))
        return 1

    def _post(self, alert: Alert) -> None:
        body = body_of(alert)
        headers = {"Content-Type": "application/json", "User-Agent": "refacex"}
        if self._settings.alert_secret:
            headers[SIGNATURE] = signature(self._settings.alert_secret, body)
        # The settings take no URL but http and https
        request = Request(self._settings.alert_webhook, data=body, headers=headers, method="POST")  # noqa: S310
        with self._opener.open(request, timeout=self._settings.alert_timeout_seconds):
            pass  # anything but 2xx has raised


def body_of(alert: Alert) -> bytes:
    """What is posted."""
    fields = {
        "v": 1,
        "what": "refacex alert",
        "id": alert.id,
        "at": alert.at.astimezone(UTC).isoformat(),
        "kind": alert.kind,
        "detail": alert.detail,
    }
    return json.dumps(fields, sort_keys=True).encode()


def signature(secret: str, body: bytes) -> str:
    """The signature header's value."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
