"""The trail taken away at every step of both lives, in every way that it can be: nothing is released, approved or recovered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from schemas.orders import order_message
from schemas.requests import withdraw_message
from schemas.states import Decision, OrderKind, OrderScope
from schemas.tables import Item
from tests.governance import MODEL, POLICY, Member, World
from tests.workers.recoveries.test_recovery import recoverer
from workers.custody import ordering
from workers.custody.holds import Target
from workers.custody.judge import Signed
from workers.recoveries import decisions, people, service
from workers.recoveries.policies import load_policy, set_policy
from workers.releases import lifecycle
from workers.releases import service as releases
from workers.releases.sources import Source

Step = Callable[[], Any]

# The notary's tables are left out: they do not change with a step. Sequences go on when a transaction is rolled back.
TABLES = (
    "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class WHERE relkind = 'r' "
    "AND relnamespace::regnamespace::text IN ('public', 'audit') ORDER BY 1"
)


def everything(world: World) -> dict[str, Any]:
    """Every row of every table, as a hash a table."""
    with psycopg.connect(world.database.owner_url.replace("+psycopg", "")) as connection:
        tables = [name for (name,) in connection.execute(TABLES)]
        query = "SELECT count(*), md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {} AS t"
        return {table: connection.execute(query.format(table)).fetchone() for table in tables}


def ledger_of(world: World) -> bytes:
    path = world.folder / "tombstones.json"
    return path.read_bytes() if path.exists() else b""


# --- ways to take the trail away


@contextmanager
def revoked(world: World) -> Iterator[None]:
    roles = ", ".join(f"refacex_{role}" for role in ("release", "custodian", "recovery", "relay", "notary", "gateway"))
    world.owner(f"REVOKE EXECUTE ON FUNCTION audit.append(text, jsonb) FROM {roles}")
    yield
    world.owner(f"GRANT EXECUTE ON FUNCTION audit.append(text, jsonb) TO {roles}")


@contextmanager
def dropped(world: World) -> Iterator[None]:
    world.owner("ALTER FUNCTION audit.append(text, jsonb) RENAME TO gone")
    yield
    world.owner("ALTER FUNCTION audit.gone(text, jsonb) RENAME TO append")


@contextmanager
def full(world: World) -> Iterator[None]:
    """A disk that takes no more, as the table shows it: the insert itself fails, after everything else went well."""
    world.owner("ALTER TABLE audit.events ADD CONSTRAINT no_more CHECK (false) NOT VALID")
    yield
    world.owner("ALTER TABLE audit.events DROP CONSTRAINT no_more")


@contextmanager
def locked(world: World) -> Iterator[None]:
    """Somebody holds the trail's tail and does not let go."""
    world.owner(f'ALTER DATABASE "{world.database.name}" SET lock_timeout = 300')
    with psycopg.connect(world.database.owner_url.replace("+psycopg", "")) as connection:
        connection.execute("SELECT * FROM audit.tail FOR UPDATE")
        yield
        connection.rollback()
    world.owner(f'ALTER DATABASE "{world.database.name}" RESET lock_timeout')


WAYS = {"revoked": revoked, "dropped": dropped, "full": full, "locked": locked}


# --- the steps: each makes ready what comes before it, and gives the step itself


def submitted(world: World) -> UUID:
    with world.as_("gateway").begin() as session:
        options = releases.ReleaseOptions(policy_name=POLICY)
        sources = [Source("file:///a.png", "a.png")]
        return releases.submit(session, tenant="acme", actor="sam", name="r2", sources=sources, options=options)


def items_of(world: World, release: UUID) -> list[UUID]:
    with world.as_("gateway")() as session:
        return [item.id for item in session.query(Item).filter(Item.release_id == release)]


def claimed(world: World) -> lifecycle.Claim:
    items = items_of(world, submitted(world))
    with world.as_("release").begin() as session:
        (claim,) = lifecycle.claim(session, items, seconds=60, fresh=True)
    return claim


def made(claim: lifecycle.Claim) -> lifecycle.Made:
    about = {"attempt_id": uuid4(), "object_key": f"{claim.item_id}/x.png", "sha256": "0" * 64, "size_bytes": 1}
    shown = {"width": 8, "height": 8, "faces": 1, "stego_psnr": 40.0, "report": {}}
    return lifecycle.Made(**about, **shown, locator=bytes(8), model_version=MODEL)


def committed(world: World) -> tuple[lifecycle.Claim, UUID]:
    claim = claimed(world)
    file = made(claim)
    with world.as_("release").begin() as session:
        lifecycle.commit_attempt(session, claim, file, [])
    return claim, file.attempt_id


def in_release(world: World, step: Callable[..., Any], *arguments: Any, **options: Any) -> Step:
    def run() -> None:
        with world.as_("release").begin() as session:
            step(session, *arguments, **options)

    return run


def in_gateway(world: World, step: Callable[..., Any], *arguments: Any, **options: Any) -> Step:
    def run() -> None:
        with world.as_("gateway").begin() as session:
            step(session, *arguments, **options)

    return run


def submit(world: World) -> Step:
    return partial(submitted, world)


