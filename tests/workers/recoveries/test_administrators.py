"""Administrators: once a tenant has one, nobody is added or removed there and no policy is set without their signature."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from schemas.administration import add_message, policy_message, remove_message
from schemas.audit import AuditEvent
from schemas.policies import Policy
from tests.governance import POLICY, Member, World
from tests.workers.custody.test_passkeys import in_the_database
from tests.workers.custody.test_publickeys import cases
from workers.audit import append
from workers.custody.roster import RosterPerson
from workers.recoveries import people
from workers.recoveries.errors import (
    AdministratorNeeded,
    KeyUnusable,
    LastAdministrator,
    PersonMissing,
    PersonTold,
    PersonUnknown,
    SignatureInvalid,
)
from workers.recoveries.policies import next_version, set_policy

ADA, ABE = Member("ada", ("administrator",)), Member("abe", ("administrator", "approver"))
NEW = Member("new", ("approver",)).on_roster()
LAX = Policy("acme", POLICY, quorum=1)


def by(member: Member, person: RosterPerson, message: Callable[[bytes], bytes] = add_message) -> people.Word:
    return people.Word(member.id, member.signing.sign(message(people.terms_of(person).sha256())))


@pytest.fixture
def gateway(world: World) -> Callable[[], AbstractContextManager[Session]]:
    """A transaction with the gateway's role, in a world with the administrator ada."""
    with world.as_("gateway").begin() as session:
        people.add(session, ADA.on_roster(), "root")
    return lambda: world.as_("gateway").begin()


Gateway = Callable[[], AbstractContextManager[Session]]


def test_before_there_is_one_whoever_has_the_machine_adds_and_removes(world: World) -> None:
    with world.as_("gateway").begin() as session:
        assert people.add(session, NEW, "root") is True
        people.remove(session, "new", "root")
        assert set_policy(session, LAX, "root") == 2
    told = [each["fields"] for each in world.events()]
    assert {each["actor"] for each in told} == {"root"}
    assert not [each for each in told if "signature" in each.get("detail", {})]


@pytest.mark.parametrize(
    "taken", [{"subject": "new"}, {"detail": {"ed25519": NEW.ed25519_public.hex().upper()}}], ids=["id", "key"]
)
def test_nobody_is_added_whom_the_trail_knows_otherwise(world: World, gateway: Gateway, taken: dict[str, Any]) -> None:
    """A stolen gateway wrote the name, or the key, before: what an administrator signs would be of somebody else."""
    with gateway() as session:
        about = {"subject": "x", "detail": {"tenant": "nowhere"}} | taken
        append(session, AuditEvent.PERSON_ADDED, actor="stolen", **about)
        append_ = text("SELECT audit.append('person:added', CAST(:said AS jsonb))")
        session.execute(append_, {"said": '{"actor": "stolen", "detail": {"roles": 1}}'})
    before = world.events()
    with pytest.raises(PersonTold, match="Choose another id"), gateway() as session:
        people.add(session, NEW, "root", by(ADA, NEW))
    assert world.events() == before
    other = Member("other", ("approver",)).on_roster()
    with gateway() as session:
        assert people.add(session, other, "root", by(ADA, other)) is True
        assert people.add(session, other, "root", by(ADA, other)) is False


def test_once_there_is_one_nothing_goes_without_their_signature(world: World, gateway: Gateway) -> None:
    """Whatever the account, and also for who is no administrator, is gone, or is one of another tenant."""
    for attempt in (
        lambda session: people.add(session, NEW, "root"),
        lambda session: people.remove(session, "bob", "root"),
        lambda session: set_policy(session, LAX, "root"),
        lambda session: people.add(session, NEW, "ada"),
    ):
        with pytest.raises(AdministratorNeeded, match="--by ID --key FILE"), gateway() as session:
            attempt(session)
    tess = Member("tess", ("administrator",))
    with gateway() as session:
        people.add(session, tess.on_roster("other"), "root")
    for member in (world.people["bob"], tess, ABE):
        with pytest.raises(PersonUnknown, match="as administrator"), gateway() as session:
            people.add(session, NEW, "root", by(member, NEW))
    assert "new" not in [each["fields"].get("subject") for each in world.events()]


def test_a_tenant_without_one_goes_on_as_before(gateway: Gateway) -> None:
    """Also beside one that has; and an administrator from next door has no say in it."""
    other = replace(NEW, tenant="other")
    with pytest.raises(PersonUnknown), gateway() as session:
        people.add(session, other, "root", by(ADA, other))
    with gateway() as session:
        assert people.add(session, other, "root") is True
        assert set_policy(session, Policy("other"), "root") == 1
        people.remove(session, "new", "root")


