"""Shredded keys held against the trail's own events: whose they were, whether their time was over, and what a hold forbade."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from schemas.policies import Policy
from schemas.states import OrderKind, OrderScope
from schemas.tables import Item
from tests.governance import POLICY, World
from tests.workers.audit.harness import as_owner, as_superuser, disarm, new_notary, rearm, verified, write
from tests.workers.audit.lives import finished
from tests.workers.audit.test_evidence import holds, take
from tests.workers.custody.lives import age
from tests.workers.custody.test_holds import tenant, without
from tests.workers.custody.test_proof import GHOST, at_rows, done, give, move_to_a_ghost, order, put_back
from tests.workers.custody.test_proof import world as world
from workers.audit.checking import check_bundle
from workers.audit.evidence import About, pack
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.ledgered import check_ledger
from workers.audit.verify import Problem, Verification
from workers.custody import proof, retention, shredding
from workers.custody.holds import Target
from workers.custody.policies import write_policies
from workers.custody.roster import load_roster
from workers.recoveries.policies import set_policy

SHRED, HOLD, LIFT = OrderKind
FACE, ITEM, RELEASE, SUBJECT = OrderScope
Verify = Callable[[], Verification]


@pytest.fixture
def verify(world: World, anchors: Anchors, signer: HeadSigner) -> Verify:
    """As `refacex audit verify --roster --ledger --custodian-key`, after the notary's next head."""

    def check() -> Verification:
        new_notary(world.database, anchors, signer).anchor()
        result = verified(world.database, anchors, signer, load_roster(world.roster), world.custodian_keys())
        with world.as_("gateway")() as session:
            check_ledger(session, world.ledger, result)
        return result

    return check


@pytest.fixture
def gullible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A custodian of before it proved anything: it takes rows at their word."""
    monkeypatch.setattr(proof, "unwrap_row", lambda *_: b"")
    monkeypatch.setattr(proof, "ended_at", lambda *_: datetime.now(UTC) - timedelta(days=790))
    monkeypatch.setattr(proof, "_unknown", lambda *_: set())
    monkeypatch.setattr(proof, "items_hold", lambda *_: True)
    monkeypatch.setattr(proof, "tenants_items_hold", lambda *_: True)


def words(result: Verification) -> list[tuple[Problem, str]]:
    return [(each.problem, each.words) for each in result.findings]


def keep(world: World, days: int, tenants: tuple[str, ...] = ("acme",)) -> None:
    """The policy in the service and with the custodian."""
    for name in tenants:
        with world.as_("gateway").begin() as session:
            set_policy(session, Policy(name, POLICY, retain_days=days), "root")
    write_policies(world.policies, [Policy(name, POLICY, retain_days=days) for name in tenants])
    world.custodian().load_policies()


def test_a_life_with_holds_orders_and_retention_agrees(world: World, verify: Verify) -> None:
    keep(world, 30)
    age(world, 31)
    for about, keys in ((Target(RELEASE, world.release), 0), (Target(FACE, world.items[0], 0), 3)):
        done(world, HOLD, about)
        assert retention.retain(world.custodian(), world.release).keys == keys
        done(world, LIFT, about)
    assert retention.retain(world.custodian(), world.release).keys == 3
    done(world, SHRED, Target(RELEASE, world.release))
    assert words(verify()) == []


def test_an_order_for_every_scope_agrees(world: World, verify: Verify) -> None:
    done(world, HOLD, Target(RELEASE, world.release))
    done(world, LIFT, Target(RELEASE, world.release))
    for about in (Target(FACE, world.items[0], 0), Target(ITEM, world.items[0]), Target(RELEASE, world.release)):
        done(world, SHRED, about)
    assert words(verify()) == []


@pytest.mark.parametrize("whose", ["'mallory', 'x', 1", f"'acme', '{POLICY}', 77"])
def test_a_copy_of_a_policy_makes_no_retention_look_wrong(world: World, verify: Verify, whose: str) -> None:
    """A stolen gateway's, in a tenant of its own or as a later version, with the signed bytes of this one's and other days."""
    keep(world, 30)
    canonical = Policy("acme", POLICY, retain_days=30).canonical()
    as_superuser(
        world,
        "INSERT INTO policies (tenant, name, version, body, canonical, canonical_sha256, set_by) VALUES "
        f"({whose}, '{{\"retain_days\": 1}}', '\\x{canonical.hex()}', sha256('\\x{canonical.hex()}'), 'm')",
    )
    age(world, 31)
    assert retention.retain(world.custodian(), world.release).keys == 6
    found = [each for _, each in words(verify())]
    assert found and not [each for each in found if each.startswith("key:shredded")]


def test_every_recovery_that_ends_with_its_keys_is_named(
    world: World, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one event has no room for all of them."""
    monkeypatch.setattr(shredding, "_MOST_ENDED", 2)
    opened = {world.custodian().open(world.approved().id).recovery for _ in range(5)}
    done(world, SHRED, Target(ITEM, world.items[0]))
    told = [each["fields"]["detail"] for each in world.events() if each["event"] == "key:shredded"]
    assert [(each["keys"], len(each["recoveries"])) for each in told] == [(3, 2), (0, 2), (0, 1)]
    assert {UUID(recovery) for each in told for recovery in each["recoveries"]} == opened
    assert words(verify()) == []


