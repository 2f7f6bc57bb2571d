"""Accepted forks: what stands after the database was taken back to a backup, and the anchored heads know more than it does.

The administrator accepts the fork with the notary's key. The statement that says so is the RFC 8785 form of `{"at", "by", "common_root",
"common_size", "epoch", "key", "lost", "reason", "size", "v": 1, "what": "refacex trail fork"}`, signed as a head is and anchored
under Object Lock as `heads/epoch-EPOCH/fork.json`; the heads that follow carry its epoch. Nothing is taken away: the lost heads stay
in the bucket, and verification names them for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import rfc8785
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.audit_tables import Event, TreeHead
from workers.alerts import AlertKind, raise_alert
from workers.audit.append import append
from workers.audit.errors import AuditFork, ForkUnfounded, ForkUnsigned
from workers.audit.findings import CODE
from workers.audit.heads import Anchored, Anchors, HeadInvalid, HeadSigner, HeadVerifier, SignedHead
from workers.audit.merkle import EMPTY_ROOT, Frontier, leaf_hash
from workers.strangers import read_json
from workers.words import number_of

WHAT = "refacex trail fork"
_BATCH = 5_000


@dataclass(frozen=True)
class LostHead:
    """A head that was anchored on the branch that is no more."""

    epoch: int
    size: int
    root: bytes


@dataclass(frozen=True)
class Fork:
    """A fork that somebody accepted: `common_size` events, under `common_root`, are what both branches share for certain.

    `size`: how many events the trail held when it was accepted. `reason` is a code and no free text.
    """

    epoch: int
    size: int
    common_size: int
    common_root: bytes
    lost: tuple[LostHead, ...]
    at: datetime
    by: str
    reason: str
    body: bytes
    signature: bytes

    def sha256(self) -> str:
        """How the trail names the statement, in hex."""
        return hashlib.sha256(self.body).hexdigest()

    def words(self) -> str:
        """What became of the old branch, for people."""
        sizes = sorted(head.size for head in self.lost)
        return (
            f"{number_of(len(sizes), 'anchored head')} (of {sizes[0]} to {number_of(sizes[-1], 'event')}) lost by the fork after event "
            f"{self.common_size - 1}, "
            f"accepted on {self.at.isoformat(timespec='seconds')} by {self.by} ({self.reason})"
        )


def read_fork(body: bytes, signature: bytes, verifier: HeadVerifier) -> Fork:
    """The statement that these bytes are. Raises HeadInvalid where they are none, or not signed by this key."""
    fields = verifier.open(body, signature, WHAT)
    try:
        lost = tuple(LostHead(each["epoch"], each["size"], bytes.fromhex(each["root"])) for each in fields["lost"])
        at, root = datetime.fromisoformat(fields["at"]), bytes.fromhex(fields["common_root"])
        numbers = [fields[name] for name in ("epoch", "size", "common_size")]
        who = [fields[name] for name in ("by", "reason")]
    except (ValueError, KeyError, TypeError) as error:
        raise HeadInvalid(type(error).__name__) from error
    if not lost or any(type(number) is not int or number < 0 for number in numbers):
        raise HeadInvalid("its sizes, or that nothing was lost")
    return Fork(numbers[0], numbers[1], numbers[2], root, lost, at, who[0], who[1], body, signature)


def load_fork(anchors: Anchors, anchored: Anchored, verifier: HeadVerifier) -> Fork:
    """The statement that was anchored there first. Raises HeadInvalid where there is none, or not the one that its name says."""

    def read(body: bytes, signature: bytes) -> Fork:
        fork = read_fork(body, signature, verifier)
        if anchors.fork_name(fork.epoch) != anchored.name:
            raise HeadInvalid("the name says another epoch")
        return fork

    return anchors.oldest(anchored, read)


def load_forks(anchors: Anchors, verifier: HeadVerifier) -> list[Fork]:
    """Every accepted fork, the first one first. Raises HeadInvalid."""
    return [load_fork(anchors, each, verifier) for each in anchors.forks() if each.versions]


def lost_by(epoch: int, size: int, forks: Iterable[Fork]) -> Fork | None:
    """The fork that a head of this epoch and size was lost by; None where it still stands."""
    return next((fork for fork in forks if fork.epoch > epoch and size > fork.common_size), None)


def accept_fork(
    session: Session, anchors: Anchors, signer: HeadSigner, *, by: str, reason: str, keep: timedelta
) -> Fork:
    """Accepts that the trail goes on from what is in the database now, in the caller's transaction, with the notary's role.

    The statement is anchored first; where a crash then kept the event out of the trail, another call makes up for it.
    Raises ForkUnsigned for a `by` or `reason` that is no id, ForkUnfounded where the trail is the one that was anchored, and AuditFork
    where the database is not a whole backup.
    """
    if not CODE.fullmatch(by) or not CODE.fullmatch(reason):
        raise ForkUnsigned
    forks = load_forks(anchors, signer.verifier)
    fork = find_fork(session, anchors, signer, by=by, reason=reason)
    if fork is not None:
        anchors.lock_away(anchors.fork_name(fork.epoch), fork.body, fork.signature, keep)
    elif forks and forks[-1].sha256() not in told_forks(session):
        fork = forks[-1]
    else:
        raise ForkUnfounded
    _tell(session, fork)
    return fork


def told_forks(session: Session) -> set[str]:
    """The SHA-256 of every statement that the trail tells of."""
    query = select(Event.canonical).where(Event.event == AuditEvent.TRAIL_FORKED.value)
    return {_told_sha256(bytes(row)) for row in session.execute(query).scalars()}


def _told_sha256(canonical: bytes) -> str:
    try:
        return str(read_json(canonical)["fields"]["detail"]["sha256"])
    except (ValueError, KeyError, TypeError):
        return "unreadable"


def find_fork(session: Session, anchors: Anchors, signer: HeadSigner, *, by: str, reason: str) -> Fork | None:
    """The statement of the fork that the trail and its anchors show, signed and written nowhere; None where they show none.

    Reads the whole trail. Raises AuditFork where the database is not a whole backup, HeadInvalid.
    """
    forks = load_forks(anchors, signer.verifier)
    living = [head for head in _heads(anchors, signer.verifier) if lost_by(head.epoch, head.size, forks) is None]
    roots, size = _roots(session, {head.size for head in living})
    lost = [head for head in living if roots.get(head.size) != head.root]
    if not lost:
        return None
    common = max((head for head in living if head not in lost), key=lambda head: head.size, default=None)
    common_size, common_root = (common.size, common.root) if common is not None else (0, EMPTY_ROOT)
    recorded = session.execute(select(func.coalesce(func.max(TreeHead.size), 0))).scalar_one()
    if recorded > common_size:
        raise AuditFork(
            f"heads up to {recorded} are recorded, and the events agree with those up to {common_size} only"
        )
    return _sign(signer, len(forks) + 1, size, (common_size, common_root), lost, by, reason)


def _sign(
    signer: HeadSigner,
    epoch: int,
    size: int,
    common: tuple[int, bytes],
    lost: Sequence[SignedHead],
    by: str,
    reason: str,
) -> Fork:
    fields: dict[str, Any] = {
        "v": 1,
        "what": WHAT,
        "epoch": epoch,
        "size": size,
        "common_size": common[0],
        "common_root": common[1].hex(),
        "lost": [{"epoch": head.epoch, "size": head.size, "root": head.root.hex()} for head in lost],
        "at": datetime.now(UTC).isoformat(),
        "by": by,
        "reason": reason,
        "key": signer.key_id,
    }
    body = rfc8785.dumps(fields)
    return read_fork(body, signer.sign_bytes(body), signer.verifier)


def _heads(anchors: Anchors, verifier: HeadVerifier) -> list[SignedHead]:
    return [anchors.read(each, verifier) for each in anchors.heads() if each.versions]


def _roots(session: Session, sizes: set[int]) -> tuple[dict[int, bytes], int]:
    """The roots at these sizes, as far as the trail reaches, and its size; from the events' bytes alone."""
    frontier = Frontier()
    roots = {}
    query = select(Event.seq, Event.canonical).order_by(Event.seq)
    for seq, canonical in session.execute(query.execution_options(yield_per=_BATCH)):
        if seq != frontier.size:
            raise AuditFork(f"event {frontier.size} is missing")
        for _ in frontier.push(leaf_hash(bytes(canonical))):
            pass
        if frontier.size in sizes:
            roots[frontier.size] = frontier.root()
    return roots, frontier.size


def _tell(session: Session, fork: Fork) -> None:
    raise_alert(
        session, AlertKind.TRAIL_FORKED, epoch=fork.epoch, common=fork.common_size, by=fork.by, code=fork.reason
    )
    detail = {
        "epoch": fork.epoch,
        "common": fork.common_size,
        "lost": len(fork.lost),
        "reason": fork.reason,
        "sha256": fork.sha256(),
    }
    append(session, AuditEvent.TRAIL_FORKED, actor=fork.by, detail=detail)
