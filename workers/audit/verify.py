"""Verification: derives the whole trail again from the database and the anchors, and says what is wrong and where.

It trusts the notary's public key and the bucket's Object Lock, and nothing in the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import func, not_, select
from sqlalchemy.orm import Session

from schemas.audit import EVENT_ROLES, FORMAT_VERSION, AuditEvent, Role
from schemas.audit_tables import AuditGrant, AuditTail, Event, Node, TreeHead
from workers.audit.canonical import is_canonical, parse
from workers.audit.findings import Problem, Verification
from workers.audit.forks import Fork, LostHead, load_fork, lost_by, told_forks
from workers.audit.guards import describe, differences, made_by_migrations
from workers.audit.heads import MOST_UNANCHORED, Anchored, Anchors, HeadInvalid, HeadVerifier, SignedHead
from workers.audit.merkle import Frontier, leaf_hash
from workers.audit.times import readable, time_of
from workers.words import number_of

_BATCH = 2_000


def verify(session: Session, anchors: Anchors, verifier: HeadVerifier) -> Verification:
    """Checks events, tree, heads, anchors and guards; reads the whole trail once. Storage errors pass through.

    Events younger than the newest anchored head are checked for form, but nothing outside the database vouches for them yet.
    `workers.audit.crosscheck` goes on from here, in the same session, and holds the tables against the trail.
    """
    result, began = Verification(), datetime.now(UTC)
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    recorded = _recorded_heads(session, anchors, verifier, result)
    forks = _anchored_forks(anchors, verifier, result)
    anchored = _anchored_heads(anchors, verifier, forks, result)
    sizes = {head.size for head in [*recorded, *anchored]} | {fork.common_size for fork in forks}
    roots = _walk_events(session, sizes, _Waits(anchored, result), result)
    _check_heads(recorded, anchored, roots, result)
    _check_forks(session, forks, roots, result)
    _check_age(session, began, result)
    _check_nodes_count(session, result)
    _check_guards(session, result)
    return result


def _check_age(session: Session, began: datetime, result: Verification) -> None:
    """A head comes within a minute of an event; nothing vouches for what had waited longer when we `began`, by this machine's clock.

    Heads that came since are not in the snapshot: reading a long trail takes minutes, and is not held against the notary.
    """
    query = select(Event.seq, Event.at).where(Event.seq >= result.anchored_to, readable(Event))
    oldest = session.execute(query.where(Event.event != AuditEvent.HEAD_ANCHORED).order_by(Event.seq).limit(1)).first()
    if oldest is not None and began - oldest.at > MOST_UNANCHORED:
        since = f"{oldest.at:%Y-%m-%d %H:%M} UTC"
        result.found(
            Problem.UNANCHORED, f"event {oldest.seq}", f"no head was anchored since it, {since}: see to the notary"
        )


def _recorded_heads(
    session: Session, anchors: Anchors, verifier: HeadVerifier, result: Verification
) -> list[SignedHead]:
    heads = []
    for size in session.execute(
        select(TreeHead.size).where(not_(readable(TreeHead))).order_by(TreeHead.size)
    ).scalars():
        result.found(Problem.HEAD, f"head {size}", "a time in its row cannot be read")
    for row in session.execute(select(TreeHead).where(readable(TreeHead)).order_by(TreeHead.size)).scalars():
        result.heads += 1
        where = f"head {row.size}"
        try:
            head = verifier.read(row.body, row.signature)
        except HeadInvalid as error:
            result.found(Problem.HEAD_SIGNATURE, where, f"the recorded head does not verify: {error.detail}")
            continue
        same = (head.size, head.root, head.key_id, head.at) == (row.size, bytes(row.root), row.key_id, row.at)
        if not same or row.anchor_object != anchors.name(head.size, head.epoch):
            result.found(Problem.HEAD, where, "the row says something else than what was signed")
        heads.append(head)
    return heads


def _anchored_forks(anchors: Anchors, verifier: HeadVerifier, result: Verification) -> list[Fork]:
    forks: list[Fork] = []
    for anchored in anchors.forks():
        name = anchored.name
        _check_versions(anchored, result)
        try:
            fork = load_fork(anchors, anchored, verifier)
        except HeadInvalid as error:
            result.found(Problem.FORK, name, f"the statement of a fork does not verify: {error.detail}")
            continue
        if fork.epoch != len(forks) + 1:
            result.found(Problem.FORK, name, f"the statement of epoch {len(forks) + 1} is missing before it")
        forks.append(fork)
        result.notes.append(f"epoch {fork.epoch}: {fork.words()}")
    return forks


def _anchored_heads(
    anchors: Anchors, verifier: HeadVerifier, forks: list[Fork], result: Verification
) -> list[SignedHead]:
    """The anchored heads that still stand. One that an accepted fork gave up must be named in its statement."""
    heads = []
    lost: dict[int, set[LostHead]] = {fork.epoch: set(fork.lost) for fork in forks}
    for anchored in anchors.heads():
        name = anchored.name
        result.anchors += 1
        _check_versions(anchored, result)
        try:
            head = anchors.read(anchored, verifier)
        except HeadInvalid as error:
            result.found(Problem.ANCHOR, name, f"the anchored head does not verify: {error.detail}")
            continue
        fork = lost_by(head.epoch, head.size, forks)
        if head.epoch and head.epoch not in lost:
            result.found(Problem.FORK, name, f"a head of epoch {head.epoch}, and no statement began that epoch")
        if fork is None:
            heads.append(head)
        elif LostHead(head.epoch, head.size, head.root) not in lost[fork.epoch]:
            result.found(
                Problem.FORK, name, f"the fork of epoch {fork.epoch} gave it up, and its statement does not name it"
            )
    result.anchored_to = max((head.size for head in heads), default=0)
    return heads


def _check_versions(anchored: Anchored, result: Verification) -> None:
    """The notary writes a name once: whatever else lies there is somebody's who wanted another head to be seen, or none."""
    if anchored.markers:
        result.found(
            Problem.ANCHOR, anchored.name, "somebody put a delete marker over it, which hides it from a listing"
        )
    if len(anchored.versions) > 1:
        versions = number_of(len(anchored.versions), "version")
        words = f"somebody wrote over it: it has {versions}, and the oldest that the notary signed counts"
        result.found(Problem.ANCHOR, anchored.name, words)