def test_a_held_key_shredded_out_of_a_moved_release_is_found(world: World, gullible: None, verify: Verify) -> None:
    """By a custodian that believed the rows, and that put into its ledger no more than it did before."""
    done(world, HOLD, Target(RELEASE, world.release))
    without(world, "tenant", "items")
    move_to_a_ghost(world, world.items[0])
    assert retention.retain(world.custodian(), GHOST).keys == 3
    put_back(world)
    found = words(verify())
    assert (Problem.ROW, "key:shredded, and the trail knows no such release before it") in found
    held = f"keys of item {world.items[0]} were shredded while a hold on release {world.release} stood"
    assert (Problem.LEDGER, held) in found


def test_a_key_shredded_as_another_releases_is_found(world: World, gullible: None, verify: Verify) -> None:
    other = world.another_release()
    finished(other)
    at_rows(world, f"UPDATE items SET release_id = '{other.release}', position = 9 WHERE id = '{world.items[0]}'")
    done(world, SHRED, Target(RELEASE, other.release))
    at_rows(world, f"UPDATE items SET release_id = '{world.release}', position = 0 WHERE id = '{world.items[0]}'")
    assert words(verify()) == [
        (Problem.ROW, "key:shredded as of another release than its item was made in"),
    ]


def test_an_item_kept_out_of_an_order_for_its_release_is_found(
    world: World, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "items_hold", lambda *_: True)
    move_to_a_ghost(world, world.items[0])
    done(world, SHRED, Target(RELEASE, world.release))
    put_back(world)
    fewer, (_, left) = words(verify())
    assert fewer == (Problem.ROW, "order:done for fewer items than the release was submitted with")
    assert left.startswith("its keys were shredded by the order:done of event ")


def test_what_nobody_made_is_found(world: World, verify: Verify) -> None:
    about = {"actor": "custodian", "release": str(world.release), "item": str(uuid4())}
    write(world, "key:shredded", about | {"detail": {"reason": "order", "faces": [0], "layout": False}})
    assert (Problem.ROW, "key:shredded, and the trail knows no keys of such an item before it") in words(verify())


def test_keys_that_went_before_their_time_are_found(world: World, gullible: None, verify: Verify) -> None:
    """The trail told the custodian of another time, and was put back."""
    keep(world, 30)
    assert retention.retain(world.custodian(), world.release).keys == 6
    assert words(verify()) == [(Problem.ROW, "key:shredded before its time was over")] * 2


@pytest.mark.parametrize(("days", "found"), [(None, 0), (30, 0), (40, 2)])
def test_what_was_retired_before_the_custodian_said_by_what_policy(
    world: World, verify: Verify, days: int | None, found: int
) -> None:
    """Events of before it goes by the least that the trail's versions of the policy say."""
    age(world, 35)
    for kept in () if days is None else (days + 20, days):
        keep(world, kept)
    gone(world, world.items[0])
    gone(world, world.items[1])
    wanted = [each for each in words(verify()) if each[0] is Problem.ROW]
    assert wanted == [(Problem.ROW, "key:shredded before its time was over")] * found


def gone(world: World, item: UUID, **detail: Any) -> None:
    """Somebody takes a key away, and writes what retention of this custodian wrote before."""
    as_superuser(
        world, f"UPDATE sealed_keys SET wrapped = NULL, state = 'shredded' WHERE item_id = '{item}' AND face = 0"
    )
    with world.as_("gateway")() as session:
        release, subject = session.execute(select(Item.release_id, Item.subject_id).where(Item.id == item)).one()
    said = {"reason": "retention", "faces": [0], "layout": False, "keys": 1, "tombstone": "0" * 64} | detail
    about = {"actor": "custodian", "release": str(release), "item": str(item), "detail": said}
    write(world, "key:shredded", about | ({"subject": str(subject)} if subject else {}))


def test_a_release_that_had_not_ended_is_found(world: World, verify: Verify) -> None:
    gone(world, world.another_release().items[0], retain_days=0)
    told = "key:shredded as of a release whose time is over, and by the trail it had not ended"
    assert (Problem.ROW, told) in words(verify())