def claim(world: World) -> Step:
    return in_release(world, lifecycle.claim, items_of(world, submitted(world)), seconds=60, fresh=True)


def commit(world: World) -> Step:
    taken = claimed(world)
    return in_release(world, lifecycle.commit_attempt, taken, made(taken), [])


def publish(world: World) -> Step:
    return in_release(world, lifecycle.finish, *committed(world))


def hold(world: World) -> Step:
    return in_release(world, lifecycle.hold, claimed(world), "no_face", {"faces": []})


def fail(world: World) -> Step:
    return in_release(world, lifecycle.fail, claimed(world), "bad_image")


def quarantine(world: World) -> Step:
    return in_release(world, lifecycle.quarantine, claimed(world), "worker_lost")


def finish_release(world: World) -> Step:
    return in_release(world, lifecycle.finish_releases, [world.release])


def request(world: World) -> Step:
    return partial(world.request, (0, 0))


def break_glass(world: World) -> Step:
    from schemas.policies import Policy
    from schemas.states import Urgency

    in_gateway(world, set_policy, Policy("acme", POLICY, break_glass_quorum=1), "root")()
    return partial(world.request, (0, 0), urgency=Urgency.BREAK_GLASS)


def approve(world: World) -> Step:
    return partial(world.approve, world.request(), "bob")


def approve_at_the_quorum(world: World) -> Step:
    terms = world.request()
    world.approve(terms, "bob")
    return partial(world.approve, terms, "carol")


def deny(world: World) -> Step:
    terms = world.request()
    return in_gateway(world, decisions.deny, terms.id, "bob", Signed(world.people["bob"].sign(terms, Decision.DENY)))


def withdraw(world: World) -> Step:
    terms = world.request()
    signature = world.people["alice"].signing.sign(withdraw_message(terms.sha256()))
    return in_gateway(world, service.withdraw, terms.id, "alice", signature)


def open_request(world: World) -> Step:
    terms = world.approved()
    return partial(world.custodian().open, terms.id)


def refuse_ticket(world: World) -> Step:
    return partial(world.custodian().open, world.request().id)


def recover(world: World) -> Step:
    recovery = world.custodian().open(world.approved().id).recovery
    assert recovery is not None
    return partial(recoverer(world).recover, recovery)


def refuse_message(world: World) -> Step:
    return partial(recoverer(world).recover, uuid4())


def fetch(world: World) -> Step:
    terms = world.approved()
    recovery = world.custodian().open(terms.id).recovery
    assert recovery is not None
    recoverer(world).recover(recovery)
    return partial(world.fetch, terms, recovery)


def add_person(world: World) -> Step:
    person = Member("zoe", ("approver",)).on_roster()
    return in_gateway(world, people.add, person, "root")


def remove_person(world: World) -> Step:
    return in_gateway(world, people.remove, "bob", "root")


def change_policy(world: World) -> Step:
    with world.as_("gateway")() as session:
        policy = load_policy(session, "acme", POLICY)
    return in_gateway(world, set_policy, policy, "root")


def give_order(world: World) -> Step:
    with world.as_("gateway")() as session:
        about = Target(OrderScope.ITEM, world.items[0])
        terms = ordering.draft_order(session, OrderKind.HOLD, about, ordered_by="kim", reason="a case")
    return in_gateway(world, ordering.give_order, terms, world.people["kim"].signing.sign(order_message(terms)))


STEPS: tuple[Callable[[World], Step], ...] = (
    submit,
    claim,
    commit,
    publish,
    hold,
    fail,
    quarantine,
    finish_release,
    request,
    break_glass,
    approve,
    approve_at_the_quorum,
    deny,
    withdraw,
    open_request,
    refuse_ticket,
    recover,
    refuse_message,
    fetch,
    add_person,
    remove_person,
    change_policy,
    give_order,
)
# The worker counts an attempt before it begins, in a transaction of its own: that, and nothing else of it, stays.
COUNTED = ("recover",)
UNCOUNT = "UPDATE recoveries SET attempts = attempts - 1"


@pytest.mark.parametrize("prepare", STEPS, ids=lambda step: step.__name__)
def test_without_the_trail_nothing_changes(world: World, prepare: Callable[[World], Step]) -> None:
    nothing_changes(world, prepare(world), counted=prepare.__name__ in COUNTED)


def nothing_changes(world: World, step: Step, *, counted: bool = False, ledger_first: bool = False) -> None:
    """Tries the step without the trail in every way, and then with it. `ledger_first`: the custodian remembers what it is about to do."""
    before, ledger = everything(world), ledger_of(world)
    for way, taken_away in WAYS.items():
        with taken_away(world), pytest.raises(DBAPIError):
            step()
        if counted:
            world.owner(UNCOUNT)
        after = everything(world)
        assert {table for table in before if before[table] != after[table]} == set(), way
        assert ledger_of(world).startswith(ledger), way
        assert ledger_first or ledger_of(world) == ledger, way
        ledger = ledger_of(world) if ledger_first else ledger
        ledger_first = False  # and once is enough
    step()  # and with the trail back it is done: so none of this failed for another reason
    assert everything(world)["audit.events"] != before["audit.events"]