class _Waits:
    """Notes which events had to wait for the head that covers them: until then whatever was among them could be taken away."""

    def __init__(self, heads: list[SignedHead], result: Verification) -> None:
        self._heads = sorted(((head.size, head.at) for head in heads), reverse=True)
        self._result = result
        self._first = True  # of the events under the next head

    def see(self, row: Any) -> None:
        while self._heads and row.seq >= self._heads[-1][0]:
            self._heads.pop()
            self._first = True
        if not self._first or not self._heads or row.event == AuditEvent.HEAD_ANCHORED:
            return
        self._first = False
        size, at = self._heads[-1]
        if at - row.at > MOST_UNANCHORED:
            waited = timedelta(seconds=int((at - row.at).total_seconds()))
            self._result.notes.append(
                f"events from {row.seq} on waited {waited} for head {size}: nothing vouches for what else was among them until then"
            )


def _walk_events(session: Session, sizes: set[int], waits: _Waits, result: Verification) -> dict[int, bytes]:
    """Derives leaves, nodes and roots from the events alone; gives the root at each of `sizes` that the trail reaches."""
    frontier = Frontier()
    roots = {0: frontier.root()} if 0 in sizes else {}
    before: datetime | None = None
    nodes = _NodeCheck(session, result)
    rows = Event.__table__.c  # the table itself: a million rows go by in half the time that mapped ones take
    at = time_of(rows.at).label("at")
    query = select(rows.seq, at, rows.role, rows.event, rows.canonical, rows.leaf).order_by(rows.seq)
    for row in session.execute(query.execution_options(yield_per=_BATCH)):
        if row.seq != result.events:
            gap = (
                f"events {result.events} to {row.seq - 1}" if row.seq - result.events > 1 else f"event {result.events}"
            )
            result.found(Problem.GAP, gap, "missing")
            result.events = row.seq
        leaf = _check_event(row, result)
        if row.at is not None:  # else its columns say something else than its bytes
            if before is not None and row.at < before:
                result.notes.append(f"event {row.seq}: the database's clock went back by {before - row.at}")
            before = row.at
            waits.see(row)
        for each in frontier.push(leaf):
            nodes.expect(*each)
        result.events += 1
        if frontier.size in sizes and frontier.size == result.events:
            roots[frontier.size] = frontier.root()
    nodes.finish()
    result.root = frontier.root()
    size = session.execute(select(AuditTail.size)).scalar_one_or_none()
    if size != result.events:
        result.found(
            Problem.TAIL, "tail", f"the tail says {size}, and the trail has {number_of(result.events, 'event')}"
        )
    return roots


def _check_event(row: Any, result: Verification) -> bytes:
    """Checks one event's bytes against its columns and the rules; gives the leaf hash of what is there."""
    where, canonical = f"event {row.seq}", bytes(row.canonical)
    leaf = leaf_hash(canonical)
    try:
        fields = parse(canonical)
        if not is_canonical(fields, canonical):
            result.found(Problem.EVENT_CHANGED, where, "its bytes are not canonical JSON")
        said = (fields["seq"], datetime.fromisoformat(fields["at"]), fields["role"], fields["event"], fields["v"])
    except (ValueError, KeyError, TypeError) as error:
        result.found(Problem.EVENT_CHANGED, where, f"its bytes are no event: {type(error).__name__}")
        return leaf
    if said != (row.seq, row.at, row.role, row.event, FORMAT_VERSION) or leaf != bytes(row.leaf):
        result.found(Problem.EVENT_CHANGED, where, "its columns say something else than its bytes")
    if row.role not in _may_write(row.event):
        result.found(Problem.ROLE, where, f"the role {row.role} may not write {row.event}")
    return leaf