def test_another_releases_policy_is_found(world: World, verify: Verify) -> None:
    age(world, 35)
    lax = Policy("acme", "lax", retain_days=1)
    with world.as_("gateway").begin() as session:
        set_policy(session, lax, "root")
    gone(world, world.items[0], retain_days=1, policy_sha256=lax.sha256().hex())
    assert (Problem.ROW, "key:shredded by another policy than its release has") in words(verify())


# --- tenants


def test_a_release_of_another_tenant_than_it_was_submitted_for_is_found(world: World, verify: Verify) -> None:
    tenant(world, "globex")
    assert (Problem.ROW, "is of another tenant than the trail says") in words(verify())


def submitted_before(world: World) -> None:
    """The trail as it was before `release:submitted` said whose release it is."""
    as_owner(
        world.database,
        disarm(),
        "UPDATE audit.events AS e SET canonical = n.made, leaf = sha256('\\x00'::bytea || n.made) FROM (SELECT seq, convert_to("
        "audit.canonical(convert_from(canonical, 'UTF8')::jsonb #- '{fields,detail,tenant}'), 'UTF8') AS made FROM audit.events "
        "WHERE event = 'release:submitted') AS n WHERE n.seq = e.seq",
        rearm(),
    )


def test_a_trail_of_before_releases_said_whose_they_are_still_agrees(world: World, verify: Verify) -> None:
    submitted_before(world)
    done(world, SHRED, Target(RELEASE, world.release))
    assert words(verify()) == []


@pytest.mark.parametrize("before", [False, True], ids=["now", "before the trail said whose"])
@pytest.mark.parametrize("scope", [RELEASE, ITEM])
def test_an_order_of_another_tenants_officer_is_found(
    world: World, verify: Verify, scope: OrderScope, before: bool
) -> None:
    if before:
        submitted_before(world)
    tenant(world, "globex")
    order(world, SHRED, Target(scope, world.release if scope is RELEASE else world.items[0]), "kay")
    tenant(world, "acme")
    found = words(verify())
    assert (Problem.ROW, "it was given by somebody of another tenant than what it is about") in found
    signed = (Problem.SIGNATURE, "order:given: kay is of another tenant than the release, which is acme's")
    assert (signed in found) is (scope is RELEASE and not before)


@pytest.mark.parametrize("change", ["tenant = 'acme'", "target = gen_random_uuid()", "scope = 'item'"])
def test_an_orders_row_that_was_changed_afterwards_is_found(world: World, verify: Verify, change: str) -> None:
    tenant(world, "globex")
    order(world, SHRED, Target(RELEASE, world.release), "kay")
    tenant(world, "acme")
    as_superuser(world, f"UPDATE custody_orders SET {change}")
    assert (Problem.ROW, "its tenant or target is not the one that was signed") in words(verify())


# --- evidence


def evidence(world: World, anchors: Anchors, signer: HeadSigner) -> bytes:
    new_notary(world.database, anchors, signer).anchor()
    return pack(take(world, anchors, signer, About.RELEASE, world.release))


def test_an_honest_retirement_is_in_order_for_both_checkers(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    age(world, 31)
    assert retention.retain(world.custodian(), world.release).keys == 6
    assert holds(evidence(world, anchors, signer), signer.verifier, world.custodian_keys())


def _early(world: World) -> str:
    assert retention.retain(world.custodian(), world.release).keys == 6
    return "its time was not over"


def _moved(world: World) -> str:
    other = world.another_release()
    finished(other)
    at_rows(world, f"UPDATE items SET release_id = '{world.release}', position = 9 WHERE id = '{other.items[0]}'")
    done(world, SHRED, Target(ITEM, other.items[0]))
    return "its item was made in another release"


def _another_tenants(world: World) -> str:
    tenant(world, "globex")
    give(world, HOLD, Target(RELEASE, world.release), "kay")
    tenant(world, "acme")
    return "kay is of another tenant than the release"


@pytest.mark.parametrize("attack", [_early, _moved, _another_tenants], ids=lambda attack: attack.__name__.strip("_"))
def test_what_was_shredded_or_ordered_wrongly_shows_in_the_evidence(
    world: World, gullible: None, anchors: Anchors, signer: HeadSigner, attack: Callable[[World], str]
) -> None:
    said = attack(world)
    data = evidence(world, anchors, signer)
    assert not holds(data, signer.verifier)
    problems = check_bundle(data, signer.verifier, world.custodian_keys()).problems
    assert problems
    assert all(said in each for each in problems), problems
