"""Holds the tables against the trail: each visible state has the event that tells of it and agrees with it, and no event tells of
what is not there; what people signed verifies with the keys that they were added with, and what the custodian wrote with its own.

Comparing happens in the database, one statement a kind of row, so that it takes no memory of ours at a million events; each reads
the events of its own kinds alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, defer

from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.submissions import submission_message
from schemas.tables import Item, Person, RecoveryRequest, Release, RequestFace, Ticket
from workers.audit.attested import KINDS as CUSTODIANS
from workers.audit.attested import AttestedHistory
from workers.audit.comparisons import COMPARISONS
from workers.audit.findings import Problem, Verification, doubted_in
from workers.audit.signed import KINDS, SignedHistory
from workers.audit.statements import Comparison
from workers.audit.times import readable, unreadable
from workers.custody.judge import submission_of, terms_of, verifies
from workers.custody.pinned import PinnedFile
from workers.custody.proof import item_names
from workers.custody.roster import SUBMITTER, Roster, RosterPerson
from workers.strangers import read_json
from workers.words import number_of

AT_MOST = 1_000  # findings of one comparison: whoever emptied a table is found by fewer
_BATCH = 500
# Of people: nobody can read those that the owner made so.
_NO_TIMES = (defer(Person.created_at), defer(Person.removed_at))


def crosscheck(
    session: Session,
    result: Verification,
    roster: Roster | None = None,
    custodian: Mapping[str, bytes] | None = None,
) -> None:
    """Adds to `result` what the tables say otherwise than the trail; in the session, and the snapshot, that `verify` used.

    With the custodian's `roster`, people are held against that as well; with its raw Ed25519 public keys by their ids, its tickets and
    each event that it wrote against its signature.
    """
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(text("SET LOCAL work_mem = '64MB'"))
    session.execute(text("SET LOCAL TimeZone = 'UTC'"))  # a day is as long wherever one looks
    at, rows = len(result.findings), Verification()
    _check_signed(session, result)
    if custodian is not None:
        _check_tickets(session, custodian, result)
        _check_attested(session, custodian, result)
    doubted = sorted(doubted_in(result, Problem.SIGNATURE, Problem.CUSTODIAN))
    for comparison in COMPARISONS:
        _compare(session, comparison, doubted, rows)
    for where, words in unreadable(session, AT_MOST):
        rows.found(Problem.ROW, where, words)
    _check_requests(session, rows)
    _check_submissions(session, rows)
    result.findings[at:at] = rows.findings
    if roster is not None:
        _check_roster(session, roster, result)


def _compare(session: Session, comparison: Comparison, doubted: Sequence[int], result: Verification) -> None:
    rows = _rows(session, comparison.sql, doubted)
    if isinstance(rows, str):
        words = f"could not be held against the trail ({rows}): an event in it cannot be read, or a right is missing"
        result.found(Problem.ROW, comparison.name, words)
        rows = _rows(session, comparison.careful, doubted)
    for where, words in [] if isinstance(rows, str) else rows:
        result.found(Problem.ROW, where, words)
    if len(rows) == AT_MOST:  # no note: were those acknowledged, the others would hide behind them
        result.found(Problem.ROW, comparison.name, f"only the first {AT_MOST} findings are shown")


def _rows(session: Session, sql: str, doubted: Sequence[int]) -> list[tuple[str, str]] | str:
    """What a comparison finds; its SQLSTATE where it fails. Raises DBAPIError where the database is away."""
    try:
        with session.begin_nested():
            found = session.execute(text(f"{sql} LIMIT {AT_MOST}"), {"doubted": list(doubted)})
            return [(row.place, row.words) for row in found]
    except DBAPIError as error:
        state: str | None = getattr(error.orig, "sqlstate", None)
        if error.connection_invalidated or state is None:
            raise
        return state


def _check_requests(session: Session, result: Verification) -> None:
    """A request's columns and faces must be the terms whose canonical bytes people signed."""
    query = select(RecoveryRequest).where(RecoveryRequest.signature.is_not(None), readable(RecoveryRequest))
    query = query.order_by(RecoveryRequest.id)
    for requests in session.execute(query.execution_options(yield_per=_BATCH)).scalars().partitions():
        wanted = [request.id for request in requests]
        rows = session.execute(
            select(RequestFace).where(RequestFace.request_id.in_(wanted)).order_by(RequestFace.request_id)
        ).scalars()
        faces = {key: list(group) for key, group in groupby(rows, lambda face: face.request_id)}
        shown = {face.item_id for each in faces.values() for face in each}
        named = session.execute(select(Item.id, Item.relative_name).where(Item.id.in_(shown)))
        names = {row.id: row.relative_name for row in named}
        for request in requests:
            if terms_of(request, faces.get(request.id, []), names).canonical() != bytes(request.canonical):
                words = "its columns, faces or file names are not the terms that were signed"
                result.found(Problem.ROW, f"request {request.id}", words)
        session.expunge_all()


