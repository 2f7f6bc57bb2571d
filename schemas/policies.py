"""What a tenant allows for a class of data: who must approve, for what, when, how much at once, and for how long keys live.

A release carries its policy's name, and every key and payload of it is bound to that name. The rules under the name are
pinned with the custodian, outside Postgres; the database's copy is for early answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import rfc8785

DEFAULT_POLICY = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


WHAT_POLICY = "refacex policy"
#: What the database's columns, and people, can do with.
MOST_APPROVALS, MOST_ITEMS, LONGEST_RETENTION = 100, 100_000, 36_500


@dataclass(frozen=True)
class Hours:
    """When faces may be opened: `start` <= local time < `end` ("HH:MM") on ISO weekdays 1 (Monday) to 7."""

    start: str
    end: str
    days: tuple[int, ...] = (1, 2, 3, 4, 5)
    time_zone: str = "UTC"

    def check(self) -> None:
        """Raises ValueError with what is wrong."""
        for name, clock in (("start", self.start), ("end", self.end)):
            if not isinstance(clock, str) or not _CLOCK.fullmatch(clock):
                raise ValueError(f"hours.{name} is a time as 08:00, and not {_shown(clock)}")
        if self.start >= self.end:
            raise ValueError("hours.end is later than hours.start, on the same day")
        if not self.days or not {(type(day), day) for day in self.days} <= {(int, day) for day in range(1, 8)}:
            raise ValueError(f"hours.days are 1 (Monday) to 7, and not {_shown(list(self.days))}")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError) as error:
            raise ValueError(f"hours.time_zone is one as Europe/Berlin, and not {_shown(self.time_zone)}") from error

    @classmethod
    def of(cls, body: Any) -> Hours:
        """The hours of such JSON. Raises ValueError with what is wrong."""
        names = [each.name for each in fields(cls)]
        if not isinstance(body, dict) or not {"start", "end"} <= body.keys() <= set(names):
            raise ValueError(
                f"hours is an object with start and end, and may have days and time_zone, and not {_shown(body)}"
            )
        days = body.get("days", cls.days)
        if not isinstance(days, list | tuple):
            raise ValueError(f"hours.days is a list of 1 (Monday) to 7, and not {_shown(days)}")
        return cls(**(body | {"days": tuple(days)}))

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
        for name in ("quorum", "break_glass_quorum", "max_items", "ticket_minutes", "retain_days"):
            number = getattr(self, name)
            if type(number) is not int and (name, number) != ("retain_days", None):
                raise ValueError(f"{name} is a whole number, and not {_shown(number)}")
        for name in ("submitter_may_approve", "signed_submissions"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is true or false, and not {_shown(getattr(self, name))}")
        for name, text in (
            ("tenant", self.tenant),
            ("name", self.name),
            *(("purposes", each) for each in self.purposes),
        ):
            if not isinstance(text, str):
                raise ValueError(
                    f"{name} is {'a list of texts' if name == 'purposes' else 'a text'}, and not {_shown(text)}"
                )
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f"{name} holds half a character (a lone surrogate)")
        if not self.tenant:
            raise ValueError("tenant is empty")
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name is of lower-case letters, digits and . _ -, at most 64, and not {_shown(self.name)}"
            )
        if not 1 <= self.quorum <= MOST_APPROVALS:
            raise ValueError(f"quorum is 1 to {MOST_APPROVALS}, and not {self.quorum}")
        if not 0 <= self.break_glass_quorum <= self.quorum:
            raise ValueError(
                f"break_glass_quorum is 0 (never) to quorum ({self.quorum}), and not {self.break_glass_quorum}"
            )
        if not 1 <= self.max_items <= MOST_ITEMS:
            raise ValueError(f"max_items is 1 to {MOST_ITEMS}, and not {self.max_items}")
        if not 1 <= self.ticket_minutes <= 24 * 60:
            raise ValueError(f"ticket_minutes is 1 to 1440, and not {self.ticket_minutes}")
        if self.retain_days is not None and not 0 <= self.retain_days <= LONGEST_RETENTION:
            raise ValueError(f"retain_days is 0 to {LONGEST_RETENTION}, or null (for ever), and not {self.retain_days}")
        if any(not purpose.strip() for purpose in self.purposes):
            raise ValueError("purposes holds an empty text")
        if self.hours is not None:
            self.hours.check()

    def body(self) -> dict[str, Any]:
        """As plain JSON. `signed_submissions` is in it where it is true alone: older policies keep their bytes and their hash."""
        body = {"v": 1, "what": WHAT_POLICY} | asdict(self)
        return body if self.signed_submissions else {name: body[name] for name in body if name != "signed_submissions"}

    @classmethod
    def of(cls, body: dict[str, Any]) -> Policy:
        """The policy of such JSON; fields left out have their defaults. Raises ValueError with what is wrong."""
        given = {"tenant": None} | {name: value for name, value in body.items() if name not in ("v", "what")}
        if (body.get("v", 1), body.get("what", WHAT_POLICY)) != (1, WHAT_POLICY):
            raise ValueError(f"v is 1 and what is {WHAT_POLICY}, where they are given")
        unknown = given.keys() - {each.name for each in fields(cls)}
        if unknown:
            known = ", ".join(each.name for each in fields(cls))
            raise ValueError(f"a policy has no {', '.join(sorted(unknown))}; it has {known}")
        purposes = given.get("purposes", [])
        if not isinstance(purposes, list | tuple):
            raise ValueError(f"purposes is a list of texts, and not {_shown(purposes)}")
        if given.get("hours") is not None:
            given["hours"] = Hours.of(given["hours"])
        policy = cls(**(given | {"purposes": tuple(purposes)}))
        policy.check()
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


def _shown(value: Any) -> str:
    """A value as its JSON has it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"
