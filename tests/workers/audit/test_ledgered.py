"""The custodian's ledger held against the trail: a whole life agrees, and what either of them forgot is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update

from schemas.audit import AuditEvent
from schemas.states import OrderKind, OrderScope
from schemas.tables import Release
from tests.governance import World, copied, sessions
from tests.workers.audit.harness import fetched
from tests.workers.custody.lives import give
from workers.audit import ledgered
from workers.audit.append import append
from workers.audit.attested import attesting
from workers.audit.ledgered import check_ledger
from workers.audit.verify import Problem, Verification
from workers.custody import ledger as ledger_module
from workers.custody import ordering, shredding
from workers.custody.errors import LedgerInvalid
from workers.custody.holds import Portion, Target
from workers.custody.ledger import Ledger
from workers.custody.orders import carry_out
from workers.custody.roster import remove_person
from workers.custody.service import Custodian

SHRED, HOLD, LIFT = OrderKind


@pytest.fixture
def world(world: World) -> World:
    with world.as_("release").begin() as session:
        session.execute(update(Release).values(state="finished", finished_at=func.now()))
    return world


def lived(world: World) -> None:
    """Two tickets, a hold, a refused and a carried out shredding, a lifted hold, a shredding at the end of its time."""
    fetched(world)
    world.custodian().open(world.approved((0, 1)).id)
    for kind in (HOLD, SHRED, LIFT, SHRED):
        carry_out(world.custodian(), give(world, kind))
    portion = Portion(world.items[1], world.release, None, (0,))
    world.ledger.record_shredded([portion])
    shredding.shred(world.custodian(), portion, shredding.Because(shredding.Reason.ORDER))


def held(world: World, ledger: Ledger | None = None) -> Verification:
    result = Verification()
    with sessions(world.database.url_for("gateway"))() as session:
        check_ledger(session, ledger or world.ledger, result)
    assert {each.problem for each in result.findings} <= {Problem.LEDGER}
    return result


def path_of(world: World) -> Path:
    return world.folder / "tombstones.json"


def test_a_whole_life_agrees_with_the_ledger(world: World) -> None:
    lived(world)
    result = held(world)
    assert (result.findings, result.notes) == ([], [])


def test_whatever_end_the_ledger_lost_is_found(world: World) -> None:
    """An older copy, whose chain of hashes holds: each line that is gone is missed by the event that it stood for."""
    lived(world)
    whole = path_of(world).read_bytes().splitlines(keepends=True)
    missed: list[int] = []
    for kept in range(1, len(whole)):
        path_of(world).write_bytes(b"".join(whole[:kept]))
        missed.append(len(held(world).findings))
    assert missed == sorted(missed, reverse=True), "the more is gone, the more is missed"
    assert missed[-1] == 1, "and the last line alone is not overlooked"
    words = " ".join(each.words for each in held(world).findings)
    assert "tombstone" in words
    path_of(world).write_bytes(b"".join(whole[:-1]).replace(b'"hold"', b'"lift"'))
    with pytest.raises(LedgerInvalid):
        held(world)


def test_a_database_that_was_taken_back_is_found_by_the_ledger(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trail with it, so that it agrees with its tables; orders and retention are in hand for two days at most."""
    monkeypatch.setattr(ledgered, "CLOCKS", timedelta(seconds=-1))  # a minute has gone by since
    with copied(world.database) as backup:
        lived(world)
        restored = replace(world, database=backup)
        found = held(restored)
        assert (
            sorted(each.words.split(", ")[1] for each in found.findings)
            == ["and the trail has no ticket:spent of it"] * 2
        )
        assert len(found.notes) == 4 + 4, "four answers, and four keys that are back"
        monkeypatch.setattr(ledgered, "IN_HAND", timedelta(seconds=-1))
        result = held(restored)
        assert (len(result.findings), result.notes) == (2 + 4 + 4, [])
        assert any("was shredded, and is still there" in each.words for each in result.findings)


