"""What a tenant allows for a class of data: who must approve, for what, when, how much at once, and for how long keys live.

A release carries its policy's name, and every key and payload of it is bound to that name. The rules under the name are
pinned with the custodian, outside Postgres; the database's copy is for early answers.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, fields
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import rfc8785

DEFAULT_POLICY = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


@dataclass(frozen=True)
class Hours:
    """When faces may be opened: `start` <= local time < `end` ("HH:MM") on ISO weekdays 1 (Monday) to 7."""

    start: str
    end: str
    days: tuple[int, ...] = (1, 2, 3, 4, 5)
    time_zone: str = "UTC"

    def check(self) -> None:
        """Raises ValueError with what is wrong."""
        if not (_CLOCK.fullmatch(self.start) and _CLOCK.fullmatch(self.end) and self.start < self.end):
            raise ValueError("hours run from HH:MM to a later HH:MM of the same day")
        if not self.days or not set(self.days) <= set(range(1, 8)):
            raise ValueError("days are 1 (Monday) to 7")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"no time zone {self.time_zone[:40]}") from error

    def include(self, moment: datetime) -> bool:
        """Whether that moment is within them."""
        local = moment.astimezone(ZoneInfo(self.time_zone))
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        return local.isoweekday() in self.days and start <= local.time() < end


@dataclass(frozen=True)
class Policy:
    """One policy of one tenant; the defaults are what holds where nobody set anything.

    `break_glass_quorum` 0: the glass cannot be broken. `purposes` empty: any. `hours` None: always. `retain_days` None:
    keys live until somebody orders them shredded; else they are shredded that many days after the release was finished.
    `signed_submissions`: what a submitter did not sign is neither taken nor recovered.
    """

    tenant: str
    name: str = DEFAULT_POLICY
    quorum: int = 2
    break_glass_quorum: int = 0
    submitter_may_approve: bool = False
    purposes: tuple[str, ...] = ()
    hours: Hours | None = None
    max_items: int = 100
    ticket_minutes: int = 60
    retain_days: int | None = None
    signed_submissions: bool = False

    def check(self) -> None:
        """Raises ValueError with what is wrong."""
        whole = (self.quorum, self.break_glass_quorum, self.max_items, self.ticket_minutes)
        if any(type(number) is not int for number in whole) or type(self.retain_days) not in (int, type(None)):
            raise ValueError("quorums, max_items, ticket_minutes and retain_days are whole numbers")
        if type(self.submitter_may_approve) is not bool or type(self.signed_submissions) is not bool:
            raise ValueError("submitter_may_approve and signed_submissions are true or false")
        texts = (self.tenant, self.name, *self.purposes)
        if any(not isinstance(text, str) for text in texts):
            raise ValueError("tenant, name and purposes are texts")
        if not self.tenant or not _NAME.fullmatch(self.name):
            raise ValueError("a policy has a tenant, and a name of lower-case letters, digits and . _ -")
        if self.quorum < 1 or not 0 <= self.break_glass_quorum <= self.quorum:
            raise ValueError("quorum is 1 or more, and the quorum for breaking the glass at most that (0: never)")
        if self.max_items < 1 or not 1 <= self.ticket_minutes <= 24 * 60:
            raise ValueError("max_items is 1 or more, ticket_minutes 1 to 1440")
        if self.retain_days is not None and self.retain_days < 0:
            raise ValueError("retain_days is 0 or more")
        if any(not purpose.strip() for purpose in self.purposes):
            raise ValueError("a purpose is not empty")
        if self.hours is not None:
            self.hours.check()

    def body(self) -> dict[str, Any]:
        """As plain JSON. `signed_submissions` is in it where it is true alone: older policies keep their bytes and their hash."""
        body = {"v": 1, "what": "refacex policy"} | asdict(self)
        return body if self.signed_submissions else {name: body[name] for name in body if name != "signed_submissions"}

    @classmethod
    def of(cls, body: dict[str, Any]) -> Policy:
        """The policy of such JSON; fields left out have their defaults. Raises ValueError with what is wrong."""
        given = {name: value for name, value in body.items() if name not in ("v", "what")}
        unknown = given.keys() - {each.name for each in fields(cls)}
        if unknown:
            raise ValueError(f"a policy has no {', '.join(sorted(unknown))}")
        try:
            if given.get("hours") is not None:
                hours = dict(given["hours"])
                given["hours"] = Hours(**(hours | ({"days": tuple(hours["days"])} if "days" in hours else {})))
            policy = cls(**(given | {"purposes": tuple(given.get("purposes", ()))}))
            policy.check()
        except TypeError as error:
            raise ValueError("a field has a value of the wrong type") from error
        return policy

    def canonical(self) -> bytes:
        """The RFC 8785 bytes."""
        return rfc8785.dumps(self.body())

    def sha256(self) -> bytes:
        """The canonical form's SHA-256: how the audit trail names this version of the policy."""
        return hashlib.sha256(self.canonical()).digest()

    def quorum_for(self, *, break_glass: bool) -> int:
        """The approvals needed; 0 where the glass cannot be broken."""
        return self.break_glass_quorum if break_glass else self.quorum
