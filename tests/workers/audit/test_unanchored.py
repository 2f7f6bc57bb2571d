"""What no head vouches for: a notary that is away, a head of the database's own, a tail that counts otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from schemas.audit_tables import TreeHead
from schemas.tables import Alert
from tests.conftest import Database
from tests.governance import sessions
from tests.workers.audit.harness import as_owner
from tests.workers.audit.test_trail import check, write
from workers.audit import heads as heads_module
from workers.audit import verify as verify_module
from workers.audit.heads import MOST_UNANCHORED, Anchors, HeadSigner
from workers.audit.notary import Notary, NotaryOptions, run
from workers.audit.store import extend_nodes
from workers.audit.verify import Problem, Verification
from workers.errors import StorageAway

SECOND = timedelta(seconds=1)
#: What the notary may be set to at the most.
INTERVAL = (
    next(each.le for each in NotaryOptions.model_fields["anchor_seconds"].metadata if hasattr(each, "le")) * SECOND
)

Found = set[tuple[Problem, str]]


class Later(datetime):
    """This machine's clock, so far ahead."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + cls.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Later]:
    monkeypatch.setattr(Later, "ahead", timedelta())
    monkeypatch.setattr(verify_module, "datetime", Later)
    return Later


@pytest.fixture
def found(fresh: Database, anchors: Anchors, signer: HeadSigner) -> Callable[[], Found]:
    return lambda: {(each.problem, each.where) for each in check(fresh, anchors, signer).findings}


def test_a_notary_that_is_away_is_found_after_two_intervals(
    fresh: Database, notary: Notary, clock: type[Later], found: Callable[[], Found]
) -> None:
    assert 2 * INTERVAL < MOST_UNANCHORED < 3 * INTERVAL
    write(fresh, 2)
    notary.anchor()
    clock.ahead = timedelta(days=1)
    assert found() == set(), "its own event alone waits for nothing"
    clock.ahead = timedelta()
    write(fresh, 2)
    clock.ahead = 2 * INTERVAL
    assert found() == set(), "it may miss once"
    clock.ahead = MOST_UNANCHORED
    assert found() == {(Problem.UNANCHORED, "event 3")}
    notary.anchor()
    assert found() == set()


def test_a_notary_that_never_was_is_found(fresh: Database, clock: type[Later], found: Callable[[], Found]) -> None:
    write(fresh, 1)
    assert found() == set()
    clock.ahead = MOST_UNANCHORED
    assert found() == {(Problem.UNANCHORED, "event 0")}


def test_what_waited_for_its_head_is_told_for_ever(
    fresh: Database,
    notary: Notary,
    anchors: Anchors,
    signer: HeadSigner,
    clock: type[Later],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody can say any more what else there was, so it is no fault of what is there."""
    write(fresh, 2)
    notary.anchor()
    write(fresh, 2)  # events 3 and 4, after the notary's own
    monkeypatch.setattr(heads_module, "datetime", Later)
    clock.ahead = MOST_UNANCHORED + 24 * SECOND
    notary.anchor()
    clock.ahead = timedelta()
    write(fresh, 1)
    notary.anchor()
    result = check(fresh, anchors, signer)
    assert (result.findings, len(result.notes)) == ([], 1)
    assert result.notes[0].startswith("events from 3 on waited 0:02:5")
    assert "for head 5: nothing vouches for what else" in result.notes[0]


def test_a_notary_that_cannot_anchor_says_so_once(
    fresh: Database, notary: Notary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again when it happens again."""
    answers = [None, StorageAway(), StorageAway(), StorageAway(), None, StorageAway(), StorageAway()]
    stop = threading.Event()

    def anchor() -> None:
        answer = answers.pop(0) if answers else None
        if not answers:
            stop.set()
        if answer is not None:
            raise answer

    monkeypatch.setattr(notary, "anchor", anchor)
    run(notary, 0.01, stop, patience=timedelta(0))
    with sessions(fresh.owner_url)() as session:
        alerts = session.scalars(select(Alert).order_by(Alert.id)).all()
    assert [(each.kind, each.detail) for each in alerts] == [("trail_unanchored", {"code": "StorageAway"})] * 2


def test_what_verification_itself_takes_is_not_held_against_the_notary(
    fresh: Database, clock: type[Later], found: Callable[[], Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trail of many millions is read for minutes, in the snapshot of its beginning."""
    write(fresh, 1)
    walk = verify_module._walk_events

    def slowly(*arguments: Any) -> dict[int, bytes]:
        clock.ahead = timedelta(hours=1)
        return walk(*arguments)

    monkeypatch.setattr(verify_module, "_walk_events", slowly)
    assert found() == set()
    assert clock.now(UTC) - datetime.now(UTC) > 59 * 60 * SECOND


def test_a_head_that_was_never_anchored_is_found(
    fresh: Database, notary: Notary, signer: HeadSigner, found: Callable[[], Found]
) -> None:
    """Signed, recorded and right; but whoever restores a backup takes it with them."""
    write(fresh, 2)
    notary.anchor()
    write(fresh, 3)
    with sessions(fresh.url_for("notary")).begin() as session:
        head = signer.sign(5, extend_nodes(session, 2, 5).root())
        row = {"size": 5, "root": head.root, "at": head.at, "body": head.body, "signature": head.signature}
        row |= {"key_id": head.key_id, "anchored_at": head.at, "anchor_object": notary._anchors.name(5)}
        session.execute(insert(TreeHead).values(row))
    assert found() == {(Problem.HEAD_UNANCHORED, "head 5")}


@pytest.mark.parametrize("change", ["UPDATE audit.tail SET size = size + 3", "DELETE FROM audit.tail"])
def test_a_tail_that_counts_otherwise_is_found(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner, change: str
) -> None:
    write(fresh, 2)
    notary.anchor()
    as_owner(fresh, change)
    result: Verification = check(fresh, anchors, signer)
    assert [(each.problem, each.where) for each in result.findings] == [(Problem.TAIL, "tail")]
    assert result.findings[0].words.endswith("and the trail has 3 events")