def test_a_signature_is_for_one_person_one_deed_and_one_version(world: World, gateway: Gateway) -> None:
    more = replace(NEW, roles=("approver", "key-officer"))
    elsewhere = replace(NEW, x25519_public=bytes(range(32)))
    for given in (by(ADA, more), by(ADA, elsewhere), by(ADA, NEW, remove_message), people.Word("ada", bytes(64))):
        with pytest.raises(SignatureInvalid), gateway() as session:
            people.add(session, NEW, "root", given)
    with gateway() as session:
        assert people.add(session, NEW, "root", by(ADA, NEW)) is True
        assert people.add(session, NEW, "root") is False, "they are there: nothing is written"
    with pytest.raises(SignatureInvalid), gateway() as session:
        people.remove(session, "new", "root", by(ADA, NEW))
    with gateway() as session:
        people.remove(session, "new", "root", by(ADA, NEW, remove_message))
        first = next_version(session, LAX)
    lax = people.Word("ada", ADA.signing.sign(policy_message(LAX.sha256(), first)))
    strict = replace(LAX, quorum=3)
    with pytest.raises(SignatureInvalid), gateway() as session:
        set_policy(session, strict, "root", lax)
    with gateway() as session:
        assert set_policy(session, LAX, "root", lax) == first
        signed = people.Word("ada", ADA.signing.sign(policy_message(strict.sha256(), first + 1)))
        assert set_policy(session, strict, "root", signed) == first + 1
    with pytest.raises(SignatureInvalid), gateway() as session:
        set_policy(session, LAX, "root", lax)  # the earlier one once more
    assert {each["fields"]["actor"] for each in world.events()[1:]} == {"ada"}


def test_nobody_is_added_with_a_key_that_needs_no_secret(world: World, gateway: Gateway) -> None:
    """Whoever signs for them, and whoever vouches; one of an earlier version's is in nobody's way."""
    for person in cases():
        with pytest.raises(KeyUnusable, match="dave"), gateway() as session:
            people.add(session, person, "root", by(ADA, person))
        with pytest.raises(KeyUnusable, match="dave"), gateway() as session:
            people.add(session, person, "dave", issuer="https://id", identity="7")
    assert [each["fields"]["subject"] for each in world.events()] == ["ada"]
    in_the_database(world, "bob", cases()[-1].passkeys[0])
    with gateway() as session:
        assert people.add(session, NEW, "root", by(ADA, NEW)) is True


def test_the_last_one_stays(gateway: Gateway) -> None:
    """Or nobody could be added or removed any more; and taking the row away by hand makes no tenant of before."""
    with pytest.raises(LastAdministrator), gateway() as session:
        people.remove(session, "ada", "root", by(ADA, ADA.on_roster(), remove_message))
    with gateway() as session:
        people.add(session, ABE.on_roster(), "root", by(ADA, ABE.on_roster()))
        people.remove(session, "ada", "root", by(ADA, ADA.on_roster(), remove_message))
    with pytest.raises(PersonUnknown, match=f"ada as administrator of {NEW.tenant}"), gateway() as session:
        people.add(session, NEW, "root", by(ADA, NEW))
    with pytest.raises(PersonMissing, match=r"before: see .*\(nobody\)"), gateway() as session:
        people.find(session, "nobody")
    with pytest.raises(LastAdministrator), gateway() as session:
        people.remove(session, "abe", "root", by(ABE, ABE.on_roster(), remove_message))
    with gateway() as session:
        from sqlalchemy import func, update

        from schemas.tables import Person

        session.execute(update(Person).where(Person.id == "abe").values(removed_at=func.now()))
    with pytest.raises(AdministratorNeeded), gateway() as session:
        people.add(session, NEW, "root")


def test_an_identity_providers_word_is_enough_for_all_but_another_administrator(gateway: Gateway) -> None:
    vouched = {"issuer": "https://id", "identity": "7"}
    with gateway() as session:
        assert people.add(session, NEW, "new", **vouched) is True
    with pytest.raises(AdministratorNeeded), gateway() as session:
        people.add(session, ABE.on_roster(), "abe", **vouched)
    first = Member("fia", ("administrator",)).on_roster("other")
    with gateway() as session:
        assert people.add(session, first, "fia", **vouched) is True