def test_what_a_crash_left_open_is_a_note(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the ledger's line of a ticket, and after the tombstones of an order: the custodian makes both good."""

    class Killed(Ledger):
        def record_spent(self, request: UUID, ticket: UUID, recovery: UUID) -> None:
            raise KeyboardInterrupt

    def killed(*_: Any) -> int:
        raise KeyboardInterrupt

    request = world.approved((1, 1)).id
    order = give(world, SHRED)
    attempts: list[tuple[Callable[[Custodian], Any], str]] = [
        (lambda custodian: custodian.open(request), "newest ticket"),
        (lambda custodian: carry_out(custodian, order), "in hand"),
    ]
    for attempt, words in attempts:
        with monkeypatch.context() as patch:
            patch.setattr(shredding, "shred", killed)
            with pytest.raises(KeyboardInterrupt):
                ledger = Killed(path_of(world)) if "ticket" in words else world.ledger
                attempt(replace(world.custodian(), ledger=ledger))
        result = held(world)
        assert result.findings == []
        assert result.notes, words
        assert all(words in each for each in result.notes), result.notes
        attempt(world.custodian())
        assert (held(world).findings, held(world).notes) == ([], [])


def test_only_the_newest_ticket_may_be_missing(world: World) -> None:
    lived(world)
    whole = path_of(world).read_bytes().splitlines(keepends=True)
    path_of(world).write_bytes(b"".join(whole[:4]))  # as it was begun, what is pinned, and the first ticket
    found = [each.words for each in held(world).findings if "ticket" in each.words]
    assert found == [], "it is the newest that is gone"
    path_of(world).write_bytes(b"".join(whole[:3]))
    (found_words,) = [each.words for each in held(world).findings if "ticket" in each.words]
    assert "the ledger does not know the ticket of event" in found_words


def test_a_shredding_that_the_custodians_own_key_signed_and_its_ledger_does_not_know(world: World) -> None:
    """Somebody with the role and the key file: the ledger is the witness that is left."""
    world.ledger.record_hold(_terms(world))
    about: dict[str, Any] = {"release": world.release, "item": world.items[0]}
    with attesting(world.as_("custodian"), world.custodian().tickets.events).begin() as session:
        append(session, AuditEvent.KEY_SHREDDED, actor="custodian", **about, detail={"faces": [0, 1], "layout": True})
        append(session, AuditEvent.ORDER_DONE, actor="custodian", request_hash=bytes(32), detail={"kind": "lift"})
        append(session, AuditEvent.KEY_SHREDDED, actor="custodian", detail={"faces": 7})
    words = [each.words for each in held(world).findings]
    assert words == [
        f"key:shredded: the ledger has no tombstone of the key of face 0, 1, -1 of item {world.items[0]}",
        "order:done: the ledger does not know that order",
        "key:shredded: it cannot be held against the ledger: TypeError",
    ]


def test_what_the_custodian_did_since_the_snapshot_is_a_note(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification of a long trail reads for minutes in one snapshot, and the ledger at its end."""
    fetched(world)
    result = Verification()
    with sessions(world.database.url_for("gateway"))() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(select(func.count()).select_from(Release))
        assert world.custodian().open(world.approved((1, 0)).id).recovery is not None
        remove_person(world.roster, "dave")
        world.custodian().load_roster()
        check_ledger(session, world.ledger, result)
        assert result.findings == []
        assert len(result.notes) == 2
        assert all("verify again to see its event" in each for each in result.notes), result.notes
    assert (held(world).findings, held(world).notes) == ([], [])


@pytest.mark.parametrize(("apart", "found"), [(-90, 1), (-30, 0), (30, 0), (90, 1)])
def test_only_what_is_of_after_the_snapshot_may_be_without_its_event(
    world: World, monkeypatch: pytest.MonkeyPatch, apart: int, found: int
) -> None:
    """An invented line is no less found for being dated into times to come."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=apart)

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "datetime", Clock)
        world.ledger.record_spent(uuid4(), uuid4(), uuid4())
    result = held(world)
    assert (len(result.findings), len(result.notes)) == (found, 1 - found)


def _terms(world: World) -> Any:
    with world.as_("gateway")() as session:
        about = Target(OrderScope.ITEM, world.items[1])
        return ordering.draft_order(
            session, HOLD, about, ordered_by="kim", reason=f"a case {uuid4()} {datetime.now(UTC)}"
        )
