"""Keeps a worker's claims alive while it works on them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from workers.logs import get_logger
from workers.releases import lifecycle
from workers.releases.lifecycle import Claim

log = get_logger(__name__)


class Heartbeat:
    """Renews the claims of a chunk three times in their life, from a thread of its own."""

    def __init__(self, sessions: sessionmaker[Session], seconds: float) -> None:
        self._sessions = sessions
        self._seconds = seconds
        self._held: dict[UUID, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def add(self, claims: Sequence[Claim]) -> None:
        with self._lock:
            self._held |= {claim.item_id: claim.fence for claim in claims}

    def drop(self, claim: Claim) -> None:
        with self._lock:
            self._held.pop(claim.item_id, None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            with self._lock:
                held = list(self._held.items())
            if not held:
                continue
            try:
                with self._sessions.begin() as session:
                    lifecycle.renew(session, held, self._seconds)
            except Exception as error:  # a claim that runs out is no harm: its fence refuses what comes too late
                log.warning("claims_not_renewed", claims=len(held), exc_info=error)
