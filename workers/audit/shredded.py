"""What the events of a bundle say of shredded keys, held against each other: whose they were, and whether their time was over.

For a whole trail `workers.audit.comparisons` asks the same of the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from schemas.audit import AuditEvent

_MADE = (AuditEvent.ITEM_COMMITTED, AuditEvent.ITEM_RELEASED)
_ENDS = (AuditEvent.RELEASE_FINISHED, AuditEvent.RELEASE_CANCELLED)
_LONGEST = 1_000_000  # days; nobody lives to see the end of more


class ShreddedHistory:
    """Follows events in order and says of each `key:shredded` what is wrong with it; others are passed over."""

    def __init__(self) -> None:
        self._releases: defaultdict[str, set[str]] = defaultdict(set)  # in which each item was made
        self._submitted: defaultdict[str, list[datetime | None]] = defaultdict(list)
        self._ended: defaultdict[str, list[datetime | None]] = defaultdict(list)

    def see(self, event: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with this event, in words; `event` is the JSON object that was hashed."""
        fields, kind = event["fields"], event["event"]
        release, item = str(fields.get("release")), str(fields.get("item"))
        if kind in _MADE:
            self._releases[item].add(release)
        elif kind == AuditEvent.RELEASE_SUBMITTED:
            self._submitted[release].append(_time(event["at"]))
        elif kind in _ENDS:
            self._ended[release].append(_time(event["at"]))
        elif kind == AuditEvent.KEY_SHREDDED:
            if release not in self._submitted:
                yield "the trail knows no such release before it"
            if self._releases[item] != {release}:
                yield "its item was made in another release, or in none before it"
            detail = fields.get("detail", {})
            if detail.get("reason") == "retention":
                yield from self._early(release, detail.get("retain_days"), _time(event["at"]))

    def _early(self, release: str, days: Any, at: datetime | None) -> Iterator[str]:
        times = self._submitted[release] + self._ended[release]
        known = [time for time in times if time is not None]
        if not self._ended[release] or at is None or len(known) < len(times):
            yield "its release had not ended"
        elif at - max(known) < timedelta(days=min(days, _LONGEST) if type(days) is int and days > 0 else 0):
            yield "its time was not over"


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return time if time.tzinfo is not None else None
