"""What verification finds, and what auditors said of it: a finding has an id, by which it is acknowledged."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum

import rfc8785

CODE = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")  # free text never stands in the trail
_EVENT = re.compile(r"event ([0-9]+)", re.ASCII)


class Problem(StrEnum):
    """What can be wrong."""

    GAP = "gap"
    EVENT_CHANGED = "event_changed"
    ROLE = "role"
    TAIL = "tail"
    NODE = "node"
    HEAD = "head"
    HEAD_SIGNATURE = "head_signature"
    HEAD_UNANCHORED = "head_unanchored"
    UNANCHORED = "unanchored"
    ANCHOR = "anchor"
    HISTORY_CHANGED = "history_changed"
    EVENTS_LOST = "events_lost"
    GUARD = "guard"
    FORK = "fork"
    ROW = "row"
    SIGNATURE = "signature"
    CUSTODIAN = "custodian"
    LEDGER = "ledger"
    ROSTER = "roster"
    RECEIPT = "receipt"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, where (`event 17`, `head 40`, ...), and in words.

    `seen`: of an event that may be acknowledged its leaf hash, in hex; else empty.
    """

    problem: Problem
    where: str
    words: str
    seen: str = ""

    @property
    def event(self) -> int | None:
        """The number of the event that is wrong; None where it is something else."""
        found = _EVENT.fullmatch(self.where)
        return int(found[1]) if found else None

    def sha256(self) -> bytes:
        """Its id: of the RFC 8785 form of what it says."""
        said = {"problem": self.problem.value, "where": self.where, "words": self.words}
        said |= {"seen": self.seen} if self.seen else {}
        # A stranger's event may hold half a surrogate pair, which has no UTF-8 form.
        plain = {name: value.encode(errors="replace").decode() for name, value in said.items()}
        return hashlib.sha256(rfc8785.dumps({"v": 1, "what": "refacex finding", **plain})).digest()


@dataclass(frozen=True)
class Acknowledgement:
    """A `finding:acknowledged` that its auditor signed as they should: the number and time of the event, who, of which tenant, and why.

    `finding` is the finding's id in hex, `public` the auditor's raw Ed25519 key. `rests`: the numbers of the events that make them an
    auditor, which are their `person:added`, that of the administrator who signed it, and so on. `enrolled`: an identity provider's word
    made them one, and no administrator's signature.
    """

    seq: int
    at: str
    who: str
    tenant: str
    finding: str
    reason: str
    rests: tuple[int, ...]
    public: bytes
    enrolled: bool


@dataclass(frozen=True)
class Acknowledged:
    """A finding that auditors looked into: it stays in the trail, and is told each time."""

    finding: Finding
    by: tuple[Acknowledgement, ...]


@dataclass
class Verification:
    """What verification saw. `ok` only if no finding is left open. `notes` are worth reading and no fault.

    `acknowledgements` are the trail's; `workers.audit.acknowledged.settle` moves the findings that they cover to `acknowledged`.
    `administered` are the tenants that have, or had, an administrator.
    """

    events: int = 0
    heads: int = 0
    anchors: int = 0
    anchored_to: int = 0
    signatures: int = 0
    attested: int = 0
    root: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    acknowledgements: list[Acknowledgement] = field(default_factory=list)
    administered: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the trail holds."""
        return not self.findings

    def found(self, problem: Problem, where: str, words: str, seen: str = "") -> None:
        """Adds a finding."""
        self.findings.append(Finding(problem, where, words, seen))


def doubted_in(result: Verification, *problems: Problem) -> set[int]:
    """The numbers of the events with one of these problems: what they say is held against nothing else."""
    found = {finding.event for finding in result.findings if finding.problem in problems}
    return {seq for seq in found if seq is not None}
