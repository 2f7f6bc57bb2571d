"""What is pinned with the custodian leaves events: before a new version counts, and in the tickets that were judged by it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from schemas.orders import order_message
from schemas.policies import Policy
from schemas.states import OrderKind, OrderScope
from schemas.tables import Ticket
from tests.governance import POLICY, Member, World, sessions
from workers.audit import ledgered
from workers.audit.ledgered import check_ledger
from workers.audit.verify import Verification
from workers.custody import keys, ordering, retention
from workers.custody.errors import PoliciesInvalid, PoliciesMissing
from workers.custody.holds import Target
from workers.custody.judge import Refusal
from workers.custody.ledger import Ledger
from workers.custody.orders import carry_out
from workers.custody.pinned import PinnedFile
from workers.custody.policies import set_policy
from workers.custody.roster import add_person, remove_person, write_roster


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def told(world: World) -> list[tuple[str, str | None, str]]:
    details = [each["fields"]["detail"] for each in world.events() if each["event"] == "pinned:changed"]
    return [(each["file"], each["before"], each["after"]) for each in details]


def held(world: World) -> Verification:
    result = Verification()
    with sessions(world.database.url_for("gateway"))() as session:
        check_ledger(session, world.ledger, result)
    return result


def test_a_version_is_told_before_it_counts_and_stands_in_the_ticket(world: World) -> None:
    """Somebody is entered, a policy is changed: the next ticket says by which of each it was issued."""
    old = {file: sha256(path) for file, path in (("roster", world.roster), ("policies", world.policies))}
    assert world.custodian().open(world.approved((0, 0)).id).recovery is not None
    assert told(world) == [], "the first versions were told at the start"
    policy = Policy("acme", POLICY, ticket_minutes=7)
    add_person(world.roster, Member("fay", ("approver",)).on_roster())
    set_policy(world.policies, policy)
    assert world.custodian().open(world.approved((0, 1)).id).recovery is not None
    assert world.custodian().open(world.approved((1, 1)).id).recovery is not None
    assert told(world) == [
        ("roster", old["roster"], sha256(world.roster)),
        ("policies", old["policies"], sha256(world.policies)),
    ]
    names = [each["event"] for each in world.events()]
    assert names.index("pinned:changed") < len(names) - 1 - names[::-1].index("ticket:issued")

    issued = [each["fields"] for each in world.events() if each["event"] == "ticket:issued"]
    by = [(each["detail"]["policy_sha256"], each["detail"]["roster_sha256"]) for each in issued]
    first, second = (Policy("acme", POLICY), old["roster"]), (policy, sha256(world.roster))
    assert by == [(used.sha256().hex(), roster) for used, roster in (first, second, second)]
    with world.as_("gateway")() as session:
        for each in issued:
            terms = json.loads(bytes(session.get_one(Ticket, each["ticket"]).canonical or b""))
            assert {"v": 2, "policy_sha256": each["detail"]["policy_sha256"]}.items() <= terms.items()
            assert terms["roster_sha256"] == each["detail"]["roster_sha256"]
    assert (held(world).findings, held(world).notes) == ([], [])


def order(world: World) -> object:
    with world.as_("gateway")() as session:
        about = Target(OrderScope.ITEM, world.items[0])
        terms = ordering.draft_order(session, OrderKind.HOLD, about, ordered_by="kim", reason="a case")
    with world.as_("gateway").begin() as session:
        ordering.give_order(session, terms, world.people["kim"].signing.sign(order_message(terms)))
    return carry_out(world.custodian(), terms.id)


def refused(world: World) -> object:
    assert world.custodian().open(world.approved((0, 0)).id).refusal is Refusal.APPROVER
    return None


WORK: dict[str, tuple[Callable[[World], Any], PinnedFile]] = {
    "an order": (order, PinnedFile.ROSTER),
    "a request that is refused": (refused, PinnedFile.ROSTER),
    "a release whose time may be over": (
        lambda world: retention.retain(world.custodian(), world.release),
        PinnedFile.POLICIES,
    ),
}


@pytest.mark.parametrize("work", WORK)
def test_whatever_the_custodian_does_tells_of_what_was_changed(world: World, work: str) -> None:
    do, file = WORK[work]
    remove_person(world.roster, "bob")
    set_policy(
        world.policies, Policy("acme", POLICY, quorum=3) if file is PinnedFile.POLICIES else Policy("acme", "new")
    )
    do(world)
    assert file.value in [each[0] for each in told(world)]
    assert world.ledger.pinned(file) == sha256(world.roster if file is PinnedFile.ROSTER else world.policies)


def test_a_version_that_the_trail_does_not_take_counts_for_nothing(world: World) -> None:
    terms = world.approved((0, 0))
    write_roster(world.roster, [member.on_roster() for member in world.people.values()], least_quorum=1)
    world.owner("REVOKE EXECUTE ON FUNCTION audit.append(text, jsonb) FROM refacex_custodian")
    with pytest.raises(DBAPIError):
        world.custodian().load_roster()
    with pytest.raises(DBAPIError):
        world.custodian().open(terms.id)
    assert world.ledger.pinned(PinnedFile.ROSTER) != sha256(world.roster)
    assert world.one(select(func.count()).select_from(Ticket)) == 0
    world.owner("GRANT EXECUTE ON FUNCTION audit.append(text, jsonb) TO refacex_custodian")
    assert world.custodian().open(terms.id).recovery is not None
    assert [each[0] for each in told(world)] == ["roster"]


def test_a_crash_before_the_ledger_tells_it_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    remove_person(world.roster, "dave")
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record_pinned", killed)
        with pytest.raises(KeyboardInterrupt):
            world.custodian().load_roster()
    assert held(world).findings == []
    assert world.custodian().load_roster().people.keys().isdisjoint({"dave"})
    first, again = told(world)
    assert first == again
    assert held(world).findings == []


def test_a_version_that_only_the_ledger_was_told_of_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgered, "CLOCKS", timedelta(seconds=-1))  # a minute has gone by since
    world.ledger.record_pinned(PinnedFile.POLICIES, "0" * 64)
    (found,) = held(world).findings
    assert "the trail has no pinned:changed of it" in found.words


def test_the_process_tells_at_its_start(world: World) -> None:
    """By its app, before any message; a damaged file is told of in the log and stops no other work."""
    ring = keys.load(world.folder / "recovery.json", keys.FileKind.KEYPAIR)
    keys.write_public(world.folder / "recovery.public.json", ring.public_json())
    files = {"CUSTODY_KEYRING": "custody", "TICKET_SIGNING_KEY": "ticket", "ROSTER": "roster", "POLICIES": "policies"}
    files |= {"TOMBSTONES": "tombstones", "RECOVERY_PUBLIC_KEY": "recovery.public"}
    variables = {f"REFACEX_{name}": str(world.folder / f"{file}.json") for name, file in files.items()}
    url = {"REFACEX_DATABASE_URL": world.database.url_for("custodian"), "REFACEX_BROKER_URL": "redis://127.0.0.1:9"}
    remove_person(world.roster, "dave")
    world.policies.write_text("damaged")
    command = [sys.executable, "-c", "from workers.custody import app; app.get_ready()"]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        command, env=os.environ | variables | url, cwd=root, check=True, timeout=120, capture_output=True, text=True
    )
    assert "policies_invalid" in done.stdout + done.stderr or "PoliciesInvalid" in done.stdout + done.stderr
    assert [each[0] for each in told(world)] == ["roster"]
    with pytest.raises(PoliciesInvalid, match=r"policies\.json: it is no JSON at line 1, column 1"):
        world.custodian().load_policies()
    world.policies.unlink()
    with pytest.raises(PoliciesMissing, match=r"policies\.json"):
        world.custodian().load_policies()
    assert world.custodian().open(uuid4()).refusal is Refusal.UNKNOWN
