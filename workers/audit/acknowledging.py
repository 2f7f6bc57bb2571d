"""`refacex audit acknowledge`: an auditor signs that they looked into a finding, and the trail keeps it.

What counts is decided by `workers.audit.acknowledged` each time somebody verifies; here is refused what would not.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.requests import signed_message
from schemas.tables import Person
from workers.audit.acknowledged import may_be_acknowledged
from workers.audit.append import append
from workers.audit.errors import AuditError
from workers.audit.findings import CODE, Finding, Verification
from workers.audit.matters import matter_of
from workers.custody.judge import verifies
from workers.custody.roster import AUDITOR

_SHORTEST = 4  # of the beginning of an id


class FindingUnknown(AuditError):
    """Verification finds nothing of that id now: take the one that `refacex audit verify` shows beside the finding, four letters of it
    or more, and give --roster, --ledger and the keys as you did there.
    """

    code = "finding_unknown"


class FindingAmbiguous(AuditError):
    """Several findings have ids that begin so: give more of it."""

    code = "finding_ambiguous"


class FindingAcknowledged(AuditError):
    """This finding was acknowledged before."""

    code = "finding_acknowledged"


class FindingStays(AuditError):
    """Nobody can acknowledge this finding: only what is wrong with one event, which nobody can take away again. Put right what it names,
    a row as the trail tells it, or accept a fork.
    """

    code = "finding_stays"


class NotAuditor(AuditError):
    """Findings are acknowledged by auditors of the tenant that they concern: see `refacex person list`."""

    code = "not_auditor"


class TookPart(AuditError):
    """Who took part in what a finding is about does not acknowledge it: ask another auditor."""

    code = "took_part"


class ReasonNoCode(AuditError):
    """The reason is a code such as stolen-worker-role: lower-case letters, digits and . _ @ -, at most 64. Free text never stands in
    the trail.
    """

    code = "reason_no_code"


class NotTheirSignature(AuditError):
    """The signature is not this auditor's: sign with the key file that was added for them."""

    code = "not_their_signature"


def acknowledge_message(finding: Finding, reason: str) -> bytes:
    """What an auditor signs. Raises ReasonNoCode."""
    if not CODE.fullmatch(reason):
        raise ReasonNoCode(reason[:64])
    return signed_message(f"acknowledge {reason}", finding.sha256())


def find(result: Verification, beginning: str) -> Finding:
    """The open finding whose id begins so. Raises FindingUnknown, FindingAmbiguous, FindingAcknowledged."""
    begins = beginning.strip().lower()
    settled = [each.finding for each in result.acknowledged]
    ids = {each.sha256().hex(): each for each in [*result.findings, *settled]}
    found = {name: each for name, each in ids.items() if len(begins) >= _SHORTEST and name.startswith(begins)}
    if not found:
        raise FindingUnknown(beginning[:64])
    if len(found) > 1:
        raise FindingAmbiguous(", ".join(name[:16] for name in sorted(found)))
    (finding,) = found.values()
    if finding in settled:
        raise FindingAcknowledged(next(iter(found))[:12])
    return finding


def check_acknowledges(session: Session, finding: Finding, who: str) -> Person:
    """The auditor, where they may acknowledge this. Raises FindingStays, NotAuditor, TookPart."""
    if not may_be_acknowledged(finding):
        raise FindingStays(finding.problem.value)
    person, matter = session.get(Person, who), matter_of(session, finding)
    if person is None or person.removed_at is not None or AUDITOR not in person.roles:
        raise NotAuditor(f"{who[:64]} is none")
    if who in matter.people:
        raise TookPart(who[:64])
    if matter.tenants and person.tenant not in matter.tenants:
        raise NotAuditor(f"{who[:64]} is one of {person.tenant[:64]}")
    return person


def acknowledge(session: Session, finding: Finding, who: str, reason: str, signature: bytes) -> int:
    """Writes down, in the caller's transaction, that `who` acknowledged it, signed over `acknowledge_message`; the event's number.

    Raises FindingStays, NotAuditor, TookPart, ReasonNoCode, NotTheirSignature.
    """
    person = check_acknowledges(session, finding, who)
    if not verifies(bytes(person.ed25519_public), signature, acknowledge_message(finding, reason)):
        raise NotTheirSignature
    detail = {"signature": signature.hex(), "reason": reason}
    event = AuditEvent.FINDING_ACKNOWLEDGED
    return append(session, event, actor=who, request_hash=finding.sha256(), detail=detail)
