"""The whole life of a recovery, in any order that anybody can bring about: what must hold, holds after every step.

People do what they may and what they may not, messages come late, twice and out of nowhere, a stolen gateway writes rows
itself. Everything is real but the networks.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, insert, select
from sqlalchemy.exc import DBAPIError

from schemas.orders import OrderTerms, order_message
from schemas.requests import RequestTerms, decision_message, review_message
from schemas.states import Decision, KeyState, OrderKind, OrderScope, OrderState, RecoveryState, RequestState, Urgency
from schemas.tables import Approval, CustodyOrder, RecoveredFace, Recovery, RecoveryRequest, Review, SealedKey, Ticket
from tests.conftest import Buckets
from tests.governance import SHORT, World, copied
from tests.workers.audit.harness import new_notary, verified
from tests.workers.audit.lives import finished, let_break_glass
from tests.workers.custody.test_rotation import office
from tests.workers.recoveries.test_recovery import KeyedCore, recoverer
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.ledgered import check_ledger
from workers.custody import ordering
from workers.custody.holds import Target
from workers.custody.judge import Signed
from workers.custody.orders import carry_out
from workers.custody.roster import load_roster
from workers.errors import WorkerError
from workers.recoveries import decisions, expiry, reviews, service
from workers.recoveries.errors import FaceShredded
from workers.settings import NotarySettings
from workers.storage import Storage

REQUESTERS = ("alice", "eve")
APPROVERS = ("alice", "bob", "carol", "dave")
ANYBODY = (*APPROVERS, "eve", "mallory")
FACES = [(0, 0), (0, 1), (1, 0), (1, 1)]
MOST_REQUESTS = 7
EVERY = 8  # steps from one verification to the next
NUMBERS = itertools.count()


@dataclass
class Asked:
    """A request, and who validly approved it before anybody denied it or took it back."""

    terms: RequestTerms
    approved: set[str] = field(default_factory=set)
    closed: bool = False  # denied, withdrawn


class Life(RuleBasedStateMachine):
    """One world's life. `first` and `anchors` are set by the test below."""

    first: World
    folder: Path
    anchors: Anchors
    signer: HeadSigner
    reached: set[str]

    requests = Bundle("requests")
    recoveries = Bundle("recoveries")
    orders = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        self._copy = copied(self.first.database)
        number = next(NUMBERS)
        self.world = self.first.moved(self._copy.__enter__(), self.folder / str(number))
        self.trail = Anchors(self.anchors.store, self.anchors.bucket, f"life-{uuid4().hex[:8]}/")
        self.asked: dict[UUID, Asked] = {}
        self.fetched: Counter[tuple[UUID, UUID, int]] = Counter()
        self.ordered: dict[UUID, OrderTerms] = {}
        self.held: set[tuple[UUID, int | None]] = set()
        self.steps = 0
        finished(self.world)
        let_break_glass(self.world)

    def teardown(self) -> None:
        assert office(self.world).check().failures == [], "whatever is not shredded still opens"
        self.anchor()
        self.verify()
        self.reached.update(each["event"] for each in self.world.events())
        self._copy.__exit__(None, None, None)

    # --- what people do

    @initialize(target=requests)
    def begin(self) -> Any:
        """A life starts with one recovery behind it, a broken glass with its review open, a shredded face, and a request for
        all of them to decide on.
        """
        fetched, broken, fresh = (
            self._ask(*each) for each in (("alice", [(0, 0)]), ("alice", [(1, 0)], True), ("eve", FACES))
        )
        assert fetched is not None and broken is not None
        for request in (fetched, broken):
            self.approve_by_all(request)
            self.whole_way(request)
        self.fetch(fetched, "alice")
        shredding = self._order(OrderKind.SHRED, 1, 1)
        assert shredding is not None
        self.ordering_message(shredding)
        return multiple(fetched, broken, fresh)

    @precondition(lambda self: len(self.asked) < MOST_REQUESTS)
    @rule(
        target=requests,
        who=st.sampled_from(REQUESTERS),
        faces=st.lists(st.sampled_from(FACES), min_size=1, max_size=4, unique=True),
        glass=st.booleans(),
        quorum=st.sampled_from([None, None, None, 2, 3]),
        life=st.sampled_from([None, None, SHORT]),
    )
    def ask(
        self, who: str, faces: list[tuple[int, int]], glass: bool, quorum: int | None, life: timedelta | None
    ) -> Any:
        return self._ask(who, faces, glass, quorum, life) or multiple()

    def _ask(
        self,
        who: str,
        faces: list[tuple[int, int]],
        glass: bool = False,
        quorum: int | None = None,
        life: timedelta | None = None,
    ) -> UUID | None:
        urgency = Urgency.BREAK_GLASS if glass else Urgency.NORMAL
        options = {"requester": who, "urgency": urgency, "quorum": quorum} | ({"life": life} if life else {})
        try:
            terms = self.world.request(*faces, **options)
        except FaceShredded:
            return None
        except WorkerError:
            assert glass, "only an open review stops a requester"
            return self._ask(who, faces, False, quorum, life)
        self.asked[terms.id] = Asked(terms)
        return terms.id

    @rule(request=requests, who=st.sampled_from(ANYBODY))
    def approve(self, request: UUID, who: str) -> None:
        if self._decide(request, who, Decision.APPROVE):
            assert who in APPROVERS
            self.asked[request].approved.add(who)

    @rule(request=requests)
    def approve_by_all(self, request: UUID) -> None:
        for who in APPROVERS:
            self.approve(request, who)

    @rule(request=requests, who=st.sampled_from(ANYBODY))
    def deny(self, request: UUID, who: str) -> None:
        if self._decide(request, who, Decision.DENY):
            self.asked[request].closed = True

    @rule(request=requests, who=st.sampled_from((*REQUESTERS, "bob")))
    def withdraw(self, request: UUID, who: str) -> None:
        try:
            self.world.withdraw(self.asked[request].terms, who)
        except WorkerError:
            return
        assert who == self.asked[request].terms.requester
        self.asked[request].closed = True

    @rule(request=requests, who=st.sampled_from(("alice", "alice", "eve", "eve", "bob")))
    def fetch(self, request: UUID, who: str) -> None:
        found = self._recovery_of(request)
        if found is None:
            return
        try:
            faces = self.world.fetch(self.asked[request].terms, found.id, who)
        except WorkerError:
            return
        assert who == self.asked[request].terms.requester
        self.fetched.update((face.recovery, face.item, face.face) for face in faces)

    @rule(request=requests, who=st.sampled_from(("olga", "olga", "alice", "bob")))
    def review(self, request: UUID, who: str) -> None:
        terms = self.asked[request].terms
        signature = self.world.people[who].signing.sign(review_message(terms.sha256(), "in order"))
        try:
            with self.world.as_("gateway").begin() as session:
                reviews.close_review(session, request, who, "in order", signature)
        except WorkerError:
            return
        assert who == "olga"

    @rule()
    def requesters_fetch_and_olga_reviews(self) -> None:
        for request, asked in self.asked.items():
            self.fetch(request, asked.terms.requester)
            self.review(request, "olga")

    @rule(
        target=orders,
        kind=st.sampled_from((OrderKind.HOLD, OrderKind.HOLD, OrderKind.LIFT, OrderKind.LIFT, OrderKind.SHRED)),
        item=st.sampled_from((0, 1)),
        face=st.sampled_from((None, 0, 1)),
    )
    def order(self, kind: OrderKind, item: int, face: int | None) -> Any:
        return self._order(kind, item, face) or multiple()

    def _order(self, kind: OrderKind, item: int, face: int | None) -> UUID | None:
        about = Target(OrderScope.ITEM if face is None else OrderScope.FACE, self.world.items[item], face)
        try:
            with self.world.as_("gateway").begin() as session:
                terms = ordering.draft_order(session, kind, about, ordered_by="kim", reason="a case")
                signature = self.world.people["kim"].signing.sign(order_message(terms))
                ordering.give_order(session, terms, signature)
        except WorkerError:
            return None
        self.ordered[terms.id] = terms
        return terms.id

    # --- what the system does, and what comes to it out of nowhere

    @rule(target=recoveries, request=requests)
    def opening_message(self, request: UUID) -> Any:
        recovery = self.world.custodian().open(request).recovery
        return recovery if recovery is not None else multiple()

    @rule(recovery=recoveries)
    def recovery_message(self, recovery: UUID) -> None:
        recoverer(self.world, core=KeyedCore()).recover(recovery)

    @rule(request=requests)
    def whole_way(self, request: UUID) -> None:
        """As the outbox has it when nothing goes wrong."""
        recovery = self.world.custodian().open(request).recovery
        if recovery is not None:
            recoverer(self.world, core=KeyedCore()).recover(recovery)

    @rule(order=orders)
    def ordering_message(self, order: UUID) -> None:
        terms, before = self.ordered[order], self._state_of(order)
        carry_out(self.world.custodian(), order)
        if before is not OrderState.GIVEN or self._state_of(order) is not OrderState.DONE:
            return
        about = (terms.target, terms.face)
        if terms.kind is OrderKind.HOLD:
            self.held.add(about)
        elif terms.kind is OrderKind.LIFT:
            self.held.discard(about)
        else:
            meets = {
                held for held in self.held if held[0] == about[0] and (None in (held[1], about[1]) or held == about)
            }
            assert not meets, "a hold forbids shredding"

    @rule()
    def rotate(self) -> None:
        office(self.world).rotate()

    @precondition(lambda self: len(self.asked) == MOST_REQUESTS)
    @rule()
    def message_out_of_nowhere(self) -> None:
        assert self.world.custodian().open(uuid4()).recovery is None
        assert recoverer(self.world, core=KeyedCore()).recover(uuid4()) is None

    @rule()
    def sweep(self) -> None:
        with self.world.as_("relay").begin() as session:
            expiry.sweep(session, "reconciler")

    @rule(request=requests, swept=st.booleans())
    def time_passes(self, request: UUID, swept: bool) -> None:
        """The time of a request is over, and that of its recovery: the sweep finds it, or a message that comes late."""
        self._ends(request, datetime.now(UTC))
        if swept:
            self.sweep()
        else:
            self.whole_way(request)
        self._ends(request, self.asked[request].terms.expires_at)

    @rule()
    def nobody_fetches_in_time(self) -> None:
        self._move("recoveries", "state IN ('bound', 'recovered')", datetime.now(UTC))
        self.sweep()

    @rule()
    def anchor(self) -> None:
        new_notary(self.world.database, self.trail, self.signer).anchor()

    # --- what a stolen gateway does

    @rule(request=requests, message=st.booleans())
    def force_approved(self, request: UUID, message: bool) -> None:
        try:
            with self.world.as_("gateway").begin() as session:
                row = session.get_one(RecoveryRequest, request)
                before, row.state = row.state, RequestState.APPROVED
        except DBAPIError:
            return
        if before is RequestState.APPROVED:
            return
        assert not message or self.world.custodian().open(request).recovery is None
        # A state that no event tells of is what `verify` would rightly find: taken back, where the custodian did not refuse it.
        self.world.owner(
            "ALTER TABLE recovery_requests DISABLE TRIGGER USER",
            f"UPDATE recovery_requests SET state = '{before.value}' WHERE id = '{request}' AND state = 'approved'",  # noqa: S608
            "ALTER TABLE recovery_requests ENABLE TRIGGER USER",
        )

    @rule(request=consumes(requests), who=st.sampled_from(("bob", "carol")))
    def forge_approval(self, request: UUID, who: str) -> None:
        requester = self.asked[request].terms.requester
        row = {"request_id": request, "approver": who, "requester": requester, "decision": Decision.APPROVE}
        try:
            with self.world.as_("gateway").begin() as session:
                session.execute(insert(Approval).values(signature=bytes(64), **row))
                session.get_one(RecoveryRequest, request).state = RequestState.APPROVED
        except DBAPIError:
            return
        recovery = self.world.custodian().open(request).recovery
        assert recovery is None or (self._recovery_of(request) is not None and not self._is_new(recovery))
        # What a thief wrote, a row without its event, is what `verify` would rightly find: taken away again.
        self.world.owner(
            "ALTER TABLE approvals DISABLE TRIGGER USER",
            f"DELETE FROM approvals WHERE request_id = '{request}' AND signature = '\\x{bytes(64).hex()}'",  # noqa: S608
            "ALTER TABLE approvals ENABLE TRIGGER USER",
        )

    # --- what must always hold

    @invariant()
    def nothing_is_opened_without_its_quorum(self) -> None:
        with self.world.as_("gateway")() as session:
            opened = session.execute(select(Ticket.request_id)).scalars().all()
        for request in opened:
            asked = self.asked[request]
            assert len(asked.approved) >= asked.terms.quorum
            assert asked.terms.requester not in asked.approved

    @invariant()
    def one_ticket_pays_for_one_recovery(self) -> None:
        with self.world.as_("gateway")() as session:
            tickets = session.execute(select(Ticket.id, Ticket.request_id)).all()
            recoveries = session.execute(select(Recovery.ticket_id)).scalars().all()
        assert len({row.request_id for row in tickets}) == len(tickets)
        assert sorted(recoveries) == sorted(row.id for row in tickets)

    @invariant()
    def no_face_is_handed_out_twice_or_unasked(self) -> None:
        assert set(self.fetched.values()) <= {1}
        with self.world.as_("gateway")() as session:
            rows = session.execute(
                select(RecoveredFace.item_id, RecoveredFace.face, Ticket.request_id)
                .join(Recovery, Recovery.id == RecoveredFace.recovery_id)
                .join(Ticket, Ticket.id == Recovery.ticket_id)
            ).all()
        for row in rows:
            assert (row.item_id, row.face) in {(f.item, f.face) for f in self.asked[row.request_id].terms.faces}

    @invariant()
    def keys_are_gone_from_what_has_ended(self) -> None:
        with self.world.as_("recovery")() as session:
            query = select(func.count()).where(Recovery.state != RecoveryState.BOUND, Recovery.key_bundle.is_not(None))
            assert session.execute(query).scalar_one() == 0

    @invariant()
    def what_was_shredded_is_gone(self) -> None:
        with self.world.as_("custodian")() as session:
            query = select(SealedKey.item_id, SealedKey.face).where(SealedKey.state == KeyState.SHREDDED)
            shredded = {(row.item_id, row.face) for row in session.execute(query)}
        with self.world.as_("gateway")() as session:
            query = select(RecoveredFace.item_id, RecoveredFace.face).where(RecoveredFace.sealed.is_not(None))
            waiting = {(row.item_id, row.face) for row in session.execute(query)}
        assert not shredded & waiting
        assert all(self.world.ledger.shredded(item, face) for item, face in shredded)

    @invariant()
    def every_visible_change_has_its_event(self) -> None:
        events = self.world.events()
        told = Counter(each["event"] for each in events)
        with self.world.as_("gateway")() as session:
            count = lambda query: session.execute(query).scalar_one()  # noqa: E731
            requests = Counter(session.execute(select(RecoveryRequest.state)).scalars())
            recoveries = Counter(session.execute(select(Recovery.state)).scalars())
            decisions = Counter(session.execute(select(Approval.decision)).scalars())
            tickets = count(select(func.count()).select_from(Ticket))
            reviews = count(select(func.count()).select_from(Review))
            closed = count(select(func.count()).where(Review.closed_at.is_not(None)))
        assert told["request:opened"] == sum(requests.values()) == len(self.asked)
        assert told["request:approved"] == decisions[Decision.APPROVE]
        assert told["request:denied"] == decisions[Decision.DENY] == requests[RequestState.DENIED]
        assert told["request:withdrawn"] == requests[RequestState.WITHDRAWN]
        assert told["ticket:issued"] == told["ticket:spent"] == tickets
        assert told["recovery:fetched"] == recoveries[RecoveryState.FETCHED]
        # what was shredded before its fetch ended without one
        assert told["recovery:recovered"] >= recoveries[RecoveryState.RECOVERED] + recoveries[RecoveryState.FETCHED]
        with self.world.as_("gateway")() as session:
            orders = Counter(session.execute(select(CustodyOrder.state)).scalars())
        assert told["order:given"] == sum(orders.values()) == len(self.ordered)
        assert (told["order:done"], told["order:refused"]) == (orders[OrderState.DONE], orders[OrderState.REFUSED])
        assert (told["review:opened"], told["review:closed"]) == (reviews, closed)
        keys = sum(each["fields"]["detail"]["keys"] for each in events if each["event"] == "key:shredded")
        with self.world.as_("custodian")() as session:
            query = select(func.count()).where(SealedKey.state == KeyState.SHREDDED)
            assert session.execute(query).scalar_one() == keys

    @invariant()
    def what_ended_has_just_one_event_of_its_end(self) -> None:
        ends: dict[str, list[str]] = defaultdict(list)
        for each in self.world.events():
            fields = each["fields"]
            if each["event"] == "key:shredded":
                ends["key:shredded"] += fields["detail"].get("recoveries", [])
            elif "recovery" in fields or "request" in fields:
                ends[each["event"]].append(fields.get("recovery", fields.get("request")))
        with self.world.as_("gateway")() as session:
            requests = {str(row.id): row.state for row in session.execute(select(RecoveryRequest)).scalars()}
            query = select(Recovery.id, Recovery.state, Ticket.request_id).join(Ticket, Ticket.id == Recovery.ticket_id)
            rows = session.execute(query).all()
        recoveries = {str(row.id): row.state for row in rows}
        of_request = {str(row.id): str(row.request_id) for row in rows}

        def ended(states: Any, state: Any, *events: str) -> None:
            """Whatever is in this state got there by just one of the events; of the first of them, nothing is in another."""
            by = Counter(one for event in events for one in ends[event] if one in states)
            there = {one for one, each in states.items() if each is state}
            assert there <= by.keys(), (state, there - by.keys())
            assert set(ends[events[0]]) & states.keys() <= there
            assert all(by[one] == 1 for one in there), (state, by)

        ended(recoveries, RecoveryState.EXPIRED, "recovery:expired", "key:shredded")
        ended(recoveries, RecoveryState.FAILED, "recovery:failed", "recovery:refused", "ticket:refused", "key:shredded")
        ends |= {
            "request's end": [
                of_request[one] for each in ("recovery:expired", "key:shredded") for one in set(ends[each])
            ]
        }
        expired = {one for one, each in requests.items() if each is RequestState.EXPIRED}
        assert set(ends["request:expired"]) <= expired
        assert len(ends["request:expired"]) == len(set(ends["request:expired"]))
        assert expired <= {*ends["request:expired"], *ends["ticket:refused"], *ends["request's end"]}
        failed = {one for one, each in requests.items() if each is RequestState.FAILED}
        of_failed = {of_request[one] for one, each in recoveries.items() if each is RecoveryState.FAILED}
        assert failed <= {*ends["ticket:refused"], *of_failed}

    @invariant()
    def every_few_steps_the_trail_holds(self) -> None:
        self.steps += 1
        if self.steps % EVERY == 0:
            self.anchor()
            self.verify()

    # --- helpers

    def verify(self) -> None:
        """Everything that `refacex audit verify` can be given: tables, signatures, roster and ledger."""
        keys, roster = self.world.custodian_keys(), load_roster(self.world.roster)
        result = verified(self.world.database, self.trail, self.signer, roster, keys)
        with self.world.as_("gateway")() as session:
            check_ledger(session, self.world.ledger, result)
        assert result.ok, result.findings
        assert result.attested > 0

    def _ends(self, request: UUID, at: datetime) -> None:
        """Moves the end of a request and of its recovery: by the owner's hand, for nobody else may."""
        self._move("recovery_requests", f"id = '{request}'", at)
        self._move("recoveries", f"ticket_id IN (SELECT id FROM tickets WHERE request_id = '{request}')", at)  # noqa: S608

    def _move(self, table: str, where: str, at: datetime) -> None:
        self.world.owner(
            f"ALTER TABLE {table} DISABLE TRIGGER USER",
            f"UPDATE {table} SET expires_at = '{at.isoformat()}' WHERE {where}",  # noqa: S608
            f"ALTER TABLE {table} ENABLE TRIGGER USER",
        )

    def _decide(self, request: UUID, who: str, decision: Decision) -> bool:
        terms = self.asked[request].terms
        member = self.world.people.get(who, self.world.people["eve"])
        signed = Signed(member.signing.sign(decision_message(decision, terms.sha256())))
        record = decisions.approve if decision is Decision.APPROVE else decisions.deny
        try:
            with self.world.as_("gateway").begin() as session:
                record(session, request, who, signed)
        except WorkerError:
            return False
        return True

    def _state_of(self, order: UUID) -> OrderState:
        with self.world.as_("gateway")() as session:
            return session.get_one(CustodyOrder, order).state

    def _recovery_of(self, request: UUID) -> Recovery | None:
        with self.world.as_("gateway")() as session:
            return service.find_recovery(session, request)

    def _is_new(self, recovery: UUID) -> bool:
        last = [each for each in self.world.events() if each["event"] == "ticket:spent"][-1:]
        return bool(last) and last[0]["fields"]["recovery"] == str(recovery) and last[0] == self.world.events()[-1]


@pytest.mark.slow
def test_what_must_hold_holds_after_every_step(
    world: World, tmp_path: Path, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in buckets.environment("notary").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REFACEX_DATABASE_URL", "x")
    monkeypatch.setenv("REFACEX_AUDIT_SIGNING_KEY", "x")
    members = {
        "first": world,
        "folder": tmp_path / "lives",
        "anchors": Anchors(Storage(NotarySettings.load()), buckets.anchors),
        "signer": HeadSigner("life", bytes(range(32))),
        "reached": set[str](),
    }
    run_state_machine_as_test(
        type("OneLife", (Life,), members),
        settings=settings(
            max_examples=8,
            stateful_step_count=25,
            derandomize=True,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    wanted = {
        "recovery:recovered",
        "recovery:fetched",
        "review:opened",
        "order:done",
        "key:shredded",
        "key:rotation_finished",
        "request:expired",
        "recovery:expired",
    }
    assert members["reached"] >= wanted, "the lives were too dull to show it"