@cache
def _may_write(event: str) -> frozenset[str]:
    try:
        roles = EVENT_ROLES[AuditEvent(event)]
    except ValueError:
        return frozenset()
    # The owner's name is the installation's own choice.
    return frozenset({role.value for role in roles} | ({"refacex_owner"} if Role.OWNER in roles else set()))


class _NodeCheck:
    """Compares the stored nodes with the derived ones, a batch at a time."""

    def __init__(self, session: Session, result: Verification) -> None:
        self._session, self._result = session, result
        self._expected: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        self._waiting = 0

    def expect(self, level: int, position: int, value: bytes) -> None:
        self._expected[level][position] = value
        self._waiting += 1
        if self._waiting >= _BATCH:
            self.finish()

    def finish(self) -> None:
        for level, expected in self._expected.items():
            query = select(Node.position, Node.hash).where(
                Node.level == level, Node.position.between(min(expected), max(expected))
            )
            for position, value in self._session.execute(query):
                if expected.get(position) != bytes(value):
                    self._result.found(Problem.NODE, f"node {level}/{position}", "not the hash of its events")
        self._expected.clear()
        self._waiting = 0


def _check_heads(
    recorded: Iterable[SignedHead], anchored: Iterable[SignedHead], roots: dict[int, bytes], result: Verification
) -> None:
    outside = {head.size: head for head in anchored}
    rows = {head.size: head for head in recorded}
    for size in sorted(outside.keys() | rows.keys()):
        head = outside.get(size) or rows[size]
        where = f"head {size}"
        if size not in roots:
            lost = "events are missing before it" if size <= result.events else f"only {result.events} are left"
            result.found(Problem.EVENTS_LOST, where, f"{number_of(size, 'event')} signed for, and {lost}")
        elif roots[size] != head.root:
            result.found(Problem.HISTORY_CHANGED, where, "the events before it are not those that were signed")
        if size not in outside:
            result.found(Problem.HEAD_UNANCHORED, where, "recorded, and not in the bucket")
        elif size not in rows:
            result.notes.append(f"{where}: anchored, and its row is missing; the notary will record it again")


def _check_forks(session: Session, forks: list[Fork], roots: dict[int, bytes], result: Verification) -> None:
    """What both branches share must be what is there, and the trail must tell of the fork."""
    told = told_forks(session)
    for fork in forks:
        where = f"epoch {fork.epoch}"
        later = [each for each in forks if each.epoch > fork.epoch]
        gone = any(each.common_size < fork.common_size for each in later)
        if not gone and roots.get(fork.common_size) != fork.common_root:
            result.found(
                Problem.HISTORY_CHANGED, where, "the events that both branches share are not those that were signed"
            )
        if not later and fork.sha256() not in told:
            result.found(Problem.FORK, where, "the trail does not tell of it: run `refacex audit accept-fork` again")
    unsigned = told - {fork.sha256() for fork in forks}
    for each in sorted(unsigned):
        result.found(
            Problem.FORK,
            "trail:forked",
            f"an event tells of a statement {each[:16]} that the notary's key never signed",
        )


def _check_nodes_count(session: Session, result: Verification) -> None:
    # The notary stores every subtree up to its newest head: size - (one bits of size) of them.
    worked_to = session.execute(select(func.coalesce(func.max(TreeHead.size), 0))).scalar_one()
    expected = worked_to - worked_to.bit_count()
    stored = session.execute(select(func.count()).select_from(Node)).scalar_one()
    if stored != expected:
        result.found(Problem.NODE, "nodes", f"{stored} stored, and {expected} belong to the newest head")


def _check_guards(session: Session, result: Verification) -> None:
    """What keeps anybody from writing otherwise than they may must be as the migrations make it, and who may write which event."""
    there, made = describe(session), made_by_migrations()
    if there.postgres != made.postgres:
        versions = f"PostgreSQL {there.postgres}, and the guards are known as {made.postgres} prints them"
        result.notes.append(f"this is {versions}: a guard that reads otherwise may be the same")
    for where, words in differences(there, made):
        result.found(Problem.GUARD, where, words)
    wanted = {(event.value, role.value) for event, roles in EVENT_ROLES.items() for role in roles}
    granted = {(row.event, row.role) for row in session.execute(select(AuditGrant.event, AuditGrant.role))}
    for event, role in sorted(wanted ^ granted):
        result.found(
            Problem.GUARD, "audit.grants", f"{event} for {role} was {'taken' if (event, role) in wanted else 'given'}"
        )