def _check_submissions(session: Session, result: Verification) -> None:
    """A signed release holds what its submitter signed: their signature is over its columns and its items as they are now."""
    query = select(Release, Person).outerjoin(Person, Person.id == Release.submitted_by)
    query = query.where(Release.signature.is_not(None)).order_by(Release.id)
    query = query.options(*_NO_TIMES, defer(Release.created_at), defer(Release.finished_at))
    for release, person in session.execute(query.execution_options(yield_per=_BATCH)):
        if not _submitted(release, item_names(session, release.id), person):
            words = "its columns or items are not what a submitter of its tenant signed"
            result.found(Problem.SIGNATURE, f"release {release.id}", words)
        session.expunge(release)


def _submitted(release: Release, items: Mapping[UUID, str], person: Person | None) -> bool:
    if person is None or person.tenant != release.tenant or SUBMITTER not in person.roles:
        return False
    try:
        message = submission_message(submission_of(release, items))
    except AttributeError:  # a policy that is no object: the owner may have written anything
        return False
    return verifies(bytes(person.ed25519_public), bytes(release.signature or b""), message)


def _check_tickets(session: Session, keys: Mapping[str, bytes], result: Verification) -> None:
    """Each ticket is the custodian's word, and for itself. Those of before revision 0002 have none, and open nothing any more."""
    query = select(Ticket.id, Ticket.request_id, Ticket.expires_at, Ticket.canonical, Ticket.signature)
    query = query.where(Ticket.canonical.is_not(None), readable(Ticket))
    rows = session.execute(query.execution_options(yield_per=_BATCH))
    for row in rows:
        canonical, signature = bytes(row.canonical), bytes(row.signature or b"")
        if not any(verifies(public, signature, canonical) for public in keys.values()):
            result.found(Problem.SIGNATURE, f"ticket {row.id}", "its signature is not the custodian's")
        elif _named(canonical) != (str(row.id), str(row.request_id), row.expires_at):
            result.found(
                Problem.ROW, f"ticket {row.id}", "what the custodian signed is another ticket, or ends otherwise"
            )


def _named(canonical: bytes) -> tuple[str, str, datetime] | None:
    try:
        fields = read_json(canonical)
        return str(fields["id"]), str(fields["request"]), datetime.fromisoformat(fields["expires_at"])
    except (ValueError, KeyError, TypeError):
        return None


def _follow(
    session: Session, history: SignedHistory | AttestedHistory, kinds: Iterable[AuditEvent], result: Verification
) -> None:
    """Shows the history each event of these kinds, and notes what it says of them."""
    problem = Problem.SIGNATURE if isinstance(history, SignedHistory) else Problem.CUSTODIAN
    query = select(Event.seq, Event.event, Event.canonical).where(Event.event.in_([kind.value for kind in kinds]))
    for seq, event, canonical in session.execute(query.order_by(Event.seq).execution_options(yield_per=_BATCH)):
        try:
            faults = list(history.see(read_json(bytes(canonical))))
        except (ValueError, KeyError, TypeError, AttributeError):
            result.found(Problem.ROW, f"event {seq}", f"{event}: what it says cannot be read")
            continue
        for words in faults:
            result.found(problem, f"event {seq}", f"{event}: {words}")


