"""The trail taken away where lives end or go on: reviews, orders, expiry, failures, cancelling, reports, exports, renewals."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from schemas.requests import review_message
from schemas.states import OrderKind, OrderScope
from tests.conftest import Buckets
from tests.governance import SHORT, World
from tests.workers.audit.harness import as_superuser
from tests.workers.audit.lives import CONCLUSION, Store, broken_glass, finished, give
from tests.workers.audit.test_fail_closed import Step, in_gateway, nothing_changes, submitted
from tests.workers.recoveries.test_recovery import recoverer
from workers.custody.holds import Target
from workers.custody.orders import carry_out
from workers.exports import service as exports
from workers.exports.runner import ExportRunner
from workers.recoveries import expiry, reviews
from workers.releases import lifecycle
from workers.releases import service as releases
from workers.releases.reporting import Reporter

LEDGER_FIRST = ("shred", "hold", "lift")  # what it is about to do stands in the ledger before it is done
COUNTED = ("fail_a_recovery", "refuse_a_recovery")


def in_relay(world: World, step: Callable[..., Any], *arguments: Any, **options: Any) -> Step:
    def run() -> None:
        with world.as_("relay").begin() as session:
            step(session, *arguments, **options)

    return run


def bound(world: World) -> tuple[UUID, UUID]:
    terms = world.approved((0, 0))
    recovery = world.custodian().open(terms.id).recovery
    assert recovery is not None
    return terms.id, recovery


def close_review(world: World) -> Step:
    terms, _ = broken_glass(world, (0, 0))
    signature = world.people["olga"].signing.sign(review_message(terms.sha256(), CONCLUSION))
    return in_gateway(world, reviews.close_review, terms.id, "olga", CONCLUSION, signature)


def ordered(world: World, kind: OrderKind) -> Step:
    finished(world)
    order = give(world, kind, Target(OrderScope.ITEM, world.items[0]))
    return partial(carry_out, world.custodian(), order)


def shred(world: World) -> Step:
    return ordered(world, OrderKind.SHRED)


def hold(world: World) -> Step:
    return ordered(world, OrderKind.HOLD)


def lift(world: World) -> Step:
    ordered(world, OrderKind.HOLD)()
    order = give(world, OrderKind.LIFT, Target(OrderScope.ITEM, world.items[0]))
    return partial(carry_out, world.custodian(), order)


def refuse_an_order(world: World) -> Step:
    step = ordered(world, OrderKind.HOLD)
    as_superuser(world, "UPDATE custody_orders SET reason = 'another'")
    return step


def refuse_an_order_of_nothing(world: World) -> Step:
    return partial(carry_out, world.custodian(), world.release)


def expire_a_request(world: World) -> Step:
    world.request((0, 0), life=SHORT)
    time.sleep(2 * SHORT.total_seconds())
    return in_relay(world, expiry.sweep, "reconciler")


def expire_a_recovery(world: World) -> Step:
    bound(world)
    as_superuser(world, "UPDATE recoveries SET expires_at = now()")
    return in_relay(world, expiry.sweep, "reconciler")


def expire_a_recovery_at_work(world: World) -> Step:
    _, recovery = bound(world)
    as_superuser(world, "UPDATE recoveries SET expires_at = now()")
    return partial(recoverer(world).recover, recovery)


def fail_a_recovery(world: World) -> Step:
    _, recovery = bound(world)
    return partial(recoverer(replace(world, files={})).recover, recovery)


def refuse_a_recovery(world: World) -> Step:
    _, recovery = bound(world)
    return partial(replace(recoverer(world), ticket_publics=(bytes(32),)).recover, recovery)


def renew(world: World) -> Step:
    request, _ = bound(world)
    as_superuser(world, "UPDATE recoveries SET sealed_at = now() - interval '1 hour'")
    return partial(world.custodian().open, request)


def cancel(world: World) -> Step:
    return in_gateway(world, releases.cancel, submitted(world), "sam")


def end_what_was_cancelled(world: World) -> Step:
    cancel(world)()
    return in_relay(world, lifecycle.end_cancelled, actor="reconciler", limit=9)


def ask_for_an_export(world: World) -> Step:
    finished(world)
    return in_gateway(world, exports.export_release, world.release, "sam")


STEPS: tuple[Callable[[World], Step], ...] = (
    close_review,
    shred,
    hold,
    lift,
    refuse_an_order,
    refuse_an_order_of_nothing,
    expire_a_request,
    expire_a_recovery,
    expire_a_recovery_at_work,
    fail_a_recovery,
    refuse_a_recovery,
    renew,
    cancel,
    end_what_was_cancelled,
    ask_for_an_export,
)


@pytest.mark.parametrize("prepare", STEPS, ids=lambda step: step.__name__)
def test_without_the_trail_nothing_ends(world: World, prepare: Callable[[World], Step]) -> None:
    name = prepare.__name__
    nothing_changes(world, prepare(world), counted=name in COUNTED, ledger_first=name in LEDGER_FIRST)


def report(world: World, store: Store) -> Step:
    return partial(Reporter(store.settings, world.as_("release"), store.storage).run, world.release)


def asked(world: World) -> UUID:
    with world.as_("gateway").begin() as session:
        return exports.export_release(session, world.release, "sam")


def start_an_export(world: World, store: Store) -> Step:
    return partial(ExportRunner(store.settings, world.as_("release"), store.storage).run, asked(world))


def finish_an_export(world: World, store: Store) -> Step:
    """Everything is written, the report as well: but for its event it would be done."""
    report(world, store)()
    export = asked(world)
    as_superuser(world, "UPDATE exports SET state = 'running'")
    return partial(ExportRunner(store.settings, world.as_("release"), store.storage).run, export)


@pytest.mark.parametrize("prepare", [report, start_an_export, finish_an_export], ids=lambda step: step.__name__)
def test_without_the_trail_nothing_is_reported_or_exported(
    world: World, buckets: Buckets, prepare: Callable[[World, Store], Step]
) -> None:
    finished(world)
    nothing_changes(world, prepare(world, Store.of(world, buckets)))
