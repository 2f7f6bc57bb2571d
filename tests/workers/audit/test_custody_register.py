"""The register of custody keys held against the trail: a rotation and a retirement agree with it, and what the owner changes is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.governance import World, copied
from tests.workers.audit.harness import as_superuser, verified
from workers.audit.attested import EventSigner
from workers.audit.heads import Anchors, HeadSigner
from workers.custody import keys
from workers.custody.providers.unwrappers import KeyRing
from workers.custody.rotation import KeyOffice

# In each the old key is the retired one.
ATTACKS: dict[str, tuple[str, str]] = {
    "a key that nobody made": (
        "INSERT INTO custody_keys (id, suite, created_at) VALUES ('mine', 'x', now())",
        "custody key mine: the trail has no key:created of it",
    ),
    "a key that is gone": (
        "DELETE FROM custody_keys WHERE retired_at IS NULL",
        "custody key: key:created, and the key is not on the register",
    ),
    "another suite": (
        "UPDATE custody_keys SET suite = 'none' WHERE retired_at IS NULL",
        "custody key: its suite or its beginning is not the one in the trail",
    ),
    "an earlier beginning": (
        "UPDATE custody_keys SET created_at = created_at - interval '1 year'",
        "custody key: its suite or its beginning is not the one in the trail",
    ),
    "retired by hand": (
        "UPDATE custody_keys SET closed_at = now(), retired_at = now()",
        "custody key: retired, and the trail does not say so",
    ),
    "back from retirement": (
        "UPDATE custody_keys SET closed_at = NULL, retired_at = NULL",
        "custody key: key:retired, and no such key is",
    ),
    "a rotation that nobody began": (
        "UPDATE custody_keys SET rotating = true WHERE retired_at IS NULL",
        "custody key: the trail says otherwise of the rotation to it",
    ),
    "more wrapped again than were": (
        "UPDATE custody_keys SET rewrapped = 5 WHERE retired_at IS NULL",
        "custody key: another number of keys was wrapped again under it than the trail says",
    ),
}


def office(world: World) -> KeyOffice:
    ring = world.folder / "custody.json"
    unwrapper, public = KeyRing(ring), world.folder / "custody.public.json"
    signer = EventSigner(world.ticket_key().secret())
    custodian = world.as_("custodian")
    return KeyOffice(custodian, unwrapper, world.ledger, signer, "root", ring=ring, public=public, batch=4)


@pytest.fixture
def rotated(world: World) -> World:
    old = keys.load(world.folder / "custody.json", keys.FileKind.CUSTODY).active
    office(world).rotate()
    office(world).rotate(new_key=False)  # to the same key once more, with a count of its own
    office(world).retire(old)
    return world


def test_rotations_and_retirements_agree_with_the_trail(rotated: World, anchors: Anchors, signer: HeadSigner) -> None:
    assert verified(rotated.database, anchors, signer).findings == []
    for attack, (statement, expected) in ATTACKS.items():
        with copied(rotated.database) as fresh:
            as_superuser(rotated.moved(fresh, rotated.folder.with_name(f"custody {attack}")), statement)
            found = verified(fresh, anchors, signer).findings
        where, _, words = expected.partition(": ")
        assert [each for each in found if each.where.startswith(where) and each.words == words], (attack, found)


def test_a_rotation_under_way_agrees_with_the_trail(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    class Killed(Exception):
        pass

    def kill(step: str) -> None:
        if step == "before-finished":
            raise Killed

    with pytest.raises(Killed):
        replace(office(world), reach=kill).rotate()
    assert verified(world.database, anchors, signer).findings == []
    as_superuser(world, "UPDATE custody_keys SET rotating = false")
    (found,) = verified(world.database, anchors, signer).findings
    assert found.words == "the trail says otherwise of the rotation to it"