def _check_attested(session: Session, keys: Mapping[str, bytes], result: Verification) -> None:
    history = AttestedHistory(keys)
    _follow(session, history, CUSTODIANS, result)
    result.attested = history.signatures
    if history.unsigned:
        result.notes.append(
            f"of before the custodian signed its events: {number_of(history.unsigned, 'event')} of its own; nothing proves that "
            "it wrote any"
        )


def _check_signed(session: Session, result: Verification) -> None:
    history = SignedHistory()
    _follow(session, history, KINDS, result)
    result.signatures, result.acknowledgements = history.signatures, history.acknowledgements
    result.administered = history.administered
    if history.unsigned:
        result.notes.append(
            f"of before signatures came into the trail: {number_of(history.unsigned, 'decision')}; nothing proves who made them"
        )
    if history.enrolled:
        result.notes.append(
            f"by an identity provider's word alone: {number_of(history.enrolled, 'enrolment')}, with no administrator's signature"
        )


def _check_roster(session: Session, roster: Roster, result: Verification) -> None:
    """The custodian counts those on its roster: they must be the people of the table, with the same keys and roles."""
    told = session.execute(
        select(Event.canonical).where(Event.event == AuditEvent.PINNED_CHANGED.value).order_by(Event.seq.desc())
    ).scalars()
    versions = [_told_roster(canonical) for canonical in told]
    newest = next((each for each in versions if each is not None), None)
    if newest is not None and newest != roster.sha256:
        result.notes.append(
            f"this roster ({roster.sha256[:16]}) is not the one that the custodian told of last ({newest[:16]}): "
            "it tells with its next work, or this is an older copy"
        )
    everybody = session.execute(select(Person, Person.removed_at.is_(None)).options(*_NO_TIMES)).all()
    rows = {row.id: row for row, stays in everybody if stays}
    gone = {row.id: row for row, stays in everybody if not stays}
    for who in sorted(rows.keys() | roster.people.keys()):
        row, pinned = rows.get(who), roster.people.get(who)
        if row is None and pinned is not None and _kept(gone.get(who), pinned):
            continue
        if row is None:
            result.found(Problem.ROSTER, f"person {who}", "is on the roster, and the service knows nobody of that id")
        elif pinned is None:
            result.found(Problem.ROSTER, f"person {who}", "is not on the roster")
        else:
            for words in _differences(row, pinned):
                result.found(Problem.ROSTER, f"person {who}", words)


def _kept(gone: Person | None, pinned: RosterPerson) -> bool:
    """Whether somebody who was removed is still on the roster for what they submitted, and for nothing else."""
    if gone is None or pinned.roles != (SUBMITTER,) or SUBMITTER not in gone.roles:
        return False
    keys = bytes(gone.ed25519_public), bytes(gone.x25519_public)
    return (gone.tenant, *keys) == (pinned.tenant, pinned.ed25519_public, pinned.x25519_public)


def _told_roster(canonical: bytes) -> str | None:
    try:
        detail = read_json(bytes(canonical))["fields"]["detail"]
        return str(detail["after"]) if detail["file"] == PinnedFile.ROSTER else None
    except (ValueError, KeyError, TypeError):
        return None  # `verify` says so of every event that cannot be read


def _differences(row: Person, pinned: RosterPerson) -> Iterator[str]:
    if (bytes(row.ed25519_public), bytes(row.x25519_public)) != (pinned.ed25519_public, pinned.x25519_public):
        yield "has other public keys than on the roster"
    if (row.tenant, sorted(row.roles)) != (pinned.tenant, sorted(pinned.roles)):
        yield "has another tenant or other roles than on the roster"
    there = row.passkeys if isinstance(row.passkeys, list) else []  # the owner may have written anything
    passkeys = [{"id": each.id, "public": each.public.hex()} for each in pinned.passkeys]
    if len(there) != len(passkeys) or any(each not in there for each in passkeys):
        yield "has other passkeys than on the roster"
