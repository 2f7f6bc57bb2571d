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
from workers.audit.matters import matter_of
from workers.custody.roster import AUDITOR, Roster

_MAY = frozenset({Problem.ROW, Problem.SIGNATURE})


def may_be_acknowledged(finding: Finding) -> bool:
    """Whether an auditor may acknowledge it: it says of one event that it is wrong, and nobody can take an event away again.

    - `row` and `signature` at an event are what a stolen role can leave in the trail for good: what no row bears out, stands
      twice, is of a wrong type, or was not signed by who should have. It counts with the event's leaf hash (`seen`): after a fork
      another event could stand under the number.
    - The same at a row: the trail tells one story, and the row another. A row can be put right, and until then may be used; were it
      acknowledged, it could be changed so again. `workers.audit.comparisons` decides which of the two is wrong: an event that its signer
      did not sign is; one with its signature is not; else the first that tells of a thing is what happened.
    - `gap`, `event_changed`, `tail`, `node`, `head`, `head_signature`, `head_unanchored`, `unanchored`, `anchor`, `history_changed`,
      `events_lost`, `fork`: the trail itself was changed, or nothing vouches for it. Nothing that stands in it can excuse that, an
      acknowledgement least of all; a fork has a statement of its own, with the notary's key.
    - `role`, `guard`: `audit.append` and the guards let no service do that. Whoever did had the database.
    - `custodian`: its word stands for what happened to keys and orders. Were one that it did not give acknowledged, rows that were changed
      to fit it would pass.
    - `ledger`, `roster`: files that the custodian goes by, and not what one event says. They can be put right.
    - `receipt`: only its holder knows what they were given it for.
    """
    return finding.problem in _MAY and finding.event is not None and bool(finding.seen)


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
    numbers = {finding: finding.event for finding in findings if finding.problem in _MAY}
    among = any_(literal([seq for seq in numbers.values() if seq is not None], ARRAY(BigInteger)))
    rows = session.execute(select(Event.seq, Event.leaf).where(Event.seq == among))
    leaves = {row.seq: bytes(row.leaf).hex() for row in rows}
    return [replace(each, seen=leaves.get(numbers.get(each), "")) for each in findings]


def fault_of(session: Session, finding: Finding, by: Acknowledgement) -> str | None:
    """Why this acknowledgement should not have been signed, in words; None where it may stand."""
    if not may_be_acknowledged(finding):
        return "nobody may acknowledge that"
    if finding.event is None or finding.event >= by.seq:
        return "it came before what it acknowledges"
    matter = matter_of(session, finding)
    if by.who in matter.people:
        return f"{by.who} took part in what it acknowledges"
    if matter.tenants and by.tenant not in matter.tenants:
        return f"{by.who} is of another tenant than what it acknowledges"
    return None


def _counts(each: Acknowledgement, wrong: set[str], roster: Roster | None, result: Verification) -> bool:
    """Whether nothing is wrong with the event, nor with those that make somebody an auditor, acknowledged or not; and an administrator
    signed for them, where one is, or the roster has them.
    """
    person = roster.people.get(each.who) if roster is not None else None
    doubted = {f"event {seq}" for seq in (each.seq, *each.rests)} & wrong
    if doubted:
        why = f"{', '.join(sorted(doubted))} is found fault with"
    elif roster is None and each.enrolled and each.tenant in result.administered:
        why = f"an identity provider's word alone made them one, and {each.tenant} has an administrator: see --roster"
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
