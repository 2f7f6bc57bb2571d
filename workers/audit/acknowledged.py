"""What auditors acknowledged: verification goes on to tell of it, each time, and does not fail for it.

The trail can only be added to. Whoever stole a service's role may write into it what nobody can take away again, and verification names
that for ever. An auditor who looked into it signs that they did, over the finding's id; `settle` says which signatures count for what.
A finding that differs in anything has another id, and is open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy import ARRAY, BigInteger, any_, literal, select
from sqlalchemy.orm import Session

from schemas.audit_tables import Event
from workers.audit.findings import Acknowledged, Acknowledgement, Finding, Problem, Verification
from workers.audit.matters import matter_of, place_of
from workers.custody.roster import AUDITOR, Roster

_MAY = frozenset({Problem.ROW, Problem.SIGNATURE, Problem.CUSTODIAN})


def may_be_acknowledged(finding: Finding) -> bool:
    """Whether an auditor may acknowledge it: it says of one event, or of one row and what the trail says of it, that they are wrong.

    - `row`, `signature` and `custodian` are what a stolen service's role can leave in the trail for good: an event that no row bears
      out, or that its signer did not sign. It counts with all that was seen of it (`seen`) or not at all: else who may write rows
      could change one again behind what somebody acknowledged before, and after a fork another event could stand under the number.
    - `gap`, `event_changed`, `tail`, `node`, `head`, `head_signature`, `head_unanchored`, `unanchored`, `anchor`, `history_changed`,
      `events_lost`, `fork`: the trail itself was changed, or nothing vouches for it. Nothing that stands in it can excuse that, an
      acknowledgement least of all; a fork has a statement of its own, with the notary's key.
    - `role`, `guard`: `audit.append` and the guards let no service do that. Whoever did had the database.
    - `ledger`, `roster`: files that the custodian goes by, and not what one event says. They can be put right.
    - `receipt`: only its holder knows what they were given it for.
    """
    return finding.problem in _MAY and place_of(finding) is not None and bool(finding.seen)


def settle(session: Session, result: Verification, roster: Roster | None = None) -> None:
    """Moves each finding that was acknowledged from `findings` to `acknowledged`; the last thing that verification does.

    An acknowledgement that nobody should have signed is a finding, and one that is in doubt a note: neither counts. What concerns
    several tenants takes an auditor of each. With the custodian's `roster` those on it count alone.
    """
    result.findings = _pinned(session, result.findings)
    found = {finding.sha256().hex(): finding for finding in result.findings}
    counted: defaultdict[str, list[Acknowledgement]] = defaultdict(list)
    for each in result.acknowledgements:
        finding, where = found.get(each.finding), f"event {each.seq}"
        if finding is None:
            result.notes.append(f"{where}: {each.who} acknowledged {each.finding[:12]}, which is not found now")
        elif why := fault_of(session, finding, each):
            (forged,) = _pinned(session, [Finding(Problem.SIGNATURE, where, f"finding:acknowledged: {why}")])
            result.findings.append(forged)
            found[forged.sha256().hex()] = forged  # for another auditor, later, to acknowledge
        elif each.who not in {other.who for other in counted[each.finding]}:
            counted[each.finding].append(each)
    wrong = {finding.where for finding in result.findings}
    for name, acknowledgements in counted.items():
        by = [each for each in acknowledgements if _counts(each, wrong, roster, result)]
        missing = matter_of(session, found[name]).tenants - {each.tenant for each in by}
        if by and missing:
            result.notes.append(
                f"{found[name].where}: {name[:12]} was acknowledged, but by no auditor of {', '.join(sorted(missing))}"
            )
        elif by:
            result.acknowledged.append(Acknowledged(found[name], tuple(by)))
    settled = {each.finding for each in result.acknowledged}
    result.findings = [finding for finding in result.findings if finding not in settled]
    if settled and roster is None:
        result.notes.append("that who acknowledged findings is an auditor, the trail alone says: see --roster")


def _pinned(session: Session, findings: Iterable[Finding]) -> list[Finding]:
    """The findings about an event with its leaf hash, which `verify` held against its bytes."""
    places = {finding: place_of(finding) for finding in findings if finding.problem in _MAY and not finding.seen}
    numbers = {finding: int(place[1]) for finding, place in places.items() if place is not None and place[0] == "event"}
    among = any_(literal(list(numbers.values()), ARRAY(BigInteger)))
    rows = session.execute(select(Event.seq, Event.leaf).where(Event.seq == among))
    leaves = {row.seq: bytes(row.leaf).hex() for row in rows}
    seen = {finding: leaves[seq] for finding, seq in numbers.items() if seq in leaves}
    return [replace(finding, seen=seen[finding]) if finding in seen else finding for finding in findings]


def fault_of(session: Session, finding: Finding, by: Acknowledgement) -> str | None:
    """Why this acknowledgement should not have been signed, in words; None where it may stand."""
    place = place_of(finding)
    if place is None or not may_be_acknowledged(finding):
        return "nobody may acknowledge that"
    if place[0] == "event" and int(place[1]) >= by.seq:
        return "it came before what it acknowledges"
    matter = matter_of(session, finding)
    if by.who in matter.people:
        return f"{by.who} took part in what it acknowledges"
    if matter.tenants and by.tenant not in matter.tenants:
        return f"{by.who} is of another tenant than what it acknowledges"
    return None


def _counts(each: Acknowledgement, wrong: set[str], roster: Roster | None, result: Verification) -> bool:
    """Whether nothing is wrong with the event, nor with those that make somebody an auditor, acknowledged or not."""
    person = roster.people.get(each.who) if roster is not None else None
    doubted = {f"event {seq}" for seq in (each.seq, *each.rests)} & wrong
    if doubted:
        why = f"{', '.join(sorted(doubted))} is found fault with"
    elif roster is not None and (
        person is None
        or AUDITOR not in person.roles
        or (person.tenant, person.ed25519_public) != (each.tenant, each.public)
    ):
        why = f"{each.who} is no auditor of {each.tenant} on the roster"
    else:
        return True
    result.notes.append(f"event {each.seq}: that {each.who} acknowledged {each.finding[:12]} does not count: {why}")
    return False
